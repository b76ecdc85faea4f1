"""Checkpoints, from which an interrupted fit is resumed to the same result.

Of several processes, the first reads and writes the file, which does not depend on their number.

A file belongs to one fit: it holds a fingerprint of the rows, weights, parameters and seed.
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
from skinterflow.interflow import processes
from skinterflow.interflow.warn import warn

_SECONDS = 30.0
"""Minimum time between two writes."""
_KIND = "checkpoint"
_MAX_BYTES = 2**36
"""Maximum size of a checkpoint: about ten times that of a model, to hold the optimiser's state."""
_BLOCK_ROWS = 2**16
_IGNORED_PARAMETERS = ("checkpoint", "device", "n_jobs", "verbose", "random_state")
"""Parameters that may change before a fit is resumed; of `random_state`, the drawn seed counts."""


class Checkpoint:
    """The checkpoint file of one fit.

    Parameters
    ----------
    path : str or path-like
        Name of the file; if it exists, the fit is resumed from it.
    fingerprint : str
        Fingerprint of the fit, see :func:`fingerprint`.
    seed : int
        Seed of a new fit; a resumed one takes the seed from the file.

    Attributes
    ----------
    seed : int
    state : dict or None
        State to resume from; None for a new fit.

    Raises
    ------
    ValueError
        If the file belongs to another fit or is not a checkpoint, or if the path is not valid.
    OSError
        If it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str, seed: int) -> None:
        self.path = Path(checked_path(path, "checkpoint"))
        self.seed, self.state = seed, None
        self._fingerprint, self._written = fingerprint, time.monotonic()
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content: dict[str, Any] = decode(*unpack(read_whole(self.path, _MAX_BYTES), _KIND))
        except SavedModelError as error:
            raise SavedModelError(
                f"checkpoint={str(self.path)!r} cannot be resumed: {error} Delete the file to "
                "start a new fit."
            ) from error
        if content["mark"] != self._fingerprint:  # "mark" is the key of version 0.1
            raise ValueError(
                f"checkpoint={str(self.path)!r} belongs to another fit: the rows, weights, "
                "parameters or random_state differ. Delete the file to start a new fit, or choose "
                "another one."
            )
        self.state = content["state"]
        self.seed = content["state"]["seed"]

    def write(self, state: dict[str, Any]) -> None:
        """Write the state to the file, on the first rank."""
        if processes.rank() > 0:
            return
        tree, arrays = encode({"mark": self._fingerprint, "state": state})
        write_atomically(self.path, pack(tree, arrays, _KIND))
        self._written = time.monotonic()

    def write_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state to the file if the last write is old enough, on the first rank.

        If the disk fails, warn and let the fit continue.
        """
        if processes.rank() > 0 or time.monotonic() - self._written < _SECONDS:
            return
        try:
            self.write(state())
        except OSError as error:
            self._written = time.monotonic()
            warn(
                "The fit continues, but its progress could not be written to "
                f"checkpoint={str(self.path)!r}: {error}",
            )

    def remove(self) -> None:
        """Delete the file of a finished fit."""
        if processes.rank() == 0:
            self.path.unlink(missing_ok=True)


def fingerprint(
    estimator: BaseEstimator, details: Sequence[Any], arrays: Iterable[NDArray[Any]]
) -> str:
    """SHA-256 digest that identifies a fit.

    Parameters
    ----------
    estimator : estimator, of which the class and the parameters count
    details : sequence, of values with a stable representation such as the seed
    arrays : iterable of arrays, the rows and weights
    """
    sha256 = hashlib.sha256(repr((type(estimator).__name__, list(details))).encode())
    for name, value in sorted(estimator.get_params(deep=False).items()):
        if name not in _IGNORED_PARAMETERS:
            sha256.update(repr((name, plain_value(value))).encode())
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        for start in range(0, len(array), _BLOCK_ROWS):
            sha256.update(np.ascontiguousarray(array[start : start + _BLOCK_ROWS]).tobytes())
    return sha256.hexdigest()


def plain_value(value: Any) -> Any:
    """A value with the same representation in every process: an object is reduced to its class."""
    if isinstance(value, list | tuple):
        return [plain_value(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | None) else type(value).__qualname__
