"""Training of a flow: members, checks on held-out rows, early stopping and resumption.

The criterion is the held-out *log-likelihood*, because a smaller velocity loss does not imply a
better likelihood (paper 2, lemma 2.4).  A fit has one or more members, each a field trained on its
own rows and validated on the others.  They are trained together, and their mean is the model.

On large data there is one member and one held-out part.  On small data a held-out part would be too
small to be informative and too large to give up, so that every row is held out from one of several
members (cross-fitting); averaging the fields makes up for the rows that each of them lacks.  A
learned path belongs to one field, so that there is one member then.

All random numbers of a step follow from the seed of the fit and the number of the step.  An
interrupted fit can therefore be resumed from a checkpoint, to the same result.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skinterflow._data.batches import FlowRows, PairBatch
from skinterflow._fit.components import (
    FoldKernels,
    FoldNormals,
    fold_kernels,
    fold_normals,
    refitted,
)
from skinterflow._fit.limits import Interruption, TimeBudget, now, timed
from skinterflow._fit.mixture import Mixture, choose_mixture
from skinterflow._fit.recipe import Recipe
from skinterflow._fit.validation import (
    END_TIMES,
    END_TIMES_OF_MIXTURES,
    Fold,
    HeldOut,
    check_score,
    choose_end_time,
    end_times_at_check,
    row_times_at_check,
)
from skinterflow._persistence.checkpoint import Checkpoint
from skinterflow._runtime import Generators, seeded_generators, step_seed
from skinterflow.interflow import processes
from skinterflow.interflow.diagnostics import PathStatistics, path_statistics
from skinterflow.interflow.fields import AveragedField, VelocityField
from skinterflow.interflow.interpolants import learned_parameters
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import Ensemble, PathObjective
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.training import MAXIMIZED_FROM, Training
from skinterflow.interflow.warn import warn

State = dict[str, Any]
"""State of a fit, as plain data and tensors, from which it is resumed."""

N_CHECKS = 10
_MIN_STEPS = 1_000
"""Minimum steps before early stopping, unless the model is better than the Gaussian by
`_MIN_GAIN`."""
_MIN_STEPS_IF_WIDE, _WIDE = 400, 64
"""Minimum steps if there are more columns than this, where a check takes as long as many steps."""
_MIN_GAIN = 0.05
"""Held-out log-likelihood over the Gaussian's, in nats per row, that counts as learning."""
_CHECKS_PART = 0.3
"""Maximum fraction of a time budget for all checks."""
_END_TIME_CHECKS = 5
"""Number of checks whose time is reserved for choosing the end time."""
_SIZE_ROWS = 256
_LARGE_ROWS = 100.0
"""Size of rows, in flow units, above which messages blame the scaling."""
_LARGE_LOSS = 10.0
"""Loss, relative to the mean square norm of the rows, above which a training has diverged; an
untrained field has 0."""
_TIMED_ROWS = 64
"""Number of rows on which the time of a check is measured, and the minimum of a check."""
_ONE_CHECK_PART, _CALIBRATION_PART = 0.02, 0.25
"""Maximum fractions of a time budget for one check, and for the calibration, which is skipped if it
would take more."""
_NORMALS_PART = 0.05
"""Maximum fraction of a time budget for the choice of a Gaussian mixture."""
_N_ERRORS, _N_ERRORS_IF_CROSS_FITTED = 2.0, 1.0
"""Standard errors by which a mixture has to be better than one end time; with few rows, where
errors are large, two would exclude most gains."""
_CALIBRATION_ROW_TIMES = 2_000
"""Number of held-out rows whose scoring takes as long as the calibration."""
STATISTICS_ROWS = 8_192
_STATISTICS_NUMBERS, _FEWEST_STATISTICS_ROWS = 2**20, 64
"""Largest number of entries of the rows that the statistics of a path are taken on, which limits
the memory of a field of many columns, and the least number of rows."""


class Draw(IntEnum):
    """Numbers of the draws outside the training steps: negative, as steps count from 0.

    They are part of the seeds, so that changing one changes every seeded fit.
    """

    SETUP = -1
    STATISTICS = -2
    STUDENT = -3
    CALIBRATION = -4
    MIXTURE = -5
    PILOT = -6


