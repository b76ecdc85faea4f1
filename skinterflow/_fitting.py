"""Fitting a flow: which rows train and which judge, when to stop, and where the flow ends.

Held-out *log-likelihood* judges, because a smaller velocity loss does not mean a better likelihood (paper 2, lemma 2.4).  A fit has one or
more members, each a field trained on its own rows and judged on the others; they advance together, and their mean is the model.
One member with a held-out part serves large data.  On small data a held-out part says little and costs much, so every row is
held out from one of several members (cross-fitting), and averaging the fields pays for the rows that each of them lacks.  A path that is
learned belongs to one field: there is one member then.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor

from skinterflow._rows import FlowRows, RowSource
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.diagnostics import PathStatistics, path_statistics
from skinterflow.interflow.fields import AveragedField, VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.interpolants import learned_parameters
from skinterflow.interflow.latent import StochasticInterpolant
from skinterflow.interflow.objectives import Ensemble, PathObjective
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.training import OPPONENT_START, train

END_TIMES = (1.0, 0.97, 0.93, 0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
"""End times that "auto" chooses from: the full flow first, the Gaussian last."""

_CHECKED_END_TIMES = (1.0, 0.93, 0.8, 0.5)
"""Those that a check looks at when cross-fitting: small data need the family, as memorising rows spoils the full flow first."""

N_CHECKS = 10
_JUDGED_ROW_TIMES = 512
"""Held-out rows, times end times, that one check looks at over all members: the bound on its cost."""
_STATISTICS_ROWS = 8_192
_JUDGING_SOLVER = Solver(n_steps=3, max_refinements=1, atol=math.inf)
"""Six steps and an extrapolation: an error that stays the same from check to check."""


@dataclass(frozen=True)
class Recipe:
    """Resolved parameters of a fit: see `InterpolantFlowDensity`; `end_time` is None where held-out rows choose it."""

    coupling: Coupling
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
    """Rows that train one member, with what they are paired with, and those that judge it; the latter are empty if nothing is held out."""

    source: RowSource
    train: RowSource
    judge: FlowRows


@dataclass
class History:
    """What a fit did: steps, mean loss and held-out log-likelihood (nats per row) per check, and the best of the latter."""

    n_iter: int = 0
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_score: float = -math.inf
    before: PathStatistics | None = None
    """Of the path as it was before it was learned."""


class Trained(NamedTuple):
    """What a fit gives: the field, the path and the base that it was trained with, where its flow ends, and how it went."""

    field: VelocityField
    path: StochasticInterpolant
    base: Scaling
    end_time: float
    history: History


def fit_field(members: Sequence[PathObjective], folds: Sequence[Fold], recipe: Recipe) -> Trained:
    """Train the members, one per fold, and choose weights and end time by held-out log-likelihood.

    Parameters
    ----------
    members : sequence of PathObjective, trained in place; only a single one may have a path or a base with parameters
    folds : sequence of Fold
    recipe : Recipe

    Returns
    -------
    Trained
        The mean of the members' fields as they were at their best check (at the end if nothing is held out), and where its flow ends.
        Ctrl-C ends the training early, with a warning and the same result.
    """
    history = History()
    best: Sequence[PathObjective] = members
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
    fields = [member.field for member in best]
    field = fields[0] if len(fields) == 1 else AveragedField(fields)
    return Trained(field, best[0].path, best[0].base, _choose_end_time(best, folds, recipe), history)


def _checks(members: Sequence[PathObjective], folds: Sequence[Fold], recipe: Recipe, history: History) -> Iterator[list[PathObjective]]:
    """Train all members together and yield copies of them with averaged weights at every check."""
    # Denser early, because small data overfit soon.
    check_steps = {math.ceil(recipe.max_iter * (k / N_CHECKS) ** 2) for k in range(1, N_CHECKS + 1)}
    alone = len(members) == 1
    together = members[0] if alone else Ensemble(members)
    path = learned_parameters(members[0].path, members[0].base)
    losses: list[Tensor] = []
    for step in train(
        together,
        _batches(folds, recipe),
        max_iter=recipe.max_iter,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        hidden_weights=members[0].field.hidden_weights() if alone else (),
        maximized=path,
    ):
        losses.append(step.loss)
        history.n_iter = step.number
        if step.number in check_steps:
            history.loss_curve.append(float(torch.stack(losses).mean()))
            losses.clear()
            trained = step.averaged.objectives() if isinstance(step.averaged, Ensemble) else [copy.deepcopy(step.averaged)]
            checked = [cast(PathObjective, objective) for objective in trained]
            if path and step.number <= max(1, OPPONENT_START * recipe.max_iter):
                history.before = statistics_of(checked[0], folds[0], recipe)
            yield checked


def _batches(folds: Sequence[Fold], recipe: Recipe) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Endless batches ``(x0, x1), weight``: rows of shape (B, D) for one fold, (K, B, D) for K folds."""
    for parts in zip(*(_pairs(fold, recipe.batch_size, recipe.coupling) for fold in folds), strict=True):
        x0, x1, weight = parts[0] if len(parts) == 1 else map(torch.stack, zip(*parts, strict=True))
        yield (x0, x1), weight


