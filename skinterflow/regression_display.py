"""Displays of a fitted InterpolantFlowRegressor: intervals, calibration and conditional densities.

They have the interface of :mod:`skinterflow.display`.  Displays of quantiles and of distribution
functions also take those of other models, by ``from_predictions``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length, validate_data

from skinterflow._data.encoding import column_values, is_missing
from skinterflow._plots import (
    DATA,
    MODEL,
    Table,
    check_estimator_is,
    check_matplotlib,
    checked_resolution,
    chosen_columns,
    column_names,
    coverage_interval,
    draw_band,
    draw_map,
    draw_points,
    draw_reliability,
    new_or_given_axes,
    window,
)
from skinterflow._predict import arguments, regions
from skinterflow._runtime import (
    RandomStateLike,
    private_random_state,
    suppress_feature_name_warning,
)
from skinterflow.regressor import InterpolantFlowRegressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

_LEVELS = np.arange(1, 20) / 20
_OUTER = 0.005
"""Fraction of the rows, and of the probability, at either end that a map leaves out."""
_MAP_ATOL = 0.02
"""Accepted error of the log-densities of a map, in nats: finer than its colours."""


class PredictionIntervalDisplay:
    """Visualization of predictive intervals with the observed outputs.

    Rows are ordered by the predicted median, or placed by the values of one feature.  The legend
    has the fraction of the rows in each interval.  Use :meth:`from_estimator`, or
    :meth:`from_predictions` for quantiles of any model.  With ``conformal=True``, the ends of the
    intervals are corrected quantiles, which differ slightly from ``predict_interval``.

    Parameters
    ----------
    y_true : ndarray of shape (n_rows,)
        Observed outputs.
    y_quantiles : ndarray of shape (n_rows, n_quantiles)
        Predicted quantiles.
    quantiles : ndarray of shape (n_quantiles,)
        Their levels, increasing and symmetric about 0.5, which is the middle one.
    x : ndarray of shape (n_rows,) or None, default=None
        Values of a feature; None orders the rows by the predicted median.
    feature_name : str, default="feature"
        Label of `x`.

    Attributes
    ----------
    coverages_ : ndarray of shape (n_quantiles // 2,)
        Probabilities of the intervals, the widest first.
    observed_ : ndarray of shape (n_quantiles // 2,)
        Fraction of the rows in each interval.
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    PITDisplay : Calibration of all intervals.
    InterpolantFlowRegressor.predict_interval : The intervals.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skinterflow import InterpolantFlowRegressor, PredictionIntervalDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(8,), max_iter=5, regressor=None, early_stopping=False, random_state=0
    ... ).fit(X[::2], y[::2])
    >>> display = PredictionIntervalDisplay.from_estimator(model, X[1::2], y[1::2])
    >>> display.coverages_.round(6).tolist()
    [0.9, 0.5]
    """

    def __init__(
        self,
        *,
        y_true: Array,
        y_quantiles: Array,
        quantiles: Array,
        x: Array | None = None,
        feature_name: str = "feature",
    ) -> None:
        self.y_true = y_true
        self.y_quantiles = y_quantiles
        self.quantiles = quantiles
        self.x = x
        self.feature_name = feature_name

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowRegressor,
        X: ArrayLike,
        y: ArrayLike,
        *,
        feature: str | int | None = None,
        coverages: Sequence[float] = (0.5, 0.9),
        subsample: int | None = 500,
        random_state: RandomStateLike = None,
        ax: Any = None,
    ) -> Self:
        """Predict the intervals, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowRegressor
        X : array-like or data frame of shape (n_rows, n_features)
            Rows that the model was not fitted on.
        y : array-like of shape (n_rows,)
        feature : str, int or None, default=None
            Numerical column, by name or number, along which the rows are placed; rows where it is
            missing are not shown.  None orders the rows by the predicted median.
        coverages : sequence of float in (0, 1), default=(0.5, 0.9)
            Probabilities of the central intervals.
        subsample : int or None, default=500
            Largest number of rows to show; None is all.
        random_state : int, RandomState instance or None, default=None
            Seed of the choice of rows, if there are more.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : PredictionIntervalDisplay

        Raises
        ------
        ValueError
            If the model has several outputs, or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        _check_regressor(estimator, cls.__name__)
        check_consistent_length(X, y)
        tails = 0.5 * (
            1.0 - np.unique(np.atleast_1d([*map(arguments.checked_coverage, coverages)]))
        )
        levels = np.array([*tails[::-1], 0.5, *(1.0 - tails)])
        quantiles = estimator.predict_quantiles(X, levels)
        x, name = None, "feature"
        rows = np.arange(len(quantiles))
        if feature is not None:
            column, x = _numerical_column(estimator, X, feature)
            name = column_names(estimator)[column]
            rows = np.flatnonzero(np.isfinite(x))
        rows = _subsample(rows, subsample, random_state)
        return cls.from_predictions(
            np.asarray(y).reshape(len(quantiles), -1)[rows, 0],
            quantiles[rows],
            levels,
            x=None if x is None else x[rows],
            feature_name=name,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_quantiles: ArrayLike,
        quantiles: ArrayLike,
        *,
        x: ArrayLike | None = None,
        feature_name: str = "feature",
        ax: Any = None,
    ) -> Self:
        """Plot the intervals between quantiles of any model.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            Observed outputs.
        y_quantiles : array-like of shape (n_rows, n_quantiles)
            Predicted quantiles.
        quantiles : array-like of shape (n_quantiles,)
            Their levels, increasing and symmetric about 0.5, which is the middle one.
        x : array-like of shape (n_rows,) or None, default=None
            Values of a feature; None orders the rows by the predicted median.
        feature_name : str, default="feature"
            Label of `x`.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : PredictionIntervalDisplay

        Raises
        ------
        ValueError
            If the levels are not symmetric, or the shapes do not match.
        """
        check_matplotlib(f"{cls.__name__}.from_predictions")
        levels = arguments.checked_levels(quantiles)
        observed = check_array(y_true, ensure_2d=False, dtype=np.float64, input_name="y_true")
        points = check_array(y_quantiles, dtype=np.float64, input_name="y_quantiles")
        check_consistent_length(observed, points, x)
        if points.shape[1] != len(levels) or not _is_symmetric(levels):
            raise ValueError(
                "quantiles must be increasing levels that are symmetric about 0.5, such as "
                "[0.05, 0.25, 0.5, 0.75, 0.95], one for each column of y_quantiles; got "
                f"{quantiles!r} for {points.shape[1]} columns."
            )
        at: Array | None = None
        if x is not None:
            at = check_array(x, ensure_2d=False, dtype=np.float64, input_name="x")
        return cls(
            y_true=observed,
            y_quantiles=points,
            quantiles=levels,
            x=at,
            feature_name=feature_name,
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the intervals, the medians and the observed outputs.

        Parameters
        ----------
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        self
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        from matplotlib import colormaps

        self.ax_: Axes = new_or_given_axes(ax, (1, 1), (6.4, 4.8))[0, 0]
        self.figure_ = self.ax_.figure
        n_intervals = len(self.quantiles) // 2
        low = self.y_quantiles[:, :n_intervals]
        high = self.y_quantiles[:, :n_intervals:-1]
        y = self.y_true[:, None]
        self.coverages_ = 1.0 - 2.0 * self.quantiles[:n_intervals]
        self.observed_ = ((low <= y) & (y <= high)).mean(axis=0)
        shades = colormaps["Blues"](np.linspace(0.25, 0.55, n_intervals))
        for k, (coverage, observed) in enumerate(zip(self.coverages_, self.observed_, strict=True)):
            label = f"{coverage:.4g} of probability, {observed:.1%} of the rows"
            self._draw_intervals(low[:, k], high[:, k], shades[k], label)
        self._draw_values(self.y_quantiles[:, n_intervals])
        self.ax_.set(xlabel=self._label(), ylabel="y")
        self.ax_.legend(fontsize="small")
        return self

    def _label(self) -> str:
        return "rows, ordered by the predicted median" if self.x is None else self.feature_name

    def _draw_intervals(self, low: Array, high: Array, color: Any, label: str) -> None:
        order, at = self._places()
        if self.x is None:
            self.ax_.fill_between(
                at, low[order], high[order], step="mid", color=color, linewidth=0, label=label
            )
        else:
            width = float(np.clip(800.0 / len(at), 1.0, 5.0))
            self.ax_.vlines(at, low[order], high[order], color=color, linewidth=width, label=label)

    def _draw_values(self, median: Array) -> None:
        """Draw the medians and the observed outputs."""
        order, at = self._places()
        if self.x is None:
            self.ax_.plot(at, median[order], color=MODEL, drawstyle="steps-mid", label="median")
        else:
            self.ax_.plot(at, median[order], "_", color=MODEL, label="median")
        size = float(np.clip(5_000 / len(at), 4.0, 16.0))
        y = self.y_true[order]
        self.ax_.scatter(at, y, s=size, color=DATA, linewidths=0, zorder=3, label="observed")

    def _places(self) -> tuple[Array, Array]:
        """Numbers of the rows from left to right, and the place of each."""
        if self.x is None:
            median = self.y_quantiles[:, len(self.quantiles) // 2]
            return np.argsort(median, kind="stable"), np.arange(len(median))
        order = np.argsort(self.x, kind="stable")
        return order, self.x[order]


class PITDisplay:
    r"""Visualization of the calibration of predicted distributions.

    The probability integral transform (PIT) of a row is the predicted probability of an output up
    to the observed one, :math:`F(y \mid x)`.  It is uniform if the distributions are right.  For a
    model with `integer_target`, it is drawn between the probabilities below and up to the observed
    number, which makes it uniform [1]_.  The left panel is its histogram.  The right panel shows
    the fraction of the outputs in the central intervals over the probability of these intervals.
    The bands contain 95 of 100 bins, or points, of a true model, for each separately.  Use
    :meth:`from_estimator`, or :meth:`from_predictions` for the values of any model.

    Parameters
    ----------
    pit : ndarray of shape (n_rows,)
        Values in [0, 1].
    bin_edges : ndarray of shape (n_bins + 1,)
    bin_density : ndarray of shape (n_bins,)
        Density of the values in each bin, about 1 for a true model.
    bin_interval : ndarray of shape (2, n_bins)
        Ends of the pointwise interval.
    levels : ndarray of shape (n_levels,)
        Probabilities of central intervals.
    coverage : ndarray of shape (n_levels,)
        Fractions of the rows inside.
    coverage_interval : ndarray of shape (2, n_levels)
        Ends of the pointwise interval.

    Attributes
    ----------
    axes_ : ndarray of two Axes
    figure_ : Figure

    See Also
    --------
    PredictionIntervalDisplay : The intervals of single rows.
    InterpolantFlowRegressor.cdf : The values.

    References
    ----------
    .. [1] Czado, Gneiting and Held, "Predictive Model Assessment for Count Data", Biometrics 65,
       2009.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from skinterflow import PITDisplay
    >>> y = np.random.default_rng(0).normal(size=500)
    >>> display = PITDisplay.from_predictions(norm.cdf(y))
    >>> low, high = display.coverage_interval
    >>> bool(((low <= display.coverage) & (display.coverage <= high)).mean() > 0.8)
    True
    """

    def __init__(
        self,
        *,
        pit: Array,
        bin_edges: Array,
        bin_density: Array,
        bin_interval: Array,
        levels: Array,
        coverage: Array,
        coverage_interval: Array,
    ) -> None:
        self.pit = pit
        self.bin_edges = bin_edges
        self.bin_density = bin_density
        self.bin_interval = bin_interval
        self.levels = levels
        self.coverage = coverage
        self.coverage_interval = coverage_interval

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowRegressor,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_bins: int = 10,
        levels: Sequence[float] | None = None,
        random_state: RandomStateLike = None,
        ax: Any = None,
    ) -> Self:
        """Compute the distribution function at the observed outputs, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowRegressor
        X : array-like or data frame of shape (n_rows, n_features)
            Rows that the model was not fitted on.
        y : array-like of shape (n_rows,)
        n_bins : int, default=10
            Number of bins of the histogram.
        levels : sequence of float in (0, 1) or None, default=None
            Probabilities of central intervals; None is 0.05, 0.1, ..., 0.95.
        random_state : int, RandomState instance or None, default=None
            Seed of the values of a model with `integer_target`.
        ax : ndarray of two Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : PITDisplay

        Raises
        ------
        ValueError
            If the model has several outputs, or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        _check_regressor(estimator, cls.__name__)
        pit = np.ravel(estimator.cdf(X, y))
        if estimator._columns().whole.any():
            below = np.ravel(estimator.cdf(X, np.asarray(y) - 1))
            pit = below + private_random_state(random_state).uniform(size=len(pit)) * (pit - below)
        return cls.from_predictions(pit, n_bins=n_bins, levels=levels, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        pit: ArrayLike,
        *,
        n_bins: int = 10,
        levels: Sequence[float] | None = None,
        ax: Any = None,
    ) -> Self:
        """Plot the calibration of any model, from its distribution functions at the outputs.

        Parameters
        ----------
        pit : array-like of shape (n_rows,)
            Predicted probabilities of outputs up to the observed ones, in [0, 1].
        n_bins : int, default=10
            Number of bins of the histogram.
        levels : sequence of float in (0, 1) or None, default=None
            Probabilities of central intervals; None is 0.05, 0.1, ..., 0.95.
        ax : ndarray of two Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : PITDisplay

        Raises
        ------
        ValueError
            If a value is not in [0, 1], or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_predictions")
        values = check_array(pit, ensure_2d=False, dtype=np.float64, input_name="pit")
        if values.ndim != 1 or values.min() < 0.0 or values.max() > 1.0:
            raise ValueError(
                "pit must be one probability in [0, 1] for each row, got an array of shape "
                f"{values.shape} with values from {values.min():.4g} to {values.max():.4g}."
            )
        if not isinstance(n_bins, Integral) or n_bins < 2:
            raise ValueError(f"n_bins must be an integer of at least 2, got {n_bins!r}.")
        given = regions.checked_levels(_LEVELS if levels is None else levels)
        probabilities = np.sort(np.atleast_1d(given))
        n, edges = len(values), np.linspace(0.0, 1.0, n_bins + 1)
        return cls(
            pit=values,
            bin_edges=edges,
            bin_density=np.histogram(values, edges)[0] * (n_bins / n),
            bin_interval=n_bins * coverage_interval(n, np.full(n_bins, 1.0 / n_bins)),
            levels=probabilities,
            coverage=(np.abs(values - 0.5)[:, None] <= 0.5 * probabilities).mean(axis=0),
            coverage_interval=coverage_interval(n, probabilities),
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the histogram and the coverage.

        Parameters
        ----------
        ax : ndarray of two Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        self
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        self.axes_ = new_or_given_axes(ax, (1, 2), (10.0, 4.8))[0]
        self.figure_ = self.axes_[0].figure
        self._plot_histogram(self.axes_[0])
        draw_reliability(self.axes_[1], self.levels, self.coverage, self.coverage_interval)
        self.axes_[1].set(
            xlabel="probability of the interval",
            ylabel="fraction of rows inside",
            title="Central intervals",
        )
        return self

    def _plot_histogram(self, ax: Axes) -> None:
        draw_band(ax, np.array([0.0, 1.0]), self.bin_interval[:, [0, -1]])
        ax.axhline(1.0, color="black", linewidth=0.8)
        ax.stairs(self.bin_density, self.bin_edges, fill=True, color=MODEL, alpha=0.4, label="rows")
        ax.set(
            xlabel="predicted probability up to the output",
            ylabel="density",
            title="Probability integral transform",
            xlim=(0.0, 1.0),
        )
        ax.set_ylim(0.0, 1.25 * max(self.bin_density.max(), self.bin_interval.max()))
        ax.legend()


class ConditionalDensityDisplay:
    """Visualization of the density of one output along one feature, others being fixed.

    A map of the density of `y` given the features, with lines of its quantiles; of a model with
    `integer_target`, of the probabilities of whole numbers.  Use :meth:`from_estimator`.

    Parameters
    ----------
    feature_name : str
    grid : tuple of two ndarrays, of shape (n_x,) and (n_y,)
        Values of the feature and of the output.
    log_density : ndarray of shape (n_y, n_x)
        In nats.
    quantiles : ndarray of shape (n_quantiles,)
        Levels of the lines.
    y_quantiles : ndarray of shape (n_x, n_quantiles)
    points : ndarray of shape (n_rows, 2) or None, default=None
        Values of the feature and of the output in rows of data.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    InterpolantFlowRegressor.log_density : The log-density.
    sklearn.inspection.PartialDependenceDisplay : The mean prediction along a feature.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skinterflow import ConditionalDensityDisplay, InterpolantFlowRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(8,), max_iter=5, regressor=None, early_stopping=False, random_state=0
    ... ).fit(X, y)
    >>> display = ConditionalDensityDisplay.from_estimator(model, X, "bmi", grid_resolution=10)
    >>> display.log_density.shape
    (10, 10)
    """

    def __init__(
        self,
        *,
        feature_name: str,
        grid: tuple[Array, Array],
        log_density: Array,
        quantiles: Array,
        y_quantiles: Array,
        points: Array | None = None,
    ) -> None:
        self.feature_name = feature_name
        self.grid = grid
        self.log_density = log_density
        self.quantiles = quantiles
        self.y_quantiles = y_quantiles
        self.points = points

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowRegressor,
        X: ArrayLike,
        feature: str | int,
        *,
        y: ArrayLike | None = None,
        row: int | None = None,
        quantiles: ArrayLike = (0.05, 0.5, 0.95),
        grid_resolution: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Compute the density on a grid, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowRegressor
        X : array-like or data frame of shape (n_rows, n_features)
            Rows that determine the range of the feature and the values of the others.
        feature : str or int
            Numerical column, by name or number.
        y : array-like of shape (n_rows,) or None, default=None
            Outputs of the rows, which are drawn as points.  Their other features are not those of
            the map.
        row : int or None, default=None
            Row of `X` whose values the other features have; None is their medians, and the most
            frequent categories.
        quantiles : float or array-like of float in (0, 1), default=(0.05, 0.5, 0.95)
            Levels of the lines.
        grid_resolution : int of at least 2, or None, default=None
            Points along each axis; None is 60.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : ConditionalDensityDisplay

        Raises
        ------
        ValueError
            If the model has several outputs, or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        _check_regressor(estimator, cls.__name__)
        column, values = _numerical_column(estimator, X, feature)
        levels = np.sort(arguments.checked_levels(quantiles))
        n = checked_resolution(grid_resolution, 60)
        points = None
        if y is not None:
            points = np.column_stack([values, check_array(y, ensure_2d=False, input_name="y")])
        across = _feature_grid(values, n, column_names(estimator)[column])
        rows = np.repeat(_fixed_row(estimator, X, row)[None], n, axis=0)
        rows[:, column] = across
        with suppress_feature_name_warning():
            outer = estimator.predict_quantiles(rows, [_OUTER, *levels, 1.0 - _OUTER])
            shown = [outer[:, 0], outer[:, -1], *([] if points is None else [points[:, 1]])]
            up = np.linspace(*window(*shown), n)
            if estimator._columns().whole.any():  # between whole numbers there is no probability
                up = np.unique(up.round())
            log_density = _on_grid(estimator, rows, up)
        return cls(
            feature_name=column_names(estimator)[column],
            grid=(across, up),
            log_density=log_density,
            quantiles=levels,
            y_quantiles=outer[:, 1:-1],
            points=points,
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the map, the quantiles and the rows.

        Parameters
        ----------
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        self
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        self.ax_: Axes = new_or_given_axes(ax, (1, 1), (6.4, 4.8))[0, 0]
        self.figure_ = self.ax_.figure
        draw_map(self.ax_, self.grid, self.log_density, ())
        if self.points is not None:
            draw_points(self.ax_, Table(self.points, "rows", DATA, filled=False), (0, 1))
        names = ", ".join(f"{level:.4g}" for level in self.quantiles)
        self.ax_.plot(
            self.grid[0],
            self.y_quantiles,
            color="black",
            linewidth=0.9,
            label=[f"quantiles {names}", *[""] * (len(self.quantiles) - 1)],
        )
        self.ax_.set(
            xlabel=self.feature_name,
            ylabel="y",
            xlim=self.grid[0][[0, -1]],
            ylim=self.grid[1][[0, -1]],
        )
        self.ax_.legend()
        return self


def _on_grid(estimator: InterpolantFlowRegressor, rows: Array, up: Array) -> Array:
    """Log-densities, shape (n_y, n_x), of outputs for each of the rows."""
    quick = copy.copy(estimator)
    if isinstance(quick.atol, str) or quick.atol < _MAP_ATOL:
        quick.set_params(atol=_MAP_ATOL)
    pairs = np.repeat(rows, len(up), axis=0), np.tile(up, len(rows))
    return np.asarray(quick.log_density(*pairs)).reshape(len(rows), len(up)).T


def _check_regressor(estimator: Any, caller: str) -> None:
    check_estimator_is(estimator, InterpolantFlowRegressor, "InterpolantFlowRegressor", caller)


def _is_symmetric(levels: Array) -> bool:
    """Whether levels increase, and are an odd number and symmetric about 0.5."""
    increase = bool((np.diff(levels) > 0).all())
    odd = len(levels) > 1 and len(levels) % 2 == 1
    return increase and odd and np.allclose(levels + levels[::-1], 1.0, atol=1e-9)


def _subsample(rows: Array, subsample: int | None, random_state: RandomStateLike) -> Array:
    """Numbers of at most so many of the rows, in their order.

    Raises
    ------
    ValueError
        If the number is not a positive integer or None.
    """
    if subsample is None:
        return rows
    if not isinstance(subsample, Integral) or subsample < 1:
        raise ValueError(f"subsample must be a positive integer, or None, got {subsample!r}.")
    if len(rows) <= subsample:
        return rows
    random = private_random_state(random_state)
    return np.sort(random.choice(rows, int(subsample), replace=False))


def _numerical_column(
    estimator: InterpolantFlowRegressor, X: Any, feature: str | int
) -> tuple[int, Array]:
    """Number and values, shape (n,), of a column that is given by name or number.

    Raises
    ------
    ValueError
        If it does not exist, or is categorical.
    """
    validate_data(estimator, X, skip_check_array=True, reset=False)
    chosen = chosen_columns(estimator, feature)
    if len(chosen) > 1 or chosen[0] in estimator._encoding.categories:
        raise ValueError(
            f"feature={feature!r} is not a single numerical column; choose one by name or number."
        )
    return chosen[0], np.asarray(column_values(X, chosen[0]), dtype=np.float64)


def _feature_grid(values: Array, n: int, name: str) -> Array:
    """Values of a feature, evenly spaced over nearly all of its range.

    Raises
    ------
    ValueError
        If it has less than two different values.
    """
    present = values[np.isfinite(values)]
    ends = np.quantile(present, [_OUTER, 1.0 - _OUTER]) if len(present) else np.zeros(2)
    if not ends[0] < ends[1]:
        raise ValueError(
            f"{name} has fewer than two different values in X, so that nothing can be drawn along "
            "it; give rows in which it varies."
        )
    return np.linspace(ends[0], ends[1], n)


def _fixed_row(estimator: InterpolantFlowRegressor, X: Any, row: int | None) -> Array:
    """Values of all features, shape (n_features,): those of a row, or medians and most frequent
    categories.

    Raises
    ------
    ValueError
        If the row does not exist.
    """
    columns = [column_values(X, j) for j in range(estimator.n_features_in_)]
    if row is not None:
        n_rows = len(columns[0])
        if not isinstance(row, Integral) or not 0 <= row < n_rows:
            raise ValueError(f"row must be a number from 0 to {n_rows - 1}, or None, got {row!r}.")
        typical = [column[row] for column in columns]
    else:
        categories = estimator._encoding.categories
        typical = [
            _most_frequent(column) if j in categories else _median(column)
            for j, column in enumerate(columns)
        ]
    fixed = np.empty(len(typical), dtype=object)
    fixed[:] = typical
    return fixed if estimator._encoding.categories else fixed.astype(np.float64)


def _median(column: Array) -> float:
    present = [value for value in column if not is_missing(value)]
    return float(np.median(np.array(present, dtype=np.float64))) if present else np.nan


def _most_frequent(column: Array) -> Any:
    """Most frequent category, the first of several; None if all are missing."""
    present = [value for value in column if not is_missing(value)]
    return max(present, key=present.count) if present else None
