"""The conformal correction of the regressor: its guarantee, and that it sees only held-out rows."""

import copy

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from scipy.special import ndtr
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from skinterflow import InterpolantFlowRegressor, SavedModelError
from skinterflow._predict.conformal import (
    latent_of_coverage,
    latents_of_levels,
    n_calibration_rows,
)

TINY = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 2,
    "batch_size": 16,
    "regressor": None,
    "end_time": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
LEVELS = np.array([1e-6, 0.004, 0.05, 0.333, 0.5, 0.9, 0.996, 1.0 - 1e-6])


def skewed(n, seed):
    """Rows that no normal distribution describes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, np.exp(1.5 * rng.normal(size=n))


@pytest.fixture(scope="module")
def fitted():
    return InterpolantFlowRegressor(**TINY, conformal=True).fit(*skewed(2000, 0))


def test_ranks_have_the_guarantee_however_wrong_the_latents_are():
    rng, n, n_repeats = np.random.default_rng(0), 49, 4000
    drawn = 40.0 * rng.standard_t(2, size=(n_repeats, n + 1)) + 25.0
    calibration, new = np.sort(drawn[:, :n], axis=1), drawn[:, n]
    for coverage in (0.5, 0.9, 0.93, 0.98):
        ends = np.array([latent_of_coverage(row, coverage) for row in calibration])
        held, error = np.mean(np.abs(new) <= ends), 3.0 * np.sqrt(0.25 / n_repeats)
        assert coverage - error < held < coverage + 1 / (n + 1) + error
        assert abs(np.mean(np.abs(ndtr(new) - 0.5) < coverage / 2) - coverage) > 0.3
    corrected = np.array([latents_of_levels(row, LEVELS) for row in calibration])
    assert (np.diff(corrected, axis=1) > 0).all()
    below = (new[:, None] <= corrected).mean(axis=0)
    assert (np.abs(below - LEVELS) < 1 / (n + 1) + 3.0 * np.sqrt(0.25 / n_repeats)).all()


def test_ranks_of_a_right_model_change_little():
    latents = np.sort(np.random.default_rng(0).normal(size=100_000))
    assert ndtr(latent_of_coverage(latents, 0.9)) == pytest.approx(0.95, abs=3e-3)
    np.testing.assert_allclose(ndtr(latents_of_levels(latents, LEVELS)), LEVELS, atol=5e-3)


def test_a_fifth_of_the_rows_calibrates_but_not_too_few_or_too_many():
    numbers = [n_calibration_rows(n) for n in (4, 100, 300, 1000, 10**6)]
    assert numbers == [2, 50, 100, 200, 10_000]
    with pytest.raises(ValueError, match=r"conformal=True requires at least 4 rows.*got 3"):
        n_calibration_rows(3)


def test_fits_in_threads_are_those_of_one_thread():
    X, y = skewed(40, 0)
    model = InterpolantFlowRegressor(**TINY, conformal=True)
    models = [clone(model).set_params(random_state=seed) for seed in (0, 1)]
    alone, threaded = (
        Parallel(n_jobs, backend="threading")(
            delayed(lambda each: clone(each).fit(X, y))(each) for each in models
        )
        for n_jobs in (1, 2)
    )
    for one, other in zip(alone, threaded, strict=True):
        np.testing.assert_array_equal(one.calibration_rows_, other.calibration_rows_)
        np.testing.assert_array_equal(one.calibration_latents_, other.calibration_latents_)
    assert (alone[0].calibration_rows_ != alone[1].calibration_rows_).any()


def test_intervals_of_a_wrong_model_hold(fitted):
    X, y = skewed(1000, 1)
    own = copy.deepcopy(fitted)
    own.calibration_latents_ = None
    for coverage in (0.5, 0.9):
        inside = []
        for model in (fitted, own):
            low, high = model.predict_interval(X, coverage).T
            inside.append(np.mean((low <= y) & (y <= high)))
        # The errors of 1000 new rows, and of 400 that calibrate.
        error = 3.0 * np.sqrt(coverage * (1.0 - coverage) * (1 / 1000 + 1 / 400))
        assert abs(inside[0] - coverage) < error + 1 / 400
        assert abs(inside[1] - coverage) > 3.0 * np.sqrt(coverage * (1.0 - coverage) / 1000)
    below = (y[:, None] <= fitted.predict_quantiles(X, LEVELS)).mean(axis=0)
    np.testing.assert_allclose(below, LEVELS, atol=0.08)


def test_densities_distributions_and_samples_are_those_of_the_model(fitted):
    X, y = skewed(5, 1)
    own = copy.deepcopy(fitted)
    own.calibration_latents_ = None
    for call in (
        lambda m: m.log_density(X, y),
        lambda m: m.cdf(X, y),
        lambda m: m.sample(X, 3, random_state=0),
        lambda m: m.predict(X),
    ):
        np.testing.assert_array_equal(call(fitted), call(own))
    median = copy.deepcopy(fitted).set_params(point="median")
    np.testing.assert_array_equal(median.predict(X), fitted.predict_quantiles(X, 0.5)[:, 0])


def test_nothing_but_the_ranks_depends_on_the_calibration_rows():
    X, y = skewed(80, 2)
    model = InterpolantFlowRegressor(
        **{**TINY, "regressor": "auto", "end_time": "auto", "early_stopping": True},
        conformal=True,
        scaling="power",
    ).fit(X, y)
    rows = model.calibration_rows_
    assert rows.sum() == len(model.calibration_latents_) == 40
    other = clone(model).fit(X + 0.5 * rows[:, None], y + 3.0 * rows)
    np.testing.assert_array_equal(other.calibration_rows_, rows)
    np.testing.assert_array_equal(other.log_density(X, y), model.log_density(X, y))
    np.testing.assert_array_equal(other.member_weights_, model.member_weights_)
    assert (other.calibration_latents_ != model.calibration_latents_).any()
    alone = clone(model).set_params(conformal=False).fit(X[~rows], y[~rows])
    assert alone.calibration_latents_ is None
    assert alone.calibration_rows_ is None


def test_missing_values_of_the_calibration_rows_are_encoded():
    X, y = skewed(40, 0)
    X[:, 0] = np.where(
        InterpolantFlowRegressor(**TINY, conformal=True).fit(X, y).calibration_rows_,
        np.nan,
        X[:, 0],
    )
    model = InterpolantFlowRegressor(**TINY, conformal=True).fit(X, y)
    assert np.isfinite(model.predict_interval(X, 0.5)).all()


def test_rows_of_the_user_choose_the_model_and_do_not_calibrate():
    X, y = skewed(40, 0)
    model = InterpolantFlowRegressor(**{**TINY, "early_stopping": True}, conformal=True)
    model.fit(X, y, X_val=X[:5], y_val=y[:5])
    assert model.calibration_rows_.shape == (40,)
    assert model.validation_scores_ is not None


def test_a_conformal_model_is_saved(fitted, tmp_path):
    X, _ = skewed(3, 0)
    fitted.save(tmp_path / "model")
    loaded = InterpolantFlowRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_interval(X), fitted.predict_interval(X))
    for latents in (fitted.calibration_latents_[::-1].copy(), np.zeros(0), np.zeros(500)):
        spoiled = copy.deepcopy(fitted)
        spoiled.calibration_latents_ = latents
        spoiled.save(tmp_path / "spoiled")
        with pytest.raises(SavedModelError, match="calibration_latents_"):
            InterpolantFlowRegressor.load(tmp_path / "spoiled")


def test_a_warm_start_calibrates_with_the_same_rows(fitted):
    X, y = skewed(40, 0)
    model = InterpolantFlowRegressor(**{**TINY, "random_state": None}, conformal=True).fit(X, y)
    rows = model.calibration_rows_
    model.set_params(warm_start=True, max_iter=4).fit(X, y)
    np.testing.assert_array_equal(model.calibration_rows_, rows)
    with pytest.raises(ValueError, match=r"it had 40 rows.*39 rows now\), or set warm_start"):
        model.fit(X[1:], y[1:])
    np.testing.assert_array_equal(model.calibration_rows_, rows)
    model = InterpolantFlowRegressor(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="it had conformal=False"):
        model.set_params(conformal=True).fit(X, y)


def test_rows_of_weight_zero_do_not_calibrate():
    X, y = skewed(40, 0)
    weight = np.where(np.arange(40) % 4 > 0, 0.5 + np.arange(40.0), 0.0)
    model = InterpolantFlowRegressor(**TINY, conformal=True).fit(X, y, weight)
    assert model.calibration_rows_.sum() == len(model.calibration_latents_) == 15
    assert not model.calibration_rows_[::4].any()
    again = clone(model).fit(X[weight > 0], y[weight > 0], weight[weight > 0])
    np.testing.assert_array_equal(again.calibration_latents_, model.calibration_latents_)


def test_bad_calls(fitted):
    X, y = skewed(40, 0)
    with pytest.raises(ValueError, match=r"at least 999 calibration rows.*held out 400.*0\.9975"):
        fitted.predict_interval(X, 0.999)
    model = InterpolantFlowRegressor(**TINY, conformal=True)
    with pytest.raises(ValueError, match="conformal=True requires one output, but y has 2"):
        model.fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match=r"conformal=True requires at least 4 rows.*got 3"):
        model.fit(X[:3], y[:3])


def test_a_base_regressor_sees_no_calibration_rows():
    X, y = skewed(40, 0)
    model = InterpolantFlowRegressor(
        **{**TINY, "regressor": LinearRegression()}, conformal=True
    ).fit(X, y)
    train = ~model.calibration_rows_
    features = model._encoding.encode(X[train], ["", ""])
    scaled = model._target(torch.from_numpy(y[train, None])).numpy()[:, 0]
    expected = LinearRegression().fit(features, scaled)
    np.testing.assert_allclose(model._base[0].coef_, expected.coef_)
