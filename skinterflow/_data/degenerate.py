"""Columns without a density: constant, collinear, duplicated or of whole numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skinterflow.exceptions import DegenerateDataWarning
from skinterflow.interflow.warn import warn

Array = NDArray[np.float64]

_MAX_ROWS = 100_000
"""Evenly spaced rows that are examined: quantiles and powers are accurate to a third of a
percent."""
_BLOCK_ROWS = 2**16
_CONSTANT_WIDTH = 1e-3
"""Width given to a constant column, relative to its value (to one if the value is zero)."""
COLLINEAR = 1e-10
"""Eigenvalue of a correlation matrix below which columns count as linearly dependent."""
_MAX_LISTED_COLUMNS = 8


def evenly_spaced(X: NDArray[Any], most: int = _MAX_ROWS) -> NDArray[Any]:
    """At most `most` evenly spaced rows, contiguous in memory."""
    return np.ascontiguousarray(X[:: spacing(len(X), most)])


def spacing(n_rows: int, most: int = _MAX_ROWS) -> int:
    """Distance of at most `most` evenly spaced rows."""
    return -(-n_rows // most)


def row_blocks(
    X: Any, n_rows: int = _BLOCK_ROWS, part: slice = slice(None)
) -> Iterator[NDArray[Any]]:
    """Blocks of a part of the rows, at least one.

    Each block is read when it is needed, as `X` may be on disk.
    """
    first, end, _ = part.indices(len(X))
    for start in range(first, max(first + 1, end), n_rows):
        yield X[start : min(start + n_rows, end)]


def constant_widths(X: NDArray[Any]) -> Array:
    """Noise level for each constant column, zero for the others: shape (D,)."""
    lowest, highest = X.min(axis=0), X.max(axis=0)
    # A few units of rounding count as constant: a column that was scaled by a factor may have them.
    constant = highest - lowest <= 4 * np.finfo(X.dtype).eps * np.maximum(
        np.abs(lowest), np.abs(highest)
    )
    return np.where(constant, floored(np.zeros(X.shape[1]), X[0].astype(np.float64)), 0.0)


def spread_constant_columns(X: NDArray[Any], widths: Array, generator: torch.Generator) -> Array:
    """Copy of `X` in float64, with normal noise of standard deviation `widths` on its columns."""
    x = X.astype(np.float64)
    for j in np.flatnonzero(widths):
        x[:, j] += widths[j] * torch.randn(len(x), generator=generator, dtype=torch.float64).numpy()
    return x


def spread_whole_numbers(X: Array, whole: NDArray[np.bool_], generator: torch.Generator) -> Array:
    """Add uniform noise in ``[-1/2, 1/2)`` to columns of whole numbers, in place."""
    if whole.any():
        shape = len(X), int(whole.sum())
        X[:, whole] += torch.rand(shape, generator=generator, dtype=torch.float64).numpy() - 0.5
    return X


def warn_degenerate(
    X: NDArray[Any], widths: Array, names: Sequence[str], declared: NDArray[np.bool_]
) -> None:
    """Warn of columns without a density; columns that are `declared` as whole numbers have one."""
    X, constant = evenly_spaced(X), widths > 0
    whole = ~constant & ~declared & (np.rint(X) == X).all(axis=0)
    for columns, what in (
        (constant, f"are constant and given a width of {_CONSTANT_WIDTH:g} times their value"),
        (
            _collinear_columns(X, ~constant & ~declared),
            "are collinear or duplicated: the density is singular and its values are large; drop "
            "redundant columns",
        ),
        (
            whole,
            "are integer-valued: the log-density grows without bound as the fit improves; name "
            "them in integer_features (InterpolantFlowDensity), or add uniform noise to them",
        ),
    ):
        warn_columns(names, columns, what)


def warn_columns(names: Sequence[str], flagged: NDArray[np.bool_], what: str) -> None:
    """Warn of the flagged columns, if there are any: `what` completes "n column(s) ..."."""
    if flagged.any():
        columns = [name for name, flag in zip(names, flagged, strict=True) if flag]
        warn(
            f"{len(columns)} column(s) {what}: {shown(columns)}.",
            DegenerateDataWarning,
        )


def shown(names: Sequence[str]) -> str:
    """Comma-separated names, shortened to the first few and a count of the others."""
    n_more = len(names) - _MAX_LISTED_COLUMNS
    more = f" and {n_more} more" if n_more > 0 else ""
    return f"{', '.join(names[:_MAX_LISTED_COLUMNS])}{more}"


def _collinear_columns(X: NDArray[Any], varying: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Columns that take part in an exact linear relation."""
    flagged = np.zeros(X.shape[1], dtype=bool)
    if varying.sum() < 2 or len(X) <= varying.sum():
        return flagged
    columns = X[:, varying].astype(np.float64)
    columns = (columns - columns.mean(axis=0)) / floored(columns.std(axis=0), columns.mean(axis=0))
    eigenvalues, eigenvectors = np.linalg.eigh(columns.T @ columns / len(columns))
    null = eigenvectors[:, eigenvalues < COLLINEAR * varying.sum()]
    flagged[varying] = (np.abs(null) > 1e-3).any(axis=1)
    return flagged


def floored(scale: Array, location: Array) -> Array:
    """Replace zeros of `scale` by a small width relative to the location."""
    return np.where(
        scale > 0, scale, _CONSTANT_WIDTH * np.where(location == 0, 1.0, np.abs(location))
    )
