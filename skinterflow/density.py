"""InterpolantFlowDensity: log-density, samples and latent transform of one data set."""

from __future__ import annotations

import copy
import itertools
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import DensityMixin, TransformerMixin, _fit_context
from sklearn.utils import Bunch, Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted
from torch import nn

from skinterflow._base import PARAMETER_CONSTRAINTS, FlowEstimator
from skinterflow._data.atoms import Atoms
from skinterflow._data.batches import (
    MAX_VALIDATION_ROWS,
    NO_ROWS,
    NormalRows,
    Reader,
    training_rows,
    validation_rows,
)
from skinterflow._data.columns import (
    AtomsLike,
    BoundsLike,
    Columns,
    resolve_atoms,
    resolve_columns,
)
from skinterflow._data.degenerate import shown, warn_columns
from skinterflow._data.groups import checked_groups, copies, warn_copies
from skinterflow._data.memmap import opened
from skinterflow._data.ranks import gathered_parts
from skinterflow._data.scaling import gaussianized_columns
from skinterflow._data.weights import checked_weight, weighted_rows
from skinterflow._fit.context import FitContext, Plan
from skinterflow._fit.distillation import distilled
from skinterflow._fit.mixture import Mixture
from skinterflow._fit.recipe import Recipe, resolve_coupling, resolve_recipe, resolve_student
from skinterflow._fit.run import STATISTICS_ROWS, Draw, History, Run, Trained
from skinterflow._fit.validation import Fold, held_out_rows
from skinterflow._predict.arguments import (
    checked_n_samples,
    checked_time,
    checked_times,
    stochastic_solver,
)
from skinterflow._predict.diagnosis import (
    check_overflow,
    chosen_rows,
    cross_entropies,
    diagnose_density,
    diagnose_likelihood,
    path_bunch,
)
from skinterflow._predict.model import FlowModel
from skinterflow._predict.regions import checked_levels, density_thresholds
from skinterflow._runtime import (
    RandomStateLike,
    all_or_nothing,
    private_random_state,
    resolve_device,
    seeded_generators,
    step_seed,
)
from skinterflow.interflow.atoms import AtomBase, AtomMasses, AtomPath, AtomScaling, moving
from skinterflow.interflow.combined import CombinedDensity
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.grading import Grading
from skinterflow.interflow.interpolants import Interpolant, learned_parameters
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.noise import Gamma, StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.ode import Calibration, Solver
from skinterflow.interflow.scaling import Identity, LearnedGaussian, Scaling

N_DEQUANTISED_PROBES = 8
"""Number of probes of a draw for bits per dimension, if the field has no exact divergence."""


def _learns_from_streams(estimator: InterpolantFlowDensity) -> bool:
    """Whether `partial_fit` is available; the error becomes the cause of scikit-learn's own."""
    if estimator.early_stopping not in ("auto", False) or estimator.student_layer_sizes is not None:
        raise AttributeError(
            "partial_fit cannot hold out rows or distil a student, but "
            f"early_stopping={estimator.early_stopping!r} and "
            f"student_layer_sizes={estimator.student_layer_sizes!r}; set early_stopping=False and "
            "student_layer_sizes=None, or use fit."
        )
    return True


