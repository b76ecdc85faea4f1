r"""Rows carried along a flow as accurately as is asked, by trajectories and rules that are nested.

Every row starts on a trajectory of few steps, with a rule of few nodes for its log-determinant.
Its error is the sum of what its signs of error are worth (see
:mod:`~skinterflow.interflow.grading`) and of what rounding costs.  A row above the tolerance

* whose rule is at fault keeps what it has, and takes up the nodes between;
* whose trajectory is at fault starts again with twice as many steps;
* whose rounding is at fault starts again in float64.

So the work is bounded, and a row's result depends on no other row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.grading import SHARE, GradedSolver, Level
from skinterflow.interflow.trajectories import Clock, Trajectories, joined, refined, travel

_DTYPES = (torch.float32, torch.float64)
_CHUNK_NUMBERS = 2**22
"""Numbers of positions that are held at a time: the bound on memory."""


class Carried(NamedTuple):
    """Where rows were carried.

    Attributes
    ----------
    end : Tensor of shape (B, D), float64
    log_det : Tensor of shape (B, K)
        K estimates of ``log |det|`` (one if it is exact), or of shape (B, 0) if it was not asked
        for.
    error : Tensor of shape (B,), estimated
    unresolved : bool Tensor of shape (B,), rows whose estimate stayed above the tolerance
    """

    end: Tensor
    log_det: Tensor
    error: Tensor
    unresolved: Tensor


class _Group(NamedTuple):
    """Rows by their numbers, with what is known of them, and the error of their positions if these
    are interpolated."""

    rows: Tensor
    known: Trajectories | None
    state: Tensor | None


class _Graded(NamedTuple):
    """What was found of a group, and the parts of its errors."""

    carried: Carried
    state: Tensor
    rule: Tensor
    rounding: Tensor
    tolerance: Tensor


@dataclass(frozen=True)
class Carrier:
    """Carries rows along a field.

    Parameters
    ----------
    field : VelocityField
    clock : Clock
    solver : GradedSolver
    kind : {"points", "log_det", "density"}, what the tolerance is for
    weights : callable or None
        For densities: ends of trajectories, (B, D), to ``1 + |grad log rho_0|``, (B,).

    Examples
    --------
    A standard normal that stays what it is.

    >>> import torch
    >>> from skinterflow.interflow import MixtureField, NormalMixture
    >>> from skinterflow.interflow.grading import UNGRADED
    >>> from skinterflow.interflow.nested import Carrier
    >>> from skinterflow.interflow.trajectories import Clock
    >>> field, x = MixtureField(NormalMixture.standard(2)), torch.ones(3, 2, dtype=torch.float64)
    >>> carried = Carrier(field, Clock(1.0, 0.0), UNGRADED.solver(1e-3, 0.0), "log_det").carry(x)
    >>> torch.allclose(carried.end, x, atol=1e-3), bool((carried.log_det.abs() < 1e-3).all())
    (True, True)
    """

    field: VelocityField
    clock: Clock
    solver: GradedSolver
    kind: str
    weights: Callable[[Tensor], Tensor] | None = None

    def carry(self, x: Tensor) -> Carried:
        """Carry points, shape (B, D), to the end of the clock."""
        if not len(x) or self.clock.t0 == self.clock.t1:
            zeros = x.new_zeros(len(x), dtype=torch.float64)
            log_det = (
                zeros[:, None]
                .expand(-1, 0 if self.kind == "points" else self.field.n_estimates or 1)
                .clone()
            )
            return Carried(
                x.double(), log_det, self._rounding(x.double(), _eps(x.dtype)), zeros.bool()
            )
        first = self.solver.first(self.kind)
        if x.dtype == torch.float32:  # it was asked for
            first = first._replace(precision=0)
        n_rows = max(1, _CHUNK_NUMBERS // (first.m * x.shape[1]))
        parts = []
        for part in x.split(n_rows):
            parts.append(self._carry(part, first))
        return Carried(*map(torch.cat, zip(*parts, strict=True)))

    def _carry(self, x: Tensor, first: Level) -> Carried:
        waiting = {
            level: [_Group(torch.nonzero(rows)[:, 0], None, None)]
            for level, rows in self._starting(x, first)
            if rows.any()
        }
        result: Carried | None = None
        while waiting:
            level = min(waiting)
            group = self._worked(level, waiting.pop(level), x, few=level != first)
            graded = self._graded(level, group, x)
            if result is None:
                result = Carried(
                    *(part.new_empty(len(x), *part.shape[1:]) for part in graded.carried)
                )
            for whole, part in zip(result, graded.carried, strict=True):
                whole[group.rows] = part
            for later, rest in self._sent_on(level, group, graded, x.dtype):
                waiting.setdefault(later, []).append(rest)
        assert result is not None
        return result

    def _starting(self, x: Tensor, first: Level) -> Iterator[tuple[Level, Tensor]]:
        """Which rows start at which level: those far outside in float64, as float32 could not hold
        them."""
        size = x.norm(dim=1)
        rounding = self.solver.grading.rounding * _eps(torch.float32) * (1.0 + size) ** 2
        far = (rounding > self.solver.tolerance(x)) & (
            x.dtype == torch.float64 and first.precision == 0
        )
        yield first._replace(precision=1), far
        yield first, ~far

    def _worked(self, level: Level, groups: list[_Group], x: Tensor, *, few: bool) -> _Group:
        """The groups as one, once they have what the level asks for."""
        dtype, n = _DTYPES[level.precision], None if self.kind == "points" else level.n
        known = []
        for rows, trajectories, _ in groups:
            if trajectories is None:
                known.append(travel(self.field, x[rows], self.clock, level.m, n, dtype, few=few))
            else:
                known.append(refined(trajectories, self.field, self.clock, level.n, dtype, x.dtype))
        states = [
            self._state(level, one) if group.state is None else group.state
            for one, group in zip(known, groups, strict=True)
        ]
        return _Group(torch.cat([group.rows for group in groups]), joined(known), torch.cat(states))

    def _graded(self, level: Level, group: _Group, x: Tensor) -> _Graded:
        assert group.known is not None
        assert group.state is not None
        eps = _eps(self._dtype(level, x.dtype))
        parts = [self._signs(level, block, eps) for block in group.known.blocks()]
        log_det, rule, rounding, tolerance = (
            torch.cat(part)[: len(group.rows)] for part in zip(*parts, strict=True)
        )
        error = group.state + rule + rounding
        return _Graded(
            Carried(group.known.end, log_det, error, error > tolerance),
            group.state,
            rule,
            rounding,
            tolerance,
        )

    def _signs(
        self, level: Level, known: Trajectories, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-determinants of a block, what rule and rounding may cost, and the tolerances."""
        grading, end, rounding = self.solver.grading, known.end, self._rounding(known.end, eps)
        if self.kind == "points":
            return (
                end.new_zeros(len(end), 0),
                torch.zeros_like(rounding),
                rounding,
                self.solver.tolerance(end),
            )
        log_det = known.log_det()
        rule = (
            grading.factor(grading.quadrature, level.n, self._distance(known)) * known.roughness()
        )
        return (
            log_det,
            rule,
            rounding,
            self.solver.tolerance(torch.cat([end, log_det.mean(dim=1, keepdim=True)], dim=1)),
        )

    def _sent_on(
        self, level: Level, group: _Group, graded: _Graded, rows: torch.dtype
    ) -> Iterator[tuple[Level, _Group]]:
        """The rows above their tolerances, with their next levels; none where all is
        done that may help."""
        assert group.known is not None
        assert group.state is not None
        _, m, n = level
        rounded = graded.rounding > SHARE * graded.tolerance
        finer = graded.state > SHARE * graded.tolerance
        rougher = graded.rule > SHARE * graded.tolerance
        # No trajectory is fine enough to get below the rounding.
        above = graded.carried.unresolved & (graded.state + graded.rule > graded.rounding)
        if (
            level.precision == 0
            and rows == torch.float64
            and self._dtype(level, rows) == torch.float32
        ):
            again = graded.carried.unresolved & rounded
            above = above & ~again
            if again.any():
                yield level._replace(precision=1), _Group(group.rows[again], None, None)
        if 2 * m - 1 <= self.solver.finest:
            for which, denser in (
                (above & finer & ~rougher, n),
                (above & finer & rougher, 2 * n - 1),
            ):
                if which.any():
                    yield (
                        level._replace(m=2 * m - 1, n=denser),
                        _Group(group.rows[which], None, None),
                    )
        which = above & ~finer
        if self.kind != "points" and 2 * n - 1 <= self.solver.finest and which.any():
            state = group.state[which] if 2 * n - 1 > m else None
            yield (
                level._replace(m=max(m, 2 * n - 1), n=2 * n - 1),
                _Group(group.rows[which], group.known.rows(which), state),
            )

    def _state(self, level: Level, known: Trajectories) -> Tensor:
        """Estimated error of the positions, as it counts."""
        grading = self.solver.grading
        parts = [
            grading.factor(getattr(grading, self.kind), level.m, self._distance(block))
            * block.defect()
            * self._weight(block.end)
            for block in known.blocks()
        ]
        return torch.cat(parts)[: known.positions.shape[1]]

    def _rounding(self, end: Tensor, eps: float) -> Tensor:
        return self.solver.grading.rounding * eps * (1.0 + end.norm(dim=1)) * self._weight(end)

    def _weight(self, end: Tensor) -> Tensor:
        return torch.ones_like(end[:, 0]) if self.weights is None else self.weights(end)

    def _distance(self, known: Trajectories) -> Tensor:
        """From the centre of the base, or of whichever end is nearer to it."""
        return known.positions[-1 if self.clock.t1 <= self.clock.t0 else 0].norm(dim=1)

    def _dtype(self, level: Level, rows: torch.dtype) -> torch.dtype:
        """What the field works in at this level."""
        return (
            self.field.at(torch.zeros((), dtype=torch.float64), _DTYPES[level.precision]).dtype
            or rows
        )


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps
