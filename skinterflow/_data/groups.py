"""Rows that are held out together: those of one group, and exact copies of one row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skinterflow.exceptions import DegenerateDataWarning
from skinterflow.interflow.warn import warn

Codes = NDArray[np.int64]

_MOST_HASHED = 2**20
"""Number of hashes in memory; of longer data, only a fraction of all hash values is stored."""
_BLOCK_ROWS = 2**16
_MANY_COPIES = 0.05
"""Fraction of copies above which a fit warns."""
_MIN_DISTINCT_ROWS = 50
"""Distinct rows below which equal rows are taken for discrete data rather than for copies."""


def checked_groups(groups: ArrayLike, n_rows: int) -> Codes:
    """Return the group number of each row, from labels of any type.

    Raises
    ------
    ValueError
        If there is not one label for each row, or one is NaN.
    """
    labels = np.asarray(groups)
    if labels.shape != (n_rows,):
        raise ValueError(
            f"groups must hold one label for each of the {n_rows} rows of X, got an array of shape "
            f"{labels.shape}."
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(
            f"groups contains NaN for {int(np.isnan(labels).sum())} of {n_rows} rows; give each "
            "row a label."
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def copies(
    X: NDArray[np.floating],
    without_density: Callable[[NDArray[np.floating]], NDArray[np.bool_]] | None = None,
) -> tuple[float, Codes | None]:
    """Find rows that are exact copies of other rows.

    Of very many rows a subset of the distinct rows is examined, each with all of its copies.

    Parameters
    ----------
    X : array of shape (n, D)
    without_density : callable or None
        Which of some rows have no density, so that equal ones are no surprise and not counted as
        copies; None is no such row.

    Returns
    -------
    fraction : float, fraction of the rows that repeat an earlier one
    codes : array of shape (n,) or None
        A number for each row, the same for equal rows.  None if there are no copies, if the data
        are discrete, or if not all rows were examined.
    """
    one_of = -(-len(X) // _MOST_HASHED)
    starts = range(0, len(X), _BLOCK_ROWS)
    blocks = (
        _hashes_of_block(X[start : start + _BLOCK_ROWS], start, without_density) for start in starts
    )
    hashes = np.concatenate([block[block % np.uint64(one_of) == 0] for block in blocks])
    values, first, codes = np.unique(hashes, return_index=True, return_inverse=True)
    # Numbered in the order of the rows, so that the folds do not depend on the units of the data.
    codes = first.argsort().argsort()[codes]
    fraction = 1.0 - len(values) / max(1, len(hashes))
    discrete = len(values) < _MIN_DISTINCT_ROWS
    has_codes = one_of == 1 and fraction > 0 and not discrete
    return fraction, codes.astype(np.int64) if has_codes else None


def warn_copies(fraction: float, grouped: bool) -> None:
    """Warn if many rows are exact copies of other rows."""
    if fraction > _MANY_COPIES:
        held_out = (
            "; copies are held out together"
            if grouped
            else ", and held-out rows may be copies of training rows"
        )
        warn(
            f"{fraction:.0%} of the rows are exact copies of other rows: the likelihood is "
            f"unbounded at repeated points{held_out}.  Drop the copies (use sample_weight for "
            "their counts), or pass rows that belong together as groups.",
            DegenerateDataWarning,
        )


def grouped_folds(codes: Codes, n_folds: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of folds of about equal size, in random order, with each group in one fold."""
    sizes = _sizes(codes)
    order = torch.randperm(len(sizes), generator=generator).numpy()
    fold_of, loads = np.empty(len(sizes), dtype=np.int64), np.zeros(min(n_folds, len(sizes)))
    # The largest groups first, each into the smallest fold: sizes stay balanced.
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = loads.argmin()
        loads[fold_of[group]] += sizes[group]
    return [_shuffled(np.flatnonzero(fold_of[codes] == k), generator) for k in range(len(loads))]


def grouped_part(codes: Codes, n_rows: int, generator: torch.Generator) -> Tensor:
    """Row numbers of about `n_rows` rows in random whole groups, in random order.

    There is at least one group, and at least one is left out.
    """
    sizes, total = _sizes(codes), 0
    taken = np.zeros(len(sizes), dtype=bool)
    for group in torch.randperm(len(sizes), generator=generator).numpy():
        if total + sizes[group] <= n_rows:
            taken[group] = True
            total += int(sizes[group])
        if total >= 0.9 * n_rows:
            break
    if not total or taken.all():
        taken[:] = False
        taken[sizes.argmin()] = True
    return _shuffled(np.flatnonzero(taken[codes]), generator)


def _sizes(codes: Codes) -> NDArray[np.int64]:
    sizes = np.bincount(codes)
    if len(sizes) < 2:
        raise ValueError(
            "groups has one label for all rows, which leaves none to train on if they are held "
            "out; give more groups, or set early_stopping=False."
        )
    return sizes


def _shuffled(rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    return torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)]


def _hashes_of_block(
    X: NDArray[np.floating],
    start: int,
    without_density: Callable[[NDArray[np.floating]], NDArray[np.bool_]] | None,
) -> NDArray[np.uint64]:
    """Hashes of a block from row `start` on; those of rows without a density all differ."""
    hashes = _hashes(X)
    if without_density is not None:
        numbers = start + np.arange(len(X), dtype=np.float64)[:, None]
        hashes = np.where(without_density(X), _hashes(numbers), hashes)
    return hashes


def _hashes(X: NDArray[np.floating]) -> NDArray[np.uint64]:
    """64-bit hashes of the rows."""
    # Adding zero turns -0.0 into 0.0, which is equal but has other bits.
    bits = (np.ascontiguousarray(X, dtype=np.float64) + 0.0).view(np.uint64)
    hashes = np.zeros(len(X), dtype=np.uint64)
    for column in bits.T:
        hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return hashes
