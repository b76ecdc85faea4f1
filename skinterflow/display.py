"""Displays of fitted estimators, with the interface of scikit-learn's displays.

``from_estimator`` computes and plots; ``plot`` draws the same results again.  Displays require
matplotlib (``pip install skinterflow[plot]``), which is imported when something is drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm
from sklearn.utils.validation import validate_data

from skinterflow._base import FlowEstimator
from skinterflow._plots import (
    DATA,
    INTERVAL,
    MODEL,
    Features,
    Table,
    check_estimator_is,
    check_matplotlib,
    checked_resolution,
    chosen_columns,
    column_names,
    coverage_interval,
    draw_band,
    draw_column,
    draw_columns,
    draw_curve,
    draw_map,
    draw_pair,
    draw_reliability,
    new_or_given_axes,
    window,
)
from skinterflow._predict.maps import grid_rows, map_log_density
from skinterflow._predict.regions import checked_levels, density_thresholds
from skinterflow._runtime import RandomStateLike, suppress_feature_name_warning
from skinterflow.density import InterpolantFlowDensity
from skinterflow.regressor import InterpolantFlowRegressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

_MAX_QUANTILES = 1_000
_TRAINED = "InterpolantFlowDensity, InterpolantFlowRegressor or InterpolantTransport"
_VISIBLE, _BELOW_CONTOURS = 7.0, 3.0
"""Nats below the largest density at which a map looks empty, and nats below the lowest contour that
it needs."""
_MAX_NAMED_LINES = 10
"""Number of columns above which lines are not named in a legend."""


class DensityDisplay:
    """Visualization of a fitted density: a curve, a map, or samples.

    A model of one column is drawn as a curve and a model of two columns as a map, both with regions
    of highest density.  A model of more columns, or a subset of its columns, is shown by samples:
    histograms, and scatter plots of every pair of columns.  One or two `features` of a wider model
    are therefore samples of the marginal distribution, because a marginal density has no closed
    form.  So is a model with `atoms_`, whose masses have no density.  Use :meth:`from_estimator`.

    Parameters
    ----------
    feature_names : sequence of str, of length k
    samples : ndarray of shape (n_samples, k)
        Rows of the model.
    X : ndarray of shape (n_rows, k) or None, default=None
        Rows of data.
    grid : sequence of k ndarrays of shape (grid_resolution,), or None, default=None
        Values along each axis of a curve or map; None where samples are shown.
    log_density : ndarray of shape (grid_resolution,) * k or None, default=None
        In nats.  Rows of a map are values of the second column.  A map is as accurate as its colors
        can show: the estimated error of the density is at most a tenth of the largest density, and
        the mean error much less.  It is interpolated where it looks empty: at least 7 nats below
        the largest density of the samples, and 3 below the lowest of the `thresholds`.
    levels, thresholds : sequences of float, default=()
        Probabilities of regions of highest density, and the log-densities of their boundaries.

    Attributes
    ----------
    axes_ : ndarray of Axes, of shape (1, 1) or, for a corner plot, (k, k)
    ax_ : Axes
        The first of `axes_`; the only one except in a corner plot.
    figure_ : Figure

    See Also
    --------
    InterpolantFlowDensity.density_threshold : The boundary of a region of highest density.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import DensityDisplay, InterpolantFlowDensity
    >>> X = load_iris().data
    >>> density = InterpolantFlowDensity(
    ...     max_iter=20, hidden_layer_sizes=(16, 16), early_stopping=False, random_state=0
    ... ).fit(X)
    >>> display = DensityDisplay.from_estimator(
    ...     density, X, features=[0, 2], n_samples=200, random_state=0
    ... )
    >>> display.ax_.get_xlabel()
    'column 0'
    """

    MAX_FEATURES: ClassVar[int] = 6
    """Maximum number of columns in a corner plot."""

    def __init__(
        self,
        *,
        feature_names: Sequence[str],
        samples: Array,
        X: Array | None = None,
        grid: Sequence[Array] | None = None,
        log_density: Array | None = None,
        levels: Sequence[float] | Array = (),
        thresholds: Sequence[float] | Array = (),
    ) -> None:
        self.feature_names = feature_names
        self.samples = samples
        self.X = X
        self.grid = grid
        self.log_density = log_density
        self.levels = levels
        self.thresholds = thresholds

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowDensity,
        X: ArrayLike | None = None,
        *,
        features: Features | None = None,
        levels: Sequence[float] = (0.5, 0.9),
        grid_resolution: int | None = None,
        n_samples: int = 2_000,
        random_state: RandomStateLike = None,
        t: float | None = None,
        ax: Any = None,
    ) -> Self:
        """Compute the density, or samples of it, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowDensity
        X : array-like of shape (n_rows, n_features) or None, default=None
            Data to show with the density, such as held-out rows, with all columns that the
            estimator was fitted on.
        features : str, int or sequence of them, or None, default=None
            Columns to show, by name or number; None is all.
        levels : sequence of float in (0, 1), default=(0.5, 0.9)
            Probabilities of the regions of highest density, on a curve or map.  May be empty.
        grid_resolution : int of at least 2, or None, default=None
            Points along each axis of a curve or map; None is 400 for a curve and 80 for a map.
        n_samples : int, default=2_000
            Number of samples of the model, which determine the window and the boundaries of the
            regions, or are shown themselves.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.
        t : float in [0, 1] or None, default=None
            Time on the path; None is `end_time_`.
        ax : Axes, ndarray of Axes or None, default=None
            Where to plot, of shape (k, k) for a corner plot of k columns; None is a new figure.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        ValueError
            If there are more columns than `MAX_FEATURES`, or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_estimator_is(
            estimator, InterpolantFlowDensity, "InterpolantFlowDensity", cls.__name__
        )
        columns = (
            list(range(estimator.n_features_in_))
            if features is None
            else chosen_columns(estimator, features)
        )
        if len(columns) > cls.MAX_FEATURES:
            raise ValueError(
                f"A corner plot of {len(columns)} columns is too large to read; choose up to "
                f"{cls.MAX_FEATURES} of them, such as features={columns[: cls.MAX_FEATURES]}."
            )
        # On a curve or map, a mass would be invisible.
        whole = len(columns) == estimator.n_features_in_ <= 2 and not estimator.atoms_
        resolution = checked_resolution(grid_resolution, 400 if len(columns) == 1 else 80)
        probabilities = np.atleast_1d(checked_levels(levels)) if np.size(levels) else np.empty(0)
        rows: Array | None = (
            None
            if X is None
            else validate_data(estimator, X, dtype=[np.float64, np.float32], reset=False)[
                :, columns
            ]
        )
        samples = np.asarray(estimator.sample(n_samples, random_state, t=t))
        display = cls(
            feature_names=[column_names(estimator)[k] for k in columns],
            samples=samples[:, columns],
            X=rows,
        )
        if whole:
            display.grid = [np.linspace(*ends, resolution) for ends in display._windows()]
            known = _log_density(estimator, samples, t)
            if len(probabilities):
                display.levels = probabilities
                display.thresholds = density_thresholds(known, probabilities)[0]
            lowest = min(
                [known.max() - _VISIBLE, *np.subtract(display.thresholds, _BELOW_CONTOURS)]
            )
            display.log_density = _on_grid(
                estimator, display.grid, columns, t, (lowest, known.max()), display.samples
            )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the density or the samples.

        Parameters
        ----------
        ax : Axes, ndarray of Axes or None, default=None
            Where to plot, of shape (k, k) for a corner plot of k columns; None is a new figure.

        Returns
        -------
        self
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        k = len(self.feature_names)
        if k > 2:
            side = 1.0 + 1.8 * k
            self.axes_ = new_or_given_axes(ax, (k, k), (side, side))
            draw_columns(self.axes_, self.feature_names, self._windows(), self._tables())
        else:
            self.axes_ = new_or_given_axes(ax, (1, 1), (6.4, 4.8))
            (self._plot_one if k == 1 else self._plot_two)(self.axes_[0, 0])
        self.ax_: Axes = self.axes_[0, 0]
        self.figure_ = self.ax_.figure
        return self

    def _plot_one(self, ax: Axes) -> None:
        tables, ends = self._tables(), self._windows()[0]
        if self.grid is None or self.log_density is None:
            draw_column(ax, self.feature_names[0], ends, tables, 0)
        else:
            draw_curve(ax, self.grid[0], self.log_density, self._regions())
            draw_column(ax, self.feature_names[0], ends, tables[1:], 0)
        ax.set_ylim(bottom=0.0)
        ax.legend()

    def _plot_two(self, ax: Axes) -> None:
        tables, names, ends = self._tables(), self.feature_names, self._windows()
        if self.grid is None or self.log_density is None:
            draw_pair(ax, (names[0], names[1]), (ends[0], ends[1]), tables, (0, 1))
            ax.legend()
        else:
            draw_map(ax, self.grid, self.log_density, self._regions())
            draw_pair(ax, (names[0], names[1]), (ends[0], ends[1]), tables[1:], (0, 1))

    def _windows(self) -> list[tuple[float, float]]:
        return [
            window(*(table.rows[:, k] for table in self._tables()))
            for k in range(len(self.feature_names))
        ]

    def _tables(self) -> list[Table]:
        """The samples and, if there are any, the data, in the order in which they are drawn."""
        samples = Table(self.samples, "samples", MODEL, filled=True)
        return [samples] if self.X is None else [samples, Table(self.X, "data", DATA, filled=False)]

    def _regions(self) -> list[tuple[float, float]]:
        return list(zip(self.levels, self.thresholds, strict=True))


