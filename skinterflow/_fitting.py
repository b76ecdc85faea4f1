"""Fitting a flow: which rows train and which judge, when to stop, and where the flow ends.

Held-out *log-likelihood* judges, because a smaller velocity loss does not mean a better likelihood (paper 2, lemma 2.4).  A fit has one or
more members, each a field trained on its own rows and judged on the others; they advance together, and their mean is the model.
One member with a held-out part serves large data.  On small data a held-out part says little and costs much, so every row is
held out from one of several members (cross-fitting), and averaging the fields pays for the rows that each of them lacks.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from skinterflow._rows import FlowRows, RowSource
from skinterflow.interflow.fields import AveragedField, VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.objectives import Ensemble, VelocityObjective
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.times import TimeLaw
from skinterflow.interflow.training import train

END_TIMES = (1.0, 0.97, 0.93, 0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
"""End times that "auto" chooses from: the full flow first, the Gaussian last."""

_CHECKED_END_TIMES = (1.0, 0.93, 0.8, 0.5)
"""Those that a check looks at when cross-fitting: small data need the family, as memorising rows spoils the full flow first."""

N_CHECKS = 10
_JUDGED_ROW_TIMES = 512
"""Held-out rows, times end times, that one check looks at over all members: the bound on its cost."""
_JUDGING_SOLVER = Solver(n_steps=3, max_refinements=1, atol=math.inf)
"""Six steps and an extrapolation: an error that stays the same from check to check."""


@dataclass(frozen=True)
class Recipe:
    """Resolved parameters of a fit: see `InterpolantFlowDensity`; `end_time` is None where held-out rows choose it."""

    interpolant: Interpolant
    time_law: TimeLaw
    weight_decay: float
    batch_size: int
    learning_rate: float
    max_iter: int
    n_iter_no_change: int
    tol: float
    end_time: float | None
    verbose: bool


@dataclass(frozen=True)
class Fold:
    """Rows that train one member and those that judge it; the latter are empty if nothing is held out."""

    train: RowSource
    judge: FlowRows


@dataclass
class History:
    """What a fit did: steps, mean loss and held-out log-likelihood (nats per row) per check, and the best of the latter."""

    n_iter: int = 0
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_score: float = -math.inf


def fit_field(members: Sequence[VelocityField], folds: Sequence[Fold], recipe: Recipe) -> tuple[VelocityField, float, History]:
    """Train the members, one per fold, and choose weights and end time by held-out log-likelihood.

    Parameters
    ----------
    members : sequence of VelocityField, trained in place
    folds : sequence of Fold
    recipe : Recipe

    Returns
    -------
    field, end_time, history
        The mean of the members as they were at their best check (at the end if nothing is held out), and where its flow ends.
        Ctrl-C ends the training early, with a warning and the same result.
    """
    history = History()
    best: Sequence[VelocityField] = members
    waited, started = 0, time.monotonic()
    try:
        for current in _checks(members, folds, recipe, history):
            if not len(folds[0].judge.u):
                best = current
            else:
                score = max(judge(current, folds, _end_times_at_check(folds, recipe)))[0]
                history.validation_scores.append(score)
                waited = 0 if score > history.best_score + recipe.tol else waited + 1
                if score > history.best_score:
                    history.best_score, best = score, current
            if recipe.verbose:
                _report(history, recipe, started)
            if waited >= recipe.n_iter_no_change:
                break
    except KeyboardInterrupt:
        warnings.warn(
            f"Training was interrupted after {history.n_iter} of {recipe.max_iter} steps; the best weights so far are kept.", stacklevel=6
        )
    end_time = _choose_end_time(best, folds, recipe)
    return best[0] if len(best) == 1 else AveragedField(best), end_time, history


def _checks(members: Sequence[VelocityField], folds: Sequence[Fold], recipe: Recipe, history: History) -> Iterator[list[VelocityField]]:
    """Train all members together and yield copies of their averaged fields at every check."""
    # Denser early, because small data overfit soon.
    check_steps = {math.ceil(recipe.max_iter * (k / N_CHECKS) ** 2) for k in range(1, N_CHECKS + 1)}
    objectives = [VelocityObjective(member, recipe.interpolant, recipe.time_law) for member in members]
    together = objectives[0] if len(objectives) == 1 else Ensemble(objectives)
    losses: list[Tensor] = []
    for step in train(
        together,
        _batches(folds, recipe.batch_size),
        max_iter=recipe.max_iter,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        hidden_weights=members[0].hidden_weights() if len(members) == 1 else (),
    ):
        losses.append(step.loss)
        history.n_iter = step.number
        if step.number in check_steps:
            history.loss_curve.append(float(torch.stack(losses).mean()))
            losses.clear()
            trained = step.averaged.objectives() if isinstance(step.averaged, Ensemble) else [copy.deepcopy(step.averaged)]
            yield [cast(VelocityObjective, objective).field for objective in trained]


def _batches(folds: Sequence[Fold], batch_size: int) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Endless batches ``(x0, x1), weight`` with fresh base points: rows of shape (B, D) for one fold, (K, B, D) for K folds."""
    for parts in zip(*(fold.train.batches(batch_size) for fold in folds), strict=True):
        x1, weight = parts[0] if len(parts) == 1 else map(torch.stack, zip(*parts, strict=True))
        yield (torch.randn_like(x1), x1), weight


