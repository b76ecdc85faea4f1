"""Gaussian mixtures and kernel densities, as components of a fitted density.

A Gaussian mixture is fitted to the training rows of each fold, and is a component of the model if
it earns a weight on held-out rows.  It is fitted in the units before the whitening, where clusters
are easier to find and diagonal covariances mean independent columns, and stored in flow units.

On few rows a kernel density is a component as well: a Gaussian mixture with a component at every
training row.  It is better than any other where rows lie along a curve and are few.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from skinterflow._data.batches import RowSource, ShuffledRows, StreamedRows
from skinterflow._fit.validation import Fold, HeldOut
from skinterflow._runtime import Generators
from skinterflow.interflow.combined import normal_log_prob
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.scaling import Scaling, Whiten

_N_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 20)
_N_FALLS = 2
"""Numbers of components in a row, each worse than the best, after which the search ends."""
_MOST_ROWS = 4_000
"""Maximum number of rows that a Gaussian mixture is fitted to."""
_FEWEST_ROWS = 20
"""Minimum number of training rows of a fold."""
_N_STARTS, _RESTARTED_BELOW = 5, 1_000
"""Starting points of the best Gaussian mixture, and rows from which on it has only one: with few
rows, one start often ends in a poor local maximum, at which a component is missed."""
_BANDWIDTHS = tuple(np.geomspace(1.0, 0.05, 14).tolist())
"""Deviations of the kernels, in units of standardised columns, from the smoothest on."""
_KERNELS_BELOW, _MOST_KERNEL_NUMBERS = 1_000, 2**18
"""Rows from which on there are no kernels, and maximum size of their covariances, which a saved
model contains."""
_REGULARIZATION = 1e-5
"""Added to the variances of a Gaussian mixture, in units of standardised columns."""


class FoldNormals(NamedTuple):
    """Gaussian mixtures of the folds.

    Attributes
    ----------
    n_components : int
    kind : {"full", "diag"}
    n_starts : int, starting points of each fit, of which the most likely result is kept
    models : list of NormalMixture, one for each fold, in its flow units
    """

    n_components: int
    kind: str
    n_starts: int
    models: list[NormalMixture]

    def held_out(self, rows: HeldOut) -> Tensor:
        """Log-densities of held-out rows in data units, shape (n,), each by its own fold."""
        return rows.log_prob_by(lambda k, u: normal_log_prob(self.models[k], u))

    def fitted(self, rows: NDArray[Any], scaling: Scaling | None) -> NormalMixture:
        """Gaussian mixture of the same kind and size of other rows, in flow units."""
        return fitted_normals(rows, self.n_components, self.kind, scaling, self.n_starts)


class FoldKernels(NamedTuple):
    """Kernel densities of the folds.

    Attributes
    ----------
    bandwidth : float, deviation of the kernels in the units before the whitening
    models : list of NormalMixture, one for each fold, in its flow units
    """

    bandwidth: float
    models: list[NormalMixture]

    def held_out(self, rows: HeldOut) -> Tensor:
        """Log-densities of held-out rows in data units, shape (n,), each by its own fold."""
        return rows.log_prob_by(lambda k, u: normal_log_prob(self.models[k], u))

    def fitted(self, rows: NDArray[Any], scaling: Scaling | None) -> NormalMixture:
        """Kernel density of the same bandwidth of other rows, in flow units."""
        return kernel_normals(rows, self.bandwidth, scaling)


def fold_kernels(
    folds: Sequence[Fold], generators: Generators, out_of_time: Callable[[], bool]
) -> FoldKernels | None:
    """Kernel density of each fold, with the bandwidth of the best held-out likelihood.

    The search starts at the largest bandwidth, and ends at the first that is worse than the one
    before.

    Parameters
    ----------
    folds : sequence of Fold, with held-out rows
    generators : Generators, for the choice of rows
    out_of_time : callable
        Called before each candidate; the search ends when it returns True.

    Returns
    -------
    FoldKernels or None
        None if there are too few or too many rows, too many columns, or no time.
    """
    rows = [_rows(fold.train, generators) for fold in folds]
    n_rows, n_columns = max(map(len, rows)), rows[0].shape[1]
    if (
        min(map(len, rows)) < _FEWEST_ROWS
        or n_rows >= _KERNELS_BELOW
        or n_rows * n_columns**2 > _MOST_KERNEL_NUMBERS
    ):
        return None
    held_out = HeldOut([], folds, sum(len(fold.validation.u) for fold in folds))
    best, score = None, -np.inf
    for bandwidth in _BANDWIDTHS:
        if out_of_time():
            break
        models = [kernel_normals(x, bandwidth, f.scaling) for x, f in zip(rows, folds, strict=True)]
        candidate = FoldKernels(bandwidth, models)
        before, score = score, held_out.mean(candidate.held_out(held_out))
        if score < before:
            break
        best = candidate
    return best


def kernel_normals(rows: NDArray[Any], bandwidth: float, scaling: Scaling | None) -> NormalMixture:
    """Kernel density of rows in flow units: normal around each row, and round before the whitening.

    Parameters
    ----------
    rows : array of shape (n, D)
    bandwidth : float, deviation of the kernels
    scaling : Scaling or None
        Its last whitening is undone for the kernels; None is no whitening.
    """
    forward = _whitening(scaling, rows.shape[1])[0]
    covariance = torch.from_numpy(bandwidth**2 * forward @ forward.T)
    weights = torch.full((len(rows),), 1.0 / len(rows), dtype=torch.float64)
    return NormalMixture(weights, torch.from_numpy(rows), covariance.repeat(len(rows), 1, 1))


def fold_normals(
    folds: Sequence[Fold], generators: Generators, out_of_time: Callable[[], bool]
) -> FoldNormals | None:
    """Gaussian mixture of each fold, of the kind and size with the best held-out likelihood.

    Parameters
    ----------
    folds : sequence of Fold, with held-out rows
    generators : Generators, for the choice of rows
    out_of_time : callable
        Called after each candidate; the search ends when it returns True.

    Returns
    -------
    FoldNormals or None
        None if there are too few rows.
    """
    rows = [_rows(fold.train, generators) for fold in folds]
    if min(map(len, rows)) < _FEWEST_ROWS:
        return None
    held_out = HeldOut([], folds, sum(len(fold.validation.u) for fold in folds))
    of_kinds: list[FoldNormals] = []
    for kind in ("full", "diag"):
        tried: list[FoldNormals] = []
        best, n_falls = -np.inf, 0
        for candidate in _candidates(kind, rows, folds):
            tried.append(candidate)
            score = held_out.mean(candidate.held_out(held_out))
            n_falls = n_falls + 1 if score < best else 0
            best = max(best, score)
            if n_falls == _N_FALLS or out_of_time():
                break
        if tried:
            of_kinds.append(_simplest_of_the_best(tried, held_out))
    if not of_kinds:
        return None
    found = _simplest_of_the_best(of_kinds, held_out)
    if out_of_time() or min(map(len, rows)) >= _RESTARTED_BELOW:
        return found
    restarted = [each for one in of_kinds for each in _restarted(one, rows, folds)]
    return _simplest_of_the_best([found, *restarted], held_out)


def _simplest_of_the_best(candidates: Sequence[FoldNormals], held_out: HeldOut) -> FoldNormals:
    """The last candidate that beats, by a standard error, the one chosen among those before it."""
    chosen = candidates[0]
    for candidate in candidates[1:]:
        log_prob = candidate.held_out(held_out)
        if held_out.clearly_better(log_prob, chosen.held_out(held_out), n_errors=1.0):
            chosen = candidate
    return chosen


def _candidates(
    kind: str, rows: Sequence[NDArray[Any]], folds: Sequence[Fold]
) -> Iterator[FoldNormals]:
    n_rows, n_columns = min(map(len, rows)), rows[0].shape[1]
    # Rows that a component needs for its covariance, or for its variances.
    n_needed = n_columns if kind == "full" else 2
    for n in _N_COMPONENTS:
        if n * n_needed > n_rows:
            return
        yield _fitted(n, kind, 1, rows, folds)


def _restarted(
    found: FoldNormals, rows: Sequence[NDArray[Any]], folds: Sequence[Fold]
) -> list[FoldNormals]:
    """The mixtures from several starts: of the size of those found, and of the next smaller one."""
    before = max((n for n in _N_COMPONENTS if n < found.n_components), default=1)
    sizes = sorted({before, found.n_components} - {1})
    return [_fitted(n, found.kind, _N_STARTS, rows, folds) for n in sizes]


def _fitted(
    n: int, kind: str, n_starts: int, rows: Sequence[NDArray[Any]], folds: Sequence[Fold]
) -> FoldNormals:
    models = [
        fitted_normals(x, n, kind, fold.scaling, n_starts)
        for x, fold in zip(rows, folds, strict=True)
    ]
    return FoldNormals(n, kind, n_starts, models)


def refitted(
    found: Sequence[FoldNormals | FoldKernels],
    weights: Sequence[float],
    whole: Fold,
    scaling: Scaling | None,
    generators: Generators,
) -> NormalMixture:
    """One Gaussian mixture of all rows: of those found on the folds, with these weights."""
    rows = _rows(whole.train, generators)
    kept = [(each, weight) for each, weight in zip(found, weights, strict=True) if weight]
    models = [each.fitted(rows, scaling) for each, _ in kept]
    shares = [weight * m.weights for (_, weight), m in zip(kept, models, strict=True)]
    total = torch.cat(shares)
    return NormalMixture(
        total / total.sum(),
        torch.cat([model.means for model in models]),
        torch.cat([model.covariances for model in models]),
    )


def fitted_normals(
    rows: NDArray[Any], n_components: int, kind: str, scaling: Scaling | None, n_starts: int = 1
) -> NormalMixture:
    """Gaussian mixture of rows in flow units, fitted in the units before the whitening.

    Parameters
    ----------
    rows : array of shape (n, D)
    n_components : int
    kind : {"full", "diag"}
    scaling : Scaling or None
        Its last whitening is undone for the fit; None is no whitening.
    n_starts : int, starting points, of which the most likely result is kept
    """
    forward, backward = _whitening(scaling, rows.shape[1])
    model = GaussianMixture(
        n_components,
        covariance_type=kind,
        reg_covar=_REGULARIZATION,
        n_init=n_starts,
        random_state=0,
    )
    with warnings.catch_warnings():
        # Neither copies of rows nor an early end make a mixture invalid: held-out rows judge it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows @ backward.T)
    covariances = model.covariances_
    if kind == "diag":
        covariances = covariances[:, :, None] * np.eye(rows.shape[1])
    weights = model.weights_ / model.weights_.sum()
    return NormalMixture(
        *map(
            torch.from_numpy,
            (weights, model.means_ @ forward.T, forward @ covariances @ forward.T),
        )
    )


def _whitening(scaling: Scaling | None, n_features: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Matrix of the last whitening of a scaling, and its inverse."""
    parts = [] if scaling is None else [p for p in scaling.modules() if isinstance(p, Whiten)]
    if not parts:
        return np.eye(n_features), np.eye(n_features)
    whiten = parts[-1]
    return whiten.matrix.double().numpy(), whiten.inverse_matrix.double().numpy()


def _rows(source: RowSource, generators: Generators) -> NDArray[np.float64]:
    """Training rows in flow units, at most `_MOST_ROWS`; weighted rows are drawn by weight."""
    n_rows = min(_MOST_ROWS, len(cast(ShuffledRows | StreamedRows, source)))
    u, weight = (part.cpu().double() for part in source.batch(0, n_rows, generators))
    if bool((weight != weight[0]).any()):
        u = u[torch.multinomial(weight, n_rows, replacement=True, generator=generators.cpu)]
    return np.asarray(u.numpy())
