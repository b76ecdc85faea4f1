"""FlowEstimator: the base class of the estimators, which trains, stores and evaluates a flow."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils._set_output import _get_container_adapter
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from skinterflow._data.batches import Reader
from skinterflow._data.columns import Columns, check_magnitudes, resolve_columns
from skinterflow._data.degenerate import constant_widths, warn_degenerate
from skinterflow._data.memmap import opened
from skinterflow._data.ranks import check_rows
from skinterflow._data.stored import StoredRows
from skinterflow._fit.callbacks import CallbackSupportMixin, FitEvents
from skinterflow._fit.context import FitContext, Plan
from skinterflow._fit.limits import TimeBudget
from skinterflow._fit.ranks import check_calls
from skinterflow._fit.recipe import (
    check_field,
    continued_fields,
    new_fields,
    resolve_coupling,
    resolve_path,
    resolve_targets,
    resolve_time_law,
)
from skinterflow._fit.run import (
    N_CHECKS,
    STATISTICS_ROWS,
    Draw,
    History,
    Run,
    State,
    Trained,
    fit_field,
)
from skinterflow._persistence.checkpoint import Checkpoint, fingerprint
from skinterflow._persistence.codec import check_can_be_saved
from skinterflow._persistence.mixin import SerializableMixin
from skinterflow._persistence.registry import COUPLINGS, GAMMAS, INTERPOLANTS
from skinterflow._persistence.values import check_fitted_values
from skinterflow._predict.arguments import (
    checked_last_step,
    checked_n_paths,
    checked_noise,
    stochastic_solver,
)
from skinterflow._predict.model import FlowModel, Question, are_far
from skinterflow._runtime import (
    RandomStateLike,
    all_or_nothing,
    named_device,
    on_device,
    private_random_state,
    resolve_device,
    resolve_device_or_cpu,
    seeded_generators,
    step_seed,
    sums_may_overflow,
)
from skinterflow.interflow import processes
from skinterflow.interflow.combined import CombinedDensity
from skinterflow.interflow.couplings import Coupling, Given
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ACTIVATIONS, FrozenField, VelocityField
from skinterflow.interflow.flows import NESTED, Flow, points_outside
from skinterflow.interflow.grading import UNGRADED, Grading
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import QUANTITIES, Gamma, StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.ode import ADAPTIVE_METHODS, FIXED_GRID_ORDERS, Calibration, Solver
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Identity, Scaling

_CALIBRATION_ROWS = 96
_AUTO_ATOL, _AUTO_POINTS_ATOL = 0.05, 5e-3
"""Meaning of ``atol="auto"``: nats for a log-density, flow units for coordinates."""
_AUTO_ATOL_OF_ONE_COLUMN = 2e-3
"""The same for a single column, whose density people integrate, and which costs little: errors of
one sign add up to as much of the total mass."""
_STUDENT_SHARE = 0.35
"""Fraction of `max_time` that is reserved for the distillation of a student."""
_SHORT_STRETCH = 1e-3
"""Time between two points of a trajectory below which it is solved in float64."""
_MOST_KEPT = 8
"""Models and thresholds that one estimator keeps, for different devices and settings."""

PARAMETER_CONSTRAINTS: dict[str, list[Any]] = {
    "interpolant": [StrOptions(set(INTERPOLANTS)), Interpolant],
    "gamma": [StrOptions(set(GAMMAS)), Gamma, None],
    "targets": [StrOptions({"auto", *QUANTITIES}), tuple, list],
    "coupling": [StrOptions(set(COUPLINGS)), Coupling],
    "time_beta": [tuple, list],
    "scaling": [StrOptions({"gaussianize", "power", "whiten", "standardize"}), Scaling, None],
    "field": [nn.Module, callable, None],
    "hidden_layer_sizes": [StrOptions({"auto"}), "array-like"],
    "activation": [StrOptions(set(ACTIVATIONS))],
    "alpha": [Interval(Real, 0, 1e9, closed="both")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, 2**24, closed="both")],
    "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, 1e3, closed="right")],
    "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, 10**9, closed="both")],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
    "solver": [StrOptions({*FIXED_GRID_ORDERS, *ADAPTIVE_METHODS}), Solver],
    "atol": [StrOptions({"auto"}), Interval(Real, 0, 1e300, closed="right")],
    "rtol": [Interval(Real, 0, 1e300, closed="both")],
    "divergence": [StrOptions({"exact"}), Interval(Integral, 1, 1_024, closed="both")],
    "device": [str, torch.device],
    "n_jobs": [
        Interval(Integral, 1, 2**15, closed="both"),
        Interval(Integral, -(2**15), -1, closed="both"),
        None,
    ],
    "checkpoint": [str, os.PathLike, None],
}
"""Constraints of the parameters that all estimators share."""


class FlowEstimator(CallbackSupportMixin, SerializableMixin):
    """Base class of estimators that are a flow from a source to a target."""

    interpolant: str | Interpolant
    gamma: str | Gamma | None
    targets: str | Sequence[str]
    coupling: str | Coupling
    time_beta: Sequence[float]
    scaling: str | Scaling | None
    field: VelocityField | nn.Module | Callable[..., torch.Tensor] | None
    hidden_layer_sizes: str | Sequence[int]
    activation: str
    random_state: RandomStateLike
    solver: str | Solver
    atol: str | float
    rtol: float
    divergence: str | int
    device: str | torch.device
    n_jobs: int | None
    warm_start: bool
    learning_rate_init: str | float
    max_time: float | None
    checkpoint: str | os.PathLike[str] | None
    n_features_in_: int
    n_iter_: int
    loss_: float
    end_time_: float

    _source: Scaling
    _target: Scaling
    _path: StochasticInterpolant
    _trained: VelocityField
    _field: VelocityField
    _calibration: Calibration | Grading | None
    _progress: State | None
    _n_features_out: int
    _cache: dict[Any, Any]

    _coupling: Coupling
    _batch_size: int = 512  # not saved by release 0.1

    _fitted_parts: ClassVar[frozenset[str]] = frozenset(
        {
            "_source",
            "_target",
            "_path",
            "_trained",
            "_field",
            "_calibration",
            "_progress",
            "_n_features_out",
            "n_features_in_",
            "end_time_",
        }
    )
    _other_parts: ClassVar[frozenset[str]] = SerializableMixin._other_parts | {
        "_coupling",
        "_batch_size",
    }
    _gaussian_source: ClassVar[bool]
    _read_by_predictions: ClassVar[tuple[str, ...]] = (
        "solver",
        "atol",
        "rtol",
        "divergence",
        "device",
        "n_jobs",
    )
    _components: ClassVar[tuple[str, ...]] = (
        "interpolant",
        "gamma",
        "coupling",
        "scaling",
        "field",
    )
    _validation_row_times: ClassVar[int | None] = None
    _doc_link_module: ClassVar[str] = "skinterflow"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_field")

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        if self.__sklearn_is_fitted__():
            self._cache = {}

    @classmethod
    def _rebuilt(cls, attributes: Mapping[str, Any]) -> Self:
        estimator = super()._rebuilt(attributes)
        estimator._cache = {}
        return estimator

    @classmethod
    def _check_fitted(cls, fitted: Mapping[str, Any]) -> None:
        super()._check_fitted(fitted)
        n_atoms = sum(map(len, fitted.get("atoms_", {}).values()))
        widths = [
            fitted["n_features_in_"],
            fitted["_field"].n_features - n_atoms,
            fitted["_trained"].n_features - n_atoms,
        ]
        if len({*widths}) > 1:
            raise ValueError(
                f"rows and fields should have the same number of features, but have {widths}"
            )
        check_fitted_values(fitted)

    def _reader(
        self,
        rows: NDArray[Any],
        weight: NDArray[np.float64],
        device: torch.device,
        names: Sequence[str],
        columns: Columns | None = None,
    ) -> Reader:
        """Reader of the rows without scaling; warns of columns that have no density."""
        columns = columns or resolve_columns(None, None, names)
        check_magnitudes(rows, names)
        widths = np.where(columns.whole, 0.0, constant_widths(rows))
        warn_degenerate(rows, widths, names, columns.whole)
        columns.warn_point_masses(rows, widths)
        return Reader(rows, weight, widths, Identity(), device, columns.whole, columns.atoms)

    def _scaling_of(
        self,
        reader: Reader,
        held_out: torch.Tensor,
        generator: torch.Generator,
        columns: Columns | None = None,
        gaussianized: Sequence[int] | None = None,
    ) -> Scaling:
        """Scaling estimated on the rows that are not held out."""
        columns, rows = (
            columns or resolve_columns(None, None, [""] * reader.X.shape[1]),
            reader.scaling_rows(held_out),
        )
        X, weight = (
            (reader.X, reader.weight) if rows is None else (reader.X[rows], reader.weight[rows])
        )
        return columns.estimate_scaling(
            copy.deepcopy(self.scaling), X, weight, reader.widths, generator, gaussianized
        )

    def _new_path(self, n_features: int, warm: bool) -> StochasticInterpolant:
        """Path to train on: a new one, or a copy of the fitted one for a warm start."""
        return (
            copy.deepcopy(self._path)
            if warm
            else resolve_path(self.interpolant, self.gamma, n_features)
        )

    def _new_targets(
        self, path: StochasticInterpolant, base: Scaling | None, warm: bool
    ) -> tuple[str, ...]:
        """Quantities to learn, or those of the fitted field for a warm start.

        `base` is None if the source is not a Gaussian.
        """
        if warm:
            return self._trained.targets
        if isinstance(self.coupling, Given):
            raise ValueError(
                f"coupling={self.coupling!r} is that of InterpolantTransport.fit(X0, X1, "
                "paired=True), where rows keep their order; set coupling='independent'."
            )
        targets = resolve_targets(self.targets, path, base, resolve_coupling(self.coupling))
        if self.targets == "auto" and self.field is not None and not path.interpolant.resamples:
            targets = ("b",)
        check_field(self.field, self.n_features_in_, getattr(self, "student_layer_sizes", None))
        return targets

    @contextmanager
    def _fitting(
        self, X: ArrayLike, sample_weight: ArrayLike | None, y: ArrayLike | None = None
    ) -> Iterator[FitContext]:
        """Context of one call of `fit`, the same for all estimators.

        The block validates the rows, calls :meth:`_begin` with them, and trains.  If it raises, the
        estimator remains as it was.  After a Ctrl-C, the fit is completed with the weights so far
        before `KeyboardInterrupt` is raised.

        Parameters
        ----------
        X, sample_weight, y : array-like, as passed by the user, for callbacks that score them
        """
        with processes.all_ranks():
            warm = self.warm_start and self.__sklearn_is_fitted__()
            check_calls(self, X, warm)
            budget = TimeBudget(self.max_time)
            # Outside the inner block, which would otherwise undo what the teardown needs.
            events = FitEvents(self, X, sample_weight, N_CHECKS + 1 * budget.limited, y)
            context = FitContext(warm, events, budget)
            with all_or_nothing(self):
                yield context
                context.share_interruption()
            # Outside the block, which would otherwise undo the fit for a KeyboardInterrupt.
            context.end()

    def _begin(self, context: FitContext, *data: NDArray[Any]) -> None:
        """Set the device, the seed and the checkpoint of a fit to these arrays."""
        context.device = resolve_device(self.device)
        self._solver_of_parameters()  # raises before the training if it is invalid
        check_rows(data)
        drawn = int(private_random_state(self.random_state).randint(2**31))
        seed = processes.of_first(lambda: drawn)
        if context.warm and self.random_state is None and self._progress is not None:
            seed = self._progress["seed"]  # the same rows are held out again
        if self.checkpoint is not None:
            check_can_be_saved({name: getattr(self, name) for name in self._components})
            started = [self.n_iter_, self.loss_] if context.warm else []
            fixed = None if self.random_state is None else seed
            path, details = self.checkpoint, [fixed, *started]
            context.checkpoint = processes.of_first(
                lambda: Checkpoint(path, fingerprint(self, details, data), seed)
            )
            seed = context.checkpoint.seed  # that of the file, if the fit is resumed
        context.seed = seed
        setup = seeded_generators(step_seed(seed, Draw.SETUP), context.device)
        context.setup = setup.cpu

    def _run(self, plan: Plan, context: FitContext) -> None:
        """Train according to the plan, and set the fitted attributes."""
        objectives = self._objectives(plan, context.warm, context.device, context.setup)
        trained = self._train(objectives, plan, context)
        field = self._final_field(trained, objectives[0], plan, context)
        context.interruption.finish(
            lambda: self._set_model(
                trained, field, plan, self._calibrated(field, trained, plan, context)
            )
        )

    def _final_field(
        self, trained: Trained, objective: PathObjective, plan: Plan, context: FitContext
    ) -> VelocityField:
        """Field of the model: the trained field; subclasses may replace it with a student."""
        return trained.field

    def _objectives(
        self, plan: Plan, warm: bool, device: torch.device, generator: torch.Generator
    ) -> list[PathObjective]:
        """Objectives to train, one for each fold: of new fields, or of copies of fitted ones."""
        n = len(plan.folds)
        if warm:
            fields = continued_fields(n, self._trained, plan.path)
        else:
            fields = new_fields(
                n,
                self.n_features_in_,
                self.field,
                self.hidden_layer_sizes,
                self.activation,
                plan.targets,
                plan.path,
                generator,
                self._columns().atoms,
            )
        law = resolve_time_law(self.time_beta)
        return [PathObjective(field, plan.path, law, plan.base).to(device) for field in fields]

    def _train(
        self, objectives: Sequence[PathObjective], plan: Plan, context: FitContext
    ) -> Trained:
        """Train, from scratch or from an earlier state, and set the attributes of the history."""
        budget, checkpoint = context.budget, context.checkpoint
        run = Run(
            objectives,
            plan.folds,
            plan.recipe,
            context.seed,
            budget,
            plan.whole,
            plan.target_scaling,
            self._validation_row_times,
        )
        if budget.limited:
            run.reserve_time(0.0 if plan.student is None else _STUDENT_SHARE)
            budget.begin_training()
        earlier = self._progress if context.warm else None
        if checkpoint is not None and checkpoint.state is not None:
            run.resume(checkpoint.state)
        elif context.warm:
            # With another number of folds, only the weights are reused, not the optimisers.
            same_folds = earlier is not None and len(earlier["best"]) == len(plan.folds)
            run.warm_start_from(earlier if same_folds else None)
        if checkpoint is not None:
            # Before the training, so that a file that cannot be written raises early.
            checkpoint.write(run.state_dict())
        self._progress = earlier
        with processes.one_process():
            context.events.begin()
        trained = fit_field(
            run,
            checkpoint,
            partial(self._checked, plan=plan, context=context),
            context.interruption,
        )
        with processes.one_process():
            context.events.end(lambda: self._attributes_so_far(run, plan))
        context.interruption.finish(lambda: self._set_training(trained, run))
        return trained

    def _checked(self, run: Run, plan: Plan, context: FitContext) -> bool:
        """Store the progress at a check, call the callbacks, and return whether to stop."""
        # Only a warm start needs the progress, which is about five times as large as the model.
        scalings = {"scalings": [fold.scaling for fold in plan.folds]}
        self._progress = run.state_dict() | scalings if self.warm_start else None
        last = run.part() >= 1.0
        stop = False
        try:
            with processes.one_process():  # ranks may have different callbacks
                stop = context.events.checked(lambda: self._attributes_so_far(run, plan), last)
        except KeyboardInterrupt:
            if not processes.interrupt():
                raise
        return processes.any_rank(stop)

    def _attributes_so_far(self, run: Run, plan: Plan) -> dict[str, Any]:
        """Attributes that the estimator would have if the run stopped now."""
        trained = copy.deepcopy(run.finish())
        stopped = object.__new__(type(self))
        stopped.__dict__ = dict(vars(self))
        stopped._set_history(trained.history)
        stopped._set_model(trained, trained.field, plan)
        before = vars(self)
        return {
            name: value
            for name, value in vars(stopped).items()
            if name not in before or before[name] is not value
        }

    def _set_training(self, trained: Trained, run: Run, n_rows: int = STATISTICS_ROWS) -> None:
        """Set the attributes that describe the training."""
        after = run.statistics(trained, n_rows)
        self._set_history(trained.history)
        self.action_ = after.action
        self.path_length_ = after.length
        self._coupling = run.recipe.coupling
        self._batch_size = run.recipe.batch_size

    def _set_history(self, history: History) -> None:
        before = history.before
        self.n_iter_ = history.n_iter
        self.check_steps_ = history.steps
        self.loss_curve_ = history.loss_curve
        self.loss_ = history.loss_curve[-1] if history.loss_curve else float("nan")
        self.initial_action_ = before.action if before else None
        self.initial_path_length_ = before.length if before else None

    def _set_model(
        self,
        trained: Trained,
        field: VelocityField,
        plan: Plan,
        calibration: Calibration | Grading | None = None,
    ) -> None:
        """Set the attributes of the fitted model, on the CPU.

        `field` is the trained field or its student.
        """
        source = trained.base if plan.source_scaling is None else plan.source_scaling
        self._source = source.cpu()
        self._target = plan.target_scaling.cpu()
        self._path = trained.path.cpu()
        self._trained = trained.field.cpu()
        self._field = field.cpu()
        self._calibration = calibration
        # Created here, because scikit-learn's checks forbid new attributes at prediction.
        self._cache = {}
        self._n_features_out = self.n_features_in_
        self.end_time_ = trained.end_time

    def _calibrated(
        self, field: VelocityField, trained: Trained, plan: Plan, context: FitContext
    ) -> Calibration | Grading | None:
        """Calibrate the solver on rows of the data and on rows outside.

        Returns None if the flow ends at 0, the solver chooses its own steps, or there is no time.
        With several end times, the latest is calibrated.
        """
        times = (trained.end_time,) if trained.mixture is None else trained.mixture.end_times
        end_time = max(times)
        own_steps = isinstance(self.solver, Solver) or self.solver in ADAPTIVE_METHODS
        if end_time == 0 or own_steps or not context.budget.calibrates:
            return None
        generators = seeded_generators(step_seed(context.seed, Draw.CALIBRATION), context.device)
        rows = plan.whole.train.batch(0, _CALIBRATION_ROWS, generators)[0].double()
        flow = Flow(on_device(field, rows.device, torch.float64), end_time=end_time)
        target = on_device(plan.target_scaling, rows.device, torch.float64)
        columns = self._columns()
        rows = columns.with_density(rows, target)
        outside = _rows_outside(rows, target, columns)
        base = on_device(trained.base, rows.device, torch.float64)
        try:
            return flow.calibrate(
                rows, cast(str, self.solver), outside, base if self._gaussian_source else None
            )
        except (FloatingPointError, ValueError) as error:
            raise FloatingPointError(
                "The training diverged: the trained field, or its divergence, is too large for the "
                f"ODE solver.  Decrease learning_rate_init={self.learning_rate_init!r}, or replace "
                f"scaling={self.scaling!r}."
            ) from error

    def _names_in(self) -> list[str]:
        """Names of the fitted columns, or ``x0``, ``x1``, ... as in scikit-learn."""
        return list(
            getattr(self, "feature_names_in_", [f"x{k}" for k in range(self.n_features_in_)])
        )

    def _contained(self, rows: NDArray[Any], original: Any, names: Sequence[str]) -> Any:
        """Wrap rows in the container selected by :meth:`set_output`.

        If `original` is a data frame, its index is kept.
        """
        adapter = _get_container_adapter("transform", self)
        return (
            rows
            if adapter is None
            else adapter.create_container(rows, original, columns=np.asarray(names, dtype=object))
        )

    def _check_usable(self) -> None:
        """Raise unless the estimator is fitted and the parameters that predictions read are valid.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a parameter that was set after the fit is invalid.
        """
        check_is_fitted(self)
        read = {name: getattr(self, name) for name in self._read_by_predictions}
        constraints = {name: self._parameter_constraints[name] for name in read}
        validate_parameter_constraints(constraints, read, type(self).__name__)
        named_device(self.device)

    def _validated(self, X: Any) -> NDArray[Any]:
        self._check_usable()
        return self._validated_rows(X)

    def _validated_rows(self, X: Any, reset: bool = False, n_min: int = 1) -> NDArray[Any]:
        """Validate at least `n_min` rows, which remain on disk if they are there."""
        X = opened(X)
        if isinstance(X, StoredRows):
            validate_data(self, X.header, reset=reset, skip_check_array=True)
            return cast(NDArray[Any], X.checked(n_min))
        with sums_may_overflow():
            rows: NDArray[Any] = validate_data(
                self, X, dtype=[np.float64, np.float32], ensure_min_samples=n_min, reset=reset
            )
        return rows

    def _validated_other(self, X: ArrayLike, name: str, space: str) -> NDArray[Any]:
        """Validate rows of the side that `feature_names_in_` does not describe."""
        self._check_usable()
        rows = checked_rows(X, name)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"{name} has {rows.shape[1]} columns, but the {space} has {self.n_features_in_}."
            )
        return rows

    def _columns(self) -> Columns:
        """Bounds and whole numbers of the columns of the target; here, there are none."""
        return resolve_columns(None, None, [""] * self.n_features_in_)

    def _model_for(self, rows: NDArray[Any], dtype: torch.dtype | None = None) -> FlowModel:
        """Fitted model in the precision of the rows, or in `dtype`; built once and kept."""
        device = resolve_device_or_cpu(self.device)
        dtype = dtype or self._flow_dtype(rows)
        model: FlowModel = self._kept(
            ("model", device, dtype), lambda: self._built_model(device, dtype)
        )
        return replace(model, n_jobs=self.n_jobs)

    def _kept(self, name: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """What follows from the fitted model: computed once for each setting of the solver."""
        key = (*name, self.device, self.solver, self.atol, self.rtol, self.divergence)
        if key not in self._cache:
            if len(self._cache) >= _MOST_KEPT:
                self._cache.clear()
            self._cache[key] = compute()
        return self._cache[key]

    def _built_model(
        self,
        device: torch.device,
        dtype: torch.dtype,
        scored: Callable[[VelocityField], VelocityField] | None = None,
    ) -> FlowModel:
        """Fitted model; `scored` makes the field that is integrated from the drift."""
        drift, path = on_device(self._field, device, dtype), on_device(self._path, device, dtype)
        base = on_device(self._source, device, dtype) if self._gaussian_source else None
        field: VelocityField
        if scored is not None:
            field = scored(drift)
        elif self.divergence == "exact":
            field = FrozenField(drift)
        else:
            field = Hutchinson(drift, int(self.divergence))
        return FlowModel(
            columns=self._columns(),
            flow=Flow(field, self._solver(), self.end_time_),
            quantities=LearnedQuantities(drift, path, base, self._fitted_coupling()),
            source=on_device(self._source, device, torch.float64),
            target=on_device(self._target, device, torch.float64),
            device=device,
            dtype=dtype,
            mixture=self._mixture(field, base, device),
        )

    def _mixture(
        self, field: VelocityField, base: Scaling | None, device: torch.device
    ) -> CombinedDensity | None:
        """Density of the model, if it is not that of the flow at one time."""
        return None

    def _positions(
        self, question: Question, rows: NDArray[Any], times: Sequence[float], side: str = "target"
    ) -> NDArray[Any]:
        """Positions of rows along the flow, shape (len(times), n, D)."""
        # In float32, the solver's steps within a shorter interval would not all be distinct.
        short = any(abs(b - a) < _SHORT_STRETCH for a, b in itertools.pairwise(times))
        precise = rows.astype(np.float64) if short else rows
        positions, _ = self._model_for(precise).ask(question, precise, times, side=side)
        return np.moveaxis(positions.astype(rows.dtype), 1, 0)

    def _diffused(
        self,
        question: Callable[..., torch.Tensor],
        rows: NDArray[Any],
        t: float,
        random: np.random.RandomState,
        epsilon: float | str | Callable[[float], float],
        n_steps: int | None,
        side: str = "source",
        denoise_from: float | None = None,
    ) -> NDArray[np.float64]:
        """Rows carried by a diffusion; `question` is `FlowModel.diffuse` or `diffuse_back`."""
        level = checked_noise(epsilon)
        last = [] if denoise_from is None else [checked_last_step(denoise_from, t)]
        solver, model = stochastic_solver(n_steps, level), self._model_for(rows, torch.float64)
        generator = torch.Generator(model.device).manual_seed(int(random.randint(2**31)))
        return model.diffused(question, rows, t, level, solver, generator, *last, side=side)

    def _diffusion_log_density(
        self,
        rows: NDArray[Any],
        t: float,
        start: float,
        random: np.random.RandomState,
        epsilon: float | str | Callable[[float], float],
        n_paths: int,
        n_steps: int | None,
        log_density: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> NDArray[np.float64]:
        """Log-densities of a diffusion, their standard errors and lower bounds, shape (n, 3)."""
        level, n_paths = checked_noise(epsilon), checked_n_paths(n_paths)
        solver, model = stochastic_solver(n_steps, level), self._model_for(rows, torch.float64)
        generator = torch.Generator(model.device).manual_seed(int(random.randint(2**31)))
        return model.diffused(
            FlowModel.diffusion_log_prob,
            rows,
            *(t, start, level, solver, generator, n_paths, log_density),
            side="source" if start else "target",
            n_copies=n_paths * rows.shape[1],
            refuse_infinite=False,
        )

    def _fitted_coupling(self) -> Coupling:
        """Coupling that the model was trained with."""
        # Models of release 0.1 saved only the parameter.
        return self._coupling if hasattr(self, "_coupling") else resolve_coupling(self.coupling)

    def _flow_dtype(self, rows: NDArray[Any]) -> torch.dtype:
        """Precision of the rows, unless the solver chooses the one that its tolerance needs."""
        chosen = self._solver_of_parameters().method == NESTED
        return torch.float32 if rows.dtype == np.float32 and not chosen else torch.float64

    def _solver(self) -> Solver:
        solver, calibration = self._solver_of_parameters(), self._calibration
        if self.solver == NESTED:
            grading = calibration if isinstance(calibration, Grading) else UNGRADED
            points = _AUTO_POINTS_ATOL if self.atol == "auto" else solver.atol
            return grading.solver(solver.atol, solver.rtol, points)
        if isinstance(calibration, Calibration) and calibration.method == self.solver:
            return calibration.solver(solver.atol, solver.rtol)
        return solver

    def _solver_of_parameters(self) -> Solver:
        if isinstance(self.solver, Solver):
            return self.solver
        if not isinstance(self.atol, str):
            return Solver(self.solver, float(self.atol), float(self.rtol))
        atol = _AUTO_ATOL if self.n_features_in_ > 1 else _AUTO_ATOL_OF_ONE_COLUMN
        return Solver(self.solver, atol, float(self.rtol))


def checked_rows(X: Any, name: str, n_min: int = 1) -> NDArray[Any]:
    """Validate at least `n_min` rows, which remain on disk if they are there."""
    X = opened(X)
    if isinstance(X, StoredRows):
        return cast(NDArray[Any], X.checked(n_min, name))
    with sums_may_overflow():
        rows: NDArray[Any] = check_array(
            X, dtype=[np.float64, np.float32], ensure_min_samples=n_min, input_name=name
        )
    return rows


def _rows_outside(rows: torch.Tensor, target: Scaling, columns: Columns) -> list[torch.Tensor]:
    """Rows in flow units that lie outside those of the data, in two ways.

    In the units of the data they are stretched about the mean, and uniform in a wider box; entries
    at an atom stay there.
    """
    x = target.inverse(rows)
    outside = [target(columns.with_atoms_of(x, part)) for part in points_outside(x)]
    return [part[~are_far(part, torch.float32)][: len(rows) // 2] for part in outside]
