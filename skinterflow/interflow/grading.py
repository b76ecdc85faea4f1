r"""What the signs of an error are worth, measured once on representative rows.

The error of a trajectory shows in its defect, and that of its log-determinant in the roughness of
the divergence (see :mod:`~skinterflow.interflow.trajectories`).  How large an error they stand for
differs between fields, between numbers of nodes, and between rows like the data, along which
everything is smooth, and rows far outside.  :func:`grade` compares both with accurate trajectories,
for rows of all kinds, and finds the factors that bound the error of 97 rows in 100 of each kind.
Which of the two factors holds for a row follows from its distance from the centre of the base: rows
outside the data end farther away than any row of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import FrozenField, VelocityField
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.trajectories import (
    Clock,
    Trajectories,
    integral,
    interpolation,
    roughness,
    travel,
)

LEVELS = (7, 13, 17, 25)
"""Nodes of the trajectories and rules whose factors are measured; those of the last hold for finer
ones as well."""
KINDS = ("points", "log_det", "density")
"""What may be asked for: positions, positions and log-determinants, or log-densities."""
STARTS = ((13, 13), (17, 17), (25, 13), (25, 25))
"""Nodes of trajectory and rule that rows may start with; each is refined by doubling."""
_USUAL = 13
FINEST = 385
"""Nodes of the finest trajectory that a graded solver uses; four times as many for tight
tolerances."""
_TIGHT = 1e-4
_REFERENCE = 49
"""Nodes of the trajectories that errors are measured by."""
_COVERAGE = 0.97
"""A little more than the 95 rows in 100 that are promised, as 64 rows do not say it exactly."""
_FEWEST = 8
"""Rows of a kind that are needed to measure a factor."""
_TYPICAL_DISTANCE = 4.0
_ROUNDING_SHARE = 0.1
"""Largest part of a tolerance that the rounding of float32 may take of typical rows."""
SHARE = 0.5
"""Part of a tolerance that the trajectory may take, and that rounding may."""
_STAGES = 3
"""Velocities of a step, in addition to the one at its node."""

Pair = tuple[float, float]
"""Factors for rows like those of the data, and for rows outside."""


class Level(NamedTuple):
    """Where a row stands: precision (0 is float32, 1 is float64), nodes of the trajectory, nodes of
    the rule."""

    precision: int
    m: int
    n: int


@dataclass(frozen=True)
class Grading:
    """Factors on the signs of an error, and the errors that they gave on rows of the data.

    Parameters
    ----------
    reach : float
        Distance from the centre of the base up to which the first factor of a pair holds.
    quadrature : tuple of pairs of float, one for each of `LEVELS`: factors on the roughness
    points, log_det, density : the same
        On the defect, for each of `KINDS`; for densities the defect counts ``1 + |grad log rho_0|``
        times.
    rounding : float, factor on the precision of the dtype
    cost : float, work for a velocity with its divergence, where that for a velocity alone is 1
    rule_errors : Tensor of shape (L, N)
        For each of `LEVELS`, estimated errors of the rules on rows of the data.
    state_errors : Tensor of shape (3, L, N), for each of `KINDS`, those of the trajectories

    Examples
    --------
    >>> from skinterflow.interflow.grading import UNGRADED
    >>> UNGRADED.solver(atol=0.1, rtol=0.0).first("density")
    Level(precision=0, m=13, n=13)
    """

    reach: float
    quadrature: tuple[Pair, ...]
    points: tuple[Pair, ...]
    log_det: tuple[Pair, ...]
    density: tuple[Pair, ...]
    rounding: float
    cost: float
    rule_errors: Tensor
    state_errors: Tensor

    @property
    def method(self) -> str:
        return "rk4"

    def solver(self, atol: float, rtol: float, points_atol: float | None = None) -> GradedSolver:
        """The solver for these tolerances; see `GradedSolver`."""
        finest = FINEST if atol >= _TIGHT else 4 * (FINEST - 1) + 1
        return GradedSolver("rk4", atol, rtol, grading=self, finest=finest, points_atol=points_atol)

    def factor(self, pairs: tuple[Pair, ...], n: int, distance: Tensor) -> Tensor:
        """The factors of `n` nodes for rows at these distances from the centre of the base: shape
        (B,)."""
        inside, outside = pairs[min(sum(level < n for level in LEVELS), len(LEVELS) - 1)]
        return torch.where(distance <= self.reach, inside, outside)

    def _work(self, m: int, n: int) -> float:
        """Work for a trajectory of `m` nodes with a rule of `n`."""
        return _STAGES * (m - 1) + m - n + self.cost * n

    def first_level(self, kind: str, atol: float) -> tuple[int, int]:
        """Nodes of the trajectory and of the rule to start with, for the least work on rows like
        those of the data."""
        if not self.rule_errors.shape[1]:
            return _USUAL, _USUAL
        state = dict(zip(LEVELS, self.state_errors[KINDS.index(kind)], strict=True))
        if kind == "points":
            m = min(LEVELS, key=lambda m: _expected_steps(m, state, atol))
            return m, m
        rule = dict(zip(LEVELS, self.rule_errors, strict=True))

        def work(start: tuple[int, int]) -> float:
            """Expected work for a row, with that of its refinements as far as they are known."""
            m, n = start
            going = torch.ones_like(state[m])
            total = self._work(m, n) * going
            while m in state:
                above = going * (state[m] + rule[n] > atol)
                coarse = state[m] > SHARE * atol
                again = torch.where(coarse, self._work(2 * m - 1, 2 * n - 1), self.cost * (n - 1))
                total, going, m, n = total + above * again, above, 2 * m - 1, 2 * n - 1
            return float(total.mean())

        return min(STARTS, key=work)


def _expected_steps(m: int, errors: dict[int, Tensor], atol: float) -> float:
    """Steps of a row that starts with `m` nodes, with those of its refinements as far as they are
    known."""
    total, share = 0.0, 1.0
    while m in errors:
        total += share * (m - 1)
        share, m = float((errors[m] > atol).double().mean()), 2 * m - 1
    return total + share * (m - 1)


_NO_ROWS = torch.empty(len(KINDS), len(LEVELS), 0, dtype=torch.float64)
UNGRADED = Grading(
    reach=math.inf,
    quadrature=((3.0, 3.0), *((2.0, 2.0),) * (len(LEVELS) - 1)),
    points=((1.0, 1.0),) * len(LEVELS),
    log_det=((10.0, 10.0),) * len(LEVELS),
    density=((4.0, 4.0),) * len(LEVELS),
    rounding=16.0,
    cost=2.0,
    rule_errors=_NO_ROWS[0],
    state_errors=_NO_ROWS,
)
"""Cautious factors for a field of which nothing is known."""


@dataclass(frozen=True)
class GradedSolver(Solver):
    """A solver whose estimates of errors, and whose first steps, come from a grading.

    Parameters
    ----------
    method, atol, rtol, n_steps, max_refinements, nodes, caution
        See `Solver`; of these the tolerances are used.
    grading : Grading
    finest : int, nodes of the finest trajectory
    points_atol : float or None, tolerance where only positions are asked for; None is `atol`
    start : tuple of int or None
        Nodes of the trajectory and of the rule that rows start with; None is what the grading says.

    Examples
    --------
    A tight tolerance asks for float64.

    >>> from skinterflow.interflow.grading import UNGRADED
    >>> UNGRADED.solver(atol=1e-9, rtol=0.0).first("density").precision
    1
    """

    grading: Grading = UNGRADED
    finest: int = FINEST
    points_atol: float | None = None
    start: tuple[int, int] | None = None

    @classmethod
    def of(cls, solver: Solver) -> GradedSolver:
        """This solver with the grading that it has, or else cautious factors and its own numbers of
        steps."""
        if isinstance(solver, GradedSolver):
            return solver
        doublings = max(
            0, math.ceil(math.log2(solver.n_steps * 2**solver.max_refinements / (_USUAL - 1)))
        )
        finest = (_USUAL - 1) * 2**doublings + 1
        return replace(UNGRADED.solver(solver.atol, solver.rtol), finest=finest)

    @property
    def finest_steps(self) -> int:
        return self.finest - 1

    def of_kind(self, kind: str) -> GradedSolver:
        """The solver with the tolerance of this kind."""
        return (
            replace(self, atol=self.points_atol)
            if kind == "points" and self.points_atol is not None
            else self
        )

    def first(self, kind: str) -> Level:
        """Where rows start."""
        grading = self.grading
        distance = min(grading.reach, _TYPICAL_DISTANCE)
        rounding = grading.rounding * torch.finfo(torch.float32).eps * (1.0 + distance) ** 2
        precision = int(rounding > _ROUNDING_SHARE * (self.atol + self.rtol * distance))
        return Level(precision, *(self.start or grading.first_level(kind, self.atol)))


@torch.no_grad()
def grade(
    field: VelocityField,
    rows: Tensor,
    outside: Sequence[Tensor],
    clock: Clock,
    base_log_prob: Callable[[Tensor], Tensor],
    weights: Callable[[Tensor], Tensor],
) -> Grading:
    """Compare the signs of errors with the errors themselves.

    Parameters
    ----------
    field : VelocityField
    rows : Tensor of shape (B, D), float64, rows of the data at time ``clock.t0``
    outside : sequence of Tensors of shape (C, D), rows of other kinds
    clock : Clock, to the base
    base_log_prob : callable, ends (B, D) to log-densities (B,)
    weights : callable, ends (B, D) to ``1 + |grad log rho_0|``, (B,)

    Returns
    -------
    Grading
    """
    sets = [rows, *outside]
    field, x = FrozenField(field), torch.cat(sets)  # the levels share most of their nodes
    kinds = torch.cat([torch.full((len(part),), k, device=x.device) for k, part in enumerate(sets)])
    exact = travel(field, x, clock, _REFERENCE, _REFERENCE, torch.float64)
    distance = exact.end.norm(dim=1)
    reach = float(distance[kinds == 0].max())

    def pair(ratio: Tensor) -> Pair:
        return _bounds(ratio, kinds, distance <= reach)

    quadrature, state, rule_errors, state_errors = [], [], [], []
    for n in LEVELS:
        divergences = _at_nodes(exact, n)
        sign = roughness(divergences)
        quadrature.append(
            pair(_ratio((integral(divergences) - exact.log_det()).mean(dim=1).abs(), sign))
        )
        run = travel(field, x, clock, n, n, torch.float64)
        signs, errors = _state_signs(run, weights), _state_errors(run, exact, base_log_prob)
        state.append([pair(_ratio(error, sign)) for error, sign in zip(errors, signs, strict=True)])
        rule_errors.append(quadrature[-1][0] * sign[: len(rows)])
        state_errors.append(
            torch.stack([p[0] * s[: len(rows)] for p, s in zip(state[-1], signs, strict=True)])
        )
        if n == _USUAL:
            rounding = _rounding(
                travel(field, x, clock, n, n, torch.float32), run, base_log_prob, weights
            )
    on_points, on_log_det, on_density = zip(*state, strict=True)
    return Grading(
        reach,
        tuple(quadrature),
        on_points,
        on_log_det,
        on_density,
        rounding,
        field.at(torch.zeros((), dtype=torch.float64), torch.float32).cost,
        torch.stack(rule_errors).cpu(),
        torch.stack(state_errors, dim=1).cpu(),
    )


def _state_signs(run: Trajectories, weights: Callable[[Tensor], Tensor]) -> list[Tensor]:
    defect = run.defect()
    return [defect, defect, defect * weights(run.end)]


def _state_errors(
    run: Trajectories, exact: Trajectories, base_log_prob: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Errors that come from the positions, for each of `KINDS`."""
    divergences = _at_nodes(exact, len(run.divergences))
    points = (run.end - exact.end).norm(dim=1)
    log_det = (run.log_det() - integral(divergences)).mean(dim=1)
    density = base_log_prob(run.end) - base_log_prob(exact.end) + log_det
    return [points, torch.hypot(points, log_det), density.abs()]


