"""Checkpoints: what a long fit writes down, so that it can go on after it was cut off, to the same
result.

A file belongs to one fit: to its rows, weights, parameters and seed, of which it holds a
fingerprint.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skinterflow._persistence.codec import decode, encode
from skinterflow._persistence.container import (
    checked_path,
    pack,
    read_whole,
    unpack,
    write_atomically,
)
from skinterflow.exceptions import SavedModelError
from skinterflow.interflow.warn import warn

_SECONDS = 30.0
"""Time between two writes."""
_KIND = "checkpoint"
_MAX_BYTES = 2**36
"""Size of the largest checkpoint that is read: some ten times that of the largest model, because
optimisers have a state, too."""
_BLOCK_ROWS = 2**16
_DO_NOT_MATTER = ("checkpoint", "device", "n_jobs", "verbose")
"""Parameters with which a fit may go on that differ from those that it began with."""


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : str or path-like
        The file; if there is one, the fit goes on from it.
    mark : str
        Fingerprint of the fit.
    seed : int
        Seed of the fit if it is to begin; one that goes on has that of the file.

    Attributes
    ----------
    seed : int
    state : dict or None, what to go on from

    Raises
    ------
    ValueError
        If the file belongs to another fit, or is no checkpoint; if the path is none.
    OSError
        If it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], mark: str, seed: int) -> None:
        self.path = Path(checked_path(path, "checkpoint"))
        self.seed, self.state = seed, None
        self._mark, self._written = mark, time.monotonic()
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            noted: dict[str, Any] = decode(*unpack(read_whole(self.path, _MAX_BYTES), _KIND))
        except SavedModelError as error:
            raise SavedModelError(
                f"checkpoint={str(self.path)!r} cannot be resumed: {error} Delete the file to "
                "begin anew."
            ) from error
        if noted["mark"] != self._mark:
            raise ValueError(
                f"checkpoint={str(self.path)!r} belongs to another fit: of other rows, weights, "
                "parameters or random_state. Delete the file to begin anew, or name another one."
            )
        self.state = noted["state"]
        self.seed = noted["state"]["seed"]

    def write(self, state: dict[str, Any]) -> None:
        """Write the state down."""
        tree, arrays = encode({"mark": self._mark, "state": state})
        write_atomically(self.path, pack(tree, arrays, _KIND))
        self._written = time.monotonic()

    def note(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state down, if the last time was long ago; a disk that fails costs the
        checkpoint, not the fit."""
        if time.monotonic() - self._written < _SECONDS:
            return
        try:
            self.write(state())
        except OSError as error:
            self._written = time.monotonic()
            warn(
                "The fit goes on, but its progress could not be written to "
                f"checkpoint={str(self.path)!r}: {error}",
            )

    def remove(self) -> None:
        """The fit is done: its file goes."""
        self.path.unlink(missing_ok=True)


def fingerprint(
    estimator: BaseEstimator, details: Sequence[Any], arrays: Iterable[NDArray[Any]]
) -> str:
    """What tells one fit from another: the class, the parameters, such details as the seed, and the
    arrays."""
    sha256 = hashlib.sha256(repr((type(estimator).__name__, list(details))).encode())
    for name, value in sorted(estimator.get_params(deep=False).items()):
        if name not in (*_DO_NOT_MATTER, "random_state"):
            sha256.update(repr((name, _plain(value))).encode())
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        for start in range(0, len(array), _BLOCK_ROWS):
            sha256.update(np.ascontiguousarray(array[start : start + _BLOCK_ROWS]).tobytes())
    return sha256.hexdigest()


def _plain(value: Any) -> Any:
    """A value whose representation is the same in another process: of an object, its class."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | None) else type(value).__qualname__
