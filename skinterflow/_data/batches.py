"""Rows on their way into the flow: read from the user's array a part at a time, in flow units, with
weight and ``log |det|``.

Data of moderate size are converted once and shuffled; larger data, above all a ``numpy.memmap``,
stay where they are, and every batch is read when it is needed.  Memory then does not grow with the
rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.degenerate import (
    evenly_spaced,
    spread_constant_columns,
    spread_whole_numbers,
)
from skinterflow._runtime import Generators, step_seed
from skinterflow.interflow.scaling import Scaling

_IN_MEMORY_ELEMENTS = 2**23
_BLOCK_ROWS = 2**15
MAX_JUDGING = 2**16
"""Held-out rows that say all that they can."""
_FARTHEST = 1e12
_SPREAD_ROWS = 2**15
_LEAST_SPREADS = 8
"""Rows with whole numbers in memory, and how often each has to be among them at least."""


NOBODY = torch.empty(0, dtype=torch.int64)
"""Numbers of no rows."""


class FlowRows(NamedTuple):
    """Rows in flow units, float32, shape (n, D), with weights and the scaling's ``log |det|`` in
    data units, shape (n,)."""

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
    whole : array of shape (D,) of bool
        Columns of whole numbers, which are spread anew whenever they are read; None is no such
        column.
    """

    X: NDArray[Any]
    weight: NDArray[np.float64]
    widths: NDArray[np.float64]
    scaling: Scaling
    device: torch.device
    whole: NDArray[np.bool_] | None = None

    def training_numbers(self, held_out: Tensor) -> NDArray[np.int64] | None:
        """Evenly spaced numbers of many of the rows that train, which tell the scaling; None is all
        rows.

        All rows, too, where a column has one value alone but for rows that are held out: it would
        have no scale.
        """
        if not len(held_out):
            return None
        rows = evenly_spaced(np.arange(len(self.X)))
        rows = rows[~np.isin(rows, held_out.numpy())]
        if not len(rows):
            return None
        constant = np.ptp(self.X[rows], axis=0) == 0
        return None if (constant & (self.widths == 0)).any() else rows

    def read(self, rows: Tensor, generator: torch.Generator) -> FlowRows:
        """The rows of these numbers; constant columns and whole numbers are spread by a generator
        on the CPU.

        Raises
        ------
        ValueError
            If the scaling is not finite for them, or takes them too far for training in float32.
        """
        parts = [self._read(part.numpy(), generator) for part in rows.cpu().split(_BLOCK_ROWS)]
        return FlowRows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _read(self, rows: NDArray[np.int64], generator: torch.Generator) -> FlowRows:
        spread = spread_constant_columns(self.X[rows], self.widths, generator)
        x = torch.from_numpy(
            spread if self.whole is None else spread_whole_numbers(spread, self.whole, generator)
        )
        u, log_det = self.scaling(x), self.scaling.log_abs_det(x)
        finite = torch.isfinite(u).all(dim=1) & torch.isfinite(log_det)
        if not finite.all():
            raise ValueError(
                f"scaling={self.scaling!r} is not finite for {int((~finite).sum())} of {len(x)} "
                "rows; choose another scaling."
            )
        far = int((u.abs().amax(dim=1) > _FARTHEST).sum())
        if far:
            raise ValueError(
                f"{far} of {len(x)} rows are more than {_FARTHEST:g} units of the flow from its "
                "centre, where float32 overflows; drop those rows, or choose another scaling."
            )
        weight = torch.from_numpy(self.weight[rows]).float()
        return FlowRows(u.float().to(self.device), weight.to(self.device), log_det.to(self.device))


class RowSource(ABC):
    """Batches of the rows that train, by their number: the same number gives the same batch, so
    that a fit can go on where it stopped.

    What a batch draws afresh comes from generators that the fit seeds for every step.
    """

    @abstractmethod
    def batch(self, number: int, batch_size: int, generators: Generators) -> tuple[Tensor, Tensor]:
        """Rows in flow units, shape (batch_size, D), in random order, and weights, shape
        (batch_size,); `number` counts from 0."""


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

    def batch(self, number: int, batch_size: int, generators: Generators) -> tuple[Tensor, Tensor]:
        shape = batch_size, self.n_features
        rows = torch.randn(shape, generator=generators.device, device=self.device)
        return rows, torch.ones(batch_size, device=self.device)


