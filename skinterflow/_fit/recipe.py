"""Resolution of the parameters of the estimators: names become objects, and "auto" a value.

A fit on fewer than `CROSS_FIT_BELOW` rows is cross-fitted: every row is held out from one of
several small fields.  From there on, one part of the rows is held out from one larger field.
`benchmarks/defaults.py` measures these choices.
"""

from __future__ import annotations

import copy
import itertools
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from skinterflow._data.atoms import Atoms
from skinterflow._persistence.registry import COUPLINGS, GAMMAS, INTERPOLANTS
from skinterflow._runtime import as_float
from skinterflow.interflow.atoms import AtomField
from skinterflow.interflow.couplings import Coupling
from skinterflow.interflow.custom import EXACT_COLUMNS, CustomField, check_function
from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads, SharedTrunk, check_targets
from skinterflow.interflow.interpolants import (
    Interpolant,
    check_endpoints,
)
from skinterflow.interflow.noise import (
    Gamma,
    StochasticInterpolant,
    check_gamma,
)
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.times import Beta

_LARGE = 10_000
_STEPS_PER_ROW, _FEWEST_STEPS, _MOST_STEPS = 5, 600, 2_500
"""Steps of a cross-fit for each row, and their limits."""
_MOST_LAYERS, _MOST_WEIGHTS = 1_000, 2**28
"""A gibibyte of weights, of which training keeps about six copies."""


def resolve_path(
    interpolant: str | Interpolant, gamma: str | Gamma | None, n_features: int
) -> StochasticInterpolant:
    """New path for one fit; its parameters, if any, are trained together with the field.

    Raises
    ------
    ValueError
        If the path misses its endpoints, if `gamma` is not zero there, or if the path requires a
        noise term and `gamma` is None.
    """
    path = (
        INTERPOLANTS[interpolant]() if isinstance(interpolant, str) else copy.deepcopy(interpolant)
    )
    scale = GAMMAS[gamma]() if isinstance(gamma, str) else copy.deepcopy(gamma)
    if scale is not None:
        check_gamma(scale)
    elif path.needs_noise:
        reason = "rows come back to themselves" if path.resamples else "all paths meet in one point"
        raise ValueError(
            f"{path!r} needs a noise term, without which "
            f"{'nothing moves' if path.is_still else reason}; set gamma='sine_squared', for "
            "example."
        )
    check_endpoints(path, n_features)
    return StochasticInterpolant(path, scale)


def resolve_targets(
    targets: str | Sequence[str],
    path: StochasticInterpolant,
    base: Scaling | None,
    coupling: Coupling,
) -> tuple[str, ...]:
    """Quantities to learn; "auto" selects those from which the drift follows.

    The score follows from them as well, on an affine path from a Gaussian base, and between two
    data sets if the path has a noise term.

    Parameters
    ----------
    targets : str or sequence of str
    path : StochasticInterpolant
    base : Scaling or None
        Map from standard normal points to the Gaussian base; None if the source is not a Gaussian.
    coupling : Coupling of base points and data points

    Raises
    ------
    ValueError
        If the drift does not follow from the targets, or if the path has no noise from which one of
        them could be learned.
    """
    if targets == "auto":
        if base is not None or path.gamma is None:
            return ("b",)
        return ("eta",) if path.interpolant.is_still else ("b", "eta")
    check_names("targets", targets)
    chosen = (targets,) if isinstance(targets, str) else tuple(targets)
    check_targets(chosen, path)
    standard = base is not None and base.is_identity
    if path.gamma is None and not standard and {"s", "eta"} & set(chosen):
        raise ValueError(
            f"targets={chosen!r} need noise of a known distribution on the path: the standard "
            "normal base or a noise term; set gamma='brownian'."
        )
    if path.gamma is None and not coupling.is_independent and {"s", "eta"} & set(chosen):
        raise ValueError(
            f"targets={chosen!r} need noise that is independent of the data, but under "
            f"{coupling!r} the base is not; set gamma='brownian', coupling='independent' or "
            "targets='b'."
        )
    return chosen


def resolve_time_law(time_beta: Sequence[float]) -> Beta:
    """Distribution of the training times.

    Raises
    ------
    ValueError
        If `time_beta` is not two positive numbers, or one is too large or too small.
    """
    return Beta(*checked_time_beta(time_beta))


