"""InterpolantFlowRegressor: the density of an output given features, with quantiles and samples."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import Tags, check_array
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    check_consistent_length,
    validate_data,
)
from torch import Tensor

from skinterflow._base import PARAMETER_CONSTRAINTS, FlowEstimator
from skinterflow._data.batches import (
    MAX_VALIDATION_ROWS,
    NO_ROWS,
    FlowRows,
    NormalRows,
    ShuffledRows,
    drawn_seed,
)
from skinterflow._data.columns import (
    Columns,
    check_magnitudes,
    output_names,
    resolve_outputs,
)
from skinterflow._data.encoding import (
    FeatureEncoding,
    categorical_columns,
    category_numbers,
    column_values,
    estimate_encoding,
    frame_dtypes,
    learn_categories,
)
from skinterflow._data.ranks import check_rows
from skinterflow._data.weights import weighted_rows
from skinterflow._fit.base_regressor import base_prediction, cross_fitted
from skinterflow._fit.context import FitContext, Plan
from skinterflow._fit.mixture import member_weights
from skinterflow._fit.recipe import (
    Recipe,
    checked_widths,
    continued_fields,
    resolve_path,
    resolve_recipe,
    resolve_time_law,
)
from skinterflow._fit.run import Draw, Run, Trained
from skinterflow._fit.validation import Fold, HeldOut
from skinterflow._persistence.values import check_regressor_values
from skinterflow._predict.arguments import checked_coverage, checked_levels, checked_n_samples
from skinterflow._predict.conditional import (
    TABLE_TOLERANCE,
    Answer,
    ConditionalModel,
    Conditions,
    Units,
)
from skinterflow._predict.conformal import (
    latent_of_coverage,
    latents_of_levels,
    n_calibration_rows,
)
from skinterflow._runtime import (
    RandomStateLike,
    private_random_state,
    resolve_device_or_cpu,
    seeded_generators,
    step_seed,
    sums_may_overflow,
)
from skinterflow.exceptions import DegenerateDataWarning
from skinterflow.interflow.conditional import ConditionalMLP, ConditionalObjective
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.flows import AccuracyWarning
from skinterflow.interflow.interpolants import Interpolant, learned_parameters
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.scaling import Identity, Scaling
from skinterflow.interflow.warn import warn

Array = NDArray[np.float64]

_CROSS_FIT_BELOW = 2_000
_N_FOLDS, _N_MEMBERS = 5, 2
"""Members of a cross-fitted fit and of any other, without and with a base regressor each."""
_ATOL = 5e-4
"""Meaning of ``atol="auto"``, in nats."""
_PILOT_STEPS, _PILOT_BATCH = 300, 128
_DITHERED_ROWS = 2**16
"""Copies of rows with whole numbers, each with its own noise, that a member is trained on."""
_REPEATED_SHARE, _REPEATED_ROWS = 0.2, 0.02
"""Share of rows with a common value of y that is reported; a value is common from this share on."""
_VALIDATION_ROW_TIMES = 2**13
"""Held-out rows times end times of a check: solves of conditional flows are cheap."""


class InterpolantFlowRegressor(RegressorMixin, FlowEstimator):
    r"""Probabilistic regression: the density of `y` given `X`, by conditional flows.

    A velocity field ``v_t(y | x)`` is trained to carry a standard normal at ``t = 0`` to the
    outputs at ``t = 1``, given the features [1]_.  From the one fitted model follow the exact,
    normalised log-density, and for one output the distribution function, quantiles that never
    cross, intervals and the mean, without sampling.

    Parameters
    ----------
    regressor : "auto", None or regressor, default="auto"
        Base regressor, whose cross-fitted prediction is a further feature and is subtracted from
        `y`.  It sees the encoded features: numbers, scaled and clipped smoothly at five standard
        deviations, without missing values.

        - "auto": gradient boosting (HistGradientBoostingRegressor), with 25 to 500 trees by the
          cross-fitted squared error, if it improves the held-out log-likelihood.
          From 2,000 rows on, a short training with and one without it decide.  Below, members
          with and without it are trained, and weighted by the held-out log-likelihood.
        - None: no base regressor
        - a regressor of scikit-learn, which is cloned
    point : {"mean", "median"}, default="mean"
        What :meth:`predict` returns; the median requires one output.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Categorical columns of `X`, as a mask, names or numbers.  "from_dtype" selects the columns
        of a data frame that are categorical (pandas), Categorical or Enum (polars).
    interpolant : str or Interpolant, default="trigonometric"
        Path from a base point to an output: "trigonometric", "linear" or an Interpolant without
        parameters.
    time_beta : tuple of two positive floats, default=(1.0, 0.5)
        Parameters of the Beta distribution of the training times.
    end_time : "auto" or float in [1e-9, 1], default="auto"
        Time at which the flow stops, the analogue of a bandwidth.  "auto" selects it by held-out
        log-likelihood; it is 1 if no rows are held out.
    scaling : str, Scaling or None, default="standardize"
        Invertible map that is applied to `y`; its Jacobian is part of the density: "standardize",
        "whiten", "power" or "gaussianize", see `InterpolantFlowDensity`.
    bounds : pair, sequence of pairs or None, default=None
        Inclusive bounds ``(low, high)`` of `y`, or one pair for each output; None is an open side,
        or an output without bounds.  The density is zero outside, and quantiles, samples and the
        mean are within the bounds.
    integer_target : bool, default=False
        Whether `y` is a whole number, such as a count.  The log-density is then the logarithm of
        the probability ``P(Y = y | X)``, and quantiles and samples are whole numbers.  Requires
        one output.
    conformal : bool, default=False
        Whether to hold out rows from the training, by whose ranks :meth:`predict_interval` and
        :meth:`predict_quantiles` are corrected [2]_.  A new row, exchangeable with the rows of the
        fit, is then in an interval with at least the probability `coverage`, however wrong the
        model is.  This holds on average over the rows, not for every `X`.  A fifth of the rows is
        held out, but at least 100 if these are at most half of them, and at most 10,000.  Requires
        one output.
    trunk_layer_sizes : sequence of int, default=(128, 128, 128, 128, 128)
        Widths of the network on the features, which is computed once for each row.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the network on time and outputs, which the ODE solver evaluates.
    dropout : "auto" or float in [0, 1), default="auto"
        Fraction of the trunk's activations that training drops.  "auto" is 0.2 if the fit is
        cross-fitted, and 0.1 otherwise.
    activation : {"silu", "tanh", "softplus", "elu"}, default="silu"
        Activation function.
    alpha : float, default=30.0
        Strength of the regularisation: the weight decay is ``alpha`` divided by the number of rows.
    batch_size : "auto" or int, default="auto"
        Number of rows per gradient step, each at eight times.  "auto" is 64 if the fit is
        cross-fitted, and 256 otherwise.
    learning_rate_init : "auto" or float, default="auto"
        Learning rate after the warm-up, 0.002 for "auto".  It decays to zero along a cosine.
    max_iter : "auto" or int, default="auto"
        Number of gradient steps: 900 if the fit is cross-fitted, and 1,500 otherwise, for "auto".
    max_time : float or None, default=None
        Limit on the time of `fit`, in seconds, see `InterpolantFlowDensity`.
    early_stopping : "auto" or bool, default="auto"
        Whether rows are held out, to stop the training and to choose the end time and the weights
        of the members.  "auto" is True; below 2,000 rows the fit is cross-fitted: five members are
        trained, each validated on a different fifth of the rows.  Otherwise there are two members,
        each validated on a different part.  The density is the mean of those of the members.
    validation_fraction : float in (0, 1), default=0.1
        Fraction of the rows that each member holds out, if the fit is not cross-fitted.
    n_iter_no_change : int, default=3
        Number of checks without improvement after which training stops.
    tol : float, default=1e-4
        Increase of the held-out log-likelihood, in nats per row, that counts as an improvement.
    warm_start : bool, default=False
        Continue the previous fit, up to `max_iter` steps in total.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the batches, the held-out rows and the base regressor.
    verbose : bool, default=False
        Print a line at every check.
    atol : "auto" or float, default="auto"
        Accepted error of a log-density in nats, and of the latents of a distribution function;
        "auto" is 5e-4.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Device for training and prediction; "auto" is a GPU if there is one.
    checkpoint : str, path-like or None, default=None
        File to which `fit` writes its progress; an interrupted fit resumes from there.

    Attributes
    ----------
    uses_regressor_ : ndarray of bool
        Whether each member uses the base regressor.
    member_weights_ : ndarray of float
        Weight of each member's density.
    end_time_ : float
        End time of the flows, in [0, 1].
    n_iter_ : int
        Number of gradient steps.
    check_steps_ : list of int
        Step number of each check, for `loss_curve_` and `validation_scores_`.
    loss_ : float
        Training loss at the last check, summed over the outputs.
    loss_curve_ : list of float
        Mean training loss between checks.
    validation_scores_ : list of float or None
        Mean held-out log-likelihood of the single members at each check, in units of `y`.
    best_validation_score_ : float or None
        Best of the `validation_scores_`.
    n_outputs_ : int
        Number of outputs.
    bounds_ : ndarray of shape (`n_outputs_`, 2)
        Bounds of the outputs, infinite on open sides.
    calibration_rows_ : ndarray of bool or None
        Which rows of `X` were held out for `conformal`, one for each row; None without.
    calibration_latents_ : ndarray of float or None
        Latents ``Phi^-1(F(y | X))`` of these rows, sorted; None without.
    n_features_in_ : int
        Number of columns of `X` seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during `fit`, only if all are strings.

    See Also
    --------
    InterpolantFlowDensity : Density of all columns of one data set.
    PredictionIntervalDisplay : Plot of intervals with the observed outputs.
    PITDisplay : Plot of the calibration.
    ConditionalDensityDisplay : Plot of the density along one feature.
    sklearn.ensemble.HistGradientBoostingRegressor : Gradient boosting, also of single quantiles.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
        ICLR 2023.
    .. [2] Chernozhukov, Wuethrich and Zhu, "Distributional conformal prediction", PNAS 118, 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skinterflow import InterpolantFlowRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(16, 16), max_iter=30, regressor=None, random_state=0
    ... ).fit(X, y)
    >>> model.predict(X).shape, model.predict_interval(X, coverage=0.9).shape
    ((442,), (442, 2))
    >>> levels = [0.05, 0.5, 0.95]
    >>> quantiles = model.predict_quantiles(X[:4], levels)
    >>> bool((abs(model.cdf(X[:4], quantiles) - levels) < 1e-3).all())
    True
    >>> model.sample(X[:4], n_samples=10, random_state=0).shape
    (4, 10)
    """

    _gaussian_source: ClassVar[bool] = True
    _read_by_predictions: ClassVar[tuple[str, ...]] = ("atol", "device", "point")
    _components: ClassVar[tuple[str, ...]] = ("interpolant", "scaling")
    _validation_row_times: ClassVar[int | None] = _VALIDATION_ROW_TIMES
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{
            name: PARAMETER_CONSTRAINTS[name]
            for name in (
                "time_beta", "scaling", "activation", "alpha", "batch_size", "learning_rate_init",
                "max_iter", "max_time", "warm_start", "random_state", "verbose", "atol", "device",
                "checkpoint",
            )
        },
        "interpolant": [StrOptions({"trigonometric", "linear"}), Interpolant],
        "regressor": [StrOptions({"auto"}), HasMethods(["fit", "predict"]), None],
        "point": [StrOptions({"mean", "median"})],
        "bounds": ["array-like", None],
        "integer_target": ["boolean"],
        "conformal": ["boolean"],
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
        "end_time": [StrOptions({"auto"}), Interval(Real, 1e-9, 1, closed="both")],
        "trunk_layer_sizes": ["array-like"],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, 1e9, closed="both")],
    }  # fmt: skip

    n_outputs_: int
    bounds_: NDArray[np.float64]
    calibration_rows_: NDArray[np.bool_] | None
    calibration_latents_: NDArray[np.float64] | None
    _whole: NDArray[np.bool_]
    _encoding: FeatureEncoding
    _base: list[Any]
    _sizes: NDArray[np.float64]
    _one_dimensional: bool

    _fitted_parts: ClassVar[frozenset[str]] = FlowEstimator._fitted_parts | {
        "_encoding",
        "_base",
        "_sizes",
        "_one_dimensional",
        "_whole",
        "bounds_",
        "calibration_latents_",
        "calibration_rows_",
        "uses_regressor_",
        "member_weights_",
        "n_outputs_",
    }

    def __init__(
        self,
        *,
        regressor: Any = "auto",
        point: str = "mean",
        categorical_features: ArrayLike | str | None = "from_dtype",
        interpolant: str | Interpolant = "trigonometric",
        time_beta: tuple[float, float] = (1.0, 0.5),
        end_time: str | float = "auto",
        scaling: str | Scaling | None = "standardize",
        bounds: Sequence[Any] | NDArray[Any] | None = None,
        integer_target: bool = False,
        conformal: bool = False,
        trunk_layer_sizes: Sequence[int] = (128, 128, 128, 128, 128),
        hidden_layer_sizes: Sequence[int] = (64, 64),
        dropout: str | float = "auto",
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
        atol: str | float = "auto",
        device: str | torch.device = "cpu",
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.regressor = regressor
        self.point = point
        self.categorical_features = categorical_features
        self.interpolant = interpolant
        self.time_beta = time_beta
        self.end_time = end_time
        self.scaling = scaling
        self.bounds = bounds
        self.integer_target = integer_target
        self.conformal = conformal
        self.trunk_layer_sizes = trunk_layer_sizes
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
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
        self.atol = atol
        self.device = device
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the conditional density to the rows of `X` and `y`.

        If the fit fails, the estimator remains as it was.  Ctrl-C ends the training: the estimator
        is then fitted with the best weights so far, and `KeyboardInterrupt` is raised.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
            Features: at least two rows.  NaN is a missing value.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Outputs: finite numbers, not all equal, within the `bounds`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative and not all zero.  The calibration of `conformal`
            counts every row of positive weight once.
        X_val, y_val : array-likes, default=None
            Held-out rows.  If given, all rows of `X` train all members, but for those that
            `conformal` holds out: `X_val` cannot calibrate, because it chooses the model.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If rows, weights or parameters are invalid, or the checkpoint belongs to another fit.
        OSError
            If the checkpoint cannot be read or written.
        FloatingPointError
            If the training diverges and nothing was learned.
        KeyboardInterrupt
            After Ctrl-C.
        """
        given = (X, sample_weight, y) if X_val is None else (X_val, None, y_val)
        with self._fitting(*given) as context:
            matrix, outputs = self._validated_fit(X, y, context.warm)
            n_rows = len(matrix)
            rows, weight = _positive_rows(n_rows, sample_weight)
            matrix, outputs = matrix[rows], outputs[rows]
            validation = self._validation_rows(X_val, y_val)
            columns = self._fit_columns(context.warm, outputs, *validation[1:])
            self._begin(context, matrix, outputs, np.asarray(weight), *validation)
            held_out = self._calibration_rows(rows, n_rows, context)
            train = ~held_out
            _check_outputs(outputs[train], columns)
            if not context.warm:
                self._encoding = _estimated_encoding(matrix, train, self._encoding.categories)
                self._target = self._new_scaling(columns, outputs[train], weight[train], context)
            spread, *spread_val = _spread(columns, context, outputs, *validation[1:])
            validation = [*validation[:1], *spread_val]
            plan = self._planned(matrix[train], spread[train], weight[train], validation, context)
            self._run(plan, context)
            if self.conformal:
                context.interruption.finish(
                    lambda: self._calibrate(matrix[held_out], spread[held_out])
                )
        return self

    def _fit_columns(self, warm: bool, *outputs: Array) -> Columns:
        """Bounds and whole numbers of the outputs, checked against each of the arrays.

        Raises
        ------
        ValueError
            If the parameters do not fit the number of outputs, or values are not allowed.
        """
        for name in ("integer_target", "conformal"):
            if getattr(self, name) and self.n_outputs_ > 1:
                raise ValueError(
                    f"{name}=True requires one output, but y has {self.n_outputs_}; fit one "
                    f"regressor for each output, or set {name}=False."
                )
        if not warm:
            columns = resolve_outputs(self.bounds, bool(self.integer_target), self.n_outputs_)
            self.bounds_, self._whole = columns.bounds, columns.whole
        for name, part in zip(("y", "y_val"), outputs, strict=False):
            self._columns().check_rows(part, name, "integer_target")
        return self._columns()

    def _columns(self) -> Columns:
        """Bounds and whole numbers of the outputs, as fitted."""
        return Columns(self.bounds_, self._whole, output_names(self.n_outputs_))

    def _calibration_rows(
        self, rows: NDArray[np.int64], n_rows: int, context: FitContext
    ) -> NDArray[np.bool_]:
        """Which of the rows are held out for the calibration: none, unless `conformal`.

        Parameters
        ----------
        rows : array of shape (m,), numbers of the rows of positive weight
        n_rows : int, number of all rows
        context : FitContext

        Raises
        ------
        ValueError
            If there are too few rows, or if a warm start has trained on rows that would be held
            out.
        """
        known = self.calibration_rows_ if context.warm else None
        self.calibration_rows_, self.calibration_latents_ = None, None
        if not self.conformal:
            return np.zeros(len(rows), dtype=bool)
        same = known is not None and len(known) == n_rows and bool(known[rows].any())
        if context.warm and not same:
            before = "conformal=False" if known is None else f"{len(known)} rows"
            raise ValueError(
                "conformal=True cannot continue an earlier fit that has trained on rows which must "
                f"be held out: it had {before}; fit the same rows and weights again (there are "
                f"{n_rows} rows now), or set warm_start=False."
            )
        if known is None:
            known = np.zeros(n_rows, dtype=bool)
            order = torch.randperm(len(rows), generator=context.setup).numpy()
            known[rows[order[: n_calibration_rows(len(rows))]]] = True
        self.calibration_rows_ = known
        return known[rows]

    def _calibrate(self, matrix: Array, outputs: Array) -> None:
        """Set the latents of the calibration rows."""
        conditions = self._conditions_of(self._encoding.encode(matrix, self._names_in()))
        self.calibration_latents_ = np.sort(
            self._resolved(self._model().latents(conditions, outputs))[:, 0]
        )

    def _validated_fit(self, X: Any, y: ArrayLike, warm: bool) -> tuple[Array, Array]:
        """Validate features and outputs: a matrix with numbers of categories, and (n, k)."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        matrix = self._matrix(X, reset=not warm, fits=True)
        check_consistent_length(X, y)
        outputs = self._outputs(y)
        if warm and outputs.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {outputs.shape[1]} outputs, but the fit that warm_start=True continues has "
                f"{self.n_outputs_}; set warm_start=False."
            )
        self._one_dimensional = np.asarray(y).ndim == 1
        self.n_outputs_ = outputs.shape[1]
        return matrix, outputs

    def _outputs(self, y: ArrayLike) -> Array:
        """Validate outputs: shape (n, k)."""
        with sums_may_overflow():
            outputs: Array = check_array(
                y, ensure_2d=False, dtype=np.float64, input_name="y", ensure_min_samples=1
            )
        if outputs.ndim not in (1, 2):
            raise ValueError(
                f"y must be of shape (n_samples,) or (n_samples, n_outputs), got {outputs.shape}."
            )
        outputs = outputs.reshape(len(outputs), -1)
        check_magnitudes(outputs, [f"output {j}" for j in range(outputs.shape[1])])
        return outputs

    def _matrix(self, X: Any, reset: bool, fits: bool = False) -> Array:
        """Validate features: a float64 matrix, with numbers of categories and NaN if missing."""
        n_rows = 2 if fits else 1
        if not reset and not self._encoding.categories and not _has_categories(X):
            return self._numeric_matrix(X, False, n_rows)
        if reset and not frame_dtypes(X) and isinstance(self.categorical_features, str | None):
            self._encoding = estimate_encoding(np.zeros((1, 0)), {})
            return self._numeric_matrix(X, True, n_rows)
        return self._matrix_with_categories(X, reset, n_rows)

    def _numeric_matrix(self, X: Any, reset: bool, n_rows: int) -> Array:
        with sums_may_overflow():
            matrix: Array = validate_data(
                self,
                X,
                dtype=np.float64,
                ensure_all_finite="allow-nan",
                ensure_min_samples=n_rows,
                reset=reset,
            )
        check_magnitudes(np.nan_to_num(matrix), self._names_in())
        return matrix

    def _matrix_with_categories(self, X: Any, reset: bool, n_rows: int) -> Array:
        _check_feature_names(self, X, reset=reset)
        _check_n_features(self, X, reset=reset)
        names = self._names_in()
        if reset:
            columns = categorical_columns(X, self.categorical_features, names)
            learned = {j: learn_categories(column_values(X, j)) for j in columns}
            self._encoding = replace(estimate_encoding(np.zeros((1, 0)), {}), categories=learned)
        categories = self._encoding.categories
        parts: list[Any] = [
            category_numbers(column_values(X, j), categories[j], names[j])
            if j in categories
            else column_values(X, j)
            for j in range(self.n_features_in_)
        ]
        with sums_may_overflow():
            matrix: Array = check_array(
                np.stack(parts, axis=1),
                dtype=np.float64,
                ensure_all_finite="allow-nan",
                ensure_min_samples=n_rows,
                input_name="X",
            )
        check_magnitudes(np.nan_to_num(matrix), names)
        return matrix

    def _validation_rows(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None
    ) -> list[NDArray[Any]]:
        """Validate `X_val` and `y_val`: two arrays, or none."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together, but one of them is None.")
        if X_val is None or y_val is None:
            return []
        if not self.early_stopping:
            raise ValueError(
                "X_val was given, but early_stopping=False; set early_stopping=True to use these "
                "rows."
            )
        check_consistent_length(X_val, y_val)
        outputs = self._outputs(y_val)
        if outputs.shape[1] != self.n_outputs_:
            raise ValueError(f"y_val has {outputs.shape[1]} outputs, but y has {self.n_outputs_}.")
        return [self._matrix(X_val, reset=False), outputs]

    def _new_scaling(
        self, columns: Columns, outputs: Array, weight: Array, context: FitContext
    ) -> Scaling:
        widths, scaling = np.zeros(outputs.shape[1]), copy.deepcopy(self.scaling)
        return columns.estimate_scaling(scaling, outputs, np.asarray(weight), widths, context.setup)

    def _planned(
        self,
        matrix: Array,
        outputs: Array,
        weight: Array,
        validation: Sequence[Array],
        context: FitContext,
    ) -> Plan:
        """Plan of a fit: the folds of all members, with their held-out rows."""
        rows = _Rows(self._encoding.encode(matrix, self._names_in()), outputs, self._target)
        held_out_rows = self._held_out(len(outputs), bool(validation), context)
        shift = self._fit_base(rows, weight, context)
        extra = None
        if validation:
            features = self._encoding.encode(validation[0], self._names_in())
            extra = _Rows(features, validation[1], self._target)
        kinds = self._kinds(context.warm)
        if context.warm:  # the units that the members were trained in
            self._sizes = self._sizes[:: len(self._sizes) // len(kinds)]
        else:
            self._sizes = np.stack([_size(rows.scaled - kind * shift, weight) for kind in kinds])
        recipe = self._recipe(len(outputs), len(held_out_rows) == _N_FOLDS)
        path = self._new_path(self.n_outputs_, context.warm)
        folds = [
            self._fold(rows, shift, weight, held_out, extra, Units(kind, size), context)
            for kind, size in zip(kinds, self._sizes, strict=True)
            for held_out in held_out_rows
        ]
        plan = Plan(folds, folds[0], path, Identity(), ("b",), recipe, self._target)
        if len(kinds) > 1 and len(outputs) >= _CROSS_FIT_BELOW and len(folds[0].validation.u):
            plan, kinds = self._with_better_kind(plan, kinds, context)
        self.uses_regressor_ = np.repeat(kinds, len(held_out_rows))
        self._sizes = np.repeat(self._sizes, len(held_out_rows), axis=0)
        return plan

    def _kinds(self, warm: bool) -> list[bool]:
        """Kinds of members: without and with a base regressor."""
        if warm:
            return sorted({*self.uses_regressor_.tolist()})
        if self.regressor is None:
            return [False]
        return [False, True] if isinstance(self.regressor, str) else [True]

    def _new_path(self, n_features: int, warm: bool) -> Any:
        path = _resolved_path(self.interpolant, n_features)
        return copy.deepcopy(self._path) if warm else path

    def _held_out(self, n_rows: int, separate: bool, context: FitContext) -> list[Tensor]:
        """Numbers of the rows that each member of a kind holds out."""
        if separate or not self.early_stopping:
            return [NO_ROWS] * _N_MEMBERS
        order = torch.randperm(n_rows, generator=context.setup)
        if self.early_stopping == "auto" and n_rows < _CROSS_FIT_BELOW:
            n_folds = min(_N_FOLDS, n_rows)
            return [order[k::n_folds] for k in range(n_folds)]
        n_held_out = min(n_rows - 1, MAX_VALIDATION_ROWS)
        n_held_out = min(n_held_out, max(1, round(self.validation_fraction * n_rows)))
        return [
            order[k * n_held_out : (k + 1) * n_held_out]
            if (k + 1) * n_held_out <= n_rows
            else order[-n_held_out:]
            for k in range(_N_MEMBERS)
        ]

    def _fit_base(self, rows: _Rows, weight: Array, context: FitContext) -> Array:
        """Fit the base regressor, and return its cross-fitted prediction, in scaled units."""
        seed = drawn_seed(context.setup)
        if self.regressor is None:
            self._base = []
            return np.zeros(rows.scaled.shape)
        self._base, prediction = cross_fitted(
            self.regressor, rows.features, rows.scaled, np.asarray(weight), seed
        )
        return prediction

    def _fold(
        self,
        rows: _Rows,
        shift: Array,
        weight: Array,
        held_out: Tensor,
        extra: _Rows | None,
        units: Units,
        context: FitContext,
    ) -> Fold:
        """Rows of one member: outputs in its units, followed by the context."""
        device, n = context.device, len(rows.scaled)
        train = np.setdiff1d(np.arange(n), held_out.numpy())
        conditions = Conditions(rows.features, shift)
        training = self._training_rows(rows, train, conditions, weight, units, context)
        if extra is None:
            validation = rows.flow_rows(held_out.numpy(), conditions, weight, units, device)
        else:
            index = torch.randperm(len(extra.scaled), generator=context.setup).numpy()
            others = self._conditions_of(extra.features)
            ones = np.broadcast_to(1.0, len(extra.scaled))
            validation = extra.flow_rows(index[:MAX_VALIDATION_ROWS], others, ones, units, device)
        n_columns = ConditionalObjective.n_times * self.n_outputs_
        source = NormalRows(n_columns, device)
        return Fold(source, ShuffledRows(training, drawn_seed(context.setup)), validation)

    def _training_rows(
        self,
        rows: _Rows,
        train: NDArray[np.int64],
        conditions: Conditions,
        weight: Array,
        units: Units,
        context: FitContext,
    ) -> FlowRows:
        """Training rows of a member; those with whole numbers in copies, each with its noise."""
        columns = self._columns()
        if not columns.whole.any():
            return rows.flow_rows(train, conditions, weight, units, context.device)
        copied = np.repeat(train, max(1, _DITHERED_ROWS // len(train)))
        (outputs,) = _spread(columns, context, np.rint(rows.outputs[copied]))
        copies = _Rows(rows.features[copied], outputs, self._target)
        numbers = np.arange(len(copied))
        given = conditions.rows(copied)
        return copies.flow_rows(numbers, given, weight[copied], units, context.device)

    def _conditions_of(self, features: Array) -> Conditions:
        if self._base:
            return Conditions(features, base_prediction(self._base, features))
        return Conditions(features, np.zeros((len(features), self.n_outputs_)))

    def _recipe(self, n_rows: int, cross_fitted: bool) -> Recipe:
        def value(given: Any, chosen: Any) -> Any:
            return chosen if isinstance(given, str) else given

        return resolve_recipe(
            n_rows=n_rows,
            cross_fitted=cross_fitted,
            coupling="independent",
            end_time=self.end_time,
            alpha=self.alpha,
            batch_size=value(self.batch_size, 64 if cross_fitted else 256),
            learning_rate_init=value(self.learning_rate_init, 2e-3),
            max_iter=value(self.max_iter, 900 if cross_fitted else 1_500),
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            verbose=bool(self.verbose),
        )

    def _with_better_kind(
        self, plan: Plan, kinds: Sequence[bool], context: FitContext
    ) -> tuple[Plan, list[bool]]:
        """Keep the members of the kind that is better after a short training."""
        n_folds = len(plan.folds) // len(kinds)
        folds = plan.folds[::n_folds]
        recipe = replace(
            plan.recipe,
            max_iter=min(_PILOT_STEPS, cast(int, plan.recipe.max_iter)),
            batch_size=min(_PILOT_BATCH, plan.recipe.batch_size),
        )
        seed = step_seed(context.seed, Draw.PILOT)
        generator = seeded_generators(seed, context.device).cpu
        fields = self._new_fields(len(folds), plan, generator)
        pilot = Run(self._wrapped(fields, plan, context.device), folds, recipe, seed)
        for _ in pilot.steps():
            pass
        scores = [
            HeldOut([member], [fold], _VALIDATION_ROW_TIMES).score(1.0)[0]
            for member, fold in zip(pilot.current(), folds, strict=True)
        ]
        best = int(np.nanargmax([*scores, -np.inf])) % len(kinds)
        self._sizes = self._sizes[best : best + 1]
        chosen = plan.folds[best * n_folds : (best + 1) * n_folds]
        return plan._replace(folds=chosen, whole=chosen[0]), [kinds[best]]

    def _new_fields(
        self, n_fields: int, plan: Plan, generator: torch.Generator
    ) -> list[ConditionalMLP]:
        trunk = checked_widths("trunk_layer_sizes", self.trunk_layer_sizes)
        head = checked_widths("hidden_layer_sizes", cast(Sequence[int], self.hidden_layer_sizes))
        n_context = plan.folds[0].validation.u.shape[1] - self.n_outputs_
        crossed = len(plan.folds) >= _N_FOLDS
        dropout = (0.2 if crossed else 0.1) if isinstance(self.dropout, str) else self.dropout
        return [
            ConditionalMLP(
                self.n_outputs_,
                n_context,
                trunk,
                head,
                float(dropout),
                self.activation,
                generator,
            )
            for _ in range(n_fields)
        ]

    def _wrapped(
        self, fields: Sequence[VelocityField], plan: Plan, device: torch.device
    ) -> list[PathObjective]:
        law = resolve_time_law(self.time_beta)
        return [
            ConditionalObjective(cast(ConditionalMLP, field), plan.path, law).to(device)
            for field in fields
        ]

    def _objectives(
        self, plan: Plan, warm: bool, device: torch.device, generator: torch.Generator
    ) -> list[PathObjective]:
        n = len(plan.folds)
        fields: Sequence[VelocityField] = (
            continued_fields(n, self._trained, plan.path)
            if warm
            else self._new_fields(n, plan, generator)
        )
        return self._wrapped(fields, plan, device)

    def _calibrated(self, *arguments: Any) -> None:
        """Conditional flows are solved on fixed grids, which are refined where it is needed."""

    def _set_training(self, trained: Trained, run: Run, n_rows: int = 0) -> None:
        self._set_history(trained.history)
        self._batch_size = run.recipe.batch_size

    def _set_history(self, history: Any) -> None:
        super()._set_history(history)
        del self.initial_action_, self.initial_path_length_
        self.validation_scores_ = history.validation_scores or None
        self.best_validation_score_ = history.best_score if history.validation_scores else None

    def _set_model(
        self, trained: Trained, field: VelocityField, plan: Plan, calibration: Any = None
    ) -> None:
        self.member_weights_ = self._weights_of_members(trained, plan)
        super()._set_model(trained, field, plan, None)

    def _weights_of_members(self, trained: Trained, plan: Plan) -> Array:
        """Weights of the members: kinds by their held-out likelihood, and equal within a kind."""
        kinds = sorted({*self.uses_regressor_.tolist()})
        n_members = len(plan.folds) // len(kinds)
        if len(kinds) == 1 or not len(plan.folds[0].validation.u):
            return np.full(len(plan.folds), 1.0 / len(plan.folds))
        folds = [plan.folds[k : k + n_members] for k in range(0, len(plan.folds), n_members)]
        members = self._wrapped(trained.field.fields(), plan, plan.folds[0].validation.u.device)
        n_rows = n_members * max(len(fold.validation.u) for fold in plan.folds)
        held_out = [
            HeldOut(members[k * n_members : (k + 1) * n_members], part, n_rows)
            for k, part in enumerate(folds)
        ]
        log_prob = torch.stack([rows.log_prob(trained.end_time) for rows in held_out])
        weights = member_weights(log_prob, held_out[0].weight).numpy()
        return np.repeat(weights / n_members, n_members)

    @classmethod
    def _check_fitted(cls, fitted: Any) -> None:
        super(FlowEstimator, cls)._check_fitted(fitted)
        check_regressor_values(fitted)

    def predict(self, X: ArrayLike) -> Array:
        """Predict the mean of the outputs, or the median (`point`).

        The mean is that of the model itself; the median is that of :meth:`predict_quantiles`.

        The mean of one output is an integral over its quantiles; that of several is the mean of
        128 samples, the same at each call.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        conditions = self._conditions(X)
        if self.point == "median":
            self._check_one_output("point='median'")
            point = self._quantiles(conditions, np.array([0.5]))
        else:
            point = self._resolved(self._model().mean(conditions))
        return point[:, 0] if self._one_dimensional else point

    def predict_quantiles(self, X: ArrayLike, quantiles: ArrayLike) -> Array:
        """Predict quantiles of the output; they never cross.

        After a fit with ``conformal=True``, a new output is below the quantile of level `q` with a
        probability that differs from `q` by at most ``1 / (n + 1)``, with the number `n` of
        calibration rows, whatever the model.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
        quantiles : float or array-like of shape (n_quantiles,)
            Levels in (0, 1), in any order.

        Returns
        -------
        y : ndarray of shape (n_samples, n_quantiles)

        Raises
        ------
        ValueError
            If a level is not in (0, 1), or if there are several outputs.
        """
        levels, conditions = checked_levels(quantiles), self._conditions(X)
        self._check_one_output("predict_quantiles")
        return self._quantiles(conditions, levels)

    def _quantiles(self, conditions: Conditions, levels: Array) -> Array:
        """Quantiles of one output, corrected if the fit was `conformal`."""
        if self.calibration_latents_ is None:
            return self._resolved(self._model().quantiles(conditions, levels))
        latents = latents_of_levels(self.calibration_latents_, levels)
        return self._resolved(self._model().quantiles_of_latents(conditions, latents))

    def predict_interval(self, X: ArrayLike, coverage: float = 0.9) -> Array:
        """Predict central intervals.

        After a fit with ``conformal=True``, a new output is within its interval with at least the
        probability `coverage` (and, if outputs do not repeat, at most ``1 / (n + 1)`` more, with
        the number `n` of calibration rows), whatever the model.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
        coverage : float in (0, 1), default=0.9
            Probability of the intervals; both tails have the same.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2)

        Raises
        ------
        ValueError
            If the coverage is not in (0, 1), if there are several outputs, or if ``conformal=True``
            held out too few rows for the coverage.
        """
        probability, conditions = checked_coverage(coverage), self._conditions(X)
        self._check_one_output("predict_interval")
        if self.calibration_latents_ is None:
            tail = 0.5 * (1.0 - probability)
            ends = self._model().quantiles(conditions, np.array([tail, 1.0 - tail]))
        else:
            latent = latent_of_coverage(self.calibration_latents_, probability)
            ends = self._model().quantiles_of_latents(conditions, np.array([-latent, latent]))
        return self._resolved(ends)

    def cdf(self, X: ArrayLike, y: ArrayLike) -> Array:
        """Compute the distribution function of the output, ``P(Y <= y | X)``.

        It is that of the model itself; `conformal` does not change it.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_points)
            Points of each row.

        Returns
        -------
        probability : ndarray of the shape of `y`

        Raises
        ------
        ValueError
            If there are several outputs, or not one row of points for each row of `X`.
        """
        conditions, points = self._conditions(X), self._outputs(y)
        self._check_one_output("cdf")
        check_consistent_length(X, y)
        value = self._estimate(ConditionalModel.cdf, conditions, points)[0]
        return value.reshape(np.asarray(y).shape)

    def log_density(
        self, X: ArrayLike, y: ArrayLike, return_error: bool = False
    ) -> Array | tuple[Array, Array]:
        """Compute the log-density of outputs, given the features.

        If `integer_target`, it is the logarithm of the probability of `y`.  It is that of the model
        itself; `conformal` does not change it.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        return_error : bool, default=False
            Also return the estimated error of each log-density.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats, for densities in units of `y`; minus infinity outside the `bounds`, at
            fractions if `integer_target`, and so far outside that the arithmetic overflows.
        error : ndarray of shape (n_samples,), only if `return_error`

        Raises
        ------
        ValueError
            If there is not one output for each row and column.
        """
        conditions, outputs = self._conditions(X), self._outputs(y)
        check_consistent_length(X, y)
        if outputs.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {outputs.shape[1]} outputs, but the model has {self.n_outputs_}."
            )
        value, error = self._estimate(ConditionalModel.log_density, conditions, outputs)
        return (value, error) if return_error else value

    def sample(
        self, X: ArrayLike, n_samples: int = 1, random_state: RandomStateLike = None
    ) -> Array:
        """Generate random outputs for each row of `X`, from the model itself.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples_X, n_features)
        n_samples : int, default=1
            Number of samples for each row, at least 1.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples; None gives different samples at each call.

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_samples, n_outputs)

        Raises
        ------
        ValueError
            If `n_samples` is not a positive integer, or too large.
        """
        conditions = self._conditions(X)
        n = checked_n_samples(n_samples, self.n_outputs_ * max(1, len(conditions.features)))
        drawn = self._model().sample(conditions, n, private_random_state(random_state))
        return drawn[..., 0] if self._one_dimensional else drawn

    def sample_y(
        self, X: ArrayLike, n_samples: int = 1, random_state: RandomStateLike = 0
    ) -> Array:
        """Generate samples in the shape that `GaussianProcessRegressor.sample_y` returns.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples_X, n_features)
        n_samples : int, default=1
            Number of samples for each row, at least 1.
        random_state : int, RandomState instance or None, default=0
            Seed of the samples.

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
        """
        drawn = self.sample(X, n_samples, random_state)
        return drawn if drawn.ndim == 2 else np.moveaxis(drawn, 1, 2)

    def _conditions(self, X: ArrayLike) -> Conditions:
        """Validate and encode features, with the prediction of the base regressor."""
        self._check_usable()
        matrix = self._matrix(X, reset=False)
        check_rows([matrix])
        return self._conditions_of(self._encoding.encode(matrix, self._names_in()))

    def _estimate(self, question: Any, conditions: Conditions, y: Array) -> tuple[Array, Array]:
        """Values and errors of a method of the model; warns of rows above the tolerance."""
        model = self._model()
        value, error, unresolved = (part.cpu().numpy() for part in question(model, conditions, y))
        if unresolved.any():
            warn(
                f"{int(unresolved.sum())} of {len(unresolved)} rows were left with an estimated "
                f"error above atol={model.atol:g}; raise atol to accept them.",
                AccuracyWarning,
            )
        return value, error

    def _resolved(self, answer: Answer) -> Array:
        """Values of an answer; warns of rows whose table is above its tolerance."""
        n_unresolved = int(answer.unresolved.sum())
        if n_unresolved:
            warn(
                f"{n_unresolved} of {len(answer.unresolved)} rows were left with an estimated "
                f"error of their quantiles above {TABLE_TOLERANCE:g}, as a probability; they may "
                "be far outside the data. Compare with cdf, which is computed without a table.",
                AccuracyWarning,
            )
        return answer.value

    def _model(self) -> ConditionalModel:
        """Fitted model on its device, without members of weight zero; built once and kept."""
        device = resolve_device_or_cpu(self.device)
        model: ConditionalModel = self._kept(("model", device), lambda: self._built(device))
        return model

    def _kept(self, name: tuple[Any, ...], compute: Any) -> Any:
        key = (*name, self.atol)
        if key not in self._cache:
            self._cache.clear()
            self._cache[key] = compute()
        return self._cache[key]

    def _built(self, device: torch.device) -> ConditionalModel:
        members = [
            (copy.deepcopy(field).to(device).requires_grad_(False), Units(bool(kind), size), weight)
            for field, kind, size, weight in zip(
                self._trained.fields(),
                self.uses_regressor_,
                self._sizes,
                self.member_weights_,
                strict=True,
            )
            if weight > 0
        ]
        fields, units, weights = zip(*members, strict=True)
        return ConditionalModel(
            scaling=copy.deepcopy(self._target).to(device=device, dtype=torch.float64),
            columns=self._columns(),
            fields=fields,
            units=units,
            weights=np.array(weights),
            end_time=self.end_time_,
            atol=_ATOL if isinstance(self.atol, str) else float(self.atol),
            device=device,
        )

    def _check_one_output(self, what: str) -> None:
        if self.n_outputs_ > 1:
            raise ValueError(
                f"{what} requires one output, but the model has {self.n_outputs_}; use sample, or "
                "fit one regressor for each output."
            )

    def _solver_of_parameters(self) -> Any:
        """The solver of conditional flows has no parameters but the tolerance."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


