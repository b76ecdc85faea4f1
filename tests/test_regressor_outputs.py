"""Outputs with bounds and whole-number outputs of the regressor."""

import copy

import numpy as np
import pytest
from scipy.special import log_ndtr
from sklearn.base import clone

from skinterflow import DegenerateDataWarning, InterpolantFlowRegressor, SavedModelError

TINY = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 40,
    "batch_size": 32,
    "regressor": None,
    "end_time": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
UNTRAINED = {**TINY, "max_iter": 1, "learning_rate_init": 1e-12}
"""The flow is the identity, so that the output is normal in scaled units."""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2))
Y = X[:, 0] + 0.5 * RNG.normal(size=200)
COUNTS = RNG.poisson(np.exp(0.5 + 0.5 * X[:, 0])).astype(float)
LEVELS = np.array([1e-3, 0.05, 0.5, 0.95, 0.999])


@pytest.fixture(scope="module")
def positive():
    return InterpolantFlowRegressor(**TINY, bounds=(0, None)).fit(X, np.exp(Y))


@pytest.fixture(scope="module")
def counting():
    return InterpolantFlowRegressor(**TINY, bounds=(0, None), integer_target=True).fit(X, COUNTS)


# Bounds.


def test_the_density_has_mass_one_within_the_bounds(positive):
    u = np.linspace(-9.0, 5.0, 2001)
    grid = np.exp(u)
    density = np.exp(positive.log_density(np.repeat(X[:2], 2001, axis=0), np.tile(grid, 2)))
    mass = np.trapezoid(density.reshape(2, -1) * grid, u, axis=1)
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)


def test_outside_the_bounds_there_is_nothing(positive):
    value, error = positive.log_density(X[:2], [-1.0, 1.0], return_error=True)
    assert value[0] == -np.inf < value[1]
    assert error[0] == 0.0
    cdf = positive.cdf(X[:1], [[-3.0, 0.0, 1.0]])[0]
    assert cdf[0] == cdf[1] == 0.0 < cdf[2]
    assert (positive.sample(X, 5, random_state=0) > 0).all()
    assert (positive.predict_quantiles(X, [1e-12, 0.5]) > 0).all()
    assert (positive.predict(X) > 0).all()
    fractions = InterpolantFlowRegressor(**UNTRAINED, bounds=(0, 1)).fit(X, 1 / (1 + np.exp(Y)))
    np.testing.assert_array_equal(fractions.cdf(X[:1], [[0.0, 1.0, 7.0]]), [[0.0, 1.0, 1.0]])


def test_quantiles_mean_and_distribution_agree_within_bounds(positive):
    quantiles = positive.predict_quantiles(X[:20], LEVELS)
    np.testing.assert_allclose(positive.cdf(X[:20], quantiles), np.tile(LEVELS, (20, 1)), atol=1e-3)
    levels = (np.arange(4000) + 0.5) / 4000
    mean = positive.predict_quantiles(X[:3], levels).mean(axis=1)
    np.testing.assert_allclose(positive.predict(X[:3]), mean, rtol=5e-3)


def test_each_output_has_its_bounds():
    y = np.c_[np.minimum(Y, 1.0), Y]
    model = InterpolantFlowRegressor(**TINY, bounds=[(None, 1.5), None]).fit(X, y)
    np.testing.assert_array_equal(model.bounds_, [[-np.inf, 1.5], [-np.inf, np.inf]])
    samples = model.sample(X, 20, random_state=0)
    assert samples[..., 0].max() < 1.5 < samples[..., 1].max()
    assert model.log_density(X[:1], [[2.0, 0.0]]) == -np.inf
    assert np.isfinite(model.log_density(X[:1], [[0.0, 9.0]])).all()


def test_a_bounded_model_is_saved(counting, tmp_path):
    counting.save(tmp_path / "model")
    loaded = InterpolantFlowRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.log_density(X, COUNTS), counting.log_density(X, COUNTS))
    spoiled = copy.deepcopy(counting)
    spoiled.bounds_ = spoiled.bounds_ - 1.0
    spoiled.save(tmp_path / "spoiled")
    with pytest.raises(SavedModelError, match="bounds_"):
        InterpolantFlowRegressor.load(tmp_path / "spoiled")


def test_a_warm_start_keeps_the_bounds(positive):
    model = clone(positive).set_params(max_iter=1, warm_start=True).fit(X, np.exp(Y))
    model.set_params(bounds=None, max_iter=2).fit(X, np.exp(Y))
    assert model.bounds_.tolist() == [[0.0, np.inf]]
    with pytest.raises(ValueError, match=r"y has values that bounds does not allow in y \(1 of"):
        model.fit(X, np.where(np.arange(200) == 3, -1.0, np.exp(Y)))


# Whole numbers.


def test_masses_of_an_untrained_flow_are_those_of_a_rounded_normal():
    model = InterpolantFlowRegressor(**UNTRAINED, integer_target=True).fit(X, np.rint(20 * Y))
    scaling = model._target.parts[0]
    mean, size = float(scaling.shift), float(scaling.scale * model._sizes[0, 0])
    k = np.rint(mean + size * np.array([-30.0, -8.0, -1.0, 0.0, 2.0, 12.0, 30.0]))
    low, high = (k - 0.5 - mean) / size, (k + 0.5 - mean) / size
    a, b = np.where(k < mean, low, -high), np.where(k < mean, high, -low)
    expected = log_ndtr(b) + np.log1p(-np.exp(log_ndtr(a) - log_ndtr(b)))
    np.testing.assert_allclose(model.log_density(X[:7], k), expected, rtol=1e-8)


