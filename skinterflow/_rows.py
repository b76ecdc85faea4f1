"""Rows on their way into the flow: read from the user's array a part at a time, in flow units, with weight and ``log |det|``.

Data of moderate size are converted once and shuffled; larger data, above all a ``numpy.memmap``, stay where they are, and every batch is
read when it is needed.  Memory then does not grow with the rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._scaling import spread_constant_columns
from skinterflow.interflow.scaling import Scaling

_IN_MEMORY_ELEMENTS = 2**23
_BLOCK_ROWS = 2**15


class FlowRows(NamedTuple):
    """Rows in flow units, float32, shape (n, D), with weights and the scaling's ``log |det|`` in data units, shape (n,)."""

    u: Tensor
    weight: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class Reader:
    """Reads rows of an array in flow units.

    Parameters
    ----------
    X : array of shape (n, D)
    weight : array of shape (n,)
    widths : array of shape (D,), spread that constant columns get, else zero
    scaling : Scaling
    device : torch.device
    """

    X: NDArray[Any]
    weight: NDArray[np.float64]
    widths: NDArray[np.float64]
    scaling: Scaling
    device: torch.device

    def read(self, rows: Tensor) -> FlowRows:
        """The rows of these numbers.

        Raises
        ------
        ValueError
            If the scaling is not finite for them.
        """
        parts = [self._read(part.numpy()) for part in rows.cpu().split(_BLOCK_ROWS)]
        return FlowRows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _read(self, rows: NDArray[np.int64]) -> FlowRows:
        x = torch.from_numpy(spread_constant_columns(self.X[rows], self.widths))
        u, log_det = self.scaling(x), self.scaling.log_abs_det(x)
        finite = torch.isfinite(u).all(dim=1) & torch.isfinite(log_det)
        if not finite.all():
            raise ValueError(f"scaling={self.scaling!r} is not finite for {int((~finite).sum())} of {len(x)} rows; choose another scaling.")
        weight = torch.from_numpy(self.weight[rows]).float()
        return FlowRows(u.float().to(self.device), weight.to(self.device), log_det.to(self.device))


class RowSource(ABC):
    """Endless batches of the rows that train."""

    @abstractmethod
    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows in flow units, shape (batch_size, D), in random order, and weights, shape (batch_size,)."""


@dataclass(frozen=True)
class NormalRows(RowSource):
    """Fresh standard normal rows.

    Parameters
    ----------
    n_features : int
    device : torch.device
    """

    n_features: int
    device: torch.device

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        weight = torch.ones(batch_size, device=self.device)
        while True:
            yield torch.randn(batch_size, self.n_features, device=self.device), weight


class ShuffledRows(RowSource):
    """Rows in memory, in shuffled passes; fewer rows than a batch are repeated within it.

    Parameters
    ----------
    rows : FlowRows
    """

    def __init__(self, rows: FlowRows) -> None:
        self.rows = rows

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index in shuffled_indices(len(self), batch_size, self.rows.u.device):
            yield self.rows.u[index], self.rows.weight[index]

    def __len__(self) -> int:
        return len(self.rows.u)


class StreamedRows(RowSource):
    """Rows drawn at random and read when they are needed.

    Parameters
    ----------
    reader : Reader
    held_out : Tensor of int, numbers of the rows that are never drawn
    """

    def __init__(self, reader: Reader, held_out: Tensor) -> None:
        self.reader = reader
        self.held_out = held_out

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        n_rows = len(self.reader.X)
        drawn = torch.empty(0, dtype=torch.int64)
        while True:
            draw = torch.randint(n_rows, (2 * batch_size,))
            drawn = torch.cat([drawn, draw[~torch.isin(draw, self.held_out)]])
            while len(drawn) >= batch_size:
                u, weight, _ = self.reader.read(drawn[:batch_size].sort().values)
                order = torch.randperm(batch_size, device=u.device)  # sorted for the disk, not for the batch
                yield u[order], weight[order]
                drawn = drawn[batch_size:]

    def __len__(self) -> int:
        return len(self.reader.X) - len(self.held_out)


def training_rows(reader: Reader, held_out: Tensor) -> RowSource:
    """All rows but those held out: in memory if they fit."""
    if reader.X.size > _IN_MEMORY_ELEMENTS:
        return StreamedRows(reader, held_out)
    kept = torch.ones(len(reader.X), dtype=torch.bool)
    kept[held_out] = False
    return ShuffledRows(reader.read(kept.nonzero()[:, 0]))


def shuffled_indices(n_rows: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Endless row numbers, `batch_size` at a time, in shuffled passes; fewer rows than a batch are repeated within it."""
    n_passes = -(-batch_size // n_rows)
    while True:
        order = torch.cat([torch.randperm(n_rows, device=device) for _ in range(n_passes)])
        yield from order[: len(order) // batch_size * batch_size].split(batch_size)
