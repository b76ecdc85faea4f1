"""Fitting a flow: which rows train and which judge, when to stop, and where the flow ends.

Held-out *log-likelihood* judges, because a smaller velocity loss does not mean a better likelihood
(paper 2, lemma 2.4).  A fit has one or more members, each a field trained on its own rows and
judged on the others; they advance together, and their mean is the model.  One member with a
held-out part serves large data.  On small data a held-out part says little and costs much, so every
row is held out from one of several members (cross-fitting), and averaging the fields pays for the
rows that each of them lacks.  A path that is learned belongs to one field: there is one member
then.

Everything that a step draws follows from the seed of the fit and the number of the step.  A fit
that was cut off can so go on from what it had written down, to the same result.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skinterflow._checkpoint import Checkpoint
from skinterflow._estimator import Generators, seeded_generators, step_seed
from skinterflow._limits import Interruption, TimeBudget, timed
from skinterflow._rows import FlowRows, RowSource
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.diagnostics import PathStatistics, path_statistics
from skinterflow.interflow.fields import AveragedField, VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.grading import UNGRADED
from skinterflow.interflow.interpolants import learned_parameters
from skinterflow.interflow.latent import StochasticInterpolant
from skinterflow.interflow.objectives import Ensemble, PathObjective
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.training import OPPONENT_START, Training

END_TIMES = (1.0, 0.97, 0.93, 0.88, 0.8, 0.7, 0.6, 0.5, 0.3, 0.0)
"""End times that "auto" chooses from: the full flow first, the Gaussian last."""

_CHECKED_END_TIMES = (1.0, 0.93, 0.8, 0.5)
"""Those that a check looks at when cross-fitting: small data need the family, as memorising rows
spoils the full flow first."""

State = dict[str, Any]
"""Plain data and tensors: what a fit that is cut off needs to go on."""

N_CHECKS = 10
_JUDGED_ROW_TIMES = 512
"""Held-out rows, times end times, that one check looks at over all members: the bound on its
cost."""
_LEAST_STEPS = 1_000
"""Steps before patience may end a training that is hardly better than the Gaussian that it began
with."""
_LEARNED = 0.05
"""Held-out log-likelihood over the Gaussian's, in nats per row, that shows that something was
learned."""
_CHECKED_PART = 0.3
"""Largest part of a budget of time that checks may take."""
_CHECKS_AFTER = 5
"""Checks whose time is kept for choosing the end time."""
_TROUBLE_ROWS = 256
_LARGE_ROWS = 100.0
"""Size of rows, in flow units, at which the scaling is named as the trouble."""
_LARGE_LOSS = 10.0
"""Loss, relative to the mean square norm of the rows, at which a training has diverged; an
untrained field has 0."""
_TIMED_ROWS = 64
"""Rows by which the time of a check is measured, and the fewest of one."""
_CHECK_PART, _CALIBRATION_PART = 0.02, 0.25
"""Largest parts of a limited time for one check, and for the calibration, which is left out if it
would take more."""
_CALIBRATION_ROW_TIMES = 2_000
"""Judged rows that take as long as the calibration."""
STATISTICS_ROWS = 8_192
_JUDGING_SOLVER = UNGRADED.solver(atol=math.inf, rtol=0.0)
"""Twelve steps and as many divergences: an error that stays the same from check to check."""


class Draw(IntEnum):
    """Numbers of draws that belong to no step, as the numbers of steps are not negative."""

    SETUP = -1
    STATISTICS = -2
    STUDENT = -3
    CALIBRATION = -4


@dataclass(frozen=True)
class Recipe:
    """Resolved parameters, see
    `InterpolantFlowDensity`; None is an `end_time` for held-out rows to choose, a `max_iter`
    without end."""

    coupling: Coupling
    weight_decay: float
    batch_size: int
    learning_rate: float
    max_iter: int | None
    n_iter_no_change: int
    tol: float
    end_time: float | None
    verbose: bool


@dataclass(frozen=True)
class Fold:
    """Rows that train one member, with what they are paired with, and those that judge it; the
    latter are empty if nothing is held out."""

    source: RowSource
    train: RowSource
    judge: FlowRows
    scaling: Scaling | None = None
    """That of the data, estimated on the rows that train; None where it is not to be kept."""


@dataclass
class History:
    """What a fit did: steps, mean loss and held-out log-likelihood (nats per row) per check, and
    the best of the latter."""

    n_iter: int = 0
    steps: list[int] = field(default_factory=list)
    """Number of the step of each check."""
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_score: float = -math.inf
    before: PathStatistics | None = None
    """Of the path as it was before it was learned."""


class Trained(NamedTuple):
    """What a fit gives: the field, the path and the base that it was trained with, where its flow
    ends, and how it went."""

    field: VelocityField
    path: StochasticInterpolant
    base: Scaling
    end_time: float
    history: History


class Run:
    """A fit on its way: the training, the best members so far, and how it went.

    Parameters
    ----------
    members : sequence of PathObjective
        On the device; only a single one may have a path or a base with parameters.
    folds : sequence of Fold, one for each member
    recipe : Recipe
    seed : int
    budget : TimeBudget or None, the time that the fit may take
    whole : Fold or None, all rows in the units of the model, if the folds have other units
    """

    def __init__(
        self,
        members: Sequence[PathObjective],
        folds: Sequence[Fold],
        recipe: Recipe,
        seed: int,
        budget: TimeBudget | None = None,
        whole: Fold | None = None,
    ) -> None:
        alone = len(members) == 1
        self.folds, self.recipe, self.budget = folds, recipe, budget or TimeBudget(None)
        self._whole = whole or folds[0]
        self.history, self.best, self.waited, self.diverged = (
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
        self._n_checks, self._check_seconds, self._row_times = 0, 0.0, _JUDGED_ROW_TIMES
        self._seed, self._first = seed, 0
        self._losses: list[Tensor] = []
        self._device = next(members[0].parameters()).device

    @property
    def judged(self) -> bool:
        """Whether rows are held out."""
        return len(self.folds[0].judge.u) > 0

    def steps(self) -> Iterator[int]:
        """Train, and yield the number of each step."""
        for step in self._training.steps(self._batches()):
            self._losses.append(step.loss)
            self.history.n_iter = step.number
            yield step.number

    def current(self) -> Sequence[PathObjective]:
        """Copies of the members with averaged weights."""
        averaged = self._training.averaged
        members = (
            averaged.objectives() if isinstance(averaged, Ensemble) else [copy.deepcopy(averaged)]
        )
        return [cast(PathObjective, member) for member in members]

    def part(self) -> float:
        """Part of the schedule that is over: of the steps, or of the time if that is more."""
        return max(self.history.n_iter / cast(int, self.recipe.max_iter), self.budget.part())

    def check_is_due(self) -> bool:
        """Whether the run is to be looked at; checks that would take too much of a limited time are
        left out."""
        steps, passed = check_steps(cast(int, self.recipe.max_iter)), self.budget.part()
        if not self.budget.limited:
            return self.history.n_iter in steps
        due = sum(
            self.history.n_iter >= step or passed >= (k / N_CHECKS) ** 2
            for k, step in enumerate(steps, 1)
        )
        if due <= self._n_checks or self._check_seconds > _CHECKED_PART * self.budget.trained():
            return False
        self._n_checks = due
        return True

    def check(self) -> None:
        """Look at the members as they are, and keep them if they are the best; see also
        :attr:`diverged`."""
        self._check_seconds += timed(self._check)

    def _check(self) -> None:
        history, members = self.history, self.current()
        loss = float(torch.stack(self._losses).mean()) if self._losses else history.loss_curve[-1]
        try:
            self.diverged = not math.isfinite(loss)
            score = self._judge(members) if self.judged and not self.diverged else None
        except FloatingPointError:  # weights that are finite, and a flow that is not
            self.diverged = True
        if self.diverged:
            return
        early = self.part() <= OPPONENT_START or not history.steps
        before = self.statistics(members[0]) if self._learned and early else history.before
        self._note(loss, before)
        if score is None:
            self.best = members
            return
        history.validation_scores.append(score)
        improved = score > history.best_score + self.recipe.tol
        if score > history.best_score:
            history.best_score, self.best = score, members
        self.waited = 0 if improved else self.waited + 1

    def is_over(self) -> bool:
        """Whether to stop before the end: after checks without improvement, if something was
        learned before them.

        In the warm-up the score of a field that is still near zero rises and falls by chance.
        """
        if self.diverged or self.waited < self.recipe.n_iter_no_change:
            return self.diverged
        return (
            self.history.n_iter >= _LEAST_STEPS
            or self.history.best_score > self._gaussian_score + _LEARNED
        )

    @cached_property
    def _gaussian_score(self) -> float:
        """Held-out log-likelihood of the Gaussian that the flow starts from, on the rows that a
        check looks at."""
        n_times = len(_end_times_at_check(self.folds, self.recipe))
        return judge(self.best, self.folds, [0.0] * n_times, self._row_times)[0][0]

    def reserve_time(self, student_share: float = 0.0) -> None:
        """Keep time for what follows the training, and look at fewer held-out rows where a check
        would take much of a short time."""
        seconds, generators = cast(float, self.budget.seconds), self.generators(Draw.STATISTICS)
        rows = [
            fold.train.batch(0, _TIMED_ROWS // len(self.folds) or 1, generators)
            for fold in self.folds
        ]
        folds = [
            replace(fold, judge=FlowRows(u, weight, torch.zeros_like(weight, dtype=torch.float64)))
            for fold, (u, weight) in zip(self.folds, rows, strict=True)
        ]
        judge(self.best, folds, END_TIMES[:1])  # what torch loads at its first use is not counted
        per_row = timed(lambda: judge(self.best, folds, END_TIMES[:1])) / _TIMED_ROWS
        most = int(_CHECK_PART * seconds / max(per_row, 1e-9))
        self._row_times = min(_JUDGED_ROW_TIMES, max(_TIMED_ROWS, most))
        choose = self.judged and self.recipe.end_time is None
        checks = _CHECKS_AFTER * per_row * self._row_times if choose else 0.0
        calibration = _CALIBRATION_ROW_TIMES * per_row
        self.budget.calibrates = calibration < _CALIBRATION_PART * seconds
        after = student_share * self.budget.left() + (
            calibration if self.budget.calibrates else 0.0
        )
        self.budget.reserved, self.budget.kept = checks + after, after

    def finish(self) -> Trained:
        """The best members so far as one model, and where its flow ends."""
        fields = [member.field for member in self.best]
        mean = fields[0] if len(fields) == 1 else AveragedField(fields)
        end_time = _choose_end_time(
            self.best, self.folds, self.recipe, self.budget, self._row_times
        )
        return Trained(mean, self.best[0].path, self.best[0].base, end_time, self.history)

    def report_trouble(self, trained: Trained) -> None:
        """Warn of a training that diverged or came to nothing.

        Raises
        ------
        FloatingPointError
            If it diverged and left no weights that held-out rows prefer to an untrained field.
        """
        history = self.history
        if self.diverged and history.best_score == -math.inf:
            raise FloatingPointError(f"{self.trouble()} Nothing was learned.")
        x, loss = self._square_of_rows(), history.loss_curve[-1] if history.loss_curve else 0.0
        if self.diverged or loss > _LARGE_LOSS * self.best[0].field.n_features * x:
            kept = (
                "The weights of the best check are kept."
                if self.judged
                else "The density is not to be trusted."
            )
            _warn(f"{self.trouble()} {kept}")
        elif x > _LARGE_ROWS**2:
            _warn(f"The fit came to little: {self._large_rows()}")
        elif trained.end_time == 0 and self.recipe.end_time is None:
            _warn(
                "The fit ended at end_time_=0, and the model is a Gaussian in the units of the "
                f"flow: after {history.n_iter} steps the held-out rows were no likelier under the "
                "flow.  That is right for data which are Gaussian after the scaling.  Otherwise "
                f"raise max_iter={self.recipe.max_iter} (or max_time), or give more rows; "
                "end_time=1.0 keeps the flow."
            )

    def trouble(self) -> str:
        """What a training that diverged is to be told: the scaling, or the learning rate."""
        n_iter = self.history.n_iter
        loss = (
            f" with a loss of {self.history.loss_curve[-1]:.3g}, where an untrained field has 0"
            if self.history.loss_curve
            else ""
        )
        said = f"The training diverged by step {n_iter}{loss}: "
        if self._square_of_rows() > _LARGE_ROWS**2:
            return said + self._large_rows()
        rate = self.recipe.learning_rate
        return f"{said}learning_rate_init={rate:g} is too high for these rows; try {rate / 10:g}, or 'auto'."

    def _large_rows(self) -> str:
        size = math.sqrt(self._square_of_rows())
        return f"The rows are of size {size:.3g} in the units of the flow, where 1 is right; set scaling='gaussianize' or 'standardize'."

    @torch.no_grad()
    def _square_of_rows(self) -> float:
        """Mean square of the entries of training rows, in flow units."""
        fold, generators = self.folds[0], self.generators(Draw.STATISTICS)
        rows = [
            source.batch(0, _TROUBLE_ROWS, generators)[0].double()
            for source in (fold.source, fold.train)
        ]
        return max(float(part.square().mean()) for part in rows)

    def state_dict(self) -> State:
        """All that a fit of the same rows needs to go on from here to the same end."""
        return {
            "seed": self._seed,
            "training": self._training.state_dict(),
            "history": asdict(self.history)
            | {"before": list(self.history.before) if self.history.before else None},
            "best": [copy.deepcopy(dict(member.state_dict())) for member in self.best],
            "waited": self.waited,
            "seconds": self.budget.trained() if self.budget.limited else 0.0,
            "checks": self._n_checks,
            "losses": [float(loss) for loss in self._losses],
        }

    def resume(self, state: State) -> None:
        """Go on with the very fit that the state is from."""
        self._load(state)
        self.waited, self._n_checks = state["waited"], state["checks"]
        self.budget.begin_training(state["seconds"])
        self._losses = [torch.tensor(loss, device=self._device) for loss in state["losses"]]
        for member, weights in zip(self.best, state["best"], strict=True):
            member.load_state_dict(weights)

    def go_on(self, state: State | None) -> None:
        """Go on from an earlier fit, maybe with other rows: its model, the members at first, is the
        best so far.

        Without a state the training begins anew from that model.
        """
        if state is not None:
            self._load(state)
        self.history.best_score = self._judge(self.best) if self.judged else -math.inf
        if self.history.n_iter >= cast(int, self.recipe.max_iter):
            warnings.warn(
                "There is nothing left to train: the fit that this one goes on from has taken "
                f"n_iter_={self.history.n_iter} steps, and max_iter={self.recipe.max_iter}; raise "
                "max_iter.",
                stacklevel=6,
            )

    def stream(self, n_rows: int, state: State | None) -> Trained:
        """One pass over so many rows, in the steps that follow an earlier state."""
        if state is not None:
            self._load(state)
        n_steps = -(-n_rows // self.recipe.batch_size)
        self._first = self.history.n_iter
        for _ in itertools.islice(self.steps(), n_steps):
            pass
        loss = float(torch.stack(self._losses).mean())
        self.diverged = not math.isfinite(loss)
        self._note(loss, None)
        self.best = self.current()
        trained = self.finish()
        self.report_trouble(trained)
        return trained

    def _load(self, state: State) -> None:
        self._training.load_state_dict(state["training"])
        before = state["history"]["before"]
        self.history = History(
            **{**state["history"], "before": PathStatistics(*before) if before else None}
        )

    def _judge(self, members: Sequence[PathObjective]) -> float:
        return max(
            judge(
                members, self.folds, _end_times_at_check(self.folds, self.recipe), self._row_times
            )
        )[0]

    def _note(self, loss: float, before: PathStatistics | None) -> None:
        self.history.steps.append(self.history.n_iter)
        self.history.loss_curve.append(loss)
        self.history.before = before
        self._losses.clear()

    def generators(self, draw: int) -> Generators:
        """Random numbers of one draw: of a step by its number, of others by those of
        :class:`Draw`."""
        return seeded_generators(step_seed(self._seed, draw), self._device)

    def statistics(
        self, model: PathObjective | Trained, n_rows: int = STATISTICS_ROWS
    ) -> PathStatistics:
        """Loss, action and length of the path that training rows travel; the same rows at each
        call."""
        return statistics_of(
            model, self._whole, self.recipe, self.generators(Draw.STATISTICS), n_rows
        )

    def _batches(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Batches ``(x0, x1, t, z), weight`` from the present step on, without `z` on a path
        without a latent.

        Rows are of shape (B, D) for one fold, (K, B, D) for K folds.
        """
        for number in itertools.count(self.history.n_iter):
            generators = self.generators(number)
            parts = [
                _pairs(fold, number - self._first, self.recipe, generators) for fold in self.folds
            ]
            x0, x1, weight = (
                parts[0] if len(parts) == 1 else map(torch.stack, zip(*parts, strict=True))
            )
            objective = cast(PathObjective | Ensemble, self._training.objective)
            yield (x0, x1, *objective.draw(x1, generators.device)), weight


