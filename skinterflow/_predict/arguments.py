"""Validation of the arguments of predictions: times, noise levels, numbers, levels of quantiles."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from skinterflow._runtime import as_float
from skinterflow.interflow.sde import NOISE_LEVELS, NoiseLevel, StochasticSolver, check_noise_levels

_STEPS_PER_NOISE = 200
"""Steps of the stochastic solver per unit of the noise level."""
_MAX_STEPS = 10**6
_MAX_PATHS = 10_000
"""Maximum number of random paths of each row."""
_N_CHECKED_TIMES = 101
_SHORTEST_TIME = 1e-9
"""Minimum distance of times: in less, the steps of a solver would not differ in float64."""
_MAX_ENTRIES = 2**32
"""Maximum number of entries in one array of samples: 32 GiB."""


def checked_time(t: Any, default: float | None = None, latest: float = 1.0) -> float:
    """Validate a time on the path; None is the default, if there is one.

    Raises
    ------
    ValueError
        If it is not a number in [0, 1], or is after `latest`, up to which the field was trained.
    """
    if t is None and default is not None:
        return default
    if not isinstance(t, Real) or not 0.0 <= as_float(t) <= 1.0:
        raise ValueError(
            f"t must be a number in [0, 1], from the base to the data, got {reprlib.repr(t)}."
        )
    if float(t) < _SHORTEST_TIME:
        return 0.0
    if float(t) > latest:
        raise ValueError(
            f"t={float(t):g} is after end_time_={latest:g}, up to which the student was trained; "
            "use an earlier t, or fit with student_layer_sizes=None."
        )
    return float(t)


def checked_times(times: Sequence[Any], latest: float = 1.0) -> list[float]:
    """Validate times on the path, in increasing or in decreasing order.

    Raises
    ------
    ValueError
        If they are not a sequence or empty, if one is not in [0, 1], or if they are not sorted or
        closer than rounding.
    """
    if isinstance(times, str) or np.ndim(times) != 1:
        raise ValueError(
            "times must be a sequence of numbers in [0, 1], such as [1.0, 0.5, 0.0], got "
            f"{reprlib.repr(times)}."
        )
    checked = [checked_time(t, latest=latest) for t in times]
    steps = [b - a for a, b in itertools.pairwise(checked)]
    if not checked or not (
        all(step >= _SHORTEST_TIME for step in steps)
        or all(step <= -_SHORTEST_TIME for step in steps)
    ):
        raise ValueError(
            "times must be one or more numbers in increasing or decreasing order, got "
            f"{reprlib.repr(checked)}; sort them, and keep them {_SHORTEST_TIME:g} apart."
        )
    return checked


def checked_last_step(denoise_from: Any, t: float) -> float:
    """Validate the time from which the last step of a diffusion denoises.

    Raises
    ------
    ValueError
        If it is not a number in (0, 1), or if the samples end before time 1.
    """
    if not isinstance(denoise_from, Real) or not 0.0 < as_float(denoise_from) < 1.0:
        raise ValueError(
            "denoise_from must be None or a time in (0, 1), such as 0.98, got "
            f"{reprlib.repr(denoise_from)}."
        )
    if t != 1.0:
        raise ValueError(
            f"denoise_from={float(denoise_from):g} predicts rows at t=1, but the samples end at "
            f"t={t:g}; set t=1.0, or denoise_from=None."
        )
    return float(denoise_from)


def checked_n_samples(n_samples: Any, n_features: int) -> int:
    """Validate a number of samples.

    Raises
    ------
    ValueError
        If it is not an integer of at least 1, or if the samples would take more than 32 GiB.
    """
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(
            f"n_samples must be an integer of at least 1, got {reprlib.repr(n_samples)}."
        )
    n = int(n_samples)
    largest = _MAX_ENTRIES // n_features
    if n > largest:
        raise ValueError(
            f"n_samples must be at most {largest:,}, which with {n_features} columns take 32 GiB, "
            f"got {_abbreviated(n)}; draw them in several calls."
        )
    return n


def checked_n_paths(n_paths: Any) -> int:
    """Validate the number of random paths of each row.

    Raises
    ------
    ValueError
        If it is not an integer of at least 2 and at most 10,000.
    """
    if not isinstance(n_paths, Integral) or not 2 <= int(n_paths) <= _MAX_PATHS:
        raise ValueError(
            f"n_paths must be an integer of at least 2 and at most {_MAX_PATHS:,}, got "
            f"{reprlib.repr(n_paths)}."
        )
    return int(n_paths)


def checked_noise(epsilon: Any) -> NoiseLevel:
    """Return the noise level as a function of time.

    Raises
    ------
    ValueError
        If it is not a number, a function or the name of one, or if a value is negative or not
        finite.
    """
    if isinstance(epsilon, str) and epsilon in NOISE_LEVELS:
        level = NOISE_LEVELS[epsilon]
    elif isinstance(epsilon, Real):
        level = _constant(as_float(epsilon))
    elif callable(epsilon):
        level = _checked_level(epsilon)
    else:
        names = ", ".join(map(repr, NOISE_LEVELS))
        raise ValueError(
            f"epsilon must be a number of at least 0, a function of the time, or one of {names}, "
            f"got {reprlib.repr(epsilon)}."
        )
    check_noise_levels(level, _inner_times())
    return level


def stochastic_solver(n_steps: Any, level: NoiseLevel) -> StochasticSolver:
    """Return a solver with `n_steps` steps; None is a number proportional to the largest noise.

    Raises
    ------
    ValueError
        If `n_steps` is not a positive integer, or if there would be too many steps.
    """
    if n_steps is None:
        largest = max(1.0, *map(level, _inner_times()))
        if largest * _STEPS_PER_NOISE > _MAX_STEPS:
            raise ValueError(
                f"epsilon reaches {largest:g}, which needs {largest * _STEPS_PER_NOISE:g} steps, "
                f"more than {_MAX_STEPS:g}; lower epsilon, or give n_steps."
            )
        n_steps = math.ceil(_STEPS_PER_NOISE * largest)
    if not isinstance(n_steps, Integral) or n_steps < 1:
        raise ValueError(
            f"n_steps must be an integer of at least 1, or None, got {reprlib.repr(n_steps)}."
        )
    if int(n_steps) > _MAX_STEPS:
        raise ValueError(f"n_steps must be at most {_MAX_STEPS:g}, got {_abbreviated(n_steps)}.")
    return StochasticSolver(n_steps=int(n_steps))


def _constant(value: float) -> Callable[[float], float]:
    return lambda t: value


def _checked_level(epsilon: Callable[[float], Any]) -> NoiseLevel:
    """Wrap a user's function, and raise if it does not return a single real number."""

    def level(t: float) -> float:
        given = epsilon(t)
        value = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
        if value.ndim or value.dtype.kind not in "iufb":
            raise ValueError(
                "epsilon must return a single number for a time, but returns "
                f"{reprlib.repr(given)} of shape {value.shape} at t={t:.4g}."
            )
        return float(value)

    return level


