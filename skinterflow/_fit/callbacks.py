"""scikit-learn's callbacks (1.9 and later): a fit tells them of every check, and stops where one of
them asks it to.

A fit has one task and, below it, a subtask for each stretch of training up to a check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CallbackSupportMixin", "FitEvents"]

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands where there are no callbacks to support."""

        def _init_callback_context(self, max_subtasks: int) -> None:
            return None


class FitEvents:
    """What the callbacks of an estimator hear of one fit; silent where scikit-learn has none.

    Parameters
    ----------
    estimator : estimator whose fit begins
    X : array-like, rows that callbacks may score, as the user gave them
    sample_weight : array-like or None, their weights
    n_checks : int, number of checks at most
    """

    def __init__(
        self,
        estimator: CallbackSupportMixin,
        X: ArrayLike,
        sample_weight: ArrayLike | None,
        n_checks: int,
    ) -> None:
        self._estimator = estimator
        self._root: Any = estimator._init_callback_context(max_subtasks=n_checks)
        self._stretch: Any = None
        self._data: dict[str, Any] = {
            "estimator": estimator,
            "X": X,
            "y": lambda: np.zeros(len(np.asarray(X))),  # ScoringMonitor does nothing without
            "metadata": None if sample_weight is None else {"sample_weight": sample_weight},
        }

    def begin(self) -> None:
        """The fit begins, and with it the stretch to the first check."""
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._data)
            self._begin_stretch()

    def checked(self, fitted_attributes: Callable[[], dict[str, Any]], last: bool) -> bool:
        """A check was made; whether a callback asks to stop.

        Parameters
        ----------
        fitted_attributes : function giving the attributes of the estimator if the fit stopped here
        last : bool, whether no other check will follow
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
        """The fit has ended; a stretch that was cut short ends without a model."""
        if self._stretch is not None:
            self._stretch.call_on_fit_task_end(estimator=self._estimator)
        if self._root is not None:
            self._root.call_on_fit_task_end(
                **self._data, reconstruction_attributes=fitted_attributes
            )

    def _begin_stretch(self) -> None:
        self._stretch = self._root.subcontext(task_name="check")
        self._stretch.call_on_fit_task_begin(**self._data)
