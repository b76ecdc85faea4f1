"""InterpolantFlowDensity: log-density, samples and latent transform of one data set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags, check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from skinterflow._defaults import INTERPOLANTS, checked_widths, continued_fields, held_out_rows, new_fields, resolve_recipe
from skinterflow._distillation import distilled
from skinterflow._estimator import (
    RandomStateLike,
    all_or_nothing,
    checked_weight,
    map_blocks,
    on_device,
    private_random_state,
    resolve_device,
    resolve_device_or_cpu,
    seeded,
    weighted_rows,
)
from skinterflow._fitting import Fold, fit_field
from skinterflow._rows import Reader, training_rows
from skinterflow._scaling import constant_widths, estimate_scaling, warn_degenerate
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ACTIVATIONS, ResidualMLP, VelocityField
from skinterflow.interflow.flows import Flow, Measured, Pushforward, warn_unresolved
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.ode import ADAPTIVE_METHODS, FIXED_GRID_ORDERS, Calibration, Solver
from skinterflow.interflow.scaling import Scaling

_CALIBRATION_ROWS = 64

_Work = Callable[[torch.Tensor, torch.dtype, Flow, Scaling], Measured]


class InterpolantFlowDensity(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""Density estimation with a stochastic-interpolant flow.

    A velocity field ``v_t(x)`` is learned that carries a standard normal at ``t = 0`` into the data at ``t = 1``.  It is the minimiser of
    a quadratic loss [1]_, without simulating an ODE; afterwards one ODE solve per row gives samples, the latent, and the
    exact, normalised log-density.

    Parameters
    ----------
    interpolant : {"trigonometric", "linear"} or Interpolant, default="trigonometric"
        Path that joins a base point to a data point.
    time_beta : tuple of two positive floats, default=(1.0, 0.5)
        Beta law of the training times; ``(1, 1)`` is uniform.  The default puts more of them near the data ([1]_, table 3).
    end_time : "auto" or float in (0, 1], default="auto"
        Where the flow stops.  It plays the part of a bandwidth: 1 is the full flow, and earlier times are smoother.
        "auto" chooses by held-out log-likelihood (down to 0, the Gaussian), or is 1 where nothing is held out.
    scaling : {"power", "whiten", "standardize"}, Scaling or None, default="power"
        Invertible map of the data before the flow, whose Jacobian is part of the density.  "standardize": mean and deviation per column;
        "whiten": that and a whitening with Ledoit-Wolf shrinkage; "power": a Yeo-Johnson map per column before both.
    hidden_layer_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers: "auto" is ``(64, 64, 64)`` where the fit is cross-fitted (see `early_stopping`) and else
        ``(128, 128, 128, 128)``.
    student_layer_sizes : sequence of one or two int, or None, default=None
        After training, a shallow student of these widths, such as ``(384, 192)``, learns to follow the trained field and becomes the model:
        cheaper to score, because its exact divergence costs one layer instead of one pass per column, for some loss of
        likelihood (`distillation_loss_`).  Where it loses more than 1 nat per row the trained field stays, with a warning.  None keeps
        the trained field.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
        Activation function.  All are smooth, because the divergence of the field is integrated.
    alpha : float, default=30.0
        Regularisation: the weight decay of AdamW is ``alpha`` divided by the number of rows (scikit-learn's neural networks divide theirs,
        too).
    batch_size : "auto" or int, default="auto"
        Rows per gradient step: "auto" is 128 where the fit is cross-fitted, 512 below 10,000 rows, and else 1,024.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up; it decays to zero over `max_iter` steps, along a cosine.  "auto" is 0.01 where the fit is
        cross-fitted and else 0.005.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps: "auto" is 2,500 where the fit is cross-fitted and else 4,000.  A student takes as many again.
    early_stopping : "auto" or bool, default="auto"
        True holds out `validation_fraction` of the rows, keeps the weights with the best held-out log-likelihood, and stops when it
        no longer rises.  False trains on all rows for `max_iter` steps.  "auto" is True from 2,000 rows; below, four
        fields are trained, each judged on its own quarter of the rows, and the model is the mean of the fields (cross-fitting).
    validation_fraction : float in (0, 1), default=0.1
        Part of the rows that is held out when nothing is cross-fitted.
    n_iter_no_change : int, default=3
        Training stops after this many checks without improvement.  There are 10 checks in `max_iter` steps, the k-th after
        ``(k / 10)^2`` of them.
    tol : float, default=1e-4
        Rise of the held-out log-likelihood, in nats per row, that counts as an improvement.
    warm_start : bool, default=False
        Start from the weights and the scaling of the previous fit; the parameters that shape those are not read again.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches and the held-out rows.
    verbose : bool, default=False
        Print a line at every check: loss, held-out log-likelihood, elapsed and remaining time.
    solver : {"rk4", "heun3", "midpoint", "euler", "dopri5"}, default="rk4"
        How the ODE is solved.  The first four work row by row.  "dopri5" ([1]_) shares its adaptive step size over the rows that are
        scored together, so that a row's result depends on its neighbours, within the tolerance.
    atol, rtol : float, default=5e-3 and 1e-5
        Accuracy wanted of a row: the estimated error of its log-density in nats, and of its coordinates in flow units, is to be at most
        ``atol + rtol * size`` with the norm of both as the size.  The estimate is cautious: most errors are far smaller.
    divergence : "exact" or int, default="exact"
        "exact", or the number of Rademacher probes of a Hutchinson estimate, shared by all rows, for scoring very wide data.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Where to train and to score; "auto" takes a GPU if there is one.
    n_jobs : int or None, default=None
        Blocks of 4,096 rows that are scored, transformed or sampled side by side, in threads; None is 1, with torch's own threads,
        which on two cores was not slower.

    Attributes
    ----------
    end_time_ : float
        End time of the flow, in [0, 1].
    n_iter_ : int
        Number of gradient steps that were run.
    loss_ : float
        Training loss ``G`` at the last check.
    loss_curve_ : list of float
        Mean training loss between checks.
    validation_scores_ : list of float or None
        Held-out log-likelihood at every check, in nats per row; None where nothing is held out.
    best_validation_score_ : float or None
        The best of them, whose weights were kept.
    distillation_loss_ : float or None
        Held-out log-likelihood that the student lost against the trained field, in nats per row; None where there is no student.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only if `X` has feature names that are all strings.

    See Also
    --------
    sklearn.neighbors.KernelDensity : Kernel density estimation.
    sklearn.mixture.GaussianMixture : Gaussian mixtures.

    Notes
    -----
    ``score_samples`` of a Pipeline is the density of what the last step sees: a scaler *before* this estimator is not
    accounted for.  Use `scaling` instead.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023.
    .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import InterpolantFlowDensity
    >>> X = load_iris().data
    >>> density = InterpolantFlowDensity(max_iter=50, random_state=0).fit(X)
    >>> density.score_samples(X).shape
    (150,)
    >>> density.sample(3, random_state=0).shape
    (3, 4)
    """

    _doc_link_module = "skinterflow"
    __metadata_request__inverse_transform: ClassVar[dict[str, str]] = {"Z": UNUSED}
    _scaling: Scaling
    _trained: VelocityField
    _field: VelocityField
    _calibration: Calibration | None
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "interpolant": [StrOptions(set(INTERPOLANTS)), Interpolant],
        "time_beta": [tuple, list],
        "end_time": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "scaling": [StrOptions({"power", "whiten", "standardize"}), Scaling, None],
        "hidden_layer_sizes": [StrOptions({"auto"}), "array-like"],
        "student_layer_sizes": ["array-like", None],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "solver": [StrOptions({*FIXED_GRID_ORDERS, *ADAPTIVE_METHODS})],
        "atol": [Interval(Real, 0, None, closed="neither")],
        "rtol": [Interval(Real, 0, None, closed="left")],
        "divergence": [StrOptions({"exact"}), Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        *,
        interpolant: str | Interpolant = "trigonometric",
        time_beta: tuple[float, float] = (1.0, 0.5),
        end_time: str | float = "auto",
        scaling: str | Scaling | None = "power",
        hidden_layer_sizes: str | Sequence[int] = "auto",
        student_layer_sizes: Sequence[int] | None = None,
        activation: str = "silu",
        alpha: float = 30.0,
        batch_size: str | int = "auto",
        learning_rate_init: str | float = "auto",
        max_iter: str | int = "auto",
        early_stopping: str | bool = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: RandomStateLike = None,
        verbose: bool = False,
        solver: str = "rk4",
        atol: float = 5e-3,
        rtol: float = 1e-5,
        divergence: str | int = "exact",
        device: str | torch.device = "cpu",
        n_jobs: int | None = None,
    ) -> None:
        self.interpolant = interpolant
        self.time_beta = time_beta
        self.end_time = end_time
        self.scaling = scaling
        self.hidden_layer_sizes = hidden_layer_sizes
        self.student_layer_sizes = student_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.solver = solver
        self.atol = atol
        self.rtol = rtol
        self.divergence = divergence
        self.device = device
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the density of the rows of `X`.

        A failed fit leaves the previous state.  Ctrl-C during training keeps the best weights so far, with a warning.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two rows; finite numbers.  Columns without a density (constant, collinear, integer-valued) are named in a warning.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative and not all zero.  They weight the loss, the scaling and the held-out log-likelihood.

        Returns
        -------
        self
        """
        with all_or_nothing(self):
            warm = self.warm_start and hasattr(self, "_field")
            rows: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=not warm)
            rows, weight = weighted_rows(rows, sample_weight)
            device = resolve_device(self.device)
            Solver(self.solver, float(self.atol), float(self.rtol))
            widths = constant_widths(rows)
            warn_degenerate(rows, widths, list(getattr(self, "feature_names_in_", map("column {}".format, range(rows.shape[1])))))
            with seeded(private_random_state(self.random_state).randint(2**31), device):
                scaling = self._scaling if warm else estimate_scaling(copy.deepcopy(self.scaling), rows, weight, widths)
                self._fit_rows(Reader(rows, weight, widths, scaling, device), warm)
        return self

    def _fit_rows(self, reader: Reader, warm: bool) -> None:
        n_rows, n_features = reader.X.shape
        sizes = self.student_layer_sizes
        student_widths = None if sizes is None else checked_widths("student_layer_sizes", sizes, most=2)
        held_out = held_out_rows(n_rows, self.early_stopping, self.validation_fraction)
        folds = [Fold(training_rows(reader, rows), reader.read(rows)) for rows in held_out]
        recipe = resolve_recipe(
            n_rows=n_rows,
            n_features=n_features,
            cross_fitted=len(folds) > 1,
            interpolant=self.interpolant,
            time_beta=self.time_beta,
            end_time=self.end_time,
            alpha=self.alpha,
            batch_size=self.batch_size,
            learning_rate_init=self.learning_rate_init,
            max_iter=self.max_iter,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            verbose=bool(self.verbose),
        )
        if warm:
            members = continued_fields(len(folds), self._trained)
        else:
            members = new_fields(len(folds), n_features, self.hidden_layer_sizes, self.activation)
        trained, end_time, history = fit_field([member.to(reader.device) for member in members], folds, recipe)
        field, lost = trained, None
        if student_widths is not None and end_time > 0:
            student = ResidualMLP(n_features, student_widths, self.activation).to(reader.device)
            field, lost = distilled(student, trained, folds, end_time, recipe)
        self._calibration = self._calibrated(field, folds, end_time)
        self._scaling, self._trained, self._field, self.end_time_ = reader.scaling, trained.cpu(), field.cpu(), end_time
        self._n_features_out = self.n_features_in_
        self.n_iter_, self.loss_curve_ = history.n_iter, history.loss_curve
        self.loss_ = history.loss_curve[-1] if history.loss_curve else float("nan")
        self.validation_scores_ = history.validation_scores or None
        self.best_validation_score_ = history.best_score if history.validation_scores else None
        self.distillation_loss_ = lost

    def _calibrated(self, field: VelocityField, folds: Sequence[Fold], end_time: float) -> Calibration | None:
        """Steps that tolerances need on rows of the data, or None where no steps are to be chosen."""
        if end_time == 0 or self.solver in ADAPTIVE_METHODS:
            return None
        rows = next(folds[0].train.batches(_CALIBRATION_ROWS))[0]
        return Flow(on_device(field, rows.device, torch.float64), end_time=end_time).calibrate(rows.double(), self.solver)

    def score_samples(self, X: ArrayLike, return_error: bool = False) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Log-density of each row of `X`.

        Each row is solved on its own, so its value does not depend on the rows beside it.  One warning tells how many rows, if any,
        were left with an estimated error above the tolerance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            float32 input is scored in float32, faster; anything else in float64.  A ``numpy.memmap`` is read in blocks.
        return_error : bool, default=False
            Return the estimated errors, too.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats per row, of the units of `X`; normalised, so its exponential integrates to one.
        error : ndarray of shape (n_samples,), only if `return_error`
            Estimated absolute error of each, in nats: of the ODE solve (NaN for "dopri5", which estimates none), plus one standard
            error where the divergence is estimated (NaN for a single probe).  It bounds the error for at least 95 rows in 100.
        """
        value, error = self._log_density(X)
        return (value, error) if return_error else value

    def _log_density(self, X: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Log-density of each row and its estimated error."""

        def log_density(x: torch.Tensor, dtype: torch.dtype, flow: Flow, scaling: Scaling) -> Measured:
            measured = Pushforward(flow).measured_log_prob(scaling(x).to(dtype))
            return measured._replace(value=measured.value + scaling.log_abs_det(x))

        return self._by_blocks(self._validated(X), log_density)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-density per row, in nats: GaussianMixture's convention, and what model selection wants.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        log_density, _ = self._log_density(X)
        return float(np.average(log_density, weights=checked_weight(sample_weight, log_density)))

    def sample(self, n_samples: int = 1, random_state: RandomStateLike = None) -> NDArray[np.float64]:
        """Draw rows from the fitted density.

        Parameters
        ----------
        n_samples : int, at least 1, default=1
        random_state : int, RandomState instance or None, default=None
            Seed of the draw; None draws anew at every call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), in data units
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}.")
        latent = private_random_state(random_state).standard_normal((int(n_samples), self.n_features_in_))
        return self.inverse_transform(latent)

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Latent of each row of `X`: the point of the standard normal base that the flow carries to it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features), of the dtype of `X`; N(0, I) for rows of the fitted density
        """

        def pull(x: torch.Tensor, dtype: torch.dtype, flow: Flow, scaling: Scaling) -> Measured:
            return Measured(*flow.transport(scaling(x).to(dtype), flow.end_time, 0.0))

        return self._by_blocks(self._validated(X), pull)[0]

    def inverse_transform(self, Z: ArrayLike) -> NDArray[Any]:
        """Data rows of latent points: the inverse of :meth:`transform`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), of the dtype of `Z`
        """
        check_is_fitted(self)
        latent: NDArray[Any] = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        if latent.shape[1] != self.n_features_in_:
            raise ValueError(f"Z has {latent.shape[1]} columns, but the latent space has {self.n_features_in_}, one for each feature.")

        def push(z: torch.Tensor, dtype: torch.dtype, flow: Flow, scaling: Scaling) -> Measured:
            u, error, unresolved = flow.transport(z.to(dtype), 0.0, flow.end_time)
            return Measured(scaling.inverse(u.double()), error, unresolved)

        return self._by_blocks(latent, push)[0]

    def _validated(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        rows: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return rows

    def _by_blocks(self, X: NDArray[Any], work: _Work) -> tuple[NDArray[Any], NDArray[Any]]:
        """Values and errors of `work` on the rows in blocks, so that memory is bounded; one warning counts all rows left unresolved."""
        device = resolve_device_or_cpu(self.device)
        dtype = torch.float32 if X.dtype == np.float32 else torch.float64
        flow = Flow(self._field_with_divergence(device, dtype), self._solver(), self.end_time_)
        scaling = on_device(self._scaling, device, torch.float64)
        parts = map_blocks(lambda x: work(x, dtype, flow, scaling), X, device, self.n_jobs)
        value, error, unresolved = (torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True))
        warn_unresolved(int(unresolved.sum()), len(X), flow.solver)
        return value.astype(X.dtype), error.astype(X.dtype)

    def _field_with_divergence(self, device: torch.device, dtype: torch.dtype) -> VelocityField:
        field = on_device(self._field, device, dtype)
        return field if self.divergence == "exact" else Hutchinson(field, int(self.divergence))

    def _solver(self) -> Solver:
        atol, rtol = float(self.atol), float(self.rtol)
        if self._calibration is not None and self._calibration.method == self.solver:
            return self._calibration.solver(atol, rtol)
        return Solver(self.solver, atol, rtol)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_field")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
