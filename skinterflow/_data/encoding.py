"""Encoding of features: missing values, categories and scales become columns of a network's input.

A numerical column is centred, scaled and clipped smoothly; if it has missing values, they are
replaced by the centre and marked by a further column.  A categorical column becomes one indicator
for each category; a missing category has none of them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_CLIP = 5.0
"""Bound on scaled numbers, which a smooth clip approaches."""
_NORMAL_RANGE = 1.349
"""Distance of the quartiles of a standard normal."""


@dataclass(frozen=True)
class FeatureEncoding:
    """Encoding of the columns of a matrix, as estimated on training rows.

    Parameters
    ----------
    categories : dict of int to list
        Categories of each categorical column, by its number; its entries are their numbers.
    missing : array of shape (d,) of bool
        Numerical columns with missing values.
    center, scale : arrays of shape (d,)
    """

    categories: dict[int, list[Any]]
    missing: NDArray[np.bool_]
    center: Array
    scale: Array

    @property
    def n_columns(self) -> int:
        """Number of encoded columns."""
        return self.encode(np.zeros((0, len(self.center))), []).shape[1]

    def encode(self, X: Array, names: Sequence[str]) -> Array:
        """Encode rows.

        Parameters
        ----------
        X : array of shape (n, d), with NaN for missing values
        names : sequence of d str

        Returns
        -------
        array of shape (n, n_columns)

        Raises
        ------
        ValueError
            If a column has missing values but had none in the fit.
        """
        parts: list[Array] = []
        for j, column in enumerate(X.T):
            lacking = np.isnan(column)
            if j in self.categories:
                numbers = np.arange(len(self.categories[j]))
                parts.append((column[:, None] == numbers).astype(np.float64))
                continue
            if lacking.any() and not self.missing[j]:
                raise ValueError(
                    f"{int(lacking.sum())} of {len(X)} values of {names[j]} are missing, but none "
                    "was in fit; impute them, or fit with rows that lack them."
                )
            scaled = np.where(lacking, 0.0, (column - self.center[j]) / self.scale[j])
            parts.append((scaled / np.hypot(1.0, scaled / _CLIP))[:, None])
            if self.missing[j]:
                parts.append(lacking[:, None].astype(np.float64))
        return np.hstack(parts)


def estimate_encoding(X: Array, categories: dict[int, list[Any]]) -> FeatureEncoding:
    """Estimate the encoding of the columns of `X`, shape (n, d), with NaN for missing values."""
    missing: NDArray[np.bool_] = np.asarray(np.isnan(X).any(axis=0))
    center, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
    for j, column in enumerate(X.T):
        present = column[~np.isnan(column)]
        if j in categories or not len(present):
            continue
        low, center[j], high = np.quantile(present, [0.25, 0.5, 0.75])
        center[j] = center[j] if low < high else present.mean()
        # The deviation is less for flat columns, the range of the quartiles for heavy tails.
        spread = min(present.std(), (high - low) / _NORMAL_RANGE if low < high else np.inf)
        scale[j] = spread if spread > 0 and np.isfinite(spread) else 1.0
    return FeatureEncoding(categories, missing, center, scale)


def categorical_columns(
    X: Any, categorical_features: ArrayLike | str | None, names: Sequence[str]
) -> list[int]:
    """Numbers of the categorical columns.

    Parameters
    ----------
    X : as the user gave it
    categorical_features : "from_dtype", None, mask, or sequence of names or numbers
    names : sequence of str, names of the columns

    Raises
    ------
    ValueError
        If a column does not exist, or a mask has another length.
    """
    if categorical_features is None:
        return []
    if isinstance(categorical_features, str):
        return [j for j, dtype in enumerate(frame_dtypes(X)) if _is_categorical(dtype)]
    given = np.asarray(categorical_features)
    if given.dtype == bool:
        if given.shape != (len(names),):
            raise ValueError(
                f"categorical_features is a mask of shape {given.shape}, but X has {len(names)} "
                "columns; give one boolean for each."
            )
        return [int(j) for j in np.flatnonzero(given)]
    columns = []
    for entry in given.ravel().tolist():
        known = names.index(entry) if isinstance(entry, str) and entry in names else entry
        if not isinstance(known, int) or not 0 <= known < len(names):
            raise ValueError(
                f"categorical_features has {entry!r}, which is not a column of X; its columns are "
                f"{reprlib.repr(list(names))}."
            )
        columns.append(known)
    return sorted({*columns})


def frame_dtypes(X: Any) -> list[Any]:
    """Types of the columns of a data frame; none for anything else."""
    dtypes = getattr(X, "dtypes", None)
    return list(dtypes) if dtypes is not None and getattr(X, "columns", None) is not None else []


def _is_categorical(dtype: Any) -> bool:
    """Whether a column is categorical: of pandas, or a Categorical or Enum of polars."""
    return str(dtype).partition("(")[0] in ("category", "Categorical", "Enum")


def column_values(X: Any, j: int) -> NDArray[Any]:
    """Values of column `j` of a data frame or an array."""
    column = X[list(X.columns)[j]] if frame_dtypes(X) else np.asarray(X)[:, j]
    return np.asarray(column, dtype=object)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or another value that differs from itself."""
    return value is None or bool(value != value) if not _is_na(value) else True


def _is_na(value: Any) -> bool:
    return type(value).__name__ in ("NAType", "NaTType")


def learn_categories(values: NDArray[Any]) -> list[Any]:
    """Categories of a column, sorted; numbers and strings."""
    return sorted({_plain(value) for value in values if not is_missing(value)}, key=_order)


def category_numbers(values: NDArray[Any], categories: Sequence[Any], name: str) -> Array:
    """Numbers of the categories of a column, NaN for missing ones.

    Raises
    ------
    ValueError
        If a category is unknown.
    """
    numbers = {category: float(k) for k, category in enumerate(categories)}
    plain = [None if is_missing(value) else _plain(value) for value in values]
    unknown = [value for value in plain if value is not None and value not in numbers]
    if unknown:
        raise ValueError(
            f"{name} has the category {unknown[0]!r} in {len(unknown)} of {len(plain)} rows, which "
            f"was not in fit; its categories are {reprlib.repr(list(categories))}.  Replace it, by "
            "a missing value for example."
        )
    return np.array([np.nan if value is None else numbers[value] for value in plain])


def _plain(value: Any) -> Any:
    """A category as an object that can be saved."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def _order(value: Any) -> tuple[str, Any]:
    return ("", value) if isinstance(value, bool | int | float) else ("s", value)
