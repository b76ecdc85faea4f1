"""Maps: what is evaluated, and what is interpolated."""

import numpy as np
import pytest

from skinterflow._predict.maps import grid_rows, map_log_density

GRID = [np.linspace(-6.0, 6.0, 80), np.linspace(-4.0, 5.0, 61)]


def peak(rows, deviation=0.5):
    """Log-density of a narrow normal at (1, 2), up to a constant."""
    return -0.5 * np.square((rows - [1.0, 2.0]) / deviation).sum(axis=1)


NONE = np.empty((0, 2))


def graded(log_density, part=0.0):
    """A score whose errors are a part of the tolerance."""

    def score(rows, atol):
        value, error = log_density(rows), part * min(atol, 1.0)
        return value + error, np.full(len(rows), error)

    return score


def counted(score):
    seen = []

    def counting(rows, atol):
        seen.append((len(rows), atol))
        return score(rows, atol)

    return counting, seen


def exact(log_density):
    return log_density(grid_rows(GRID)).reshape(61, 80)


def test_visible_parts_are_evaluated_and_few():
    score, seen = counted(graded(peak))
    found = map_log_density(score, GRID, lowest=-12.0, highest=0.0, samples=NONE)
    visible = exact(peak) >= -12.0
    assert (found[visible] == exact(peak)[visible]).all()
    assert (found[~visible] < -11.0).all()
    assert sum(n for n, _ in seen[1:]) < 0.3 * found.size


def test_errors_are_small_in_density():
    """The whole tolerance is an error, estimated as such."""
    score, seen = counted(graded(peak, part=1.0))
    found = map_log_density(score, GRID, lowest=-7.0, highest=0.0, samples=NONE)
    visible = exact(peak) > -7.0
    error = np.abs(np.exp(found) - np.exp(exact(peak)))[visible]
    assert error.max() < 0.12
    # Where the density is low, the tolerance is wide, and most points have low densities.
    assert found[visible].min() - exact(peak)[visible].min() > 0.9
    by_tolerance = {atol: n for n, atol in seen}
    assert by_tolerance[1.0] > by_tolerance[0.1]


def test_points_above_their_tolerance_are_evaluated_again():
    """Rough values are too low: that the density is large shows only later."""

    def score(rows, atol):
        value = peak(rows) - (atol > 0.2) * 3.0
        return value, np.full(len(rows), 3.0 if atol > 0.2 else 0.0)

    found = map_log_density(score, GRID, lowest=-9.0, highest=0.0, samples=NONE)
    near = exact(peak) > -1.0
    assert (found[near] == exact(peak)[near]).all()


def test_rough_values_with_their_errors_are_nowhere_visible():
    def score(rows, atol):
        wrong = 5.0 * (atol > 1.0)
        return peak(rows) - wrong, np.full(len(rows), wrong)

    found = map_log_density(score, GRID, lowest=-12.0, highest=0.0, samples=NONE)
    assert (found[exact(peak) >= -12.0] == exact(peak)[exact(peak) >= -12.0]).all()


def test_low_values_are_interpolated_linearly():
    def plane(rows):
        return rows @ [2.0, -3.0]

    found = map_log_density(graded(plane), GRID, lowest=1e9, highest=1e9, samples=NONE)
    assert found == pytest.approx(exact(plane))


def test_cells_at_minus_infinity_are_evaluated():
    def half(rows):
        return np.where(rows[:, 0] > 0.1, peak(rows), -np.inf)

    def score(rows, atol):
        value = half(rows)
        return value, np.where(np.isfinite(value), 0.0, np.inf)

    found = map_log_density(score, GRID, lowest=-12.0, highest=0.0, samples=NONE)
    assert (np.isfinite(found) == np.isfinite(exact(half))).all()
    assert not np.isnan(found).any()


def test_small_grids_are_evaluated_whole():
    score, seen = counted(graded(peak))
    small = [axis[::4] for axis in GRID]
    found = map_log_density(score, small, lowest=np.inf, highest=0.0, samples=NONE)
    assert seen == [(found.size, 0.0)]


def test_a_peak_between_the_first_points_is_found_by_its_samples():
    """It is about as wide as a cell, and centred on a point that is not among the first ones."""
    centre = np.array([GRID[0][41], GRID[1][21]])

    def narrow(rows):
        return -0.5 * np.square((rows - centre) / 0.03).sum(axis=1)

    missed = map_log_density(graded(narrow), GRID, lowest=-7.0, highest=0.0, samples=NONE)
    score = graded(narrow, part=1.0)
    found = map_log_density(score, GRID, lowest=-7.0, highest=0.0, samples=centre[None])
    assert missed[21, 41] < -7.0
    assert found[21, 41] == pytest.approx(0.1)  # the tightest tolerance, after the widest


def test_samples_outside_of_the_grid_do_no_harm():
    far = np.array([[-99.0, 0.0], [99.0, 99.0], [0.0, -99.0]])
    found = map_log_density(graded(peak), GRID, lowest=-12.0, highest=0.0, samples=far)
    assert (found[exact(peak) >= -12.0] == exact(peak)[exact(peak) >= -12.0]).all()
