"""What the ranks of a process group must have in common before they train together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _get_feature_names

from skinterflow._data.ranks import WAY_OUT
from skinterflow._data.stored import StoredRows
from skinterflow._persistence.checkpoint import plain_value
from skinterflow._version import __version__
from skinterflow.interflow import processes

_OWN_PARAMETERS = ("checkpoint", "device", "n_jobs", "verbose")
"""Parameters that may differ between the ranks."""


def check_calls(estimator: BaseEstimator, X: ArrayLike, warm: bool) -> None:
    """Raise the same error on all ranks unless they fit equal estimators to equal columns.

    Parameters
    ----------
    estimator : estimator, whose class and parameters count
    X : array-like, as the user passed it
    warm : bool, whether an earlier fit is continued

    Raises
    ------
    ValueError
        If the ranks differ, or one of them has no rows.
    """
    if processes.n_ranks() == 1:
        return
    shape = _shape(X)
    details = {
        "the version of skinterflow": __version__,
        "the version of torch": torch.__version__,
        "the estimator": type(estimator).__name__,
        **{
            name: repr(plain_value(value))
            for name, value in sorted(estimator.get_params(deep=False).items())
            if name not in _OWN_PARAMETERS
        },
        "the number of columns": str(shape[1:]),
        "the list of column names": _names(X),
        "n_iter_ of the fit that is continued": str(warm and getattr(estimator, "n_iter_", None)),
    }
    processes.agree(details, WAY_OUT.format("pass the same"))
    empty = [k for k, n in enumerate(processes.of_all(shape[:1])) if n == (0,)]
    if empty:
        raise ValueError(
            f"Rank {empty[0]} of {processes.n_ranks()} has no rows; pass the same rows on every "
            "rank."
        )


def _names(X: Any) -> str:
    """Names of the columns, in their order; "none" without names, or if not all are strings."""
    try:
        names = _get_feature_names(X.header if isinstance(X, StoredRows) else X)
    except TypeError:  # strings and numbers, which the validation refuses
        names = None
    return "none" if names is None else ", ".join(names)


def _shape(X: ArrayLike) -> tuple[int, ...]:
    """Shape of rows that are not yet validated; empty if they have none."""
    try:
        return tuple(getattr(X, "shape", None) or np.shape(X))
    except ValueError:  # a ragged list, which the validation refuses
        return ()