def _abbreviated(value: Any) -> str:
    """An integer as a string, or its number of bits if it is very long."""
    return (
        str(value) if abs(int(value)) < 10**12 else f"an integer of {int(value).bit_length()} bits"
    )


def _inner_times() -> list[float]:
    """Times at which a noise level is checked, without t = 1, where there is no noise."""
    return [k / _N_CHECKED_TIMES for k in range(_N_CHECKED_TIMES)]


def checked_levels(quantiles: ArrayLike) -> NDArray[np.float64]:
    """Validate levels of quantiles, shape (q,); one number is one level.

    Raises
    ------
    ValueError
        If they are not one or more numbers in (0, 1).
    """
    levels: NDArray[np.float64] = check_array(
        np.atleast_1d(np.asarray(quantiles)),
        ensure_2d=False,
        dtype=np.float64,
        input_name="quantiles",
    )
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            "quantiles must be one or more levels in (0, 1), such as [0.05, 0.5, 0.95], got "
            f"{reprlib.repr(quantiles)}."
        )
    return levels


def checked_coverage(coverage: Any) -> float:
    """Validate the coverage of an interval.

    Raises
    ------
    ValueError
        If it is not a number in (0, 1).
    """
    if not isinstance(coverage, Real) or not 0.0 < as_float(coverage) < 1.0:
        raise ValueError(
            f"coverage must be a number in (0, 1), such as 0.9, got {reprlib.repr(coverage)}."
        )
    return float(coverage)