def new_fields(
    n_fields: int,
    n_features: int,
    field: Any,
    hidden_layer_sizes: str | Sequence[int],
    activation: str,
    targets: tuple[str, ...],
    path: StochasticInterpolant,
    generator: torch.Generator,
    atoms: Atoms | None = None,
) -> list[VelocityField]:
    """Untrained fields: copies of a given field, or networks with one head for each target.

    Each target has a copy of a given field.

    The initial weights of the networks are drawn from the generator, on the CPU.  With atoms, which
    only the drift alone can have, they are fields of coded rows.

    Raises
    ------
    ValueError
        If the widths are not positive integers.
    """
    if field is not None:
        return [_copied(field, n_features, targets, path) for _ in range(n_fields)]
    if isinstance(hidden_layer_sizes, str):
        hidden_layer_sizes = (64,) * 3 if n_fields > 1 else (96,) * 6
    widths = checked_widths("hidden_layer_sizes", hidden_layer_sizes)
    if atoms is not None:
        n_coded = n_features + len(atoms)
        networks = [ResidualMLP(n_coded, widths, activation, generator) for _ in range(n_fields)]
        return [AtomField(network, atoms.incidence.float()) for network in networks]
    if targets == ("b",):
        return [ResidualMLP(n_features, widths, activation, generator) for _ in range(n_fields)]
    heads = (
        SharedTrunk(n_features, len(targets), widths, activation, generator)
        for _ in range(n_fields)
    )
    return [HeadedDrift(trunk, targets, path) for trunk in heads]


def _copied(
    field: Any, n_features: int, targets: tuple[str, ...], path: StochasticInterpolant
) -> VelocityField:
    """A copy of a given field for each target, which together are the drift."""
    copies = [CustomField(copy.deepcopy(field), n_features) for _ in targets]
    return copies[0] if targets == ("b",) else HeadedDrift(SeparateHeads(copies), targets, path)


def check_field(field: Any, n_features: int, student_layer_sizes: Any = None) -> None:
    """Raise unless the parameter `field` can be trained together with the other parameters.

    Raises
    ------
    ValueError
        If it is not a velocity field for these rows, or if a student is requested although the
        divergence of the field is only estimated.
    """
    if field is None:
        return
    check_function(field, n_features)
    estimated = CustomField(field, n_features).n_estimates is not None
    if student_layer_sizes is not None and estimated:
        raise ValueError(
            f"student_layer_sizes={student_layer_sizes!r} needs a field with an exact divergence, "
            f"which automatic differentiation computes up to {EXACT_COLUMNS} columns only; use a "
            "VelocityField that defines value_and_divergence, or set student_layer_sizes=None."
        )


def checked_widths(name: str, sizes: Sequence[int], most: int | None = None) -> list[int]:
    """Widths of hidden layers as a list of integers.

    Raises
    ------
    ValueError
        If the widths are not positive integers, if there are more than `most`, or if the network
        would be too large to train.
    """
    try:
        widths = np.atleast_1d(np.asarray(sizes))
    except ValueError:  # sequences of different lengths
        widths = np.empty(0)
    if widths.dtype.kind not in "iu" or widths.ndim != 1 or not len(widths) or (widths < 1).any():
        raise ValueError(
            f"{name} must be {'None, ' if most else ''}'auto' or one or more integers of at "
            f"least 1, got {sizes!r}."
        )
    if most is not None and len(widths) > most:
        raise ValueError(
            f"{name} must have at most {most} layers, for which the divergence is cheap, "
            f"got {sizes!r}."
        )
    sizes = [int(width) for width in widths]
    n_weights = sum(a * b for a, b in itertools.pairwise([1, *sizes]))
    if n_weights > _MOST_WEIGHTS or len(sizes) > _MOST_LAYERS:
        raise ValueError(
            f"{name} has {len(sizes)} layers with {n_weights:.3g} weights or more, but at most "
            f"{_MOST_LAYERS} layers and {_MOST_WEIGHTS:.3g} weights are allowed; use fewer or "
            "narrower layers."
        )
    return sizes


class StudentRecipe(NamedTuple):
    """How a student is distilled.

    Attributes
    ----------
    widths : list of lists of int
        Widths of the hidden layers of each student, in the order in which they are tried.
    passes : int
        Number of steps relative to `max_iter`.
    """

    widths: list[list[int]]
    passes: int


_AUTO_STUDENT = StudentRecipe([[128, 128], [256, 256]], passes=3)
"""Longer training costs no time when scoring, and width does (`benchmarks/students.py`)."""


def resolve_student(student_layer_sizes: str | Sequence[int] | None) -> StudentRecipe | None:
    """Recipe of the student, or None without one.

    Raises
    ------
    ValueError
        If the sizes are not those of one or two layers.
    """
    if student_layer_sizes is None:
        return None
    if isinstance(student_layer_sizes, str):
        return _AUTO_STUDENT
    return StudentRecipe([checked_widths("student_layer_sizes", student_layer_sizes, most=2)], 1)


