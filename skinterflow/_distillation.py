"""Distillation: a shallow field that follows the trained one, because its exact divergence costs
one layer instead of one pass per column.

The student regresses the teacher's velocity and divergence on interpolated points, whose data ends
are half the rows of the data and half samples of the teacher.  Targets are computed once and carry
no noise, so a few thousand small steps suffice.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from skinterflow._estimator import Generators, seeded_generators
from skinterflow._fitting import Fold, Trained, held_out_log_prob
from skinterflow._limits import Interruption, TimeBudget, timed
from skinterflow._rows import FlowRows, RowSource, ShuffledPasses, drawn_seed
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.grading import UNGRADED
from skinterflow.interflow.latent import StochasticInterpolant
from skinterflow.interflow.objectives import DistillationObjective
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.times import TimeLaw, stratified_uniform
from skinterflow.interflow.training import train

_POINTS_PER_STEP = 32
_BATCH_SIZE = 512
"""Rows of a step; a point is seen as often as these numbers' ratio."""
_ROWS_PER_TIME = 16
_POINTS_PER_SAMPLE = 8
_BLOCK_ROWS = 2_048
_LEARNING_RATE = 5e-3
_DIVERGENCE_WEIGHT = 0.25
"""Weight of the error of the divergence, where both errors are relative to the mean squares of
their targets."""
_SAMPLING_SOLVER = UNGRADED.solver(atol=math.inf, rtol=0.0)
_JUDGED_ROWS = 512
_TIMED_ROWS, _TIMED_TARGETS = 32, 512
"""By which the time of judging and of a target is measured, and the fewest of each."""
_JUDGING_PART = 0.25
"""Part of a limited time for judging the student."""
_LEAST_SECONDS = 1e-3
_JUDGING_SOLVER = replace(UNGRADED.solver(atol=math.inf, rtol=0.0), start=(25, 25))
"""Fine enough to compare two fields."""

MAX_LOST = 1.0
"""Held-out log-likelihood, in nats per row, that a student may lose; the teacher stays where it
loses more."""


class DistillationWarning(UserWarning):
    """The student did not become the model.

    Examples
    --------
    A fit that rather fails than keeps the field that the student was to replace.

    >>> import warnings
    >>> import numpy as np
    >>> from skinterflow import DistillationWarning, InterpolantFlowDensity
    >>> X = np.random.default_rng(0).normal(size=(20, 2))
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,),
    ...     student_layer_sizes=(8,),
    ...     max_iter=1,
    ...     early_stopping=False,
    ...     random_state=0,
    ... )
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", DistillationWarning)
    ...     density = density.fit(X)
    >>> density.distillation_loss_ < 1.0
    True
    """


class Targets(NamedTuple):
    """Times (K, 1), and for the K groups of rows that share them: points (K, R, D), velocities (K,
    R, D), divergences (K, R)."""

    t: Tensor
    x: Tensor
    v: Tensor
    divergence: Tensor


