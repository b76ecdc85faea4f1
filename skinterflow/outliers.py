"""InterpolantFlowOutlierDetector: outliers by density, with p-values and reasons."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import false_discovery_control
from sklearn.base import OutlierMixin, _fit_context
from sklearn.model_selection import KFold
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from skinterflow._base import PARAMETER_CONSTRAINTS
from skinterflow._data.columns import check_magnitudes
from skinterflow._data.ranks import check_rows
from skinterflow._fit.ranks import check_calls
from skinterflow._persistence.mixin import SerializableMixin
from skinterflow._predict.kernels import kernel_log_density, kernel_score, select_bandwidth
from skinterflow._runtime import (
    RandomStateLike,
    all_or_nothing,
    private_random_state,
    sums_may_overflow,
)
from skinterflow.density import InterpolantFlowDensity
from skinterflow.exceptions import DegenerateDataWarning, SavedModelError
from skinterflow.interflow import processes
from skinterflow.interflow.warn import warn

Array = NDArray[np.float64]

_FEWEST_ROWS = 20
_MOST_KERNELS = 2_000
_END_TIMES = (0.3, 0.5, 0.7, 0.8, 0.87, 0.93, 0.97)
"""Candidates.  At the last one, the density is still that of the rows with noise of a twentieth of
a standard deviation, so that values which many rows share have no infinite density."""
_END_TIME = 0.8
"""Without held-out rows to select it."""
_MOST_HELD_OUT = 1_000
"""Held-out rows that select the end time."""
_FALSE_ALARMS = 0.05
"""Meaning of ``contamination="auto"``: fraction of new, normal rows that are outliers."""
_FLOW: dict[str, Any] = {
    "scaling": "whiten",
    "early_stopping": False,
    "mixture": None,
    "atoms": None,
    "atol": 0.1,
}
_REFERENCE_TIME = 0.5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
"""Of the integral along the way to a row, on [-1, 1]."""
_EXPLAINED_ROWS = 1_024
"""Rows that are explained at a time."""


@dataclass(frozen=True)
class _Member:
    """A flow and a kernel density, which were fitted to the same rows, in standardised units."""

    flow: InterpolantFlowDensity
    varying: NDArray[np.bool_]
    kernels: Array
    bandwidth: float
    end_time: float

    def log_densities(self, x: Array) -> Array:
        """Return the log-densities of the flow and of the kernels at rows `x`, shape (2, B)."""
        flow = self.flow.score_samples(x[:, self.varying], t=self.end_time)
        return np.stack([flow, kernel_log_density(x, self.kernels, self.bandwidth)])

    def gradients(self, x: Array) -> Array:
        """Return the gradients of :meth:`log_densities`, shape (2, B, D)."""
        flow = np.zeros_like(x)
        flow[:, self.varying] = self.flow.score_gradient(x[:, self.varying], t=self.end_time)
        return np.stack([flow, kernel_score(x, self.kernels, self.bandwidth)])

    def denoised(self, x: Array) -> Array:
        """Return ``E[x1 | x_t = x] = sin(a) x + (2 / pi) cos(a) v_t(x)`` with ``a = pi t / 2``.

        That is for the trigonometric path.  Entries are clipped to the range of the kernels.
        """
        angle = math.pi * _REFERENCE_TIME / 2
        clean = np.zeros_like(x)
        varying = x[:, self.varying]
        velocity = self.flow.velocity(varying, _REFERENCE_TIME)
        clean[:, self.varying] = (
            math.sin(angle) * varying + 2 / math.pi * math.cos(angle) * velocity
        )
        return np.clip(clean, self.kernels.min(axis=0), self.kernels.max(axis=0))


class InterpolantFlowOutlierDetector(OutlierMixin, SerializableMixin):
    r"""Outlier and novelty detection by density, with calibrated p-values and reasons.

    The score of a row is the mean of two log-densities.  One is that of a stochastic-interpolant
    flow [1]_, which stops at an early time and is therefore smooth; it sees correlations and fine
    structure.  The other one is a Gaussian kernel density of the standardised columns, which is
    smoother.  Neither is infinite where rows repeat values.  Both are cross-fitted: each row of the
    training data has a score from members that did not see it, and these scores turn those of new
    rows into p-values.

    Parameters
    ----------
    contamination : "auto" or float in (0, 0.5], default="auto"
        What `offset_`, and with it :meth:`predict`, is derived from.  A number is the fraction of
        the training rows that are outliers.  "auto" accepts that about 5% of new rows of the same
        kind as the training rows are called outliers.
    n_folds : int or None, default=4
        Number of members, each of which is fitted without one fold of the rows.  None is a single
        member, fitted to all rows; there are then no held-out rows, hence no p-values, and the
        flow stops at 0.8.
    trim : float in [0, 0.5), default=0.0
        Fraction of the rows with the lowest held-out scores that is left out of a second fit, whose
        members replace those of the first.  For training rows that contain outliers.  The choice of
        these rows uses all scores, so that p-values are then approximate.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers of a flow.
    alpha : float, default=100.0
        Strength of the regularisation of a flow, see `InterpolantFlowDensity`.
    batch_size : int, default=256
        Number of rows per gradient step.
    max_iter : int, default=800
        Number of gradient steps of a flow.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, the initial weights and the batches.
    device : {"cpu", "cuda", "cuda:1", "auto", ...} or torch.device, default="cpu"
        Device of the flows; "auto" is a GPU if there is one.

    Attributes
    ----------
    offset_ : float
        Score below which a row is an outlier.
    held_out_scores_ : ndarray of shape (n_samples,) or None
        Score of each training row by the member that did not see it, by which to rank the training
        rows; None without folds.
    end_time_ : float
        End time of the flows, selected by the log-density of the held-out rows.
    estimators_ : list of InterpolantFlowDensity
        Flow of each member, in standardised units.
    bandwidths_ : ndarray of shape (n_members,)
        Bandwidths of the kernel densities, in standard deviations of the columns.
    n_iter_ : int
        Number of gradient steps of a flow.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns seen during `fit`, only if all are strings.

    See Also
    --------
    InterpolantFlowDensity : Normalised density.
    OutlierExplanationDisplay : Plot of the columns that make rows outliers.
    sklearn.ensemble.IsolationForest : Isolation by random trees.
    sklearn.neighbors.LocalOutlierFactor : Density relative to that of the neighbors.

    Notes
    -----
    Columns are standardised, so that their units do not matter.  A column that is constant in the
    training rows keeps its unit, and counts in the kernel density only.

    References
    ----------
    .. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
        ICLR 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> detector = InterpolantFlowOutlierDetector(
    ...     hidden_layer_sizes=(8,), max_iter=20, n_folds=2, random_state=0
    ... ).fit(X)
    >>> new = [[0.0, 0.0], [0.0, 9.0]]
    >>> detector.predict(new)
    array([ 1, -1])
    >>> detector.p_values(new).round(3)[1]
    np.float64(0.016)
    >>> detector.explain(new)[1].argmin()
    np.int64(1)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{name: PARAMETER_CONSTRAINTS[name] for name in ("alpha", "random_state", "device")},
        "hidden_layer_sizes": ["array-like"],
        "batch_size": [Interval(Integral, 1, 2**24, closed="both")],
        "max_iter": [Interval(Integral, 1, 10**9, closed="both")],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "n_folds": [Interval(Integral, 2, 100, closed="both"), None],
        "trim": [Interval(Real, 0, 0.5, closed="left")],
    }
    _fitted_parts: ClassVar[frozenset[str]] = frozenset(
        {
            "estimators_",
            "bandwidths_",
            "end_time_",
            "offset_",
            "held_out_scores_",
            "n_features_in_",
            "_kernels",
            "_folds",
            "_location",
            "_scale",
            "_varying",
        }
    )
    _doc_link_module: ClassVar[str] = "skinterflow"

    offset_: float
    end_time_: float
    held_out_scores_: Array | None
    bandwidths_: Array
    n_iter_: int
    n_features_in_: int
    estimators_: list[InterpolantFlowDensity]
    _kernels: list[Array]
    _folds: NDArray[np.int64] | None
    _location: Array
    _scale: Array
    _varying: NDArray[np.bool_]

    def __init__(
        self,
        *,
        contamination: str | float = "auto",
        n_folds: int | None = 4,
        trim: float = 0.0,
        hidden_layer_sizes: tuple[int, ...] = (64, 64),
        alpha: float = 100.0,
        batch_size: int = 256,
        max_iter: int = 800,
        random_state: RandomStateLike = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.contamination = contamination
        self.n_folds = n_folds
        self.trim = trim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the members, and derive the offset.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; below 20, there is a warning.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If all rows are equal, there are fewer than two for each fold, or values are too large
            or too close for their variance; the estimator then remains as it was.
        """
        with processes.all_ranks(), all_or_nothing(self), _without_degenerate_warnings():
            check_calls(self, X, warm=False)
            with sums_may_overflow():
                rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
            check_magnitudes(rows, _check_feature_names_in(self))
            self._check_rows(rows)
            check_rows([rows])
            random = private_random_state(self.random_state)
            self._varying = np.ptp(rows, axis=0) > 0.0
            self._location = rows.mean(axis=0)
            self._scale = np.where(self._varying, rows.std(axis=0), 1.0)
            x = (rows - self._location) / self._scale
            self._folds = self._new_folds(len(x), random)
            kept = np.ones(len(x), dtype=bool)
            self._fit_members(x, kept, random)
            if self.held_out_scores_ is not None and self.trim > 0.0:
                kept = self.held_out_scores_ > np.quantile(self.held_out_scores_, self.trim)
                self._fit_members(x, kept, random)
            self.offset_ = self._offset(x)
        return self

    def _check_rows(self, rows: Array) -> None:
        if (rows == rows[0]).all():
            raise ValueError(
                f"All {len(rows)} rows are equal, so that any other row is an outlier; fit the "
                "detector to rows that differ."
            )
        if self.n_folds is not None and self.n_folds > len(rows) // 2:
            raise ValueError(
                f"n_folds={self.n_folds} is more than half of the {len(rows)} rows; use fewer "
                "folds, or None."
            )
        if self.trim > 0.0 and self.n_folds is None:
            raise ValueError(
                f"trim={self.trim} needs held-out scores, but n_folds=None; set n_folds=4."
            )
        if len(rows) < _FEWEST_ROWS:
            warn(
                f"There are only {len(rows)} training rows, so that p-values cannot be less than "
                f"{1 / (len(rows) + 1):.2g} and densities are rough; use at least {_FEWEST_ROWS}.",
                UserWarning,
            )

    def _new_folds(self, n_rows: int, random: np.random.RandomState) -> NDArray[np.int64] | None:
        """Number of the fold of each row."""
        if self.n_folds is None:
            return None
        folds = np.empty(n_rows, dtype=np.int64)
        splits = KFold(self.n_folds, shuffle=True, random_state=random).split(folds)
        for number, (_, held_out) in enumerate(splits):
            folds[held_out] = number
        return folds

    def _fit_members(
        self, x: Array, kept: NDArray[np.bool_], random: np.random.RandomState
    ) -> None:
        """Fit a member without each fold, to the rows that are kept; select the end time."""
        folds = self._folds
        seen = [kept] if folds is None else [kept & (folds != k) for k in range(folds.max() + 1)]
        self.estimators_, self._kernels, bandwidths = [], [], []
        for training in seen:
            rows = x[training]
            flow = self._new_flow(random).fit(rows[:, self._varying])
            kernels = rows[random.permutation(len(rows))[:_MOST_KERNELS]]
            self.estimators_.append(flow)
            self._kernels.append(kernels)
            bandwidths.append(select_bandwidth(kernels, random))
        self.bandwidths_ = np.array(bandwidths)
        self.n_iter_ = max(flow.n_iter_ for flow in self.estimators_)
        self.end_time_, self.held_out_scores_ = _END_TIME, None
        if folds is not None:
            chosen = random.permutation(np.flatnonzero(kept))[:_MOST_HELD_OUT]
            self.end_time_ = self._best_end_time(x[chosen], folds[chosen])
            self.held_out_scores_ = self._held_out(x, folds)

    def _new_flow(self, random: np.random.RandomState) -> InterpolantFlowDensity:
        return InterpolantFlowDensity(
            **_FLOW,
            hidden_layer_sizes=self.hidden_layer_sizes,
            alpha=self.alpha,
            batch_size=self.batch_size,
            max_iter=self.max_iter,
            random_state=int(random.randint(2**31)),
            device=self.device,
        )

    def _best_end_time(self, x: Array, folds: NDArray[np.int64]) -> float:
        """Return the end time with the largest log-density of rows `x`, held out by their folds."""

        def log_density(t: float) -> float:
            return sum(
                float(np.sum(flow.score_samples(x[folds == k][:, self._varying], t=t)))
                for k, flow in enumerate(self.estimators_)
                if (folds == k).any()
            )

        return max(_END_TIMES, key=log_density)

    def _held_out(self, x: Array, folds: NDArray[np.int64]) -> Array:
        """Return the score of each training row by the member that did not see it."""
        scores = np.empty(len(x))
        for k, member in enumerate(self._members()):
            scores[folds == k] = member.log_densities(x[folds == k]).mean(axis=0)
        return scores

    def _offset(self, x: Array) -> float:
        if self.contamination != "auto":
            return float(np.percentile(self._scores(x), 100.0 * float(self.contamination)))
        scores = self._scores(x) if self.held_out_scores_ is None else self.held_out_scores_
        return float(np.percentile(scores, 100.0 * _FALSE_ALARMS))

    def score_samples(self, X: ArrayLike) -> Array:
        """Compute the score of each row; the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Mean of two log-densities of the standardised columns, in nats: that of the flows and
            that of the kernel densities, each of which is a mean over the members.  The score of a
            row does not depend on the other rows.  Minus infinity for rows so far outside that the
            arithmetic overflows.
        """
        return self._scores(self._validated(X))

    def decision_function(self, X: ArrayLike) -> Array:
        """Compute the score of each row minus `offset_`; negative for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Predict whether each row is an outlier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for outliers, and 1 for all other rows.
        """
        return np.where(self.decision_function(X) < 0.0, -1, 1)

    def p_values(self, X: ArrayLike, *, adjust: str | None = None) -> Array:
        r"""Compute how often a normal row would have as low a score, by conformal ranks.

        A row of the same kind as the training rows, and exchangeable with them, has a p-value of at
        most ``a`` with a probability of about ``a``, however wrong the densities are.  With `K`
        folds of `n` training rows, the probability is at most
        ``2 a + 2 (1 - 1 / K) / (n / K + 1)`` [1]_, if the standardisation and the `end_time_`,
        which are common to all members, are regarded as given.  The training rows themselves have
        been seen by most members: for these, compare `held_out_scores_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New rows.
        adjust : {"fdr", None}, default=None
            "fdr" adjusts for the number of rows by the procedure of Benjamini and Hochberg: if rows
            with an adjusted p-value of at most ``a`` are called outliers, a fraction of about ``a``
            of these is expected to be normal.  The adjusted values depend on all rows of `X`.

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            ``(1 + m) / (n + 1)``, where `m` is the number of training rows whose score, by the
            member that did not see them, is at most that of the new row by the same member.

        Raises
        ------
        ValueError
            If there are no held-out rows, because ``n_folds=None``, or `adjust` is unknown.

        References
        ----------
        .. [1] Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+",
            Annals of Statistics 49, 2021, theorem 4.
        """
        if adjust not in (None, "fdr"):
            raise ValueError(f"adjust must be 'fdr' or None, got {adjust!r}.")
        x = self._validated(X)
        if self._folds is None or self.held_out_scores_ is None:
            raise ValueError(
                "p_values needs the scores of held-out rows, but the detector was fitted with "
                "n_folds=None; fit it with n_folds=4."
            )
        n_below = np.zeros(len(x))
        for k, member in enumerate(self._members()):
            held_out = np.sort(self.held_out_scores_[self._folds == k])
            scores = member.log_densities(x).mean(axis=0)
            n_below += np.searchsorted(held_out, scores, side="right")
        p_values: Array = (1.0 + n_below) / (1.0 + len(self.held_out_scores_))
        return false_discovery_control(p_values) if adjust == "fdr" else p_values

    def explain(self, X: ArrayLike) -> Array:
        """Attribute the score of each row to its columns.

        The reference of a row is the same row without noise, ``E[x1 | x_t]`` at ``t = 0.5``: a
        typical row nearby, as the flows see it.  The contributions are the gradient of the score,
        integrated from the reference to the row [1]_, times the difference of both.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            In nats.  The more negative, the more the column makes the row an outlier.  The sum over
            the columns is the score of the row minus that of its reference.  What the numerical
            integral lacks of this sum is spread in proportion to the absolute contributions.

        Raises
        ------
        ValueError
            If rows are so far outside that the arithmetic overflows.

        References
        ----------
        .. [1] Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017.
        """
        x = self._validated(X)
        starts = range(0, len(x), _EXPLAINED_ROWS)
        return np.concatenate([self._explained(x[k : k + _EXPLAINED_ROWS]) for k in starts])

    def _explained(self, x: Array) -> Array:
        """Contributions of the columns of standardised rows."""
        members = self._members()
        reference: Array = np.mean([member.denoised(x) for member in members], axis=0)
        positions = 0.5 * (1.0 + _NODES)[:, None, None]
        between = reference + positions * (x - reference)
        gradients = _gradient(members, between.reshape(-1, x.shape[1])).reshape(between.shape)
        contributions = 0.5 * np.tensordot(_WEIGHTS, gradients, axes=1) * (x - reference)
        missing = self._scores(x) - self._scores(reference) - contributions.sum(axis=1)
        size = np.abs(contributions).sum(axis=1)
        share = np.divide(missing, size, out=np.zeros_like(size), where=size > 0.0)
        explained: Array = contributions + share[:, None] * np.abs(contributions)
        return explained

    def _saved_attributes(self) -> dict[str, Any]:
        flows = [flow._saved_attributes() for flow in self.estimators_]
        return {**super()._saved_attributes(), "estimators_": flows}

    @classmethod
    def _rebuilt(cls, attributes: Mapping[str, Any]) -> Self:
        saved = attributes.get("estimators_")
        if not isinstance(saved, list) or not all(isinstance(flow, dict) for flow in saved):
            raise SavedModelError(f"The data hold no flows of a {cls.__name__}; do not trust them.")
        flows = [InterpolantFlowDensity._rebuilt(flow) for flow in saved]
        return super()._rebuilt({**attributes, "estimators_": flows})

    @classmethod
    def _check_fitted(cls, fitted: Mapping[str, Any]) -> None:
        super()._check_fitted(fitted)
        n_features, varying = fitted["n_features_in_"], fitted["_varying"]
        n_members = len(fitted["estimators_"])
        shapes = {
            "_location": (n_features,),
            "_scale": (n_features,),
            "_varying": (n_features,),
            "bandwidths_": (n_members,),
        }
        wrong = [name for name, shape in shapes.items() if fitted[name].shape != shape]
        kernels = fitted["_kernels"]
        if len(kernels) != n_members or any(k.shape[1:] != (n_features,) for k in kernels):
            wrong.append("_kernels")
        if any(flow.n_features_in_ != varying.sum() for flow in fitted["estimators_"]):
            wrong.append("estimators_")
        folds, scores = fitted["_folds"], fitted["held_out_scores_"]
        if (folds is None) != (scores is None) or (
            folds is not None and (folds.shape != scores.shape or folds.max() >= n_members)
        ):
            wrong.append("_folds")
        if wrong or not varying.any() or not 0.0 < fitted["end_time_"] <= 1.0:
            raise ValueError(f"the attributes {wrong} do not fit together")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "offset_")

    def _validated(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        with sums_may_overflow():
            rows = validate_data(self, X, dtype=np.float64, reset=False)
            return (rows - self._location) / self._scale

    def _members(self) -> list[_Member]:
        return [
            _Member(
                flow.set_params(device=self.device),
                self._varying,
                kernels,
                bandwidth,
                self.end_time_,
            )
            for flow, kernels, bandwidth in zip(
                self.estimators_, self._kernels, self.bandwidths_, strict=True
            )
        ]

    def _scores(self, x: Array) -> Array:
        """Mean over both kinds of the logarithm of the mean density of the members, shape (B,)."""
        log_densities = [member.log_densities(x) for member in self._members()]
        scores: Array = logsumexp(log_densities, axis=0).mean(axis=0) - math.log(len(log_densities))
        return scores


def _gradient(members: Sequence[_Member], x: Array) -> Array:
    """Gradient of the score at rows `x`, shape (B, D)."""
    shares = softmax([member.log_densities(x) for member in members], axis=0)
    gradients = np.stack([member.gradients(x) for member in members])
    gradient: Array = (shares[..., None] * gradients).sum(axis=0).mean(axis=0)
    return gradient


@contextmanager
def _without_degenerate_warnings() -> Iterator[None]:
    """Suppress warnings of columns without a density: the densities here have a smallest width."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        yield
