"""Estimation of scalings: invertible maps from data units to units in which a flow trains well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri

from skinterflow._data.covariance import best_covariance
from skinterflow._data.degenerate import COLLINEAR, evenly_spaced, floored, spread_constant_columns
from skinterflow.interflow.atoms import AtomScaling
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.scaling import Compose, Identity, Scaling, Standardize, Whiten

Array = NDArray[np.float64]

_QUANTILE_PAIRS = ((0.25, 0.75), (0.1, 0.9), (0.01, 0.99), (0.0, 1.0))
_GAIN = 0.1
"""Minimum gain of log-likelihood, in nats per row, for mapping a column to the normal law."""
_GAIN_ROWS = 10_000
"""Rows on which the gain is estimated."""
_GAUSSIANIZED_ROWS = 750
_GAUSSIANIZED_VALUES = 128
"""Minimum numbers of rows, and of distinct values of a column, for a map to the normal law."""
_POWER_GAIN = 6.0
"""Minimum gain of log-likelihood, in nats over all rows, for a power: chance gives this to one
normal column in two thousand, and a needless power costs likelihood on new rows."""
_N_CELLS = 16
_TAIL, _TAIL_ROWS = 1e-3, 20
"""Mass of each outermost cell, or that of this many rows if it is larger."""
_OVERLAP = 2.0
"""Standard deviation of a component relative to that of the rows in its cell: a smaller one leaves
ripples between the cells."""
_NARROWEST = 0.02
"""Minimum standard deviation of a component, relative to that of the column."""
_RIDGE = 1e-8
"""Added to the diagonal of a covariance, so that collinear columns have an inverse."""


def estimate_scaling(
    scaling: str | Scaling | None,
    X: NDArray[Any],
    weight: Array,
    widths: Array,
    generator: torch.Generator,
    gaussianized: Sequence[int] | None = None,
) -> Scaling:
    """Estimate an invertible map from data units to flow units.

    Parameters
    ----------
    scaling : {"gaussianize", "power", "whiten", "standardize"}, Scaling or None
    X : array of shape (n, D)
    weight : array of shape (n,), positive
    widths : array of shape (D,), see :func:`constant_widths`
    generator : torch.Generator on the CPU, for the noise on constant columns
    gaussianized : sequence of int or None
        Columns that "gaussianize" maps to the normal law; None is those that gain by it.

    Returns
    -------
    Scaling
        A given object is returned unchanged.
    """
    if isinstance(scaling, Scaling):
        return scaling
    if scaling is None:
        return Identity()
    x, weight = spread_constant_columns(evenly_spaced(X), widths, generator), evenly_spaced(weight)
    parts: list[Scaling] = []
    for estimate in _ESTIMATES[scaling]:
        chosen = {"chosen": gaussianized} if estimate is _gaussianize else {}
        parts.append(estimate(x, weight, **chosen))
        x = _apply(parts[-1], x)
    return Compose(parts)


def estimate_bounds(bounds: Array, X: Array, weight: Array) -> Bounds:
    """Estimate a map of bounded columns to the whole line.

    The scale of a column with one bound is the median distance from it.

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
    # If half of the rows are on the bound the median is zero: use their spread instead.
    scale[one_sided] = torch.where(robust.shift > 0, robust.shift, robust.scale).numpy()
    return Bounds(*(torch.from_numpy(part.copy()) for part in (low, high, scale)))


def _robust(X: Array, weight: Array) -> Standardize:
    """Shift by the weighted median and scale by the first quantile range that is not zero."""
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
    """Maximum-likelihood Yeo-Johnson powers in [0, 2], the range in which the map is onto.

    A column keeps its power of 1, which changes nothing, unless another is worth `_POWER_GAIN`.
    """
    logs = np.sign(X) * np.log1p(np.abs(X))
    slopes = weight @ logs / weight.sum()

    def power(j: int) -> float:
        def negative_log_likelihood(value: float) -> float:
            lambdas = torch.tensor([value], dtype=torch.float64)
            y = _apply(YeoJohnson(lambdas), X[:, [j]])[:, 0]
            variance = np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)
            return float(0.5 * np.log(variance + np.finfo(float).tiny) - (value - 1.0) * slopes[j])

        found = minimize_scalar(negative_log_likelihood, bounds=(0.0, 2.0), method="bounded")
        gain = len(X) * (negative_log_likelihood(1.0) - found.fun)
        return float(found.x) if gain > _POWER_GAIN else 1.0

    return YeoJohnson(torch.tensor([power(j) for j in range(X.shape[1])], dtype=torch.float64))