def _end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
    if recipe.end_time is not None:
        return (recipe.end_time,)
    return _CHECKED_END_TIMES if len(folds) > 1 else _CHECKED_END_TIMES[:1]


def _choose_end_time(fields: Sequence[VelocityField], folds: Sequence[Fold], recipe: Recipe) -> float:
    """The end time asked for or, where "auto", the first maximum of the held-out log-likelihood on the way to the Gaussian.

    The Gaussian itself is looked at in any case, so that the flow is not worse than it on the held-out rows.
    """
    if recipe.end_time is not None or not len(folds[0].judge.u):
        return 1.0 if recipe.end_time is None else recipe.end_time
    (best,) = judge(fields, folds, END_TIMES[:1])
    for end_time in END_TIMES[1:-1]:
        (candidate,) = judge(fields, folds, (end_time,))
        if candidate[0] < best[0]:
            break
        best = candidate
    return max(best, *judge(fields, folds, END_TIMES[-1:]))[1]


def judge(
    fields: Sequence[VelocityField], folds: Sequence[Fold], end_times: Sequence[float], solver: Solver = _JUDGING_SOLVER
) -> list[tuple[float, float]]:
    """Mean held-out log-likelihood, in nats per row, and end time, for each end time.

    Every row is judged by the member that did not see it.
    """
    totals, mass = torch.zeros(len(end_times), dtype=torch.float64), 0.0
    for member, fold in zip(fields, folds, strict=True):
        chosen = slice(max(1, _JUDGED_ROW_TIMES // (len(folds) * len(end_times))))
        rows, weight, log_det = (part[chosen] for part in fold.judge)
        weight = weight.double()
        density = Pushforward(Flow(member, solver))
        times = torch.tensor(end_times, dtype=rows.dtype, device=rows.device).repeat_interleave(len(rows))
        log_prob = density.log_prob_at(rows.repeat(len(end_times), 1), times).reshape(len(end_times), len(rows))
        totals += ((log_prob.double() + log_det) @ weight).cpu()
        mass += float(weight.sum())
    return list(zip((totals / mass).tolist(), end_times, strict=True))


def _report(history: History, recipe: Recipe, started: float) -> None:
    elapsed = time.monotonic() - started
    remaining = elapsed * (recipe.max_iter - history.n_iter) / history.n_iter
    held_out = f", held-out log-likelihood {history.validation_scores[-1]:.4f}" if history.validation_scores else ""
    print(
        f"step {history.n_iter}/{recipe.max_iter}: loss {history.loss_curve[-1]:.4f}{held_out}, "
        f"{elapsed:.0f} s elapsed, at most {remaining:.0f} s remaining"
    )