class _Rows:
    """Encoded features of rows, and their outputs with those in scaled units.

    Parameters
    ----------
    features : array of shape (n, d)
    outputs : array of shape (n, k)
    scaling : Scaling of the outputs

    Raises
    ------
    ValueError
        If a scaled output is not finite.
    """

    def __init__(self, features: Array, outputs: Array, scaling: Scaling) -> None:
        self.features = features
        self.outputs = outputs
        y = torch.from_numpy(outputs)
        self.scaled: Array = scaling(y).numpy()
        self.log_det: Array = scaling.log_abs_det(y).numpy()
        finite = np.isfinite(self.scaled).all() and np.isfinite(self.log_det).all()
        if not finite:
            raise ValueError(f"scaling={scaling!r} is not finite for all y; choose another.")

    def flow_rows(
        self,
        index: NDArray[np.int64],
        conditions: Conditions,
        weight: Array,
        units: Units,
        device: torch.device,
    ) -> FlowRows:
        """Rows of a member, by number, as tensors on a device."""
        rows = units.rows(self.scaled[index], conditions.rows(index))
        log_det = self.log_det[index] - np.log(units.size).sum()
        return FlowRows(
            torch.from_numpy(rows).float().to(device),
            torch.from_numpy(np.ascontiguousarray(weight[index])).float().to(device),
            torch.from_numpy(log_det).to(device),
        )


