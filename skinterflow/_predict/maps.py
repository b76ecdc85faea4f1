"""Log-densities on the grid of a map, most of which is usually empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_STRIDE = 2
"""Distance, in points of the grid, of the points that are evaluated first."""
_FEWEST_POINTS = 40
"""Points of an axis below which all points of the grid are evaluated."""


def grid_rows(grid: Sequence[Array]) -> Array:
    """Points of a grid as rows, shape (n, k), in the order of :func:`numpy.meshgrid`."""
    return np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, len(grid))


def map_log_density(
    score: Callable[[Array], Array],
    rough_score: Callable[[Array], Array],
    grid: Sequence[Array],
    lowest: float,
    samples: Array,
) -> Array:
    """Log-density on a grid of two axes, interpolated where it is too low to be seen.

    Every second point of each axis is evaluated roughly.  Cells between them of which a corner is
    not below `lowest`, or which contain a sample, are evaluated at all their points.

    Parameters
    ----------
    score, rough_score : callable
        Log-densities of rows of shape (n, 2), shape (n,).
    grid : two arrays of increasing values, of n and m points
    lowest : float
        Log-density below which values may be interpolated.
    samples : ndarray of shape (n_samples, 2)
        Rows of the model, so that a peak between the points evaluated first is not missed.

    Returns
    -------
    ndarray of shape (m, n)
    """
    shape = len(grid[1]), len(grid[0])
    if min(shape) < _FEWEST_POINTS:
        return score(grid_rows(grid)).reshape(shape)
    coarse = [np.append(np.arange(0, n - 1, _STRIDE), n - 1) for n in shape]
    first = [grid[0][coarse[1]], grid[1][coarse[0]]]
    known = rough_score(grid_rows(first)).reshape(*map(len, coarse)).astype(np.float64)
    # Minus infinity, outside of bounds, costs nothing to evaluate, and cannot be interpolated.
    low = np.isfinite(known) & (known < lowest)
    low[_corners_of(samples, first)] = False
    values, seen = np.zeros(shape), np.zeros(shape, dtype=bool)
    for rows, by_row in _neighbours(coarse[0], shape[0]):
        for columns, by_column in _neighbours(coarse[1], shape[1]):
            corner, weight = np.ix_(rows, columns), by_row[:, None] * by_column
            values += weight * np.where(low[corner], known[corner], 0.0)
            seen |= ~low[corner]
    values[seen] = score(grid_rows(grid)[seen.ravel()])
    return values


def _corners_of(rows: Array, grid: Sequence[Array]) -> tuple[Array, Array]:
    """Numbers of the points of a grid, along its rows and columns, around each of some rows."""
    below = [
        np.clip(np.searchsorted(axis, rows[:, k], side="right") - 1, 0, len(axis) - 2)
        for k, axis in enumerate(grid)
    ]
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    up, across = (below[k][:, None] + corners[:, 1 - k] for k in (1, 0))
    return up, across


def _neighbours(coarse: Array, n: int) -> list[tuple[Array, Array]]:
    """Numbers of the coarse points on either side of `n` points, and weights of interpolation."""
    points = np.arange(n)
    below = np.searchsorted(coarse, points, side="right") - 1
    above = np.searchsorted(coarse, points, side="left")
    width = np.maximum(coarse[above] - coarse[below], 1)
    share = (points - coarse[below]) / width
    return [(below, 1.0 - share), (above, share)]