def _pairs(fold: Fold, n_rows: int, coupling: Coupling) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless pairs of rows with the products of their weights."""
    for (x0, weight0), (x1, weight1) in zip(fold.source.batches(n_rows), fold.train.batches(n_rows), strict=True):
        partners = coupling.partners(x0, x1)
        yield x0[partners], x1, weight0[partners] * weight1


@torch.no_grad()
def statistics_of(objective: PathObjective, fold: Fold, recipe: Recipe) -> PathStatistics:
    """Loss, action and length of the path that training rows travel."""
    batches = itertools.islice(_pairs(fold, recipe.batch_size, recipe.coupling), -(-_STATISTICS_ROWS // recipe.batch_size))
    x0, x1, _ = map(torch.cat, zip(*batches, strict=True))
    return path_statistics(objective.field, objective.path, objective.base(x0), x1, objective.path.draw(x1))


def _end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
    if recipe.end_time is not None:
        return (recipe.end_time,)
    return _CHECKED_END_TIMES if len(folds) > 1 else _CHECKED_END_TIMES[:1]


def _choose_end_time(members: Sequence[PathObjective], folds: Sequence[Fold], recipe: Recipe) -> float:
    """The end time asked for or, where "auto", the first maximum of the held-out log-likelihood on the way to the Gaussian.

    The Gaussian itself is looked at in any case, so that the flow is not worse than it on the held-out rows.
    """
    if recipe.end_time is not None or not len(folds[0].judge.u):
        return 1.0 if recipe.end_time is None else recipe.end_time
    (best,) = judge(members, folds, END_TIMES[:1])
    for end_time in END_TIMES[1:-1]:
        (candidate,) = judge(members, folds, (end_time,))
        if candidate[0] < best[0]:
            break
        best = candidate
    return max(best, *judge(members, folds, END_TIMES[-1:]))[1]


def judge(
    members: Sequence[PathObjective], folds: Sequence[Fold], end_times: Sequence[float], solver: Solver = _JUDGING_SOLVER
) -> list[tuple[float, float]]:
    """Mean held-out log-likelihood, in nats per row, and end time, for each end time.

    Every row is judged by the member that did not see it.
    """
    totals, mass = torch.zeros(len(end_times), dtype=torch.float64), 0.0
    for member, fold in zip(members, folds, strict=True):
        density = Pushforward(Flow(member.field, solver), member.base)
        total, weight = held_out_log_prob(density, fold, end_times, _JUDGED_ROW_TIMES // len(folds))
        totals, mass = totals + total, mass + weight
    return list(zip((totals / mass).tolist(), end_times, strict=True))


@torch.no_grad()
def held_out_log_prob(density: Pushforward, fold: Fold, end_times: Sequence[float], n_row_times: int) -> tuple[Tensor, float]:
    """Weighted sums of the log-densities of held-out rows in data units, one for each end time, and the sum of the weights."""
    rows, weight, log_det = (part[: max(1, n_row_times // len(end_times))] for part in fold.judge)
    weight = weight.double()
    times = torch.tensor(end_times, dtype=rows.dtype, device=rows.device).repeat_interleave(len(rows))
    log_prob = density.log_prob_at(rows.repeat(len(end_times), 1), times).reshape(len(end_times), len(rows))
    return ((log_prob.double() + log_det) @ weight).cpu(), float(weight.sum())


def _report(history: History, recipe: Recipe, started: float) -> None:
    elapsed = time.monotonic() - started
    remaining = elapsed * (recipe.max_iter - history.n_iter) / history.n_iter
    held_out = f", held-out log-likelihood {history.validation_scores[-1]:.4f}" if history.validation_scores else ""
    print(
        f"step {history.n_iter}/{recipe.max_iter}: loss {history.loss_curve[-1]:.4f}{held_out}, "
        f"{elapsed:.0f} s elapsed, at most {remaining:.0f} s remaining"
    )
