"""Held-out rows: which they are, what they say of a model, and where the flow is to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.batches import MAX_JUDGING, FlowRows, RowSource
from skinterflow._data.groups import grouped_folds, grouped_part
from skinterflow._fit.limits import TimeBudget
from skinterflow._fit.recipe import Recipe
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Scaling

CROSS_FIT_BELOW = 2_000


_N_FOLDS = 4


_MAX_SHUFFLED = 2**20
"""Limit on row numbers in memory: longer data are drawn from."""


def held_out_rows(
    n_rows: int,
    early_stopping: str | bool,
    validation_fraction: float,
    generator: torch.Generator,
    one_member: bool = False,
    groups: NDArray[np.int64] | None = None,
) -> list[Tensor]:
    """Row numbers that judge each member: a partition for cross-fitting, else one part, empty if
    nothing is held out.

    Rows with one number in `groups` are held out together.
    """
    if not early_stopping:
        return [torch.empty(0, dtype=torch.int64)]
    n_held_out = min(n_rows - 1, MAX_JUDGING, max(1, round(validation_fraction * n_rows)))
    cross_fitted = early_stopping == "auto" and n_rows < CROSS_FIT_BELOW and not one_member
    if groups is not None:
        return (
            grouped_folds(groups, _N_FOLDS, generator)
            if cross_fitted
            else [grouped_part(groups, n_held_out, generator)]
        )
    if n_rows > _MAX_SHUFFLED:
        drawn = torch.randint(n_rows, (MAX_JUDGING,), generator=generator).unique()
        order = torch.randperm(len(drawn), generator=generator)
        return [drawn[order][:n_held_out]]
    order = torch.randperm(n_rows, generator=generator)
    if cross_fitted:
        n_folds = min(_N_FOLDS, n_rows)
        return [order[k::n_folds] for k in range(n_folds)]
    return [order[:n_held_out]]


END_TIMES = (1.0, 0.97, 0.93, 0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
"""End times that "auto" chooses from: the full flow first, the Gaussian last."""


_CHECKED_END_TIMES = (1.0, 0.93, 0.8, 0.5)
"""Those that a check looks at when cross-fitting: small data need the family, as memorising rows
spoils the full flow first."""


JUDGED_ROW_TIMES = 512
"""Held-out rows, times end times, that one check looks at over all members: the bound on its
cost."""


_JUDGING_SOLVER = Solver(n_steps=3, max_refinements=1, atol=math.inf)
"""Six steps and an extrapolation: an error that stays the same from check to check."""


def end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
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
    """The end time asked for or, where "auto", the first maximum of the held-out log-likelihood on
    the way to the Gaussian.

    The Gaussian itself is looked at in any case, so that the flow is not worse than it on the
    held-out rows. Where the time is limited, the search ends with it.
    """
    if recipe.end_time is not None or not len(folds[0].judge.u):
        return 1.0 if recipe.end_time is None else recipe.end_time
    (best,) = judge(members, folds, END_TIMES[:1], n_row_times)
    for end_time in END_TIMES[1:-1]:
        if budget.left() <= budget.kept:
            break
        (candidate,) = judge(members, folds, (end_time,), n_row_times)
        if candidate[0] < best[0]:
            break
        best = candidate
    return max(best, *judge(members, folds, END_TIMES[-1:], n_row_times))[1]


def judge(
    members: Sequence[PathObjective],
    folds: Sequence[Fold],
    end_times: Sequence[float],
    n_row_times: int = JUDGED_ROW_TIMES,
) -> list[tuple[float, float]]:
    """Mean held-out log-likelihood, in nats per row, and end time, for each end time.

    Every row is judged by the member that did not see it.
    """
    totals, mass = torch.zeros(len(end_times), dtype=torch.float64), 0.0
    for member, fold in zip(members, folds, strict=True):
        density = Pushforward(Flow(member.field, _JUDGING_SOLVER), member.base)
        total, weight = held_out_log_prob(density, fold, end_times, n_row_times // len(folds))
        totals, mass = totals + total, mass + weight
    return list(zip((totals / mass).tolist(), end_times, strict=True))


@torch.no_grad()
def held_out_log_prob(
    density: Pushforward, fold: Fold, end_times: Sequence[float], n_row_times: int
) -> tuple[Tensor, float]:
    """Weighted sums of the log-densities of held-out rows in data units, one for each end time, and
    the sum of the weights."""
    rows, weight, log_det = (part[: max(1, n_row_times // len(end_times))] for part in fold.judge)
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
    """Rows that train one member, with what they are paired with, and those that judge it; the
    latter are empty if nothing is held out."""

    source: RowSource
    train: RowSource
    judge: FlowRows
    scaling: Scaling | None = None
    """That of the data, estimated on the rows that train; None where it is not to be kept."""
