"""Display of the columns that make rows outliers."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skinterflow._plots import check_estimator_is, check_matplotlib, column_names, new_or_given_axes
from skinterflow.outliers import InterpolantFlowOutlierDetector

Array = NDArray[np.float64]


class OutlierExplanationDisplay:
    """Visualization of the contributions of the columns to the scores of rows.

    One row is shown as bars, the columns that lower its score most at the top.  Several rows are
    shown as a map of rows by columns, the row with the lowest score at the top.  Use
    :meth:`from_estimator`.

    Parameters
    ----------
    contributions : ndarray of shape (n_rows, n_columns)
        Contributions in nats, see `InterpolantFlowOutlierDetector.explain`.
    rows : ndarray of shape (n_rows,)
        Number of each row in the data.
    feature_names : sequence of str of length n_columns

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure

    See Also
    --------
    InterpolantFlowOutlierDetector.explain : The contributions.

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowOutlierDetector, OutlierExplanationDisplay
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> detector = InterpolantFlowOutlierDetector(
    ...     hidden_layer_sizes=(8,), max_iter=20, n_folds=2, random_state=0
    ... ).fit(X)
    >>> display = OutlierExplanationDisplay.from_estimator(detector, [[0.0, 9.0]])
    >>> display.feature_names
    ['column 1', 'column 0']
    """

    def __init__(
        self, *, contributions: Array, rows: NDArray[np.intp], feature_names: list[str]
    ) -> None:
        self.contributions = contributions
        self.rows = rows
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: InterpolantFlowOutlierDetector,
        X: ArrayLike,
        *,
        max_rows: int = 30,
        max_features: int = 20,
        ax: Any = None,
    ) -> Self:
        """Compute the contributions, and plot.

        Parameters
        ----------
        estimator : fitted InterpolantFlowOutlierDetector
        X : array-like of shape (n_samples, n_features)
            Rows to explain.
        max_rows : int, default=30
            Largest number of rows to show: those with the lowest scores.
        max_features : int, default=20
            Largest number of columns to show: those with the largest contributions.
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : OutlierExplanationDisplay

        Raises
        ------
        ValueError
            If `max_rows` or `max_features` is not a positive integer, or rows cannot be explained.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        name = "InterpolantFlowOutlierDetector"
        check_estimator_is(estimator, InterpolantFlowOutlierDetector, name, cls.__name__)
        for argument, value in (("max_rows", max_rows), ("max_features", max_features)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{argument} must be a positive integer, got {value!r}.")
        lowest = np.argsort(estimator.score_samples(X), kind="stable")[:max_rows]
        contributions = estimator.explain(X)[lowest]
        size = contributions[0] if len(lowest) == 1 else -np.abs(contributions).sum(axis=0)
        columns = np.argsort(size, kind="stable")
        if len(columns) > max_features:
            largest = np.argsort(-np.abs(contributions).sum(axis=0), kind="stable")[:max_features]
            columns = columns[np.isin(columns, largest)]
        names = column_names(estimator)
        display = cls(
            contributions=contributions[:, columns],
            rows=lowest,
            feature_names=[names[column] for column in columns],
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Plot the contributions.

        Parameters
        ----------
        ax : Axes or None, default=None
            Where to plot; None is a new figure.

        Returns
        -------
        display : OutlierExplanationDisplay
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        n_rows, n_columns = self.contributions.shape
        one = n_rows == 1
        height = 1.2 + 0.25 * (n_columns if one else n_rows)
        self.ax_ = new_or_given_axes(ax, (1, 1), (6.0 if one else 2.5 + 0.35 * n_columns, height))[
            0, 0
        ]
        self.figure_ = self.ax_.figure
        if one:
            self._plot_bars()
        else:
            self._plot_map()
        return self

    def _plot_bars(self) -> None:
        values = self.contributions[0]
        colors = np.where(values < 0.0, "tab:red", "tab:blue")
        self.ax_.barh(range(len(values)), values, color=colors)
        self.ax_.set_yticks(range(len(values)), self.feature_names)
        self.ax_.invert_yaxis()
        self.ax_.axvline(0.0, color="black", linewidth=0.8)
        self.ax_.set(xlabel="contribution to the score, nats", title=f"row {self.rows[0]}")

    def _plot_map(self) -> None:
        limit = max(float(np.quantile(np.abs(self.contributions), 0.98)), 1e-12)
        image = self.ax_.imshow(
            self.contributions, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto"
        )
        self.ax_.figure.colorbar(image, ax=self.ax_, label="contribution, nats", extend="both")
        self.ax_.set_yticks(range(len(self.rows)), [str(row) for row in self.rows])
        self.ax_.set_xticks(range(len(self.feature_names)), self.feature_names, rotation=90)
        self.ax_.set(ylabel="row, lowest score first")
