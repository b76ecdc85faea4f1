"""Held-out rows: how they are chosen, how they score a model, and how they set the end time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.batches import MAX_VALIDATION_ROWS, FlowRows, RowSource
from skinterflow._data.groups import grouped_folds, grouped_part
from skinterflow._fit.limits import TimeBudget
from skinterflow._fit.recipe import Recipe
from skinterflow.interflow.flows import Pushforward
from skinterflow.interflow.grading import UNGRADED
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.scaling import Scaling

CROSS_FIT_BELOW = 2_000
"""Number of rows below which "auto" is cross-fitting."""
_N_FOLDS = 4
_MAX_SHUFFLED = 2**20
"""Maximum number of row numbers that are shuffled; longer data are sampled with replacement."""

END_TIMES = (1.0, 0.97, 0.93, 0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
"""End times that "auto" chooses from: the full flow first, the Gaussian last."""
_CHECKED_END_TIMES = (1.0, 0.93, 0.8, 0.5)
"""End times that a check of cross-fitting evaluates: on small data, where memorising rows spoils
the full flow first, the best of a family is the better criterion."""
VALIDATION_ROW_TIMES = 512
"""Number of held-out rows times end times that a check evaluates over all members, the bound on its
cost."""
_VALIDATION_SOLVER = UNGRADED.solver(atol=math.inf, rtol=0.0)
"""Twelve steps and divergences: its error is the same at every check, so that scores compare."""


def held_out_rows(
    n_rows: int,
    early_stopping: str | bool,
    validation_fraction: float,
    generator: torch.Generator,
    one_member: bool = False,
    groups: NDArray[np.int64] | None = None,
) -> list[Tensor]:
    """Return the held-out row numbers of each member.

    They are a partition of all rows for cross-fitting, else one part, which is empty if nothing is
    held out.  Rows with the same number in `groups` are held out together.
    """
    if not early_stopping:
        return [torch.empty(0, dtype=torch.int64)]
    n_held_out = min(n_rows - 1, MAX_VALIDATION_ROWS, max(1, round(validation_fraction * n_rows)))
    cross_fitted = early_stopping == "auto" and n_rows < CROSS_FIT_BELOW and not one_member
    if groups is not None:
        return (
            grouped_folds(groups, _N_FOLDS, generator)
            if cross_fitted
            else [grouped_part(groups, n_held_out, generator)]
        )
    if n_rows > _MAX_SHUFFLED:
        drawn = torch.randint(n_rows, (MAX_VALIDATION_ROWS,), generator=generator).unique()
        order = torch.randperm(len(drawn), generator=generator)
        return [drawn[order][:n_held_out]]
    order = torch.randperm(n_rows, generator=generator)
    if cross_fitted:
        n_folds = min(_N_FOLDS, n_rows)
        return [order[k::n_folds] for k in range(n_folds)]
    return [order[:n_held_out]]


def end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
    """Return the end times that a check evaluates."""
    if recipe.end_time is not None:
        return (recipe.end_time,)
    return _CHECKED_END_TIMES if len(folds) > 1 else _CHECKED_END_TIMES[:1]


def choose_end_time(
    members: Sequence[PathObjective],
    folds: Sequence[Fold],
    recipe: Recipe,
    budget: TimeBudget,
    n_row_times: int,
) -> float:
    """Return the end time of the recipe or, for "auto", the best one on the held-out rows.

    "auto" searches from the full flow towards the Gaussian for the first maximum of the held-out
    log-likelihood.  The Gaussian itself is always evaluated, so that the model is not worse than it
    on the held-out rows.  The search stops when the time budget ends.
    """
    if recipe.end_time is not None or not len(folds[0].validation.u):
        return 1.0 if recipe.end_time is None else recipe.end_time
    (best,) = validation_scores(members, folds, END_TIMES[:1], n_row_times)
    for end_time in END_TIMES[1:-1]:
        if budget.left() <= budget.reserved_for_model:
            break
        (candidate,) = validation_scores(members, folds, (end_time,), n_row_times)
        if candidate[0] < best[0]:
            break
        best = candidate
    return max(best, *validation_scores(members, folds, END_TIMES[-1:], n_row_times))[1]


def validation_scores(
    members: Sequence[PathObjective],
    folds: Sequence[Fold],
    end_times: Sequence[float],
    n_row_times: int = VALIDATION_ROW_TIMES,
) -> list[tuple[float, float]]:
    """Return the mean held-out log-likelihood, in nats per row, with its end time, for each.

    Every row is scored by the member that was not trained on it.
    """
    totals, mass = torch.zeros(len(end_times), dtype=torch.float64), 0.0
    for member, fold in zip(members, folds, strict=True):
        density = member.density(_VALIDATION_SOLVER)
        total, weight = held_out_log_prob(density, fold, end_times, n_row_times // len(folds))
        totals, mass = totals + total, mass + weight
    return list(zip((totals / mass).tolist(), end_times, strict=True))


@torch.no_grad()
def held_out_log_prob(
    density: Pushforward, fold: Fold, end_times: Sequence[float], n_row_times: int
) -> tuple[Tensor, float]:
    """Return the weighted sum of held-out log-densities for each end time, and the total weight.

    Log-densities are in data units.
    """
    rows, weight, log_det = (
        part[: max(1, n_row_times // len(end_times))] for part in fold.validation
    )
    weight = weight.double()
    times = torch.tensor(end_times, dtype=rows.dtype, device=rows.device).repeat_interleave(
        len(rows)
    )
    log_prob = density.log_prob_at(rows.repeat(len(end_times), 1), times).reshape(
        len(end_times), len(rows)
    )
    return ((log_prob.double() + log_det) @ weight).cpu(), float(weight.sum())


@dataclass(frozen=True)
class Fold:
    """Training and validation rows of one member.

    Attributes
    ----------
    source : RowSource
        Rows that the training rows are paired with.
    train : RowSource
    validation : FlowRows
        Empty if nothing is held out.
    scaling : Scaling or None
        Scaling of the data, estimated on the training rows; None if it need not be stored.
    """

    source: RowSource
    train: RowSource
    validation: FlowRows
    scaling: Scaling | None = None