class InterpolantFlowDensity(TransformerMixin, DensityMixin, FlowEstimator):
    r"""Density estimation with a stochastic-interpolant flow.

    A velocity field ``v_t(x)`` is trained to carry a standard normal at ``t = 0`` to the data at
    ``t = 1``.  It minimises a quadratic loss, which requires no ODE solve [1]_.  After training,
    one ODE solve per row gives samples, the latent, and the exact, normalised log-density.

    Parameters
    ----------
    interpolant : str or Interpolant, default="trigonometric"
        Path from a base point to a data point: "trigonometric", "linear", "variance_preserving",
        "fourier", "encoding_decoding" or an Interpolant.  The parameters of a path that has some,
        such as "fourier", are learned to make the path shorter ([1]_, appendix H).  With "fourier"
        and "variance_preserving", ``time_beta=(1, 1)`` is best: learning a path lowers the
        transport action weighted by the law of the training times.  "encoding_decoding" requires a
        `gamma`.
    gamma : {"brownian", "quadratic", "sine_squared", "sigmoid"}, Gamma or None, default=None
        Scale of the noise term that is added to the path, ``x_t = I_t + gamma(t) z`` with standard
        normal ``z`` ([2]_, table 8):

        - "brownian": ``sqrt(t (1 - t))``
        - "quadratic": ``t (1 - t)``
        - "sine_squared": ``sin^2(pi t)``
        - "sigmoid": a hump made of sigmoids
        - None: no noise term ([1]_)

        Because the base is Gaussian, a noise term only changes the schedule of the noise here.
        Between two data sets it does more, see `InterpolantTransport`.
    targets : "auto" or tuple of "b", "v", "s", "eta", "eta0", "eta1", default="auto"
        Quantities that are learned ([2]_, section 2.3).  "auto" is the drift "b", from which all
        others follow here, except the score on a `OneSidedInterpolant`.  The denoiser "eta" and the
        score "s" can be learned alone (without `gamma`, on other paths), together with "b" or, with
        `gamma`, together with the velocity "v".  The expected ends "eta0" and "eta1" can be learned
        together, or one of them alone (without `gamma`) or with "eta" (with `gamma`); "eta1" is the
        prediction of the data.  One name alone may be given as a string.
    base : {"normal", "learned"}, default="normal"
        Density at ``t = 0``: a standard normal in flow units, or a Gaussian whose mean and
        covariance are learned together with the path.
    coupling : {"independent", "optimal_transport"} or Coupling, default="independent"
        How base points and data points are paired in training.  "optimal_transport" pairs nearby
        points within parts of a batch: *straight* paths (``interpolant="linear"``) become shorter,
        and training steps slower.
    time_beta : tuple of two positive floats, default=(1.0, 0.5)
        Parameters of the Beta distribution of the training times; ``(1, 1)`` is uniform.  The
        default draws more times near the data ([1]_, table 3).
    end_time : "auto" or float in [1e-9, 1], default="auto"
        Time at which the flow stops, the analogue of a bandwidth: 1 is the full flow, and earlier
        times give smoother densities.  "auto" selects the time by held-out log-likelihood; it is 0,
        a Gaussian, unless the flow is clearly better, and 1 if no rows are held out.
    mixture : "auto" or None, default="auto"
        Whether the density may be a mixture of the flow stopped at several times, and of a Gaussian
        mixture.  A single end time has to suit all rows; a mixture can be sharp where rows are
        dense and smooth where they are scattered.  With "auto", it is used if it raises the
        log-likelihood of held-out rows, which its weights were not fitted to, by 0.03 nats per row
        and two standard errors (one if the fit is cross-fitted) over the best single end time.
        Candidates are the best end time, 0, a few others if the fit is cross-fitted, and, below
        10,000 rows, a Gaussian mixture of 1 to 20 components.  If fewer than 1,000 rows of few
        columns are trained on, a kernel density is a further candidate, as a Gaussian mixture with
        a component at every row; a model that uses it stores the rows, and so do its files and
        pickles.  Scoring takes one solve for each end time after 0.  "auto" is None if
        `end_time` is a number, no rows are held out, a student is distilled, or there are `atoms_`.
        None is always a single end time.
    scaling : str, Scaling or None, default="gaussianize"
        Invertible map that is applied to the data before the flow.  Its Jacobian is part of the
        density.

        - "standardize": mean and standard deviation of each column
        - "whiten": "standardize", then whitening by a covariance with Ledoit-Wolf shrinkage or
          of a factor analysis, whichever has the better held-out likelihood
        - "power": a Yeo-Johnson transform of each column that gains by it, then "whiten"
        - "gaussianize": "power", and a smooth map to a normal distribution for columns that are
          still far from normal, if there are at least 750 training rows and the likelihood of a
          Gaussian increases
    bounds : dict of column name or number to pair, sequence of pairs, or None, default=None
        Inclusive bounds ``(low, high)`` of columns; None is an open side.  The density is zero
        outside, and all samples are inside.  A sequence has a pair, or None, for every column.
        Bounded columns are mapped to the whole line before `scaling` is applied.
    integer_features : sequence of column names or numbers, mask of booleans, or None, default=None
        Columns of whole numbers.  Uniform noise is added to them in training, log-densities refer
        to the probability mass of the numbers, and samples are whole numbers.
    atoms : "auto", dict of column name or number to sequence of values, or None, default="auto"
        Single values that have a probability of their own, next to a density of the other values:
        the zeros of a zero-inflated column, or the value at which a column is clipped.  "auto"
        finds values that are in at least 1% of the rows and in 10 rows, are 10 times as frequent as
        their neighbours and 3 times as frequent as every other value, in columns that are not whole
        numbers and have at least 10 other values.  None is no such value.  Atoms require the
        default of `base`, `coupling`, `field` and `student_layer_sizes`, ``targets="auto"`` or "b",
        and a `scaling` by name or None; otherwise "auto" only warns of the columns.
    field : VelocityField, torch.nn.Module, callable or None, default=None
        Velocity field ``v(t, x)`` to train; None is a multilayer perceptron.  It maps times of
        shape (B,) and rows of shape (B, D) to velocities of shape (B, D), each row independently.
        `fit` trains a copy for each of the `targets`, of which "auto" is "b".  A
        `VelocityField` computes its own divergence.  That of any other field is computed by
        automatic differentiation, exactly up to 128 columns, and by Hutchinson's estimate with 16
        probes above.  If a field is given, `hidden_layer_sizes` and `activation` are ignored.
    hidden_layer_sizes : "auto" or sequence of int, default="auto"
        Widths of the hidden layers.  "auto" is ``(64, 64, 64)`` if the fit is cross-fitted (see
        `early_stopping`), and ``(96, 96, 96, 96, 96, 96)`` otherwise.
    student_layer_sizes : "auto", sequence of one or two int, or None, default=None
        Widths of the hidden layers of a student, such as ``(384, 192)``, that is trained after the
        fit to match the trained field, and replaces it.  The student is faster to score, because
        its exact divergence costs one layer instead of one pass per column, at some loss of
        likelihood (`distillation_loss_`).  If the loss exceeds 1 nat per row, the trained field is
        kept, and a warning is given.  "auto" trains a student of ``(128, 128)`` for three times as
        many steps as the field.  If it loses more than 0.15 nats per row, one of ``(256, 256)`` is
        trained as well, and the better of the two is the model.  None trains no student.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
        Activation function.  All are smooth, because the divergence of the field is integrated.
    alpha : float, default=30.0
        Strength of the regularisation.  The weight decay of AdamW is ``alpha`` divided by the
        number of rows, as in scikit-learn's neural networks.
    batch_size : "auto" or int, default="auto"
        Number of rows per gradient step.  "auto" is 128 if the fit is cross-fitted; otherwise it is
        512 below 10,000 rows, and 1,024 from there.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up.  It decays to zero over `max_iter` steps along a cosine.
        "auto" is 0.01 if the fit is cross-fitted, and 0.005 otherwise.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps.  "auto" is 4,000, or, if the fit is cross-fitted, five times the
        number of rows, but at least 600 and at most 2,500.
        A student is trained for as many steps again, or for three times as many if
        `student_layer_sizes` is "auto".
    max_time : float or None, default=None
        Limit on the time of `fit`, in seconds.  The learning rate decays over the steps or over the
        time, whichever ends first, so that the training always ends with a low learning rate, and
        the checks follow the same schedule.  Part of the time is reserved for the selection of the
        end time, the student and all else that follows the training.  `n_iter_` is the number of
        steps that were run.  The result depends on the speed of the machine and cannot be
        reproduced bit by bit.  With `checkpoint`, the seconds of all sessions count, as of the last
        progress that was written.  With `warm_start`, each call of `fit` has the full time again.
        :meth:`partial_fit` ignores it.
    early_stopping : "auto" or bool, default="auto"
        If True, `validation_fraction` of the rows is held out, training stops when the held-out
        log-likelihood no longer increases, and the weights with the best value are kept.  If False,
        all rows are used for training, for `max_iter` steps.  "auto" is True from 2,000 rows on.
        Below, the fit is cross-fitted: four fields are trained, each evaluated on a different
        quarter of the rows and trained on the others, and the model is their mean.  A learned path
        or base, and `targets` other than "b", require a single field: with them, "auto" is always
        True.
    validation_fraction : float in (0, 1), default=0.1
        Fraction of the rows that is held out, if the fit is not cross-fitted.
    n_iter_no_change : int, default=3
        Number of checks without improvement after which training stops.  There are 10 checks in
        `max_iter` steps, the k-th after ``(k / 10)^2`` of them.
    tol : float, default=1e-4
        Increase of the held-out log-likelihood, in nats per row, that counts as an improvement.
    warm_start : bool, default=False
        Continue the previous fit, with its weights, scaling, optimisers and position in the
        schedule, up to `max_iter` steps in total.  The parameters that define the field and the
        scaling are not read again.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches and the held-out rows.
    verbose : bool, default=False
        Print a line at every check: loss, held-out log-likelihood, elapsed and remaining time.
    solver : {"rk4", "heun3", "midpoint", "euler", "dopri5"} or Solver, default="rk4"
        ODE solver.  The first four solve each row independently.  "dopri5" ([1]_) chooses one step
        size for all rows that are scored together, by the most difficult of them, so that the
        result of a row depends on the others, within the tolerance.  A `Solver` object is used as
        it is: its tolerances replace `atol` and `rtol`, and `fit` does not calibrate its steps.
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
        Divergence of the field: "exact", or the number of Rademacher probes of a Hutchinson
        estimate, for scoring very wide data.  All rows share the probes.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Device for training and scoring; "auto" is a GPU if there is one.
    n_jobs : int or None, default=None
        Number of threads that score, transform or sample blocks of rows in parallel.  None is 1;
        torch's own threads are then used, which was not slower on two cores.
    checkpoint : str, path-like or None, default=None
        File to which `fit` writes its progress twice a minute.  After an interruption, the same
        call resumes from there, with the same result.  The file is removed when the fit is
        complete.

    Attributes
    ----------
    end_time_ : float
        End time of the flow, in [0, 1]; of a mixture, the one with the largest weight.  It is the
        time of :meth:`transform` and :meth:`inverse_transform`.
    mixture_end_times_ : ndarray of shape (n_times,)
        End times of the components of the density; only `end_time_` if it is not a mixture.
    mixture_weights_ : ndarray of shape (n_times,) or (n_times + 1,)
        Weights of the components.  If there is one more weight than end times, the last one is the
        weight of a Gaussian mixture, which may contain kernels at the training rows.
    n_iter_ : int
        Number of gradient steps, including those of the fits that this one continued.
    check_steps_ : list of int
        Step number of each check, for `loss_curve_` and `validation_scores_`.
    n_samples_seen_ : int
        Number of rows given to :meth:`partial_fit` so far; only after it.
    loss_ : float
        Training loss ``G`` at the last check, summed over the `targets`.
    loss_curve_ : list of float
        Mean training loss between checks.
    validation_scores_ : list of float or None
        Held-out log-likelihood at each check, in nats per row; None if no rows are held out.
    best_validation_score_ : float or None
        Best of the `validation_scores_`, whose weights were kept.  The rows are held out from the
        scaling as well.  If the fit is cross-fitted, this is the score of fields that lack a
        quarter of the rows, and new rows may score higher.
    distillation_loss_ : float or None
        Held-out log-likelihood of the trained field minus that of the student, in nats per row;
        None without a student.
    action_, path_length_ : float
        Transport action ``E|b|^2`` of the drift, and the length of the path, which is the mean over
        times of the root of the action; in flow units.
    initial_action_, initial_path_length_ : float or None
        `action_` and `path_length_` of the path before it was learned; None if it has no
        parameters.
    bounds_ : ndarray of shape (`n_features_in_`, 2)
        Bounds of the columns, infinite on open sides.
    integer_features_ : ndarray of shape (`n_features_in_`,) of bool
        Mask of the columns of whole numbers.
    atoms_ : dict of str or int to ndarray
        Atoms of the columns that have any, by name, or by number if the columns have no names.
    atom_masses_ : dict of str or int to ndarray
        Probability of each of the `atoms_`.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during `fit`, only if all are strings.

    See Also
    --------
    sklearn.neighbors.KernelDensity : Kernel density estimation.
    sklearn.mixture.GaussianMixture : Gaussian mixtures.

    Notes
    -----
    In a Pipeline, ``score_samples`` is the density of the input of the last step: it lacks the
    Jacobian of a scaler *before* this estimator.  Use `scaling` instead.

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

    The estimated error of each log-density in nats, the latents and their inverse, and the gradient
    of the log-density:

    >>> log_density, error = density.score_samples(X, return_error=True)
    >>> bool((error < 0.01).all())
    True
    >>> bool(abs(density.inverse_transform(density.transform(X)) - X).max() < 0.01)
    True
    >>> density.score_gradient(X[:5]).shape
    (5, 4)

    Half-way between the base and the data, the density is wider:

    >>> bool(density.score_samples(X, t=0.5).mean() < log_density.mean())
    True
    """

    __metadata_request__inverse_transform: ClassVar[dict[str, str]] = {"Z": UNUSED}
    _gaussian_source: ClassVar[bool] = True
    _normals: NormalMixture | None = None
    _other_parts: ClassVar[frozenset[str]] = FlowEstimator._other_parts | {"_normals"}
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **PARAMETER_CONSTRAINTS,
        "bounds": [Mapping, "array-like", None],
        "integer_features": ["array-like", None],
        "atoms": [StrOptions({"auto"}), Mapping, None],
        "base": [StrOptions({"normal", "learned"})],
        "end_time": [StrOptions({"auto"}), Interval(Real, 1e-9, 1, closed="both")],
        "student_layer_sizes": [StrOptions({"auto"}), "array-like", None],
        "mixture": [StrOptions({"auto"}), None],
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
        mixture: str | None = "auto",
        scaling: str | Scaling | None = "gaussianize",
        bounds: BoundsLike = None,
        integer_features: ArrayLike | None = None,
        atoms: AtomsLike = "auto",
        field: VelocityField | nn.Module | Callable[..., torch.Tensor] | None = None,
        hidden_layer_sizes: str | Sequence[int] = "auto",
        student_layer_sizes: str | Sequence[int] | None = None,
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
        self.base = base
        self.coupling = coupling
        self.time_beta = time_beta
        self.end_time = end_time
        self.mixture = mixture
        self.scaling = scaling
        self.bounds = bounds
        self.integer_features = integer_features
        self.atoms = atoms
        self.field = field
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
        sharded: bool = False,
    ) -> Self:
        """Fit the density to the rows of `X`.

        If the fit fails, the estimator remains as it was.  Ctrl-C ends the training: the estimator
        is then fitted with the best weights so far, and `KeyboardInterrupt` is raised, which also
        ends a search.  A second Ctrl-C ends the fit at once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two rows of finite numbers, within the `bounds`, with whole numbers in the
            columns of `integer_features`.  A warning lists columns that have no density (constant,
            collinear, integer-valued).  Rows on disk are a ``numpy.memmap`` or an array of zarr or
            HDF5, which are read when they are needed; or the path of a Parquet file or folder, an
            Arrow table or dataset, or a dask array or data frame, which are written to a temporary
            memory map of float32.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative and not all zero, for the loss, the scaling and the
            held-out log-likelihood.
        X_val : array-like of shape (n_val, n_features), default=None
            Held-out rows.  If given, all rows of `X` train one field, and `validation_fraction` is
            ignored.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the rows of `X_val`.
        groups : array-like of shape (n_samples,), default=None
            Group labels of the rows.  Rows of one group, such as one patient, are held out
            together.  If None, rows are independent, except that exact copies are held out together
            in up to 1,048,576 rows.  Ignored if no rows of `X` are held out.
        sharded : bool, default=False
            Within a process group: whether each rank passes its own part of the rows, with their
            weights and groups, instead of all.  The parts, whose sizes may differ, are gathered on
            every rank in the order of the ranks, in a temporary file if they are large.

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
            If the training diverges and nothing was learned; the message names the learning rate or
            the scaling as the cause.
        KeyboardInterrupt
            After Ctrl-C.
        """
        X, X_val = opened(X), opened(X_val)
        with self._fitting(
            *((X, sample_weight) if X_val is None else (X_val, sample_weight_val))
        ) as context:
            # Of a part, one row is enough.
            given = self._validated_rows(X, reset=not context.warm, n_min=1 if sharded else 2)
            if sharded:
                given, sample_weight, groups = gathered_parts(given, sample_weight, groups)
            rows, weight = weighted_rows(given, sample_weight)
            validation = self._validation_rows(X_val, sample_weight_val)
            columns = self._fit_columns(context.warm, rows, *(rows for rows, _ in validation))
            codes = None if groups is None else self._group_codes(groups, rows, sample_weight)
            labels = [] if codes is None else [codes]
            self._begin(context, rows, weight, *itertools.chain(*validation), *labels)
            reader = self._reader(rows, weight, context.device, self._column_names(), columns)
            readers = [replace(reader, X=X, weight=w) for X, w in validation]
            self._run(self._planned(reader, readers, codes, context), context)
            if not context.warm:
                self.__dict__.pop("n_samples_seen_", None)  # from an earlier partial_fit
        return self

    @available_if(_learns_from_streams)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train on one batch of a stream of rows, in a single pass.

        The first call estimates the scaling from its rows alone, which should therefore be many and
        in random order.  The learning rate is constant after its warm-up, and the weights are
        averaged over about the last thousand steps.  No rows are held out, no student is distilled,
        and the flow ends at `end_time`, or at 1 for "auto".  After `fit`, training continues from
        the fitted model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two rows of finite numbers.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to each other in this batch.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        AttributeError
            If ``early_stopping=True`` or `student_layer_sizes` is not None.
        """
        # scikit-learn's _fit_context skips the validation in partial_fit of a fitted estimator.
        self._validate_params()
        with all_or_nothing(self):
            warm = self.__sklearn_is_fitted__()
            rows, weight = weighted_rows(
                self._validated_rows(X, reset=not warm, n_min=2), sample_weight
            )
            device = resolve_device(self.device)
            seed = int(private_random_state(self.random_state).randint(2**31))
            columns = self._fit_columns(warm, rows)
            setup = seeded_generators(step_seed(seed, Draw.SETUP), device).cpu
            reader = self._reader(rows, weight, device, self._column_names(), columns)
            scaling = self._target if warm else self._scaling_of(reader, NO_ROWS, setup, columns)
            self._stream_rows(replace(reader, scaling=scaling), seed, warm, setup)
        return self

    def _validation_rows(
        self, X_val: ArrayLike | None, sample_weight_val: ArrayLike | None
    ) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Validate `X_val`; return one pair of rows and weights, or none without `X_val`."""
        if X_val is None:
            if sample_weight_val is not None:
                raise ValueError(
                    "sample_weight_val was given without X_val; pass the held-out rows as X_val."
                )
            return []
        if not self.early_stopping:
            raise ValueError(
                "X_val was given, but early_stopping=False; set early_stopping=True to use these "
                "rows."
            )
        rows = self._validated_rows(X_val)
        return [(rows, checked_weight(sample_weight_val, rows, "sample_weight_val"))]

    def _planned(
        self,
        reader: Reader,
        validation: Sequence[Reader],
        groups: NDArray[np.int64] | None,
        context: FitContext,
    ) -> Plan:
        """Plan of a fit: training rows, held-out rows, path, targets and recipe."""
        # The folds draw from context.setup before the fields draw their initial weights from it: a
        # change of this order would change the result of every seeded fit.
        n_rows, n_features = reader.X.shape
        path, base, targets = self._path_base_targets(n_features, context.warm)
        # Fields can only be averaged if they share one path, base and set of heads.
        one_member = bool(learned_parameters(path, base)) or targets != ("b",)
        if validation or not self.early_stopping:
            folds, whole, scaling = self._folds_of_all_rows(reader, validation, context)
        else:
            folds, whole, scaling = self._folds(reader, groups, one_member, context)
        student = resolve_student(self.student_layer_sizes)
        recipe = self._recipe(n_rows, len(folds) > 1, self.max_iter, self.end_time)
        return Plan(folds, whole, path, base, targets, recipe, scaling, student=student)

    def _folds_of_all_rows(
        self, reader: Reader, validation: Sequence[Reader], context: FitContext
    ) -> tuple[list[Fold], Fold, Scaling]:
        """One fold that trains on all rows, with `X_val`, if given, as its held-out rows."""
        setup = context.setup
        scaling = (
            self._target
            if context.warm
            else self._scaling_of(reader, NO_ROWS, setup, self._columns())
        )
        whole = replace(reader, scaling=scaling)
        held_out = (
            validation_rows(replace(validation[0], scaling=scaling), setup)
            if validation
            else whole.read(NO_ROWS, setup)
        )
        source = NormalRows(reader.width, reader.device)
        fold = Fold(source, training_rows(whole, NO_ROWS, setup), held_out)
        return [fold], fold, scaling

    def _folds(
        self,
        reader: Reader,
        groups: NDArray[np.int64] | None,
        one_member: bool,
        context: FitContext,
    ) -> tuple[list[Fold], Fold, Scaling]:
        """Folds with held-out rows, all rows as one fold, and the scaling of the model.

        Each fold has a scaling estimated on its own training rows; the fold of all rows has that of
        the model.
        """
        columns, setup = self._columns(), context.setup
        # Copies are no surprise if all columns are constant or of whole numbers.
        if groups is None and not (columns.whole | (reader.widths > 0)).all():
            discrete = None if columns.atoms is None else reader.without_density
            part, groups = copies(reader.X, discrete)
            warn_copies(part, groups is not None)
        held_out = held_out_rows(
            len(reader.X),
            self.early_stopping,
            self.validation_fraction,
            setup,
            one_member,
            groups,
        )
        # The held-out rows are drawn first, so that a warm start with the same seed holds out the
        # same rows although it estimates no scaling.
        scalings, scaling = self._scalings(reader, held_out, context.warm, setup, columns)
        source = NormalRows(reader.width, reader.device)
        folds = []
        for rows, fold_scaling in zip(held_out, scalings, strict=True):
            fold_reader = replace(reader, scaling=fold_scaling)
            train = training_rows(fold_reader, rows, setup)
            validation = fold_reader.read(rows[:MAX_VALIDATION_ROWS], setup)
            folds.append(Fold(source, train, validation, fold_scaling))
        if len(folds) == 1:
            return folds, folds[0], scaling
        whole = replace(reader, scaling=scaling)
        train, validation = training_rows(whole, NO_ROWS, setup), validation_rows(whole, setup)
        return folds, Fold(source, train, validation), scaling

    def _scalings(
        self,
        reader: Reader,
        held_out: Sequence[torch.Tensor],
        warm: bool,
        setup: torch.Generator,
        columns: Columns,
    ) -> tuple[list[Scaling], Scaling]:
        """Scaling of each fold, estimated on its training rows, and scaling of the model.

        A single fold shares the scaling of the model.  Several scalings must have the same
        structure, so that the fields can be averaged: only columns that every fold would
        gaussianize are gaussianized.
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
        return scalings, self._scaling_of(reader, NO_ROWS, setup, columns, common)

    def _final_field(
        self, trained: Trained, objective: PathObjective, plan: Plan, context: FitContext
    ) -> VelocityField:
        """Field of the model: the trained field, or the student that was distilled from it."""
        field, self.distillation_loss_ = trained.field, None
        interrupted = context.interruption.message is not None
        if plan.student is None or trained.end_time == 0 or interrupted:
            return field
        generators = seeded_generators(step_seed(context.seed, Draw.STUDENT), context.device)
        students = [
            ResidualMLP(self.n_features_in_, widths, self.activation, generators.cpu).to(
                context.device
            )
            for widths in plan.student.widths
        ]
        field, self.distillation_loss_ = distilled(
            students,
            trained,
            [plan.whole],
            objective.time_law,
            plan.student.passes * cast(int, plan.recipe.max_iter),
            generators,
            context.budget,
            context.interruption,
        )
        return field

    @staticmethod
    def _group_codes(
        groups: ArrayLike, rows: NDArray[Any], sample_weight: ArrayLike | None
    ) -> NDArray[np.int64]:
        """Group numbers of the rows with a positive weight; the others have been dropped."""
        if sample_weight is None:
            return checked_groups(groups, len(rows))
        weight = np.asarray(sample_weight)
        codes = checked_groups(groups, len(weight))[weight > 0]
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    def _stream_rows(self, reader: Reader, seed: int, warm: bool, setup: torch.Generator) -> None:
        """Train in one pass over the rows of the reader, and set the fitted attributes."""
        n_rows, n_features = reader.X.shape
        path, base, targets = self._path_base_targets(n_features, warm)
        source = NormalRows(reader.width, reader.device)
        train = training_rows(reader, NO_ROWS, setup)
        fold = Fold(source, train, reader.read(NO_ROWS, setup))
        n_members = len(self._trained.fields()) if warm else 1
        self.n_samples_seen_ = n_rows + (getattr(self, "n_samples_seen_", 0) if warm else 0)
        end_time = 1.0 if self.end_time == "auto" else self.end_time
        recipe = self._recipe(self.n_samples_seen_, False, None, end_time)
        plan = Plan([fold] * n_members, fold, path, base, targets, recipe, reader.scaling)
        objectives = self._objectives(plan, warm, reader.device, setup)
        run = Run(objectives, plan.folds, recipe, seed)
        trained = run.stream(n_rows, self._progress if warm else None)
        self._set_training(trained, run, min(n_rows, STATISTICS_ROWS))
        self._progress = run.state_dict()
        self._set_model(trained, trained.field, plan)
        self.distillation_loss_ = None

    def _path_base_targets(
        self, n_features: int, warm: bool
    ) -> tuple[StochasticInterpolant, Scaling, tuple[str, ...]]:
        path, base = self._new_path(n_features, warm), self._base(n_features, warm)
        if path.interpolant.resamples:
            raise ValueError(
                "A mirror path connects a data set to itself and has no normal base; use "
                "InterpolantTransport."
            )
        targets, atoms = self._new_targets(path, base, warm), self._columns().atoms
        if atoms is not None and not warm:
            incidence = atoms.incidence.float()
            path = AtomPath(path.interpolant, path.gamma, incidence)
            base = AtomBase(incidence)
        return path, base, targets

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
            # A student learns the flow up to one end time; a Gaussian mixture has no atoms.
            mixture=(
                self.mixture is not None
                and end_time == "auto"
                and self.student_layer_sizes is None
                and not self.atoms_
            ),
        )

    def _set_history(self, history: History) -> None:
        super()._set_history(history)
        best = history.best_score
        self.validation_scores_ = history.validation_scores or None
        self.best_validation_score_ = best if np.isfinite(best) else None

    def _set_model(
        self,
        trained: Trained,
        field: VelocityField,
        plan: Plan,
        calibration: Calibration | Grading | None = None,
    ) -> None:
        super()._set_model(trained, field, plan, calibration)
        masses = self._masses()
        marginals = np.empty(0) if masses is None else masses.marginals().numpy()
        ends = np.cumsum([len(values) for values in self.atoms_.values()], dtype=int)
        self.atom_masses_ = dict(zip(self.atoms_, np.split(marginals, ends), strict=False))
        mixture = trained.mixture or Mixture((trained.end_time,), (1.0,))
        self.mixture_end_times_ = np.array(mixture.end_times)
        self.mixture_weights_ = np.array(mixture.weights)
        self._normals = mixture.normals

    def _is_mixture(self) -> bool:
        # Models of release 0.1 have no such attribute.
        return len(getattr(self, "mixture_weights_", ())) > 1

    def _mixture(
        self, field: VelocityField, base: Scaling | None, device: torch.device
    ) -> CombinedDensity | None:
        if not self._is_mixture():
            return None
        normals = self._normals
        if normals is not None:
            normals = NormalMixture(
                *(part.to(device) for part in (normals.weights, normals.means, normals.covariances))
            )
        return CombinedDensity(
            Pushforward(Flow(field, self._solver(), self.end_time_), base),
            self.mixture_end_times_.tolist(),
            self.mixture_weights_.tolist(),
            normals,
        )

    def _base(self, n_features: int, warm: bool) -> Scaling:
        if warm:
            return copy.deepcopy(self._source)
        return LearnedGaussian(n_features) if self.base == "learned" else Identity()

    def score_samples(
        self, X: ArrayLike, return_error: bool = False, *, t: float | None = None
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Compute the log-density of each row of `X`, at the end of the flow or any other time.

        Except with ``solver="dopri5"``, the value of a row does not depend on the other rows.  One
        warning gives the number of rows, if any, whose estimated error is above the tolerance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to score.  The flow runs in float32 where that meets the tolerance.  float32 rows
            give a float32 result, computed in float32 throughout; all others give float64.  Rows
            on disk, in the formats that :meth:`fit` takes, are read in blocks.
        return_error : bool, default=False
            Whether to return the estimated errors as well.
        t : float in [0, 1] or None, default=None
            Time on the path ([1]_, appendix A).  0 is the base, in data units; None is the density
            of the model: at `end_time_`, or the mixture of the `mixture_end_times_`.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density in nats, normalised: its exponential integrates to one in the units of `X`,
            and sums to one over the values of columns in `integer_features`.  With `atoms_`, it is
            the log-probability of the atoms that the row is at (:meth:`atom_log_mass`), plus the
            log-density of its other entries, given the atoms; summed over the atoms and integrated
            over the other entries, it is one.  Minus infinity
            outside the `bounds`, at fractions in columns of whole numbers, and for rows so far
            outside the data that the arithmetic of the flow overflows (1e100 flow units, or 1e12 in
            float32), which the warning includes.
        error : ndarray of shape (n_samples,)
            Estimated absolute errors in nats, only if `return_error` is True.  They include the
            error of the ODE solve, one standard error if the divergence is estimated (NaN for a
            single probe), and, with `integer_features`, the difference from a coarser quadrature
            rule.  They are calibrated to bound the error of 97 in 100 rows, on training rows, on
            these stretched about their mean by 2.5, and on uniform rows of their box, widened by
            half.  More rows exceed them where the density has sharp edges (see the user guide).

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        """
        value, error = self._log_density(self._validated(X), self._time(t))
        return (value, error) if return_error else value

    def _log_density(
        self, rows: NDArray[Any], time: float | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Log-densities of validated rows at a time, and their estimated errors; None is the model.

        Rows outside the bounds, or not whole, have minus infinity with an error of zero.
        """
        model = self._model_for(rows)
        possible = model.columns.in_support(rows)
        value, error = np.full(len(rows), -np.inf, rows.dtype), np.zeros(len(rows), rows.dtype)
        if possible.any():
            question = FlowModel.log_mass if model.columns.whole.any() else FlowModel.log_prob
            inside = rows if possible.all() else rows[possible]
            value[possible], error[possible] = model.ask(question, inside, time, refuse_far=False)
        invalid = np.isnan(value) | (value == np.inf)
        if invalid.any():
            raise FloatingPointError(
                f"The log-density of {invalid.sum()} of {len(value)} rows is NaN or infinite; drop "
                "those rows."
            )
        return value, error

    def _dequantised_log_density(
        self, rows: NDArray[Any], n_probes: int | None, seed: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Log-densities of the flow at rows that need not be whole, and the errors of the solver.

        The probes of the seed estimate the divergence; None is the field's own divergence.
        """
        rows = self._validated(rows)
        self._refuse_atoms("The density of dequantised rows", "fit with atoms=None")
        self._columns().check_in_cells(rows)
        model = self._model_for(rows)
        if n_probes is None and self._field.n_estimates is not None:
            n_probes = N_DEQUANTISED_PROBES
        if n_probes is not None:
            model = self._built_model(
                model.device,
                model.dtype,
                lambda drift: Hutchinson(drift, n_probes, seed, averaged=True),
            )
        return model.ask(FlowModel.log_prob, rows, self._time(None), refuse_far=False)

    def atom_log_mass(self, X: ArrayLike) -> NDArray[Any]:
        """Compute the log-probability of the atoms that each row of `X` is at.

        The log-density of a row is the sum of this log-probability, of being at these atoms and at
        no others, and of the log-density of its other entries, given the atoms.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_mass : ndarray of shape (n_samples,)
            Log-probabilities, in the dtype of `X`.  For a row that is at an atom in each column, it
            is the whole of :meth:`score_samples`.  It is zero if the model has no atoms.
        """
        rows = self._validated(X)
        if not isinstance(self._target, AtomScaling):
            return np.zeros(len(rows), dtype=rows.dtype)
        x = torch.from_numpy(rows.astype(np.float64))
        log_mass: NDArray[Any] = self._target.log_mass(x).numpy().astype(rows.dtype)
        return log_mass

    def _refuse_atoms(self, what: str, way_out: str) -> None:
        if self.atoms_:
            raise ValueError(
                f"{what} needs a density in all columns, but there are atoms in "
                f"{shown([str(name) for name in self.atoms_])}; {way_out}."
            )

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Compute the mean log-density of the rows of `X`, as in GaussianMixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to score.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Weighted mean in nats per row.  Minus infinity if a row of positive weight has a
            log-density of minus infinity, see :meth:`score_samples`.

        Raises
        ------
        ValueError
            If a weight is negative or not finite, or all are zero.
        """
        log_density, _ = self._log_density(self._validated(X), self._time(None))
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
        """Compute the log-density threshold of a highest density region.

        The region contains a fraction `level` of the probability.  The threshold is the
        ``1 - level`` quantile of :meth:`score_samples` over samples of the model ([1]_, section 2).

        Parameters
        ----------
        level : float in (0, 1), or array-like of such
            Probability of the region.
        n_samples : int, default=2_000
            Number of samples that are drawn and scored, the same for all levels.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.  The samples of a seed are drawn and scored once for a fitted
            model, and so are those of None, which are random; a RandomState draws at each call.
        return_error : bool, default=False
            Whether to return the Monte Carlo errors as well.

        Returns
        -------
        threshold : float, or ndarray of the shape of `level`
            Log-density on the boundary of the region, in nats.
        error : float, or ndarray of the shape of `level`
            Monte Carlo standard error of each threshold in nats, only if `return_error` is True:
            half the distance between the order statistics at plus and minus one binomial standard
            deviation of the number of samples below the threshold.  It decreases as
            ``1 / sqrt(n_samples)``.  It does not include errors of the ODE solve and of the fit.

        Raises
        ------
        ValueError
            If a level is not in (0, 1), or `n_samples` is too small for it.

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
        log_density = self._log_density_of_samples(n_samples, random_state)
        threshold, error = (part[()] for part in density_thresholds(log_density, levels))
        return (threshold, error) if return_error else threshold

    def _log_density_of_samples(
        self, n_samples: int, random_state: RandomStateLike
    ) -> NDArray[np.float64]:
        """Log-densities of samples of the model; those of a seed are kept."""
        n = checked_n_samples(n_samples, self.n_features_in_)
        random = private_random_state(random_state)

        def drawn() -> NDArray[np.float64]:
            time = self._time(None)
            return self._log_density(self._drawn(n, random, time), time)[0]

        if isinstance(random_state, np.random.RandomState):
            return drawn()
        log_density: NDArray[np.float64] = self._kept(("samples", n, random_state), drawn)
        return log_density

    def contains(
        self,
        X: ArrayLike,
        level: float,
        *,
        n_samples: int = 2_000,
        random_state: RandomStateLike = None,
    ) -> NDArray[np.bool_]:
        """Check which rows are in a highest density region.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to check.
        level : float in (0, 1)
            Probability of the region.
        n_samples : int, default=2_000
            Number of samples from which :meth:`density_threshold` estimates the boundary.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples, see :meth:`density_threshold`.

        Returns
        -------
        inside : ndarray of shape (n_samples,) of bool
            Whether each row is in the region.
        """
        rows = self._validated(X)
        if isinstance(level, Sequence | np.ndarray) and np.ndim(np.asarray(level, dtype=object)):
            raise ValueError(
                "contains accepts one level at a time; level must be a single number in (0, 1), "
                f"got {level!r}."
            )
        log_density, _ = self._log_density(rows, self._time(None))
        inside: NDArray[np.bool_] = log_density >= np.asarray(
            self.density_threshold(level, n_samples=n_samples, random_state=random_state)
        )
        return inside

    def score_gradient(
        self, X: ArrayLike, *, t: float | None = None, method: str = "flow"
    ) -> NDArray[Any]:
        r"""Compute the score, the gradient of the log-density with respect to `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`.
        t : float in [0, 1] or None, default=None
            Time on the path; None is the density of the model, see :meth:`score_samples`, and
            `end_time_` for ``method="path"``.
        method : {"flow", "path"}, default="flow"
            How the score is computed; both are equal if the field is exact.

            - "flow": gradient of :meth:`score_samples` at this time, exact for the density of the
              model.  It is integrated along the flow, in two solves.
            - "path": the learned score, if "s" or "eta" is among the `targets`, or the score that
              follows from the drift: for the trigonometric path,
              ``-u + (2 / pi) tan(pi t / 2) v_t(u)`` in flow units ([1]_, proposition 4, where the
              sign is a misprint).  It takes one evaluation of the field, and is what
              ``sample(method="sde")`` uses.  The formula multiplies errors of the drift, by more
              the closer `t` is to 1.

        Returns
        -------
        score : ndarray of shape (n_samples, n_features)
            Score in nats per unit of each column, in the dtype of `X`; zero for entries at an atom.

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic of the
            flow overflows.  With "path", if the score does not follow from the drift: on a path
            that is not affine in its ends, under a `coupling` that is not independent, or so close
            to ``t = 1`` that errors of the drift would be multiplied by more than 100.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        """
        if method not in ("flow", "path"):
            raise ValueError(f"method must be 'flow' or 'path', got {method!r}.")
        rows, time = self._located(X), self._time(t)
        if method == "path" and time is None:
            time = self.end_time_
        score = FlowModel.score if method == "flow" else FlowModel.path_score
        return self._model_for(rows).ask(score, rows, time)[0]

    def velocity(self, X: ArrayLike, t: float) -> NDArray[Any]:
        """Compute the velocity of the flow at the rows of `X`.

        It is the drift ``b``; without `gamma`, drift and velocity are equal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`.
        t : float in [0, 1]
            Time on the path.

        Returns
        -------
        velocity : ndarray of shape (n_samples, n_features)
            Velocity in units of each column per unit of time, in the dtype of `X`; zero for entries
            at an atom.

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, or so far outside the data that the arithmetic of the
            flow overflows.
        """
        rows, time = self._located(X), checked_time(t, latest=self._latest())
        return self._model_for(rows).ask(FlowModel.velocity, rows, time)[0]

    def trajectory(self, X: ArrayLike, times: Sequence[float]) -> NDArray[Any]:
        """Compute the positions of rows along the flow.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at the first of the times.
        times : sequence of float in [0, 1], increasing or decreasing
            Times of the positions, such as ``np.linspace(density.end_time_, 0, 50)`` from data to
            latents.

        Returns
        -------
        positions : ndarray of shape (len(times), n_samples, n_features)
            Positions in data units, in the dtype of `X`.

        Raises
        ------
        ValueError
            If `times` is not such a sequence, or if rows are outside the `bounds`, or so far
            outside the data that the arithmetic of the flow overflows.
        """
        rows, checked = self._located(X), checked_times(times, self._latest())
        return self._positions(FlowModel.trajectory, rows, checked)

    def sample(
        self,
        n_samples: int = 1,
        random_state: RandomStateLike = None,
        *,
        t: float | None = None,
        method: str = "ode",
        epsilon: float | str | Callable[[float], float] = "decreasing",
        n_steps: int | None = None,
        denoise_from: float | None = None,
    ) -> NDArray[np.float64] | Any:
        r"""Generate random samples from the density, at the end of the flow or any other time.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples, at least 1.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples; None gives different samples at each call.
        t : float in [0, 1] or None, default=None
            Time on the path; None is the density of the model, see :meth:`score_samples`.  Of a
            mixture, the component of each sample is drawn first.
        method : {"ode", "sde", "denoising"}, default="ode"
            Equation that is solved.

            - "ode": the flow from random base points.
            - "sde": the diffusion ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW``, which has the
              same distribution as the flow at every time, for any noise level ([1]_, section 1;
              [2]_, section 2).  It requires a path that is affine in its ends, or a learned score.
            - "denoising": the flow by the denoising integrator ([2]_, section 5.2) in equal steps,
              which predicts both ends of the path at each step.  It requires a path that is affine
              in its ends.
        epsilon : float, callable or {"decreasing", "sine"}, default="decreasing"
            Noise level of "sde", in squared flow units (after the scaling) per unit of time: a
            number that is not negative, a function of time, "decreasing" for ``1 - t`` or "sine"
            for ``sin(pi t)^2``.  Near the data, where the score multiplies errors of the learned
            field by more than 5, the level is reduced in proportion.
        n_steps : int or None, default=None
            Number of steps of "sde", by Heun's method, or of "denoising".  None is 200 times the
            largest noise level, and at least 200; 200 for "denoising".
        denoise_from : float in (0, 1) or None, default=None
            Time, such as 0.98, at which the diffusion of "sde" stops.  The last step, to ``t = 1``,
            is then ``E[x1 | x_t]`` ([2]_, section 5.2), which removes the rest of the noise.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units; a data frame with the names of the columns, if
            :meth:`set_output` selects one.

        Raises
        ------
        ValueError
            If an argument is invalid, if the number of samples or steps is too large, or with "sde"
            if there are `atoms_`.
        FloatingPointError
            If the diffusion becomes infinite or NaN; the message gives the time and the number of
            rows.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        .. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        self._check_usable()
        if not isinstance(method, str) or method not in ("ode", "sde", "denoising"):
            raise ValueError(
                f"method must be 'ode', 'sde' or 'denoising', got {reprlib.repr(method)}."
            )
        time = self._time(t)
        if method != "ode":
            self._refuse_atoms(
                f"sample(method={method!r})", "use method='ode', or fit with atoms=None"
            )
        if method == "ode":
            return self._contained(
                self._drawn(n_samples, random_state, time), None, self._names_in()
            )
        random = private_random_state(random_state)
        base_points = random.standard_normal(
            (checked_n_samples(n_samples, self.n_features_in_), self.n_features_in_)
        )

        # The base points are drawn before the seed of the noise, from the same random state.
        def carried(rows: NDArray[np.float64], time: float) -> NDArray[np.float64]:
            if method == "denoising":
                steps = stochastic_solver(n_steps, lambda t: 0.0).n_steps
                model = self._model_for(rows, torch.float64)
                return model.ask(FlowModel.denoise, rows, time, steps, side="source")[0]
            return self._diffused(
                FlowModel.diffuse, rows, time, random, epsilon, n_steps, denoise_from=denoise_from
            )

        drawn = (
            self._drawn_from_mixture(base_points, random, carried)
            if time is None
            else carried(base_points, time)
        )
        return self._contained(self._columns().rounded_and_clipped(drawn), None, self._names_in())

    def _drawn(
        self, n_samples: int, random_state: RandomStateLike, time: float | None
    ) -> NDArray[np.float64]:
        """Samples at a time: random base points, carried by the flow; None is the model."""
        n = checked_n_samples(n_samples, self.n_features_in_)
        random = private_random_state(random_state)
        base_points = self._with_patterns(random.standard_normal((n, self.n_features_in_)), random)
        drawn = (
            self._drawn_from_mixture(base_points, random, self._pushed)
            if time is None
            else self._pushed(base_points, time)
        )
        return self._columns().rounded_and_clipped(drawn)

    def _pushed(self, base_points: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        model = self._model_for(base_points)
        return model.ask(FlowModel.push, base_points, time, side="source")[0]

    def _drawn_from_mixture(
        self,
        base_points: NDArray[np.float64],
        random: np.random.RandomState,
        carry: Callable[[NDArray[np.float64], float], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Samples of the mixture: a random component for each base point, which carries it."""
        times, weights = self.mixture_end_times_, self.mixture_weights_
        if self._normals is not None:
            weights = np.concatenate([weights[:-1], weights[-1] * self._normals.weights.numpy()])
        component = random.choice(len(weights), len(base_points), p=weights / weights.sum())
        drawn = np.empty_like(base_points)
        for k in np.unique(component):
            rows = component == k
            drawn[rows] = (
                carry(base_points[rows], float(times[k]))
                if k < len(times)
                else self._model_for(base_points).ask(
                    FlowModel.from_normal, base_points[rows], int(k) - len(times), side="source"
                )[0]
            )
        return drawn

    def _with_patterns(
        self, base_points: NDArray[np.float64], random: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Base points with random patterns of atoms, if there are atoms: coded rows."""
        masses = self._masses()
        if masses is None:
            return base_points
        u = torch.from_numpy(random.random_sample((len(base_points), 1 + self.n_features_in_)))
        indicators = masses.draw(u)
        moves = moving(indicators, masses.incidence).numpy()
        return np.concatenate([base_points * moves, indicators.numpy()], axis=1)

    def _masses(self) -> AtomMasses | None:
        """Probabilities of the patterns of atoms; None without atoms."""
        return self._target.masses if isinstance(self._target, AtomScaling) else None

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Map each row of `X` to its latent.

        The latent of a row is the point of the standard normal base that the flow carries to it,
        at `end_time_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to transform, at none of the `atoms_`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Latents in the dtype of `X`, distributed as N(0, I) for rows of the flow at `end_time_`.

        Raises
        ------
        ValueError
            If rows are outside the `bounds`, at one of the `atoms_`, or so far outside the data
            that the arithmetic of the flow overflows.
        """
        rows, columns = self._located(X), self._columns()
        if columns.atoms is not None:
            columns.atoms.check_free(rows, columns.names)
        return self._latent(rows)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Get the names of the columns that :meth:`transform` returns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only used to validate feature names with the names seen in :meth:`fit`.

        Returns
        -------
        feature_names_out : ndarray of str objects
            The names ``latent0``, ``latent1``, ...
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        return np.array([f"latent{k}" for k in range(self.n_features_in_)], dtype=object)

    def _latent(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Latents of validated rows."""
        latents = self._model_for(rows).ask(FlowModel.pull, rows, self.end_time_)[0]
        return latents[:, : self.n_features_in_]

    def inverse_transform(self, Z: ArrayLike) -> NDArray[Any] | Any:
        """Map latents back to rows, the inverse of :meth:`transform`.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Latents.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in data units, at none of the `atoms_`, in the dtype of `Z`; a data frame with the
            names of the columns, if :meth:`set_output` selects one.

        Raises
        ------
        ValueError
            If latents are so far from the centre that the arithmetic of the flow overflows.
        """
        rows = self._validated_other(Z, "Z", "latent space")
        n_atoms = self._target.values.numel() if isinstance(self._target, AtomScaling) else 0
        rows = np.pad(rows, ((0, 0), (0, n_atoms)))
        model = self._model_for(rows)
        carried, _ = model.ask(FlowModel.push, rows, self.end_time_, side="source")
        return self._contained(model.columns.rounded_and_clipped(carried), Z, self._names_in())

    def diagnose(self, X: ArrayLike, random_state: RandomStateLike = None) -> Bunch:
        """Measure on test rows how well the field was learned.

        All numbers are in flow units.  The rows should be in random order, because the `coupling`
        of the fit pairs them with base points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Test rows, which the field was not trained on.
        random_state : int, RandomState instance or None, default=None
            Seed of the base points that the rows are paired with.

        Returns
        -------
        diagnosis : Bunch
            Dictionary-like object with the following attributes.

            - loss : float, ``G`` ([1]_, equation 8)
            - loss_plus_action : float, ``G + E|v|^2``, which is zero at the optimum (equation 11)
            - action, path_length : float, ``E|v|^2`` and the mean over times of its root; the
              action of the true velocity bounds the squared Wasserstein-2 distance between base and
              data
            - straightness : float, mean square difference between the velocity along the flow and
              that of the straight line between the two ends, which is zero if one step of Euler's
              method has no error ([2]_; :func:`~skinterflow.interflow.diagnostics.straightness`)
            - lipschitz : float, the largest slope of the field found on the path
            - wasserstein2_bound : float, ``exp(1/2 + lipschitz) sqrt(E|v - dI/dt|^2)`` (proposition
              3); the regression loss replaces the error of the field, which is unknown and smaller,
              so that the bound is often far too large to be useful, or infinite
            - latent_ks : ndarray of shape (n_features,), Kolmogorov-Smirnov distance of each latent
              coordinate to N(0, 1)
            - latent_energy_distance : float, energy distance of the latents (at most 2,000) to
              N(0, I)

        Raises
        ------
        ValueError, FloatingPointError
            If there are `atoms_`, or rows are outside the `bounds`, or so far outside the data that
            the arithmetic of the flow overflows.

        References
        ----------
        .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
            Interpolants", ICLR 2023.
        .. [2] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data
            with rectified flow", ICLR 2023.
        """
        rows = self._located(X)
        self._refuse_atoms("diagnose", "fit with atoms=None, on rows that are at none of them")
        random = private_random_state(random_state)
        noise = random.standard_normal((2, *rows.shape))
        rows = self._columns().spread(rows, random)
        model, latent = self._model_for(rows, torch.float64), self._latent(rows)
        diagnosis = diagnose_density(model, rows, noise, latent, self._batch_size)
        check_overflow(diagnosis, len(rows))
        return diagnosis

    def diffusion_log_density(
        self,
        X: ArrayLike,
        *,
        t: float | None = None,
        epsilon: float | str | Callable[[float], float] = 0.1,
        n_paths: int = 16,
        n_steps: int | None = None,
        random_state: RandomStateLike = None,
    ) -> Bunch:
        """Estimate the log-density of the diffusion of ``sample(method="sde")`` at each row.

        For an exact field it is that of the flow, :meth:`score_samples`; for a learned one it
        differs.  It is a mean over random paths ([1]_, section 2.5), whose variance grows fast with
        `epsilon` and with the number of columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at time `t`.  In columns of whole numbers, the density is that of the rows with
            uniform noise.
        t : float in [0, 1] or None, default=None
            Time on the path; None is `end_time_`, of a mixture as well.
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

            - log_density : the logarithm of the mean over the paths, in nats
            - standard_error : of the logarithm
            - lower_bound : the mean of the logarithms, below the log-density in expectation

        Raises
        ------
        ValueError
            If an argument is invalid, if there are `atoms_`, if the score is not known (see
            :meth:`score_gradient`), or if rows are outside the `bounds`, or so far outside the data
            that the arithmetic of the flow overflows.
        FloatingPointError
            If the diffusion becomes infinite or NaN.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        rows, random = self._located(X), private_random_state(random_state)
        self._refuse_atoms("diffusion_log_density", "use score_samples, or fit with atoms=None")
        time = checked_time(t, self.end_time_, self._latest())
        by_paths = self._diffusion_log_density(rows, time, 0.0, random, epsilon, n_paths, n_steps)
        return path_bunch(by_paths)

    def diagnose_likelihood(
        self,
        X: ArrayLike,
        *,
        epsilon: float | str | Callable[[float], float] = 0.1,
        n_paths: int = 16,
        n_steps: int | None = None,
        random_state: RandomStateLike = None,
    ) -> Bunch:
        r"""Measure on test rows what the errors of the fit mean for the likelihood.

        A small error of the drift does not make the density of the flow accurate; its score must be
        accurate as well ([1]_, lemma 2.4).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least two test rows, which the field was not trained on; of more than 1,000, as many
            are chosen at random.
        epsilon : float, callable or {"decreasing", "sine"}, default=0.1
            Noise level of the diffusion, see :meth:`sample`.
        n_paths : int, default=16
            Number of random paths of each row, at least 2.
        n_steps : int or None, default=None
            Number of steps, see :meth:`sample`.
        random_state : int, RandomState instance or None, default=None
            Seed of the rows, base points and paths.

        Returns
        -------
        diagnosis : Bunch
            Dictionary-like object with the following attributes.

            - cross_entropy, cross_entropy_error : float, ``-E log p(x)`` of the rows relative to
              the flow at `end_time_`, in nats, and its standard error (equation 2.63)
            - diffusion_cross_entropy, diffusion_cross_entropy_error : float, the same for the
              diffusion, see :meth:`diffusion_log_density`
            - diffusion_cross_entropy_bound : float, upper bound of that by Jensen's inequality
            - time : float, the latest time, at most `end_time_`, at which the score of the path
              multiplies errors of what was learned by 5 at most; the following are until then
            - fisher_divergence : float, :math:`\int E|s - \nabla \log p_t|^2 dt`, with the density
              :math:`p_t` of the flow and the score :math:`s` of the fit,
              ``score_gradient(method="path")``, in place of that of the path, which is not known
            - kl_lower_bound, kl_lower_bound_error : float, the relative entropy of the path with
              respect to the flow by lemma 2.4 with the same score, in nats, and its standard error
            - drift_error_bound : float, upper bound of :math:`\int E|b - \hat b|^2 dt`

            If the score follows from the drift, the relative entropy is larger than its bound by
            :math:`\int g E|b - \hat b|^2 dt`, where :math:`g` is the factor by which the score
            multiplies errors, so that a poor fit may have a bound below zero.  If score and drift
            are learned separately, the number is an estimate, and no bound.  The exact relative
            entropy is the cross-entropy less the entropy of the data.  All but the entropies are in
            flow units.

        Raises
        ------
        ValueError, FloatingPointError
            As :meth:`diffusion_log_density`, or if there is a single row.

        References
        ----------
        .. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for
            Flows and Diffusions", 2023.
        """
        rows = self._located(X)
        self._refuse_atoms("diagnose_likelihood", "fit with atoms=None")
        random = private_random_state(random_state)
        rows = self._columns().spread(chosen_rows(rows, random), random)
        time, noise = self.end_time_, random.standard_normal((2, *rows.shape))
        by_paths = self._diffusion_log_density(rows, time, 0.0, random, epsilon, n_paths, n_steps)
        model = self._model_for(rows, torch.float64)
        log_density, _ = model.ask(FlowModel.log_prob, rows, time)
        diagnosis = Bunch(
            **cross_entropies(log_density, by_paths),
            **diagnose_likelihood(model, rows, noise, self._batch_size),
        )
        check_overflow(diagnosis, len(rows))
        return diagnosis

    def _column_names(self) -> list[str]:
        return list(
            getattr(self, "feature_names_in_", map("column {}".format, range(self.n_features_in_)))
        )

    def _fit_columns(self, warm: bool, *parts: NDArray[Any]) -> Columns:
        """Bounds and whole numbers of the columns, checked against the rows of each of `parts`."""
        columns = (
            self._columns()
            if warm
            else resolve_columns(self.bounds, self.integer_features, self._column_names())
        )
        for rows in parts:
            columns.check_rows(rows)
        if not warm:
            columns = self._with_atoms(columns, parts[0])
        self.bounds_, self.integer_features_ = columns.bounds, columns.whole
        names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        by_column = {} if columns.atoms is None else columns.atoms.by_column()
        self.atoms_ = {names[j]: values for j, values in by_column.items()}
        return columns

    def _with_atoms(self, columns: Columns, rows: NDArray[Any]) -> Columns:
        """The columns with their atoms, if the other parameters allow them."""
        found = resolve_atoms(self.atoms, columns, rows)
        other = self._parameters_without_atoms()
        if found.atoms is None or not other:
            return found
        if self.atoms != "auto":
            raise ValueError(
                f"atoms={reprlib.repr(self.atoms)} cannot be fitted with {', '.join(other)}; use "
                "the defaults of these parameters, or set atoms=None."
            )
        warn_columns(
            columns.names,
            found.atoms.flagged,
            "repeat single values, which have a mass and no density, and which atoms='auto' cannot "
            f"fit with {', '.join(other)}; use the defaults of these parameters, or set atoms=None "
            "if the values are not to have a mass",
        )
        return columns

    def _parameters_without_atoms(self) -> list[str]:
        """Parameters whose values cannot be combined with atoms, such as ``base='learned'``."""
        targets = self.targets if isinstance(self.targets, str) else tuple(self.targets)
        coupling = resolve_coupling(self.coupling)
        other = {
            "base": self.base != "normal",
            "coupling": not coupling.is_independent,
            "field": self.field is not None,
            "scaling": isinstance(self.scaling, Scaling),
            "student_layer_sizes": self.student_layer_sizes is not None,
            "targets": targets not in ("auto", "b", ("b",)),
        }
        shapes = {name: " ".join(reprlib.repr(getattr(self, name)).split()) for name in other}
        return [f"{name}={shapes[name]}" for name, flag in other.items() if flag]

    def _columns(self) -> Columns:
        """Bounds, whole numbers and atoms of the columns, as fitted."""
        names = self._column_names()
        # Models of release 0.1 have no atoms.
        by_name: dict[Any, Any] = getattr(self, "atoms_", {})
        by_column = {names.index(k) if isinstance(k, str) else k: v for k, v in by_name.items()}
        atoms = Atoms.of(by_column, self.n_features_in_) if by_column else None
        return Columns(self.bounds_, self.integer_features_, names, atoms)

    def _located(self, X: ArrayLike) -> NDArray[Any]:
        """Validate rows that need a latent: within the bounds, though not necessarily whole."""
        rows = self._validated(X)
        self._columns().check_in_cells(rows)
        return rows

    def _time(self, t: float | None) -> float | None:
        """Validated time; None, which is the model, remains only if the model is a mixture."""
        if t is None and self._is_mixture():
            return None
        return checked_time(t, self.end_time_, self._latest())

    def _latest(self) -> float:
        """Latest time of the model: a student is only trained up to the end time."""
        return 1.0 if self._field is self._trained else self.end_time_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