def _never(run: Run) -> bool:
    return False


def fit_field(
    run: Run,
    checkpoint: Checkpoint | None = None,
    watch: Callable[[Run], bool] = _never,
    interruption: Interruption | None = None,
) -> Trained:
    """Train to the end, choosing weights and end time by held-out log-likelihood.

    Parameters
    ----------
    run : Run, at its start or wherever it got to
    checkpoint : Checkpoint or None, where to note the progress
    watch : function of the run, asked after every check whether to stop
    interruption : Interruption or None, where a Ctrl-C that ended the training is noted

    Returns
    -------
    Trained
        The mean of the members' fields as they were at their best check (at the end if nothing is
        held out), and where its flow ends.

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
        if unchecked and not (run.judged and run.history.steps):
            run.check()
    trained = interruption.finish(run.finish)
    run.report_trouble(trained)
    return trained


def _train(run: Run, checkpoint: Checkpoint | None, watch: Callable[[Run], bool]) -> None:
    """Steps and checks, up to the end of the schedule, or of the patience with it."""
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
            checkpoint.note(run.state_dict)
    if run.history.n_iter > checked:  # the time was over between a check and the next step
        run.check()
        watch(run)


def check_steps(max_iter: int) -> list[int]:
    """Numbers of the steps after which the fit looks at itself: denser early, because small data
    overfit soon."""
    return [math.ceil(max_iter * (k / N_CHECKS) ** 2) for k in range(1, N_CHECKS + 1)]


def _pairs(
    fold: Fold, number: int, recipe: Recipe, generators: Generators
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of rows with the products of their weights."""
    (x0, weight0), (x1, weight1) = (
        source.batch(number, recipe.batch_size, generators) for source in (fold.source, fold.train)
    )
    partners = recipe.coupling.partners(x0, x1)
    return x0[partners], x1, weight0[partners] * weight1


@torch.no_grad()
def statistics_of(
    model: PathObjective | Trained, fold: Fold, recipe: Recipe, generators: Generators, n_rows: int
) -> PathStatistics:
    """Loss, action and length of the path that training rows travel."""
    parts = [
        _pairs(fold, number, recipe, generators)
        for number in range(-(-n_rows // recipe.batch_size))
    ]
    x0, x1, _ = map(torch.cat, zip(*parts, strict=True))
    z = model.path.draw(x1, generators.device)
    return path_statistics(model.field, model.path, model.base(x0), x1, z)


def _end_times_at_check(folds: Sequence[Fold], recipe: Recipe) -> Sequence[float]:
    if recipe.end_time is not None:
        return (recipe.end_time,)
    return _CHECKED_END_TIMES if len(folds) > 1 else _CHECKED_END_TIMES[:1]


def _choose_end_time(
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
    n_row_times: int = _JUDGED_ROW_TIMES,
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


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=8)


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
    print(
        f"step {history.n_iter}/{max_iter}: loss {history.loss_curve[-1]:.4f}{held_out}, "
        f"{elapsed:.0f} s elapsed, at most {remaining:.0f} s remaining"
    )
