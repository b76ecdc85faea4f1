"""InterpolantTransport: the map between two data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin, _fit_context
from sklearn.utils import Tags, check_array
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import (
    _check_feature_names_in,
    _get_feature_names,
    check_is_fitted,
    validate_data,
)

from skinterflow._arguments import checked_time
from skinterflow._callbacks import FitEvents
from skinterflow._defaults import resolve_recipe
from skinterflow._estimator import (
    RandomStateLike,
    all_or_nothing,
    private_random_state,
    resolve_device,
    rows_of_our_own,
    seeded_generators,
    step_seed,
    sums_may_overflow,
    weighted_rows,
)
from skinterflow._fitting import N_CHECKS, Draw, Fold
from skinterflow._flow_estimator import (
    PARAMETER_CONSTRAINTS,
    Ends,
    FlowEstimator,
    Sitting,
    resolve_atol,
)
from skinterflow._limits import TimeBudget
from skinterflow._rows import NOBODY, Reader, training_rows
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.interpolants import Interpolant, Mirror
from skinterflow.interflow.latent import Gamma, StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Compose, Scaling


@runtime_checkable
class DensityEstimator(Protocol):
    """A fitted estimator with scikit-learn's `score_samples`: log-density of rows, in nats."""

    def score_samples(self, X: NDArray[Any], /) -> NDArray[Any]: ...