@dataclass
class History:
    """Course of a training.

    Attributes
    ----------
    n_iter : int, number of steps
    steps : list of int, step of each check
    loss_curve : list of float, mean loss up to each check
    validation_scores : list of float, held-out log-likelihood at each check, nats per row
    best_score : float, the best of these
    before : PathStatistics or None, of the path before it was learned
    """

    n_iter: int = 0
    steps: list[int] = field(default_factory=list)
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_score: float = -math.inf
    before: PathStatistics | None = None


class Trained(NamedTuple):
    """Result of a training: the field with its path and base, the end time and the history.

    The mixture is None if the model has one end time only.
    """

    field: VelocityField
    path: StochasticInterpolant
    base: Scaling
    end_time: float
    history: History
    mixture: Mixture | None = None


class Run:
    """A training in progress: its state, the best members so far and the history.

    Parameters
    ----------
    members : sequence of PathObjective
        On the device; only a single one may have a path or a base with parameters.
    folds : sequence of Fold, one for each member
    recipe : Recipe
    seed : int
    budget : TimeBudget or None
        None is no time limit.
    whole : Fold or None
        All rows in the units of the model, if the folds have other units.
    scaling : Scaling or None
        Scaling of the model; only a mixture needs it.
    row_times : int or None
        Maximum number of held-out rows times end times of a check, over all members; None is what
        the width of the rows suggests.
    """

    def __init__(
        self,
        members: Sequence[PathObjective],
        folds: Sequence[Fold],
        recipe: Recipe,
        seed: int,
        budget: TimeBudget | None = None,
        whole: Fold | None = None,
        scaling: Scaling | None = None,
        row_times: int | None = None,
    ) -> None:
        alone = len(members) == 1
        self.folds, self.recipe, self.budget = folds, recipe, budget or TimeBudget(None)
        self._whole, self._scaling = whole or folds[0], scaling
        self.history, self.best, self.n_no_change, self.diverged = (
            History(),
            copy.deepcopy(members),
            0,
            False,
        )
        self._learned = learned_parameters(members[0].path, members[0].base)
        self._training = Training(
            members[0] if alone else Ensemble(members),
            max_iter=recipe.max_iter,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            hidden_weights=members[0].field.hidden_weights() if alone else (),
            maximized=self._learned,
            elapsed=self.budget.part,
        )
        self._n_checks, self._check_seconds = 0, 0.0
        self._row_times = row_times or row_times_at_check(members[0])
        self._seed, self._first = seed, 0
        self._losses: list[Tensor] = []
        self._device = next(members[0].parameters(), torch.empty(0)).device

    @property
    def has_validation_rows(self) -> bool:
        """Whether rows are held out."""
        return len(self.folds[0].validation.u) > 0

    def steps(self) -> Iterator[int]:
        """Train, yielding the number of each step."""
        for step in self._training.steps(self._batches()):
            self._losses.append(step.loss)
            self.history.n_iter = step.number
            yield step.number

    def current(self) -> Sequence[PathObjective]:
        """Return copies of the members with averaged weights."""
        averaged = self._training.averaged
        members = (
            averaged.objectives() if isinstance(averaged, Ensemble) else [copy.deepcopy(averaged)]
        )
        return [cast(PathObjective, member) for member in members]

    def part(self) -> float:
        """Return the completed fraction of the schedule: of steps or of time, whichever is more."""
        return max(self.history.n_iter / cast(int, self.recipe.max_iter), self.budget.part())

    def check_is_due(self) -> bool:
        """Return whether to check now; checks that take too much of a time budget are skipped."""
        steps, passed = check_steps(cast(int, self.recipe.max_iter)), self.budget.part()
        if not self.budget.limited:
            return self.history.n_iter in steps
        due = sum(
            self.history.n_iter >= step or passed >= (k / N_CHECKS) ** 2
            for k, step in enumerate(steps, 1)
        )
        if due <= self._n_checks or self._check_seconds > _CHECKS_PART * self.budget.trained():
            return False
        self._n_checks = due
        return True

    def check(self) -> None:
        """Score the members, and store them if they are the best; sets :attr:`diverged`."""
        self._check_seconds += timed(self._check)

    def _check(self) -> None:
        history, members = self.history, self.current()
        loss = float(torch.stack(self._losses).mean()) if self._losses else history.loss_curve[-1]
        try:
            self.diverged = not math.isfinite(loss)
            score = (
                self._validation_score(members)
                if self.has_validation_rows and not self.diverged
                else None
            )
        except FloatingPointError:  # finite weights can still give a flow that is not finite
            self.diverged = True
        if self.diverged:
            return
        early = self.part() <= MAXIMIZED_FROM or not history.steps
        before = self.statistics(members[0]) if self._learned and early else history.before
        self._record(loss, before)
        if score is None:
            self.best = members
            return
        history.validation_scores.append(score)
        improved = score > history.best_score + self.recipe.tol
        if score > history.best_score:
            history.best_score, self.best = score, members
        self.n_no_change = 0 if improved else self.n_no_change + 1

    def is_over(self) -> bool:
        """Return whether to stop early: diverged, or `n_iter_no_change` checks without improvement.

        Early in a training the score of a field near zero fluctuates, so that patience counts only
        after `_MIN_STEPS` steps or a gain of `_MIN_GAIN` over the Gaussian.
        """
        if self.diverged or self.n_no_change < self.recipe.n_iter_no_change:
            return self.diverged
        wide = self.best[0].field.n_features > _WIDE
        return (
            self.history.n_iter >= (_MIN_STEPS_IF_WIDE if wide else _MIN_STEPS)
            or self.history.best_score > self._gaussian_score + _MIN_GAIN
        )

    @cached_property
    def _gaussian_score(self) -> float:
        """Held-out log-likelihood of the Gaussian at time 0, on the rows of a check."""
        held_out = self._held_out_at_check(self.best)
        fixed = self._fixed_components(held_out)
        return check_score(held_out, (0.0,) if fixed is None else (), fixed)

    def reserve_time(self, student_share: float = 0.0) -> None:
        """Reserve time for what follows the training, and reduce the rows of a check to fit.

        Parameters
        ----------
        student_share : float
            Fraction of the remaining time that is reserved for distillation.
        """
        seconds, per_row = cast(float, self.budget.seconds), self._seconds_per_row()
        affordable = int(_ONE_CHECK_PART * seconds / max(per_row, 1e-9))
        self._row_times = min(self._row_times, max(_TIMED_ROWS, affordable))
        choose = self.has_validation_rows and self.recipe.end_time is None
        checks = _END_TIME_CHECKS * per_row * self._row_times if choose else 0.0
        calibration = _CALIBRATION_ROW_TIMES * per_row
        self.budget.calibrates = calibration < _CALIBRATION_PART * seconds
        self.budget.reserved_for_calibration = calibration if self.budget.calibrates else 0.0
        student = student_share * self.budget.left()
        self.budget.reserved_for_model = student + self.budget.reserved_for_calibration
        self.budget.reserved = checks + self.budget.reserved_for_model

    def _seconds_per_row(self) -> float:
        """Seconds that a check takes for each row, measured on training rows."""
        generators = self.generators(Draw.STATISTICS)
        rows = [
            fold.train.batch(0, _TIMED_ROWS // len(self.folds) or 1, generators)
            for fold in self.folds
        ]
        folds = [
            replace(
                fold, validation=FlowRows(u, weight, torch.zeros_like(weight, dtype=torch.float64))
            )
            for fold, (u, weight) in zip(self.folds, rows, strict=True)
        ]
        # Once without the clock: torch loads libraries at their first use.
        HeldOut(self.best, folds, _TIMED_ROWS).log_prob(END_TIMES[0])
        return (
            timed(lambda: HeldOut(self.best, folds, _TIMED_ROWS).log_prob(END_TIMES[0]))
            / _TIMED_ROWS
        )

    def finish(self) -> Trained:
        """Return the mean of the best members as the model, with its end time."""
        fields = [member.field for member in self.best]
        mean = fields[0] if len(fields) == 1 else AveragedField(fields)
        held_out = HeldOut(self.best, self.folds, self._row_times)
        end_time = choose_end_time(held_out, self.recipe, self.budget)
        mixture = self._mixture(held_out, end_time)
        if mixture is not None:
            end_time = mixture.heaviest_time
        return Trained(mean, self.best[0].path, self.best[0].base, end_time, self.history, mixture)

    def _mixture(self, held_out: HeldOut, end_time: float) -> Mixture | None:
        """Return the mixture of the model, or None if one end time is as good."""
        if not self.recipe.mixture or not held_out.n_rows:
            return None
        if self.budget.limited and self.budget.left() <= self.budget.reserved_for_model:
            return None
        crossed = len(self.folds) > 1
        chosen = choose_mixture(
            held_out,
            (0.0, end_time, *END_TIMES_OF_MIXTURES[: None if crossed else 1]),
            end_time,
            [normals.held_out(held_out) for normals in self._normals],
            _N_ERRORS_IF_CROSS_FITTED if crossed else _N_ERRORS,
        )
        if chosen is None:
            return None
        weights, end_times = chosen[0].tolist(), tuple(chosen[1])
        of_times, of_normals = weights[: len(end_times)], weights[len(end_times) :]
        if not any(of_normals):
            return Mixture(end_times, tuple(of_times))
        generators = self.generators(Draw.MIXTURE)
        model = refitted(self._normals, of_normals, self._whole, self._scaling, generators)
        return Mixture(end_times, (*of_times, sum(of_normals)), model)

    @cached_property
    def _normals(self) -> list[FoldNormals | FoldKernels]:
        """Gaussian mixtures and kernel densities of the folds, candidates for components."""
        if not self.recipe.gaussian_mixture:
            return []
        deadline = now() + _NORMALS_PART * (self.budget.seconds or math.inf)
        found = [
            candidates(self.folds, self.generators(Draw.MIXTURE), lambda: now() > deadline)
            for candidates in (fold_normals, fold_kernels)
        ]
        return [each for each in found if each is not None]

    def _held_out_at_check(self, members: Sequence[PathObjective]) -> HeldOut:
        n_times = len(end_times_at_check(self.folds, self.recipe))
        return HeldOut(members, self.folds, self._row_times // n_times)

    def _fixed_components(self, held_out: HeldOut) -> list[Tensor] | None:
        """Log-densities of held-out rows under what is not trained; None without a mixture."""
        if not self.recipe.mixture:
            return None
        return [held_out.log_prob(0.0), *(each.held_out(held_out) for each in self._normals)]

    def warn_of_failure(self, trained: Trained) -> None:
        """Warn if the training diverged or learned nothing.

        Raises
        ------
        FloatingPointError
            If it diverged before a check found weights better than those of an untrained field.
        """
        history = self.history
        if self.diverged and history.best_score == -math.inf:
            raise FloatingPointError(f"{self.divergence_message()} Nothing was learned.")
        x, loss = self._square_of_rows(), history.loss_curve[-1] if history.loss_curve else 0.0
        if self.diverged or loss > _LARGE_LOSS * self.best[0].field.n_features * x:
            outcome = (
                "The weights of the best check are kept."
                if self.has_validation_rows
                else "The density is not reliable."
            )
            warn(f"{self.divergence_message()} {outcome}", ConvergenceWarning)
        elif x > _LARGE_ROWS**2:
            warn(f"The fit learned little: {self._large_rows_message()}", ConvergenceWarning)
        elif self.recipe.end_time is None and not any(_flow_times(trained)):
            model = "Gaussian" if trained.mixture is None else "mixture of Gaussians"
            warn(
                f"The fit ended at end_time_=0, and the model is a {model} in flow units: after "
                f"{history.n_iter} steps the flow did not improve the held-out log-likelihood.  "
                f"That is correct for data that are a {model} after the scaling.  Otherwise raise "
                f"max_iter={self.recipe.max_iter} (or max_time), or use more rows; end_time=1.0 "
                "forces the full flow.",
                ConvergenceWarning,
            )

    def divergence_message(self) -> str:
        """Return a message on a diverged training that names the scaling or the learning rate."""
        n_iter = self.history.n_iter
        loss = (
            f" with a loss of {self.history.loss_curve[-1]:.3g}, where an untrained field has 0"
            if self.history.loss_curve
            else ""
        )
        what = f"The training diverged by step {n_iter}{loss}: "
        if self._square_of_rows() > _LARGE_ROWS**2:
            return what + self._large_rows_message()
        rate = self.recipe.learning_rate
        return (
            f"{what}learning_rate_init={rate:g} is too high for these rows; try {rate / 10:g}, or "
            "'auto'."
        )

    def _large_rows_message(self) -> str:
        size = math.sqrt(self._square_of_rows())
        return (
            f"The rows are of size {size:.3g} in flow units, where 1 is right; set "
            "scaling='gaussianize' or 'standardize'."
        )

    @torch.no_grad()
    def _square_of_rows(self) -> float:
        """Mean square of the entries of training rows, in flow units."""
        fold, generators = self.folds[0], self.generators(Draw.STATISTICS)
        rows = [
            source.batch(0, _SIZE_ROWS, generators)[0].double()
            for source in (fold.source, fold.train)
        ]
        return max(float(part.square().mean()) for part in rows)

    def state_dict(self) -> State:
        """Return the state from which :meth:`resume` continues to the same result."""
        return {
            "seed": self._seed,
            "training": self._training.state_dict(),
            "history": asdict(self.history)
            | {"before": list(self.history.before) if self.history.before else None},
            "best": [copy.deepcopy(dict(member.state_dict())) for member in self.best],
            "n_no_change": self.n_no_change,
            "seconds": self.budget.seconds_trained if self.budget.limited else 0.0,
            "checks": self._n_checks,
            "losses": [float(loss) for loss in self._losses],
        }

    def resume(self, state: State) -> None:
        """Resume the fit that the state was saved from."""
        self._load(state)
        self.n_no_change, self._n_checks = state["n_no_change"], state["checks"]
        self.budget.begin_training(state["seconds"])
        self._losses = [torch.tensor(loss, device=self._device) for loss in state["losses"]]
        for member, weights in zip(self.best, state["best"], strict=True):
            member.load_state_dict(weights)

    def warm_start_from(self, state: State | None) -> None:
        """Continue an earlier fit, whose model is the initial members, possibly on other rows.

        Without a state the training starts over from that model.
        """
        if state is not None:
            self._load(state)
        self.history.best_score = (
            self._validation_score(self.best) if self.has_validation_rows else -math.inf
        )
        if self.history.n_iter >= cast(int, self.recipe.max_iter):
            warn(
                "There is nothing left to train: the earlier fit took "
                f"n_iter_={self.history.n_iter} steps, and max_iter={self.recipe.max_iter}; raise "
                "max_iter.",
            )

    def stream(self, n_rows: int, state: State | None) -> Trained:
        """Train for one pass over `n_rows` rows, from an earlier state if there is one."""
        if state is not None:
            self._load(state)
        n_steps = -(-n_rows // self.recipe.batch_size)
        self._first = self.history.n_iter
        for _ in itertools.islice(self.steps(), n_steps):
            pass
        loss = float(torch.stack(self._losses).mean())
        self.diverged = not math.isfinite(loss)
        self._record(loss, None)
        self.best = self.current()
        trained = self.finish()
        self.warn_of_failure(trained)
        return trained

    def _load(self, state: State) -> None:
        try:
            self._training.load_state_dict(state["training"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "The earlier training has weights of other shapes than the model, so that it "
                "cannot be continued; fit anew with warm_start=False."
            ) from error
        before = state["history"]["before"]
        self.history = History(
            **{**state["history"], "before": PathStatistics(*before) if before else None}
        )

    def _validation_score(self, members: Sequence[PathObjective]) -> float:
        held_out = self._held_out_at_check(members)
        return check_score(
            held_out,
            end_times_at_check(self.folds, self.recipe),
            self._fixed_components(held_out),
        )

    def _record(self, loss: float, before: PathStatistics | None) -> None:
        """Append a check to the history, and start a new mean of the losses."""
        self.history.steps.append(self.history.n_iter)
        self.history.loss_curve.append(loss)
        self.history.before = before
        self._losses.clear()

    def generators(self, draw: int) -> Generators:
        """Return the generators of a training step, or of a :class:`Draw` outside the steps."""
        # Seeded for each step rather than once: a resumed fit needs no state of a generator.
        return seeded_generators(step_seed(self._seed, draw), self._device)

    def statistics(
        self, model: PathObjective | Trained, n_rows: int = STATISTICS_ROWS
    ) -> PathStatistics:
        """Return loss, action and length of the path, on the same training rows at each call."""
        return statistics_of(
            model, self._whole, self.recipe, self.generators(Draw.STATISTICS), n_rows
        )

    def _batches(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Yield batches ``(x0, x1, t, z), weight`` from the current step.

        Rows have shape (B, D) for one fold and (K, B, D) for K folds.  There is no `z` on a path
        without a noise term.  Every rank of a process group draws the whole batch, as one process
        would, and takes its share.
        """
        for number in itertools.count(self.history.n_iter):
            generators = self.generators(number)
            parts = [
                _pairs(fold, number - self._first, self.recipe, generators) for fold in self.folds
            ]
            pairs = parts[0] if len(parts) == 1 else PairBatch.stack(parts)
            objective = cast(PathObjective | Ensemble, self._training.objective)
            drawn = objective.draw(pairs.x1, generators.device)
            *inputs, weight = processes.share(
                [pairs.x0, pairs.x1, *drawn, pairs.weight], axis=len(pairs.weight.shape) - 1
            )
            yield tuple(inputs), weight


def _flow_times(trained: Trained) -> tuple[float, ...]:
    """End times of a model."""
    return (trained.end_time,) if trained.mixture is None else trained.mixture.end_times


def _never_stop(run: Run) -> bool:
    return False


def fit_field(
    run: Run,
    checkpoint: Checkpoint | None = None,
    watch: Callable[[Run], bool] = _never_stop,
    interruption: Interruption | None = None,
) -> Trained:
    """Train to the end, choosing weights and end time by held-out log-likelihood.

    Parameters
    ----------
    run : Run, new or resumed
    checkpoint : Checkpoint or None
        File to which the state is written from time to time.
    watch : callable
        Called with the run after every check; returns whether to stop.
    interruption : Interruption or None
        Records a Ctrl-C that ended the training.

    Returns
    -------
    Trained
        The mean of the members' fields at their best check (at the end if nothing is held out),
        with its end time.

    Raises
    ------
    KeyboardInterrupt
        If it comes before the first step, or for the second time.
    FloatingPointError
        If the training diverged and nothing was learned.
    """
    interruption, first = interruption or Interruption(), run.history.n_iter
    try:
        _train(run, checkpoint, watch)
    except KeyboardInterrupt:
        if run.history.n_iter == first:
            raise
        interruption.note(
            f"The fit was interrupted after {run.history.n_iter} of {run.recipe.max_iter} steps; "
            "the estimator is fitted, with the best weights so far."
        )
        unchecked = run.history.n_iter > max(run.history.steps, default=0)
        if unchecked and not (run.has_validation_rows and run.history.steps):
            run.check()
    trained = interruption.finish(run.finish)
    run.warn_of_failure(trained)
    return trained


def _train(run: Run, checkpoint: Checkpoint | None, watch: Callable[[Run], bool]) -> None:
    """Run steps and checks up to the end of the schedule or to early stopping."""
    started, first = time.monotonic(), run.history.n_iter
    checked = first
    for number in run.steps():
        if run.check_is_due() or run.budget.part() >= 1.0:
            run.check()
            checked = number
            if run.recipe.verbose and not run.diverged:
                _report(run, first, started)
            if run.diverged or watch(run) or run.is_over():
                return
        if checkpoint is not None:
            checkpoint.write_if_due(run.state_dict)
    if run.history.n_iter > checked:  # the time budget ended between a check and the next step
        run.check()
        watch(run)


def check_steps(max_iter: int) -> list[int]:
    """Return the steps after which there are checks: denser early, as small data overfit soon."""
    return [math.ceil(max_iter * (k / N_CHECKS) ** 2) for k in range(1, N_CHECKS + 1)]


def _pairs(fold: Fold, number: int, recipe: Recipe, generators: Generators) -> PairBatch:
    """Coupled pairs of rows, with the products of their weights."""
    (x0, weight0), (x1, weight1) = (
        source.batch(number, recipe.batch_size, generators) for source in (fold.source, fold.train)
    )
    partners = recipe.coupling.partners(x0, x1)
    return PairBatch(x0[partners], x1, weight0[partners] * weight1)


@torch.no_grad()
def statistics_of(
    model: PathObjective | Trained, fold: Fold, recipe: Recipe, generators: Generators, n_rows: int
) -> PathStatistics:
    """Return loss, action and length of the path, on at most `n_rows` training rows."""
    bound = _STATISTICS_NUMBERS // model.field.n_features
    n_rows = min(n_rows, max(_FEWEST_STATISTICS_ROWS, bound))
    parts = [
        _pairs(fold, number, recipe, generators)
        for number in range(-(-n_rows // recipe.batch_size))
    ]
    x0, x1 = torch.cat([part.x0 for part in parts]), torch.cat([part.x1 for part in parts])
    z = model.path.draw(x1, generators.device)
    return path_statistics(model.field, model.path, model.base(x0), x1, z)


def _report(run: Run, first: int, started: float) -> None:
    history, max_iter = run.history, cast(int, run.recipe.max_iter)
    elapsed = time.monotonic() - started
    remaining = min(
        elapsed * (max_iter - history.n_iter) / (history.n_iter - first),
        max(0.0, run.budget.left()),
    )
    held_out = (
        f", held-out log-likelihood {history.validation_scores[-1]:.4f}"
        if history.validation_scores
        else ""
    )
    if processes.rank() > 0:
        return
    print(
        f"step {history.n_iter}/{max_iter}: loss {history.loss_curve[-1]:.4f}{held_out}, "
        f"{elapsed:.0f} s elapsed, at most {remaining:.0f} s remaining"
    )