def test_narrow_cells_have_the_mass_of_the_density():
    y = np.rint(1e7 * Y)
    model = InterpolantFlowRegressor(**TINY, integer_target=True).fit(X, y)
    own = copy.deepcopy(model)
    own._whole = np.zeros(1, dtype=bool)
    own._cache = {}
    np.testing.assert_allclose(
        model.log_density(X[:9], y[:9]), own.log_density(X[:9], y[:9]), atol=1e-4
    )


def test_masses_add_up_to_the_distribution_and_to_the_mean(counting):
    k = np.arange(80.0)
    mass = np.exp(counting.log_density(np.repeat(X[:3], 80, axis=0), np.tile(k, 3))).reshape(3, 80)
    np.testing.assert_allclose(mass.sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(
        mass.cumsum(axis=1), counting.cdf(X[:3], np.tile(k, (3, 1))), atol=1e-4
    )
    np.testing.assert_allclose(mass @ k, counting.predict(X[:3]), rtol=2e-3)


def test_the_distribution_is_a_step_function_and_quantiles_are_its_steps(counting):
    cdf = counting.cdf(X[:1], [[-1.0, -0.2, 0.0, 0.9, 1.0]])[0]
    assert cdf[0] == cdf[1] == 0.0 < cdf[2] == cdf[3] < cdf[4]
    quantiles = counting.predict_quantiles(X, LEVELS)
    assert (quantiles == np.rint(quantiles)).all()
    assert (quantiles >= 0).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (counting.cdf(X, quantiles) > LEVELS - 1e-3).all()
    assert (counting.cdf(X, quantiles - 1.0) < LEVELS + 1e-3).all()


def test_fractions_have_no_mass_and_samples_are_whole(counting):
    log_mass = counting.log_density(X[:3], [0.5, -1.0, 2.0])
    assert (np.isneginf(log_mass) == [True, True, False]).all()
    samples = counting.sample(X, 5, random_state=0)
    assert (samples == np.rint(samples)).all()
    assert (samples >= 0).all()


def test_means_of_wide_counts_are_those_of_the_density():
    y = np.rint(1000.0 * Y)
    model = InterpolantFlowRegressor(**TINY, integer_target=True).fit(X, y)
    samples = model.predict_quantiles(X[:3], (np.arange(2000) + 0.5) / 2000)
    np.testing.assert_allclose(model.predict(X[:3]), samples.mean(axis=1), atol=5.0)


def test_intervals_of_counts_hold_after_the_correction(counting):
    X_more = np.random.default_rng(1).normal(size=(1000, 2))
    y = np.random.default_rng(2).poisson(3.0, size=1000)
    model = InterpolantFlowRegressor(**UNTRAINED, integer_target=True, conformal=True)
    model.fit(X_more[:500], y[:500])
    low, high = model.predict_interval(X_more[500:], 0.8).T
    assert (low == np.rint(low)).all()
    assert np.mean((low <= y[500:]) & (y[500:] <= high)) > 0.8 - 3 * np.sqrt(
        0.16 * (1 / 500 + 0.01)
    )


# Errors and warnings.

BAD = {
    "outside": (
        {"bounds": (0, 1)},
        Y,
        r"y has values that bounds does not allow in y \(\d+ of 200",
    ),
    "fractions": (
        {"integer_target": True},
        Y,
        r"y has values that integer_target does not allow in y \(200 of 200 rows not whole\)",
    ),
    "two outputs": (
        {"integer_target": True},
        np.c_[COUNTS, COUNTS + X[:, 0] // 1],
        "integer_target=True requires one output, but y has 2; fit one regressor for each",
    ),
    "decreasing": ({"bounds": (1, 0)}, Y, r"bounds of y must be \(low, high\) with low < high"),
    "no pair": ({"bounds": 3 * [0]}, Y, r"bounds must be a pair \(low, high\), or a sequence"),
    "one pair for two": ({"bounds": (0, 9)}, np.c_[Y, Y], "bounds of output 0 must be a pair"),
    "three pairs for two": ({"bounds": 3 * [None]}, np.c_[Y, Y], "each of the 2 outputs of y"),
    "array": ({"bounds": np.array(3)}, Y, "bounds must be a pair"),
    "dict": ({"bounds": {0: (0, 1)}}, Y, "bounds must be a pair"),
    "no whole number": (
        {"bounds": (0.2, 0.8), "integer_target": True},
        COUNTS,
        "bounds of y contain no whole number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_outputs(name):
    parameters, y, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        InterpolantFlowRegressor(**TINY, **parameters).fit(X, y)


def test_held_out_outputs_of_the_user_are_checked():
    model = InterpolantFlowRegressor(**{**TINY, "early_stopping": True}, bounds=(0, None))
    with pytest.raises(ValueError, match="y_val has values that bounds does not allow"):
        model.fit(X, np.exp(Y), X_val=X, y_val=Y)


def test_the_warning_for_repeated_outputs_names_the_parameter():
    with pytest.warns(DegenerateDataWarning, match=r"set integer_target=True.*neg_crps_scorer"):
        InterpolantFlowRegressor(**UNTRAINED).fit(X, COUNTS)
    with pytest.warns(DegenerateDataWarning, match="rows on a bound.*: y"):
        InterpolantFlowRegressor(**UNTRAINED, bounds=(0, None)).fit(X, np.maximum(Y + 1.4, 0.0))