class InterpolantTransport(TransformerMixin, FlowEstimator):
    r"""Map between two data sets by a stochastic interpolant.

    A velocity field is learned that carries rows of `X0` at ``t = 0`` to rows of `X1` at
    ``t = 1``.  Neither density need be known, and no row of one set belongs to a row of the other
    ([1]_, section 3 and figure 2).  The map is smooth and invertible, so the log-density of either
    side gives that of the other.

    Parameters
    ----------
    interpolant : str or Interpolant, default="linear"
        Path that joins a row of `X0` to a row of `X1`: "linear", "trigonometric",
        "variance_preserving", "fourier", "encoding_decoding", "mirror", or one's own.  One with
        parameters, such as "fourier", is learned: it shortens the way.  "encoding_decoding" and
        "mirror" need a `gamma`; "mirror" leads from one data set to itself, and :meth:`sample`
        resamples it.
    gamma : {"brownian", "quadratic", "sine_squared", "sigmoid"}, Gamma or None, default=None
        Scale of a latent that is added to the path, ``x_t = I_t + gamma(t) z`` ([2]_, table 8):
        ``sqrt(t (1 - t))``, ``t (1 - t)``, ``sin^2(pi t)``, or a hump of sigmoids.  It smooths the
        densities between the two, and makes the score, and with it
        :meth:`sample`, available.  None is no latent ([1]_).
    targets : "auto", "b" or tuple of "b", "v", "s", "eta", default="auto"
        Quantities that are learned, by one network with a head for each ([2]_, section 2.3): the
        drift "b", or the velocity "v", beside the score "s" or the denoiser "eta"; the drift alone,
        where no score is wanted; one of "s" and "eta" alone on a mirror path. "auto" is "b" without
        `gamma`, "eta" on a mirror path, and else ``("b", "eta")``.
    coupling : {"independent", "optimal_transport"} or Coupling, default="independent"
        Which row of `X0` meets which row of `X1` in training.  "optimal_transport", within parts of
        a batch, shortens straight paths, at dearer training steps.
    time_beta : tuple of two positive floats, default=(1.0, 1.0)
        Beta law of the training times; ``(1, 1)`` is uniform.
    scaling : {"gaussianize", "power", "whiten", "standardize"}, Scaling or None, default="whiten"
        Invertible map of each side before the flow, estimated for each on its own rows (a Scaling
        object serves both); see `InterpolantFlowDensity`.  The flow is left with what an alignment
        of means and covariances does not do.
    hidden_layer_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers; "auto" is ``(96, 96, 96, 96, 96, 96)``.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
    alpha : float, default=30.0
        Regularisation: the weight decay of AdamW is ``alpha`` divided by the number of rows of the
        smaller set.
    batch_size : "auto" or int, default="auto"
        Pairs per gradient step: "auto" is 512 if the smaller set has below 10,000 rows, and else
        1,024.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up; it decays to zero over `max_iter` steps, along a cosine.
        "auto" is 0.005.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps; "auto" is 4,000.
    max_time : float or None, default=None
        Seconds that `fit` may take, see `InterpolantFlowDensity`.
    warm_start : bool, default=False
        Go on from the previous fit: its weights, its scalings, its optimisers, up to `max_iter`
        steps in all.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights and the batches.
    verbose : bool, default=False
        Print the loss ten times.
    solver : {"rk4", "heun3", "midpoint", "euler", "dopri5"}, default="rk4"
        How the ODE is solved, see `InterpolantFlowDensity`.
    atol : "auto" or float, default="auto"
        Accuracy wanted of a row: the estimated error of a log-density or log-determinant in nats,
        and of coordinates in flow units, is to be at most ``atol + rtol * size`` with the norm of
        both as the size.  "auto" is 0.05 nats, for which the mean error is a few thousandths, and
        0.005 for coordinates.  Tolerances that float32 can keep are kept in float32, whatever the
        dtype of the rows.
    rtol : float, default=1e-5
        Part of the tolerance that grows with the size.
    divergence : "exact" or int, default="exact"
        "exact", or the number of probes of a Hutchinson estimate.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Where to train and to transport.
    n_jobs : int or None, default=None
        Blocks of 16,384 rows that are transported side by side, in threads.
    checkpoint : str, path-like or None, default=None
        File that `fit` notes its progress in, and goes on from after it was cut off; see
        `InterpolantFlowDensity`.

    Attributes
    ----------
    end_time_ : float
        1: the flow goes all the way.
    n_iter_ : int
        Number of gradient steps that were run, those of earlier fits that were gone on with among
        them.
    check_steps_ : list of int
        Number of the step of each check.
    loss_ : float
        Training loss ``G`` at the last check, summed over the `targets`.
    loss_curve_ : list of float
        Mean training loss between checks.
    action_, path_length_ : float
        Transport action ``E|b|^2`` and length, the mean over times of its root, of the path that
        was trained on; in units of the flow.
    initial_action_, initial_path_length_ : float or None
        The same of the path before it was learned; None where there was nothing to learn.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X0`, only if they are all strings.
    target_feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X1`, only if they are all strings.

    See Also
    --------
    InterpolantFlowDensity : The density of one data set.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
        ICLR 2023.
    .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
        Flows and Diffusions", 2023.

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

    # Rows, not metadata to be routed.
    __metadata_request__fit: ClassVar[dict[str, str]] = {"X0": UNUSED, "X1": UNUSED}
    __metadata_request__transform: ClassVar[dict[str, str]] = {"X0": UNUSED}
    __metadata_request__inverse_transform: ClassVar[dict[str, str]] = {"X1": UNUSED}
    _gaussian_source: ClassVar[bool] = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = dict(PARAMETER_CONSTRAINTS)

    def __init__(
        self,
        *,
        interpolant: str | Interpolant = "linear",
        gamma: str | Gamma | None = None,
        targets: str | Sequence[str] = "auto",
        coupling: str | Coupling = "independent",
        time_beta: tuple[float, float] = (1.0, 1.0),
        scaling: str | Scaling | None = "whiten",
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
        solver: str = "rk4",
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
        self.coupling = coupling
        self.time_beta = time_beta
        self.scaling = scaling
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
    ) -> Self:
        """Learn the map from the rows of `X0` to those of `X1`.

        Rows of `X0` and `X1` are not paired: both are shuffled on their own, and row i of one means
        nothing to row i of the other.  Known pairs, such as measurements before and after a
        treatment, are not learned.

        A failed fit leaves the previous state.  Ctrl-C ends the training: the estimator is fitted,
        with the weights so far, and `KeyboardInterrupt` is raised; a second one ends the fit at
        once.

        Parameters
        ----------
        X0 : array-like of shape (n_source_samples, n_features)
        X1 : array-like of shape (n_target_samples, n_features)
            Of equal width; the numbers of rows may differ.  At least two rows each; finite
            numbers.  None, and `target_sample_weight` too, for a mirror path.
        sample_weight : array-like of shape (n_source_samples,), default=None
            Weights of the rows of `X0`, not negative and not all zero.
        target_sample_weight : array-like of shape (n_target_samples,), default=None
            Weights of the rows of `X1`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If rows, weights or parameters cannot be used, or the checkpoint is of another fit;
            nothing has then changed.
        OSError
            If the checkpoint cannot be read or written.
        """
        budget = TimeBudget(self.max_time)
        events = FitEvents(self, X0, sample_weight, N_CHECKS + 1 * budget.limited)
        with all_or_nothing(self):
            warm = self.warm_start and hasattr(self, "_field")
            with sums_may_overflow():
                rows0: NDArray[Any] = validate_data(
                    self, X0, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=not warm
                )
            path = self._new_path(rows0.shape[1], warm)
            targets = self._new_targets(path, None, warm)
            if isinstance(path.interpolant, Mirror):
                if X1 is not None or target_sample_weight is not None:
                    raise ValueError(
                        "A mirror path resamples one data set: fit(X0), without X1 and its "
                        "weights; for two, take interpolant='linear'."
                    )
                X1, target_sample_weight = X0, sample_weight
            elif X1 is None:
                raise ValueError(
                    "X1, the rows of the target, is missing; only interpolant='mirror' does "
                    f"without, not {self.interpolant!r}."
                )
            names = _get_feature_names(X1)
            with sums_may_overflow():
                rows1: NDArray[Any] = check_array(
                    X1, dtype=[np.float64, np.float32], ensure_min_samples=2, input_name="X1"
                )
            if rows0.shape[1] != rows1.shape[1]:
                raise ValueError(
                    f"X0 has {rows0.shape[1]} columns and X1 has {rows1.shape[1]}; a map that can "
                    "be inverted needs as many on both sides."
                )
            sides = [
                weighted_rows(rows0, sample_weight),
                weighted_rows(rows1, target_sample_weight, "target_sample_weight"),
            ]
            device = resolve_device(self.device)
            Solver(self.solver, resolve_atol(self.atol), float(self.rtol))
            sitting = self._sitting(
                warm, events, budget, *(part for side in sides for part in side)
            )
            setup = seeded_generators(step_seed(sitting.seed, Draw.SETUP), device).cpu
            given = [self._source, self._target] if warm else [None, None]
            readers = [
                self._reader(*side, device, [f"{name} column {k}" for k in range(rows0.shape[1])])
                for side, name in zip(sides, ("X0", "X1"), strict=True)
            ]
            source, target = (
                replace(reader, scaling=scaling or self._scaling_of(reader, NOBODY, setup))
                for reader, scaling in zip(readers, given, strict=True)
            )
            self._fit_rows(source, target, path, targets, sitting, setup)
            if names is not None:
                self.target_feature_names_in_ = names
            else:
                self.__dict__.pop("target_feature_names_in_", None)  # of an earlier fit
        sitting.end()
        return self

    def _fit_rows(
        self,
        source: Reader,
        target: Reader,
        path: StochasticInterpolant,
        targets: tuple[str, ...],
        sitting: Sitting,
        setup: torch.Generator,
    ) -> None:
        n_features = source.X.shape[1]
        n_rows = min(len(source.X), len(target.X))
        start, end = (training_rows(reader, NOBODY, setup) for reader in (source, target))
        fold = Fold(start, end, target.read(NOBODY, setup))
        recipe = resolve_recipe(
            n_rows=n_rows,
            cross_fitted=False,
            coupling=self.coupling,
            end_time=1.0,
            alpha=self.alpha,
            batch_size=self.batch_size,
            learning_rate_init=self.learning_rate_init,
            max_iter=self.max_iter,
            n_iter_no_change=1,
            tol=0.0,
            verbose=bool(self.verbose),
        )
        objectives = self._objectives(
            1, n_features, path, targets, Compose([]), sitting.warm, source.device, setup
        )
        ends = Ends(source.scaling, target.scaling)
        trained = self._train(objectives, [fold], recipe, ends, sitting)
        sitting.interruption.finish(lambda: self._keep(trained, trained.field, ends, fold, sitting))

    def transform(self, X0: ArrayLike) -> NDArray[Any]:
        """Carry rows of the source to the target.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)

        Returns
        -------
        X1 : ndarray of shape (n_samples, n_features), of the dtype of `X0`

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        return self._carried(self._validated(X0))

    def _carried(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Where rows of the source that were looked at are carried."""
        return self._by_blocks(rows, lambda x, model: model.push(x, 1.0), side="source")[0]

    def _carried_back(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Where rows of the target that were looked at are carried."""
        return self._by_blocks(rows, lambda x, model: model.pull(x, 1.0))[0]

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the columns of the target, as :meth:`set_output` gives them to what `transform`
        returns.

        They are those of `X1` or, if it had none, of `X0`; without either ``x0``, ``x1``, ...

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only compared with the names that the fit saw.

        Returns
        -------
        names : ndarray of str objects, shape (`n_features_in_`,)
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        return np.asarray(getattr(self, "target_feature_names_in_", self._names_in()), dtype=object)

    def inverse_transform(self, X1: ArrayLike) -> NDArray[Any] | Any:
        """Carry rows of the target back to the source: the inverse of :meth:`transform`.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)

        Returns
        -------
        X0 : ndarray of shape (n_samples, n_features), of the dtype of `X1`
            Or a data frame with the names of the columns of the source, if :meth:`set_output` asks
            for one.

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
        epsilon: float | str | Callable[[float], float] = 1.0,
        n_steps: int | None = None,
    ) -> NDArray[np.float64] | Any:
        r"""Carry rows of the source to random rows of the target, by the diffusion of a noise
        level.

        ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` has the law of :meth:`transform`, whatever
        the noise ([1]_, section 2.4).  One row can be given many times.  On a mirror path the rows
        come back as other rows of the same density: near them for little noise.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
        random_state : int, RandomState instance or None, default=None
            Seed of the noise; None draws anew at every call.
        epsilon : float, callable or {"decreasing", "sine"}, default=1.0
            Noise level, in squared flow units per unit of time: not negative; a function of the
            time; or ``1 - t`` and ``sin(pi t)^2`` by name.  Where the denoiser is divided by
            `gamma`, the level fades below a `gamma` of 0.2.
        n_steps : int or None, default=None
            Steps, by Heun's method; None is 200 times the largest noise level, and at least 200.

        Returns
        -------
        X1 : ndarray of shape (n_samples, n_features)
            Or a data frame with the names of the columns of the target, if :meth:`set_output` asks
            for one.

        Raises
        ------
        ValueError
            If no score was learned, if an argument cannot be used, or if rows are so far outside
            the data that the arithmetic overflows.
        FloatingPointError
            If the diffusion leaves the finite numbers, with the time and the number of rows.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        rows, random = self._validated(X0), private_random_state(random_state)
        drawn = self._diffused(
            rows, random, epsilon, n_steps, lambda model, x, *how: model.diffuse(x, 1.0, *how)
        )
        return self._contained(drawn, X0, list(self.get_feature_names_out()))

    def inverse_sample(
        self,
        X1: ArrayLike,
        random_state: RandomStateLike = None,
        *,
        epsilon: float | str | Callable[[float], float] = 1.0,
        n_steps: int | None = None,
    ) -> NDArray[np.float64] | Any:
        """Carry rows of the target to random rows of the source, by the backward diffusion: see
        :meth:`sample`.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)
        random_state, epsilon, n_steps : see :meth:`sample`

        Returns
        -------
        X0 : ndarray of shape (n_samples, n_features)
            Or a data frame with the names of the columns of the source, if :meth:`set_output` asks
            for one.
        """
        rows, random = self._validated_other(X1, "X1", "target"), private_random_state(random_state)
        drawn = self._diffused(
            rows,
            random,
            epsilon,
            n_steps,
            lambda model, x, *how: model.diffuse_back(x, 1.0, *how),
            side="target",
        )
        return self._contained(drawn, X1, self._names_in())

    def score_gradient(self, X: ArrayLike, *, t: float) -> NDArray[Any]:
        """Score on the path: gradient of the log-density at a time with respect to `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in units of the target, into which its scaling carries what is on the way, at every
            time.
        t : float in [0, 1]
            0 is the source, 1 the target.

        Returns
        -------
        score : ndarray of the shape and dtype of `X`, in nats per unit of each column

        Raises
        ------
        ValueError
            If no score was learned.
        """
        rows, time = self._validated_other(X, "X", "target"), checked_time(t)

        return self._by_blocks(rows, lambda x, model: model.path_score(x, time))[0]

    def log_abs_det_jacobian(self, X0: ArrayLike) -> NDArray[Any]:
        """``log |det dT/dx|`` of the map :meth:`transform` at rows of the source.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_det : ndarray of shape (n_samples,), of the dtype of `X0`

        Raises
        ------
        ValueError
            If rows are so far outside the data that the arithmetic of the flow overflows.
        """
        return self._log_det(self._validated(X0))

    def _log_det(self, rows: NDArray[Any]) -> NDArray[Any]:
        return self._by_blocks(rows, lambda x, model: model.push_log_det(x, 1.0), side="source")[0]

    def target_log_density(self, X1: ArrayLike, source_density: DensityEstimator) -> NDArray[Any]:
        """Log-density of the target at its rows, from a fitted density of the source.

        Parameters
        ----------
        X1 : array-like of shape (n_samples, n_features)
        source_density : fitted estimator with `score_samples`, of the rows `X0`
            Ours, scikit-learn's KernelDensity or GaussianMixture, or any other.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats per row; minus infinity where that of the given density is.

        Raises
        ------
        TypeError
            If what is given has no `score_samples`.
        ValueError
            If its `score_samples` does not return one number, or minus infinity, for each row; or
            if rows are so far outside the data that the arithmetic of the flow overflows.
        """
        _check_density("source_density", source_density)
        rows = self._validated_other(X1, "X1", "target")
        log_det, _ = self._by_blocks(rows, lambda x, model: model.pull_log_det(x, 1.0))
        return (
            _given_log_density("source_density", source_density, self._carried_back(rows)) + log_det
        )

    def source_log_density(self, X0: ArrayLike, target_density: DensityEstimator) -> NDArray[Any]:
        """Log-density of the source at its rows, from a fitted density of the target.

        Parameters
        ----------
        X0 : array-like of shape (n_samples, n_features)
        target_density : fitted estimator with `score_samples`, of the rows `X1`

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats per row; minus infinity where that of the given density is.

        Raises
        ------
        TypeError
            If what is given has no `score_samples`.
        ValueError
            If its `score_samples` does not return one number, or minus infinity, for each row; or
            if rows are so far outside the data that the arithmetic of the flow overflows.
        """
        _check_density("target_density", target_density)
        rows = self._validated(X0)
        return _given_log_density(
            "target_density", target_density, self._carried(rows)
        ) + self._log_det(rows)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.required = True
        return tags


def _check_density(name: str, density: object) -> None:
    if not isinstance(density, DensityEstimator):
        raise TypeError(
            f"{name} must be a fitted density estimator with score_samples, got {density!r}; "
            "use InterpolantFlowDensity, KernelDensity or GaussianMixture, for example."
        )


def _given_log_density(name: str, density: DensityEstimator, rows: NDArray[Any]) -> NDArray[Any]:
    """Log-densities of rows by a density that was given, shape (n,).

    Raises
    ------
    ValueError
        If they are of another shape, no numbers, NaN or plus infinity.
    """
    with rows_of_our_own():
        given = np.asarray(density.score_samples(rows))
    if given.shape != (len(rows),) or given.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}.score_samples must return one log-density for each row, of the shape "
            f"{(len(rows),)}, but returned an array of the shape {given.shape} and dtype "
            f"{given.dtype}; wrap the estimator, or take another."
        )
    n_wrong = int((np.isnan(given) | (given == np.inf)).sum())
    if n_wrong:
        raise ValueError(
            f"{name}.score_samples returned NaN or infinity for {n_wrong} of {len(rows)} rows; "
            "take another density."
        )
    return given