def _rounding(
    single: Trajectories,
    double: Trajectories,
    base_log_prob: Callable[[Tensor], Tensor],
    weights: Callable[[Tensor], Tensor],
) -> float:
    """Factor on the precision of float32 that bounds what it costs."""
    error = (
        base_log_prob(single.end)
        - base_log_prob(double.end)
        + (single.log_det() - double.log_det()).mean(dim=1)
    )
    size = torch.finfo(torch.float32).eps * (1.0 + double.end.norm(dim=1)) * weights(double.end)
    return max(1.0, float((error.abs() / size).quantile(_COVERAGE)))


def _at_nodes(exact: Trajectories, n: int) -> Tensor:
    """Divergences at the nodes of a coarser rule."""
    return torch.einsum(
        "nm,mbk->nbk", interpolation(_REFERENCE, n).to(exact.divergences), exact.divergences
    )


def _ratio(error: Tensor, sign: Tensor) -> Tensor:
    """Error over its sign, where the error is not one of rounding."""
    least = 1e3 * torch.finfo(error.dtype).eps
    return (error - least).clamp(min=0.0) / sign.clamp(min=least)


def _bounds(ratio: Tensor, kinds: Tensor, inside: Tensor) -> Pair:
    """Factors that bound the ratios of rows inside and outside, of each kind."""
    everywhere = float(ratio.quantile(_COVERAGE))

    def bound(where: Tensor) -> float:
        parts = [ratio[where & (kinds == kind)] for kind in kinds.unique()]
        return max(
            (float(part.quantile(_COVERAGE)) for part in parts if len(part) >= _FEWEST),
            default=everywhere,
        )

    within = bound(inside)
    return within, max(within, bound(~inside))
