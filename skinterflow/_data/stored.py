"""Rows on disk, which a fit and a prediction read when they need them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from skinterflow._data.degenerate import row_blocks
from skinterflow._data.sources import check_two_axes, kind_of
from skinterflow._runtime import sums_may_overflow


class StoredRows:
    """Rows on disk, with what a fit and a prediction need of an array.

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

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Rows in memory, by a slice, a number, numbers in any order, or a mask."""
        if isinstance(rows, slice):
            return np.asarray(self.array[rows], dtype=self.dtype)
        numbers = np.asarray(rows)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        # HDF5 reads increasing numbers only, and all are faster in this order.
        different, place = np.unique(numbers, return_inverse=True)
        read = np.asarray(self._take[different, :], dtype=self.dtype)
        taken: NDArray[Any] = read[place.reshape(numbers.shape)]
        return taken

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
        return self.array if isinstance(self.array, np.memmap) else self
