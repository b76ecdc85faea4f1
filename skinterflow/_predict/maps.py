"""Log-densities on the grid of a map, most of which is usually empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Score = Callable[[Array, float], tuple[Array, Array]]
"""Log-densities of rows of shape (n, 2) and their estimated errors, at a tolerance in nats."""

_STRIDE = 2
"""Distance, in points of the grid, of the points that are evaluated first."""
_FEWEST_POINTS = 40
"""Points of an axis below which all points of the grid are evaluated."""
_UNREFINED = 100.0
_TOLERANCES = (1.0, 0.3, 0.1)
"""Tolerances of the first points, which need no refinements, and of the others."""
_COLOR = 0.1
"""Error of the density that a map allows, as a part of the largest density.  It bounds the errors
of 95 rows in 100, whose mean is less than a tenth of it, about one of 256 colors."""


def grid_rows(grid: Sequence[Array]) -> Array:
    """Points of a grid as rows, shape (n, k), in the order of :func:`numpy.meshgrid`."""
    return np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, len(grid))


def map_log_density(
    score: Score, grid: Sequence[Array], lowest: float, highest: float, samples: Array
) -> Array:
    """Log-density on a grid of two axes, as accurate as colors can show.

    Every second point of each axis is evaluated roughly.  Cells between them of which a corner may
    not be below `lowest`, or which contain a sample, are evaluated at all their points; elsewhere,
    values are interpolated.  Tolerances are those of the density as a part of the largest, so that
    a point of low density has a wide one.

    Parameters
    ----------
    score : callable
        Log-densities of rows of shape (n, 2) and their estimated errors, both of shape (n,), at a
        tolerance in nats or at that of the model, if it is larger.
    grid : two arrays of increasing values, of n and m points
    lowest : float
        Log-density below which values may be interpolated.
    highest : float
        Largest log-density of the map, approximately.
    samples : ndarray of shape (n_samples, 2)
        Rows of the model, so that a peak between the points evaluated first is not missed.

    Returns
    -------
    ndarray of shape (m, n)
    """
    shape, rows = (len(grid[1]), len(grid[0])), grid_rows(grid)
    if min(shape) < _FEWEST_POINTS:
        return score(rows, 0.0)[0].reshape(shape)
    coarse = [np.append(np.arange(0, n - 1, _STRIDE), n - 1) for n in shape]
    first = [grid[0][coarse[1]], grid[1][coarse[0]]]
    known, error = (
        part.reshape(*map(len, coarse)).astype(np.float64)
        for part in score(grid_rows(first), _UNREFINED)
    )
    most = known + np.where(np.isfinite(known), error, 0.0)
    # Minus infinity, outside of bounds, costs nothing to evaluate, and cannot be interpolated.
    low = np.isfinite(known) & (most < lowest)
    low[_corners_of(samples, first)] = False
    values, seen = np.zeros(shape), np.zeros(shape, dtype=bool)
    bound = np.full(shape, -np.inf)
    for above, by_row in _neighbours(coarse[0], shape[0]):
        for across, by_column in _neighbours(coarse[1], shape[1]):
            corner, weight = np.ix_(above, across), by_row[:, None] * by_column
            values += weight * np.where(low[corner], known[corner], 0.0)
            seen |= ~low[corner]
            bound = np.maximum(bound, most[corner])
    values[seen] = _visible(score, rows[seen.ravel()], bound[seen], highest)
    return values


def _visible(score: Score, rows: Array, bound: Array, highest: float) -> Array:
    """Log-densities whose errors cannot be seen.

    Parameters
    ----------
    score : callable, see :func:`map_log_density`
    rows : ndarray of shape (n, 2)
    bound : ndarray of shape (n,)
        Log-densities that the rows are not expected to exceed, which say how to start.
    highest : float
    """
    values, waiting = np.empty(len(rows)), np.ones(len(rows), dtype=bool)
    # At most the last tolerance, where the largest density of the samples is exceeded.
    allowed = _COLOR * np.exp(np.clip(highest - bound, 0.0, 50.0))
    for tolerance in _TOLERANCES:
        which = np.flatnonzero(waiting & (allowed >= tolerance))
        if len(which):
            value, error = score(rows[which], tolerance)
            values[which] = value
            allowed[which] = _COLOR * np.exp(np.clip(highest - value, 0.0, 50.0))
            waiting[which] = error > allowed[which]
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
