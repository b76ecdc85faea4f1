"""Regions of highest density against the closed form of a Gaussian."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.exceptions import NotFittedError

from skinterflow import InterpolantFlowDensity
from skinterflow._predict.regions import checked_levels, density_thresholds
from tests.helpers import ONE_FIELD

LEVELS = np.array([0.05, 0.5, 0.9, 0.99])


def true_thresholds(levels, d=2):
    """In the region of level p of N(0, I), |x|^2 is at most the p quantile of chi^2."""
    return -0.5 * chi2.ppf(levels, d) - 0.5 * d * math.log(2 * math.pi)


def normal_log_density(rows):
    return -0.5 * (rows**2).sum(axis=1) - 0.5 * rows.shape[1] * math.log(2 * math.pi)


@pytest.fixture(scope="module")
def normal():
    """A fitted estimator whose density is N(0, I): its flow ends where it starts."""
    rows = np.random.default_rng(0).normal(size=(40, 2))
    return InterpolantFlowDensity(**ONE_FIELD, scaling=None, end_time=1e-9).fit(rows)


def test_thresholds_of_a_normal_are_those_of_chi2():
    log_density = normal_log_density(np.random.default_rng(0).normal(size=(400_000, 2)))
    thresholds, errors = density_thresholds(log_density, LEVELS)
    assert thresholds == pytest.approx(true_thresholds(LEVELS), abs=0.02)
    assert (np.abs(thresholds - true_thresholds(LEVELS)) < 4 * errors).all()


def test_error_is_the_deviation_over_many_draws():
    draws = np.random.default_rng(1).normal(size=(300, 1000, 2))
    thresholds, errors = zip(
        *(density_thresholds(normal_log_density(rows), LEVELS) for rows in draws), strict=True
    )
    assert np.mean(errors, axis=0) == pytest.approx(np.std(thresholds, axis=0), rel=0.15)


@pytest.mark.parametrize(("n", "level"), [(2, 0.5), (10, 0.1), (10, 0.9), (1000, 0.999)])
def test_error_where_one_sample_is_expected(n, level):
    """The deviation still ends within the samples."""
    _, errors = density_thresholds(np.arange(float(n)), np.array([level]))
    assert errors == pytest.approx((n - 1) * math.sqrt(level * (1 - level) / n))


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_a_fit(normal, seed):
    thresholds, errors = normal.density_threshold(
        LEVELS, n_samples=1000, random_state=seed, return_error=True
    )
    assert thresholds.shape == errors.shape == LEVELS.shape
    assert (np.abs(thresholds - true_thresholds(LEVELS)) < 4 * errors).all()
    assert (errors[1:] > 0.01).all()


def test_one_level_gives_numbers(normal):
    threshold, error = normal.density_threshold(
        0.9, n_samples=100, random_state=0, return_error=True
    )
    assert isinstance(threshold, float)
    assert isinstance(error, float)
    several = normal.density_threshold([0.5, 0.9], n_samples=100, random_state=0)
    assert several.shape == (2,)
    assert several[1] == threshold


def test_contains_the_fraction_that_it_says(normal):
    rows = np.random.default_rng(5).normal(size=(4000, 2)).astype(np.float32)
    inside = normal.contains(rows, 0.7, random_state=0)
    assert inside.dtype == bool
    assert inside.shape == (4000,)
    deviation = math.sqrt(0.7 * 0.3 * (1 / 4000 + 1 / 2000))
    assert abs(inside.mean() - 0.7) < 4 * deviation
    radius = math.sqrt(chi2.ppf(0.7, 2))
    distance = np.linalg.norm(rows, axis=1)
    assert inside[distance < 0.9 * radius].all()
    assert not inside[distance > 1.1 * radius].any()


def test_names_of_columns_are_no_cause_for_a_warning(iris):
    """Samples of the model have no names, those of the rows are checked."""
    frame = pd.DataFrame(iris, columns=list("abcd"))
    density = InterpolantFlowDensity(**ONE_FIELD).fit(frame)
    assert density.contains(frame, 0.5, n_samples=50, random_state=0).shape == (150,)
    with pytest.raises(ValueError, match="feature names should match"):
        density.contains(frame[["b", "a", "c", "d"]], 0.5)


@pytest.mark.parametrize("level", [0.0, 1, -0.1, 1.5, math.nan, "half", None, True, [], [0.5, 1.0]])
def test_levels_that_are_none(normal, level):
    with pytest.raises(ValueError, match=r"level must be one or more numbers in \(0, 1\).*got"):
        normal.density_threshold(level)


def test_levels_keep_their_shape():
    assert checked_levels([[0.5], [0.25]]).shape == (2, 1)
    assert checked_levels(np.float32(0.5)).shape == ()


def test_levels_of_any_shape(normal):
    """Each threshold is that of its level alone."""
    thresholds, errors = normal.density_threshold(
        [[0.5, 0.6], [0.7, 0.8]], n_samples=50, random_state=0, return_error=True
    )
    assert thresholds.shape == errors.shape == (2, 2)
    assert thresholds[1, 0] == normal.density_threshold(0.7, n_samples=50, random_state=0)
    assert normal.density_threshold([[0.5, 0.6]], n_samples=50, random_state=0).shape == (1, 2)


@pytest.mark.parametrize("level", [[[0.5], [0.5, 0.6]], 10**400, 1j])
def test_levels_that_are_no_array_of_numbers(normal, level):
    with pytest.raises(ValueError, match=r"level must be one or more numbers in \(0, 1\)"):
        normal.density_threshold(level)


def test_a_level_that_no_samples_reach(normal):
    with pytest.raises(
        ValueError, match=r"n_samples=50 is too few for a level at 1e-300.*nearer to one half"
    ):
        normal.density_threshold(1e-300, n_samples=50)


def test_rows_are_in_one_region_at_a_time(normal):
    with pytest.raises(
        ValueError,
        match=r"contains accepts one level at a time; level must be a single number in \(0, 1\), "
        r"got \[0.5, 0.9\]",
    ):
        normal.contains([[0.0, 0.0]], [0.5, 0.9])


def test_too_few_samples(normal):
    with pytest.raises(
        ValueError,
        match=r"n_samples=100 is too few for a level at 0\.001 from 0 or 1.*use at least 10000",
    ):
        normal.density_threshold([0.5, 0.999], n_samples=100)
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        normal.density_threshold(0.5, n_samples=0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda density: density.density_threshold(0.5),
        lambda density: density.contains([[0.0]], 0.5),
    ],
    ids=["d", "c"],
)
def test_unfitted(ask):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ask(InterpolantFlowDensity())


def test_samples_are_drawn_once_for_a_model_and_a_seed(iris, monkeypatch):
    density = InterpolantFlowDensity(**ONE_FIELD).fit(iris)
    drawn, draw = [], InterpolantFlowDensity._drawn
    monkeypatch.setattr(
        InterpolantFlowDensity, "_drawn", lambda self, *rest: drawn.append(1) or draw(self, *rest)
    )
    few = {"n_samples": 50}
    first = density.density_threshold(0.5, random_state=0, **few)
    assert density.density_threshold(0.5, random_state=0, **few) == first
    density.contains(iris[:1], 0.9, random_state=0, **few)
    assert len(drawn) == 1
    unseeded = [density.density_threshold(0.5, **few) for _ in range(3)]
    assert len(set(unseeded)) == 1
    assert len(drawn) == 2
    random = np.random.RandomState(0)
    assert len({density.density_threshold(0.5, random_state=random, **few) for _ in range(2)}) == 2
    density.set_params(atol=0.1).density_threshold(0.5, random_state=0, **few)
    assert len(drawn) == 5
    density.set_params(max_iter=5).fit(iris)
    assert density.density_threshold(0.5, random_state=0, **few) != first
