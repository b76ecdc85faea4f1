"""Support for scikit-learn's callbacks (1.9 and later), which run at every check of a fit.

A fit is one task, with a subtask for the training up to each check.  A callback can stop the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import _num_samples

__all__ = ["CallbackSupportMixin", "FitEvents"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Replacement for releases of scikit-learn without callbacks."""

        def _init_callback_context(self, max_subtasks: int) -> None:
            return None


class FitEvents:
    """Events of one fit for the estimator's callbacks; does nothing without callbacks.

    Parameters
    ----------
    estimator : estimator that is fitted
    X : array-like, rows that callbacks may score, as the user gave them
    sample_weight : array-like or None, their weights
    n_checks : int, maximum number of checks
    y : array-like or None, their targets; None is zeros, because ScoringMonitor requires targets
    """

    def __init__(
        self,
        estimator: CallbackSupportMixin,
        X: ArrayLike,
        sample_weight: ArrayLike | None,
        n_checks: int,
        y: ArrayLike | None = None,
    ) -> None:
        self._estimator = estimator
        self._root: Any = estimator._init_callback_context(max_subtasks=n_checks)
        self._stretch: Any = None
        self._data: dict[str, Any] = {
            "estimator": estimator,
            "X": X,
            "y": (lambda: np.zeros(_num_samples(X))) if y is None else y,
            "metadata": None if sample_weight is None else {"sample_weight": sample_weight},
        }

    def begin(self) -> None:
        """Begin the fit and the subtask up to the first check."""
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._data)
            self._begin_stretch()

    def checked(self, fitted_attributes: Callable[[], dict[str, Any]], last: bool) -> bool:
        """Report a check, and return whether a callback requests to stop.

        Parameters
        ----------
        fitted_attributes : callable
            Returns the attributes that the estimator would have if the fit stopped here.
        last : bool
            Whether this is the last check.
        """
        if self._root is None:
            return False
        stop = self._stretch.call_on_fit_task_end(
            **self._data, reconstruction_attributes=fitted_attributes
        )
        self._stretch = None
        if not (stop or last):
            self._begin_stretch()
        return bool(stop)

    def end(self, fitted_attributes: Callable[[], dict[str, Any]]) -> None:
        """End the fit; an unfinished subtask ends without a model."""
        if self._stretch is not None:
            self._stretch.call_on_fit_task_end(estimator=self._estimator)
        if self._root is not None:
            self._root.call_on_fit_task_end(
                **self._data, reconstruction_attributes=fitted_attributes
            )

    def _begin_stretch(self) -> None:
        self._stretch = self._root.subcontext(task_name="check")
        self._stretch.call_on_fit_task_begin(**self._data)
