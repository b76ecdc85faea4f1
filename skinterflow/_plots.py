"""Utilities of the displays: checks, column names, axes and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OUTER = 0.005
"""Fraction of the rows at either end that a window may leave out: with one far outlier the plot
would be empty otherwise."""
_MARGIN = 0.15

MODEL, DATA = "tab:blue", "tab:orange"

INTERVAL = np.array([0.025, 0.975])
_BAND = "95% interval of a true model"

Features = str | int | Sequence[str] | Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class Table:
    """Rows to draw and their style.

    Attributes
    ----------
    rows : array of shape (n, k)
    label, color : str
    filled : bool, whether histograms are filled
    """

    rows: NDArray[Any]
    label: str
    color: str
    filled: bool


def check_matplotlib(caller: str) -> None:
    """Like scikit-learn's ``check_matplotlib_support``, but naming skinterflow's extra.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} requires matplotlib. You can install it with `pip install "
            "skinterflow[plot]`."
        ) from error


def check_estimator_is(estimator: Any, kind: type[BaseEstimator], name: str, caller: str) -> None:
    """Raise unless `estimator` is a fitted estimator of a class.

    Parameters
    ----------
    estimator : object
    kind : type of estimator
    name, caller : str, name of the class and of the display in the message

    Raises
    ------
    TypeError
        If it is of another class.
    NotFittedError
        If it is not fitted.
    """
    if not isinstance(estimator, kind):
        raise TypeError(
            f"{caller} requires a fitted {name}, got {estimator!r}; for a pipeline, pass that "
            "step, and the data that it receives as X."
        )
    check_is_fitted(estimator)


def column_names(estimator: Any) -> list[str]:
    """Return the feature names of a fitted estimator, "column 0" and so on if it has none."""
    return [
        str(name)
        for name in getattr(
            estimator, "feature_names_in_", map("column {}".format, range(estimator.n_features_in_))
        )
    ]


def chosen_columns(estimator: Any, features: Features) -> list[int]:
    """Return the numbers of columns that are given by name or number.

    Raises
    ------
    ValueError
        If a column does not exist, one is chosen twice, or none is chosen.
    """
    given: list[Any] = (
        [features] if isinstance(features, str | int | np.integer) else list(features)
    )
    chosen = [_column(estimator, feature) for feature in given]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"features must be one or more distinct columns, got {features!r}.")
    return chosen


def _column(estimator: Any, feature: Any) -> int:
    n_features, names = estimator.n_features_in_, list(getattr(estimator, "feature_names_in_", []))
    if isinstance(feature, str):
        if not names:
            raise ValueError(
                f"features={feature!r} is a name, but the estimator was fitted without feature "
                "names; use column numbers."
            )
        if feature not in names:
            raise ValueError(
                f"features={feature!r} is not a column; the columns are "
                f"{', '.join(map(repr, names))}."
            )
        return names.index(feature)
    if not isinstance(feature, int | np.integer) or not 0 <= feature < n_features:
        raise ValueError(
            f"features={feature!r} is not a column; use numbers from 0 to "
            f"{n_features - 1}{', or names' if names else ''}."
        )
    return int(feature)


def checked_resolution(grid_resolution: int | None, default: int) -> int:
    """Validate the number of points along an axis; None is the default.

    Raises
    ------
    ValueError
        If it is not an integer of at least 2.
    """
    if grid_resolution is None:
        return default
    if not isinstance(grid_resolution, Integral) or grid_resolution < 2:
        raise ValueError(
            f"grid_resolution must be an integer of at least 2, or None, got {grid_resolution!r}."
        )
    return int(grid_resolution)


def coverage_interval(n_rows: int, levels: NDArray[Any]) -> NDArray[Any]:
    """Return the ends, shape (2, n_levels), of the pointwise 95% interval of a coverage.

    Parameters
    ----------
    n_rows : int
    levels : array of shape (n_levels,), probabilities of one row to be inside
    """
    return np.asarray(binom.ppf(INTERVAL[:, None], n_rows, levels) / n_rows)


def window(*columns: NDArray[Any]) -> tuple[float, float]:
    """Return a range that contains nearly all values of each column, with a margin."""
    ends = np.array(
        [np.quantile(column, [_OUTER, 1.0 - _OUTER]) for column in columns], dtype=np.float64
    )
    low, high = ends[:, 0].min(), ends[:, 1].max()
    margin = _MARGIN * (high - low)
    return float(low - margin), float(high + margin)


def new_or_given_axes(ax: Any, shape: tuple[int, int], size: tuple[float, float]) -> NDArray[Any]:
    """Return axes as an array of the given shape, from a new figure if `ax` is None.

    Parameters
    ----------
    ax : Axes, array of Axes or None
    shape : tuple of two int
    size : tuple of two float, size of a new figure in inches

    Raises
    ------
    ValueError
        If `ax` does not hold the right number of Axes.
    """
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        axes: NDArray[Any] = plt.subplots(
            *shape, figsize=size, squeeze=False, layout="constrained"
        )[1]
        return axes
    given = np.asarray(ax, dtype=object)
    if given.size != math.prod(shape) or not all(isinstance(one, Axes) for one in given.flat):
        wanted = (
            "matplotlib axes"
            if shape == (1, 1)
            else f"an array of {shape[0]} x {shape[1]} matplotlib axes"
        )
        raise ValueError(
            f"ax must be {wanted}, such as plt.subplots({shape[0]}, {shape[1]})[1], or None for a "
            f"new figure; got {ax!r}."
        )
    return given.reshape(shape)


