"""Mixtures: which components a fitted density has, and with which weights.

A mixture is only used if it beats the best single end time by `MARGIN`, and by one or two standard
errors, on held-out rows that its weights were not fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow._fit.validation import HeldOut
from skinterflow.interflow.combined import mixture_log_prob, mixture_weights
from skinterflow.interflow.mixtures import NormalMixture

MARGIN = 0.03
"""Minimum gain of a mixture over the best single end time, in nats per held-out row."""
_LEAST_WEIGHT = 0.02
"""Weight below which a component is dropped."""
_LEAST_FLOW_WEIGHT = 1e-3
"""Minimum weight of the flow at its best end time, which stays if no other time has a weight."""
_FEWEST_HELD_OUT = 4
"""Minimum number of held-out rows for a mixture."""
_N_PARTS = 10
"""Parts of the held-out rows, each of which is scored with the weights that the others give."""


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


def choose_mixture(
    held_out: HeldOut,
    end_times: Sequence[float],
    best: float,
    normals: Sequence[Tensor],
    n_errors: float = 2.0,
) -> tuple[Tensor, list[float]] | None:
    """Weights of a mixture that beats a single end time, or None.

    Parameters
    ----------
    held_out : HeldOut
    end_times : sequence of float
        Candidates; the single one is among them.
    best : float, the best single end time
    normals : sequence of Tensors of shape (n,)
        Log-densities of the held-out rows under Gaussian mixtures.
    n_errors : float, standard errors that the gain has to exceed

    Returns
    -------
    weights : Tensor, one for each of the end times, and then one for each of `normals`
    end_times : list of float, those that are not dropped
    """
    if held_out.n_rows < _FEWEST_HELD_OUT:
        return None
    times = sorted(set(end_times))
    columns = [*(held_out.log_prob(t) for t in times), *normals]
    log_prob, weight = torch.stack(columns), held_out.weight
    mixed, single = _scored_by_others(log_prob, weight), held_out.log_prob(best)
    gain = held_out.mean(mixed) - held_out.mean(single)
    if not (gain > MARGIN and held_out.clearly_better(mixed, single, n_errors)):
        return None
    kept = mixture_weights(log_prob, weight) >= _LEAST_WEIGHT
    if not kept[: len(times)].any():
        kept[times.index(best)] = True
    weights = torch.zeros_like(log_prob[:, 0])
    weights[kept] = mixture_weights(log_prob[kept], weight)
    kept_times = [t for t, keep in zip(times, kept.tolist(), strict=False) if keep]
    if len(kept_times) == 1:  # it may have no weight at all
        weights[times.index(kept_times[0])].clamp_(min=_LEAST_FLOW_WEIGHT)
    kept[len(times) :] = True
    return weights[kept] / weights[kept].sum(), kept_times


def _scored_by_others(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Log-density of each row under the mixture with the weights that the other parts give."""
    part = torch.arange(len(weight)) % min(_N_PARTS, len(weight))
    mixed = torch.empty_like(weight)
    for k in part.unique():
        rows, others = part == k, part != k
        weights = mixture_weights(log_prob[:, others], weight[others])
        mixed[rows] = mixture_log_prob(log_prob[:, rows], weights)
    return mixed


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
