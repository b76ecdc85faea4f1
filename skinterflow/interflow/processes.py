"""Processes: one call, made by all ranks of a process group together.

Launchers such as torchrun start several processes and initialise ``torch.distributed``.  Within
:func:`all_ranks`, each rank works on its share of the rows, and all ranks get the same result.
Without a process group, or within :func:`one_process`, there is one rank, and nothing is sent.

Decisions must be shared, because a rank that takes another branch than the others waits for them
in vain.  A rank that fails leaves a message for the others and closes its connections, so that they
raise an error at once instead of waiting for the timeout of the process group.  Ctrl-C is only
noted, and takes effect on all ranks after the same training step.

Connections for messages between CPUs are made anew for each call.  Sums of tensors on a GPU use the
process group itself if it supports GPUs.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

_Value = TypeVar("_Value")

_MESSAGE_SECONDS = 2.0
"""Time to wait for the message of a rank that failed, before it is taken for lost."""
_KEY = "skinterflow"
_MOST_SHOWN = 200
"""Characters of a value that an error shows."""


class ProcessGroupError(RuntimeError):
    """Error on a rank that cannot continue, because of another rank of its process group.

    Examples
    --------
    >>> from skinterflow import ProcessGroupError
    >>> issubclass(ProcessGroupError, RuntimeError)
    True
    """


class _Ranks:
    """The ranks of a process group, with connections of their own for one call."""

    n_calls = 0

    def __init__(self) -> None:
        # Not all builds of torch have it.
        from torch.distributed.distributed_c10d import _get_default_store

        world = cast("dist.ProcessGroup", dist.group.WORLD)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.interrupted = False
        self._has_gpus = "nccl" in dist.get_backend_config()
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        self._timeout: timedelta = world._get_backend(torch.device(device)).options._timeout
        self._store = _get_default_store()
        _Ranks.n_calls += 1
        self._key = f"{_KEY}/{_Ranks.n_calls}"
        self._failed = False
        try:
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        except RuntimeError as error:
            raise ProcessGroupError(
                f"Rank {self.rank} of {self.size} waited {self._timeout.total_seconds():g} seconds "
                "for the other ranks: within a process group, all of them have to make the same "
                "call.  On one rank alone, call it within skinterflow.one_process()."
            ) from error

    def send(self, operation: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Run a collective operation on these connections.

        Raises
        ------
        ProcessGroupError
            If another rank failed, was lost, or did not answer in time.
        """
        try:
            if self._failed:
                raise RuntimeError("An earlier call failed.")
            operation(*arguments, group=self._group, **options)
        except RuntimeError as error:
            message = self._message_of_others()
            raise ProcessGroupError(
                f"Rank {self.rank} of {self.size} stopped, because "
                + (
                    message
                    or "another process ended, cannot be reached, or did not answer within "
                    f"{self._timeout.total_seconds():g} seconds; start all processes again "
                    f"({str(error).splitlines()[0]})"
                )
            ) from error

    def total(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the ranks."""
        if tensor.device.type != "cuda":
            self.send(dist.all_reduce, tensor)
        elif self._has_gpus:
            dist.all_reduce(tensor)
        else:
            on_cpu = tensor.cpu()
            self.send(dist.all_reduce, on_cpu)
            tensor.copy_(on_cpu)

    def fail(self, error: BaseException) -> None:
        """Leave a message for the other ranks, and close the connections."""
        if self._failed:
            return
        self._failed = True
        if not isinstance(error, ProcessGroupError):
            with contextlib.suppress(RuntimeError):  # the store may be lost with its rank
                self._store.set(
                    f"{self._key}/{self.rank}",
                    f"rank {self.rank} failed with {type(error).__name__}: {error}",
                )
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if dist.is_initialized() and self._group is not None:
            dist.destroy_process_group(self._group)
        self._group = None

    def _message_of_others(self) -> str | None:
        """Message of another rank that failed; None if there is none after a short time."""
        keys = [f"{self._key}/{rank}" for rank in range(self.size) if rank != self.rank]
        deadline = time.monotonic() + _MESSAGE_SECONDS
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < deadline:
                for key in keys:
                    if self._store.check([key]):
                        return str(self._store.get(key).decode())
                time.sleep(0.02)
        return None


_current: ContextVar[_Ranks | None] = ContextVar("ranks", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def _ranks() -> _Ranks | None:
    """The ranks that take part in the current call; None is this process alone."""
    return None if _alone.get() else _current.get()


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Within this context, calls ignore the process group, and run on this rank alone.

    Otherwise, all ranks of an initialised ``torch.distributed`` have to call `fit` together.

    Yields
    ------
    None

    Examples
    --------
    Each rank of a process group fits a density of its own.

    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowDensity, one_process
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... )
    >>> with one_process():
    ...     density = density.fit(np.random.default_rng(0).normal(size=(20, 2)))
    >>> density.n_iter_
    1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextlib.contextmanager
def all_ranks() -> Iterator[None]:
    """Within this context, the ranks of the process group, if there is one, share the predictions.

    All ranks make the same calls, with the same rows.  Each one works on its share of the rows, and
    all get the whole result.  An error on one rank is an error on all.  `fit` needs no context.

    Yields
    ------
    None

    Raises
    ------
    ProcessGroupError
        If another rank failed, was lost, or did not answer in time.

    Examples
    --------
    In a script that torchrun starts, each process scores half of the rows, or all without torchrun.

    >>> import numpy as np
    >>> from skinterflow import InterpolantFlowDensity, all_ranks
    >>> X = np.random.default_rng(0).normal(size=(20, 2))
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... ).fit(X)
    >>> with all_ranks():
    ...     log_density = density.score_samples(X)
    >>> log_density.shape
    (20,)
    """
    ranks = _ranks()
    if ranks is not None:  # within the context of an outer call
        with _failing_together(ranks):
            yield
        return
    grouped = dist.is_available() and dist.is_initialized() and not _alone.get()
    if not grouped or dist.get_world_size() == 1:
        yield
        return
    ranks = _Ranks()
    token = _current.set(ranks)
    try:
        with _noting_interrupts(ranks), _failing_together(ranks):
            yield
            of_all(None)  # no rank leaves before all have succeeded
    finally:
        _current.reset(token)
        ranks.close()


@contextlib.contextmanager
def _failing_together(ranks: _Ranks) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        ranks.fail(error)
        raise


@contextlib.contextmanager
def _noting_interrupts(ranks: _Ranks) -> Iterator[None]:
    """Note the first Ctrl-C instead of raising `KeyboardInterrupt` in the midst of a step."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if ranks.interrupted:
            raise KeyboardInterrupt
        ranks.interrupted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def n_ranks() -> int:
    """Return the number of ranks that take part in the current call."""
    ranks = _ranks()
    return 1 if ranks is None else ranks.size


