"""Gaussian kernel density of an outlier detector: log-density, gradient and bandwidth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.metrics import pairwise_distances

Array = NDArray[np.float64]

_BANDWIDTHS = np.geomspace(0.1, 3.0, 25)
"""Candidates, in standard deviations.  The smallest keeps repeated values from having an infinite
density."""
_MOST_LEFT_OUT = 1_000
"""Rows whose left-out log-density selects the bandwidth."""
_BLOCK_ROWS = 2_048
"""Rows whose distances to all centres are held at a time."""


def select_bandwidth(rows: Array, random: np.random.RandomState) -> float:
    """Return the bandwidth with the largest mean log-density of rows that are left out."""
    left_out = random.permutation(len(rows))[:_MOST_LEFT_OUT]
    distances = _squared_distances(rows[left_out], rows)
    distances[np.arange(len(left_out)), left_out] = np.inf
    # The one centre less is the same for all candidates.
    scores = [_log_density(distances, h, rows.shape[1]).mean() for h in _BANDWIDTHS]
    return float(_BANDWIDTHS[int(np.argmax(scores))])


def kernel_log_density(x: Array, rows: Array, bandwidth: float) -> Array:
    """Return the log-density of rows `x`, of shape (B,), for kernels centred at `rows`."""
    return np.concatenate(
        [
            _log_density(_squared_distances(block, rows), bandwidth, rows.shape[1])
            for block in _blocks(x)
        ]
    )


def kernel_score(x: Array, rows: Array, bandwidth: float) -> Array:
    """Return the gradient of :func:`kernel_log_density`, of shape (B, D)."""
    nearest = [
        softmax(-_squared_distances(block, rows) / (2 * bandwidth**2), axis=1) @ rows
        for block in _blocks(x)
    ]
    score: Array = (np.concatenate(nearest) - x) / bandwidth**2
    return score


def _squared_distances(x: Array, rows: Array) -> Array:
    distances: Array = pairwise_distances(x, rows, metric="sqeuclidean")
    return distances


def _blocks(x: Array) -> Iterator[Array]:
    """Yield the rows in blocks, so that memory is bounded."""
    for start in range(0, len(x), _BLOCK_ROWS):
        yield x[start : start + _BLOCK_ROWS]


def _log_density(squared_distances: Array, bandwidth: float, n_features: int) -> Array:
    n_rows = squared_distances.shape[1]
    volume = n_features * math.log(bandwidth * math.sqrt(2 * math.pi))
    sums: Array = logsumexp(-squared_distances / (2 * bandwidth**2), axis=1)
    return sums - math.log(n_rows) - volume
