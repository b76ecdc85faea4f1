"""Validation of levels of quantiles and of intervals."""

from __future__ import annotations

import reprlib
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array


def checked_levels(quantiles: ArrayLike) -> NDArray[np.float64]:
    """Validate levels of quantiles, shape (q,); one number is one level.

    Raises
    ------
    ValueError
        If they are not one or more numbers in (0, 1).
    """
    levels: NDArray[np.float64] = check_array(
        np.atleast_1d(np.asarray(quantiles)),
        ensure_2d=False,
        dtype=np.float64,
        input_name="quantiles",
    )
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            "quantiles must be one or more levels in (0, 1), such as [0.05, 0.5, 0.95], got "
            f"{reprlib.repr(quantiles)}."
        )
    return levels


def checked_coverage(coverage: Any) -> float:
    """Validate the coverage of an interval.

    Raises
    ------
    ValueError
        If it is not a number in (0, 1).
    """
    if not isinstance(coverage, Real) or not 0.0 < float(coverage) < 1.0:
        raise ValueError(
            f"coverage must be a number in (0, 1), such as 0.9, got {reprlib.repr(coverage)}."
        )
    return float(coverage)
