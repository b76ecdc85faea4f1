"""Wrong and difficult input: a sentence with the value and the way out, or a fit that holds."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity
from skinterflow import _fitting as fitting
from skinterflow.interflow.interpolants import Linear
from skinterflow.interflow.marginals import YeoJohnson

from .conftest import QUICK


def quick(**parameters):
    return InterpolantFlowDensity(**(QUICK | parameters))


def rows(n=40, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def spoiled(value):
    X = rows()
    X[3, 1] = value
    return X


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (spoiled(np.nan), ValueError, "Input X contains NaN"),
        (spoiled(np.inf), ValueError, "Input X contains infinity"),
        ([["a", "b"], ["c", "d"]], ValueError, "could not convert string to float"),
        (sparse.csr_matrix(rows()), TypeError, "Sparse data was passed for X, but dense data is required"),
        (rows() + 1j, ValueError, "Complex data not supported"),
        (np.empty((0, 3)), ValueError, r"Found array with 0 sample\(s\)"),
        (rows(n=1), ValueError, r"1 sample\(s\).*minimum of 2"),
        (rows()[0], ValueError, "Expected 2D array, got 1D array"),
    ],
)
def test_data_that_cannot_be_fitted(X, error, message):
    with pytest.raises(error, match=message):
        quick().fit(X)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(40), "must not be negative, but the smallest is -1; drop"),
        (np.zeros(40), "zero"),
        (np.eye(40)[0], "sample_weight is zero for all but 1 of 40 rows"),
        (np.ones(39), r"sample_weight.shape == \(39,\), expected \(40,\)"),
        (np.full(40, np.nan), "contains NaN"),
    ],
)
def test_weights_that_cannot_be_used(weight, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(rows(), sample_weight=weight)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_iter": 0}, r"'max_iter' parameter.*Got 0"),
        ({"scaling": "minmax"}, r"'scaling' parameter.*Got 'minmax'"),
        ({"interpolant": "cubic"}, r"'interpolant' parameter.*Got 'cubic'"),
        ({"activation": "relu"}, r"'activation' parameter.*Got 'relu'"),
        ({"solver": "rk5"}, r"'solver' parameter.*Got 'rk5'"),
        ({"end_time": 0.0}, r"'end_time' parameter.*Got 0.0"),
        ({"end_time": 1.5}, r"'end_time' parameter.*Got 1.5"),
        ({"validation_fraction": 1.0}, r"'validation_fraction' parameter.*Got 1.0"),
        ({"atol": -1.0}, r"'atol' parameter.*Got -1.0"),
        ({"atol": 0.0}, r"'atol' parameter.*Got 0.0"),
        ({"time_beta": (1.0, 0.0)}, "two positive parameters, got a=1.0 and b=0.0"),
        ({"time_beta": (1.0,)}, r"time_beta must be the two parameters of a Beta law, such as \(1.0, 0.5\), got \(1.0,\)"),
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes must be 'auto' or one or more integers of at least 1, got \(\)"),
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes must be .* got \(8, 0\)"),
        ({"hidden_layer_sizes": (8.5,)}, r"hidden_layer_sizes must be .* got \(8.5,\)"),
        ({"hidden_layer_sizes": "big"}, r"'hidden_layer_sizes' parameter.*Got 'big'"),
        ({"divergence": "trace"}, r"'divergence' parameter.*Got 'trace'"),
        ({"device": "quantum"}, "device='quantum' is not a device; use 'cpu', 'cuda'"),
        ({"device": "meta"}, "device='meta' is not supported"),
        ({"device": "cuda:99"}, r"device='cuda:99' was asked for, but torch sees \d+ CUDA devices here; use device='cpu'"),
        (
            {"scaling": YeoJohnson(torch.full((3,), float("nan")))},
            r"scaling=YeoJohnson\(\) is not finite for 30 of 30 rows; choose another",
        ),
    ],
)
def test_parameters_that_cannot_be_used(parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(rows())


def test_path_that_misses_its_end():
    class Short(Linear):
        def alpha(self, t):
            return 1.0 - 0.5 * t

    with pytest.raises(ValueError, match="must give x1 at t=1, but misses it by"):
        quick(interpolant=Short()).fit(rows())


def test_wrong_number_of_features(fitted):
    for method in (fitted.score_samples, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match="X has 3 features, but InterpolantFlowDensity is expecting 4 features"):
            method(rows())
    with pytest.raises(ValueError, match="Z has 3 columns, but the latent space has 4"):
        fitted.inverse_transform(rows())


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "many"])
def test_number_of_samples(fitted, n_samples):
    with pytest.raises(ValueError, match=f"n_samples must be an integer of at least 1, got {n_samples!r}"):
        fitted.sample(n_samples)


def degenerate():
    X = rows(60, 5)
    X[:, 1] = 7.0
    X[:, 2] = X[:, 0]
    X[:, 3] = np.arange(60) % 4
    return X


def test_columns_without_a_density_are_named():
    with pytest.warns(DegenerateDataWarning) as caught:
        density = quick().fit(degenerate())
    messages = [str(warning.message) for warning in caught]
    for words, columns in (("constant", "column 1."), ("collinear or duplicated", "column 0, column 2."), ("integer-valued", "column 3.")):
        assert any(words in message and message.endswith(columns) for message in messages), (words, messages)
    assert len(messages) == 3
    assert np.isfinite(density.score_samples(degenerate())).all()
    assert np.isfinite(density.sample(10, random_state=0)).all()
    np.testing.assert_allclose(density.sample(50, random_state=0)[:, 1], 7.0, atol=0.1)


def test_columns_are_named_by_the_frame():
    frame = pd.DataFrame(rows(), columns=["u", "g", "r"]).assign(g=1.0)
    with pytest.warns(DegenerateDataWarning, match="constant.*: g"):
        quick().fit(frame)


@pytest.mark.parametrize("size", [1e12, 1e-12])
def test_units_do_not_matter(size):
    X = rows() + 3.0
    plain, scaled = quick().fit(X), quick().fit(X * size)
    np.testing.assert_allclose(scaled.score_samples(X * size) + 3 * np.log(size), plain.score_samples(X), atol=1e-3)
    assert np.isfinite(scaled.sample(20, random_state=0)).all()


@pytest.mark.parametrize("value", [1e6, -1e6, 1e12])
def test_outlier_in_training(value):
    density = quick().fit(spoiled(value))
    assert np.isfinite(density.score_samples(spoiled(value))).all()
    assert np.isfinite(density.sample(100, random_state=0)).all()


@pytest.mark.parametrize("value", [1e6, 1e12])
@pytest.mark.filterwarnings("ignore::skinterflow.AccuracyWarning")
def test_outlier_in_scoring(fitted, iris, value):
    X = iris[:3].copy()
    X[1, 2] = value
    log_density = fitted.score_samples(X)
    assert np.isfinite(log_density).all()
    assert log_density[1] < -50
    np.testing.assert_allclose(log_density[[0, 2]], fitted.score_samples(iris[[0, 2]]), rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("d", [1, 4])
def test_very_few_rows(n, d):
    X = rows(n, d)
    assert np.isfinite(quick().fit(X).score_samples(X)).all()


def test_interrupt_keeps_the_best_weights(monkeypatch, iris):
    judge, n_checks = fitting.judge, []

    def interrupted(*arguments):
        n_checks.append(1)
        if len(n_checks) == 6:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(fitting, "judge", interrupted)
    with pytest.warns(UserWarning, match=r"interrupted after \d+ of 300 steps; the best weights so far are kept"):
        density = quick(max_iter=300, n_iter_no_change=99).fit(iris)
    assert len(density.validation_scores_) == 5
    assert density.best_validation_score_ == max(density.validation_scores_)
    assert np.isfinite(density.score_samples(iris)).all()


def test_failed_fit_leaves_the_previous_state(monkeypatch, iris):
    density = quick().fit(iris)
    before, scores = dict(vars(density)), density.score_samples(iris)
    with pytest.raises(ValueError, match="NaN"):
        density.fit(spoiled(np.nan))

    def broken(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fitting, "_choose_end_time", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        density.fit(rows())
    assert vars(density) == before
    np.testing.assert_array_equal(density.score_samples(iris), scores)


def test_failed_first_fit_leaves_nothing(monkeypatch, iris):
    monkeypatch.setattr(fitting, "_choose_end_time", lambda *arguments: 1 / 0)
    density = quick()
    with pytest.raises(ZeroDivisionError):
        density.fit(iris)
    assert vars(density) == density.get_params()


def test_warm_start_with_other_columns(iris):
    density = quick(warm_start=True).fit(iris)
    with pytest.raises(ValueError, match="X has 3 features, but InterpolantFlowDensity is expecting 4"):
        density.fit(rows())


def test_parameters_are_not_changed_by_fit(iris):
    scaling = YeoJohnson(torch.ones(4, dtype=torch.float64))
    density = quick(scaling=scaling)
    before = copy.copy(density.get_params())
    density.fit(iris)
    assert density.get_params() == before
    assert density.scaling is scaling


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["power", "whiten", "standardize", None])
@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.filterwarnings("ignore::skinterflow.DegenerateDataWarning")
def test_constant_column_keeps_its_place_under_every_scaling(scaling, value):
    """Without a scaling the flow itself has to carry the base there."""
    X = rows()
    X[:, 1] = value
    max_iter = 600 if scaling is None else 30
    density = quick(scaling=scaling, max_iter=max_iter, learning_rate_init=0.05, early_stopping=False).fit(X)
    drawn = density.sample(200, random_state=0)[:, 1]
    np.testing.assert_allclose(drawn.mean(), value, atol=1.0 if scaling is None else 0.02)


@pytest.mark.parametrize(("weight", "message"), [(-np.ones(150), "must not be negative, but the smallest is -1"), (np.zeros(150), "zero")])
def test_weights_of_score(fitted, iris, weight, message):
    with pytest.raises(ValueError, match=message):
        fitted.score(iris, sample_weight=weight)


def test_fit_on_the_cpu_leaves_every_gpu_alone(monkeypatch, iris):
    """torch.manual_seed would seed them all, and nothing would restore them."""

    def touched(*arguments):
        raise AssertionError("a CUDA generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    quick(max_iter=2).fit(iris)
