"""Sample weights: validation and normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array


def checked_weight(
    sample_weight: ArrayLike | None, X: NDArray[Any], name: str = "sample_weight"
) -> NDArray[np.float64]:
    """Validate `sample_weight` and scale it to a maximum in [1/2, 1).

    The scale is a power of two, which is exact, so that no sum of weights overflows.  Without
    weights, all are one and share a single number in memory.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, if all are zero, or if there is not one for each row.
    """
    if sample_weight is None:
        return np.broadcast_to(1.0, len(X))
    weight: NDArray[np.float64] = check_array(
        sample_weight, ensure_2d=False, ensure_min_samples=0, dtype=np.float64, input_name=name
    )
    if not weight.ndim:  # one number, as scikit-learn has it
        weight = np.full(len(X), weight)
    if weight.shape != (len(X),):
        raise ValueError(
            f"{name}.shape == {weight.shape}, expected {(len(X),)}; give one weight for each row."
        )
    if (weight < 0).any():
        raise ValueError(
            f"{name} must not be negative, but the smallest is {weight.min():g}; drop those rows "
            "or clip their weights."
        )
    if not weight.any():
        raise ValueError(
            f"{name} is zero for all {len(X)} rows; at least one row needs a positive weight."
        )
    return np.ldexp(weight, -np.frexp(weight.max())[1])


def weighted_rows(
    X: NDArray[Any], sample_weight: ArrayLike | None, name: str = "sample_weight"
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the rows with a positive weight, and their weights with mean one.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or fewer than two are positive relative to the
        largest.
    """
    weight = checked_weight(sample_weight, X, name)
    if sample_weight is None:
        return X, weight
    positive = weight > 0
    if positive.sum() < 2:
        raise ValueError(
            f"{name} is zero for all but {positive.sum()} of {len(X)} rows; at least two rows need "
            "a positive weight."
        )
    if not positive.all():  # a copy in memory, which rows on disk may not fit into
        X, weight = X[positive], weight[positive]
    return X, weight / weight.mean()
