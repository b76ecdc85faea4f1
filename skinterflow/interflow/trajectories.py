r"""Trajectories of many rows, on the nodes of Clenshaw and Curtis's rules in ``u``, with
``t = 1 - u^2``.

The steps of Runge and Kutta's method of fourth order run from node to node and need velocities
only.  Along a trajectory the divergence is a smooth function of `u`, so that a rule of few nodes
gives its integral, which is the log-determinant.  What is known at the nodes also says how accurate
both are, row by row and at no cost:

* the *defect* ``|x_1 - x_0 - int v|``, where the rule integrates the velocities at the nodes: of
  the positions;
* the *roughness*, the size of the last third of the Chebyshev coefficients of the divergence: of
  the rule.  It is more reliable than the difference of two nested rules, which may agree by chance.

Rows pass in blocks of one fixed shape, padded: matrix products round differently for different
numbers of rows, and no row may depend on other rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.quadrature import chebyshev, clenshaw_curtis
from skinterflow.interflow.snapshots import Value, WithSlope

_BEND = 0.25
_BLOCK_ROWS, _FEW_ROWS = {"cpu": 128}, {"cpu": 64}
_BLOCK_ROWS_ELSEWHERE, _FEW_ROWS_ELSEWHERE = 4_096, 1_024
"""Rows of a block: few, so that one row costs little and all numbers of a block stay in the cache;
many where a device needs them.  Levels that few rows reach have smaller blocks, because the last
block of a level is filled."""
_BLOCK_NUMBERS = 2**20
"""Largest number of entries of a block, which limits the memory of a field of many columns."""


@dataclass(frozen=True)
class Clock:
    r"""Times from `t0` to `t1`, both in [0, 1] and in either order, at ``s`` from -1/2 to 1/2.

    .. math::

        t = 1 - u^2, \qquad u = (\tfrac12 - g) u_0 + (\tfrac12 + g) u_1, \qquad
        g = s - \frac{\sin 2\pi s}{8\pi}

    The map `g` takes some of the nodes, which Clenshaw and Curtis's rules crowd at the ends, to the
    middle, where divergences vary no less: measured, it halves the error of a rule of 13 nodes.

    Examples
    --------
    >>> from skinterflow.interflow.trajectories import Clock
    >>> clock = Clock(1.0, 0.0)
    >>> [clock.time(s) for s in (-0.5, 0.0, 0.5)], clock.rate(0.5)
    ([1.0, 0.75, 0.0], -2.5)
    """

    t0: float
    t1: float

    def time(self, s: float) -> float:
        return min(max(1.0 - self._u(s) ** 2, min(self.t0, self.t1)), max(self.t0, self.t1))

    def rate(self, s: float) -> float:
        """``dt/ds``."""
        slope = 1.0 - _BEND * math.cos(2.0 * math.pi * s)
        return -2.0 * self._u(s) * (self._end - self._start) * slope

    def _u(self, s: float) -> float:
        g = s - _BEND * math.sin(2.0 * math.pi * s) / (2.0 * math.pi) if abs(s) < 0.5 else s
        return (0.5 - g) * self._start + (0.5 + g) * self._end

    @property
    def _start(self) -> float:
        return math.sqrt(1.0 - self.t0)

    @property
    def _end(self) -> float:
        return math.sqrt(1.0 - self.t1)


@dataclass(frozen=True)
class Trajectories:
    """B trajectories on the grid of `m` nodes, and the divergences at the nodes of a rule of `n`
    among them.

    Attributes
    ----------
    positions : Tensor of shape (m, B, D), float64
    velocities : Tensor of shape (m, B, D), ``dx/ds``
    divergences : Tensor of shape (n, B, K)
        Per unit of `s`, in K estimates (one if exact), or of shape (0, B, 0).

    Examples
    --------
    A field that doubles volumes has the same divergence everywhere.

    >>> import torch
    >>> from skinterflow.interflow import Flow, MixtureField, NormalMixture
    >>> from skinterflow.interflow.trajectories import Clock, travel
    >>> field = MixtureField(NormalMixture.standard(2))
    >>> found = travel(
    ...     field, torch.ones(5, 2, dtype=torch.float64), Clock(1.0, 0.0), 13, 7, torch.float64
    ... )
    >>> found.positions.shape, found.divergences.shape, found.log_det().shape
    (torch.Size([13, 5, 2]), torch.Size([7, 5, 1]), torch.Size([5, 1]))
    """

    positions: Tensor
    velocities: Tensor
    divergences: Tensor

    @property
    def end(self) -> Tensor:
        return self.positions[-1]

    def log_det(self) -> Tensor:
        """``log |det dx_1/dx_0|``, in K estimates: shape (B, K)."""
        return integral(self.divergences)

    def roughness(self) -> Tensor:
        """Size of the last third of the Chebyshev coefficients of the divergence: shape (B,)."""
        return roughness(self.divergences)

    def defect(self) -> Tensor:
        """Euclidean size of ``x_1 - x_0 - int v``: shape (B,)."""
        return (self.positions[-1] - self.positions[0] - integral(self.velocities)).norm(dim=1)

    def blocks(self) -> Iterator[Trajectories]:
        """The rows in blocks of one shape, as :func:`travel` takes them: sums over a block's
        numbers round alike wherever a row stands."""
        n_rows = _block_rows(self.positions, few=False)
        arrays = self.positions, self.velocities, self.divergences
        parts = (_row_blocks(part, n_rows) for part in arrays)
        yield from (Trajectories(*block) for block in zip(*parts, strict=True))

    def rows(self, which: Tensor) -> Trajectories:
        return Trajectories(
            *(part[:, which] for part in (self.positions, self.velocities, self.divergences))
        )


def roughness(divergences: Tensor) -> Tensor:
    """Size of the last third of the Chebyshev coefficients of divergences, shape (n, B, K), of
    whose K estimates the mean is taken.

    Parameters
    ----------
    divergences : Tensor of shape (n, B, K), at the nodes of a rule

    Returns
    -------
    Tensor of shape (B,)
    """
    n = len(divergences)
    last = _last_coefficients(n).to(divergences)
    # A sum over the last axis, for the same reason as in `integral`.
    return (divergences.mean(dim=2).T.contiguous()[:, None, :] * last).sum(dim=2).norm(dim=1)


def integral(values: Tensor) -> Tensor:
    """Integral over `s` by the rule whose nodes the values, shape (n, B, K), are at: shape (B, K).

    One node after the other, because a matrix product adds them up in an order that depends on the
    place of a row.
    """
    total = torch.zeros_like(values[0])
    for weight, value in zip(_rule(len(values))[1], values, strict=True):
        total.add_(value, alpha=weight)
    return total


@lru_cache(maxsize=16)
def _rule(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of Clenshaw and Curtis's rule."""
    nodes, weights = clenshaw_curtis(n)
    return tuple(nodes.tolist()), tuple(weights.tolist())


