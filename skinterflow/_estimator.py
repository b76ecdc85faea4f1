"""What the estimators share: seeding, devices, all-or-nothing fits, rows in blocks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints

from skinterflow.interflow.warn import warn

_Module = TypeVar("_Module", bound=torch.nn.Module)
_Result = TypeVar("_Result")
RandomStateLike = int | np.random.RandomState | None

_BLOCK_ROWS = 2**14
"""Rows that are scored at a time: the bound on the memory of a prediction.  Many, because the few
that need many steps hold up all."""


def private_random_state(random_state: RandomStateLike) -> np.random.RandomState:
    """As scikit-learn's ``check_random_state``, but None is fresh entropy instead of NumPy's global
    state, which stays untouched.

    Raises
    ------
    ValueError
        If it is not an integer from 0 to 2**32 - 1, a RandomState or None.
    """
    validate_parameter_constraints(
        {"random_state": ["random_state"]}, {"random_state": random_state}, "skinterflow"
    )
    return np.random.RandomState() if random_state is None else check_random_state(random_state)


class Generators(NamedTuple):
    """Sources of random numbers, on the CPU and on a device; the same one twice if the device is
    the CPU."""

    cpu: torch.Generator
    device: torch.Generator


def seeded_generators(seed: int, device: torch.device) -> Generators:
    """New generators: torch's global ones belong to all threads of a process, and to the user."""
    cpu = torch.Generator().manual_seed(seed)
    return Generators(
        cpu, cpu if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
    )


def step_seed(seed: int, number: int) -> int:
    """Seed of one of many draws: numbers in a row give seeds that have nothing in common
    (splitmix64)."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1


def resolve_device(device: str | torch.device) -> torch.device:
    """Torch device meant by the `device` parameter.

    Raises
    ------
    ValueError
        If it is not a device, not supported, or not on this machine.
    """
    resolved = named_device(device)
    n_devices = torch.cuda.device_count()
    if resolved.type == "cuda" and (
        not torch.cuda.is_available() or (resolved.index or 0) >= n_devices
    ):
        raise ValueError(
            f"device={device!r} was asked for, but torch sees {n_devices} CUDA devices here; use "
            "device='cpu' or 'auto'."
        )
    return resolved


def named_device(device: str | torch.device) -> torch.device:
    """Torch device meant by the `device` parameter, on this machine or not.

    Raises
    ------
    ValueError
        If it is not a device, or not supported.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a device; use 'cpu', 'cuda', 'cuda:1', 'auto' or a "
            "torch.device."
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r} is not supported, because scoring needs float64; use 'cpu', 'cuda' "
            "or 'auto'."
        )
    return resolved


def resolve_device_or_cpu(device: str | torch.device) -> torch.device:
    """As :func:`resolve_device`, but a fitted model that was moved to a machine without its device
    is used, with a warning, on the CPU.

    Raises
    ------
    ValueError
        If it is not a device on any machine, or not supported.
    """
    named_device(device)
    try:
        return resolve_device(device)
    except ValueError as error:
        warn(f"{error} This fitted model is used on the CPU.")
        return torch.device("cpu")


@contextmanager
def rows_of_our_own() -> Iterator[None]:
    """Rows that a model made itself, such as its samples, are asked about inside the block: that
    they have no names is no cause to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="X does not have valid feature names", category=UserWarning
        )
        yield


def sums_may_overflow() -> np.errstate:
    """Let large rows pass through scikit-learn's validation, which looks for NaN by a sum: the sum
    of 1e308 and -1e308 may be one."""
    return np.errstate(over="ignore", invalid="ignore")


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Put the estimator's attributes back as they were if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        estimator.__dict__ = before  # at once, so that Ctrl-C leaves nothing half done
        raise


def checked_weight(
    sample_weight: ArrayLike | None, X: NDArray[Any], name: str = "sample_weight"
) -> NDArray[np.float64]:
    """One weight for each row of `X`, at most one; a single number in memory if none are given.

    The largest is brought to between a half and one by a power of two, which is exact, so that no
    sum of weights overflows.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, if all are zero, or if there is not one for each row.
    """
    if sample_weight is None:
        return np.broadcast_to(1.0, len(X))
    weight: NDArray[np.float64] = check_array(
        sample_weight, ensure_2d=False, ensure_min_samples=0, dtype=np.float64, input_name=name
    )
    if not weight.ndim:  # one number, as scikit-learn has it
        weight = np.full(len(X), weight)
    if weight.shape != (len(X),):
        raise ValueError(
            f"{name}.shape == {weight.shape}, expected {(len(X),)}; give one weight for each row."
        )
    if (weight < 0).any():
        raise ValueError(
            f"{name} must not be negative, but the smallest is {weight.min():g}; drop those rows "
            "or clip their weights."
        )
    if not weight.any():
        raise ValueError(
            f"{name} is zero for all {len(X)} rows; at least one row needs a positive weight."
        )
    return np.ldexp(weight, -np.frexp(weight.max())[1])


def weighted_rows(
    X: NDArray[Any], sample_weight: ArrayLike | None, name: str = "sample_weight"
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Rows with a positive weight, and their weights with mean one.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or fewer than two are positive, relative to the
        largest.
    """
    weight = checked_weight(sample_weight, X, name)
    if sample_weight is None:
        return X, weight
    positive = weight > 0
    if positive.sum() < 2:
        raise ValueError(
            f"{name} is zero for all but {positive.sum()} of {len(X)} rows; at least two rows need "
            "a positive weight."
        )
    X, weight = X[positive], weight[positive]
    return X, weight / weight.mean()


def on_device(module: _Module, device: torch.device, dtype: torch.dtype) -> _Module:
    """Copy of `module` on a device and in a dtype, that learns no more; the original stays where it
    is."""
    return copy.deepcopy(module).to(device=device, dtype=dtype).requires_grad_(False)


def map_blocks(
    work: Callable[[torch.Tensor], _Result],
    X: NDArray[Any],
    device: torch.device,
    n_jobs: int | None,
) -> list[_Result]:
    """Results of `work` on the rows of `X`, a block at a time as float64 tensors on the device,
    without gradients.

    With several jobs, blocks are worked on side by side, by one thread each; thread counts outside
    stay as they are.
    """

    def run(start: int, n_threads: int | None) -> _Result:
        if n_threads is not None:
            torch.set_num_threads(n_threads)  # of this worker thread, which ends with the call
        with torch.no_grad():  # which is a thread's own, too
            return work(
                torch.from_numpy(np.array(X[start : start + _BLOCK_ROWS], dtype=np.float64)).to(
                    device
                )
            )

    starts = range(0, len(X), _BLOCK_ROWS)
    if effective_n_jobs(n_jobs) == 1 or len(starts) == 1:
        return [run(start, None) for start in starts]
    n_threads = min(effective_n_jobs(n_jobs), len(starts))
    return Parallel(n_jobs=n_threads, backend="threading")(
        delayed(run)(start, 1) for start in starts
    )
