"""Scores of probabilistic predictions, and scorers for scikit-learn's searches."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from skinterflow._runtime import RandomStateLike, private_random_state
from skinterflow.density import InterpolantFlowDensity

__all__ = [
    "BitsPerDimension",
    "bits_per_dimension",
    "crps",
    "log_likelihood_scorer",
    "neg_crps_scorer",
]

_N_LEVELS = 199
_CRPS_LEVELS: NDArray[np.float64] = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS
_PROBED_ROWS = 128
"""Rows of a draw that share their probes: few, because the error of probes that all rows share
would not decrease with the number of rows."""


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


class BitsPerDimension(NamedTuple):
    """Bits per dimension and three errors, all in bits per dimension.

    Attributes
    ----------
    value : float
    monte_carlo_error : float
        Standard error by the random draws: of the noise, and of the probes if the divergence is
        estimated.
    solver_error : float
        Mean over the rows of the estimated error of the ODE solve.
    sampling_error : float
        Standard error by the choice of the rows, as if these were drawn at random.

    Examples
    --------
    >>> from skinterflow.metrics import BitsPerDimension
    >>> BitsPerDimension(2.99, 0.001, 0.002, 0.01).value
    2.99
    """

    value: float
    monte_carlo_error: float
    solver_error: float
    sampling_error: float


def bits_per_dimension(
    estimator: Any,
    X: ArrayLike,
    *,
    n_levels: int = 256,
    n_draws: int = 4,
    n_probes: int | None = None,
    random_state: RandomStateLike = None,
) -> BitsPerDimension:
    r"""Bits per dimension of images with whole numbers, by uniform dequantisation.

    .. math:: -\frac{1}{D \log 2} E\left[\log p(x + u)\right], \qquad
        u \sim U\left[-\tfrac{1}{2}, \tfrac{1}{2}\right)^D

    By Jensen's inequality it is an upper bound of the bits of the probabilities of the whole
    numbers.  Each draw has its own noise for each row, and its own probes for each block of 128
    rows, so that the spread of the draws measures the error of both.

    Parameters
    ----------
    estimator : fitted density estimator
        An `InterpolantFlowDensity`, best with all columns in `integer_features`, or any estimator
        with ``score_samples``, fitted to rows with noise in [-1/2, 1/2).
    X : array-like of shape (n_samples, n_features)
        Flattened images, whole numbers from 0 to ``n_levels - 1``.
    n_levels : int, default=256
        Number of levels, which only serves to validate the images.
    n_draws : int, default=4
        Number of draws for each image, at least 2.
    n_probes : int or None, default=None
        Number of random signs in each draw that estimate the divergence of an
        `InterpolantFlowDensity`.  None is the exact divergence of a field that has one, and 8 signs
        for any other.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.

    Returns
    -------
    bits : BitsPerDimension
        Value, and its Monte Carlo, solver and sampling errors.

    Raises
    ------
    ValueError
        If images are not whole numbers within the levels, or an argument is invalid.

    References
    ----------
    Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016.

    Examples
    --------
    Two levels, and a density that is uniform on their cells: one bit for each number.

    >>> import numpy as np
    >>> from skinterflow.metrics import bits_per_dimension
    >>> class Uniform:
    ...     def score_samples(self, X):
    ...         return np.full(len(X), -X.shape[1] * np.log(2.0))
    >>> bits_per_dimension(Uniform(), [[0, 1, 1], [0, 0, 1]], n_levels=2).value
    1.0
    """
    least_numbers = ("n_levels", n_levels, 2), ("n_draws", n_draws, 2), ("n_probes", n_probes, 1)
    for name, number, least in least_numbers:
        if number is not None and not (isinstance(number, Integral) and number >= least):
            raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}.")
    images = check_array(X, dtype=np.float64, input_name="X")
    _check_levels(images, n_levels)
    random = private_random_state(random_state)
    blocks = [images[start : start + _PROBED_ROWS] for start in range(0, len(images), _PROBED_ROWS)]
    drawn = [_drawn(estimator, block, n_draws, n_probes, random) for block in blocks]
    unit = images.shape[1] * math.log(2.0)
    log_density, error = (
        np.concatenate(parts, axis=1) / unit for parts in zip(*drawn, strict=True)
    )
    # Blocks share no draws, and the rows of a block share their probes.
    errors = [part.sum(axis=1).std(ddof=1) / unit for part, _ in drawn]
    return BitsPerDimension(
        -float(log_density.mean()),
        float(np.linalg.norm(errors) / len(images) / math.sqrt(n_draws)),
        float(error.mean()),
        float(log_density.mean(axis=0).std(ddof=1) / math.sqrt(len(images)))
        if len(images) > 1
        else math.nan,
    )


def _drawn(
    estimator: Any,
    images: NDArray[np.float64],
    n_draws: int,
    n_probes: int | None,
    random: np.random.RandomState,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Log-densities of images with noise, and the errors of the solver: shape (n_draws, n)."""
    draws = []
    for _ in range(n_draws):
        seed, noise = int(random.randint(2**31)), random.uniform(-0.5, 0.5, images.shape)
        draws.append(_dequantised(estimator, images + noise, n_probes, seed))
    log_density, error = map(np.array, zip(*draws, strict=True))
    return log_density, error


def _dequantised(
    estimator: Any, rows: NDArray[np.float64], n_probes: int | None, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Log-densities of images with noise, and the errors of the solver."""
    if not isinstance(estimator, InterpolantFlowDensity):
        log_density = np.asarray(estimator.score_samples(rows))
        return log_density, np.zeros_like(log_density)
    return estimator._dequantised_log_density(rows, n_probes, seed)


def _check_levels(images: NDArray[np.float64], n_levels: int) -> None:
    """Raise unless all numbers of the images are levels."""
    wrong = (images != np.round(images)) | (images < 0) | (images > n_levels - 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"Images must be whole numbers from 0 to {n_levels - 1} (n_levels={n_levels}), but "
            f"{int(wrong.sum())} numbers are not, the first {images[row, column]:g} in row {row}; "
            "undo a division by the largest level, or set n_levels."
        )


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
