"""launch: a fit on several processes of this machine, for those without a launcher."""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike

from skinterflow._base import FlowEstimator
from skinterflow.interflow.processes import ProcessGroupError
from skinterflow.outliers import InterpolantFlowOutlierDetector

_Fitted = FlowEstimator | InterpolantFlowOutlierDetector
_Estimator = TypeVar("_Estimator", bound=_Fitted)

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
"""Time that the other processes have for an error of their own after one has crashed."""
_CALL, _MODEL, _STORE = "call", "model", "store"
"""Names of files in the folder that the processes share."""


class _MappedFile(NamedTuple):
    """A memory map, which a process opens instead of reading a copy."""

    filename: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    order: str

    @classmethod
    def of(cls, array: Any) -> Any:
        """The file of an array that is the whole of a memory map; anything else unchanged."""
        # The base of a part of a map is another array: its place in the file is not known.
        if not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)):
            return array
        order = "C" if array.flags.c_contiguous else "F"
        return cls(str(array.filename), array.dtype, array.offset, array.shape, order)

    def open(self) -> np.memmap[Any, Any]:
        """Open the map for reading."""
        opened: np.memmap[Any, Any] = np.memmap(  # type: ignore[call-overload]
            self.filename, self.dtype, "r", self.offset, self.shape, self.order
        )
        return opened


def launch(
    estimator: _Estimator,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    n_processes: int = 2,
    timeout: float = 600.0,
    **fit_params: Any,
) -> _Estimator:
    """Fit an estimator on several processes of this machine.

    The result is that of ``estimator.fit(X, y, **fit_params)``.  Each process has an equal part of
    the threads of torch, or a GPU of its own if `device` is one.  Starting the processes takes
    seconds, because each one imports Python's modules.  A script needs the line
    ``if __name__ == "__main__":`` before the call, because the processes import it.

    Parameters
    ----------
    estimator : estimator of this package
        Fitted in place.
    X : array-like of shape (n_samples, n_features)
        Rows.  A ``numpy.memmap`` is opened by each process, and not copied.
    y : array-like or None, default=None
        Second argument of `fit`: the outputs of a regressor, the target rows of a transport.
    n_processes : int, default=2
        Number of processes.
    timeout : float, default=600.0
        Seconds that a process waits for the others before it raises an error.
    **fit_params
        Further arguments of `fit`, such as `sample_weight`.

    Returns
    -------
    estimator : object
        The fitted estimator.

    Raises
    ------
    ValueError
        If `n_processes` is not a positive integer, if there are fewer GPUs than processes, or a
        process group.
    TypeError
        If the estimator is not one of this package.
    ProcessGroupError
        If a process ended without a message.
    Exception
        That of `fit` on the first process that failed.  The estimator remains as it was.
    KeyboardInterrupt
        After Ctrl-C, with the best weights so far, as in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowDensity, launch
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> density = InterpolantFlowDensity(early_stopping=False, max_iter=5, random_state=0)
    >>> launch(density, X, n_processes=1).n_iter_
    5
    """
    _check(estimator, n_processes)
    arguments = [X] if y is None else [X, y]
    if n_processes == 1:
        estimator.fit(*arguments, **fit_params)
        return estimator
    with tempfile.TemporaryDirectory(prefix="skinterflow") as name:
        folder = Path(name)
        given = estimator, [_MappedFile.of(argument) for argument in arguments], fit_params
        joblib.dump(given, folder / _CALL)
        interrupted = _run(folder, n_processes, timeout)
        fitted = joblib.load(folder / _MODEL)
    parameters = estimator.get_params(deep=False)
    others = {name: value for name, value in vars(fitted).items() if name not in parameters}
    estimator.__dict__ = parameters | others
    if interrupted is not None:
        raise interrupted
    return estimator