def continued_fields(
    n_fields: int, previous: VelocityField, path: StochasticInterpolant
) -> list[VelocityField]:
    """Copies of the members of a fitted field, bound to `path`, to continue their training."""
    members = previous.fields()
    copies = [copy.deepcopy(members[k % len(members)]) for k in range(n_fields)]
    for field in copies:
        field.bind_path(path)
    return copies


def resolve_recipe(
    *,
    n_rows: int,
    cross_fitted: bool,
    coupling: str | Coupling,
    end_time: str | float,
    alpha: float,
    batch_size: str | int,
    learning_rate_init: str | float,
    max_iter: str | int | None,
    n_iter_no_change: int,
    tol: float,
    verbose: bool,
    mixture: bool = False,
) -> Recipe:
    """Recipe of a fit on `n_rows` rows."""
    return Recipe(
        coupling=resolve_coupling(coupling),
        weight_decay=alpha / n_rows,
        batch_size=_auto(batch_size, 128 if cross_fitted else 512 if n_rows < _LARGE else 1_024),
        learning_rate=_auto(learning_rate_init, 0.01 if cross_fitted else 0.005),
        max_iter=_auto(max_iter, _cross_fitted_steps(n_rows) if cross_fitted else 4_000),
        n_iter_no_change=n_iter_no_change,
        tol=tol,
        end_time=_auto(end_time, None),
        verbose=verbose,
        mixture=mixture,
        gaussian_mixture=mixture and n_rows < _LARGE,
    )


def _cross_fitted_steps(n_rows: int) -> int:
    """Number of steps of a cross-fit: with few rows the fields memorise them soon."""
    return min(_MOST_STEPS, max(_FEWEST_STEPS, _STEPS_PER_ROW * n_rows))


def resolve_coupling(coupling: str | Coupling) -> Coupling:
    """Coupling of a name; a coupling is returned as it is."""
    return COUPLINGS[coupling]() if isinstance(coupling, str) else coupling


def _auto(value: Any, chosen: Any) -> Any:
    """The value, or `chosen` if the value is "auto"."""
    return chosen if isinstance(value, str) else value


_NARROWEST_BETA = 1e-3
"""Smallest parameter of the Beta distribution; the largest is its inverse."""


def checked_time_beta(time_beta: Any) -> tuple[float, float]:
    """Parameters of the Beta distribution of the training times.

    Raises
    ------
    ValueError
        If they are not two positive numbers, or so large or small that all times would practically
        be equal.
    """
    if (
        np.ndim(np.asarray(time_beta, dtype=object)) != 1
        or len(time_beta) != 2
        or not all(isinstance(part, Real) for part in time_beta)
    ):
        raise ValueError(
            "time_beta must be the two parameters of a Beta distribution, such as (1.0, 0.5), got "
            f"{reprlib.repr(time_beta)}."
        )
    a, b = map(as_float, time_beta)
    if not (a > 0 and b > 0):
        raise ValueError(
            "time_beta must be two positive parameters of a Beta distribution, got "
            f"a={a!r} and b={b!r}; try (1.0, 0.5)."
        )
    if not (min(a, b) >= _NARROWEST_BETA and max(a, b) <= 1 / _NARROWEST_BETA):
        raise ValueError(
            f"time_beta must be two numbers from {_NARROWEST_BETA:g} to {1 / _NARROWEST_BETA:g}, "
            f"got {reprlib.repr(time_beta)}; otherwise the training times are practically equal."
        )
    return a, b


def check_names(name: str, given: Any) -> None:
    """Raise a ValueError unless `given` is a string or a sequence of strings."""
    if not isinstance(given, str) and not all(isinstance(part, str) for part in given):
        raise ValueError(
            f"{name} must be a string or a tuple of strings, got {reprlib.repr(given)}."
        )


@dataclass(frozen=True)
class Recipe:
    """Resolved parameters of a fit, see `InterpolantFlowDensity`.

    If `end_time` is None, it is selected on held-out rows.  If `max_iter` is None, the number of
    steps is not limited.  `mixture` is whether the model may be a mixture of end times, and
    `gaussian_mixture` whether a Gaussian mixture may be one of its components.
    """

    coupling: Coupling
    weight_decay: float
    batch_size: int
    learning_rate: float
    max_iter: int | None
    n_iter_no_change: int
    tol: float
    end_time: float | None
    verbose: bool
    mixture: bool = False
    gaussian_mixture: bool = False