def _standardize(X: Array, weight: Array) -> Standardize:
    mean = np.average(X, axis=0, weights=weight)
    deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    return Standardize(torch.from_numpy(mean), torch.from_numpy(floored(deviation, mean)))


def _whiten(X: Array, weight: Array) -> Whiten:
    """Whiten standardised columns by the better of two estimates of their covariance."""
    covariance = best_covariance(X, weight)
    variances, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, COLLINEAR))
    # The symmetric root is the whitening that changes the columns least.
    forward = (directions / deviations) @ directions.T
    backward = (directions * deviations) @ directions.T
    return Whiten(torch.from_numpy(forward), torch.from_numpy(backward))


def gaussianized_columns(scaling: Scaling) -> set[int]:
    """Return the columns that a scaling maps to the normal law."""
    if isinstance(scaling, AtomScaling):
        return {
            int(columns[j])
            for columns, part in zip(scaling.columns, scaling.parts, strict=True)
            for j in gaussianized_columns(cast(Scaling, part))
        }
    parts = [part for part in scaling.modules() if isinstance(part, Gaussianize)]
    return {int(j) for part in parts for j in part.columns}


def _gaussianize(X: Array, weight: Array, chosen: Sequence[int] | None = None) -> Scaling:
    """Map some columns of standardised rows to the normal law, then standardise them.

    A column is mapped if that raises the likelihood of a Gaussian with the columns' covariance by
    more than `_GAIN`.  The criterion weighs the gain in the marginal against linear relations with
    other columns that the map destroys.  Few rows or few distinct values are not enough to estimate
    a marginal.
    """
    p = weight / weight.sum()
    if chosen is None:
        chosen = _gaining_columns(X, weight) if len(X) >= _GAUSSIANIZED_ROWS else []
    if not len(chosen):
        return Identity()
    mixtures = [_mixture(X[:, j], p) for j in chosen]
    parts = (np.stack([mixture[k] for mixture in mixtures]) for k in range(3))
    scaling = Gaussianize(torch.tensor(list(chosen)), *map(torch.from_numpy, parts))
    return Compose([scaling, _standardize(_apply(scaling, X), weight)])


def _gaining_columns(X: Array, weight: Array) -> list[int]:
    """Columns whose map to the normal law raises the likelihood by more than `_GAIN`."""
    rows, p = evenly_spaced(X, _GAIN_ROWS), evenly_spaced(weight, _GAIN_ROWS)
    p = p / p.sum()
    precision = np.linalg.inv((rows * p[:, None]).T @ rows + _RIDGE * np.eye(X.shape[1]))
    columns = [j for j in range(X.shape[1]) if len(np.unique(rows[:, j])) >= _GAUSSIANIZED_VALUES]
    mixtures = {j: _mixture(X[:, j], weight / weight.sum()) for j in columns}
    return [j for j, mixture in mixtures.items() if _gain(mixture, j, rows, p, precision) > _GAIN]


def _mixture(x: Array, p: Array) -> tuple[Array, Array, Array]:
    """Weights, means and standard deviations of a Gaussian mixture with a component per cell.

    Cells are bounded by quantiles; components are wide enough to overlap their neighbours.
    """
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
    """Gain in the likelihood of a Gaussian, in nats per row, if column `j` alone is mapped."""
    scaling = Gaussianize(torch.tensor([0]), *(torch.from_numpy(part[None]) for part in mixture))
    x = torch.from_numpy(np.ascontiguousarray(X[:, [j]]))
    u, log_slope = scaling(x)[:, 0].numpy(), scaling.log_abs_det(x).numpy()
    u = u - p @ u
    # Variance of the column that the other columns do not explain, after and before the map.
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
"""Steps of each named scaling, in order."""
