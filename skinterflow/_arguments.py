"""Arguments of predictions: times on the path, noise levels, numbers of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from skinterflow.interflow.sde import NOISE_LEVELS, NoiseLevel, StochasticSolver, check_noise_levels

_STEPS_PER_NOISE = 200
_LOOKED_AT = 101


def checked_time(t: Any, default: float, latest: float = 1.0) -> float:
    """A time on the path; None is the default.

    Raises
    ------
    ValueError
        If it is not a number in [0, 1], or is after the `latest` that the model knows.
    """
    if t is None:
        return default
    if not isinstance(t, Real) or not 0.0 <= float(t) <= 1.0:
        raise ValueError(f"t must be a number in [0, 1], from the base to the data, got {t!r}.")
    if float(t) > latest:
        raise ValueError(
            f"t={float(t):g} is after end_time_={latest:g}, up to which the student was taught; use an earlier t, or no student."
        )
    return float(t)


def checked_times(times: Sequence[Any], latest: float = 1.0) -> list[float]:
    """Times on the path, in increasing or in decreasing order.

    Raises
    ------
    ValueError
        If there is none, one is not in [0, 1], or they are out of order.
    """
    checked = [checked_time(t, 0.0, latest) for t in times]
    pairs = list(itertools.pairwise(checked))
    if not checked or not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
        raise ValueError(f"times must be one or more numbers that increase, or that decrease, got {checked!r}; sort them and drop doubles.")
    return checked


def checked_noise(epsilon: Any) -> NoiseLevel:
    """Noise level as a function of time.

    Raises
    ------
    ValueError
        If it is negative or not finite somewhere, or not a number, a function or a name of one.
    """
    if isinstance(epsilon, str) and epsilon in NOISE_LEVELS:
        level = NOISE_LEVELS[epsilon]
    elif isinstance(epsilon, Real):
        level = _constant(float(epsilon))
    elif callable(epsilon):
        level = epsilon
    else:
        names = ", ".join(map(repr, NOISE_LEVELS))
        raise ValueError(f"epsilon must be a number of at least 0, a function of the time, or one of {names}, got {epsilon!r}.")
    check_noise_levels(level, _inner_times())
    return level


def stochastic_solver(n_steps: Any, level: NoiseLevel) -> StochasticSolver:
    """Solver with the number of steps asked for or, for None, with more of them the more noise there is.

    Raises
    ------
    ValueError
        If it is not a positive integer.
    """
    if n_steps is None:
        n_steps = math.ceil(_STEPS_PER_NOISE * max(1.0, *map(level, _inner_times())))
    if not isinstance(n_steps, Integral) or n_steps < 1:
        raise ValueError(f"n_steps must be an integer of at least 1, or None, got {n_steps!r}.")
    return StochasticSolver(n_steps=int(n_steps))


def _constant(value: float) -> Callable[[float], float]:
    return lambda t: value


def _inner_times() -> list[float]:
    """Times at which a noise level is looked at; at the end itself there is no noise."""
    return [k / _LOOKED_AT for k in range(_LOOKED_AT)]