@lru_cache(maxsize=16)
def _last_coefficients(n: int) -> Tensor:
    """The matrix from values at the nodes to the last third of the Chebyshev coefficients."""
    return chebyshev(n)[-(n // 3) :]


def joined(parts: Sequence[Trajectories]) -> Trajectories:
    """The trajectories of several groups of rows, on the same nodes."""
    return Trajectories(
        *(
            torch.cat([getattr(p, name) for p in parts], dim=1)
            for name in ("positions", "velocities", "divergences")
        )
    )


def travel(
    field: VelocityField,
    x: Tensor,
    clock: Clock,
    m: int,
    n: int | None,
    dtype: torch.dtype,
    *,
    few: bool = False,
) -> Trajectories:
    """Carry rows along the field.

    Parameters
    ----------
    field : VelocityField
    x : Tensor of shape (B, D), B at least 1
    clock : Clock
    m : int, nodes of the trajectory, odd
    n : int or None
        Nodes of the rule for the log-determinant, with ``n - 1`` a divisor of ``m - 1``; None asks
        for none.
    dtype : torch.dtype in which the field is evaluated, where it can; positions add up in float64
    few : bool, whether to take the smaller blocks
        A row's last bits depend on the size of the blocks.

    Raises
    ------
    FloatingPointError
        If a velocity is not finite, with the time and the number of rows.
    """
    nodes, every = _rule(m)[0], m if n is None else (m - 1) // (n - 1)
    starts = _blocks(x, few=few)
    runs = [_Run(block.double()) for block in starts]
    positions = x.new_empty((m, *starts.shape), dtype=torch.float64)
    velocities, divergences = torch.empty_like(positions), []
    for i, s in enumerate(nodes):
        snapshot, rate = _looked_at(field, clock, s, dtype, x.dtype), clock.rate(s)
        found = []
        for k, run in enumerate(runs):
            if i > 0:
                run.finish(snapshot, rate)
            positions[i, k] = run.y
            v, divergence = run.begin(
                snapshot, rate, with_divergence=n is not None and i % every == 0
            )
            velocities[i, k] = v
            found.append(divergence)
        _check(velocities[i].flatten(0, 1)[: len(x)], clock.time(s))
        if n is not None and i % every == 0:
            divergences.append(torch.stack(found))
        if i + 1 < m:
            h = nodes[i + 1] - s
            middle, rate = (
                _looked_at(field, clock, s + 0.5 * h, dtype, x.dtype),
                clock.rate(s + 0.5 * h),
            )
            for run in runs:
                run.middle(middle, rate, h)
    traced = (
        torch.stack(divergences)
        if divergences
        else positions.new_empty(0, len(runs), starts.shape[1], 0)
    )
    return Trajectories(
        *(part.flatten(1, 2)[:, : len(x)] for part in (positions, velocities, traced))
    )


class _Run:
    """One block of rows on its way, at `y` (float64), by the stages of Runge and Kutta's method."""

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def begin(
        self, snapshot: _Look, rate: float, *, with_divergence: bool
    ) -> tuple[Tensor, Tensor]:
        """The first stage: ``dx/ds`` and, where it is asked for, the divergence."""
        self._x = self.y.to(snapshot.dtype)
        if with_divergence:
            v, divergence = snapshot.with_divergence(self._x)
            divergence = rate * divergence.reshape(len(v), -1).double()
        else:
            v, divergence = snapshot.velocity(self._x), self.y
        self._first = rate * v
        return self._first, divergence

    def middle(self, snapshot: _Look, rate: float, h: float) -> None:
        """The second and third stage."""
        second = snapshot.velocity(torch.add(self._x, self._first, alpha=0.5 * h))
        third = snapshot.velocity(torch.add(self._x, second, alpha=0.5 * h * rate))
        self._sum = self._first.add_(second.add_(third), alpha=2.0 * rate)
        self._third, self._h = torch.add(self._x, third, alpha=h * rate), h

    def finish(self, snapshot: _Look, rate: float) -> None:
        """The last stage, at the time of the next node."""
        total = self._sum.add_(snapshot.velocity(self._third), alpha=rate)
        self.y = torch.add(self.y, total.double(), alpha=self._h / 6.0)


def refined(
    known: Trajectories,
    field: VelocityField,
    clock: Clock,
    n: int,
    dtype: torch.dtype,
    rows: torch.dtype,
) -> Trajectories:
    """The same trajectories with the divergences at the nodes of the rule of `n`, twice as dense as
    it was.

    Where the trajectories have no positions at these nodes, they come from the polynomial through
    those that are known.

    Parameters
    ----------
    known : Trajectories
    field, clock, dtype : as they were for :func:`travel`
    n : int, ``2 * len(known.divergences) - 1``
    rows : torch.dtype of the rows
    """
    positions, velocities, m = known.positions, known.velocities, len(known.positions)
    between = range(1, n, 2)
    if n > m:
        positions = positions.new_empty(n, *positions.shape[1:])
        velocities = torch.empty_like(positions)
        positions[::2], velocities[::2] = known.positions, known.velocities
        matrix = interpolation(m, n)[1::2].to(positions)
        blocks = _row_blocks(known.positions, _block_rows(known.positions, few=False))
        found = [torch.einsum("nm,mbd->nbd", matrix, block) for block in blocks]
        positions[1::2] = torch.cat(found, dim=1)[:, : positions.shape[1]]
    nodes, every = _rule(n)[0], (len(positions) - 1) // (n - 1)
    divergences = positions.new_empty(n, *known.divergences.shape[1:])
    divergences[::2] = known.divergences
    for j in between:
        look, rate = _looked_at(field, clock, nodes[j], dtype, rows), clock.rate(nodes[j])
        parts = [
            _Run(block).begin(look, rate, with_divergence=True)
            for block in _blocks(positions[j * every], few=True)
        ]
        v, divergence = (torch.cat(part)[: positions.shape[1]] for part in zip(*parts, strict=True))
        _check(v, clock.time(nodes[j]))
        divergences[j] = divergence
        if n > m:
            velocities[j] = v
    return Trajectories(positions, velocities, divergences)


def interpolation(m: int, n: int) -> Tensor:
    """The matrix from values at
    `m` nodes of :func:`clenshaw_curtis` to those of the polynomial through them at `n`: shape (n,
    m)."""
    angles = torch.arccos((2.0 * clenshaw_curtis(n)[0]).clamp(-1.0, 1.0))
    degrees = torch.arange(m, dtype=torch.float64)
    return torch.cos(torch.outer(angles, degrees)) @ chebyshev(m)


class _Look(NamedTuple):
    """A snapshot and the dtype that it is given."""

    velocity: Value
    with_divergence: WithSlope
    dtype: torch.dtype


def _looked_at(
    field: VelocityField, clock: Clock, s: float, dtype: torch.dtype, rows: torch.dtype
) -> _Look:
    snapshot = field.at(torch.tensor(clock.time(s), dtype=torch.float64), dtype)
    return _Look(snapshot.velocity, snapshot.with_divergence, snapshot.dtype or rows)


def _blocks(x: Tensor, *, few: bool) -> Tensor:
    """Rows in blocks of one shape, the last of which is filled with its last row: shape (K, R,
    D)."""
    n_rows = _block_rows(x, few=few)
    missing = -len(x) % n_rows
    return torch.cat([x, x[-1:].expand(missing, -1)]).view(-1, n_rows, x.shape[1])


def _block_rows(x: Tensor, *, few: bool) -> int:
    """Number of rows of a block, for rows of shape (..., D)."""
    sizes, elsewhere = (
        (_FEW_ROWS, _FEW_ROWS_ELSEWHERE) if few else (_BLOCK_ROWS, _BLOCK_ROWS_ELSEWHERE)
    )
    return max(1, min(sizes.get(x.device.type, elsewhere), _BLOCK_NUMBERS // x.shape[-1]))


def _row_blocks(part: Tensor, n_rows: int) -> Iterator[Tensor]:
    """Parts of shape (n, R, K) of a tensor of shape (n, B, K), the last of which is filled with its
    last row."""
    for block in part.split(n_rows, dim=1):
        yield torch.cat([block, block[:, -1:].expand(-1, n_rows - block.shape[1], -1)], dim=1)


def _check(v: Tensor, t: float) -> None:
    """Raise at velocities that are not finite."""
    if not math.isfinite(
        float(v.sum())
    ):  # one pass; the rows are looked at only when there is something to say
        finite = torch.isfinite(v).all(-1)
        if not finite.all():
            raise FloatingPointError(
                f"The velocity is not finite for {int((~finite).sum())} of {len(v)} rows at "
                f"t={t:.4g}."
            )
