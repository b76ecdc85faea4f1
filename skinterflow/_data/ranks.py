"""Rows that the ranks of a process group must have in common."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skinterflow._data.degenerate import evenly_spaced
from skinterflow.interflow import processes

_COMPARED_ROWS = 2**16
_BLOCK_ROWS = 2**16
_LARGE_BYTES = 2**30
WAY_OUT = "{} on every rank, or call it within skinterflow.one_process() to use this rank alone."


def check_rows(data: Sequence[NDArray[Any]]) -> None:
    """Raise the same error on all ranks unless they have the same rows, weights and targets.

    Of long arrays, some rows are compared.

    Raises
    ------
    ValueError
        If the ranks differ.
    """
    if processes.n_ranks() == 1:
        return
    details = {
        "the number of rows": str([len(array) for array in data]),
        "the content of the rows": hashlib.sha256(b"".join(map(_sample, data))).hexdigest()[:12],
    }
    processes.agree(details, WAY_OUT.format("pass the same rows, in the same order,"))


def gathered_parts(
    X: NDArray[Any], sample_weight: ArrayLike | None, groups: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Gather rows, weights and group labels, of which each rank has a part, in the order of ranks.

    Raises
    ------
    ValueError
        If there is no process group, if the ranks have different columns or dtypes, or only some of
        them have weights or groups, or one for each of their rows.
    """
    if processes.n_ranks() == 1:
        raise ValueError(
            "sharded=True needs a process group of torch.distributed with several ranks; call fit "
            "on all of its ranks, or pass all rows with sharded=False."
        )
    optional = {"sample_weight": sample_weight, "groups": groups}
    arrays = {name: np.asarray(part) for name, part in optional.items() if part is not None}
    details = {
        "the number of columns": str(X.shape[1]),
        "the dtype of the rows": str(X.dtype),
        **{name: "given" if name in arrays else "missing" for name in optional},
    }
    processes.agree(details, WAY_OUT.format("pass the same"))
    for name, array in arrays.items():
        if array.shape != (len(X),):
            raise ValueError(
                f"{name}.shape == {array.shape}, expected {(len(X),)}; give one entry for each row "
                "of this rank."
            )
    whole = {name: np.concatenate(processes.of_all(array)) for name, array in arrays.items()}
    return _gathered_rows(X), whole.get("sample_weight"), whole.get("groups")


def _gathered_rows(X: NDArray[Any]) -> NDArray[Any]:
    """Rows of all ranks, in memory or in a file that is deleted with the array."""
    sizes = processes.of_all(len(X))
    shape = sum(sizes), X.shape[1]
    large = X.dtype.itemsize * shape[0] * shape[1] > _LARGE_BYTES
    whole: NDArray[Any] = (
        np.memmap(tempfile.TemporaryFile(), X.dtype, "w+", 0, shape)  # noqa: SIM115
        if large
        else np.empty(shape, X.dtype)
    )
    end = 0
    for rank, size in enumerate(sizes):
        for start in range(0, size, _BLOCK_ROWS):
            block = whole[end + start : end + min(start + _BLOCK_ROWS, size)]
            if rank == processes.rank():
                block[:] = X[start : start + _BLOCK_ROWS]
            block[:] = processes.tensor_of(rank, torch.from_numpy(np.array(block))).numpy()
        end += size
    return whole


def _sample(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(evenly_spaced(array, _COMPARED_ROWS)).tobytes()