class ShuffledRows(RowSource):
    """Rows in memory, in shuffled passes; fewer rows than a batch are repeated within it.

    Parameters
    ----------
    rows : FlowRows
    seed : int, of the shuffles
    """

    def __init__(self, rows: FlowRows, seed: int) -> None:
        self.rows = rows
        self._order = ShuffledPasses(len(rows.u), rows.u.device, seed)

    def batch(self, number: int, batch_size: int, generators: Generators) -> tuple[Tensor, Tensor]:
        index = self._order.batch(number, batch_size)
        return self.rows.u[index], self.rows.weight[index]

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
        self._gaps = held_out.sort().values - torch.arange(len(held_out))

    def batch(self, number: int, batch_size: int, generators: Generators) -> tuple[Tensor, Tensor]:
        kept = torch.randint(len(self), (batch_size,), generator=generators.cpu)
        # The k-th row that is kept comes after as many held-out rows as lie before it.
        rows = (kept + torch.searchsorted(self._gaps, kept, right=True)).sort().values
        u, weight, _ = self.reader.read(rows, generators.cpu)
        # Sorted for the disk, not for the batch.
        order = torch.randperm(batch_size, generator=generators.device, device=u.device)
        return u[order], weight[order]

    def __len__(self) -> int:
        return len(self.reader.X) - len(self._gaps)


class ShuffledPasses:
    """Row numbers in shuffled passes, by the number of the batch; fewer rows than a batch are
    repeated within it.

    Parameters
    ----------
    n_rows : int
    device : torch.device
    seed : int, of the shuffles
    """

    def __init__(self, n_rows: int, device: torch.device, seed: int) -> None:
        self.n_rows = n_rows
        self.device = device
        self._seed = seed
        self._shuffled: tuple[tuple[int, int] | None, Tensor] = (None, torch.empty(0))

    def batch(self, number: int, batch_size: int) -> Tensor:
        """Row numbers of shape (batch_size,); `number` counts from 0."""
        n_passes = -(-batch_size // self.n_rows)
        shuffle, place = divmod(number, n_passes * self.n_rows // batch_size)
        return self._order(shuffle, n_passes)[place * batch_size :][:batch_size]

    def _order(self, shuffle: int, n_passes: int) -> Tensor:
        """As many passes as are shuffled together: the last ones are kept, because the next batch
        wants them, too."""
        if self._shuffled[0] != (shuffle, n_passes):
            generator = torch.Generator(self.device).manual_seed(step_seed(self._seed, shuffle))
            passes = [
                torch.randperm(self.n_rows, generator=generator, device=self.device)
                for _ in range(n_passes)
            ]
            self._shuffled = (shuffle, n_passes), torch.cat(passes)
        return self._shuffled[1]


def drawn_seed(generator: torch.Generator) -> int:
    """Seed of draws of their own, itself drawn from a generator on the CPU."""
    return int(torch.randint(2**31, (), generator=generator))


def training_rows(reader: Reader, held_out: Tensor, generator: torch.Generator) -> RowSource:
    """All rows but those held out: in memory if they fit.

    Few rows with whole numbers are held there many times, each time spread anew: as good as new
    noise for every batch, and twice as fast.
    """
    spread = reader.whole is not None and bool(reader.whole.any())
    n_times = (
        min(_SPREAD_ROWS // (len(reader.X) - len(held_out)), _IN_MEMORY_ELEMENTS // reader.X.size)
        if spread
        else 1
    )
    if reader.X.size > _IN_MEMORY_ELEMENTS or (spread and n_times < _LEAST_SPREADS):
        return StreamedRows(reader, held_out)
    kept = torch.ones(len(reader.X), dtype=torch.bool)
    kept[held_out] = False
    return ShuffledRows(
        reader.read(kept.nonzero()[:, 0].repeat(n_times), generator), drawn_seed(generator)
    )


def judging_rows(reader: Reader, generator: torch.Generator) -> FlowRows:
    """Rows that were given to judge, in random order; so many of them that more would say no
    more."""
    return reader.read(torch.randperm(len(reader.X), generator=generator)[:MAX_JUDGING], generator)
