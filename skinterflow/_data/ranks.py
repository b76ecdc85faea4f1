"""Rows that the ranks of a process group must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinterflow._data.degenerate import evenly_spaced
from skinterflow.interflow import processes

_COMPARED_ROWS = 2**16
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


def _sample(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(evenly_spaced(array, _COMPARED_ROWS)).tobytes()
