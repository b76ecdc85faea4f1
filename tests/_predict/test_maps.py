"""Maps: what is evaluated, and what is interpolated."""

import numpy as np
import pytest

from skinterflow._predict.maps import grid_rows, map_log_density

GRID = [np.linspace(-6.0, 6.0, 80), np.linspace(-4.0, 5.0, 61)]


def peak(rows, deviation=0.5):
    """Log-density of a narrow normal at (1, 2), up to a constant."""
    return -0.5 * np.square((rows - [1.0, 2.0]) / deviation).sum(axis=1)


NONE = np.empty((0, 2))


def counted(score):
    rows_seen = []

    def counting(rows):
        rows_seen.append(len(rows))
        return score(rows)

    return counting, rows_seen


def test_visible_parts_are_exact_and_few():
    score, rows_seen = counted(peak)
    found = map_log_density(score, peak, GRID, lowest=-12.0, samples=NONE)
    exact = peak(grid_rows(GRID)).reshape(61, 80)
    visible = exact >= -12.0
    assert (found[visible] == exact[visible]).all()
    assert (found[~visible] < -11.0).all()
    assert sum(rows_seen) < 0.3 * exact.size


def test_rough_values_are_nowhere_visible():
    found = map_log_density(peak, lambda rows: peak(rows) - 0.9, GRID, lowest=-13.0, samples=NONE)
    exact = peak(grid_rows(GRID)).reshape(61, 80)
    assert (found[exact >= -12.0] == exact[exact >= -12.0]).all()


def test_low_values_are_interpolated_linearly():
    def plane(rows):
        return rows @ [2.0, -3.0]

    found = map_log_density(plane, plane, GRID, lowest=1e9, samples=NONE)
    assert found == pytest.approx(plane(grid_rows(GRID)).reshape(61, 80))


def test_cells_at_minus_infinity_are_evaluated():
    def half(rows):
        return np.where(rows[:, 0] > 0.1, peak(rows), -np.inf)

    found = map_log_density(half, half, GRID, lowest=-12.0, samples=NONE)
    exact = half(grid_rows(GRID)).reshape(61, 80)
    assert (np.isfinite(found) == np.isfinite(exact)).all()
    assert not np.isnan(found).any()


def test_small_grids_are_evaluated_whole():
    score, rows_seen = counted(peak)
    small = [axis[::4] for axis in GRID]
    found = map_log_density(score, score, small, lowest=np.inf, samples=NONE)
    assert rows_seen == [found.size]


def test_a_peak_between_the_first_points_is_found_by_its_samples():
    """It is about as wide as a cell, and centred on a point that is not among the first ones."""
    centre = np.array([GRID[0][41], GRID[1][21]])

    def narrow(rows):
        return -0.5 * np.square((rows - centre) / 0.03).sum(axis=1)

    missed = map_log_density(narrow, narrow, GRID, lowest=-7.0, samples=NONE)
    found = map_log_density(narrow, narrow, GRID, lowest=-7.0, samples=centre[None])
    assert missed[21, 41] < -7.0
    assert found[21, 41] == pytest.approx(0.0)


def test_samples_outside_of_the_grid_do_no_harm():
    far = np.array([[-99.0, 0.0], [99.0, 99.0], [0.0, -99.0]])
    found = map_log_density(peak, peak, GRID, lowest=-12.0, samples=far)
    exact = peak(grid_rows(GRID)).reshape(61, 80)
    assert (found[exact >= -12.0] == exact[exact >= -12.0]).all()
