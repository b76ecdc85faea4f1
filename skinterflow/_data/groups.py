"""Rows that belong together, which are held out together: those of a group, and exact copies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skinterflow.exceptions import DegenerateDataWarning
from skinterflow.interflow.warn import warn

Codes = NDArray[np.int64]

_MOST_HASHED = 2**20
"""Rows whose hashes are kept; of more rows, those of a part of all values are."""
_BLOCK_ROWS = 2**16
_MANY_COPIES = 0.05
_LEAST_VALUES = 50
"""Distinct rows below which copies are repeated values rather than repeated rows."""


def checked_groups(groups: ArrayLike, n_rows: int) -> Codes:
    """Number of the group of each row, from labels of any kind.

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
            f"groups is NaN for {int(np.isnan(labels).sum())} of {n_rows} rows; give each row a "
            "label."
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def copies(X: NDArray[np.floating]) -> tuple[float, Codes | None]:
    """Part of the rows that are exact copies of others, and numbers that equal rows share.

    Of very many rows only a part of the values is looked at, each with all of its copies, and there
    are no numbers.
    """
    one_of = -(-len(X) // _MOST_HASHED)
    blocks = (_hashes(X[start : start + _BLOCK_ROWS]) for start in range(0, len(X), _BLOCK_ROWS))
    hashes = np.concatenate([block[block % np.uint64(one_of) == 0] for block in blocks])
    values, first, codes = np.unique(hashes, return_index=True, return_inverse=True)
    codes = first.argsort().argsort()[codes]  # by the order of the rows, whatever their units
    part = 1.0 - len(values) / max(1, len(hashes))
    few = len(values) < _LEAST_VALUES
    return part, codes.astype(np.int64) if one_of == 1 and part > 0 and not few else None


def warn_copies(part: float, grouped: bool) -> None:
    """Warn of rows that are exact copies of others, if they are many."""
    if part > _MANY_COPIES:
        held_out = (
            "; copies are held out together"
            if grouped
            else ", and held-out rows may be copies of training rows"
        )
        warn(
            f"{part:.0%} of the rows are exact copies of other rows: a density grows without bound "
            f"at repeated points{held_out}.  Drop the copies (weights can stand for them), or name "
            "what belongs together in groups.",
            DegenerateDataWarning,
        )


def grouped_folds(codes: Codes, n_folds: int, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of folds of about equal size that no group is in two of, in random order."""
    sizes = _sizes(codes)
    order = torch.randperm(len(sizes), generator=generator).numpy()
    fold_of, loads = np.empty(len(sizes), dtype=np.int64), np.zeros(min(n_folds, len(sizes)))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = loads.argmin()
        loads[fold_of[group]] += sizes[group]
    return [_shuffled(np.flatnonzero(fold_of[codes] == k), generator) for k in range(len(loads))]


def grouped_part(codes: Codes, n_rows: int, generator: torch.Generator) -> Tensor:
    """Row numbers of random whole groups, in random order: about `n_rows`, and at least one
    group."""
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
            "groups has one label for all rows, which cannot be held out and train; give more "
            "groups, or set early_stopping=False."
        )
    return sizes


def _shuffled(rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    return torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)]


def _hashes(X: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Numbers that are equal for equal rows, and for no others but by a rare chance."""
    bits = (np.ascontiguousarray(X, dtype=np.float64) + 0.0).view(np.uint64)  # minus zero is zero
    hashes = np.zeros(len(X), dtype=np.uint64)
    for column in bits.T:
        hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return hashes
