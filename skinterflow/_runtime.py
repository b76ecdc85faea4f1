"""What the estimators share: seeding, devices, all-or-nothing fits, rows in blocks."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints

from skinterflow.interflow.warn import warn

_Module = TypeVar("_Module", bound=torch.nn.Module)
RandomStateLike = int | np.random.RandomState | None


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


def on_device(module: _Module, device: torch.device, dtype: torch.dtype) -> _Module:
    """Copy of `module` on a device and in a dtype, that learns no more; the original stays where it
    is."""
    return copy.deepcopy(module).to(device=device, dtype=dtype).requires_grad_(False)


def as_float(value: Any) -> float:
    """A real number as a float, infinite if it is an integer that is larger than any.

    It is no cause for an error of Python's, because what is out of range is refused, or is an open
    side.
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
