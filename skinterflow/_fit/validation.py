"""Held-out rows: how they are chosen, how they score a model, and how they set the end time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.batches import MAX_VALIDATION_ROWS, FlowRows, RowSource
from skinterflow._data.groups import grouped_folds, grouped_part
from skinterflow._fit.limits import TimeBudget
from skinterflow._fit.recipe import Recipe
from skinterflow.interflow import processes
from skinterflow.interflow.combined import mixture_log_prob, mixture_weights
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
_WIDE = 64
"""Number of columns above which this number decreases, as an exact divergence takes one pass for
every column."""
_FEWEST_ROW_TIMES = 128
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


def row_times_at_check(member: PathObjective) -> int:
    """Return the number of held-out rows times end times that a check evaluates."""
    n_features = member.field.n_features
    if n_features <= _WIDE or member.field.n_estimates is not None:
        return VALIDATION_ROW_TIMES
    return max(_FEWEST_ROW_TIMES, VALIDATION_ROW_TIMES * (_WIDE + 1) // (n_features + 1))


def end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
    """Return the end times that a check evaluates."""
    if recipe.end_time is not None:
        return (recipe.end_time,)
    return _CHECKED_END_TIMES if len(folds) > 1 else _CHECKED_END_TIMES[:1]


def choose_end_time(held_out: HeldOut, recipe: Recipe, budget: TimeBudget) -> float:
    """Return the end time of the recipe or, for "auto", the best one on the held-out rows.

    "auto" searches from the full flow towards the Gaussian for the first maximum of the held-out
    log-likelihood.  The Gaussian itself is always evaluated, and is the model unless the flow is
    better by more than two standard errors.  The search stops when the time budget ends.
    """
    if recipe.end_time is not None or not held_out.n_rows:
        return 1.0 if recipe.end_time is None else recipe.end_time
    best = held_out.score(END_TIMES[0])
    for end_time in END_TIMES[1:-1]:
        if budget.left() <= budget.reserved_for_model:
            break
        candidate = held_out.score(end_time)
        if candidate[0] < best[0]:
            break
        best = candidate
    gaussian = held_out.log_prob(END_TIMES[-1])
    better = held_out.clearly_better(held_out.log_prob(best[1]), gaussian)
    return best[1] if better else END_TIMES[-1]


class HeldOut:
    """Held-out rows, each with the member that was not trained on it.

    Log-densities are in data units, and computed once for each end time.

    Parameters
    ----------
    members : sequence of PathObjective
    folds : sequence of Fold, one for each member
    n_rows : int, maximum number of rows over all folds

    Attributes
    ----------
    weight : Tensor of shape (n,), float64, on the CPU
    """

    def __init__(
        self, members: Sequence[PathObjective], folds: Sequence[Fold], n_rows: int
    ) -> None:
        self._densities = [member.density(_VALIDATION_SOLVER) for member in members]
        n = max(1, n_rows // len(folds))
        self._rows = [FlowRows(*(part[:n] for part in fold.validation)) for fold in folds]
        self.weight = torch.cat([rows.weight for rows in self._rows]).double().cpu()
        self._known: dict[float, Tensor] = {}

    @property
    def n_rows(self) -> int:
        """Number of rows over all folds."""
        return len(self.weight)

    def log_prob(self, end_time: float) -> Tensor:
        """Log-densities under the flow stopped at a time, shape (n,), float64."""
        if end_time not in self._known:
            self._known[end_time] = self.log_prob_by(
                lambda k, u: self._densities[k].log_prob_at(u, u.new_full((len(u),), end_time))
            )
        return self._known[end_time]

    @torch.no_grad()
    def log_prob_by(self, density: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Log-densities by a function of the number of the fold and rows in its flow units."""
        parts = [
            (processes.over_ranks(partial(density, k), rows.u).double() + rows.log_det).cpu()
            for k, rows in enumerate(self._rows)
        ]
        return torch.cat(parts)

    def mean(self, log_prob: Tensor) -> float:
        """Weighted mean over the rows."""
        return float(log_prob @ self.weight / self.weight.sum())

    def clearly_better(self, log_prob: Tensor, other: Tensor, n_errors: float = 2.0) -> bool:
        """Whether the mean gain over another density is above `n_errors` standard errors.

        The same rows have selected the weights of the members, so that one error is too little.
        """
        gain, share = log_prob - other, self.weight / self.weight.sum()
        error = math.sqrt(float((gain - self.mean(gain)).square() @ share.square()))
        return self.mean(gain) > n_errors * error

    def score(self, end_time: float) -> tuple[float, float]:
        """Mean log-density under the flow stopped at a time, and the time."""
        return self.mean(self.log_prob(end_time)), end_time


def check_score(
    held_out: HeldOut, end_times: Sequence[float], fixed: Sequence[Tensor] | None
) -> float:
    """Return the held-out log-likelihood of a check, in nats per row.

    Parameters
    ----------
    held_out : HeldOut
    end_times : sequence of float
    fixed : sequence of Tensors of shape (n,) or None
        Log-densities of the rows under the components that are not trained, for the likelihood of
        the best mixture of all; None is the best single end time.
    """
    columns = [held_out.log_prob(t) for t in end_times]
    if fixed is None:
        return max(held_out.mean(column) for column in columns)
    log_prob = torch.stack([*columns, *fixed])
    return held_out.mean(mixture_log_prob(log_prob, mixture_weights(log_prob, held_out.weight)))


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
    log_prob = processes.over_ranks(
        density.log_prob_at, rows.repeat(len(end_times), 1), times
    ).reshape(len(end_times), len(rows))
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
