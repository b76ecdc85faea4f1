"""Mixtures: which components a fitted density has, and with which weights.

A Gaussian mixture is fitted to the training rows of each fold, and is a component of the model if
it earns a weight on held-out rows.  It is fitted in the units before the whitening, where clusters
are easier to find and diagonal covariances mean independent columns, and stored in flow units.

A mixture is only used if it beats the best single end time by `MARGIN`, and by two standard errors,
on held-out rows that its weights were not fitted to.
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
from skinterflow.interflow.combined import mixture_log_prob, mixture_weights, normal_log_prob
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.scaling import Scaling, Whiten

MARGIN = 0.03
"""Minimum gain of a mixture over the best single end time, in nats per held-out row."""
_LEAST_WEIGHT = 0.02
"""Weight below which a component is dropped."""
_LEAST_FLOW_WEIGHT = 1e-3
"""Minimum weight of the flow at its best end time, which stays if no other time has a weight."""
_N_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 20)
_N_FALLS = 2
"""Numbers of components in a row, each worse than the best, after which the search ends."""
_MOST_ROWS = 4_000
"""Maximum number of rows that a Gaussian mixture is fitted to."""
_FEWEST_ROWS, _FEWEST_HELD_OUT = 20, 4
"""Minimum training rows of a fold for a Gaussian mixture, and held-out rows for any mixture."""
_N_STARTS, _RESTARTED_BELOW = 5, 1_000
"""Starting points of the best Gaussian mixture, and rows from which on it has only one: with few
rows, one start often ends in a poor local maximum, at which a component is missed."""
_REGULARIZATION = 1e-5
"""Added to the variances of a Gaussian mixture, in units of standardised columns."""


class Mixture(NamedTuple):
    """Components of a fitted density.

    Attributes
    ----------
    end_times : tuple of float, times of the flow
    weights : tuple of float, one for each, and the last for `normals` if there are any
    normals : NormalMixture or None, in flow units
    """

    end_times: tuple[float, ...]
    weights: tuple[float, ...]
    normals: NormalMixture | None = None

    @property
    def heaviest_time(self) -> float:
        """End time with the largest weight."""
        return max(zip(self.weights, self.end_times, strict=False))[1]


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
    found: FoldNormals, whole: Fold, scaling: Scaling | None, generators: Generators
) -> NormalMixture:
    """Gaussian mixture of all rows, of the kind and size of those of the folds."""
    rows = _rows(whole.train, generators)
    return fitted_normals(rows, found.n_components, found.kind, scaling, found.n_starts)


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


def choose_mixture(
    held_out: HeldOut, end_times: Sequence[float], best: float, normals: Tensor | None
) -> tuple[Tensor, list[float]] | None:
    """Weights of a mixture that beats a single end time, or None.

    Parameters
    ----------
    held_out : HeldOut
    end_times : sequence of float
        Candidates; the single one is among them.
    best : float, the best single end time
    normals : Tensor of shape (n,) or None
        Log-densities of the held-out rows under Gaussian mixtures.

    Returns
    -------
    weights : Tensor, one for each of the end times, and for `normals` as the last
    end_times : list of float, those that are not dropped
    """
    if held_out.n_rows < _FEWEST_HELD_OUT:
        return None
    times = sorted(set(end_times))
    columns = [held_out.log_prob(t) for t in times] + ([] if normals is None else [normals])
    log_prob, weight = torch.stack(columns), held_out.weight
    # Two parts of the rows: each is scored with the weights that the other one gives.
    parts = [slice(0, None, 2), slice(1, None, 2)]
    mixed, single = torch.empty_like(weight), held_out.log_prob(best)
    for a, b in (parts, parts[::-1]):
        mixed[a] = mixture_log_prob(log_prob[:, a], mixture_weights(log_prob[:, b], weight[b]))
    gain = held_out.mean(mixed) - held_out.mean(single)
    if not (gain > MARGIN and held_out.clearly_better(mixed, single)):
        return None
    kept = mixture_weights(log_prob, weight) >= _LEAST_WEIGHT
    if not kept[: len(times)].any():
        kept[times.index(best)] = True
    weights = mixture_weights(log_prob[kept], weight)
    kept_times = [t for t, keep in zip(times, kept.tolist(), strict=False) if keep]
    if len(kept_times) == 1:  # it may have no weight at all
        weights = weights.clamp(min=_LEAST_FLOW_WEIGHT)
    return weights / weights.sum(), kept_times


def member_weights(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weights of kinds of members: those of the largest held-out likelihood of their mixture.

    Parameters
    ----------
    log_prob : Tensor of shape (K, n), log-density of held-out rows under a member of each kind
    weight : Tensor of shape (n,), weights of the rows

    Returns
    -------
    Tensor of shape (K,), with sum one; zero for kinds whose weight would be below 0.02
    """
    weights = mixture_weights(log_prob, weight)
    weights = torch.where(weights >= _LEAST_WEIGHT, weights, 0.0)
    return weights / weights.sum()
