"""Covariance of the simple Gaussian that fits rows best: shrunk, or low rank plus diagonal.

The flow starts at the Gaussian with this covariance, so that a flow of end time 0 should be as good
as any Gaussian.  Ledoit-Wolf shrinkage [1]_ suits columns without structure; factor analysis [2]_
suits many columns that share a few factors, where it can be better by several nats.  The choice,
and that of the rank, is made by the likelihood of rows that the candidate was not fitted to.

References
----------
.. [1] Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88, 2004.
.. [2] Barber, "Bayesian Reasoning and Machine Learning", Cambridge University Press 2012, algorithm
    21.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular
from sklearn.covariance import ledoit_wolf_shrinkage

from skinterflow._data.degenerate import evenly_spaced

Array = NDArray[np.float64]

_RANKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
_N_FALLS = 2
"""Number of ranks in a row, each worse than the one before, after which the search ends."""
_N_FOLDS, _MOST_ROWS = 3, 2_000
"""Folds, and maximum number of rows, of the comparison."""
_FEWEST_ROWS, _MOST_COLUMNS = 20, 512
"""Limits below and above which there is no comparison, and Ledoit-Wolf shrinkage is used."""
_N_STEPS, _TOLERANCE = 60, 1e-3
"""Maximum number of steps of factor analysis, and the relative change of a noise variance at which
it has converged."""
_LEAST_NOISE = 1e-3
"""Minimum noise variance of a column, relative to its variance."""


def best_covariance(X: Array, weight: Array) -> Array:
    """Covariance of rows of mean zero, by the better of Ledoit-Wolf and factor analysis.

    Parameters
    ----------
    X : array of shape (n, D), with standardised columns
    weight : array of shape (n,), positive

    Returns
    -------
    array of shape (D, D), symmetric
    """
    rank = _best_rank(X, weight)
    return _shrunk(X, weight) if rank == 0 else factor_covariance(_scatter(X, weight), rank)[0]


def factor_covariance(
    covariance: Array, rank: int, noise: Array | None = None
) -> tuple[Array, Array]:
    """Maximum-likelihood covariance of the form ``L L^T + diag(noise)``.

    Parameters
    ----------
    covariance : array of shape (D, D), of the sample
    rank : int, number of columns of L, less than D
    noise : array of shape (D,) or None
        Noise variances from which the iteration starts.

    Returns
    -------
    fitted : array of shape (D, D)
    noise : array of shape (D,)
    """
    variances = np.diag(covariance)
    noise = 0.5 * variances if noise is None else noise
    for _ in range(_N_STEPS):
        loadings = _loadings(covariance, noise, rank)
        before, noise = (
            noise,
            np.maximum(variances - (loadings**2).sum(axis=1), _LEAST_NOISE * variances),
        )
        if np.abs(np.log(noise / before)).max(initial=0.0) < _TOLERANCE:
            break
    return loadings @ loadings.T + np.diag(noise), noise


def _loadings(covariance: Array, noise: Array, rank: int) -> Array:
    """Loadings of maximum likelihood for given noise variances, shape (D, rank)."""
    root, d = np.sqrt(noise), len(noise)
    values, vectors = eigh(
        covariance / np.outer(root, root), subset_by_index=[d - rank, d - 1], check_finite=False
    )
    return np.asarray(root[:, None] * vectors * np.sqrt(np.maximum(values - 1.0, 0.0)))


def _best_rank(X: Array, weight: Array) -> int:
    """Rank with the best held-out likelihood; 0 is Ledoit-Wolf."""
    n, d = X.shape
    if d < 2 or d > _MOST_COLUMNS or n < _FEWEST_ROWS:
        return 0
    X, weight = evenly_spaced(X, _MOST_ROWS), evenly_spaced(weight, _MOST_ROWS)
    # Shuffled, because rows are often sorted; always alike, because it decides on no row.
    fold = np.random.default_rng(0).permutation(len(X)) % _N_FOLDS
    parts = [(fold != k, fold == k) for k in range(_N_FOLDS)]
    best = _mean_fit([_shrunk(X[a], weight[a]) for a, _ in parts], X, weight, parts), 0
    scatters = [_scatter(X[a], weight[a]) for a, _ in parts]
    noises: list[Array | None] = [None] * _N_FOLDS
    last, n_falls = -np.inf, 0
    for rank in (rank for rank in _RANKS if rank < min(d, n // 2)):
        fits = [
            factor_covariance(c, rank, noise) for c, noise in zip(scatters, noises, strict=True)
        ]
        noises = [noise for _, noise in fits]
        score = _mean_fit([covariance for covariance, _ in fits], X, weight, parts)
        best = max(best, (score, rank))
        n_falls = n_falls + 1 if score < last else 0
        last = score
        if n_falls == _N_FALLS:
            break
    return best[1]


def _mean_fit(
    covariances: list[Array], X: Array, weight: Array, parts: list[tuple[Array, Array]]
) -> float:
    """Mean over the folds of the log-likelihood of the rows left out, up to a constant."""
    return float(
        np.mean(
            [
                _log_likelihood(covariance, X[held_out], weight[held_out])
                for covariance, (_, held_out) in zip(covariances, parts, strict=True)
            ]
        )
    )


def _log_likelihood(covariance: Array, X: Array, weight: Array) -> float:
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -np.inf
    squares = (solve_triangular(root, X.T, lower=True) ** 2).sum(axis=0)
    return float(-0.5 * np.average(squares, weights=weight) - np.log(np.diag(root)).sum())


def _scatter(X: Array, weight: Array) -> Array:
    return np.asarray((X * (weight / weight.sum())[:, None]).T @ X)


def _shrunk(X: Array, weight: Array) -> Array:
    """Covariance with Ledoit-Wolf (2004) shrinkage."""
    shrinkage = ledoit_wolf_shrinkage(X, assume_centered=True)
    covariance, d = _scatter(X, weight), X.shape[1]
    return (1.0 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
