"""Utilities of the estimators: random numbers, devices, warnings and all-or-nothing fits."""

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

from skinterflow.interflow import processes
from skinterflow.interflow.warn import warn

_Module = TypeVar("_Module", bound=torch.nn.Module)
RandomStateLike = int | np.random.RandomState | None


def private_random_state(random_state: RandomStateLike) -> np.random.RandomState:
    """Like scikit-learn's ``check_random_state``, except that None is fresh entropy.

    NumPy's global state is neither used nor changed.  The ranks of a process group share the
    entropy.

    Raises
    ------
    ValueError
        If it is not an integer from 0 to 2**32 - 1, a RandomState or None.
    """
    validate_parameter_constraints(
        {"random_state": ["random_state"]}, {"random_state": random_state}, "skinterflow"
    )
    if random_state is None:
        fresh = np.random.RandomState()
        return processes.of_first(lambda: fresh)
    return check_random_state(random_state)


class Generators(NamedTuple):
    """Random generators on the CPU and on a device: one object twice if the device is the CPU."""

    cpu: torch.Generator
    device: torch.Generator


def seeded_generators(seed: int, device: torch.device) -> Generators:
    """Return new generators.

    Torch's global generators are shared by all threads of a process and belong to the user.
    """
    cpu = torch.Generator().manual_seed(seed)
    return Generators(
        cpu, cpu if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
    )


def step_seed(seed: int, number: int) -> int:
    """Return the seed of draw `number`: successive numbers give unrelated seeds (splitmix64)."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device of a `device` parameter.

    Raises
    ------
    ValueError
        If it is not a device, not supported, or not available on this machine.
    """
    resolved = named_device(device)
    n_devices = torch.cuda.device_count()
    if resolved.type == "cuda" and (
        not torch.cuda.is_available() or (resolved.index or 0) >= n_devices
    ):
        raise ValueError(
            f"device={device!r} is not available, because torch finds {n_devices} CUDA devices; "
            "use device='cpu' or 'auto'."
        )
    return resolved


def named_device(device: str | torch.device) -> torch.device:
    """Return the torch device of a `device` parameter, available on this machine or not.

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
    """Like :func:`resolve_device`, but fall back to the CPU with a warning.

    A fitted model may have been moved to a machine without its device.

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
def suppress_feature_name_warning() -> Iterator[None]:
    """Suppress the feature-name warning for rows that the model generated itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="X does not have valid feature names", category=UserWarning
        )
        yield


def sums_may_overflow() -> np.errstate:
    """Suppress overflow warnings of scikit-learn's validation, which sums rows to look for NaN."""
    return np.errstate(over="ignore", invalid="ignore")


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Restore the estimator's attributes if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        # One assignment, so that a Ctrl-C cannot leave the attributes half restored.
        estimator.__dict__ = before
        raise


def on_device(module: _Module, device: torch.device, dtype: torch.dtype) -> _Module:
    """Return a frozen copy of `module` on a device and in a dtype."""
    return copy.deepcopy(module).to(device=device, dtype=dtype).requires_grad_(False)


def as_float(value: Any) -> float:
    """Convert a real number to float; an integer beyond the range of floats becomes infinite.

    Callers check the range, so that Python's OverflowError is not needed.
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
