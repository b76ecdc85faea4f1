"""Distillation of the trained field into a shallow student with a cheap exact divergence.

The divergence of a shallow field costs one layer instead of one pass per column.  The student
regresses the teacher's velocity and divergence on interpolated points, whose data ends are rows of
the data and samples of the teacher in equal parts.  The targets are computed once and have no
noise, so that a few thousand small steps suffice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from skinterflow._data.batches import FlowRows, RowSource, ShuffledPasses, drawn_seed
from skinterflow._fit.limits import Interruption, TimeBudget, now, timed
from skinterflow._fit.run import Trained
from skinterflow._fit.validation import Fold, held_out_log_prob
from skinterflow._runtime import Generators, seeded_generators
from skinterflow.exceptions import DistillationWarning
from skinterflow.interflow import processes
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.grading import UNGRADED
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import DistillationObjective
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.times import TimeLaw, stratified_uniform
from skinterflow.interflow.training import train
from skinterflow.interflow.warn import warn

_POINTS_PER_STEP = 32
_BATCH_SIZE = 512
"""Rows in a step: each point is used ``_BATCH_SIZE / _POINTS_PER_STEP`` times."""
_ROWS_PER_TIME = 16
_POINTS_PER_SAMPLE = 8
_BLOCK_ROWS = 2_048
_LEARNING_RATE = 5e-3
_DIVERGENCE_WEIGHT = 0.25
"""Weight of the divergence's error relative to the velocity's, both relative to the mean square of
their targets."""
_SAMPLING_SOLVER = UNGRADED.solver(atol=math.inf, rtol=0.0)
_VALIDATION_ROWS = 512
_TIMED_ROWS, _TIMED_TARGETS = 32, 512
"""Number of rows and of targets on which times are measured, and the minimum of each."""
_VALIDATION_PART = 0.25
"""Fraction of the remaining time for validating the student."""
_MIN_SECONDS = 1e-3
_VALIDATION_SOLVER = replace(UNGRADED.solver(atol=math.inf, rtol=0.0), start=(25, 25))
"""Fine enough to compare two fields."""

MAX_DISTILLATION_LOSS = 1.0
"""Held-out log-likelihood, in nats per row, that a student may lose before it is rejected."""
SMALL_DISTILLATION_LOSS = 0.15
"""Loss up to which no further student is tried."""


class Candidate(NamedTuple):
    """A student and the held-out log-likelihood, in nats per row, that it loses."""

    field: VelocityField
    loss: float


class Targets(NamedTuple):
    """Regression targets: K times, with R points at each.

    Attributes
    ----------
    t : Tensor of shape (K, 1)
    x : Tensor of shape (K, R, D)
    v : Tensor of shape (K, R, D)
    divergence : Tensor of shape (K, R)
    """

    t: Tensor
    x: Tensor
    v: Tensor
    divergence: Tensor


def distilled(
    students: Sequence[VelocityField],
    teacher_fit: Trained,
    folds: Sequence[Fold],
    time_law: TimeLaw,
    max_iter: int,
    generators: Generators,
    budget: TimeBudget,
    interruption: Interruption,
) -> tuple[VelocityField, float | None]:
    """Distil the trained field, and return the student with the log-likelihood that it loses.

    The students are trained one after the other until one loses little.  The best is returned, or
    the teacher, with a warning, if no student is good enough.

    Parameters
    ----------
    students : sequence of VelocityField of one or two hidden layers, trained in place
    teacher_fit : Trained
        Its field is the teacher, which is left unchanged; the end time is after 0.
    folds : sequence of Fold
        The student is validated on their held-out rows, or on training rows of the first fold if
        nothing is held out.
    time_law : TimeLaw
    max_iter : int, number of steps of each student
    generators : Generators
    budget : TimeBudget
    interruption : Interruption
        Records a Ctrl-C, after which the teacher is returned.

    Returns
    -------
    field : VelocityField
    loss : float or None
        Held-out log-likelihood of the teacher minus that of the student, in nats per row; None if
        the student was not validated.
    """
    teacher = teacher_fit.field
    try:
        n_rows = _affordable_validation_rows(teacher_fit, folds, generators, budget)
        started = now()
        by_teacher = _validation_score(teacher, teacher_fit, folds, generators, n_rows)
        # A student is scored in less time than its teacher, whose time is reserved for it.
        scoring = now() - started

        def trained(student: VelocityField, later: float) -> Candidate:
            field = distil(
                student,
                teacher,
                folds[0].train,
                teacher_fit.end_time,
                teacher_fit.path,
                teacher_fit.base,
                time_law,
                max_iter,
                generators,
                budget,
                budget.reserved_for_calibration + scoring + later,
            )
            by_student = _validation_score(field, teacher_fit, folds, generators, n_rows)
            return Candidate(field, by_teacher - by_student)

        best = _best_student(students, trained, budget)
    except FloatingPointError as error:
        return _keep_teacher(teacher, f"diverged ({error})")
    except KeyboardInterrupt:
        interruption.note(
            "The fit was interrupted during the distillation; the trained field is the model."
        )
        return teacher, None
    if not best.loss <= MAX_DISTILLATION_LOSS:  # "not" includes NaN
        return _keep_teacher(
            teacher,
            f"lost {best.loss:.2f} nats per row of held-out log-likelihood, more than "
            f"{MAX_DISTILLATION_LOSS:g}",
            best.loss,
        )
    return best


def _best_student(
    students: Sequence[VelocityField],
    trained: Callable[[VelocityField, float], Candidate],
    budget: TimeBudget,
) -> Candidate:
    """Train the students in turn until one loses little, and return the best.

    With a time limit, each has an equal part of the time that is left, and a further student is
    only trained while there is time.

    Parameters
    ----------
    students : sequence of VelocityField
    trained : callable, a student and the seconds reserved for further ones to the candidate
    budget : TimeBudget

    Raises
    ------
    FloatingPointError
        If all diverged.
    """
    candidates: list[Candidate] = []
    for k, student in enumerate(students):
        waiting = len(students) - 1 - k
        left = budget.left() - budget.reserved_for_calibration
        if candidates and left <= 0:
            break
        try:
            one = trained(student, left * waiting / (waiting + 1) if budget.limited else 0.0)
        except FloatingPointError:
            if not (waiting or candidates):
                raise
            continue
        candidates.append(one)
        if one.loss <= SMALL_DISTILLATION_LOSS:
            break
    return min(candidates, key=lambda one: math.inf if math.isnan(one.loss) else one.loss)


def _affordable_validation_rows(
    teacher_fit: Trained, folds: Sequence[Fold], generators: Generators, budget: TimeBudget
) -> int:
    """Return the number of validation rows that the time allows."""
    if not budget.limited:
        return _VALIDATION_ROWS
    seconds = timed(
        lambda: _validation_score(teacher_fit.field, teacher_fit, folds, generators, _TIMED_ROWS)
    )
    per_row = seconds / _TIMED_ROWS
    affordable = int(
        _VALIDATION_PART
        * (budget.left() - budget.reserved_for_calibration)
        / max(per_row, _MIN_SECONDS / _TIMED_ROWS)
    )
    return min(_VALIDATION_ROWS, max(_TIMED_ROWS, affordable))


def _keep_teacher(
    teacher: VelocityField, reason: str, loss: float | None = None
) -> tuple[VelocityField, float | None]:
    """Return the teacher, with a warning that gives the reason."""
    warn(
        f"The student {reason}, so that the trained field is the model: exact, but slower to "
        "score. Widen student_layer_sizes, raise max_iter, or set student_layer_sizes=None to "
        "skip the distillation.",
        DistillationWarning,
    )
    return teacher, loss


def _validation_score(
    field: VelocityField,
    teacher_fit: Trained,
    folds: Sequence[Fold],
    generators: Generators,
    n_rows: int,
) -> float:
    """Mean held-out log-likelihood in nats per row, on a grid fine enough to compare two fields."""
    density = Pushforward(Flow(field, _VALIDATION_SOLVER), teacher_fit.base)
    if not len(folds[0].validation.u):
        folds = [_fold_with_training_rows(folds[0], generators)]
    totals, masses = zip(
        *(
            held_out_log_prob(density, fold, (teacher_fit.end_time,), n_rows // len(folds))
            for fold in folds
        ),
        strict=True,
    )
    return float(sum(totals)) / sum(masses)


def _fold_with_training_rows(fold: Fold, generators: Generators) -> Fold:
    """Copy of a fold with a batch of its training rows as validation rows."""
    u, weight = fold.train.batch(0, _VALIDATION_ROWS, generators)
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
    rows : RowSource
        The data in flow units.
    end_time : float in (0, 1]
        Time at which the teacher's flow stops.
    path : StochasticInterpolant
    base : Scaling
        Map from standard normal points to base points.
    time_law : TimeLaw
        Law of the times, which are scaled to ``[0, end_time]``.
    max_iter : int
        Number of steps.
    generators : Generators
    budget : TimeBudget or None
    until : float
        Seconds of the budget that are reserved for what follows.

    Returns
    -------
    VelocityField
        The student with averaged weights.

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
        part = 0.5 * (budget.left() - until) / max(seconds, _MIN_SECONDS)
        n_points = min(n_points, max(_TIMED_TARGETS, int(part * _TIMED_TARGETS)))
        elapsed = _ElapsedFraction(budget, until)
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


class _ElapsedFraction:
    """Elapsed fraction of the student's time, which ends with `until` seconds of budget left."""

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
    """Evaluate the teacher at `n_points` or more points of the path up to `end_time`."""
    n_times = -(-n_points // _ROWS_PER_TIME)
    n_points = n_times * _ROWS_PER_TIME
    data = rows.batch(0, n_points // 2, generators)[0]
    on_device: dict[str, Any] = {"device": data.device, "generator": generators.device}
    shape = -(-n_points // _POINTS_PER_SAMPLE), teacher.n_features
    x0 = base(torch.randn(shape, dtype=data.dtype, **on_device))
    flow = Flow(teacher, _SAMPLING_SOLVER)
    samples = processes.over_ranks(
        lambda x: torch.cat([flow.push(block) for block in x.split(_BLOCK_ROWS)]), x0
    )
    drawn = torch.randint(len(samples), (n_points - len(data),), **on_device)
    x1 = torch.cat([data, samples[drawn]])[torch.randperm(n_points, **on_device)]
    t = end_time * time_law.quantile(stratified_uniform(n_times, **on_device)).to(data.dtype)
    t = t[torch.randperm(n_times, **on_device)]
    per_row = t.repeat_interleave(_ROWS_PER_TIME)
    x0 = base(torch.randn(x1.shape, dtype=x1.dtype, **on_device))
    x = path(per_row, x0, x1, path.draw(x1, generators.device))
    evaluated = processes.over_ranks(lambda t, x: _evaluated(teacher, t, x), per_row, x)
    v, divergence = evaluated[:, :-1], evaluated[:, -1]
    groups = (n_times, _ROWS_PER_TIME)
    return Targets(
        t[:, None], x.reshape(*groups, -1), v.reshape(*groups, -1), divergence.reshape(groups)
    )


def _evaluated(teacher: VelocityField, t: Tensor, x: Tensor) -> Tensor:
    """Velocities and, in the last column, divergences at points, shape (B, D + 1)."""
    blocks = zip(t.split(_BLOCK_ROWS), x.split(_BLOCK_ROWS), strict=True)
    parts = [teacher.value_and_divergence(*block) for block in blocks]
    return torch.cat([torch.cat([v, divergence[:, None]], dim=1) for v, divergence in parts])


def _batches(targets: Targets, seed: int) -> Iterator[tuple[Targets, None]]:
    """Yield batches of whole groups without end, of which each rank takes a share."""
    order = ShuffledPasses(len(targets.t), targets.t.device, seed)
    for number in itertools.count():
        groups = order.batch(number, _BATCH_SIZE // _ROWS_PER_TIME)
        yield Targets(*processes.share([part[groups] for part in targets])), None