def rank() -> int:
    """Return the number of this rank in the current call, from 0."""
    ranks = _ranks()
    return 0 if ranks is None else ranks.rank


def interrupt() -> bool:
    """Note a Ctrl-C, which takes effect on all ranks; return False without other ranks."""
    ranks = _ranks()
    if ranks is not None:
        ranks.interrupted = True
    return ranks is not None


def interrupted() -> bool:
    """Return whether there was a Ctrl-C on this rank that has not yet taken effect."""
    ranks = _ranks()
    return ranks is not None and ranks.interrupted


def total(tensor: Tensor) -> None:
    """Replace a tensor by its sum over the ranks."""
    ranks = _ranks()
    if ranks is not None:
        ranks.total(tensor)


def any_rank(flag: bool) -> bool:
    """Return whether the flag is true on some rank."""
    if n_ranks() == 1:
        return flag
    flags = torch.tensor([float(flag)])
    total(flags)
    return bool(flags > 0)


def number_of_first(number: float) -> float:
    """Return the number that the first rank has, such as a time."""
    ranks = _ranks()
    if ranks is None:
        return number
    tensor = torch.tensor([number], dtype=torch.float64)
    ranks.send(dist.broadcast, tensor, 0)
    return float(tensor)


def tensor_of(number: int, tensor: Tensor) -> Tensor:
    """Return the tensor that a rank has, on the CPU, in the memory of one of its shape."""
    ranks = _ranks()
    if ranks is not None:
        ranks.send(dist.broadcast, tensor, number)
    return tensor


def of_all(value: _Value) -> list[_Value]:
    """Return the values of all ranks, which can be pickled, in order."""
    ranks = _ranks()
    if ranks is None:
        return [value]
    values: list[Any] = [None] * ranks.size
    ranks.send(dist.all_gather_object, values, value)
    return values