def _check(estimator: _Fitted, n_processes: int) -> None:
    if not isinstance(estimator, _Fitted):
        raise TypeError(
            f"launch fits the estimators of this package, got {type(estimator).__name__}; use "
            "joblib for others."
        )
    if not isinstance(n_processes, Integral) or n_processes < 1:
        raise ValueError(f"n_processes must be an integer of at least 1, got {n_processes!r}.")
    if dist.is_available() and dist.is_initialized():
        raise ValueError(
            "launch starts a process group, but this process is already in one; call fit on all "
            "of its ranks instead."
        )
    n_devices = torch.cuda.device_count()
    if _uses_gpus(estimator) and n_processes > n_devices:
        raise ValueError(
            f"n_processes={n_processes} is more than the {n_devices} GPUs of this machine; use "
            "fewer processes, or device='cpu'."
        )


def _uses_gpus(estimator: _Fitted) -> bool:
    device = str(estimator.device)
    return torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))


def _run(folder: Path, n_processes: int, timeout: float) -> KeyboardInterrupt | None:
    """Run the processes to their end; return a Ctrl-C after which there is a model.

    Raises
    ------
    Exception
        That of the first process that failed.
    """
    n_threads = max(1, torch.get_num_threads() // n_processes)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_work, args=(rank, n_processes, folder, timeout, n_threads), daemon=True
        )
        for rank in range(n_processes)
    ]
    for process in processes:
        process.start()
    try:
        _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    paths = (folder / f"error{rank}" for rank in range(n_processes))
    errors = [joblib.load(path) for path in paths if path.is_file()]
    errors.sort(key=lambda error: isinstance(error, ProcessGroupError))
    if not (folder / _MODEL).is_file():
        raise errors[0] if errors else _without_message(processes)
    interrupts = [error for error in errors if isinstance(error, KeyboardInterrupt)]
    return interrupts[0] if interrupts else None


def _wait(processes: Sequence[SpawnProcess]) -> None:
    """Wait for all processes, or shortly if one has crashed; pass Ctrl-C on to the first one."""
    deadline = math.inf
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        try:
            for process in processes:
                process.join(_POLL_SECONDS)
        except KeyboardInterrupt:
            if processes[0].pid is None or os.name != "posix":
                raise
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes[0].pid, signal.SIGINT)


def _without_message(processes: Sequence[SpawnProcess]) -> ProcessGroupError:
    codes = [process.exitcode for process in processes]
    return ProcessGroupError(
        f"The processes ended without a model, with the exit codes {codes}.  A script that calls "
        "launch needs the line `if __name__ == '__main__':` before it; otherwise the cause is "
        "printed above."
    )


def _work(rank: int, n_processes: int, folder: Path, timeout: float, n_threads: int) -> None:
    """Fit on one process; leave the model, if it is the first one, or the error in the folder."""
    if os.name == "posix":
        os.setsid()  # Ctrl-C in a terminal would reach all processes
    torch.set_num_threads(n_threads)
    try:
        estimator, arguments, fit_params = joblib.load(folder / _CALL, mmap_mode="r")
        with_gpus = _uses_gpus(estimator)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if with_gpus else "gloo",
            store=dist.FileStore(str(folder / _STORE), n_processes),  # type: ignore[attr-defined]
            rank=rank,
            world_size=n_processes,
            timeout=timedelta(seconds=timeout),
        )
        if with_gpus:
            estimator.set_params(device=f"cuda:{rank}")
        opened = [one.open() if isinstance(one, _MappedFile) else one for one in arguments]
        try:
            estimator.fit(*opened, **fit_params)
        except KeyboardInterrupt as interrupt:
            joblib.dump(KeyboardInterrupt(str(interrupt)), folder / f"error{rank}")
        if rank == 0 and estimator.__sklearn_is_fitted__():
            joblib.dump(estimator, folder / _MODEL)
    except Exception as error:
        joblib.dump(error, folder / f"error{rank}")
    if dist.is_initialized():
        dist.destroy_process_group()
