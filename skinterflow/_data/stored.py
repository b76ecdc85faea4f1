"""Rows on disk, which a fit and a prediction read when they need them."""

from __future__ import annotations

import mmap
import sys
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from skinterflow._data.degenerate import row_blocks
from skinterflow._data.sources import check_two_axes, kind_of
from skinterflow._runtime import sums_may_overflow

_MAPPED_ROWS = 2**7
"""Rows of a memory map that are read before its pages are released: the system may map 2 MB around
each."""


class StoredRows:
    """Rows on disk, with what a fit and a prediction need of an array.

    Pages of a memory map do not stay in the memory of the process once their rows are read.

    Parameters
    ----------
    array : zarr array, HDF5 data set or memory map, of shape (n, D)
    header : array or data frame without rows, which has the columns
    """

    def __init__(self, array: Any, header: Any) -> None:
        check_two_axes(array)
        self.array, self.header = array, header
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(np.float32 if array.dtype == np.float32 else np.float64)
        self._take = array.oindex if kind_of(array) == "zarr.Array" else array
        self._mapped = isinstance(array, np.memmap)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Rows in memory, by a slice, a number, numbers in any order, or a mask."""
        if isinstance(rows, slice):
            return self._block(rows)
        numbers = np.asarray(rows)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        # HDF5 reads increasing numbers only, and all are faster in this order.
        different, place = np.unique(numbers, return_inverse=True)
        taken: NDArray[Any] = self._increasing(different)[place.reshape(numbers.shape)]
        return taken

    def _block(self, rows: slice) -> NDArray[Any]:
        start, end, step = rows.indices(len(self))
        if self._mapped and step > 1:
            return self._increasing(np.arange(start, end, step))
        read = np.array(self.array[rows], dtype=self.dtype)
        self._release_pages()
        return read

    def _increasing(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of increasing numbers."""
        if not self._mapped:
            return np.asarray(self._take[numbers, :], dtype=self.dtype)
        read = np.empty((len(numbers), self.shape[1]), dtype=self.dtype)
        for start in range(0, len(numbers), _MAPPED_ROWS):
            part = slice(start, start + _MAPPED_ROWS)
            read[part] = self.array[numbers[part]]
            self._release_pages()
        return read

    def _release_pages(self) -> None:
        if self._mapped:
            release_pages(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def min(self, axis: int) -> NDArray[Any]:
        """Smallest entry of each column; the axis is 0."""
        return self._extremes[0]

    def max(self, axis: int) -> NDArray[Any]:
        """Largest entry of each column; the axis is 0."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        lowest, highest = zip(
            *((block.min(axis=0), block.max(axis=0)) for block in row_blocks(self)), strict=True
        )
        return np.min(lowest, axis=0), np.max(highest, axis=0)

    def checked(self, n_min: int, name: str = "X") -> Any:
        """Validate the rows block by block, as scikit-learn does, and return what a fit reads.

        Raises
        ------
        ValueError
            If there are less than `n_min` rows, or numbers that are not finite.
        """
        with sums_may_overflow():
            for block in row_blocks(self):
                check_array(
                    block,
                    dtype=[np.float64, np.float32],
                    # Fewer rows than n_min are one block; the last block of many may be short.
                    ensure_min_samples=1 if len(self) >= n_min else n_min,
                    input_name=name,
                )
        return self


def release_pages(array: np.memmap[Any, Any]) -> None:
    """Take the pages of a memory map out of the memory of the process, where they count.

    They remain in the memory of the system as long as it has room for them.  A private map, whose
    pages hold changes that are not in the file, keeps them.
    """
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if sys.platform == "linux" and array.mode != "c" and isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
