"""InterpolantFlowDensity: log-density, samples and latent transform of one data set."""

from __future__ import annotations

import copy
import itertools
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import DensityMixin, TransformerMixin, _fit_context
from sklearn.utils import Bunch, Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from skinterflow._arguments import checked_n_samples, checked_time, checked_times
from skinterflow._callbacks import FitEvents
from skinterflow._columns import BoundsLike, Columns, resolve_columns
from skinterflow._defaults import checked_widths, held_out_rows, resolve_recipe
from skinterflow._diagnostics import diagnose_density
from skinterflow._distillation import distilled
from skinterflow._estimator import (
    RandomStateLike,
    all_or_nothing,
    checked_weight,
    private_random_state,
    resolve_device,
    resolve_device_or_cpu,
    seeded_generators,
    step_seed,
    sums_may_overflow,
    weighted_rows,
)
from skinterflow._fitted import FittedFlow, without_error
from skinterflow._fitting import N_CHECKS, STATISTICS_ROWS, Draw, Fold, History, Recipe, Run
from skinterflow._flow_estimator import (
    PARAMETER_CONSTRAINTS,
    Ends,
    FlowEstimator,
    Sitting,
    resolve_atol,
)
from skinterflow._groups import checked_groups, copies, warn_copies
from skinterflow._limits import TimeBudget
from skinterflow._regions import checked_levels, density_thresholds
from skinterflow._rows import MAX_JUDGING, NOBODY, NormalRows, Reader, judging_rows, training_rows
from skinterflow._scaling import gaussianized_columns
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.fields import AveragedField, ResidualMLP
from skinterflow.interflow.flows import Measured
from skinterflow.interflow.interpolants import Interpolant, Mirror, learned_parameters
from skinterflow.interflow.latent import Gamma, StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Compose, LearnedGaussian, Scaling

_SHORT_STRETCH = 1e-3
_STUDENT_SHARE = 0.35
"""Part of the time that a student gets where it is limited."""


class Plan(NamedTuple):
    """What a fit works on: all rows in the units of the model, its folds, all rows as one fold, and
    what is learned."""

    reader: Reader
    folds: list[Fold]
    whole: Fold
    path: StochasticInterpolant
    base: Scaling
    targets: tuple[str, ...]


def _learns_from_streams(estimator: InterpolantFlowDensity) -> bool:
    """Whether there is a `partial_fit`; scikit-learn shows the reason beside its own error."""
    if estimator.early_stopping not in ("auto", False) or estimator.student_layer_sizes is not None:
        raise AttributeError(
            "partial_fit holds nothing out and distils nothing, but "
            f"early_stopping={estimator.early_stopping!r} and "
            f"student_layer_sizes={estimator.student_layer_sizes!r}; set early_stopping=False and "
            "student_layer_sizes=None, or use fit."
        )
    return True