def _positive_rows(n_rows: int, sample_weight: ArrayLike | None) -> tuple[NDArray[np.int64], Array]:
    """Numbers of the rows of positive weight, and their weights with mean one."""
    numbers, weight = weighted_rows(np.arange(n_rows), sample_weight)
    return numbers, weight


def _size(outputs: Array, weight: Array) -> Array:
    """Standard deviation of each column, positive."""
    mean = np.average(outputs, axis=0, weights=weight)
    deviation = np.sqrt(np.average((outputs - mean) ** 2, axis=0, weights=weight))
    size: Array = np.maximum(deviation, 1e-12)
    return size


def _has_categories(X: Any) -> bool:
    return bool(categorical_columns(X, "from_dtype", []))


def _resolved_path(interpolant: str | Interpolant, n_outputs: int) -> Any:
    """Path of a fit.

    Raises
    ------
    ValueError
        If the path has parameters, which would belong to one member.
    """
    path = resolve_path(interpolant, None, n_outputs)
    if learned_parameters(path):
        raise ValueError(
            f"interpolant={interpolant!r} has parameters to learn, which conditional flows do not "
            "support; use 'trigonometric' or 'linear'."
        )
    return path


def _estimated_encoding(
    matrix: Array, train: NDArray[np.bool_], categories: dict[int, list[Any]]
) -> FeatureEncoding:
    """Encoding estimated on some rows, which can encode all of them."""
    encoding = estimate_encoding(matrix[train], categories)
    missing: NDArray[np.bool_] = np.asarray(np.isnan(matrix).any(axis=0))
    return replace(encoding, missing=missing)


