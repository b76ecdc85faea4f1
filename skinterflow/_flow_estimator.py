"""What the two estimators of a flow share: training it, keeping it, and asking it block by
block."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils._set_output import _get_container_adapter
from sklearn.utils.validation import check_is_fitted, validate_data

from skinterflow._arguments import checked_noise, stochastic_solver
from skinterflow._callbacks import CallbackSupportMixin, FitEvents
from skinterflow._checkpoint import Checkpoint, fingerprint
from skinterflow._columns import Columns, check_magnitudes, resolve_columns
from skinterflow._defaults import (
    COUPLINGS,
    GAMMAS,
    INTERPOLANTS,
    continued_fields,
    new_fields,
    resolve_coupling,
    resolve_path,
    resolve_targets,
    resolve_time_law,
)
from skinterflow._estimator import (
    RandomStateLike,
    map_blocks,
    named_device,
    on_device,
    private_random_state,
    resolve_device_or_cpu,
    seeded_generators,
    step_seed,
    sums_may_overflow,
)
from skinterflow._fitted import FittedFlow
from skinterflow._fitted_values import check_fitted_values
from skinterflow._fitting import (
    STATISTICS_ROWS,
    Draw,
    Fold,
    History,
    Recipe,
    Run,
    State,
    Trained,
    fit_field,
)
from skinterflow._limits import Interruption, TimeBudget
from skinterflow._rows import Reader
from skinterflow._saving import Storable
from skinterflow._scaling import constant_widths, warn_degenerate
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ACTIVATIONS, VelocityField
from skinterflow.interflow.flows import NESTED, Flow, Measured, points_outside, warn_unresolved
from skinterflow.interflow.grading import UNGRADED, Grading
from skinterflow.interflow.heads import HeadedDrift
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.latent import QUANTITIES, Gamma, StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.ode import ADAPTIVE_METHODS, FIXED_GRID_ORDERS, Calibration, Solver
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Compose, Scaling

_CALIBRATION_ROWS = 96
_AUTO_ATOL, _AUTO_POINTS_ATOL = 0.05, 5e-3
"""What atol="auto" is for densities, in nats, and for coordinates, in flow units."""

Work = Callable[[torch.Tensor, FittedFlow], Measured]

PARAMETER_CONSTRAINTS: dict[str, list[Any]] = {
    "interpolant": [StrOptions(set(INTERPOLANTS)), Interpolant],
    "gamma": [StrOptions(set(GAMMAS)), Gamma, None],
    "targets": [StrOptions({"auto", *QUANTITIES}), tuple, list],
    "coupling": [StrOptions(set(COUPLINGS)), Coupling],
    "time_beta": [tuple, list],
    "scaling": [StrOptions({"gaussianize", "power", "whiten", "standardize"}), Scaling, None],
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
    "solver": [StrOptions({*FIXED_GRID_ORDERS, *ADAPTIVE_METHODS})],
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
"""Constraints of the parameters that both estimators have."""

_READ_BY_PREDICTIONS = ("solver", "atol", "rtol", "divergence", "device", "n_jobs")

_FARTHEST = {torch.float64: 1e100, torch.float32: 1e12}
"""Distance from the centre, in units of the flow, from which on the arithmetic of a flow of that
precision may overflow."""


@dataclass(frozen=True)
class Sitting:
    """What surrounds one call of `fit`: its seed, whether it goes on from an earlier one, whom it
    tells, where it notes its progress."""

    seed: int
    warm: bool
    events: FitEvents
    checkpoint: Checkpoint | None
    budget: TimeBudget
    interruption: Interruption = field(default_factory=Interruption)

    def end(self) -> None:
        """The estimator is fitted: raise `KeyboardInterrupt` if there was a Ctrl-C, or else remove
        the checkpoint."""
        self.interruption.raise_if_noted()
        if self.checkpoint is not None:
            self.checkpoint.remove()


class Ends(NamedTuple):
    """The scalings of the two ends of a flow; None for a source that is the trained base."""

    source: Scaling | None
    target: Scaling


class FlowEstimator(CallbackSupportMixin, Storable):
    """An estimator that is a flow between the units of a source and those of a target."""

    interpolant: str | Interpolant
    gamma: str | Gamma | None
    targets: str | Sequence[str]
    coupling: str | Coupling
    time_beta: Sequence[float]
    scaling: str | Scaling | None
    hidden_layer_sizes: str | Sequence[int]
    activation: str
    random_state: RandomStateLike
    solver: str
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

    _coupling: Coupling
    _batch_size: int = 512  # models of release 0.1 do not hold it

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
    _other_parts: ClassVar[frozenset[str]] = Storable._other_parts | {"_coupling", "_batch_size"}
    _gaussian_source: ClassVar[bool]
    _doc_link_module: ClassVar[str] = "skinterflow"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_field")

    @classmethod
    def _check_fitted(cls, fitted: Mapping[str, Any]) -> None:
        super()._check_fitted(fitted)
        widths = [
            fitted["n_features_in_"],
            fitted["_field"].n_features,
            fitted["_trained"].n_features,
        ]
        if len({*widths}) > 1:
            raise ValueError(
                f"the rows and the fields should have as many features, but have {widths}"
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
        """Reader of the rows as they are; columns without a density are named in a warning."""
        columns = columns or resolve_columns(None, None, names)
        check_magnitudes(rows, names)
        widths = np.where(columns.whole, 0.0, constant_widths(rows))
        warn_degenerate(rows, widths, names, columns.whole)
        columns.warn_point_masses(rows, widths)
        return Reader(rows, weight, widths, Compose([]), device, columns.whole)

    def _scaling_of(
        self,
        reader: Reader,
        held_out: torch.Tensor,
        generator: torch.Generator,
        columns: Columns | None = None,
        gaussianized: Sequence[int] | None = None,
    ) -> Scaling:
        """The scaling that the rows which are not held out want."""
        columns, rows = (
            columns or resolve_columns(None, None, [""] * reader.X.shape[1]),
            reader.training_numbers(held_out),
        )
        X, weight = (
            (reader.X, reader.weight) if rows is None else (reader.X[rows], reader.weight[rows])
        )
        return columns.estimate_scaling(
            copy.deepcopy(self.scaling), X, weight, reader.widths, generator, gaussianized
        )

    def _new_path(self, n_features: int, warm: bool) -> StochasticInterpolant:
        """The path to train on: new, or a copy of what was learned."""
        return (
            copy.deepcopy(self._path)
            if warm
            else resolve_path(self.interpolant, self.gamma, n_features)
        )

    def _new_targets(
        self, path: StochasticInterpolant, base: Scaling | None, warm: bool
    ) -> tuple[str, ...]:
        """The quantities to learn, or those that were learned; `base` is None where the source is
        no Gaussian."""
        if warm:
            return self._trained.targets if isinstance(self._trained, HeadedDrift) else ("b",)
        return resolve_targets(self.targets, path, base, resolve_coupling(self.coupling))

    def _objectives(
        self,
        n: int,
        n_features: int,
        path: StochasticInterpolant,
        targets: tuple[str, ...],
        base: Scaling,
        warm: bool,
        device: torch.device,
        generator: torch.Generator,
    ) -> list[PathObjective]:
        """What is trained, one for each member: new fields, or copies of what was trained."""
        if warm:
            fields = continued_fields(n, self._trained, path)
        else:
            fields = new_fields(
                n, n_features, self.hidden_layer_sizes, self.activation, targets, path, generator
            )
        return [
            PathObjective(field, path, resolve_time_law(self.time_beta), base).to(device)
            for field in fields
        ]

    def _sitting(
        self, warm: bool, events: FitEvents, budget: TimeBudget, *data: NDArray[Any]
    ) -> Sitting:
        """What surrounds one call of `fit` on these arrays; a checkpoint of it may have a seed to
        go on with."""
        seed = int(private_random_state(self.random_state).randint(2**31))
        if warm and self.random_state is None and self._progress is not None:
            seed = self._progress["seed"]  # so that the same rows are held out again
        if self.checkpoint is None:
            return Sitting(seed, warm, events, None, budget)
        started = [self.n_iter_, self.loss_] if warm else []
        fixed = None if self.random_state is None else seed
        checkpoint = Checkpoint(self.checkpoint, fingerprint(self, [fixed, *started], data), seed)
        return Sitting(checkpoint.seed, warm, events, checkpoint, budget)

    def _train(
        self,
        objectives: Sequence[PathObjective],
        folds: Sequence[Fold],
        recipe: Recipe,
        ends: Ends,
        sitting: Sitting,
        whole: Fold | None = None,
        student_share: float = 0.0,
    ) -> Trained:
        """Train, from the start or from where an earlier fit got to, and set the attributes that
        tell how it went."""
        budget, interruption = sitting.budget, sitting.interruption
        run = Run(objectives, folds, recipe, sitting.seed, budget, whole)
        if budget.limited:
            run.reserve_time(student_share)
            budget.begin_training()
        checkpoint, earlier = sitting.checkpoint, self._progress if sitting.warm else None
        if checkpoint is not None and checkpoint.state is not None:
            run.resume(checkpoint.state)
        elif sitting.warm:
            run.go_on(
                earlier if earlier is not None and len(earlier["best"]) == len(folds) else None
            )
        if checkpoint is not None:
            checkpoint.write(
                run.state_dict()
            )  # before the work, so that a disk which cannot be written shows itself

        self._progress = earlier

        def watch(run: Run) -> bool:
            # Only a warm start has use for it, and it is some five times the size of the model.
            scalings = {"scalings": [fold.scaling for fold in folds]}
            self._progress = run.state_dict() | scalings if self.warm_start else None
            return sitting.events.checked(lambda: self._stopped(run, ends), last=run.part() >= 1.0)

        sitting.events.begin()
        trained = fit_field(run, checkpoint, watch, interruption)
        sitting.events.end(lambda: self._stopped(run, ends))
        interruption.finish(lambda: self._tell(trained, run))
        return trained

    def _stopped(self, run: Run, ends: Ends) -> dict[str, Any]:
        """Attributes that the estimator would have, if the run stopped here."""
        trained = copy.deepcopy(run.finish())
        return self._history_attributes(trained.history) | self._model_attributes(
            trained, trained.field, ends
        )

    def _keep(
        self, trained: Trained, field: VelocityField, ends: Ends, fold: Fold, sitting: Sitting
    ) -> None:
        """Set the attributes of the fitted model; `field` is the trained one or its student."""
        calibrates = sitting.budget.calibrates
        calibration = (
            self._calibrated(field, trained, fold, ends, sitting.seed) if calibrates else None
        )
        self.__dict__.update(self._model_attributes(trained, field, ends, calibration))

    def _tell(self, trained: Trained, run: Run, n_rows: int = STATISTICS_ROWS) -> None:
        """Set the attributes that tell how the training went."""
        after = run.statistics(trained, n_rows)
        self.__dict__.update(
            self._history_attributes(trained.history),
            action_=after.action,
            path_length_=after.length,
        )
        self._coupling, self._batch_size = run.recipe.coupling, run.recipe.batch_size

    def _history_attributes(self, history: History) -> dict[str, Any]:
        before = history.before
        return {
            "n_iter_": history.n_iter,
            "check_steps_": history.steps,
            "loss_curve_": history.loss_curve,
            "loss_": history.loss_curve[-1] if history.loss_curve else float("nan"),
            "initial_action_": before.action if before else None,
            "initial_path_length_": before.length if before else None,
        }

    def _model_attributes(
        self,
        trained: Trained,
        field: VelocityField,
        ends: Ends,
        calibration: Calibration | Grading | None = None,
    ) -> dict[str, Any]:
        """The fitted model, on the CPU; `field` is the trained one or its student."""
        return {
            "_calibration": calibration,
            "_source": (trained.base if ends.source is None else ends.source).cpu(),
            "_target": ends.target.cpu(),
            "_path": trained.path.cpu(),
            "_trained": trained.field.cpu(),
            "_field": field.cpu(),
            "end_time_": trained.end_time,
            "_n_features_out": self.n_features_in_,
        }

    def _calibrated(
        self, field: VelocityField, trained: Trained, fold: Fold, ends: Ends, seed: int
    ) -> Calibration | Grading | None:
        """What tolerances need on rows of the data, and outside, or None where no steps are to be
        chosen."""
        if trained.end_time == 0 or self.solver in ADAPTIVE_METHODS:
            return None
        device = next(field.parameters()).device
        generators = seeded_generators(step_seed(seed, Draw.CALIBRATION), device)
        rows = fold.train.batch(0, _CALIBRATION_ROWS, generators)[0].double()
        flow = Flow(on_device(field, rows.device, torch.float64), end_time=trained.end_time)
        outside = _rows_outside(rows, on_device(ends.target, rows.device, torch.float64))
        base = (
            on_device(trained.base, rows.device, torch.float64) if self._gaussian_source else None
        )
        try:
            return flow.calibrate(rows, self.solver, outside, base)
        except (
            FloatingPointError,
            ValueError,
        ) as error:  # the velocity or its divergence is too large to solve
            raise FloatingPointError(
                "The trained flow cannot be solved: it takes training rows beyond the finite "
                "numbers.  The training diverged; lower "
                f"learning_rate_init={self.learning_rate_init!r}, or set another scaling than "
                f"{self.scaling!r}."
            ) from error

    def _names_in(self) -> list[str]:
        """Names of the columns of the rows that were fitted; as scikit-learn makes them up, where
        there were none."""
        return list(
            getattr(self, "feature_names_in_", [f"x{k}" for k in range(self.n_features_in_)])
        )

    def _contained(self, rows: NDArray[Any], original: Any, names: Sequence[str]) -> Any:
        """Rows in the container that :meth:`set_output` asks for, with the index of the `original`
        frame, if it is one."""
        adapter = _get_container_adapter("transform", self)
        return (
            rows
            if adapter is None
            else adapter.create_container(rows, original, columns=np.asarray(names, dtype=object))
        )

    def _check_usable(self) -> None:
        """Raise unless the estimator is fitted, and the parameters that predictions read are valid.

        Raises
        ------
        NotFittedError
        ValueError
            If a parameter that was set after the fit is not valid.
        """
        check_is_fitted(self)
        read = {name: getattr(self, name) for name in _READ_BY_PREDICTIONS}
        constraints = {name: self._parameter_constraints[name] for name in read}
        validate_parameter_constraints(constraints, read, type(self).__name__)
        named_device(self.device)

    def _validated(self, X: ArrayLike) -> NDArray[Any]:
        self._check_usable()
        with sums_may_overflow():
            rows: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return rows

    def _validated_other(self, X: ArrayLike, name: str, space: str) -> NDArray[Any]:
        """Rows of the side whose feature names are not those of `feature_names_in_`."""
        self._check_usable()
        with sums_may_overflow():
            rows: NDArray[Any] = check_array(X, dtype=[np.float64, np.float32], input_name=name)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"{name} has {rows.shape[1]} columns, but the {space} has {self.n_features_in_}, "
                "one for each feature."
            )
        return rows

    def _by_blocks(
        self, X: NDArray[Any], work: Work, *, side: str = "target"
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Values and errors of `work` on the rows in blocks, so that memory is bounded; one warning
        counts all rows left unresolved.

        Parameters
        ----------
        X : array of shape (n, D)
        work : function of rows, float64 tensor of shape (B, D), and a FittedFlow
        side : {"source", "target"}, whose units the rows are in

        Raises
        ------
        ValueError
            If rows are so far outside that the arithmetic overflows.
        """
        return self._measured(X, work, side, refuse_far=True)

    def _measured(
        self, X: NDArray[Any], work: Work, side: str = "target", *, refuse_far: bool = False
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As :meth:`_by_blocks`, but rows that are too far outside may have a value of minus
        infinity, and an error of infinity."""
        device, dtype = resolve_device_or_cpu(self.device), _flow_dtype(X, self.solver)
        model = self._fitted_flow(device, dtype)
        scaling = getattr(model, side)

        def at_near_ones(x: torch.Tensor) -> Measured:
            far = _are_far(scaling(x), dtype)
            if not far.any():
                return work(x, model)
            # A point in the middle of the data takes their place, so that the flow meets numbers
            # that it can bear.
            value, error, unresolved = work(
                torch.where(far[:, None], scaling.inverse(torch.zeros_like(x)), x), model
            )
            value[far], error[far] = -torch.inf, torch.inf
            return Measured(value, error, unresolved | far)

        parts = map_blocks(at_near_ones, X, device, self.n_jobs)
        value, error, unresolved = (
            torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)
        )
        with np.errstate(over="ignore"):  # in float32
            value, error = value.astype(X.dtype), error.astype(X.dtype)
        if refuse_far:
            _refuse_far(np.isfinite(value))
        warn_unresolved(int(unresolved.sum()), len(X), model.flow.solver)
        return value, error

    def _diffused(
        self,
        rows: NDArray[Any],
        random: np.random.RandomState,
        epsilon: float | str | Callable[[float], float],
        n_steps: int | None,
        diffuse: Callable[..., torch.Tensor],
        *,
        side: str = "source",
    ) -> NDArray[np.float64]:
        """Rows that a diffusion carries, by ``diffuse(model, rows, level, solver, generator)``."""
        level = checked_noise(epsilon)
        solver, device = stochastic_solver(n_steps, level), resolve_device_or_cpu(self.device)
        generator = torch.Generator(device).manual_seed(int(random.randint(2**31)))
        model = self._fitted_flow(device, torch.float64)
        model.quantities.check_score()
        scaling = getattr(model, side)
        far = map_blocks(lambda x: _are_far(scaling(x), torch.float64), rows, device, n_jobs=1)
        _refuse_far(~torch.cat(far).cpu().numpy())
        # One generator draws for all blocks, one after the other.
        parts = map_blocks(
            lambda x: diffuse(model, x, level, solver, generator), rows, device, n_jobs=1
        )
        carried: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
        _refuse_far(np.isfinite(carried))
        return carried

    def _fitted_flow(self, device: torch.device, dtype: torch.dtype) -> FittedFlow:
        drift, path = on_device(self._field, device, dtype), on_device(self._path, device, dtype)
        base = on_device(self._source, device, dtype) if self._gaussian_source else None
        field = drift if self.divergence == "exact" else Hutchinson(drift, int(self.divergence))
        source, target = (
            on_device(scaling, device, torch.float64) for scaling in (self._source, self._target)
        )
        flow = Flow(field, self._solver(), self.end_time_)
        return FittedFlow(
            flow,
            LearnedQuantities(drift, path, base, self._fitted_coupling()),
            source,
            target,
            dtype,
        )

    def _fitted_coupling(self) -> Coupling:
        """Coupling that the model was trained with; models of release 0.1 have it in their
        parameter alone."""
        return self._coupling if hasattr(self, "_coupling") else resolve_coupling(self.coupling)

    def _solver(self) -> Solver:
        atol, rtol = resolve_atol(self.atol), float(self.rtol)
        if self.solver == NESTED:
            grading = self._calibration if isinstance(self._calibration, Grading) else UNGRADED
            return grading.solver(atol, rtol, _AUTO_POINTS_ATOL if self.atol == "auto" else atol)
        if self._calibration is not None and self._calibration.method == self.solver:
            return self._calibration.solver(atol, rtol)
        return Solver(self.solver, atol, rtol)


def resolve_atol(atol: str | float) -> float:
    """The tolerance of densities that is meant, in nats."""
    return _AUTO_ATOL if isinstance(atol, str) else float(atol)


def _rows_outside(rows: torch.Tensor, target: Scaling) -> list[torch.Tensor]:
    """Rows in flow units that lie outside of those given, as data units have it: stretched about
    the mean, and uniform in a wider box."""
    found = [target(part) for part in points_outside(target.inverse(rows))]
    return [part[~_are_far(part, torch.float32)][: len(rows) // 2] for part in found]


def _are_far(u: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Which rows, in flow units, are too far outside for a flow of this precision, or have no place
    in its units: shape (B,)."""
    return ~(u.norm(dim=1) < _FARTHEST[dtype])


def _refuse_far(finite: NDArray[np.bool_]) -> None:
    """Raise a ValueError with the count of rows, of shape (n, ...), of which something is not
    finite."""
    n_far = int((~finite.reshape(len(finite), -1).all(axis=1)).sum())
    if n_far:
        raise ValueError(
            f"{n_far} of {len(finite)} rows are so far outside the fitted data that the arithmetic "
            "of the flow overflows; drop those rows."
        )


def _flow_dtype(X: NDArray[Any], solver: str) -> torch.dtype:
    """Precision of the flow: that of the rows, where the solver does not choose what its tolerance
    needs."""
    return torch.float32 if X.dtype == np.float32 and solver != NESTED else torch.float64