class InterpolantFlowDensity(TransformerMixin, DensityMixin, FlowEstimator):
    r"""Density estimation with a stochastic-interpolant flow.

    A velocity field ``v_t(x)`` is learned that carries a standard normal at ``t = 0`` into the data
    at ``t = 1``.  It is the minimiser of a quadratic loss [1]_, without simulating an ODE;
    afterwards one ODE solve per row gives samples, the latent, and the exact, normalised
    log-density.

    Parameters
    ----------
    interpolant : {"trigonometric", "linear", "variance_preserving", "fourier"} or Interpolant, default="trigonometric"
        Path that joins a base point to a data point.  One with parameters, such as "fourier", is
        learned: it shortens the way ([1]_, appendix H).  For both "fourier" and
        "variance_preserving", `time_beta` is best ``(1, 1)``: what a learned path lowers is the
        transport action weighted by the law of the times.  "encoding_decoding" needs a `gamma`.
    gamma : {"brownian", "quadratic", "sine_squared", "sigmoid"}, Gamma or None, default=None
        Scale of a latent that is added to the path, ``x_t = I_t + gamma(t) z`` ([2]_, table 8):
        ``sqrt(t (1 - t))``, ``t (1 - t)``, ``sin^2(pi t)``, or a hump of sigmoids.  None is no
        latent ([1]_).  From the Gaussian base here a latent is one more schedule of the noise;
        between two data sets (`InterpolantTransport`) it does more.
    targets : "auto", {"b", "eta", "s"} or tuple of them and "v", default="auto"
        Quantities that are learned ([2]_, section 2.3): the drift "b", from which all others follow
        here, and which "auto" is; the denoiser "eta" or the score "s", alone (without
        `gamma`) or beside "b" or, with `gamma`, beside the velocity "v".
    base : {"normal", "learned"}, default="normal"
        Density that the flow starts from: standard normal in the units of the flow, or a Gaussian
        whose mean and covariance are learned with the path.
    coupling : {"independent", "optimal_transport"} or Coupling, default="independent"
        Which base point meets which data point in training.  "optimal_transport", within parts of a
        batch, shortens *straight* paths (``interpolant="linear"``), at dearer training steps.
    time_beta : tuple of two positive floats, default=(1.0, 0.5)
        Beta law of the training times; ``(1, 1)`` is uniform.  The default puts more of them near
        the data ([1]_, table 3).
    end_time : "auto" or float in [1e-9, 1], default="auto"
        Where the flow stops.  It plays the part of a bandwidth: 1 is the full flow, and earlier
        times are smoother.  "auto" chooses by held-out log-likelihood (down to 0, the Gaussian), or
        is 1 where nothing is held out.
    scaling : {"gaussianize", "power", "whiten", "standardize"}, Scaling or None, default="gaussianize"
        Invertible map of the data before the flow, whose Jacobian is part of the density.
        "standardize": mean and deviation per column; "whiten": that and a whitening with
        Ledoit-Wolf shrinkage; "power": a Yeo-Johnson map per column before both; "gaussianize":
        besides, columns which are far from normal even then are made normal by a smooth map, from
        750 training rows on and where a Gaussian gains by it.
    bounds : dict of column name or number to pair, sequence of pairs, or None, default=None
        Inclusive bounds of columns, ``(low, high)``, with None for an open side: the density is
        zero outside, and samples are inside.  A sequence has a pair, or None, for every column.
        The columns are mapped to the whole line before what `scaling` does.
    integer_features : sequence of column names or numbers, mask of booleans, or None, default=None
        Columns of whole numbers: their rows are spread by uniform noise in training, log-densities
        are those of the probability mass of the numbers, and samples are whole.
    hidden_layer_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers: "auto" is ``(64, 64, 64)`` where the fit is cross-fitted (see
        `early_stopping`) and else ``(96, 96, 96, 96, 96, 96)``.
    student_layer_sizes : sequence of one or two int, or None, default=None
        After training, a shallow student of these widths, such as ``(384, 192)``, learns to follow
        the trained field and becomes the model: cheaper to score, because its exact divergence
        costs one layer instead of one pass per column, for some loss of likelihood
        (`distillation_loss_`).  Where it loses more than 1 nat per row the trained field stays,
        with a warning.  None keeps the trained field.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
        Activation function.  All are smooth, because the divergence of the field is integrated.
    alpha : float, default=30.0
        Regularisation: the weight decay of AdamW is ``alpha`` divided by the number of rows
        (scikit-learn's neural networks divide theirs, too).
    batch_size : "auto" or int, default="auto"
        Rows per gradient step: "auto" is 128 where the fit is cross-fitted, 512 below 10,000 rows,
        and else 1,024.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up; it decays to zero over `max_iter` steps, along a cosine.
        "auto" is 0.01 where the fit is cross-fitted and else 0.005.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps: "auto" is 2,500 where the fit is cross-fitted and else 4,000.  A
        student takes as many again.
    max_time : float or None, default=None
        Seconds that `fit` may take, all in all.  The learning rate then decays over what is
        scarcer, the steps or the time, so that the training ends annealed; the checks keep to this
        schedule, and time is kept for choosing the end time, for the student, and for what else
        follows the training.  `n_iter_` says how many steps it was.  A result under a limit of time
        depends on the speed of the machine, and cannot be repeated bit by bit.  With `checkpoint`
        the seconds of all sessions count, as of the last progress written; with
        `warm_start` each call of `fit` has as many anew. :meth:`partial_fit` does not read it.
    early_stopping : "auto" or bool, default="auto"
        True holds out `validation_fraction` of the rows, keeps the weights with the best held-out
        log-likelihood, and stops when it no longer rises.  False trains on all rows for `max_iter`
        steps.  "auto" is True from 2,000 rows; below, four fields are trained, each judged on its
        own quarter of the rows, and the model is the mean of the fields (cross-fitting).  A path or
        a base that is learned, and several `targets`, belong to one field, and "auto" is True with
        them.
    validation_fraction : float in (0, 1), default=0.1
        Part of the rows that is held out when nothing is cross-fitted.
    n_iter_no_change : int, default=3
        Training stops after this many checks without improvement.  There are 10 checks in
        `max_iter` steps, the k-th after ``(k / 10)^2`` of them.
    tol : float, default=1e-4
        Rise of the held-out log-likelihood, in nats per row, that counts as an improvement.
    warm_start : bool, default=False
        Go on from the previous fit: its weights, its scaling, its optimisers and its place in the
        schedule, up to `max_iter` steps in all. The parameters that shape the field and the scaling
        are not read again.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches and the held-out rows.
    verbose : bool, default=False
        Print a line at every check: loss, held-out log-likelihood, elapsed and remaining time.
    solver : {"rk4", "heun3", "midpoint", "euler", "dopri5"}, default="rk4"
        How the ODE is solved.  The first four work row by row.  "dopri5" ([1]_) takes the steps
        that the most difficult of the rows needs which are scored together, so that a row's result
        depends on its neighbours, within the tolerance.
    atol : "auto" or float, default="auto"
        Accuracy wanted of a row: the estimated error of a log-density or log-determinant in nats,
        and of coordinates in flow units, is to be at most ``atol + rtol * size`` with the norm of
        both as the size.  "auto" is 0.05 nats, for which the mean error is a few thousandths, and
        0.005 for coordinates.  Tolerances that float32 can keep are kept in float32, whatever the
        dtype of the rows.
    rtol : float, default=1e-5
        Part of the tolerance that grows with the size.
    divergence : "exact" or int, default="exact"
        "exact", or the number of Rademacher probes of a Hutchinson estimate, shared by all rows,
        for scoring very wide data.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Where to train and to score; "auto" takes a GPU if there is one.
    n_jobs : int or None, default=None
        Blocks of 16,384 rows that are scored, transformed or sampled side by side, in threads; None
        is 1, with torch's own threads, which on two cores was not slower.
    checkpoint : str, path-like or None, default=None
        File that `fit` writes its progress to, twice a minute.  After it was cut off, the same call
        goes on from there, to the same result.  The file goes when the fit is done.

    Attributes
    ----------
    end_time_ : float
        End time of the flow, in [0, 1].
    n_iter_ : int
        Number of gradient steps that were run, those of earlier fits that were gone on with among
        them.
    check_steps_ : list of int
        Number of the step of each check, where `loss_curve_` and `validation_scores_` were taken.
    n_samples_seen_ : int
        Rows given to :meth:`partial_fit` so far; only after it.
    loss_ : float
        Training loss ``G`` at the last check, summed over the `targets`.
    loss_curve_ : list of float
        Mean training loss between checks.
    validation_scores_ : list of float or None
        Held-out log-likelihood at every check, in nats per row; None where nothing is held out.
    best_validation_score_ : float or None
        The best of them, whose weights were kept.  The rows were held out from the scaling as well;
        where the fit is cross-fitted, it is that of fields which lack a quarter of the rows, and
        new rows may score higher.
    distillation_loss_ : float or None
        Held-out log-likelihood that the student lost against the trained field, in nats per row;
        None where there is no student.
    action_, path_length_ : float
        Transport action ``E|b|^2`` of the drift and length, the mean over times of its root, of the
        path that was trained on; in units of the flow.
    initial_action_, initial_path_length_ : float or None
        The same of the path before it was learned; None where there was nothing to learn.
    bounds_ : ndarray of shape (`n_features_in_`, 2)
        Bounds of the columns, infinite where a side is open.
    integer_features_ : ndarray of shape (`n_features_in_`,) of bool
        Which columns are of whole numbers.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Only if `X` has feature names that are all strings.

    See Also
    --------
    sklearn.neighbors.KernelDensity : Kernel density estimation.
    sklearn.mixture.GaussianMixture : Gaussian mixtures.

    Notes
    -----
    ``score_samples`` of a Pipeline is the density of what the last step sees: a scaler *before*
    this estimator is not accounted for.  Use `scaling` instead.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
        ICLR 2023.
    .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
        Flows and Diffusions", 2023.

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

    Each row's log-density with its estimated error, in nats; the latent, and the way back; the
    gradient of the log-density.

    >>> log_density, error = density.score_samples(X, return_error=True)
    >>> bool((error < 0.01).all())
    True
    >>> bool(abs(density.inverse_transform(density.transform(X)) - X).max() < 0.01)
    True
    >>> density.score_gradient(X[:5]).shape
    (5, 4)

    Half-way from the base to the data the density is wider.

    >>> bool(density.score_samples(X, t=0.5).mean() < log_density.mean())
    True
    """

    __metadata_request__inverse_transform: ClassVar[dict[str, str]] = {"Z": UNUSED}
    _gaussian_source: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PARAMETER_CONSTRAINTS,
        "bounds": [Mapping, "array-like", None],
        "integer_features": ["array-like", None],
        "base": [StrOptions({"normal", "learned"})],
        "end_time": [StrOptions({"auto"}), Interval(Real, 1e-9, 1, closed="both")],
        "student_layer_sizes": ["array-like", None],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, 1e9, closed="both")],
    }

    def __init__(
        self,
        *,
        interpolant: str | Interpolant = "trigonometric",
        gamma: str | Gamma | None = None,
        targets: str | Sequence[str] = "auto",
        base: str = "normal",
        coupling: str | Coupling = "independent",
        time_beta: tuple[float, float] = (1.0, 0.5),
        end_time: str | float = "auto",
        scaling: str | Scaling | None = "gaussianize",
        bounds: BoundsLike = None,
        integer_features: ArrayLike | None = None,
        hidden_layer_sizes: str | Sequence[int] = "auto",
        student_layer_sizes: Sequence[int] | None = None,
        activation: str = "silu",
        alpha: float = 30.0,
        batch_size: str | int = "auto",
        learning_rate_init: str | float = "auto",
        max_iter: str | int = "auto",
        max_time: float | None = None,
        early_stopping: str | bool = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
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
        self.base = base
        self.coupling = coupling
        self.time_beta = time_beta
        self.end_time = end_time
        self.scaling = scaling
        self.bounds = bounds
        self.integer_features = integer_features
        self.hidden_layer_sizes = hidden_layer_sizes
        self.student_layer_sizes = student_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.max_time = max_time
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
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the density of the rows of `X`.

        A failed fit leaves the previous state.  Ctrl-C ends the training: the estimator is fitted,
        with the best weights so far, and `KeyboardInterrupt` is raised, so that a search ends, too;
        a second one ends the fit at once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two rows; finite numbers.  Columns without a density (constant, collinear,
            integer-valued) are named in a warning.  Rows must be within the
            `bounds`, and whole numbers in the columns of `integer_features`.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative and not all zero.  They weight the loss, the scaling
            and the held-out log-likelihood.
        X_val : array-like of shape (n_val, n_features), default=None
            Held-out rows of one's own: they judge, all of
            `X` trains one field, and `validation_fraction` is not read.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the rows of `X_val`.
        groups : array-like of shape (n_samples,), default=None
            Labels of rows that belong together, such as those of one patient: they are held out
            together.  None is rows that are independent, but for exact copies, which are held out
            together in up to 1,048,576 rows.  Not read where nothing is held out, and with `X_val`.

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
        FloatingPointError
            If the training diverges, by a learning rate or a scaling that it names, and nothing was
            learned.
        KeyboardInterrupt
            After Ctrl-C.
        """
        budget = TimeBudget(self.max_time)
        held_out = None if X_val is None else (X_val, sample_weight_val)
        events = FitEvents(self, *(held_out or (X, sample_weight)), N_CHECKS + 1 * budget.limited)
        with all_or_nothing(self):
            warm = self.warm_start and hasattr(self, "_field")
            rows, weight = weighted_rows(self._validated_fit(X, reset=not warm), sample_weight)
            judging = self._judging_rows(X_val, sample_weight_val)
            device = resolve_device(self.device)
            Solver(self.solver, resolve_atol(self.atol), float(self.rtol))
            columns = self._fit_columns(warm, rows, *(rows for rows, _ in judging))
            codes = None if groups is None else self._group_codes(groups, rows, sample_weight)
            labels = [] if codes is None else [codes]
            sitting = self._sitting(
                warm, events, budget, rows, weight, *itertools.chain(*judging), *labels
            )
            setup = seeded_generators(step_seed(sitting.seed, Draw.SETUP), device).cpu
            reader = self._reader(rows, weight, device, self._column_names(), columns)
            plan = self._planned(
                reader, [replace(reader, X=X, weight=w) for X, w in judging], sitting, setup, codes
            )
            self._fit_rows(plan, sitting, setup)
        sitting.end()
        return self

    @available_if(_learns_from_streams)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train on one part of a stream of rows: a single pass over it.

        The first call estimates the scaling, from its rows alone, so let them be many and in random
        order.  The learning rate stays constant after its warm-up, and the weights are averaged
        over the last thousand steps or so; nothing is held out, nothing is distilled, and the flow
        goes to `end_time`, or to 1 for "auto". After `fit`, the training goes on from what was
        fitted.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two rows; finite numbers.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to each other in this part.

        Returns
        -------
        self

        Raises
        ------
        AttributeError
            With ``early_stopping=True`` or a student.
        """
        self._validate_params()  # which scikit-learn leaves out once there was a fit
        with all_or_nothing(self):
            warm = hasattr(self, "_field")
            rows, weight = weighted_rows(self._validated_fit(X, reset=not warm), sample_weight)
            device = resolve_device(self.device)
            seed = int(private_random_state(self.random_state).randint(2**31))
            columns = self._fit_columns(warm, rows)
            setup = seeded_generators(step_seed(seed, Draw.SETUP), device).cpu
            reader = self._reader(rows, weight, device, self._column_names(), columns)
            scaling = self._target if warm else self._scaling_of(reader, NOBODY, setup, columns)
            self._stream_rows(replace(reader, scaling=scaling), seed, warm, setup)
        return self

    def _validated_fit(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        with sums_may_overflow():
            rows: NDArray[Any] = validate_data(
                self, X, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=reset
            )
        return rows

    def _judging_rows(
        self, X_val: ArrayLike | None, sample_weight_val: ArrayLike | None
    ) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
        """The held-out rows that were given, with their weights, if any."""
        if X_val is None:
            if sample_weight_val is not None:
                raise ValueError(
                    "sample_weight_val was given without X_val; give the held-out rows, too."
                )
            return []
        if not self.early_stopping:
            raise ValueError(
                "X_val was given, but early_stopping=False; set early_stopping=True to let these "
                "rows judge."
            )
        with sums_may_overflow():
            rows: NDArray[Any] = validate_data(
                self, X_val, dtype=[np.float64, np.float32], reset=False
            )
        return [(rows, checked_weight(sample_weight_val, rows, "sample_weight_val"))]

    def _planned(
        self,
        reader: Reader,
        judging: Sequence[Reader],
        sitting: Sitting,
        setup: torch.Generator,
        groups: NDArray[np.int64] | None,
    ) -> Plan:
        """Which rows train and which judge, each fold in units that its training rows alone
        tell."""
        (n_rows, n_features), warm, columns = reader.X.shape, sitting.warm, self._columns()
        path, base, targets = self._path_base_targets(n_features, warm)
        source = NormalRows(n_features, reader.device)
        if judging or not self.early_stopping:
            whole = replace(
                reader,
                scaling=self._target if warm else self._scaling_of(reader, NOBODY, setup, columns),
            )
            judge = replace(judging[0], scaling=whole.scaling) if judging else whole
            judged = judging_rows(judge, setup) if judging else whole.read(NOBODY, setup)
            folds = [Fold(source, training_rows(whole, NOBODY, setup), judged)]
            return Plan(whole, folds, folds[0], path, base, targets)
        if groups is None and not (columns.whole | (reader.widths > 0)).all():
            part, groups = copies(reader.X)
            warn_copies(part, groups is not None)
        one_member = bool(learned_parameters(path, base)) or targets != ("b",)
        held_out = held_out_rows(
            n_rows, self.early_stopping, self.validation_fraction, setup, one_member, groups
        )
        scalings, scaling = self._scalings(reader, held_out, warm, setup, columns)
        whole = replace(reader, scaling=scaling)
        readers = [replace(reader, scaling=of_fold) for of_fold in scalings]
        folds = [
            Fold(
                source, training_rows(r, rows, setup), r.read(rows[:MAX_JUDGING], setup), r.scaling
            )
            for r, rows in zip(readers, held_out, strict=True)
        ]
        if len(folds) == 1:
            return Plan(whole, folds, folds[0], path, base, targets)
        every = Fold(source, training_rows(whole, NOBODY, setup), judging_rows(whole, setup))
        return Plan(whole, folds, every, path, base, targets)

    def _scalings(
        self,
        reader: Reader,
        held_out: Sequence[torch.Tensor],
        warm: bool,
        setup: torch.Generator,
        columns: Columns,
    ) -> tuple[list[Scaling], Scaling]:
        """The scaling of each fold, from the rows that train it, and that of the model.

        A single fold's is that of the model, too.  Several are of one structure, so that their
        fields can be averaged: the columns which are made normal are those that each of them would
        choose.
        """
        earlier = (self._progress or {}).get("scalings") if warm else None
        if len(held_out) == 1:
            scaling = (
                self._target if warm else self._scaling_of(reader, held_out[0], setup, columns)
            )
            return [scaling], scaling
        scalings = [self._scaling_of(reader, rows, setup, columns) for rows in held_out]
        chosen = [gaussianized_columns(scaling) for scaling in scalings]
        common = sorted(set.intersection(*chosen))
        if any(len(columns_of_fold) > len(common) for columns_of_fold in chosen):
            scalings = [self._scaling_of(reader, rows, setup, columns, common) for rows in held_out]
        if warm:
            return earlier if earlier is not None and len(earlier) == len(
                held_out
            ) else scalings, self._target
        return scalings, self._scaling_of(reader, NOBODY, setup, columns, common)

    def _fit_rows(self, plan: Plan, sitting: Sitting, setup: torch.Generator) -> None:
        n_rows, n_features = plan.reader.X.shape
        device, sizes = plan.reader.device, self.student_layer_sizes
        student_widths = (
            None if sizes is None else checked_widths("student_layer_sizes", sizes, most=2)
        )
        recipe = self._recipe(n_rows, len(plan.folds) > 1, self.max_iter, self.end_time)
        objectives = self._objectives(
            len(plan.folds),
            n_features,
            plan.path,
            plan.targets,
            plan.base,
            sitting.warm,
            device,
            setup,
        )
        ends, share = (
            Ends(None, plan.reader.scaling),
            0.0 if student_widths is None else _STUDENT_SHARE,
        )
        trained = self._train(objectives, plan.folds, recipe, ends, sitting, plan.whole, share)
        field, lost = trained.field, None
        if (
            student_widths is not None
            and trained.end_time > 0
            and sitting.interruption.message is None
        ):
            generators = seeded_generators(step_seed(sitting.seed, Draw.STUDENT), device)
            student = ResidualMLP(n_features, student_widths, self.activation, generators.cpu).to(
                device
            )
            max_iter, time_law = cast(int, recipe.max_iter), objectives[0].time_law
            field, lost = distilled(
                student,
                trained,
                [plan.whole],
                time_law,
                max_iter,
                generators,
                sitting.budget,
                sitting.interruption,
            )
        sitting.interruption.finish(lambda: self._keep(trained, field, ends, plan.whole, sitting))
        self.distillation_loss_ = lost
        if not sitting.warm:
            self.__dict__.pop("n_samples_seen_", None)  # of an earlier stream

    @staticmethod
    def _group_codes(
        groups: ArrayLike, rows: NDArray[Any], sample_weight: ArrayLike | None
    ) -> NDArray[np.int64]:
        """Numbers of the groups of the rows that have a weight."""
        if sample_weight is None:
            return checked_groups(groups, len(rows))
        weight = np.asarray(sample_weight)
        codes = checked_groups(groups, len(weight))[weight > 0]
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    def _stream_rows(self, reader: Reader, seed: int, warm: bool, setup: torch.Generator) -> None:
        n_rows, n_features = reader.X.shape
        path, base, targets = self._path_base_targets(n_features, warm)
        n_members = (
            len(self._trained.members) if warm and isinstance(self._trained, AveragedField) else 1
        )
        folds = [
            Fold(
                NormalRows(n_features, reader.device),
                training_rows(reader, NOBODY, setup),
                reader.read(NOBODY, setup),
            )
        ] * n_members
        self.n_samples_seen_ = n_rows + (getattr(self, "n_samples_seen_", 0) if warm else 0)
        recipe = self._recipe(
            self.n_samples_seen_, False, None, 1.0 if self.end_time == "auto" else self.end_time
        )
        objectives = self._objectives(
            n_members, n_features, path, targets, base, warm, reader.device, setup
        )
        run = Run(objectives, folds, recipe, seed)
        trained = run.stream(n_rows, self._progress if warm else None)
        self._tell(trained, run, min(n_rows, STATISTICS_ROWS))
        self._progress = run.state_dict()
        self.__dict__.update(
            self._model_attributes(trained, trained.field, Ends(None, reader.scaling))
        )
        self.distillation_loss_ = None

    def _path_base_targets(
        self, n_features: int, warm: bool
    ) -> tuple[StochasticInterpolant, Scaling, tuple[str, ...]]:
        path, base = self._new_path(n_features, warm), self._base(n_features, warm)
        if isinstance(path.interpolant, Mirror):
            raise ValueError(
                "A mirror path leads from a data set to itself, not from a normal base; use "
                "InterpolantTransport."
            )
        return path, base, self._new_targets(path, base, warm)

    def _recipe(
        self, n_rows: int, cross_fitted: bool, max_iter: str | int | None, end_time: str | float
    ) -> Recipe:
        return resolve_recipe(
            n_rows=n_rows,
            cross_fitted=cross_fitted,
            coupling=self.coupling,
            end_time=end_time,
            alpha=self.alpha,
            batch_size=self.batch_size,
            learning_rate_init=self.learning_rate_init,
            max_iter=max_iter,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            verbose=bool(self.verbose),
        )

    def _history_attributes(self, history: History) -> dict[str, Any]:
        scores, best = (
            history.validation_scores,
            history.best_score if np.isfinite(history.best_score) else None,
        )
        judged = {"validation_scores_": scores or None, "best_validation_score_": best}
        return super()._history_attributes(history) | judged

    def _base(self, n_features: int, warm: bool) -> Scaling:
        if warm:
            return copy.deepcopy(self._source)
        return LearnedGaussian(n_features) if self.base == "learned" else Compose([])

    def score_samples(
        self, X: ArrayLike, return_error: bool = False, *, t: float | None = None
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Log-density of each row of `X`, of the data or at any time on the path.

        Each row is solved on its own, so its value does not depend on the rows beside it.  One
        warning tells how many rows, if any, were left with an estimated error above the tolerance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Results come in its dtype; what precision the flow works in follows from
            `atol`. A ``numpy.memmap`` is read in blocks.
        return_error : bool, default=False
            Return the estimated errors, too.
        t : float in [0, 1] or None, default=None
            Time on the path ([1]_, appendix A): 0 is the base, in data units, and None the model's
            own, `end_time_`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats per row, of the units of `X`; normalised, so its exponential integrates to one.
            Columns of `integer_features` count as probability mass, over whose values it sums to
            one.  Minus infinity outside the `bounds`, where no whole number is, and for rows so far
            outside the data that the arithmetic of the flow overflows (1e100 of its units, or 1e12
            in float32), which are counted in the warning.
        error : ndarray of shape (n_samples,), only if `return_error`
            Estimated absolute error of each, in nats: of the ODE solve, plus one standard error
            where the divergence is estimated (NaN for a single probe).  It is calibrated to bound
            the error of 95 in 100 rows of the data; where the density has sharp edges, and in the
            tails, more rows exceed it (see the user guide).  With `integer_features` the difference
            from a coarser rule for the integral is added.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        """
        value, error = self._log_density(self._validated(X), self._time(t))
        return (value, error) if return_error else value

    def _log_density(self, rows: NDArray[Any], time: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Log-density of each validated row at a time, and its estimated error."""
        columns = self._columns()

        def work(x: torch.Tensor, model: FittedFlow) -> Measured:
            return columns.log_mass(
                lambda x: model.log_prob(x, time), x, model.flow.solver.tolerance
            )

        value, error = columns.scored(rows, lambda rows: self._measured(rows, work))
        lost = np.isnan(value) | (value == np.inf)
        if lost.any():
            raise FloatingPointError(
                f"The log-density of {lost.sum()} of {len(value)} rows is no number; drop those "
                "rows."
            )
        return value, error

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-density per row, in nats: GaussianMixture's convention, and what model selection
        wants.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            Minus infinity if it is so for a row of positive weight: see :meth:`score_samples`.

        Raises
        ------
        ValueError
            If a weight is negative or not finite, or all are zero.
        """
        log_density, _ = self._log_density(self._validated(X), self.end_time_)
        weight = checked_weight(sample_weight, log_density)
        return float(np.average(log_density[weight > 0], weights=weight[weight > 0]))

    def density_threshold(
        self,
        level: ArrayLike,
        *,
        n_samples: int = 2_000,
        random_state: RandomStateLike = None,
        return_error: bool = False,
    ) -> (
        float
        | NDArray[np.float64]
        | tuple[float, float]
        | tuple[NDArray[np.float64], NDArray[np.float64]]
    ):
        """Log-density on the boundary of the region of highest density that holds a fraction of the
        probability.

        It is the ``1 - level`` quantile of :meth:`score_samples` over samples of the model ([1]_,
        section 2).

        Parameters
        ----------
        level : float in (0, 1), or array-like of such
            Fraction of the probability in the region.
        n_samples : int, default=2_000
            Samples that are drawn and scored, the same for all levels.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples; None draws anew at every call.
        return_error : bool, default=False
            Return the Monte Carlo errors, too.

        Returns
        -------
        threshold : float, or ndarray of the shape of `level`, in nats
        error : float, or ndarray of the shape of `level`, only if `return_error`
            Monte Carlo standard error of each, in nats: half the distance between the order
            statistics at one binomial deviation of the count of samples below the threshold.  It
            falls as ``1 / sqrt(n_samples)``.  Errors of the ODE solve and of the fit are not in it.

        Raises
        ------
        ValueError
            If a level is not in (0, 1), or there are too few samples for it.

        References
        ----------
        .. [1] Hyndman, "Computing and Graphing Highest Density Regions", The American Statistician
            50, 1996.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skinterflow import InterpolantFlowDensity
        >>> X = load_iris().data
        >>> density = InterpolantFlowDensity(
        ...     max_iter=20, hidden_layer_sizes=(16, 16), early_stopping=False, random_state=0
        ... ).fit(X)
        >>> inner, outer = density.density_threshold([0.5, 0.9], n_samples=500, random_state=0)
        >>> bool(inner > outer)
        True
        """
        self._check_usable()
        levels = checked_levels(level)
        log_density, _ = self._log_density(
            self._drawn(n_samples, random_state, self.end_time_), self.end_time_
        )
        threshold, error = (part[()] for part in density_thresholds(log_density, levels))
        return (threshold, error) if return_error else threshold

    def contains(
        self,
        X: ArrayLike,
        level: float,
        *,
        n_samples: int = 2_000,
        random_state: RandomStateLike = None,
    ) -> NDArray[np.bool_]:
        """Which rows are in the region of highest density that holds a fraction of the probability.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        level : float in (0, 1)
            Fraction of the probability in the region.
        n_samples : int, default=2_000
            Samples of the model from which the boundary is estimated: see
            :meth:`density_threshold`.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.  With None, rows close to the boundary may be in at one call and
            out at the next.

        Returns
        -------
        inside : ndarray of bool, shape (n_samples,)
        """
        rows = self._validated(X)
        if isinstance(level, Sequence | np.ndarray) and np.ndim(np.asarray(level, dtype=object)):
            raise ValueError(
                "contains tells of one region at a time; level must be one number in (0, 1), got "
                f"{level!r}."
            )
        log_density, _ = self._log_density(rows, self.end_time_)
        inside: NDArray[np.bool_] = log_density >= np.asarray(
            self.density_threshold(level, n_samples=n_samples, random_state=random_state)
        )
        return inside

    def score_gradient(
        self, X: ArrayLike, *, t: float | None = None, method: str = "flow"
    ) -> NDArray[Any]:
        r"""Score: gradient of the log-density with respect to `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float in [0, 1] or None, default=None
            Time on the path; None is the model's own, `end_time_`.
        method : {"flow", "path"}, default="flow"
            "flow" is the gradient of :meth:`score_samples` at this time, exact for the density that
            the model has; it is carried along the flow, by two solves.  "path" is the score that
            was learned, if "s" or "eta" is among the `targets`, or that follows from the drift: for
            the trigonometric path ``-u + (2 / pi) tan(pi t / 2) v_t(u)`` in the units of the flow
            ([1]_, proposition 4, where the sign is a misprint).  It takes one evaluation of the
            field, and is what ``sample(method="sde")`` uses.  For a field without error both are
            equal; errors of the drift enter the formula multiplied, more and more so near ``t =
            1``.

        Returns
        -------
        score : ndarray of the shape and dtype of `X`, in nats per unit of each column

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic of the
            flow overflows.  With "path", if the score does not follow from the drift: on a path
            that is not affine in its ends, under a
            `coupling` that is not independent, or so close to ``t = 1`` that errors of the drift
            would be multiplied by more than 100.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        """
        if method not in ("flow", "path"):
            raise ValueError(f"method must be 'flow' or 'path', got {method!r}.")
        rows, time = self._located(X), self._time(t)
        score = FittedFlow.score if method == "flow" else FittedFlow.path_score
        return self._by_blocks(rows, lambda x, model: score(model, x, time))[0]

    def velocity(self, X: ArrayLike, t: float) -> NDArray[Any]:
        """Velocity of the flow, the drift ``b``, at the rows of `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float in [0, 1]
            Time on the path.

        Returns
        -------
        velocity : ndarray of the shape and dtype of `X`, in units of each column per unit of time

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic of the
            flow overflows.
        """
        rows, time = self._located(X), checked_time(t, latest=self._latest())
        return self._by_blocks(rows, lambda x, model: without_error(model.velocity(x, time)))[0]

    def trajectory(self, X: ArrayLike, times: Sequence[float]) -> NDArray[Any]:
        """Where the flow carries rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at the first of the times.
        times : sequence of float in [0, 1], increasing or decreasing
            From data to latent, for example, is ``np.linspace(density.end_time_, 0, 50)``.

        Returns
        -------
        positions : ndarray of shape (len(times), n_samples, n_features)
            Of the dtype of `X`, in data units.

        Raises
        ------
        ValueError
            If `times` is no such sequence, or if rows are outside the `bounds`, or so far outside
            the data that the arithmetic overflows.
        """
        rows, checked = self._located(X), checked_times(times, self._latest())
        # Within shorter stretches the times of a solver's steps are not all different in float32.
        short = any(abs(b - a) < _SHORT_STRETCH for a, b in itertools.pairwise(checked))
        precise = rows.astype(np.float64) if short else rows
        positions, _ = self._by_blocks(precise, lambda x, model: model.trajectory(x, checked))
        return np.moveaxis(positions.astype(rows.dtype), 1, 0)

    def sample(
        self,
        n_samples: int = 1,
        random_state: RandomStateLike = None,
        *,
        t: float | None = None,
        method: str = "ode",
        epsilon: float | str | Callable[[float], float] = "decreasing",
        n_steps: int | None = None,
    ) -> NDArray[np.float64] | Any:
        r"""Draw rows from the fitted density, or from that at any time on the path.

        Parameters
        ----------
        n_samples : int, at least 1, default=1
        random_state : int, RandomState instance or None, default=None
            Seed of the draw; None draws anew at every call.
        t : float in [0, 1] or None, default=None
            Time on the path; None is the model's own, `end_time_`.
        method : {"ode", "sde"}, default="ode"
            "sde" adds noise and the score: ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` has the
            law of the ODE at every time, whatever the noise ([1]_, section 1; [2]_, section 2).  It
            needs a path that is affine in its ends, or a learned score.
        epsilon : float, callable or {"decreasing", "sine"}, default="decreasing"
            Noise level of "sde", in squared flow units (those after the scaling, not of the
            columns) per unit of time: not negative; a function of the time; or ``1 - t`` and
            ``sin(pi t)^2`` by name.  Where the score multiplies errors of what was learned by more
            than 5, near the data, the level fades in proportion.
        n_steps : int or None, default=None
            Steps of "sde", by Heun's method; None is 200 times the largest noise level, and at
            least 200.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), in data units
            Or a data frame with the names of the columns, if :meth:`set_output` asks for one.

        Raises
        ------
        ValueError
            If an argument cannot be used, or if so many samples or steps are asked for that there
            would be no end.
        FloatingPointError
            If the diffusion leaves the finite numbers, with the time and the number of rows.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        self._check_usable()
        if not isinstance(method, str) or method not in ("ode", "sde"):
            raise ValueError(f"method must be 'ode' or 'sde', got {reprlib.repr(method)}.")
        time = self._time(t)
        if method == "ode":
            return self._contained(
                self._drawn(n_samples, random_state, time), None, self._names_in()
            )
        random = private_random_state(random_state)
        latent = random.standard_normal(
            (checked_n_samples(n_samples, self.n_features_in_), self.n_features_in_)
        )
        drawn = self._diffused(
            latent, random, epsilon, n_steps, lambda model, z, *how: model.diffuse(z, time, *how)
        )
        return self._contained(self._columns().whole_and_inside(drawn), None, self._names_in())

    def _drawn(
        self, n_samples: int, random_state: RandomStateLike, time: float
    ) -> NDArray[np.float64]:
        """Samples of the ODE at a time."""
        n = checked_n_samples(n_samples, self.n_features_in_)
        latent = private_random_state(random_state).standard_normal((n, self.n_features_in_))
        return self._columns().whole_and_inside(
            self._by_blocks(latent, lambda z, model: model.push(z, time), side="source")[0]
        )

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Latent of each row of `X`: the point of the standard normal base that the flow carries to
        it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Of the dtype of `X`; N(0, I) for rows of the fitted density.

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic of the
            flow overflows.
        """
        return self._latent(self._located(X))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the latent coordinates, ``latent0``, ``latent1``, ..., as
        :meth:`set_output` gives them to what `transform` returns.

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
        return np.array([f"latent{k}" for k in range(self.n_features_in_)], dtype=object)

    def _latent(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Latents of rows that were looked at."""
        return self._by_blocks(rows, lambda x, model: model.pull(x, self.end_time_))[0]

    def inverse_transform(self, Z: ArrayLike) -> NDArray[Any] | Any:
        """Data rows of latent points: the inverse of :meth:`transform`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), of the dtype of `Z`
            Or a data frame with the names of the columns, if :meth:`set_output` asks for one.

        Raises
        ------
        ValueError
            If points are so far from the centre that the arithmetic overflows.
        """
        rows = self._validated_other(Z, "Z", "latent space")
        carried, _ = self._by_blocks(
            rows, lambda z, model: model.push(z, self.end_time_), side="source"
        )
        return self._contained(self._columns().whole_and_inside(carried), Z, self._names_in())

    def diagnose(self, X: ArrayLike, random_state: RandomStateLike = None) -> Bunch:
        """How well the field was learned, by rows that it was not trained on.

        All numbers are in the units of the flow.  The `coupling` of the fit pairs the rows with
        base points, so they should be in random order.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Test rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the base points that the rows are paired with.

        Returns
        -------
        diagnosis : Bunch with

            - loss : float, ``G`` ([1]_, equation 8)
            - loss_plus_action : float, ``G + E|v|^2``, which is zero at the optimum (equation 11)
            - action, path_length : float, ``E|v|^2`` and the mean over times of its root; the
              action of the true velocity bounds the squared Wasserstein-2 distance between base and
              data
            - lipschitz : float, the largest slope of the field that was met on the path
            - wasserstein2_bound : float, ``exp(1/2 + lipschitz) sqrt(E|v - dI/dt|^2)`` (proposition
              3), with the regression loss in the place of the unknown error of the field, which is
              smaller; often far too large to tell anything, up to infinity
            - latent_ks : ndarray of shape (n_features,), Kolmogorov-Smirnov distance of each latent
              coordinate to N(0, 1)
            - latent_energy_distance : float, energy distance of the latent rows (at most 2,000) to
              N(0, I)

        Raises
        ------
        ValueError, FloatingPointError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic
            overflows.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        """
        rows = self._located(X)
        device, random = resolve_device_or_cpu(self.device), private_random_state(random_state)
        noise = random.standard_normal((2, *rows.shape))
        rows = self._columns().spread(rows, random)
        model, latent = self._fitted_flow(device, torch.float64), self._latent(rows)
        diagnosis = diagnose_density(model, rows, noise, latent, self._batch_size)
        overflown = [
            name
            for name, value in diagnosis.items()
            if name != "wasserstein2_bound" and not np.isfinite(value).all()
        ]
        if overflown:
            raise FloatingPointError(
                f"{', '.join(overflown)} overflow, because some of the {len(rows)} rows are far "
                "outside the fitted data; drop those rows."
            )
        return diagnosis

    def _column_names(self) -> list[str]:
        return list(
            getattr(self, "feature_names_in_", map("column {}".format, range(self.n_features_in_)))
        )

    def _fit_columns(self, warm: bool, *parts: NDArray[Any]) -> Columns:
        """What a fit is told of the columns, with which all parts of the rows must agree."""
        columns = (
            self._columns()
            if warm
            else resolve_columns(self.bounds, self.integer_features, self._column_names())
        )
        for rows in parts:
            columns.check_rows(rows)
        self.bounds_, self.integer_features_ = columns.bounds, columns.whole
        return columns

    def _columns(self) -> Columns:
        """What the fit was told of the columns."""
        return Columns(self.bounds_, self.integer_features_, self._column_names())

    def _located(self, X: ArrayLike) -> NDArray[Any]:
        """Validated rows that have a latent."""
        rows = self._validated(X)
        self._columns().check_located(rows)
        return rows

    def _time(self, t: float | None) -> float:
        return checked_time(t, self.end_time_, self._latest())

    def _latest(self) -> float:
        """The last time that the model knows: a student was taught up to the end time."""
        return 1.0 if self._field is self._trained else self.end_time_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