def _spread(columns: Columns, context: FitContext, *outputs: Array) -> list[Array]:
    """Outputs with noise on whole numbers, which spreads them over their cells."""
    if not columns.whole.any():
        return list(outputs)
    random = np.random.RandomState(drawn_seed(context.setup))
    return [columns.spread(part, random) for part in outputs]


def _check_outputs(outputs: Array, columns: Columns) -> None:
    """Raise if an output is constant, and warn if many rows share their values.

    Raises
    ------
    ValueError
        If an output is constant.
    """
    for j, column in enumerate(outputs.T):
        name = "y" if outputs.shape[1] == 1 else f"Output {j} of y"
        if (column == column[0]).all():
            raise ValueError(
                f"{name} is constant, {column[0]:g} in all {len(column)} rows, so that it has no "
                "density; give rows with different outputs."
            )
        if columns.whole[j]:
            continue
        _, counts = np.unique(column, return_counts=True)
        common = counts >= max(5.0, _REPEATED_ROWS * len(column))
        share = counts[common].sum() / len(column)
        if share > _REPEATED_SHARE:
            warn(
                f"{name} has {int(common.sum())} values that many rows share, {share:.0%} of the "
                "rows in all: the log-likelihood of such an output has no bound and means little; "
                "set integer_target=True if these are counts or other whole numbers, or compare "
                "models by neg_crps_scorer instead.",
                DegenerateDataWarning,
            )
    columns.warn_point_masses(outputs, np.zeros(outputs.shape[1]))