def of_first(function: Callable[[], _Value]) -> _Value:
    """Return what a function returns on the first rank, or raise what it raises there."""
    ranks = _ranks()
    if ranks is None:
        return function()
    outcome: list[Any] = [None, None]
    if ranks.rank == 0:
        try:
            outcome = [function(), None]
        except Exception as error:
            outcome = [None, error]
    ranks.send(dist.broadcast_object_list, outcome, 0)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(_Value, outcome[0])


def agree(details: Mapping[str, str], way_out: str) -> None:
    """Raise the same error on all ranks if details of their calls differ.

    Parameters
    ----------
    details : mapping of str to str, what must be equal on all ranks
    way_out : str, end of the sentence

    Raises
    ------
    ValueError
        With the first detail that differs, and its values.
    """
    everywhere = of_all(dict(details))
    for name in dict.fromkeys(name for one in everywhere for name in one):
        values = [one.get(name, "nothing") for one in everywhere]
        if len({*values}) > 1:
            k = next(k for k, value in enumerate(values) if value != values[0])
            raise ValueError(
                f"The ranks of a process group have to make the same call, but {name} is "
                f"{_shortened(values[0])} on rank 0 and {_shortened(values[k])} on rank {k}; "
                f"{way_out}"
            )


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def share(tensors: Sequence[Tensor], axis: int = 0) -> list[Tensor]:
    """Return this rank's share of a batch.

    Rows may be in groups: if one tensor has `G` entries along the axis, each belongs to as many
    successive entries of the others, which are not separated.  If there are fewer groups than
    ranks, each rank has all of them, which has the same mean.

    Parameters
    ----------
    tensors : sequence of Tensors, with multiples of G entries along the axis
    axis : int

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.processes import share
    >>> share([torch.arange(4), torch.arange(2)])
    [tensor([0, 1, 2, 3]), tensor([0, 1])]
    """
    n_groups, size = min(tensor.shape[axis] for tensor in tensors), n_ranks()
    if n_groups < size:
        return list(tensors)
    first, last = (n_groups * k // size for k in (rank(), rank() + 1))
    sizes = [tensor.shape[axis] // n_groups for tensor in tensors]
    return [
        tensor.narrow(axis, first * n, (last - first) * n)
        for tensor, n in zip(tensors, sizes, strict=True)
    ]


def own_rows(n: int) -> slice:
    """Return the place of this rank's share of `n` rows: all, if there are fewer than ranks."""
    size = n_ranks()
    return slice(n * rank() // size, n * (rank() + 1) // size) if n >= size else slice(0, n)


def gathered(value: Tensor, n: int) -> Tensor:
    """Return the values of `n` rows in order, from those of :func:`own_rows` on each rank.

    Parameters
    ----------
    value : Tensor of shape (B, ...)
    n : int

    Returns
    -------
    Tensor of shape (n, ...), on the same device
    """
    ranks = _ranks()
    if ranks is None or n < ranks.size:
        return value
    on_cpu = value.to("cpu", torch.uint8 if value.dtype == torch.bool else value.dtype)
    most = -(-n // ranks.size)
    padded = on_cpu.new_zeros((most, *value.shape[1:]))
    padded[: len(value)] = on_cpu
    parts = [torch.empty_like(padded) for _ in range(ranks.size)]
    ranks.send(dist.all_gather, parts, padded)
    ends = [n * k // ranks.size for k in range(ranks.size + 1)]
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return whole.to(value.device, value.dtype)


def over_ranks(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Evaluate a function of rows, of which each rank takes a share, and gather the values.

    Parameters
    ----------
    function : callable
        From as many tensors as `rows` has, of shape (B, ...), to one of shape (B, ...).
    *rows : Tensors with n rows, the same on all ranks

    Returns
    -------
    Tensor of shape (n, ...)

    Raises
    ------
    Exception
        That of the first rank on which the function raises one, on all ranks.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.processes import over_ranks
    >>> over_ranks(lambda x: 2.0 * x, torch.arange(3))
    tensor([0., 2., 4.])
    """
    ranks, n = _ranks(), len(rows[0])
    if ranks is None or n < ranks.size:
        return function(*rows)
    value, error = None, None
    try:
        value = function(*(part[own_rows(n)] for part in rows))
    except Exception as raised:
        error = raised
    if any_rank(error is not None):
        raise next(each for each in of_all(error) if each is not None)
    return gathered(cast(Tensor, value), n)