def distilled(
    student: VelocityField,
    taught: Trained,
    folds: Sequence[Fold],
    time_law: TimeLaw,
    max_iter: int,
    generators: Generators,
    budget: TimeBudget,
    interruption: Interruption,
) -> tuple[VelocityField, float | None]:
    """The student if it is good enough, else the teacher with a warning; and the held-out
    log-likelihood that the student lost.

    Parameters
    ----------
    student : VelocityField of one or two hidden layers, trained in place
    taught : Trained, whose field is the teacher, left as it is; its flow stops after 0
    folds : sequence of Fold
        Whose held-out rows judge (rows of the first that train, where nothing is held out).
    time_law : TimeLaw
    max_iter : int, number of steps
    generators : Generators
    budget : TimeBudget
    interruption : Interruption, where a Ctrl-C is noted; the teacher then stays
    """
    teacher, path, base = taught.field, taught.path, taught.base
    n_judged, until = _JUDGED_ROWS, budget.kept
    try:
        if budget.limited:
            seconds = (
                timed(lambda: _judged(teacher, taught, folds, generators, _TIMED_ROWS))
                / _TIMED_ROWS
            )
            most = int(
                _JUDGING_PART
                * (budget.left() - budget.kept)
                / max(seconds, _LEAST_SECONDS / _TIMED_ROWS)
            )
            n_judged = min(_JUDGED_ROWS, max(_TIMED_ROWS, most))
            until += n_judged * seconds
        rows, end_time = folds[0].train, taught.end_time
        trained = distil(
            student,
            teacher,
            rows,
            end_time,
            path,
            base,
            time_law,
            max_iter,
            generators,
            budget,
            until,
        )
        by_teacher, by_student = (
            _judged(field, taught, folds, generators, n_judged) for field in (teacher, trained)
        )
    except FloatingPointError as error:
        return _kept(teacher, f"diverged ({error})")
    except KeyboardInterrupt:
        interruption.note(
            "The fit was interrupted while it distilled the student; the trained field is the "
            "model."
        )
        return teacher, None
    lost = by_teacher - by_student
    if not lost <= MAX_LOST:
        return _kept(
            teacher,
            f"lost {lost:.2f} nats per row of held-out log-likelihood, more than {MAX_LOST:g}",
            lost,
        )
    return trained, lost


def _kept(
    teacher: VelocityField, reason: str, lost: float | None = None
) -> tuple[VelocityField, float | None]:
    warnings.warn(
        f"The student {reason}, so the trained field stays the model: exact, but slower to score. "
        "Widen student_layer_sizes, raise max_iter, or set student_layer_sizes=None to skip the "
        "distillation.",
        DistillationWarning,
        stacklevel=7,
    )
    return teacher, lost


