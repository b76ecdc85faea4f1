"""Batches of training rows in flow units, with their weights and ``log |det|``.

Data of moderate size are converted once and shuffled.  Larger data, typically a ``numpy.memmap``,
stay where they are and each batch is read when it is needed, so that memory does not grow with the
number of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.atoms import Atoms
from skinterflow._data.degenerate import (
    spacing,
    spread_constant_columns,
    spread_whole_numbers,
)
from skinterflow._runtime import Generators, seeded_generators, step_seed
from skinterflow.interflow.bridges import bridge_pairs
from skinterflow.interflow.scaling import Scaling

_IN_MEMORY_ELEMENTS = 2**23
"""Entries of the largest array that is converted and kept in memory."""
_BLOCK_ROWS = 2**15
MAX_VALIDATION_ROWS = 2**16
"""Maximum number of held-out rows: the standard error of their mean no longer matters."""
_FARTHEST = 1e13
"""Largest entry in flow units: its square, and sums of squares, are finite in float32."""
_DITHERED_ROWS = 2**15
_MIN_DITHERED_COPIES = 8
"""Rows with dithered whole numbers in memory, and the minimum number of copies of each."""

_PAIRED_ROWS = 2**14
"""Maximum number of rows of each side that are paired by the entropic transport."""

NO_ROWS = torch.empty(0, dtype=torch.int64)
"""Empty array of row numbers."""


class FlowRows(NamedTuple):
    """Rows in flow units with their weights.

    Attributes
    ----------
    u : Tensor of shape (n, D), float32
    weight : Tensor of shape (n,), float32
    log_det : Tensor of shape (n,), float64
        ``log |det|`` of the scaling, from data units to flow units.
    """

    u: Tensor
    weight: Tensor
    log_det: Tensor


class RowBatch(NamedTuple):
    """A batch of rows in flow units, shape (B, D), and their weights, shape (B,)."""

    rows: Tensor
    weight: Tensor


class PairBatch(NamedTuple):
    """A batch of pairs: base points or source rows with target rows.

    Attributes
    ----------
    x0, x1 : Tensors of shape (B, D), or (K, B, D) for K members
    weight : Tensor of shape (B,), or (K, B)
    context : Tensor or None
        What the rows are conditioned on, with their batch axes; None for a joint density.
    """

    x0: Tensor
    x1: Tensor
    weight: Tensor
    context: Tensor | None = None

    @classmethod
    def stack(cls, parts: Sequence[PairBatch]) -> PairBatch:
        """Batches of several members as one."""
        x0, x1, weight = (
            torch.stack([getattr(part, name) for part in parts]) for name in ("x0", "x1", "weight")
        )
        contexts = [part.context for part in parts if part.context is not None]
        return cls(x0, x1, weight, torch.stack(contexts) if contexts else None)


@dataclass(frozen=True)
class Reader:
    """Reads rows of an array in flow units.

    Parameters
    ----------
    X : array of shape (n, D)
    weight : array of shape (n,)
    widths : array of shape (D,)
        Standard deviation of the noise added to constant columns, zero for the others.
    scaling : Scaling
    device : torch.device
    whole : array of shape (D,) of bool or None
        Columns of whole numbers, which get fresh noise at every read; None is no such column.
    atoms : Atoms or None
        Values with a probability of their own; None is no such value.
    """

    X: NDArray[Any]
    weight: NDArray[np.float64]
    widths: NDArray[np.float64]
    scaling: Scaling
    device: torch.device
    whole: NDArray[np.bool_] | None = None
    atoms: Atoms | None = None

    @property
    def width(self) -> int:
        """Number of entries of a row in flow units."""
        return self.X.shape[1] + (0 if self.atoms is None else len(self.atoms))

    def without_density(self, X: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the rows `X` have no entry with a density, but only masses."""
        discrete = np.broadcast_to(self.widths > 0, X.shape)
        if self.whole is not None:
            discrete = discrete | self.whole
        if self.atoms is not None:
            discrete = discrete | self.atoms.reached(X)
        return np.asarray(discrete.all(axis=1))

    def scaling_rows(self, held_out: Tensor) -> NDArray[np.int64] | None:
        """Evenly spaced training rows from which the scaling is estimated; None is all rows.

        All rows are used as well if a column varies only in the held-out rows, because it would
        have no scale otherwise.
        """
        if not len(held_out):
            return None
        rows = np.arange(0, len(self.X), spacing(len(self.X)))
        rows = rows[~np.isin(rows, held_out.numpy())]
        if not len(rows):
            return None
        constant = np.ptp(self.X[rows], axis=0) == 0
        if self.atoms is not None:
            constant = constant | self.atoms.too_few(self.X[rows])
        return None if (constant & (self.widths == 0)).any() else rows

    def read(self, rows: Tensor, generator: torch.Generator) -> FlowRows:
        """Read rows by number, with noise on constant columns and whole numbers.

        Parameters
        ----------
        rows : Tensor of int, row numbers
        generator : torch.Generator on the CPU, which draws the noise

        Raises
        ------
        ValueError
            If the scaling is not finite for a row, or maps it out of the range of float32 training.
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
    """Training rows in numbered batches.

    The same number gives the same batch, so that an interrupted fit can be resumed.  Random numbers
    of a batch come from generators that the fit seeds for every step.
    """

    @abstractmethod
    def batch(self, number: int, batch_size: int, generators: Generators) -> RowBatch:
        """Return a batch, in random order.

        Parameters
        ----------
        number : int, number of the batch, from 0
        batch_size : int
        generators : Generators

        Returns
        -------
        rows : Tensor of shape (batch_size, D), in flow units
        weight : Tensor of shape (batch_size,)
        """


@dataclass(frozen=True)
class NormalRows(RowSource):
    """Standard normal rows, drawn anew for every batch.

    Parameters
    ----------
    n_features : int
    device : torch.device
    """

    n_features: int
    device: torch.device

    def batch(self, number: int, batch_size: int, generators: Generators) -> RowBatch:
        shape = batch_size, self.n_features
        rows = torch.randn(shape, generator=generators.device, device=self.device)
        return RowBatch(rows, torch.ones(batch_size, device=self.device))


class ShuffledRows(RowSource):
    """Rows in memory, in shuffled passes; fewer rows than a batch are repeated within it.

    Parameters
    ----------
    rows : FlowRows
    seed : int, seed of the shuffles
    """

    def __init__(self, rows: FlowRows, seed: int) -> None:
        self.rows = rows
        self._order = ShuffledPasses(len(rows.u), rows.u.device, seed)

    def batch(self, number: int, batch_size: int, generators: Generators) -> RowBatch:
        index = self._order.batch(number, batch_size)
        return RowBatch(self.rows.u[index], self.rows.weight[index])

    def __len__(self) -> int:
        return len(self.rows.u)


def drawn_pairs(
    source: Reader, target: Reader, epsilon: float, generator: torch.Generator, n_draws: int
) -> tuple[RowSource, RowSource]:
    """Rows of the source with partners drawn by the entropic transport, as two row sources.

    Up to `_PAIRED_ROWS` rows of each side are paired.

    Parameters
    ----------
    epsilon : float
        Noise level of the Schroedinger bridge, in squared flow units.
    n_draws : int
        Number of partners of each row of the source.
    """
    start, end = (
        reader.read(torch.randperm(len(reader.X), generator=generator)[:_PAIRED_ROWS], generator)
        for reader in (source, target)
    )
    seed = drawn_seed(generator)
    draws = torch.Generator(source.device).manual_seed(drawn_seed(generator))
    start, end = (_by_weight(rows, draws) for rows in (start, end))
    partners = bridge_pairs(start.u, end.u, epsilon, draws, n_draws).flatten()
    first = torch.arange(len(start.u), device=source.device).repeat_interleave(n_draws)
    first_rows, second_rows = (
        ShuffledRows(FlowRows(*(part[rows] for part in side)), seed)
        for side, rows in ((start, first), (end, partners))
    )
    return first_rows, second_rows


def _by_weight(rows: FlowRows, generator: torch.Generator) -> FlowRows:
    """As many rows of weight one, drawn in proportion to their weights, if these differ."""
    if bool((rows.weight == rows.weight[0]).all()):
        return rows._replace(weight=torch.ones_like(rows.weight))
    drawn = torch.multinomial(rows.weight, len(rows.u), replacement=True, generator=generator)
    return FlowRows(rows.u[drawn], torch.ones_like(rows.weight), rows.log_det[drawn])


class StreamedRows(RowSource):
    """Rows drawn at random and read from the user's array for every batch.

    Parameters
    ----------
    reader : Reader
    held_out : Tensor of int, numbers of the rows that are never drawn
    seed : int or None
        Seed of the draws: sources of as many rows with the same seed draw the same rows.  None is
        draws by the generators of the fit.
    """

    def __init__(self, reader: Reader, held_out: Tensor, seed: int | None = None) -> None:
        self.reader = reader
        self._seed = seed
        self._gaps = held_out.sort().values - torch.arange(len(held_out))

    def batch(self, number: int, batch_size: int, generators: Generators) -> RowBatch:
        if self._seed is not None:
            device = generators.device.device
            generators = seeded_generators(step_seed(self._seed, number), device)
        drawn = torch.randint(len(self), (batch_size,), generator=generators.cpu)
        # Shift the k-th training row by the number of held-out rows before it.
        rows = (drawn + torch.searchsorted(self._gaps, drawn, right=True)).sort().values
        u, weight, _ = self.reader.read(rows, generators.cpu)
        # A disk reads sorted rows faster, but the rows of a batch must be in random order.
        order = torch.randperm(batch_size, generator=generators.device, device=u.device)
        return RowBatch(u[order], weight[order])

    def __len__(self) -> int:
        return len(self.reader.X) - len(self._gaps)


class ShuffledPasses:
    """Row numbers in shuffled passes, in numbered batches.

    Fewer rows than a batch are repeated within it.

    Parameters
    ----------
    n_rows : int
    device : torch.device
    seed : int, seed of the shuffles
    """

    def __init__(self, n_rows: int, device: torch.device, seed: int) -> None:
        self.n_rows = n_rows
        self.device = device
        self._seed = seed
        self._shuffled: tuple[tuple[int, int] | None, Tensor] = (None, torch.empty(0))

    def batch(self, number: int, batch_size: int) -> Tensor:
        """Row numbers of batch `number`, which counts from 0, shape (batch_size,)."""
        n_passes = -(-batch_size // self.n_rows)
        shuffle, place = divmod(number, n_passes * self.n_rows // batch_size)
        return self._order(shuffle, n_passes)[place * batch_size :][:batch_size]

    def _order(self, shuffle: int, n_passes: int) -> Tensor:
        """Concatenated permutations of all rows, cached for the next batch of the same shuffle."""
        if self._shuffled[0] != (shuffle, n_passes):
            generator = torch.Generator(self.device).manual_seed(step_seed(self._seed, shuffle))
            passes = [
                torch.randperm(self.n_rows, generator=generator, device=self.device)
                for _ in range(n_passes)
            ]
            self._shuffled = (shuffle, n_passes), torch.cat(passes)
        return self._shuffled[1]


def drawn_seed(generator: torch.Generator) -> int:
    """Draw the seed of an independent generator, from a generator on the CPU."""
    return int(torch.randint(2**31, (), generator=generator))


def training_rows(
    reader: Reader, held_out: Tensor, generator: torch.Generator, seed: int | None = None
) -> RowSource:
    """All rows that are not held out, in memory if they fit.

    A few rows with whole numbers are stored in many copies, each with its own noise.  That trains
    as well as fresh noise for every batch and is twice as fast.

    Sources of readers of the same shape with the same `seed` give the rows of the same numbers in
    each batch.  None is an order of its own.
    """
    dithered = reader.whole is not None and bool(reader.whole.any())
    n_copies = (
        min(_DITHERED_ROWS // (len(reader.X) - len(held_out)), _IN_MEMORY_ELEMENTS // reader.X.size)
        if dithered
        else 1
    )
    if reader.X.size > _IN_MEMORY_ELEMENTS or (dithered and n_copies < _MIN_DITHERED_COPIES):
        return StreamedRows(reader, held_out, seed)
    train = torch.ones(len(reader.X), dtype=torch.bool)
    train[held_out] = False
    # The noise is drawn before the seed of the shuffles: seeded fits depend on this order.
    rows = reader.read(train.nonzero()[:, 0].repeat(n_copies), generator)
    return ShuffledRows(rows, drawn_seed(generator) if seed is None else seed)


def validation_rows(reader: Reader, generator: torch.Generator) -> FlowRows:
    """Validation rows given by the user, at most `MAX_VALIDATION_ROWS`, in random order."""
    return reader.read(
        torch.randperm(len(reader.X), generator=generator)[:MAX_VALIDATION_ROWS], generator
    )
