"""InterpolantTransport: the map between two data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin, _fit_context
from sklearn.utils import Bunch, Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import (
    _check_feature_names_in,
    _get_feature_names,
    check_is_fitted,
)
from torch import nn

from skinterflow._base import PARAMETER_CONSTRAINTS, FlowEstimator, checked_rows
from skinterflow._data.batches import NO_ROWS, Reader, drawn_pairs, drawn_seed, training_rows
from skinterflow._data.degenerate import evenly_spaced
from skinterflow._data.memmap import opened
from skinterflow._data.stored import StoredRows
from skinterflow._data.weights import weighted_rows
from skinterflow._fit.context import FitContext, Plan
from skinterflow._fit.recipe import resolve_coupling, resolve_recipe
from skinterflow._fit.run import Draw
from skinterflow._fit.validation import Fold
from skinterflow._predict.arguments import checked_time, checked_times
from skinterflow._predict.diagnosis import (
    check_overflow,
    chosen_rows,
    cross_entropies,
    diagnose_transport,
    path_bunch,
)
from skinterflow._predict.model import FlowModel
from skinterflow._runtime import (
    RandomStateLike,
    private_random_state,
    step_seed,
    suppress_feature_name_warning,
)
from skinterflow.interflow.bridges import bridge_defect, bridge_pairs
from skinterflow.interflow.couplings import Coupling, Given
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Interpolant, Linear
from skinterflow.interflow.noise import Brownian, Gamma, StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Identity, Scaling, Standardize
from skinterflow.interflow.sde import StochasticSolver

_N_PARTNERS = 8
"""Partners that each row of the source has in a bridge."""
_LEAST_LEVEL = 1e-4
"""Least noise level of a bridge, in flow units; the largest is its inverse."""
_DEFECT_ROWS, _DEFECT_STEPS = 2_000, 30
"""Rows and steps with which it is measured whether a diffusion is a bridge."""


@runtime_checkable
class DensityEstimator(Protocol):
    """A fitted estimator whose `score_samples` returns log-densities of rows, in nats."""

    def score_samples(self, X: NDArray[Any], /) -> NDArray[Any]: ...


class InterpolantTransport(TransformerMixin, FlowEstimator):
    r"""Map between two data sets by a stochastic interpolant.

    A velocity field is trained to carry rows of `X0` at ``t = 0`` to rows of `X1` at ``t = 1``.
    Neither density has to be known, and the rows need not be paired ([1]_, section 3 and figure 2).
    Rows that come in pairs, such as noisy and clean images, are kept together on request.
    The map is smooth and invertible, so the log-density of either side gives that of the other.

    Parameters
    ----------
    interpolant : str or Interpolant, default="linear"
        Path from a row of `X0` to a row of `X1`: "linear", "trigonometric", "variance_preserving",
        "fourier", "encoding_decoding", "mirror" or an Interpolant.  The parameters of a path that
        has some, such as "fourier", are learned to make the path shorter.  "encoding_decoding" and
        "mirror" require a `gamma`.  "mirror" connects a data set to itself, and :meth:`sample`
        resamples it; so does a `MirrorInterpolant`.
    gamma : {"brownian", "quadratic", "sine_squared", "sigmoid"}, Gamma or None, default=None
        Scale of the noise term that is added to the path, ``x_t = I_t + gamma(t) z`` with standard
        normal ``z`` ([2]_, table 8):

        - "brownian": ``sqrt(t (1 - t))``
        - "quadratic": ``t (1 - t)``
        - "sine_squared": ``sin^2(pi t)``
        - "sigmoid": a hump made of sigmoids
        - None: no noise term ([1]_)

        The noise term smooths the densities between the two data sets, and makes the score, and
        therefore :meth:`sample`, available.
    targets : "auto", "b" or tuple of "b", "v", "s", "eta", "eta0", "eta1", default="auto"
        Quantities that are learned, by one network with a head for each ([2]_, section 2.3): the
        drift "b" or the velocity "v", together with the score "s" or the denoiser "eta"; "b" alone,
        if no score is needed; "s" or "eta" alone, on the path "mirror"; two of the expected parts
        of the path, the ends "eta0" and "eta1" and the noise "eta", or one of the ends without
        `gamma`.  "auto" is "b" without `gamma`, "eta" on the path "mirror", and ``("b", "eta")``
        otherwise and with `bridge`.
    bridge : float or None, default=None
        Noise level ``epsilon`` of the Schroedinger bridge from `X0` to `X1`, in squared units of
        the rows per unit of time: of all diffusions ``dX = u dt + sqrt(2 epsilon) dW`` between the
        two densities, :meth:`sample` is then the one closest to Brownian motion ([2]_, section
        3.4).  Rows are paired by entropic optimal transport, and straight paths between them have
        the noise of a Brownian bridge ([3]_).  Both sides are scaled by one number only, unless
        `scaling` is a Scaling, whose units `bridge` is then in; `interpolant`, `gamma` and
        `coupling` must have their defaults.  After the fit, a warning is raised if the diffusion is
        not a bridge, see `bridge_defect_`.
    coupling : {"independent", "optimal_transport"} or Coupling, default="independent"
        How rows of `X0` and rows of `X1` are paired in training.  "optimal_transport" pairs nearby
        rows within parts of a batch: straight paths become shorter, and training steps slower.
    time_beta : tuple of two positive floats, default=(1.0, 1.0)
        Parameters of the Beta distribution of the training times; ``(1, 1)`` is uniform.
    scaling : {"gaussianize", "power", "whiten", "standardize"}, Scaling or None, default="whiten"
        Invertible map that is applied to each side before the flow, see `InterpolantFlowDensity`.
        It is estimated for each side on its own rows, so that means and covariances are aligned
        before the flow; a Scaling object is used for both sides.
    field : VelocityField, torch.nn.Module, callable or None, default=None
        Velocity field ``v(t, x)`` to train; None is a multilayer perceptron.  It maps times of
        shape (B,) and rows of shape (B, D) to velocities of shape (B, D), each row independently.
        `fit` trains a copy for each of the `targets`, of which "auto" is "b" unless the path is
        "mirror".  A `VelocityField` computes its own divergence.  That of any other field is
        computed by automatic differentiation, exactly up to 128 columns, and by Hutchinson's
        estimate with 16 probes above.  If a field is given, `hidden_layer_sizes` and `activation`
        are ignored.
    hidden_layer_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers; "auto" is ``(96, 96, 96, 96, 96, 96)``.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
        Activation function.
    alpha : float, default=30.0
        Strength of the regularisation.  The weight decay of AdamW is ``alpha`` divided by the
        number of rows of the smaller data set.
    batch_size : "auto" or int, default="auto"
        Number of pairs per gradient step.  "auto" is 512 if the smaller data set has fewer than
        10,000 rows, and 1,024 otherwise.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up.  It decays to zero over `max_iter` steps along a cosine.
        "auto" is 0.005.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps; "auto" is 4,000.
    max_time : float or None, default=None
        Limit on the time of `fit`, in seconds, see `InterpolantFlowDensity`.
    warm_start : bool, default=False
        Continue the previous fit, with its weights, scalings and optimisers, up to `max_iter` steps
        in total.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights and the batches.
    verbose : bool, default=False
        Print the loss ten times.
    solver : {"rk4", "heun3", "midpoint", "euler", "dopri5"} or Solver, default="rk4"
        ODE solver, see `InterpolantFlowDensity`.
    atol : "auto" or float, default="auto"
        Absolute tolerance: the estimated error of a row should be at most ``atol + rtol * size``,
        in nats for a log-density or a log-determinant, in flow units for coordinates, where the
        size is the norm of both.  "auto" is 0.05 nats, with which the mean error is a few
        thousandths, or 0.002 nats for a single column, whose density is often integrated, and 0.005
        for coordinates.  A tolerance that float32 can meet is met in float32, for rows of any
        dtype.
    rtol : float, default=1e-5
        Relative tolerance.
    divergence : "exact" or int, default="exact"
        Divergence of the field: "exact", or the number of probes of a Hutchinson estimate.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Device for training and transport; "auto" is a GPU if there is one.
    n_jobs : int or None, default=None
        Number of threads that transport blocks of rows in parallel.
    checkpoint : str, path-like or None, default=None
        File to which `fit` writes its progress, and from which it resumes after an interruption,
        see `InterpolantFlowDensity`.

    Attributes
    ----------
    end_time_ : float
        1: the flow never stops early.
    n_iter_ : int
        Number of gradient steps, including those of the fits that this one continued.
    check_steps_ : list of int
        Step number of each check.
    loss_ : float
        Training loss ``G`` at the last check, summed over the `targets`.
    loss_curve_ : list of float
        Mean training loss between checks.
    action_, path_length_ : float
        Transport action ``E|b|^2`` of the drift, and the length of the path, which is the mean over
        times of the root of the action; in flow units.
    initial_action_, initial_path_length_ : float or None
        `action_` and `path_length_` of the path before it was learned; None if it has no
        parameters.
    bridge_epsilon_ : float or None
        Noise level of the bridge in squared flow units; None without `bridge`.
    bridge_defect_ : float or None
        Systematic change of the forward drift along its own paths, relative to its size and per
        unit of time, which is zero for a bridge; above 0.15 `fit` warns.  None without `bridge`.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X0`, only if all are strings.
    target_feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X1`, only if all are strings.

    See Also
    --------
    InterpolantFlowDensity : The density of one data set.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
        ICLR 2023.
    .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
        Flows and Diffusions", 2023.
    .. [3] Tong et al., "Simulation-free Schroedinger bridges via score and flow matching", AISTATS
        2024.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import InterpolantTransport
    >>> X, species = load_iris(return_X_y=True)
    >>> X0, X1 = X[species == 1], X[species == 2]
    >>> transport = InterpolantTransport(max_iter=50, random_state=0).fit(X0, X1)
    >>> transport.transform(X0).shape
    (50, 4)
    """

    # Without this, scikit-learn would route X0, X1 as metadata, because they are not named X.
    __metadata_request__fit: ClassVar[dict[str, str]] = {"X0": UNUSED, "X1": UNUSED}
    __metadata_request__transform: ClassVar[dict[str, str]] = {"X0": UNUSED}
    __metadata_request__inverse_transform: ClassVar[dict[str, str]] = {"X1": UNUSED}
    _gaussian_source: ClassVar[bool] = False
    _other_parts: ClassVar[frozenset[str]] = FlowEstimator._other_parts | {"_bridge"}
    _bridge: float | None = None  # not saved by release 0.1
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PARAMETER_CONSTRAINTS,
        "bridge": [Interval(Real, 0, 1e300, closed="neither"), None],
    }

    def __init__(
        self,
        *,
        interpolant: str | Interpolant = "linear",
        gamma: str | Gamma | None = None,
        targets: str | Sequence[str] = "auto",
        bridge: float | None = None,
        coupling: str | Coupling = "independent",
        time_beta: tuple[float, float] = (1.0, 1.0),
        scaling: str | Scaling | None = "whiten",
        field: VelocityField | nn.Module | Callable[..., torch.Tensor] | None = None,
        hidden_layer_sizes: str | Sequence[int] = "auto",
        activation: str = "silu",
        alpha: float = 30.0,
        batch_size: str | int = "auto",
        learning_rate_init: str | float = "auto",
        max_iter: str | int = "auto",
        max_time: float | None = None,
        warm_start: bool = False,
        random_state: RandomStateLike = None,
        verbose: bool = False,
        solver: str | Solver = "rk4",
        atol: str | float = "auto",
        rtol: float = 1e-5,
        divergence: str | int = "exact",
        device: str | torch.device = "cpu",
        n_jobs: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.interpolant = interpolant
        self.gamma = gamma
        self.targets = targets
        self.bridge = bridge
        self.coupling = coupling
        self.time_beta = time_beta
        self.scaling = scaling
        self.field = field
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.max_time = max_time
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.solver = solver
        self.atol = atol
        self.rtol = rtol
        self.divergence = divergence
        self.device = device
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X0: ArrayLike,
        X1: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        target_sample_weight: ArrayLike | None = None,
        *,
        paired: bool = False,
    ) -> Self:
        """Fit the map from the rows of `X0` to the rows of `X1`.

        By default the rows are not paired: `X0` and `X1` are shuffled independently, and row i of
        one is unrelated to row i of the other.  With ``paired=True``, row i of `X0` is connected to
        row i of `X1`, such as a noisy image to the clean one.

        If the fit fails, the estimator remains as it was.  Ctrl-C ends the training: the estimator
        is then fitted with the weights so far, and `KeyboardInterrupt` is raised.  A second Ctrl-C
        ends the fit at once.

        Parameters
        ----------
        X0 : array-like of shape (n_source_samples, n_features)
            Rows of the source, at least two, of finite numbers.
        X1 : array-like of shape (n_target_samples, n_features)
            Rows of the target, at least two, of finite numbers.  Their number may differ from that
            of `X0`.  On a mirror path, `X1` and `target_sample_weight` must be None.
        sample_weight : array-like of shape (n_source_samples,), default=None
            Weights of the rows of `X0`, not negative and not all zero.
        target_sample_weight : array-like of shape (n_target_samples,), default=None
            Weights of the rows of `X1`, not negative and not all zero.  Must be None for pairs, of
            which `sample_weight` are the weights.
        paired : bool, default=False
            Whether the rows are pairs ([1]_, definition 2.1), as many in `X0` as in `X1`.  The
            paths are then those between the two rows of a pair, and the map remains that of one
            density to the other: a row is carried to a row near its partner, but neither the map
            nor a diffusion has the conditional distribution of partners.  `coupling` must be
            "independent".

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If rows, weights or parameters are invalid, or the checkpoint belongs to another fit.
            The estimator remains as it was.
        OSError
            If the checkpoint cannot be read or written.
        FloatingPointError
            If the training diverges; the message names the learning rate or the scaling as the
            cause.
        KeyboardInterrupt
            After Ctrl-C.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        X0, X1 = opened(X0), opened(X1)
        with self._fitting(X0, sample_weight) as context:
            rows0 = self._validated_rows(X0, reset=not context.warm, n_min=2)
            path = self._new_path(rows0.shape[1], context.warm)
            self._check_bridge(paired, context.warm)
            if self.bridge is not None and not context.warm:
                path = StochasticInterpolant(Linear(), Brownian())  # the level needs the scalings
            targets = self._new_targets(path, None, context.warm)
            self._check_bridge_targets(targets)
            if path.interpolant.resamples:
                _check_no_target(X1, target_sample_weight, paired)
                X1, target_sample_weight = X0, sample_weight
            rows1 = self._validated_target(X1, rows0)
            if paired:
                self._check_pairs(rows0, rows1, target_sample_weight)
                target_sample_weight = sample_weight
            sides = [
                weighted_rows(rows0, sample_weight),
                weighted_rows(rows1, target_sample_weight, "target_sample_weight"),
            ]
            marks = [np.array([True])] if paired else []  # part of the checkpoint's fingerprint
            self._begin(context, *(part for side in sides for part in side), *marks)
            readers = self._readers(sides, context)
            if self.bridge is not None and not context.warm:
                path = self._at_level(path, readers[0].scaling)
            self._run(self._planned(readers, path, targets, paired, context), context)
            self._set_bridge(readers[0], context)
            names = _names_of(X1)
            if names is not None:
                self.target_feature_names_in_ = names
            else:
                self.__dict__.pop("target_feature_names_in_", None)  # from an earlier fit
        return self

    def _validated_target(self, X1: ArrayLike | None, rows0: NDArray[Any]) -> NDArray[Any]:
        if X1 is None:
            raise ValueError(
                "X1, the rows of the target, is missing; only interpolant='mirror' is fitted "
                f"without it, not {self.interpolant!r}."
            )
        _names_of(X1)  # raises if some names are strings and others are not
        rows = checked_rows(X1, "X1", n_min=2)
        if rows0.shape[1] != rows.shape[1]:
            raise ValueError(
                f"X0 has {rows0.shape[1]} columns and X1 has {rows.shape[1]}; an invertible map "
                "requires the same number on both sides."
            )
        return rows

    def _check_pairs(
        self,
        rows0: NDArray[Any],
        rows1: NDArray[Any],
        target_sample_weight: ArrayLike | None,
    ) -> None:
        if len(rows0) != len(rows1):
            raise ValueError(
                f"X0 has {len(rows0)} rows and X1 has {len(rows1)}; with paired=True, row i of X0 "
                "belongs to row i of X1. Give as many rows, or set paired=False."
            )
        if target_sample_weight is not None:
            raise ValueError(
                "target_sample_weight was given, but with paired=True a pair has one weight; pass "
                "it as sample_weight."
            )
        if not resolve_coupling(self.coupling).is_independent:
            raise ValueError(
                f"coupling={self.coupling!r} would pair the rows anew; with paired=True, set "
                "coupling='independent'."
            )

    def _check_bridge(self, paired: bool, warm: bool) -> None:
        """Raise if other parameters or an earlier fit contradict `bridge`."""
        if warm and self.bridge != self._bridge:
            raise ValueError(
                f"bridge={self.bridge!r} was set after a fit with bridge={self._bridge!r}, which a "
                f"warm start continues; set bridge={self._bridge!r}, or fit anew with "
                "warm_start=False."
            )
        changed = {
            "interpolant": self.interpolant not in ("linear", Linear()),
            "gamma": self.gamma is not None,
            "coupling": not resolve_coupling(self.coupling).is_independent,
        }
        other = [f"{name}={getattr(self, name)!r}" for name, flag in changed.items() if flag]
        if self.bridge is not None and (other or paired):
            raise ValueError(
                f"bridge={self.bridge!r} sets the path and the pairs of rows, and cannot be "
                f"combined with {', '.join(other) or 'paired=True'}; use the defaults, or set "
                "bridge=None."
            )

    def _at_level(self, path: StochasticInterpolant, scaling: Scaling) -> StochasticInterpolant:
        """Set the level of a bridge in flow units."""
        level, unit = float(cast(float, self.bridge)), 1.0
        if not isinstance(self.scaling, Scaling):
            unit = float(cast(Standardize, scaling).scale[0]) ** 2
        if not _LEAST_LEVEL <= level / unit <= 1.0 / _LEAST_LEVEL:
            raise ValueError(
                f"bridge={self.bridge!r} is {level / unit:.3g} times the mean variance of the "
                f"columns, which is outside [{_LEAST_LEVEL:g}, {1.0 / _LEAST_LEVEL:g}]; choose a "
                f"level such as {0.1 * unit:.2g}."
            )
        return StochasticInterpolant(path.interpolant, Brownian(2.0 * level / unit))

    def _check_bridge_targets(self, targets: tuple[str, ...]) -> None:
        if self.bridge is not None and targets == ("b",):
            raise ValueError(
                f"bridge={self.bridge!r} needs the score as well as the drift, but only 'b' is "
                "learned; set targets='auto' and field=None."
            )

    def _set_bridge(self, source: Reader, context: FitContext) -> None:
        """Set the noise level of the bridge, and measure whether the diffusion is one."""
        self._bridge = self.bridge
        self.bridge_epsilon_: float | None = None
        self.bridge_defect_: float | None = None
        if self.bridge is None:
            return
        epsilon = 0.5 * cast(Brownian, self._path.gamma).a
        # In random order, because rows on disk may be sorted.
        drawn = torch.randperm(len(source.X), generator=context.setup)[:_DEFECT_ROWS].sort().values
        rows = source.X[drawn.numpy()].astype(np.float32)
        model = self._model_for(rows, torch.float32)
        x0 = model.source(torch.from_numpy(rows).double().to(model.device)).float()
        generator = torch.Generator(model.device).manual_seed(step_seed(context.seed, Draw.PILOT))

        def forward(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            drift, score = model.quantities.drift_and_score(t, x)
            return drift + epsilon * score

        self.bridge_epsilon_ = epsilon
        self.bridge_defect_ = bridge_defect(
            forward, x0, epsilon, generator, StochasticSolver(n_steps=_DEFECT_STEPS)
        )

    def _readers(
        self, sides: Sequence[tuple[NDArray[Any], NDArray[np.float64]]], context: FitContext
    ) -> list[Reader]:
        """Readers of the rows of the source and of the target, each with its own scaling."""
        fitted: list[Scaling | None] = [None, None]
        if context.warm:
            fitted = [self._source, self._target]
        readers = []
        for (rows, weight), name in zip(sides, ("X0", "X1"), strict=True):
            names = [f"{name} column {k}" for k in range(rows.shape[1])]
            readers.append(self._reader(rows, weight, context.device, names))
        if self.bridge is not None and not (context.warm or isinstance(self.scaling, Scaling)):
            fitted = [_common_scaling(readers) for _ in readers]
        return [
            replace(reader, scaling=scaling or self._scaling_of(reader, NO_ROWS, context.setup))
            for reader, scaling in zip(readers, fitted, strict=True)
        ]

    def _planned(
        self,
        readers: Sequence[Reader],
        path: StochasticInterpolant,
        targets: tuple[str, ...],
        paired: bool,
        context: FitContext,
    ) -> Plan:
        """Plan of a fit: all rows train one field, and none are held out."""
        # The scalings, the rows of the source, those of the target and the initial weights are
        # drawn from context.setup in this order, which seeded fits depend on.
        source, target = readers
        seed = None
        if paired:  # the same order on both sides, and the weight of a pair on one
            seed = drawn_seed(context.setup)
            target = replace(target, weight=np.broadcast_to(1.0, len(target.X)))
        start, end = (
            training_rows(reader, NO_ROWS, context.setup, seed) for reader in (source, target)
        )
        if self.bridge is not None:
            level = 0.5 * cast(Brownian, path.gamma).a
            start, end = drawn_pairs(source, target, level, context.setup, _N_PARTNERS)
        fold = Fold(start, end, target.read(NO_ROWS, context.setup))
        recipe = resolve_recipe(
            n_rows=min(len(source.X), len(target.X)),
            cross_fitted=False,
            coupling=Given() if paired or self.bridge is not None else self.coupling,
            end_time=1.0,
            alpha=self.alpha,
            batch_size=self.batch_size,
            learning_rate_init=self.learning_rate_init,
            max_iter=self.max_iter,
            n_iter_no_change=1,
            tol=0.0,
            verbose=bool(self.verbose),
        )
        return Plan([fold], fold, path, Identity(), targets, recipe, target.scaling, source.scaling)

    def transform(self, X0: ArrayLike) -> NDArray[Any]:
        """Map rows of the source to the target.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
            Rows of the source.

        Returns
        -------
        X1 : ndarray of shape (n_samples, n_features)
            Rows of the target, in the dtype of `X0`.

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        return self._carried(self._validated(X0))

    def _carried(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Map validated rows of the source to the target."""
        return self._model_for(rows).ask(FlowModel.push, rows, 1.0, side="source")[0]

    def _carried_back(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Map validated rows of the target to the source."""
        return self._model_for(rows).ask(FlowModel.pull, rows, 1.0)[0]

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Get the names of the columns that :meth:`transform` returns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only used to validate feature names with the names seen in :meth:`fit`.

        Returns
        -------
        feature_names_out : ndarray of str objects
            The names of the columns of `X1` or, if it had none, of `X0`; ``x0``, ``x1``, ... if
            neither had names.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        return np.asarray(getattr(self, "target_feature_names_in_", self._names_in()), dtype=object)

    def inverse_transform(self, X1: ArrayLike) -> NDArray[Any] | Any:
        """Map rows of the target to the source, the inverse of :meth:`transform`.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)
            Rows of the target.

        Returns
        -------
        X0 : ndarray of shape (n_samples, n_features)
            Rows of the source, in the dtype of `X1`; a data frame with the names of the columns of
            the source, if :meth:`set_output` selects one.

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        return self._contained(
            self._carried_back(self._validated_other(X1, "X1", "target")), X1, self._names_in()
        )

    def sample(
        self,
        X0: ArrayLike,
        random_state: RandomStateLike = None,
        *,
        epsilon: float | str | Callable[[float], float] | None = None,
        n_steps: int | None = None,
        denoise_from: float | None = None,
    ) -> NDArray[np.float64] | Any:
        r"""Map rows of the source to random rows of the target, by a diffusion.

        The diffusion ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` has the same distribution as
        :meth:`transform`, for any noise level ([1]_, section 2.4).  Copies of one row are mapped to
        different rows.  On a mirror path, rows are mapped to other rows of the same density, which
        are closer the lower the noise level is.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
            Rows of the source.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise; None gives different rows at each call.
        epsilon : float, callable, {"decreasing", "sine"} or None, default=None
            Noise level in squared flow units per unit of time: a number that is not negative, a
            function of time, "decreasing" for ``1 - t`` or "sine" for ``sin(pi t)^2``.  None is
            `bridge_epsilon_`, the level of the bridge, and 1 without `bridge`.  If the
            score is the denoiser divided by `gamma`, the level is reduced where `gamma` is below
            0.2.
        n_steps : int or None, default=None
            Number of steps, by Heun's method.  None is 200 times the largest noise level, and at
            least 200.
        denoise_from : float in (0, 1) or None, default=None
            Time, such as 0.98, at which the diffusion stops.  The last step to the target is then
            ``E[x1 | x_t]`` ([1]_, section 5.2), which removes the rest of the noise, on a path that
            is affine in its ends.

        Returns
        -------
        X1 : ndarray of shape (n_samples, n_features)
            Rows of the target; a data frame with the names of its columns, if :meth:`set_output`
            selects one.

        Raises
        ------
        ValueError
            If no score was learned, if an argument is invalid, or if rows are so far outside the
            data that the arithmetic of the flow overflows.
        FloatingPointError
            If the diffusion becomes infinite or NaN; the message gives the time and the number of
            rows.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        rows, random = self._validated(X0), private_random_state(random_state)
        drawn = self._diffused(
            FlowModel.diffuse,
            rows,
            1.0,
            random,
            self._level(epsilon),
            n_steps,
            denoise_from=denoise_from,
        )
        return self._contained(drawn, X0, list(self.get_feature_names_out()))

    def inverse_sample(
        self,
        X1: ArrayLike,
        random_state: RandomStateLike = None,
        *,
        epsilon: float | str | Callable[[float], float] | None = None,
        n_steps: int | None = None,
    ) -> NDArray[np.float64] | Any:
        """Map rows of the target to random rows of the source, by the backward diffusion.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)
            Rows of the target.
        random_state : int, RandomState instance or None, default=None
            Seed of the noise, see :meth:`sample`.
        epsilon : float, callable, {"decreasing", "sine"} or None, default=None
            Noise level, see :meth:`sample`.
        n_steps : int or None, default=None
            Number of steps, see :meth:`sample`.

        Returns
        -------
        X0 : ndarray of shape (n_samples, n_features)
            Rows of the source; a data frame with the names of its columns, if :meth:`set_output`
            selects one.

        Raises
        ------
        ValueError, FloatingPointError
            As :meth:`sample`.
        """
        rows, random = self._validated_other(X1, "X1", "target"), private_random_state(random_state)
        drawn = self._diffused(
            FlowModel.diffuse_back,
            rows,
            1.0,
            random,
            self._level(epsilon),
            n_steps,
            side="target",
        )
        return self._contained(drawn, X1, self._names_in())

    def _level(
        self, epsilon: float | str | Callable[[float], float] | None
    ) -> float | str | Callable[[float], float]:
        """The noise level of a diffusion; None is that of the bridge, or one."""
        if epsilon is not None:
            return epsilon
        level: float | None = getattr(self, "bridge_epsilon_", None)  # release 0.1 had no bridges
        return 1.0 if level is None else level

    def score_gradient(self, X: ArrayLike, *, t: float) -> NDArray[Any]:
        """Compute the score, the gradient of the log-density at a time with respect to `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`, in units of the target: at every time, the scaling of the target
            converts between its units and flow units.
        t : float in [0, 1]
            Time on the path; 0 is the source, and 1 is the target.

        Returns
        -------
        score : ndarray of shape (n_samples, n_features)
            Score in nats per unit of each column, in the dtype of `X`.

        Raises
        ------
        ValueError
            If no score was learned.
        """
        rows, time = self._validated_other(X, "X", "target"), checked_time(t)
        return self._model_for(rows).ask(FlowModel.path_score, rows, time)[0]

    def velocity(self, X: ArrayLike, t: float) -> NDArray[Any]:
        """Compute the velocity of the flow at the rows of `X`.

        It is the drift ``b``; without `gamma`, drift and velocity are equal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`, in units of the target at every time, see :meth:`score_gradient`.
        t : float in [0, 1]
            Time on the path; 0 is the source, and 1 is the target.

        Returns
        -------
        velocity : ndarray of shape (n_samples, n_features)
            Velocity in units of each column per unit of time, in the dtype of `X`.

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        rows, time = self._validated_other(X, "X", "target"), checked_time(t)
        return self._model_for(rows).ask(FlowModel.velocity, rows, time)[0]

    def trajectory(self, X0: ArrayLike, times: Sequence[float]) -> NDArray[Any]:
        """Compute the positions of rows of the source along the flow.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
            Rows of the source, in its units.
        times : sequence of float in [0, 1], increasing or decreasing
            Times of the positions, such as ``np.linspace(0, 1, 50)``.

        Returns
        -------
        positions : ndarray of shape (len(times), n_samples, n_features)
            Positions in units of the target at every time, in the dtype of `X0`.  At time 1 they
            are those of :meth:`transform`; at time 0 they are the rows, converted to units of the
            target by the scalings of both sides.

        Raises
        ------
        ValueError
            If `times` is not such a sequence, or if rows are so far outside the data that the
            arithmetic of the flow overflows.
        """
        rows, checked = self._validated(X0), checked_times(times)
        return self._positions(FlowModel.source_trajectory, rows, checked, side="source")

    def diagnose(
        self, X0: ArrayLike, X1: ArrayLike | None = None, random_state: RandomStateLike = None
    ) -> Bunch:
        """Measure on test rows how well the field was learned.

        All numbers are in flow units.

        Parameters
        ----------
        X0 : array-like of shape (n_source_samples, n_features)
            Test rows of the source, which the field was not trained on.
        X1 : array-like of shape (n_target_samples, n_features)
            Test rows of the target.  If the numbers of rows differ, as many are used as there are
            in the smaller set.  After ``fit(X0, X1, paired=True)``, the rows are pairs.  On a
            mirror path, `X1` must be None.
        random_state : int, RandomState instance or None, default=None
            Seed of the order of the rows and of the noise term.

        Returns
        -------
        diagnosis : Bunch
            Dictionary-like object with the following attributes.

            - loss : float, ``G`` ([1]_, equation 8)
            - loss_plus_action : float, ``G + E|b|^2``, which is zero at the optimum (equation 11)
            - action, path_length : float, ``E|b|^2`` and the mean over times of its root
            - straightness : float, mean square difference between the velocity along the flow and
              that of the straight line between the two ends, which is zero if one step of Euler's
              method has no error ([2]_; :func:`~skinterflow.interflow.diagnostics.straightness`)
            - lipschitz : float, the largest slope of the field found on the path
            - wasserstein2_bound : float, ``exp(1/2 + lipschitz) sqrt(E|b - dx_t/dt|^2)``, see
              `InterpolantFlowDensity.diagnose`
            - energy_distance : float, energy distance of mapped rows of the source to rows of the
              target (at most 2,000 each); of two samples of one density it is a few times
              ``1 / n_samples``

        Raises
        ------
        ValueError, FloatingPointError
            If pairs are expected and the numbers of rows differ, or if rows are so far outside the
            data that the arithmetic of the flow overflows.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        .. [2] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data
            with rectified flow", ICLR 2023.
        """
        rows0 = self._validated(X0)
        if self._path.interpolant.resamples:
            _check_no_target(X1, None, paired=False)
            rows1 = rows0
        else:
            rows1 = self._validated_target(X1, rows0)
        random = private_random_state(random_state)
        rows0, rows1 = self._test_pairs(rows0, rows1, random)
        model = self._model_for(rows0, torch.float64)
        noise, carried = random.standard_normal(rows0.shape), self._carried(rows0)
        diagnosis = diagnose_transport(model, (rows0, rows1), noise, carried, self._batch_size)
        check_overflow(diagnosis, len(rows0))
        return diagnosis

    def _test_pairs(
        self, rows0: NDArray[Any], rows1: NDArray[Any], random: np.random.RandomState
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """As many rows of both sides, in random order; together if the fit was given pairs.

        Those of a bridge are drawn by its coupling.
        """
        bridge = getattr(self, "bridge_epsilon_", None) is not None
        paired = isinstance(self._fitted_coupling(), Given) and not bridge
        if paired and len(rows0) != len(rows1):
            raise ValueError(
                f"X0 has {len(rows0)} rows and X1 has {len(rows1)}, but the map was fitted to "
                "pairs; give as many rows of both."
            )
        n = min(len(rows0), len(rows1))
        order = random.permutation(len(rows0))[:n]
        if bridge:
            return rows0[order], rows1[self._bridge_partners(rows0[order], rows1, random)]
        same = paired or self._path.interpolant.resamples
        return rows0[order], rows1[order if same else random.permutation(len(rows1))[:n]]

    def _bridge_partners(
        self, rows0: NDArray[Any], rows1: NDArray[Any], random: np.random.RandomState
    ) -> NDArray[np.int64]:
        """Numbers of the partners in `rows1` of the rows `rows0`, drawn by the bridge."""
        model = self._model_for(rows0, torch.float64)
        start, end = (torch.from_numpy(rows).double().to(model.device) for rows in (rows0, rows1))
        generator = torch.Generator(model.device).manual_seed(int(random.randint(2**31)))
        level = cast(float, self.bridge_epsilon_)
        partners = bridge_pairs(model.source(start), model.target(end), level, generator)
        return partners[:, 0].cpu().numpy()

    def log_abs_det_jacobian(self, X0: ArrayLike) -> NDArray[Any]:
        """Compute ``log |det dT/dx|`` of the map T of :meth:`transform`.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
            Rows of the source.

        Returns
        -------
        log_det : ndarray of shape (n_samples,)
            Log-determinant at each row, in the dtype of `X0`.

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        return self._log_det(self._validated(X0))

    def _log_det(self, rows: NDArray[Any]) -> NDArray[Any]:
        return self._model_for(rows).ask(FlowModel.push_log_det, rows, 1.0, side="source")[0]

    def target_log_density(self, X1: ArrayLike, source_density: DensityEstimator) -> NDArray[Any]:
        """Compute the log-density of the target from a fitted density of the source.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)
            Rows of the target.
        source_density : fitted estimator with `score_samples`
            Density of the source, such as an `InterpolantFlowDensity`, or scikit-learn's
            KernelDensity or GaussianMixture, fitted to `X0`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density of each row in nats; minus infinity where the density of the source is zero.

        Raises
        ------
        TypeError
            If `source_density` has no `score_samples`.
        ValueError
            If its `score_samples` does not return one number, or minus infinity, for each row, or
            if rows are so far outside the data that the arithmetic of the flow overflows.
        """
        _check_density("source_density", source_density)
        return self._log_density_at(self._validated_other(X1, "X1", "target"), 1.0, source_density)

    def log_density(
        self, X: ArrayLike, source_density: DensityEstimator, *, t: float
    ) -> NDArray[Any]:
        """Compute the log-density at a time on the path from a fitted density of the source.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`, in units of the target at every time, see :meth:`score_gradient`.
        source_density : fitted estimator with `score_samples`
            Density of the source, see :meth:`target_log_density`.
        t : float in [0, 1]
            Time on the path; at 1 it is :meth:`target_log_density`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density of each row in nats; minus infinity where the density of the source is zero.

        Raises
        ------
        TypeError, ValueError
            As :meth:`target_log_density`, or if `t` is not in [0, 1].
        """
        _check_density("source_density", source_density)
        rows, time = self._validated_other(X, "X", "target"), checked_time(t)
        return self._log_density_at(rows, time, source_density)

    def _log_density_at(
        self, rows: NDArray[Any], time: float, source_density: DensityEstimator
    ) -> NDArray[Any]:
        """Log-densities of validated rows at a time."""
        model = self._model_for(rows)
        log_det, _ = model.ask(FlowModel.pull_log_det, rows, time)
        source_rows, _ = model.ask(FlowModel.pull, rows, time)
        return _log_density_by("source_density", source_density, source_rows) + log_det

    def source_log_density(self, X0: ArrayLike, target_density: DensityEstimator) -> NDArray[Any]:
        """Compute the log-density of the source from a fitted density of the target.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
            Rows of the source.
        target_density : fitted estimator with `score_samples`
            Density of the target, such as an `InterpolantFlowDensity`, or scikit-learn's
            KernelDensity or GaussianMixture, fitted to `X1`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density of each row in nats; minus infinity where the density of the target is zero.

        Raises
        ------
        TypeError
            If `target_density` has no `score_samples`.
        ValueError
            If its `score_samples` does not return one number, or minus infinity, for each row, or
            if rows are so far outside the data that the arithmetic of the flow overflows.
        """
        _check_density("target_density", target_density)
        rows = self._validated(X0)
        target_rows = self._carried(rows)
        log_density = _log_density_by("target_density", target_density, target_rows)
        return log_density + self._log_det(rows)

    def diffusion_log_density(
        self,
        X: ArrayLike,
        *,
        source_density: DensityEstimator | None = None,
        target_density: DensityEstimator | None = None,
        epsilon: float | str | Callable[[float], float] = 0.1,
        n_paths: int = 16,
        n_steps: int | None = None,
        random_state: RandomStateLike = None,
    ) -> Bunch:
        """Estimate the log-density of a diffusion that starts from a known density.

        With `source_density` it is that of :meth:`sample`, at rows of the target; with
        `target_density` that of :meth:`inverse_sample`, at rows of the source.  For exact
        quantities they are those of the flow, :meth:`target_log_density` and
        :meth:`source_log_density`; for learned ones they differ.  They are means over random paths
        ([1]_, section 2.5), whose variance grows fast with `epsilon` and the number of columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the side whose density is not given.
        source_density, target_density : fitted estimator with `score_samples`, default=None
            Density of the source or of the target, see :meth:`target_log_density`.  One of them
            must be given.
        epsilon : float, callable or {"decreasing", "sine"}, default=0.1
            Noise level, see :meth:`sample`.
        n_paths : int, default=16
            Number of random paths of each row, at least 2.
        n_steps : int or None, default=None
            Number of steps, see :meth:`sample`.
        random_state : int, RandomState instance or None, default=None
            Seed of the paths.

        Returns
        -------
        estimate : Bunch
            Dictionary-like object with the following attributes, of shape (n_samples,).

            - log_density : the logarithm of the mean over the paths, in nats; minus infinity where
              the given density is zero on all paths
            - standard_error : of the logarithm
            - lower_bound : the mean of the logarithms, below the log-density in expectation

        Raises
        ------
        TypeError
            If the density has no `score_samples`.
        ValueError
            If not exactly one density is given, if an argument is invalid, if no score was learned,
            or if rows are so far outside the data that the arithmetic of the flow overflows.
        FloatingPointError
            If the diffusion becomes infinite or NaN.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        start, name, density = _one_density(source_density, target_density)
        rows = self._rows_opposite(X, start)
        random = private_random_state(random_state)
        return path_bunch(
            self._by_paths(rows, start, name, density, random, epsilon, n_paths, n_steps)
        )

    def diagnose_likelihood(
        self,
        X: ArrayLike,
        *,
        source_density: DensityEstimator | None = None,
        target_density: DensityEstimator | None = None,
        epsilon: float | str | Callable[[float], float] = 0.1,
        n_paths: int = 16,
        n_steps: int | None = None,
        random_state: RandomStateLike = None,
    ) -> Bunch:
        """Measure the cross-entropies of test rows relative to the flow and to a diffusion.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two test rows of the side whose density is not given; of more than 1,000, as
            many are chosen at random.
        source_density, target_density : fitted estimator with `score_samples`, default=None
            Density of the source or of the target, see :meth:`target_log_density`.  One of them
            must be given.
        epsilon : float, callable or {"decreasing", "sine"}, default=0.1
            Noise level, see :meth:`sample`.
        n_paths : int, default=16
            Number of random paths of each row, at least 2.
        n_steps : int or None, default=None
            Number of steps, see :meth:`sample`.
        random_state : int, RandomState instance or None, default=None
            Seed of the rows and paths.

        Returns
        -------
        diagnosis : Bunch
            Dictionary-like object with the following attributes, all floats in nats ([1]_,
            equations 2.63 to 2.68).  The relative entropy of lemma 2.4, of which
            `InterpolantFlowDensity.diagnose_likelihood` returns a bound, needs the score of the
            density at the start, which is not known here.

            - cross_entropy, cross_entropy_error : ``-E log p(x)`` of the rows relative to the flow
              from the given density, and its standard error
            - diffusion_cross_entropy, diffusion_cross_entropy_error : the same for the diffusion,
              see :meth:`diffusion_log_density`
            - diffusion_cross_entropy_bound : upper bound of that by Jensen's inequality

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As :meth:`diffusion_log_density`, if there is a single row, or if the given density is
            zero where a row comes from.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        start, name, density = _one_density(source_density, target_density)
        random = private_random_state(random_state)
        rows = chosen_rows(self._rows_opposite(X, start), random)
        by_paths = self._by_paths(rows, start, name, density, random, epsilon, n_paths, n_steps)
        log_density = (self.source_log_density if start else self.target_log_density)(rows, density)
        n_zero = int(np.isneginf(np.minimum(log_density, by_paths[:, 0])).sum())
        if n_zero:
            raise ValueError(
                f"The cross-entropy is infinite, because {name} is zero where {n_zero} of "
                f"{len(rows)} rows come from; use a density that is positive everywhere."
            )
        return Bunch(**cross_entropies(log_density, by_paths))

    def _rows_opposite(self, X: ArrayLike, start: float) -> NDArray[Any]:
        """Validated rows of the side at which a diffusion from `start` ends."""
        return self._validated(X) if start else self._validated_other(X, "X", "target")

    def _by_paths(
        self,
        rows: NDArray[Any],
        start: float,
        name: str,
        density: DensityEstimator,
        random: np.random.RandomState,
        epsilon: float | str | Callable[[float], float],
        n_paths: int,
        n_steps: int | None,
    ) -> NDArray[np.float64]:
        """Log-densities of a diffusion from a density, errors and lower bounds, shape (n, 3)."""

        def log_density(x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(_log_density_by(name, density, x.cpu().numpy())).to(x)

        return self._diffusion_log_density(
            rows, 1.0 - start, start, random, epsilon, n_paths, n_steps, log_density
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.required = True
        return tags


def _common_scaling(readers: Sequence[Reader]) -> Standardize:
    """Scaling of both sides by one number, which leaves Brownian motion as it is."""
    means, variances = [], []
    for reader in readers:
        x, weight = evenly_spaced(reader.X), evenly_spaced(reader.weight)
        means.append(np.average(x, axis=0, weights=weight))
        variances.append(np.average((x - means[-1]) ** 2, axis=0, weights=weight))
    shift = torch.from_numpy(0.5 * (means[0] + means[1]))
    unit = float(np.sqrt(np.mean(variances))) or 1.0
    return Standardize(shift, torch.full_like(shift, unit))


def _names_of(X: Any) -> NDArray[np.object_] | None:
    """Names of the columns; None if they have none."""
    names: NDArray[np.object_] | None = _get_feature_names(
        X.header if isinstance(X, StoredRows) else X
    )
    return names


def _check_no_target(
    X1: ArrayLike | None, target_sample_weight: ArrayLike | None, paired: bool
) -> None:
    if X1 is not None or target_sample_weight is not None or paired:
        raise ValueError(
            "A mirror path resamples one data set: call fit(X0), without X1, its weights and "
            "paired=True; for two data sets, use interpolant='linear'."
        )


def _check_density(name: str, density: object) -> None:
    if not isinstance(density, DensityEstimator):
        raise TypeError(
            f"{name} must be a fitted density estimator with score_samples, got {density!r}; "
            "use InterpolantFlowDensity, KernelDensity or GaussianMixture, for example."
        )


def _one_density(
    source_density: DensityEstimator | None, target_density: DensityEstimator | None
) -> tuple[float, str, DensityEstimator]:
    """Time at which a diffusion starts, and the name and value of the density there."""
    given = [
        (start, name, density)
        for start, name, density in (
            (0.0, "source_density", source_density),
            (1.0, "target_density", target_density),
        )
        if density is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"{'Both' if given else 'None'} of source_density and target_density were given; "
            "give the one of the side at which the diffusion starts."
        )
    _check_density(*given[0][1:])
    return given[0]


def _log_density_by(name: str, density: DensityEstimator, rows: NDArray[Any]) -> NDArray[Any]:
    """Log-densities of rows by the density that is the argument `name`, shape (n,).

    Raises
    ------
    ValueError
        If their shape is wrong, or they are not numbers, NaN or plus infinity.
    """
    with suppress_feature_name_warning():
        log_density = np.asarray(density.score_samples(rows))
    if log_density.shape != (len(rows),) or log_density.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}.score_samples must return one log-density for each row, of the shape "
            f"{(len(rows),)}, but returned an array of the shape {log_density.shape} and dtype "
            f"{log_density.dtype}; wrap the estimator, or use another."
        )
    # Minus infinity is valid: the density may be zero.
    n_invalid = int((np.isnan(log_density) | (log_density == np.inf)).sum())
    if n_invalid:
        raise ValueError(
            f"{name}.score_samples returned NaN or infinity for {n_invalid} of {len(rows)} rows; "
            "use another density."
        )
    return log_density
