"""Estimating a scaling from data: which invertible map makes the columns easy for a flow, and which
columns have no density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri
from sklearn.covariance import ledoit_wolf_shrinkage

from skinterflow._data.degenerate import COLLINEAR, evenly_spaced, floored, spread_constant_columns
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.scaling import Compose, Scaling, Standardize, Whiten

Array = NDArray[np.float64]

_QUANTILE_PAIRS = ((0.25, 0.75), (0.1, 0.9), (0.01, 0.99), (0.0, 1.0))
_GAIN = 0.1
"""Log-likelihood, in nats per row, that mapping a column to the normal law must bring."""
_GAIN_ROWS = 10_000
"""Rows that it is judged by."""
_GAUSSIANIZED_ROWS = 750
_GAUSSIANIZED_VALUES = 128
_N_CELLS = 16
_TAIL, _TAIL_ROWS = 1e-3, 20
"""Mass of each outermost cell, or that of so many rows if it is more."""
_OVERLAP = 2.0
"""Deviation of a component relative to that of the rows of its cell: with less, the density would
wave from cell to cell."""
_NARROWEST = 0.02
"""Least deviation of a component, relative to that of the column."""
_RIDGE = 1e-8


def estimate_scaling(
    scaling: str | Scaling | None,
    X: NDArray[Any],
    weight: Array,
    widths: Array,
    generator: torch.Generator,
    gaussianized: Sequence[int] | None = None,
) -> Scaling:
    """Invertible map from data units to flow units.

    Parameters
    ----------
    scaling : {"gaussianize", "power", "whiten", "standardize"}, Scaling or None
    X : array of shape (n, D)
    weight : array of shape (n,), positive
    widths : array of shape (D,), see :func:`constant_widths`
    generator : torch.Generator on the CPU, for the spread of constant columns
    gaussianized : sequence of int
        Columns that "gaussianize" maps to the normal law; None is those that gain by it.

    Returns
    -------
    Scaling, a given one as it is
    """
    if isinstance(scaling, Scaling):
        return scaling
    if scaling is None:
        return Compose([])
    x, weight = spread_constant_columns(evenly_spaced(X), widths, generator), evenly_spaced(weight)
    parts: list[Scaling] = []
    for estimate in _ESTIMATES[scaling]:
        chosen = {"chosen": gaussianized} if estimate is _gaussianize else {}
        parts.append(estimate(x, weight, **chosen))
        x = _apply(parts[-1], x)
    return Compose(parts)


def estimate_bounds(bounds: Array, X: Array, weight: Array) -> Bounds:
    """Map of bounded columns to the whole line; the scale of a single bound is the median distance
    from it.

    Parameters
    ----------
    bounds : array of shape (D, 2), infinite where a side is open
    X : array of shape (n, D)
    weight : array of shape (n,), positive
    """
    low, high = bounds.T
    one_sided = np.isfinite(low) != np.isfinite(high)
    distances = np.where(np.isfinite(low), X - low, high - X)[:, one_sided]
    robust = _robust(distances, weight)
    scale = np.ones(len(bounds))
    # Where half of the rows are on the bound the median is zero, and their spread takes its place.
    scale[one_sided] = torch.where(robust.shift > 0, robust.shift, robust.scale).numpy()
    return Bounds(*(torch.from_numpy(part.copy()) for part in (low, high, scale)))


def _robust(X: Array, weight: Array) -> Standardize:
    """Weighted median, and the first quantile range that is not zero as the scale."""
    order = np.argsort(X, axis=0)
    cumulated = np.cumsum(weight[order], axis=0) / weight.sum()
    ordered = np.take_along_axis(X, order, axis=0)

    def quantile(q: float) -> Array:
        index = np.minimum((cumulated < q).sum(axis=0), len(X) - 1)
        return np.asarray(np.take_along_axis(ordered, index[None], axis=0)[0])

    median = quantile(0.5)
    scale = np.zeros(X.shape[1])
    for low, high in _QUANTILE_PAIRS:
        width = quantile(high) - quantile(low)
        scale = np.where(scale > 0, scale, width)
    return Standardize(torch.from_numpy(median), torch.from_numpy(floored(scale, median)))


def _powers(X: Array, weight: Array) -> YeoJohnson:
    """Maximum-likelihood Yeo-Johnson powers, within the range where the map is onto."""
    logs = np.sign(X) * np.log1p(np.abs(X))
    slopes = weight @ logs / weight.sum()

    def power(j: int) -> float:
        def negative_log_likelihood(value: float) -> float:
            lambdas = torch.tensor([value], dtype=torch.float64)
            y = _apply(YeoJohnson(lambdas), X[:, [j]])[:, 0]
            variance = np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)
            return float(0.5 * np.log(variance + np.finfo(float).tiny) - (value - 1.0) * slopes[j])

        return float(
            minimize_scalar(negative_log_likelihood, bounds=(0.0, 2.0), method="bounded").x
        )

    return YeoJohnson(torch.tensor([power(j) for j in range(X.shape[1])], dtype=torch.float64))


def _standardize(X: Array, weight: Array) -> Standardize:
    mean = np.average(X, axis=0, weights=weight)
    deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    return Standardize(torch.from_numpy(mean), torch.from_numpy(floored(deviation, mean)))


def _whiten(X: Array, weight: Array) -> Whiten:
    """Whitening of standardised columns by a covariance that is shrunk as Ledoit and Wolf (2004)
    do."""
    shrinkage = ledoit_wolf_shrinkage(X, assume_centered=True)
    covariance = (X * (weight / weight.sum())[:, None]).T @ X
    covariance = (1.0 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(
        covariance
    ) * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, COLLINEAR))
    # The symmetric root keeps each flow coordinate next to its column.
    forward = (directions / deviations) @ directions.T
    backward = (directions * deviations) @ directions.T
    return Whiten(torch.from_numpy(forward), torch.from_numpy(backward))


def gaussianized_columns(scaling: Scaling) -> set[int]:
    """Columns that a scaling maps to the normal law."""
    parts = [part for part in scaling.modules() if isinstance(part, Gaussianize)]
    return {int(j) for part in parts for j in part.columns}


def _gaussianize(X: Array, weight: Array, chosen: Sequence[int] | None = None) -> Scaling:
    """Maps to the normal law for those columns of standardised rows where they pay, and a new
    standardisation.

    They pay where a Gaussian with the columns' covariance gains in likelihood by more than
    `_GAIN`.  That sets what a column gains for itself against the linear relations with other
    columns that are lost.  Columns of few rows or few values tell too little of their law.
    """
    p = weight / weight.sum()
    if chosen is None:
        chosen = _gaining_columns(X, weight) if len(X) >= _GAUSSIANIZED_ROWS else []
    if not len(chosen):
        return Compose([])
    mixtures = [_mixture(X[:, j], p) for j in chosen]
    parts = (np.stack([mixture[k] for mixture in mixtures]) for k in range(3))
    scaling = Gaussianize(torch.tensor(list(chosen)), *map(torch.from_numpy, parts))
    return Compose([scaling, _standardize(_apply(scaling, X), weight)])


def _gaining_columns(X: Array, weight: Array) -> list[int]:
    """Those of the columns that gain by a map to the normal law."""
    judges, p = evenly_spaced(X, _GAIN_ROWS), evenly_spaced(weight, _GAIN_ROWS)
    p = p / p.sum()
    precision = np.linalg.inv((judges * p[:, None]).T @ judges + _RIDGE * np.eye(X.shape[1]))
    columns = [j for j in range(X.shape[1]) if len(np.unique(judges[:, j])) >= _GAUSSIANIZED_VALUES]
    mixtures = {j: _mixture(X[:, j], weight / weight.sum()) for j in columns}
    return [j for j, mixture in mixtures.items() if _gain(mixture, j, judges, p, precision) > _GAIN]


def _mixture(x: Array, p: Array) -> tuple[Array, Array, Array]:
    """Weights, means and deviations of a mixture with a component for every cell between quantiles,
    wide enough to overlap the next."""
    order = np.argsort(x)
    below = np.empty_like(x)
    below[order] = np.cumsum(p[order]) - 0.5 * p[order]
    tail = max(_TAIL, _TAIL_ROWS / len(x))
    cell = np.searchsorted(ndtr(np.linspace(ndtri(tail), -ndtri(tail), _N_CELLS - 1)), below)
    weights, sums, squares = (np.bincount(cell, p * x**k, _N_CELLS) for k in range(3))
    mass = np.where(weights > 0, weights, 1.0)
    means = sums / mass
    deviations = np.sqrt(np.maximum(squares / mass - means**2, 0.0))
    return weights.astype(np.float64), means, np.maximum(_OVERLAP * deviations, _NARROWEST)


def _gain(
    mixture: tuple[Array, Array, Array], j: int, X: Array, p: Array, precision: Array
) -> float:
    """What a Gaussian gains in likelihood, in nats per row, if column `j` alone is mapped to the
    normal law."""
    scaling = Gaussianize(torch.tensor([0]), *(torch.from_numpy(part[None]) for part in mixture))
    x = torch.from_numpy(np.ascontiguousarray(X[:, [j]]))
    u, log_slope = scaling(x)[:, 0].numpy(), scaling.log_abs_det(x).numpy()
    u = u - p @ u
    # Variances of what the other columns do not explain.
    covariance = (p * u) @ X
    covariance[j] = 0.0
    explained = (
        covariance @ precision @ covariance - (precision[j] @ covariance) ** 2 / precision[j, j]
    )
    unexplained = max(p @ u**2 - explained, np.finfo(float).tiny)
    return float(p @ log_slope - 0.5 * np.log(unexplained * precision[j, j]))


def _apply(part: Scaling, X: Array) -> Array:
    return np.asarray(part(torch.from_numpy(X)).numpy())


_ESTIMATES: dict[str, Sequence[Callable[..., Scaling]]] = {
    "standardize": (_standardize,),
    "whiten": (_standardize, _whiten),
    "power": (_robust, _powers, _standardize, _whiten),
    "gaussianize": (_robust, _powers, _standardize, _gaussianize, _whiten),
}
"""What each kind of scaling does, one after the other."""