class TrainingDisplay:
    """Visualization of a training: the loss and the held-out log-likelihood at each check.

    The loss is noisy and need not decrease while the density improves; the weights are chosen by
    the held-out log-likelihood.  Use :meth:`from_estimator`.

    Parameters
    ----------
    steps : sequence of int
        Number of gradient steps before each check.
    loss_curve : sequence of float, of the same length
        Mean training loss between checks.
    validation_scores : sequence of float, of the same length, or None, default=None
        Held-out log-likelihood at the checks, in nats per row.

    Attributes
    ----------
    ax_ : Axes
        Axes of the loss.
    validation_ax_ : Axes or None
        Axes of the held-out log-likelihood, on the right.
    axes_ : ndarray of one or two Axes
    figure_ : Figure

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import InterpolantFlowDensity, TrainingDisplay
    >>> X = load_iris().data
    >>> density = InterpolantFlowDensity(
    ...     max_iter=20, hidden_layer_sizes=(16, 16), early_stopping=True, random_state=0
    ... ).fit(X)
    >>> display = TrainingDisplay.from_estimator(density)
    >>> display.ax_.get_xlabel()
    'gradient steps'
    """

    def __init__(
        self,
        *,
        steps: Sequence[int],
        loss_curve: Sequence[float],
        validation_scores: Sequence[float] | None = None,
    ) -> None:
        self.steps = steps
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(cls, estimator: FlowEstimator, *, ax: Any = None) -> Self:
        """Plot the training of an estimator.

        Parameters
        ----------
        estimator : fitted estimator of this package
            An InterpolantTransport has no held-out rows.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : TrainingDisplay
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_estimator_is(estimator, FlowEstimator, _TRAINED, cls.__name__)
        has_scores = isinstance(estimator, InterpolantFlowDensity | InterpolantFlowRegressor)
        scores = estimator.validation_scores_ if has_scores else None
        return cls(
            steps=estimator.check_steps_, loss_curve=estimator.loss_curve_, validation_scores=scores
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the loss and the held-out log-likelihood.

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
        lines = self.ax_.plot(
            self.steps, self.loss_curve, color=MODEL, marker=".", label="training loss"
        )
        self.ax_.set(xlabel="gradient steps", ylabel="training loss $G$")
        self.validation_ax_: Axes | None = None
        if self.validation_scores is not None:
            self.validation_ax_ = self.ax_.twinx()
            self.validation_ax_.set_ylabel("held-out log-likelihood (nats per row)")
            lines += self.validation_ax_.plot(
                self.steps,
                self.validation_scores,
                color=DATA,
                marker=".",
                label="held-out log-likelihood",
            )
            best = int(np.argmax(self.validation_scores))
            best_label = f"best, {self.validation_scores[best]:.4g} at step {self.steps[best]}"
            lines += self.validation_ax_.plot(
                self.steps[best],
                self.validation_scores[best],
                color="black",
                marker="*",
                markersize=10,
                linestyle="",
                label=best_label,
            )
        self.axes_ = np.array(
            [one for one in (self.ax_, self.validation_ax_) if one is not None], dtype=object
        )
        self.axes_[-1].legend(handles=lines, loc="center right")
        return self


class TrajectoryDisplay:
    """Visualization of trajectories: two columns, or one column against time.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    positions : ndarray of shape (n_times, n_points, k)
        Positions in data units; `k` is 1 or 2.
    times : ndarray of shape (n_times,)
    feature_names : sequence of str, of length k

    Attributes
    ----------
    ax_ : Axes
    axes_ : ndarray of the one Axes
    figure_ : Figure

    See Also
    --------
    InterpolantFlowDensity.trajectory : The positions.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import InterpolantFlowDensity, TrajectoryDisplay
    >>> X = load_iris().data
    >>> density = InterpolantFlowDensity(
    ...     max_iter=20, hidden_layer_sizes=(16, 16), early_stopping=False, random_state=0
    ... ).fit(X)
    >>> display = TrajectoryDisplay.from_estimator(
    ...     density, times=[0.0, 0.5, 1.0], n_samples=10, features=(2, 3), random_state=0
    ... )
    >>> display.positions.shape
    (3, 10, 2)
    """

    def __init__(self, *, positions: Array, times: Array, feature_names: Sequence[str]) -> None:
        self.positions = positions
        self.times = times
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowDensity,
        X: ArrayLike | None = None,
        *,
        n_samples: int = 200,
        times: Sequence[float] | None = None,
        features: Features | None = None,
        random_state: RandomStateLike = None,
        ax: Any = None,
    ) -> Self:
        """Compute the trajectories of points along the flow, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowDensity
        X : array-like of shape (n_points, n_features) or None, default=None
            Points at the first of the times; None draws samples of the model at that time.
        n_samples : int, default=200
            Number of samples that are drawn if `X` is None.
        times : sequence of float in [0, 1], increasing or decreasing, or None, default=None
            None is 21 evenly spaced times: from `end_time_` to 0 with `X`, which are then rows of
            data, and from 0 to `end_time_` without.
        features : str, int or sequence of one or two of them, or None, default=None
            Columns to show, by name or number; None is the first two, or the only one.  One column
            is shown against time.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : TrajectoryDisplay

        Raises
        ------
        ValueError
            If more than two columns are chosen, or an argument cannot be used.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_estimator_is(
            estimator, InterpolantFlowDensity, "InterpolantFlowDensity", cls.__name__
        )
        columns = chosen_columns(
            estimator, range(min(2, estimator.n_features_in_)) if features is None else features
        )
        if len(columns) > 2:
            raise ValueError(
                f"Trajectories are drawn in one or two columns; choose two of the {len(columns)}, "
                f"such as features={columns[:2]}."
            )
        if times is None:
            times = _default_times(estimator)[:: 1 if X is None else -1]
        points = estimator.sample(n_samples, random_state, t=times[0]) if X is None else X
        with suppress_feature_name_warning():
            positions = estimator.trajectory(points, times)[:, :, columns]
        names = [column_names(estimator)[k] for k in columns]
        return cls(
            positions=positions, times=np.asarray(times, dtype=np.float64), feature_names=names
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the trajectories with their start and end points.

        Parameters
        ----------
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        self
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        self.axes_ = new_or_given_axes(ax, (1, 1), (6.4, 4.8))
        self.ax_: Axes = self.axes_[0, 0]
        self.figure_ = self.ax_.figure
        times = np.broadcast_to(self.times[:, None], self.positions.shape[:2])
        across, up = (
            (times, self.positions[:, :, 0])
            if len(self.feature_names) == 1
            else np.moveaxis(self.positions, 2, 0)
        )
        self.ax_.plot(across, up, color="gray", alpha=0.5, linewidth=0.7)
        for k, name, color, size in ((0, "start", DATA, 7), (-1, "end", MODEL, 14)):
            self.ax_.scatter(
                across[k],
                up[k],
                s=size,
                color=color,
                zorder=3,
                label=f"{name}, t = {self.times[k]:.3g}",
            )
        labels = ["time t", *self.feature_names][-2:]
        self.ax_.set(xlabel=labels[0], ylabel=labels[1])
        self.ax_.legend()
        return self


class CalibrationDisplay:
    """Visualization of calibration on rows that the density was not fitted on.

    The left panel is a QQ plot: quantiles of each latent coordinate over those of the standard
    normal, with the 95% interval of each order statistic of equally many normal numbers.  The right
    panel shows the fraction of rows inside each region of highest density over the probability that
    the model gives it.  Its 95% interval is that of a binomial law of
    ``1 / (1 / n_rows + 1 / n_samples)`` rows, because the boundaries of the regions are estimates
    from samples.  Both intervals are pointwise, so that one point in twenty is outside even for the
    true density.  Use :meth:`from_estimator`.

    Parameters
    ----------
    normal_quantiles : ndarray of shape (n_quantiles,)
        Quantiles of the standard normal.
    latent_quantiles : ndarray of shape (n_quantiles, n_features)
        Quantiles of the latents of the rows.
    normal_interval : ndarray of shape (2, n_quantiles)
        Ends of the pointwise interval.
    levels : ndarray of shape (n_levels,)
        Probabilities of regions of highest density.
    coverage : ndarray of shape (n_levels,)
        Fractions of the rows inside.
    coverage_interval : ndarray of shape (2, n_levels)
        Ends of the pointwise interval.
    feature_names : sequence of str, of length n_features

    Attributes
    ----------
    axes_ : ndarray of two Axes
    figure_ : Figure

    See Also
    --------
    InterpolantFlowDensity.diagnose : Distances of the latents to the normal, as numbers.
    InterpolantFlowDensity.contains : The rows in a region.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skinterflow import CalibrationDisplay, InterpolantFlowDensity
    >>> X = load_iris().data
    >>> density = InterpolantFlowDensity(
    ...     max_iter=20, hidden_layer_sizes=(16, 16), early_stopping=False, random_state=0
    ... ).fit(X[::2])
    >>> display = CalibrationDisplay.from_estimator(density, X[1::2], n_samples=500, random_state=0)
    >>> display.coverage.shape
    (19,)
    """

    def __init__(
        self,
        *,
        normal_quantiles: Array,
        latent_quantiles: Array,
        normal_interval: Array,
        levels: Array,
        coverage: Array,
        coverage_interval: Array,
        feature_names: Sequence[str],
    ) -> None:
        self.normal_quantiles = normal_quantiles
        self.latent_quantiles = latent_quantiles
        self.normal_interval = normal_interval
        self.levels = levels
        self.coverage = coverage
        self.coverage_interval = coverage_interval
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowDensity,
        X: ArrayLike,
        *,
        levels: Sequence[float] | None = None,
        n_samples: int = 2_000,
        random_state: RandomStateLike = None,
        ax: Any = None,
    ) -> Self:
        """Compute the latents and the coverage of the regions, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowDensity
        X : array-like of shape (n_rows, n_features)
            Rows that the model was not fitted on.
        levels : sequence of float in (0, 1) or None, default=None
            Probabilities of the regions of highest density; None is 0.05, 0.1, ..., 0.95.
        n_samples : int, default=2_000
            Number of samples from which the boundaries of the regions are estimated.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.
        ax : ndarray of two Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : CalibrationDisplay
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_estimator_is(
            estimator, InterpolantFlowDensity, "InterpolantFlowDensity", cls.__name__
        )
        probabilities = np.sort(
            np.atleast_1d(checked_levels(np.arange(1, 20) / 20 if levels is None else levels))
        )
        log_density = np.asarray(estimator.score_samples(X))
        thresholds = np.asarray(
            estimator.density_threshold(
                probabilities, n_samples=n_samples, random_state=random_state
            )
        )
        n_rows = len(log_density)
        ranks = np.unique(np.linspace(1, n_rows, min(n_rows, _MAX_QUANTILES)).round())
        effective = max(1, round(1 / (1 / n_rows + 1 / n_samples)))
        return cls(
            normal_quantiles=norm.ppf((ranks - 0.5) / n_rows),
            latent_quantiles=np.sort(np.asarray(estimator.transform(X)), axis=0)[
                ranks.astype(int) - 1
            ],
            normal_interval=norm.ppf(beta.ppf(INTERVAL[:, None], ranks, n_rows + 1 - ranks)),
            levels=probabilities,
            coverage=(log_density[:, None] >= thresholds).mean(axis=0),
            coverage_interval=coverage_interval(effective, probabilities),
            feature_names=column_names(estimator),
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the QQ plot and the coverage.

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
        self._plot_latent(self.axes_[0])
        self._plot_coverage(self.axes_[1])
        return self

    def _plot_latent(self, ax: Axes) -> None:
        few = len(self.feature_names) <= _MAX_NAMED_LINES
        draw_band(ax, self.normal_quantiles, self.normal_interval)
        ax.axline((0.0, 0.0), slope=1.0, color="black", linewidth=0.8)
        for k, name in enumerate(self.feature_names):
            label = name if few else (f"{len(self.feature_names)} columns" if k == 0 else "")
            ax.plot(
                self.normal_quantiles,
                self.latent_quantiles[:, k],
                color=f"C{k}" if few else MODEL,
                alpha=1.0 if few else 0.4,
                linewidth=1.2,
                label=label,
            )
        ax.set(
            xlabel="quantile of the standard normal",
            ylabel="quantile of the latent",
            title="Latent coordinates",
        )
        ax.legend()

    def _plot_coverage(self, ax: Axes) -> None:
        draw_reliability(ax, self.levels, self.coverage, self.coverage_interval)
        ax.set(
            xlabel="probability of the region",
            ylabel="fraction of rows inside",
            title="Regions of highest density",
        )


def _on_grid(
    estimator: InterpolantFlowDensity,
    grid: Sequence[Array],
    columns: Sequence[int],
    t: float | None,
    window: tuple[float, float],
    samples: Array,
) -> Array:
    """Log-densities on a grid, whose axes are the columns of the model in any order.

    `window` has the lowest log-density that is visible, and the largest.
    """
    # float32 must resolve the points of the grid.
    resolved = all(np.ptp(axis) > 1e-3 * np.abs(axis).max() for axis in grid)

    def score(points: Array, atol: float) -> tuple[Array, Array]:
        rows = points[:, np.argsort(columns)]
        model = _with_tolerance(estimator, atol)
        with suppress_feature_name_warning():
            value, error = model.score_samples(
                rows.astype(np.float32) if resolved else rows, t=t, return_error=True
            )
        return value, error

    if len(grid) == 1:
        return score(grid_rows(grid), 0.0)[0]
    return map_log_density(score, grid, *window, samples)


def _with_tolerance(estimator: InterpolantFlowDensity, atol: float) -> InterpolantFlowDensity:
    """The estimator with this tolerance, if its own is smaller."""
    if atol <= estimator._solver_of_parameters().atol:
        return estimator
    return copy.copy(estimator).set_params(atol=atol)


def _log_density(estimator: InterpolantFlowDensity, rows: Array, t: float | None) -> Array:
    with suppress_feature_name_warning():
        return np.asarray(estimator.score_samples(rows, t=t))


def _default_times(estimator: InterpolantFlowDensity) -> list[float]:
    """Evenly spaced times of the flow; only one if the model is the Gaussian at time 0."""
    end_time = estimator.end_time_
    return [end_time * k / 20 for k in range(21)] if end_time > 0 else [0.0]