def _judged(
    field: VelocityField,
    taught: Trained,
    folds: Sequence[Fold],
    generators: Generators,
    n_rows: int,
) -> float:
    """Mean held-out log-likelihood in nats per row, on a grid fine enough to compare two fields."""
    density = Pushforward(Flow(field, _JUDGING_SOLVER), taught.base)
    judging = (
        folds if len(folds[0].judge.u) else [_fold_judged_by_training_rows(folds[0], generators)]
    )
    totals, masses = zip(
        *(
            held_out_log_prob(density, fold, (taught.end_time,), n_rows // len(judging))
            for fold in judging
        ),
        strict=True,
    )
    return float(sum(totals)) / sum(masses)


def _fold_judged_by_training_rows(fold: Fold, generators: Generators) -> Fold:
    u, weight = fold.train.batch(0, _JUDGED_ROWS, generators)
    return Fold(
        fold.source, fold.train, FlowRows(u, weight, torch.zeros_like(weight, dtype=torch.float64))
    )


def distil(
    student: VelocityField,
    teacher: VelocityField,
    rows: RowSource,
    end_time: float,
    path: StochasticInterpolant,
    base: Scaling,
    time_law: TimeLaw,
    max_iter: int,
    generators: Generators,
    budget: TimeBudget | None = None,
    until: float = 0.0,
) -> VelocityField:
    """Train `student` to follow `teacher` on ``[0, end_time]``.

    Parameters
    ----------
    student : VelocityField of one or two hidden layers, trained in place
    teacher : VelocityField
    rows : RowSource, the data in flow units
    end_time : float in (0, 1], where the teacher's flow stops
    path : StochasticInterpolant
    base : Scaling, which carries standard normal points to base points
    time_law : TimeLaw, whose times are scaled to ``[0, end_time]``
    max_iter : int, number of steps
    generators : Generators
    budget : TimeBudget or None, the time that is left
    until : float, seconds of it that are for others

    Returns
    -------
    VelocityField, the student with averaged weights

    Raises
    ------
    FloatingPointError
        If the student's loss is not finite at the end.
    """
    n_points = _POINTS_PER_STEP * max(max_iter, _ROWS_PER_TIME)
    elapsed = None
    if budget is not None and budget.limited:
        sample = seeded_generators(drawn_seed(generators.cpu), generators.device.device)
        seconds = timed(
            lambda: compute_targets(
                teacher, rows, end_time, path, base, time_law, _TIMED_TARGETS, sample
            )
        )
        part = 0.5 * (budget.left() - until) / max(seconds, _LEAST_SECONDS)
        n_points = min(n_points, max(_TIMED_TARGETS, int(part * _TIMED_TARGETS)))
        elapsed = _PartOfTime(budget, until)
    targets = compute_targets(teacher, rows, end_time, path, base, time_law, n_points, generators)
    if elapsed is not None:
        elapsed.begin()
    errors = targets.v.square().sum(-1).mean(), targets.divergence.square().mean()
    objective = DistillationObjective(student, _DIVERGENCE_WEIGHT * float(errors[0] / errors[1]))
    for step in train(
        objective,
        _batches(targets, drawn_seed(generators.cpu)),
        max_iter=max_iter,
        learning_rate=_LEARNING_RATE,
        weight_decay=0.0,
        hidden_weights=student.hidden_weights(),
        elapsed=elapsed,
    ):
        last = step
    if not torch.isfinite(last.loss):
        raise FloatingPointError(
            f"The student's loss is {float(last.loss)} after {last.number} steps."
        )
    return cast(DistillationObjective, last.averaged).field


class _PartOfTime:
    """Part of the student's time that has passed, from its beginning until so many seconds of the
    budget are left."""

    def __init__(self, budget: TimeBudget, until: float) -> None:
        self.budget, self.until = budget, until
        self._first = 0.0

    def begin(self) -> None:
        self._first = self.budget.left()

    def __call__(self) -> float:
        total = self._first - self.until
        return min(1.0, (self._first - self.budget.left()) / total) if total > 0 else 1.0


@torch.no_grad()
def compute_targets(
    teacher: VelocityField,
    rows: RowSource,
    end_time: float,
    path: StochasticInterpolant,
    base: Scaling,
    time_law: TimeLaw,
    n_points: int,
    generators: Generators,
) -> Targets:
    """At least `n_points` points of the path up to `end_time` with the teacher's velocity and
    divergence there."""
    n_times = -(-n_points // _ROWS_PER_TIME)
    n_points = n_times * _ROWS_PER_TIME
    data = rows.batch(0, n_points // 2, generators)[0]
    on_device: dict[str, Any] = {"device": data.device, "generator": generators.device}
    shape = -(-n_points // _POINTS_PER_SAMPLE), teacher.n_features
    x0 = base(torch.randn(shape, dtype=data.dtype, **on_device))
    flow = Flow(teacher, _SAMPLING_SOLVER)
    samples = torch.cat([flow.push(block) for block in x0.split(_BLOCK_ROWS)])
    drawn = torch.randint(len(samples), (n_points - len(data),), **on_device)
    x1 = torch.cat([data, samples[drawn]])[torch.randperm(n_points, **on_device)]
    t = end_time * time_law.quantile(stratified_uniform(n_times, **on_device)).to(data.dtype)
    t = t[torch.randperm(n_times, **on_device)]
    per_row = t.repeat_interleave(_ROWS_PER_TIME)
    x0 = base(torch.randn(x1.shape, dtype=x1.dtype, **on_device))
    x = path(per_row, x0, x1, path.draw(x1, generators.device))
    blocks = zip(per_row.split(_BLOCK_ROWS), x.split(_BLOCK_ROWS), strict=True)
    v, divergence = map(
        torch.cat, zip(*(teacher.value_and_divergence(*block) for block in blocks), strict=True)
    )
    groups = (n_times, _ROWS_PER_TIME)
    return Targets(
        t[:, None], x.reshape(*groups, -1), v.reshape(*groups, -1), divergence.reshape(groups)
    )


def _batches(targets: Targets, seed: int) -> Iterator[tuple[Targets, None]]:
    """Endless batches of whole groups."""
    order = ShuffledPasses(len(targets.t), targets.t.device, seed)
    for number in itertools.count():
        groups = order.batch(number, _BATCH_SIZE // _ROWS_PER_TIME)
        yield Targets(*(part[groups] for part in targets)), None
