"""Wrong and difficult input: a sentence with the value and the way out, or a fit that holds."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from skinterflow import (
    AccuracyWarning,
    DegenerateDataWarning,
    InterpolantFlowDensity,
    InterpolantTransport,
)
from skinterflow._fit import run as fitting
from skinterflow.interflow.interpolants import Linear
from skinterflow.interflow.marginals import YeoJohnson
from tests.helpers import ONE_FIELD, QUICK


def quick(**parameters):
    return InterpolantFlowDensity(**(ONE_FIELD | parameters))


def crossed(**parameters):
    """Cross-fitted: each fold has to cope with the rows that are left to it."""
    return InterpolantFlowDensity(**(QUICK | {"max_iter": 2} | parameters))


@pytest.fixture(scope="module")
def fitted(iris):
    """One field, which tests must not change."""
    return quick().fit(iris)


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
        (
            sparse.csr_matrix(rows()),
            TypeError,
            "Sparse data was passed for X, but dense data is required",
        ),
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
        (
            {"atol": 1e-18, "rtol": 0.0},
            "atol=1e-18 with rtol=0.0 is below the precision",
        ),
        (
            {"time_beta": (1.0, 0.0)},
            "two positive parameters of a Beta distribution, got a=1.0 and b=0.0",
        ),
        (
            {"time_beta": (1.0,)},
            r"time_beta must be the two parameters of a Beta distribution, such as \(1.0, 0.5\), "
            r"got \(1.0,\)",
        ),
        (
            {"hidden_layer_sizes": ()},
            r"hidden_layer_sizes must be 'auto' or one or more integers of at least 1, got \(\)",
        ),
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes must be .* got \(8, 0\)"),
        ({"hidden_layer_sizes": (8.5,)}, r"hidden_layer_sizes must be .* got \(8.5,\)"),
        ({"hidden_layer_sizes": "big"}, r"'hidden_layer_sizes' parameter.*Got 'big'"),
        ({"divergence": "trace"}, r"'divergence' parameter.*Got 'trace'"),
        ({"device": "quantum"}, "device='quantum' is not a device; use 'cpu', 'cuda'"),
        ({"device": "meta"}, "device='meta' is not supported"),
        (
            {"device": "cuda:99"},
            r"device='cuda:99' is not available, because torch finds \d+ CUDA devices; use "
            r"device='cpu'",
        ),
        (
            {"scaling": YeoJohnson(torch.full((3,), float("nan")))},
            r"scaling=YeoJohnson\(\) is not finite for 40 of 40 rows; choose another",
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
        with pytest.raises(
            ValueError, match="X has 3 features, but InterpolantFlowDensity is expecting 4 features"
        ):
            method(rows())
    with pytest.raises(ValueError, match="Z has 3 columns, but the latent space has 4"):
        fitted.inverse_transform(rows())


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "many"])
def test_number_of_samples(fitted, n_samples):
    with pytest.raises(
        ValueError, match=f"n_samples must be an integer of at least 1, got {n_samples!r}"
    ):
        fitted.sample(n_samples)


def degenerate():
    X = rows(60, 5)
    X[:, 1] = 7.0
    X[:, 2] = X[:, 0]
    X[:, 3] = np.arange(60) % 4
    return X


def test_columns_without_a_density_are_named():
    with pytest.warns(DegenerateDataWarning) as caught:
        density = crossed().fit(degenerate())
    messages = [str(warning.message) for warning in caught]
    for words, columns in (
        ("constant", "column 1."),
        ("collinear or duplicated", "column 0, column 2."),
        ("integer-valued", "column 3."),
    ):
        assert any(words in message and message.endswith(columns) for message in messages), (
            words,
            messages,
        )
    assert len(messages) == 3
    assert np.isfinite(density.score_samples(degenerate())).all()
    assert np.isfinite(density.sample(10, random_state=0)).all()
    np.testing.assert_allclose(density.sample(50, random_state=0)[:, 1], 7.0, atol=0.1)


def test_columns_are_named_by_the_frame():
    frame = pd.DataFrame(rows(), columns=["u", "g", "r"]).assign(g=1.0)
    with pytest.warns(DegenerateDataWarning, match="constant.*: g"):
        quick().fit(frame)


@pytest.fixture(scope="module")
def plain():
    """A fit that tests compare with."""
    return quick().fit(rows() + 3.0)


@pytest.mark.parametrize("size", [1e12, 1e-12])
def test_units_do_not_matter(plain, size):
    X = rows() + 3.0
    scaled = quick().fit(X * size)
    np.testing.assert_allclose(
        scaled.score_samples(X * size) + 3 * np.log(size), plain.score_samples(X), atol=1e-3
    )
    assert np.isfinite(scaled.sample(20, random_state=0)).all()


@pytest.mark.parametrize("value", [1e6, -1e6, 1e12])
def test_outlier_in_training(value):
    density = crossed().fit(spoiled(value))
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
    assert np.isfinite(crossed(max_iter=2).fit(X).score_samples(X)).all()


def test_interrupt_keeps_the_best_weights(monkeypatch, iris):
    scores, n_checks = fitting.check_score, []

    def interrupted(*arguments):
        n_checks.append(1)
        if len(n_checks) == 6:
            raise KeyboardInterrupt
        return scores(*arguments)

    monkeypatch.setattr(fitting, "check_score", interrupted)
    density = crossed(max_iter=300, n_iter_no_change=99, end_time=1.0)
    with pytest.raises(
        KeyboardInterrupt,
        match=r"interrupted after \d+ of 300 steps; the estimator is fitted, with the best weights",
    ):
        density.fit(iris)
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

    monkeypatch.setattr(fitting, "choose_end_time", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        density.fit(rows())
    assert vars(density) == before
    np.testing.assert_array_equal(density.score_samples(iris), scores)


def test_failed_first_fit_leaves_nothing(monkeypatch, iris):
    monkeypatch.setattr(fitting, "choose_end_time", lambda *arguments: 1 / 0)
    density = quick()
    with pytest.raises(ZeroDivisionError):
        density.fit(iris)
    assert vars(density) == density.get_params()


def test_warm_start_with_other_columns(iris):
    density = quick(warm_start=True).fit(iris)
    with pytest.raises(
        ValueError, match="X has 3 features, but InterpolantFlowDensity is expecting 4"
    ):
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
    density = quick(scaling=scaling, max_iter=max_iter, learning_rate_init=0.05).fit(X)
    drawn = density.sample(200, random_state=0)[:, 1]
    np.testing.assert_allclose(drawn.mean(), value, atol=1.0 if scaling is None else 0.02)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(-np.ones(150), "must not be negative, but the smallest is -1"), (np.zeros(150), "zero")],
)
def test_weights_of_score(fitted, iris, weight, message):
    with pytest.raises(ValueError, match=message):
        fitted.score(iris, sample_weight=weight)


def test_fit_on_the_cpu_leaves_every_gpu_alone(monkeypatch, iris):
    """torch.manual_seed would seed them all, and nothing would restore them."""

    def touched(*arguments):
        raise AssertionError("a CUDA generator was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    quick(max_iter=2).fit(iris)


@pytest.mark.parametrize("name", ["sample_weight", "sample_weight_val"])
@pytest.mark.parametrize("value", [np.nan, np.inf, np.full(40, np.nan)])
def test_weights_that_are_no_numbers(name, value):
    """One number stands for all rows, and is no number either."""
    with pytest.raises(ValueError, match=rf"Input {name} contains (NaN|infinity)"):
        crossed().fit(rows(), X_val=rows(seed=1), **{name: value})


@pytest.fixture(scope="module")
def weighted():
    """A fit with weights that tests compare with, and the weights."""
    weight = np.tile([1.0, 0.5], 20)
    return quick().fit(rows(), sample_weight=weight), weight


@pytest.mark.parametrize("size", [1e308, 1e-320, 2.0**40])
def test_the_size_of_all_weights_does_not_matter(weighted, size):
    X, (density, weight) = rows(), weighted
    sized = quick().fit(X, sample_weight=weight * size)
    np.testing.assert_allclose(
        sized.score_samples(X), density.score_samples(X), rtol=1e-3 if size < 1e-300 else 0
    )
    assert density.score(X, sample_weight=weight * size) == pytest.approx(
        density.score(X, sample_weight=weight), rel=1e-3
    )


def test_weights_that_are_zero_beside_the_largest():
    weight = np.where(np.arange(40) == 0, 1e300, 1e-300)
    with pytest.raises(ValueError, match="sample_weight is zero for all but 1 of 40 rows"):
        quick().fit(rows(), sample_weight=weight)


FAR = {
    "velocity": lambda d, X: d.velocity(X, 0.5),
    "transform": lambda d, X: d.transform(X),
    "inverse_transform": lambda d, X: d.inverse_transform(X),
    "score_gradient": lambda d, X: d.score_gradient(X, t=0.5),
    "trajectory": lambda d, X: d.trajectory(X, [1.0, 0.0]),
    "diagnose": lambda d, X: d.diagnose(X, random_state=0),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("value", [1e155, -1e300])
def test_rows_that_overflow_are_counted(fitted, iris, name, value):
    X = iris[:5].copy()
    X[[1, 3], 2] = value
    with pytest.raises(
        ValueError,
        match="2 of 5 rows are so far outside the fitted data that the arithmetic of the flow "
        "overflows; drop",
    ):
        FAR[name](fitted, X)


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.float64, 1e155), (np.float64, -1e300), (np.float32, 1e30)]
)
def test_log_density_of_rows_that_overflow(fitted, iris, dtype, value):
    """Minus infinity, counted in the warning; the other rows are what they are alone."""
    X = iris[:5].astype(dtype)
    X[3, 2] = value
    with pytest.warns(AccuracyWarning, match="1 of 5 rows"):
        log_density, error = fitted.score_samples(X, return_error=True)
    assert log_density[3] == -np.inf
    assert error[3] == np.inf
    near = np.arange(5) != 3
    np.testing.assert_allclose(log_density[near], fitted.score_samples(X[near]), rtol=1e-6)
    with pytest.warns(AccuracyWarning):
        assert fitted.score(X) == -np.inf
    assert fitted.score(X[near], sample_weight=np.full(4, 1e308)) == pytest.approx(
        fitted.score(X[near])
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            np.tile([1e308, -1e308], 20),
            r"1 column\(s\) have absolute values above 1e\+150, whose squares overflow: column 1; "
            r"use other units",
        ),
        (
            rows()[:, 0] * 1e-310,
            r"1 column\(s\) range over less than 1e-150, whose square is zero: column 1; use other "
            r"units",
        ),
    ],
)
@pytest.mark.parametrize("scaling", ["gaussianize", "standardize", None])
def test_columns_whose_squares_are_no_numbers(column, message, scaling):
    X = rows()
    X[:, 1] = column
    with pytest.raises(ValueError, match=message):
        quick(scaling=scaling).fit(X)
    with pytest.raises(ValueError, match=r"column\(s\).*X1 column 1"):
        InterpolantTransport(**QUICK).fit(rows(), X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"end_time": 1e-50}, r"'end_time' parameter.*range \[1e-09, 1.0\]. Got 1e-50"),
        (
            {"hidden_layer_sizes": (10**9,)},
            r"hidden_layer_sizes has 1 layers with 1e\+09 weights or more, but at most .*use "
            r"fewer",
        ),
        (
            {"student_layer_sizes": (10**9,)},
            r"student_layer_sizes has 1 layers with 1e\+09 weights",
        ),
        (
            {"hidden_layer_sizes": [[4], [4, 3]]},
            r"hidden_layer_sizes must be 'auto' or one or more integers",
        ),
        (
            {"learning_rate_init": 1e300},
            r"'learning_rate_init' parameter.*range \(0.0, 1000.0\]. Got 1e\+300",
        ),
        ({"learning_rate_init": 10**400}, r"'learning_rate_init' parameter"),
        ({"tol": 10**400}, "'tol' parameter"),
        (
            {"batch_size": 2**63},
            r"'batch_size' parameter.*range \[1, 16777216\]. Got 9223372036854775808",
        ),
        ({"max_iter": 2**63}, "'max_iter' parameter"),
        ({"divergence": 2**40}, "'divergence' parameter"),
        ({"n_jobs": 0}, "'n_jobs' parameter.*Got 0"),
        ({"targets": [["b"]]}, r"targets must be a string or a tuple of strings, got \[\['b'\]\]"),
        (
            {"bounds": np.array(3)},
            r"bounds must be a dict, or hold a pair or None for each of the 3 columns, got "
            r"array\(3\)",
        ),
        (
            {"bounds": {0: (-1e308, 1e308)}},
            r"bounds of column 0 must be at most 1e\+150 in absolute value.*use None for an "
            r"open side",
        ),
        (
            {"integer_features": np.array(1)},
            r"integer_features must be a sequence of columns or a boolean mask, got array\(1\)",
        ),
        (
            {"time_beta": (None, None)},
            r"time_beta must be the two parameters of a Beta distribution.*got \(None, None\)",
        ),
        (
            {"time_beta": (1e300, 1e-300)},
            r"time_beta must be two numbers from 0.001 to 1000, got \(1e\+300, 1e-300\)",
        ),
        ({"time_beta": (10**400, 1)}, r"time_beta must be two numbers from 0.001 to 1000"),
        ({"checkpoint": ""}, "checkpoint must not be empty"),
    ],
)
def test_parameters_that_are_absurd(parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(rows())


@pytest.mark.parametrize("time_beta", [(2.0, 0.5), (3, 3)])
def test_every_beta_law_trains_several_fields(time_beta):
    """Its quantiles are taken for all fields at once."""
    density = crossed(time_beta=time_beta, max_iter=1).fit(rows())
    assert np.isfinite(density.score_samples(rows())).all()


def test_bounds_larger_than_any_float_are_open():
    density = quick(bounds={0: (-(10**400), 10**400)}).fit(rows())
    np.testing.assert_array_equal(density.bounds_, np.tile((-np.inf, np.inf), (3, 1)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"divergence": -3}, r"'divergence' parameter of InterpolantFlowDensity.*Got -3"),
        ({"atol": -1.0}, r"'atol' parameter.*Got -1.0"),
        ({"rtol": np.nan}, r"'rtol' parameter.*Got nan"),
        ({"solver": "rk5"}, r"'solver' parameter.*Got 'rk5'"),
        ({"n_jobs": "all"}, r"'n_jobs' parameter.*Got 'all'"),
        ({"device": "moon"}, r"device='moon' is not a device"),
        ({"device": "meta"}, r"device='meta' is not supported"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda d, X: d.score_samples(X),
        lambda d, X: d.transform(X),
        lambda d, X: d.inverse_transform(X),
        lambda d, X: d.sample(2),
        lambda d, X: d.density_threshold(0.5),
    ],
    ids=["score_samples", "transform", "inverse_transform", "sample", "density_threshold"],
)
def test_parameters_set_after_the_fit_are_checked(fitted, iris, parameters, message, ask):
    density = copy.deepcopy(fitted).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        ask(density, iris[:2])


def test_partial_fit_checks_parameters_after_a_fit(iris):
    density = quick().fit(iris).set_params(solver=3)
    with pytest.raises(ValueError, match="'solver' parameter"):
        density.partial_fit(iris)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda d, X: d.score_samples(X, t=10**400), r"t must be a number in \[0, 1\]"),
        (
            lambda d, X: d.velocity(X, None),
            r"t must be a number in \[0, 1\], from the base to the data, got None",
        ),
        (
            lambda d, X: d.trajectory(X, 0.5),
            r"times must be a sequence of numbers in \[0, 1\].*got 0.5",
        ),
        (lambda d, X: d.trajectory(X, [0.5, 0.5 + 1e-16]), r"times must be.*keep them 1e-09 apart"),
        (lambda d, X: d.trajectory(X, [0.0, None]), r"t must be a number in \[0, 1\].*got None"),
        (
            lambda d, X: d.sample(2**63),
            r"n_samples must be at most 1,073,741,824, which with 4 columns take 32 GiB",
        ),
        (lambda d, X: d.sample(2, random_state=-1), r"'random_state' parameter.*Got -1"),
        (
            lambda d, X: d.sample(2, method="sde", epsilon=lambda t: None),
            r"epsilon must return a single number for a time, but returns None",
        ),
        (lambda d, X: d.sample(2, method="sde", epsilon=10**400), r"epsilon must be finite"),
        (
            lambda d, X: d.sample(2, method="sde", epsilon=1e300),
            r"epsilon reaches 1e\+300, which needs 2e\+302 steps",
        ),
        (
            lambda d, X: d.sample(2, method="sde", n_steps=10**30),
            r"n_steps must be at most 1e\+06, got an integer of 100 bits",
        ),
    ],
)
def test_arguments_that_are_absurd(fitted, iris, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(fitted, iris[:2])


@pytest.mark.parametrize("t", [1e-50, 1e-12])
def test_times_that_are_as_good_as_zero(fitted, iris, t):
    np.testing.assert_array_equal(
        fitted.score_samples(iris[:3], t=t), fitted.score_samples(iris[:3], t=0.0)
    )


def test_short_trajectories_in_float32(fitted, iris):
    X = iris[:3].astype(np.float32)
    there = fitted.trajectory(X, [0.5, 0.5 + 1e-8])
    assert there.dtype == np.float32
    np.testing.assert_allclose(there[1], X, rtol=1e-5)


def test_rows_too_far_for_training(iris):
    """Beyond the scaling of an earlier fit, they made the weights NaN."""
    density = quick().fit(iris)
    before, X = density.score_samples(iris[:5]), iris[:30].copy()
    X[3, 1] = 1e100
    with pytest.raises(
        ValueError, match=r"1 of 30 rows are more than 1e\+13 units of the flow from its centre"
    ):
        density.partial_fit(X)
    with pytest.raises(ValueError, match=r"1 of 30 rows are more than 1e\+13 units of the flow"):
        crossed().fit(iris, X_val=X)
    np.testing.assert_array_equal(density.score_samples(iris[:5]), before)
