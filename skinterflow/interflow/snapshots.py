r"""A field at one time, ready for many rows.

Along a flow all rows share their times.  What depends on the time alone, above all the modulations
of the layers, is then worked out once for each time, and taken into the weights: a layer
``a(s o (W h + b) + c)`` becomes ``a(W' h + b')``.  A snapshot works in a precision of its own,
whatever that of the field, and is for evaluating, not for differentiating.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

_TANGENT_ELEMENTS = 2**16
"""Numbers of tangents that are held at a time: less than a core's cache, because the rows that only
fill a block are left out in whole parts of this size."""

_SHALLOW_COST = 2.0

Value = Callable[[Tensor], Tensor]
WithSlope = Callable[[Tensor], tuple[Tensor, Tensor]]


class Snapshot(NamedTuple):
    """A field at one time.

    Attributes
    ----------
    velocity : callable, points (B, D) to velocities (B, D)
    with_divergence : callable
        Points (B, D) to velocities (B, D) and divergences, (B,) or (B, K) for K estimates.
    dtype : torch.dtype that points have to have, or None for that of the rows
    cost : float, work for a velocity with its divergence, where that for a velocity alone is 1

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import ResidualMLP
    >>> field = ResidualMLP(
    ...     2, hidden_layer_sizes=(8, 8, 8), generator=torch.Generator().manual_seed(0)
    ... ).double()
    >>> _ = torch.nn.init.ones_(field.out.weight)  # it starts at zero
    >>> t, x = torch.tensor(0.5, dtype=torch.float64), torch.ones(1, 2)
    >>> v, divergence = field.at(t, torch.float32).with_divergence(x)
    >>> v.dtype, torch.allclose(divergence.double(), field.value_and_divergence(t, x.double())[1])
    (torch.float32, True)
    """

    velocity: Value
    with_divergence: WithSlope
    dtype: torch.dtype | None
    cost: float


def weighted_sum(
    snapshots: Sequence[Snapshot], weights: Sequence[float], own: float = 0.0
) -> Snapshot:
    """Snapshot of a sum of fields.

    Parameters
    ----------
    snapshots : sequence of K Snapshot, of one dtype
    weights : sequence of K float
    own : float, weight of the point itself

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.snapshots import Snapshot, weighted_sum
    >>> one = Snapshot(
    ...     torch.ones_like, lambda x: (torch.ones_like(x), torch.zeros(len(x))), None, 1.0
    ... )
    >>> weighted_sum([one, one], [0.5, 1.5], own=3.0).with_divergence(torch.full((1, 2), 2.0))
    (tensor([[8., 8.]]), tensor([6.]))
    """

    def velocity(x: Tensor) -> Tensor:
        v = own * x
        for snapshot, weight in zip(snapshots, weights, strict=True):
            v.add_(snapshot.velocity(x), alpha=weight)
        return v

    def with_divergence(x: Tensor) -> tuple[Tensor, Tensor]:
        # The divergence of a part has one column for each estimate, if it is estimated.
        v, total = own * x, x.new_full((), own * x.shape[1])
        for snapshot, weight in zip(snapshots, weights, strict=True):
            part, divergence = snapshot.with_divergence(x)
            v.add_(part, alpha=weight)
            total = total + weight * divergence
        return v, total

    return Snapshot(velocity, with_divergence, snapshots[0].dtype, snapshots[0].cost)


@dataclass(frozen=True)
class NetworkSnapshot:
    r"""A residual network whose weights have taken up the modulations of one time.

    The divergence of more than two layers is a trace, ``tr(W_out J_L ... J_1)`` with
    ``J_l = I + diag(a'_l) W_l``, of which the rows of ``W_out`` are carried from the last layer to
    the first.  Going backward the slopes multiply what a matrix product then reads, so that the
    product can add to what is there: one pass through memory less for each layer.

    Parameters
    ----------
    weights : sequence of Tensors of shape (H_l, H_{l-1})
    biases : sequence of Tensors of shape (H_l,)
    residual : sequence of bool, layers whose input is added to their output
    out : Tensor of shape (D, H_L), and its bias, of shape (D,)
    gain : float, of the point itself
    value, with_slope : the activation, see `Activation`
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    residual: Sequence[bool]
    out: Tensor
    out_bias: Tensor
    gain: float
    value: Value
    with_slope: WithSlope

    def snapshot(self) -> Snapshot:
        if len(self.weights) <= 2:
            return Snapshot(self.velocity, self._shallow, self.out.dtype, _SHALLOW_COST)
        return Snapshot(self.velocity, self._deep(), self.out.dtype, 1.0 + self.out.shape[0])

    def velocity(self, x: Tensor) -> Tensor:
        h = x
        for weight, bias, residual in self._layers:
            a = self.value(torch.addmm(bias, h, weight))
            h = a.add_(h) if residual else a
        return self._read_out(h, x)

    @cached_property
    def _layers(self) -> list[tuple[Tensor, Tensor, bool]]:
        """Transposed weights, biases, and whether the layer is residual."""
        return list(
            zip([weight.T for weight in self.weights], self.biases, self.residual, strict=True)
        )

    def _read_out(self, h: Tensor, x: Tensor) -> Tensor:
        return torch.addmm(self.out_bias, h, self.out.T).add_(x, alpha=self.gain)

    def _with_slopes(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Velocities, (B, D), and the slopes of the activation in every layer, (B, H_l)."""
        h, slopes = x, []
        for weight, bias, residual in self._layers:
            a, slope = self.with_slope(torch.addmm(bias, h, weight))
            h = a.add_(h) if residual else a
            slopes.append(slope)
        return self._read_out(h, x), slopes

    @cached_property
    def _loops(self) -> tuple[Tensor | None, Tensor | None]:
        """The matrices of the closed form, which only snapshots with a divergence need: around the
        residual of the second layer, and through it."""
        loop = (
            self.weights[0] @ self.out
        )  # (H_1, H_last): from the last hidden layer through x to the first
        direct = loop.diagonal() if len(self.weights) == 1 or self.residual[1] else None
        through = (self.weights[1].T * loop).contiguous() if len(self.weights) == 2 else None
        return direct, through

    def _shallow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One or two hidden layers: the closed form."""
        direct, through = self._loops
        v, slopes = self._with_slopes(x)
        divergence = torch.full_like(x[:, 0], self.gain * x.shape[1])
        if direct is not None:
            divergence.add_(slopes[0] @ direct)
        if through is not None:
            divergence.add_((slopes[0] @ through).mul_(slopes[1]).sum(dim=1))
        return v, divergence

    def _deep(self) -> WithSlope:
        """Any number of hidden layers: the rows of the last matrix travel backward."""
        n_features = self.out.shape[0]

        def divergence(slopes: Sequence[Tensor]) -> Tensor:
            met = self._met(slopes, n_features)
            return met.sum(dim=0).mul_(slopes[0]).sum(dim=1).add_(self.gain * n_features)

        def with_divergence(x: Tensor) -> tuple[Tensor, Tensor]:
            v, slopes = self._with_slopes(x)
            parts = self._in_chunks(slopes, n_features, _n_distinct(x))
            return v, _filled([divergence(part) for part in parts], x)

        return with_divergence

    def with_slopes(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Velocities, (B, D), and the slopes ``dv_i / dx_i`` of the first `n` coordinates, (B, n).

        Their sum over all coordinates is the divergence.
        """
        v, slopes = self._with_slopes(x)
        parts = [
            torch.einsum("nbh,bh->bn", self._met(part, n), part[0])
            for part in self._in_chunks(slopes, n, _n_distinct(x))
        ]
        return v, _filled(parts, x).add_(self.gain)

    @cached_property
    def _first(self) -> Tensor:
        """Weights of the first layer by coordinate, (D, 1, H_1)."""
        return self.weights[0].T.contiguous()[:, None, :]

    def _in_chunks(self, slopes: Sequence[Tensor], n: int, n_rows: int) -> list[tuple[Tensor, ...]]:
        """Slopes of parts of the rows whose `n` tangents stay in the cache, up to the part that has
        row `n_rows`."""
        width = max(weight.shape[0] for weight in self.weights)
        # A power of two divides the blocks of rows evenly, so that each row meets the same kernels.
        most = 2 ** max(0, (_TANGENT_ELEMENTS // (n * width)).bit_length() - 1)
        chunks = list(zip(*(slope.split(most) for slope in slopes), strict=True))
        return chunks[: max(1, math.ceil(n_rows / most))]

    def _met(self, slopes: Sequence[Tensor], n: int) -> Tensor:
        """Rows of the last matrix, carried to the first layer, times its weights, (n, B, H_1)."""
        shape = (n * len(slopes[0]), -1)
        carried = self.out[:n, None, :].expand(-1, len(slopes[0]), -1)
        backward = list(zip(self.weights, self.residual, strict=True))[:0:-1]
        scratch: Tensor | None = None  # one for all layers stays in the cache
        for (weight, residual), slope in zip(backward, slopes[:0:-1], strict=True):
            if scratch is None or scratch.shape != carried.shape:
                scratch = carried.new_empty(carried.shape)
            passed = torch.mul(carried, slope, out=scratch).view(shape)
            if residual:
                carried = carried.contiguous()
                carried.view(shape).addmm_(passed, weight)
            else:
                carried = torch.mm(passed, weight).view(n, len(slopes[0]), -1)
        # Only what has been through a product is a tensor of its own.
        first = self._first[:n]
        return carried.mul_(first) if backward else carried * first


def _n_distinct(x: Tensor) -> int:
    """Number of rows before the copies of the last row, which is one of them, that fill a block.

    Blocks have one shape however few rows there are, and tangents are most of the work.
    """
    if x.device.type != "cpu":  # the answer would have to be waited for
        return len(x)
    differ = (x != x[-1:]).any(dim=1).nonzero()
    return min(len(x), int(differ[-1]) + 2 if len(differ) else 1)


def _filled(parts: Sequence[Tensor], x: Tensor) -> Tensor:
    """The parts as one, with copies of the last row for the rows of `x` that were left out."""
    known = torch.cat(list(parts))
    missing = len(x) - len(known)
    return torch.cat([known, known[-1:].expand(missing, *known.shape[1:])]) if missing else known
