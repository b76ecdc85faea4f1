"""The outlier detector: its score, p-values and explanations, and what it does with bad input."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import binom, false_discovery_control
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KernelDensity
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    SavedModelError,
    outliers,
)

TINY = {
    "hidden_layer_sizes": (8,),
    "max_iter": 20,
    "batch_size": 32,
    "n_folds": 2,
    "random_state": 0,
}
RANDOM = np.random.default_rng(0)
CORRELATED = np.array([[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0]])


def rows(n, seed):
    return 10.0 + 3.0 * np.random.default_rng(seed).normal(size=(n, 3)) @ CORRELATED


TRAIN, NEW = rows(200, 0), rows(300, 1)


@pytest.fixture(scope="module")
def fitted():
    """A detector that tests must not change."""
    return InterpolantFlowOutlierDetector(**TINY).fit(TRAIN)


@parametrize_with_checks([InterpolantFlowOutlierDetector(**TINY)])
@pytest.mark.filterwarnings("ignore:There are only")
def test_common_checks(estimator, check):
    check(estimator)


def standardised(X):
    return (X - TRAIN.mean(axis=0)) / TRAIN.std(axis=0)


def test_score_is_the_mean_of_two_log_densities(fitted):
    x = standardised(NEW)
    flows = [flow.score_samples(x, t=fitted.end_time_) for flow in fitted.estimators_]
    kernels = [
        KernelDensity(bandwidth=h).fit(standardised(TRAIN)[fitted._folds != k]).score_samples(x)
        for k, h in enumerate(fitted.bandwidths_)
    ]
    expected = 0.5 * (logsumexp(flows, axis=0) + logsumexp(kernels, axis=0)) - np.log(2)
    np.testing.assert_allclose(fitted.score_samples(NEW), expected, atol=1e-6)


def test_held_out_scores_are_those_of_the_member_that_did_not_see_the_row(fitted):
    x = standardised(TRAIN)
    for k, member in enumerate(fitted._members()):
        held_out = fitted._folds == k
        assert not (member.kernels[:, None] == x[held_out]).all(axis=2).any()
        np.testing.assert_allclose(
            fitted.held_out_scores_[held_out], member.log_densities(x[held_out]).mean(axis=0)
        )


def test_the_end_time_is_the_best_of_the_held_out_rows(fitted):
    x = standardised(TRAIN)
    scores = [
        sum(
            flow.score_samples(x[fitted._folds == k], t=t).sum()
            for k, flow in enumerate(fitted.estimators_)
        )
        for t in outliers._END_TIMES
    ]
    assert fitted.end_time_ == outliers._END_TIMES[np.argmax(scores)]


def test_a_row_does_not_depend_on_the_others(fitted):
    together = fitted.score_samples(NEW[:5])
    alone = [fitted.score_samples(NEW[k : k + 1])[0] for k in range(5)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_units_do_not_matter(fitted):
    scale, shift = np.array([1e-3, 1.0, 1e4]), np.array([0.0, -5.0, 1e5])
    other = clone(fitted).fit(TRAIN * scale + shift)
    np.testing.assert_allclose(
        other.score_samples(NEW * scale + shift), fitted.score_samples(NEW), atol=1e-2
    )


def test_a_broken_correlation_is_an_outlier():
    detector = InterpolantFlowOutlierDetector(**TINY | {"max_iter": 200}).fit(TRAIN)
    broken = TRAIN.mean(axis=0) + TRAIN.std(axis=0) * [[1.5, -1.5, 0.0]]
    assert (np.abs(standardised(broken)) < 2.0).all()  # in no column alone
    assert detector.p_values(broken)[0] < 0.02
    assert detector.predict(broken) == [-1]


# p-values


def alarms(detector, X, level):
    return int((detector.p_values(X) <= level).sum())


@pytest.mark.parametrize("steps", [1, 20])
def test_alarms_at_the_stated_rate_however_bad_the_model(steps):
    detector = InterpolantFlowOutlierDetector(**TINY | {"max_iter": steps}).fit(rows(400, 2))
    for level in (0.05, 0.2):
        # The rate itself varies with the 400 calibration rows, as much as 400 rows more would.
        low, high = binom(2_000, level).interval(1 - 1e-4)
        spread = 2_000 * 4.0 * np.sqrt(level * (1 - level) / 400)
        assert low - spread < alarms(detector, rows(2_000, 3), level) < high + spread


def test_p_values_are_ranks_among_the_held_out_scores(fitted):
    x = standardised(NEW[:10])
    below = np.zeros(10)
    for k, member in enumerate(fitted._members()):
        held_out = fitted.held_out_scores_[fitted._folds == k]
        below += (held_out <= member.log_densities(x).mean(axis=0)[:, None]).sum(axis=1)
    np.testing.assert_allclose(fitted.p_values(NEW[:10]), (1 + below) / 201)


def test_equal_scores_count(fitted, monkeypatch):
    detector = copy.deepcopy(fitted)
    detector.held_out_scores_ = np.zeros(200)
    monkeypatch.setattr(outliers._Member, "log_densities", lambda self, x: np.zeros((2, len(x))))
    np.testing.assert_array_equal(detector.p_values(NEW[:3]), 1.0)


def test_far_rows_have_the_smallest_p_value(fitted):
    far = np.full((2, 3), [[1e3], [1e120]])
    with pytest.warns(UserWarning, match="1 of 2"):
        p_values = fitted.p_values(far)
    np.testing.assert_allclose(p_values, 1 / 201)


def test_false_discoveries(fitted):
    X = np.concatenate([NEW[:50], NEW[:50] + 100.0])
    adjusted = fitted.p_values(X, adjust="fdr")
    np.testing.assert_allclose(adjusted, false_discovery_control(fitted.p_values(X)))
    assert (adjusted[50:] <= 0.05).all()
    assert (adjusted[:50] <= 0.05).mean() < 0.2


# offset


def test_contamination_is_the_fraction_of_the_training_rows():
    detector = InterpolantFlowOutlierDetector(**TINY, contamination=0.1).fit(TRAIN)
    assert (detector.predict(TRAIN) == -1).sum() == 20
    np.testing.assert_array_equal(
        detector.decision_function(NEW), detector.score_samples(NEW) - detector.offset_
    )


def test_auto_is_a_rate_of_false_alarms(fitted):
    assert 0.01 < (fitted.predict(rows(1_000, 4)) == -1).mean() < 0.12


# explanations


def test_contributions_add_up(fitted, monkeypatch):
    monkeypatch.setattr(outliers, "_EXPLAINED_ROWS", 7)
    contributions = fitted.explain(NEW[:20])
    x = standardised(NEW[:20])
    reference = np.mean([member.denoised(x) for member in fitted._members()], axis=0)
    expected = fitted._scores(x) - fitted._scores(reference)
    np.testing.assert_allclose(contributions.sum(axis=1), expected, atol=1e-8)


def test_the_reference_is_the_expected_row_without_noise():
    """All rows are at one point, and the velocity is the exact one."""
    point = np.array([0.5, -1.0])

    class ToThePoint:
        def velocity(self, x, t):
            sine, cosine = np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)
            noise = (x - sine * point) / cosine
            return np.pi / 2 * (cosine * point - sine * noise)

    member = outliers._Member(ToThePoint(), np.array([True, True]), 3.0 * np.eye(2) - 2.0, 1.0, 0.8)
    np.testing.assert_allclose(member.denoised(NEW[:4, :2] - 10.0), np.tile(point, (4, 1)))


@pytest.mark.parametrize("column", range(3))
def test_the_changed_column_is_to_blame(fitted, column):
    changed = NEW[:20].copy()
    changed[:, column] += 30.0
    contributions = fitted.explain(changed)
    assert (contributions.argmin(axis=1) == column).all()
    assert (contributions[:, column] < 0.7 * contributions.sum(axis=1)).all()


def test_gradient_of_the_score(fitted):
    x = standardised(NEW[:5])
    gradient = outliers._gradient(fitted._members(), x)
    for column in range(3):
        shift = 1e-2 * np.eye(3)[column]
        finite = (fitted._scores(x + shift) - fitted._scores(x - shift)) / 2e-2
        np.testing.assert_allclose(gradient[:, column], finite, atol=0.02)


# data


def test_repeated_constant_and_two_valued_columns():
    random = np.random.default_rng(5)
    X = np.column_stack([np.full(100, 3.0), random.integers(2, size=100), random.normal(size=100)])
    X[:40, 2] = 0.0
    detector = InterpolantFlowOutlierDetector(**TINY).fit(X)
    scores = detector.score_samples(X)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) < 30.0
    assert (detector.predict(X[:40]) == 1).all()
    assert detector.predict([[3.0, 0.0, 0.0], [30.0, 0.0, 0.0]]).tolist() == [1, -1]
    contributions = detector.explain([[30.0, 0.0, 0.0]])
    assert contributions[0].argmin() == 0


def test_trimming_leaves_outliers_out():
    X = np.concatenate([TRAIN, 60.0 + RANDOM.normal(size=(10, 3))])
    trimmed = InterpolantFlowOutlierDetector(**TINY, trim=0.1).fit(X)
    x = (X - trimmed._location) / trimmed._scale
    for kernels in trimmed._kernels:
        assert not (kernels[:, None] == x[200:]).all(axis=2).any()
    assert trimmed.held_out_scores_.shape == (210,)
    assert trimmed.held_out_scores_[200:].max() < trimmed.held_out_scores_[:200].min()


def test_more_columns_than_rows():
    X = np.random.default_rng(6).normal(size=(30, 40))
    detector = InterpolantFlowOutlierDetector(**TINY).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    far = X[:1].copy()
    far[0, 7] += 100.0
    assert detector.explain(far)[0].argmin() == 7


def test_predictions_in_threads(fitted):
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: fitted.p_values(NEW[:50]), range(4)))
    for p_values in together:
        np.testing.assert_array_equal(p_values, fitted.p_values(NEW[:50]))


def test_fits_in_threads(fitted):
    with ThreadPoolExecutor(2) as pool:
        detectors = list(
            pool.map(lambda _: InterpolantFlowOutlierDetector(**TINY).fit(TRAIN), range(2))
        )
    for detector in detectors:
        np.testing.assert_array_equal(detector.held_out_scores_, fitted.held_out_scores_)


def test_names_of_columns():
    frame = pd.DataFrame(TRAIN, columns=["a", "b", "c"])
    detector = InterpolantFlowOutlierDetector(**TINY).fit(frame)
    assert list(detector.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        detector.predict(frame[["b", "a", "c"]])


def test_same_seed_same_result(fitted):
    state = np.random.get_state()[1].copy()
    again = InterpolantFlowOutlierDetector(**TINY).fit(TRAIN)
    np.testing.assert_array_equal(again.score_samples(NEW), fitted.score_samples(NEW))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_files(fitted, tmp_path):
    fitted.save(tmp_path / "detector")
    loaded = InterpolantFlowOutlierDetector.load(tmp_path / "detector")
    for other in (loaded, pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.p_values(NEW), fitted.p_values(NEW))
        np.testing.assert_array_equal(other.predict(NEW), fitted.predict(NEW))
    assert loaded.get_params() == fitted.get_params()
    with pytest.raises(SavedModelError, match="InterpolantFlowOutlierDetector"):
        InterpolantFlowDensity.load(tmp_path / "detector")


@pytest.mark.parametrize(
    "changes",
    [
        {"estimators_": None},
        {"estimators_": [{}]},
        {"_kernels": []},
        {"_location": np.zeros(2)},
        {"_folds": None},
        {"_varying": np.array([True, True, False])},
        {"end_time_": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_attributes_that_do_not_fit_together_are_refused(fitted, changes):
    attributes = fitted._saved_attributes() | changes
    with pytest.raises(SavedModelError, match="do not trust them"):
        InterpolantFlowOutlierDetector._rebuilt(attributes)


# bad input


@pytest.mark.parametrize("contamination", [0.0, 0.6, -0.1, "many"])
def test_contamination_outside_its_range(contamination):
    with pytest.raises(ValueError, match="contamination"):
        InterpolantFlowOutlierDetector(contamination=contamination).fit(TRAIN)


def test_few_rows():
    with pytest.warns(UserWarning, match=r"only 19 training rows.* less than 0\.05 .*at least 20"):
        detector = InterpolantFlowOutlierDetector(**TINY).fit(TRAIN[:19])
    assert detector.p_values(1e3 * TRAIN[:1])[0] == pytest.approx(1 / 20)
    with pytest.raises(ValueError, match=r"n_folds=2 is more than half of the 3 rows"):
        InterpolantFlowOutlierDetector(**TINY).fit(TRAIN[:3])


def test_all_rows_equal():
    with pytest.raises(ValueError, match="All 30 rows are equal"):
        InterpolantFlowOutlierDetector(**TINY).fit(np.ones((30, 2)))


@pytest.mark.parametrize(("scale", "what"), [(1e200, "too large|overflow"), (1e-200, "zero")])
def test_values_without_a_variance(scale, what):
    with pytest.raises(ValueError, match=rf"3 column\(s\).*({what}).*use other units"):
        InterpolantFlowOutlierDetector(**TINY).fit(scale * TRAIN)


def test_more_folds_than_half_of_the_rows():
    with pytest.raises(ValueError, match=r"n_folds=20 is more than half of the 30 rows"):
        InterpolantFlowOutlierDetector(**TINY | {"n_folds": 20}).fit(TRAIN[:30])


def test_without_held_out_rows():
    whole = InterpolantFlowOutlierDetector(**TINY | {"n_folds": None}).fit(TRAIN)
    assert whole.held_out_scores_ is None
    assert len(whole.estimators_) == 1
    assert 0.02 < (whole.predict(TRAIN) == -1).mean() < 0.08
    with pytest.raises(ValueError, match=r"n_folds=None; fit it with n_folds=4"):
        whole.p_values(NEW)
    with pytest.raises(ValueError, match=r"trim=0\.1 needs held-out scores, but n_folds=None"):
        InterpolantFlowOutlierDetector(**TINY | {"n_folds": None}, trim=0.1).fit(TRAIN)


def test_unknown_adjustment(fitted):
    with pytest.raises(ValueError, match="adjust must be 'fdr' or None, got 'holm'"):
        fitted.p_values(NEW, adjust="holm")


def test_not_fitted():
    with pytest.raises(NotFittedError):
        InterpolantFlowOutlierDetector().predict(NEW)


def test_an_interrupted_fit_changes_nothing(fitted, monkeypatch):
    detector = copy.deepcopy(fitted)
    calls = []

    def fit(self, X, y=None):
        calls.append(len(X))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, X)

    original = InterpolantFlowDensity.fit
    monkeypatch.setattr(InterpolantFlowDensity, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(load_iris().data)
    assert len(calls) == 2
    monkeypatch.undo()
    np.testing.assert_array_equal(detector.p_values(NEW), fitted.p_values(NEW))


def test_where_it_cannot_explain(fitted):
    with pytest.raises(ValueError, match="so far outside"):
        fitted.explain(np.full((1, 3), 1e120))
