"""Scores of probabilistic predictions, and scorers for scikit-learn's searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

__all__ = ["crps", "log_likelihood_scorer", "neg_crps_scorer"]

_N_LEVELS = 199
_CRPS_LEVELS: NDArray[np.float64] = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS


def crps(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Continuous ranked probability score of predicted quantiles, in units of the output.

    .. math:: \mathrm{CRPS}(F, y) = \int (F(x) - 1_{y \le x})^2 dx
        = 2 \int_0^1 (1_{y \le Q(q)} - q) (Q(q) - y) dq

    The integral over the levels is taken by the trapezoidal rule in the levels, with constant
    quantiles beyond the first and the last one.  Lower is better, and a single predicted value has
    its absolute error as score.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles, or samples of the predicted distribution.
    quantiles : array-like of shape (n_quantiles,) or None, default=None
        Levels in (0, 1), increasing.  None is for samples: their sorted values are quantiles.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    score : float
        Mean over the rows.

    Raises
    ------
    ValueError
        If the levels do not increase in (0, 1), or the shapes do not match.

    References
    ----------
    Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", JASA 102,
    2007.

    Examples
    --------
    >>> from skinterflow.metrics import crps
    >>> crps([1.0, 2.0], [[1.5], [1.5]])
    0.5
    """
    y = check_array(y_true, ensure_2d=False, dtype=np.float64, input_name="y_true")
    points = check_array(y_quantiles, dtype=np.float64, input_name="y_quantiles")
    check_consistent_length(y, points)
    if y.ndim != 1:
        raise ValueError(f"y_true must be of shape (n_samples,), got {y.shape}.")
    n = points.shape[1]
    if quantiles is None:
        points, levels = np.sort(points, axis=1), (np.arange(n) + 0.5) / n
    else:
        levels = check_array(quantiles, ensure_2d=False, dtype=np.float64, input_name="quantiles")
        inside = levels.shape == (n,) and ((levels > 0) & (levels < 1)).all()
        if not inside or (np.diff(levels) <= 0).any():
            raise ValueError(
                f"quantiles must be {n} increasing levels in (0, 1), one for each column of "
                f"y_quantiles, got {levels!r}."
            )
    # A level stands for the levels that are nearer to it than to any other.
    edges = np.concatenate([[0.0], 0.5 * (levels[1:] + levels[:-1]), [1.0]])
    above = points - y[:, None]
    low, high = edges[:-1], edges[1:]
    # The integral of 2 (1 - q) or of -2 q over the levels of each point.
    mass = np.where(above >= 0, (1.0 - low) ** 2 - (1.0 - high) ** 2, low**2 - high**2)
    weight = _check_sample_weight(sample_weight, y, dtype=np.float64)
    return float(np.average((mass * above).sum(axis=1), weights=weight))


def log_likelihood_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Score an estimator by its mean log-likelihood, in nats per row; higher is better.

    Use it as ``scoring=`` of searches and cross-validation.

    Parameters
    ----------
    estimator : fitted estimator with ``log_density(X, y)``
    X : array-like or data frame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    score : float

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from skinterflow import InterpolantFlowRegressor
    >>> from skinterflow.metrics import log_likelihood_scorer
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(8,), regressor=None, early_stopping=False, max_iter=2
    ... )
    >>> cross_val_score(model, X, X[:, 0], scoring=log_likelihood_scorer, cv=2).shape
    (2,)
    """
    log_density = estimator.log_density(X, y)
    return float(np.average(log_density, weights=sample_weight))


def neg_crps_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Score an estimator by minus its :func:`crps`, at 199 quantiles; higher is better.

    Use it as ``scoring=`` of searches and cross-validation.

    Parameters
    ----------
    estimator : fitted estimator with ``predict_quantiles(X, quantiles)``
    X : array-like or data frame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    score : float

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowRegressor
    >>> from skinterflow.metrics import neg_crps_scorer
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(8,), regressor=None, early_stopping=False, max_iter=2
    ... ).fit(X, X[:, 0])
    >>> -0.7 < neg_crps_scorer(model, X, X[:, 0]) < 0.0
    True
    """
    predicted = estimator.predict_quantiles(X, _CRPS_LEVELS)
    return -crps(np.ravel(y), predicted, _CRPS_LEVELS, sample_weight=sample_weight)