def draw_columns(
    axes: NDArray[Any],
    names: Sequence[str],
    windows: Sequence[tuple[float, float]],
    tables: Sequence[Table],
) -> None:
    """Draw a corner plot: histograms on the diagonal, scatter plots of the pairs below it."""
    k = len(names)
    for row, column in np.ndindex(k, k):
        ax: Any = axes[row, column]
        if column > row:
            ax.set_axis_off()
        elif column == row:
            draw_column(ax, names[column], windows[column], tables, column)
            ax.set(ylabel="")
            ax.tick_params(left=False, labelleft=False)
        else:
            draw_pair(
                ax,
                (names[column], names[row]),
                (windows[column], windows[row]),
                tables,
                (column, row),
            )
        ax.label_outer()
        ax.locator_params(nbins=3)
    axes[0, 0].figure.align_ylabels(axes[1:, 0])
    axes[0, -1].legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right")


def draw_column(
    ax: Axes, name: str, ends: tuple[float, float], tables: Sequence[Table], column: int
) -> None:
    """Draw histograms of a column."""
    for table in tables:
        draw_histogram(
            ax,
            table.rows[:, column],
            ends,
            filled=table.filled,
            color=table.color,
            label=table.label,
        )
    ax.set(xlabel=name, ylabel="density", xlim=ends)


def draw_pair(
    ax: Axes,
    names: tuple[str, str],
    ends: tuple[tuple[float, float], tuple[float, float]],
    tables: Sequence[Table],
    columns: tuple[int, int],
) -> None:
    """Draw a scatter plot of two columns; later tables are drawn over earlier ones."""
    for table in tables:
        draw_points(ax, table, columns)
    ax.set(xlabel=names[0], ylabel=names[1], xlim=ends[0], ylim=ends[1])


def draw_points(ax: Axes, table: Table, columns: tuple[int, int]) -> None:
    """Draw rows as points, smaller ones if there are many."""
    size = float(np.clip(10_000 / len(table.rows), 3.0, 14.0))
    ax.scatter(
        table.rows[:, columns[0]],
        table.rows[:, columns[1]],
        s=size,
        color=table.color,
        alpha=0.5,
        linewidths=0,
        label=table.label,
    )


def draw_histogram(
    ax: Axes,
    values: NDArray[Any],
    ends: tuple[float, float],
    *,
    filled: bool,
    color: str,
    label: str,
) -> None:
    """Draw a histogram of the values between two ends, normalised by the number of all values."""
    edges = np.linspace(*ends, 1 + math.ceil(np.clip(3.0 * len(values) ** (1 / 3), 10, 60)))
    heights = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
    ax.stairs(
        heights,
        edges,
        fill=filled,
        color=color,
        alpha=0.4 if filled else 1.0,
        linewidth=1.2,
        label=label,
    )


def draw_curve(
    ax: Axes, grid: NDArray[Any], log_density: NDArray[Any], regions: Sequence[tuple[float, float]]
) -> None:
    """Draw a density of one column, with regions given as levels and thresholds shaded below it."""
    from matplotlib import colormaps

    density = np.exp(log_density)
    shades = colormaps["Blues"](np.linspace(0.2, 0.5, len(regions)))
    for (level, threshold), shade in zip(sorted(regions, reverse=True), shades, strict=True):
        ax.fill_between(
            grid,
            density,
            where=log_density >= threshold,
            color=shade,
            linewidth=0,
            label=f"{level:.4g} of probability",
        )
    ax.plot(grid, density, color=MODEL, label="density")


def draw_map(
    ax: Axes,
    grid: Sequence[NDArray[Any]],
    log_density: NDArray[Any],
    regions: Sequence[tuple[float, float]],
) -> None:
    """Draw a density of two columns, with contours of the regions labelled by their level."""
    surface = ax.pcolormesh(
        *grid, np.exp(log_density), shading="gouraud", cmap="Blues", rasterized=True
    )
    ax.figure.colorbar(surface, ax=ax, label="density")
    named = {threshold: f"{level:.4g}" for level, threshold in regions}
    if named:
        # Contours of the log-density, which is smoother than the density.  Clipped well below the
        # lowest contour, because it may be minus infinity.
        heights = np.maximum(log_density, min(named) - 10.0)
        contours = ax.contour(
            *grid, heights, levels=sorted(named), colors="black", linewidths=0.9, linestyles="solid"
        )
        ax.clabel(contours, fmt=named, fontsize=8)


def draw_band(ax: Axes, x: NDArray[Any], interval: NDArray[Any]) -> None:
    """Draw the band in which a true model lies, from its ends of shape (2, n)."""
    ax.fill_between(x, *interval, color="gray", alpha=0.3, linewidth=0, label=_BAND)


def draw_reliability(
    ax: Axes, levels: NDArray[Any], coverage: NDArray[Any], interval: NDArray[Any]
) -> None:
    """Draw observed coverages over their levels, with the band of a true model."""
    draw_band(ax, levels, interval)
    ax.axline((0.0, 0.0), slope=1.0, color="black", linewidth=0.8)
    ax.plot(levels, coverage, color=MODEL, marker=".", label="rows")
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
    ax.legend(loc="upper left")
