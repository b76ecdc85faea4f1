"""Sources of rows that are no arrays in memory: Parquet, Arrow, dask, zarr and HDF5.

A source is recognised by the name of its class, before anything turns it into one array in memory,
and without importing a package.  It is read part by part as float32.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skinterflow._data.degenerate import shown

Block = NDArray[np.float32]

BLOCK_ROWS = 2**16
"""Rows that are read together, the bound on memory."""
_PARQUET = (".parquet", ".pq")
_NUMERIC = "biuf"
"""Kinds of NumPy's dtypes that are real numbers."""


class Source(ABC):
    """Rows that are read in numbered parts.

    Attributes
    ----------
    header : array or data frame without rows, which has the columns
    mark : str or None
        Identifies the content, so that an interrupted conversion can be resumed; None if nothing
        does.
    n_parts : int
    """

    header: Any
    mark: str | None
    n_parts: int

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.header.shape[1])

    @abstractmethod
    def read(self, part: int) -> Iterator[Block]:
        """Rows of a part, in blocks of shape (n, n_features).

        Raises
        ------
        ValueError
            If values are missing, or too large for float32.
        """


class ArraySource(Source):
    """Array with two axes: zarr, HDF5, a memory map, or an array in memory.

    Parameters
    ----------
    array : array-like with `shape`, `dtype` and slices of rows
    columns : sequence of int or None
    chunk_rows : int, number of rows that are stored together
    mark : str or None
    """

    def __init__(
        self, array: Any, columns: Sequence[int] | None, chunk_rows: int, mark: str | None
    ) -> None:
        check_two_axes(array)
        self._columns = _column_numbers(columns, array.shape[1])
        self._array = array
        self._step = chunk_rows * max(1, BLOCK_ROWS // chunk_rows)
        self.header = np.empty((0, len(self._columns)), dtype=np.float32)
        self.n_parts = -(-array.shape[0] // self._step)
        self.mark = mark and _digest(mark, self._columns, array.shape, array.dtype.str)

    def read(self, part: int) -> Iterator[Block]:
        start = part * self._step
        rows = np.asarray(self._array[start : start + self._step])
        yield _float32([rows[:, j] for j in self._columns], self._columns, start)


class DaskArraySource(Source):
    """dask array with two axes, a part for each chunk of rows."""

    def __init__(self, array: Any, columns: Sequence[int] | None) -> None:
        check_two_axes(array)
        self._columns = _column_numbers(columns, array.shape[1])
        self._array = array if array.numblocks[1] == 1 else array.rechunk({1: -1})
        self.header = np.empty((0, len(self._columns)), dtype=np.float32)
        self.n_parts = self._array.numblocks[0]
        self.mark = _digest(self._array.name, self._columns, repr(self._array.chunks))

    def read(self, part: int) -> Iterator[Block]:
        rows = np.asarray(self._array.blocks[part].compute())
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            yield _float32([block[:, j] for j in self._columns], self._columns)


class DaskFrameSource(Source):
    """dask data frame, a part for each partition."""

    def __init__(self, frame: Any, columns: Sequence[str] | None) -> None:
        self._names = _column_names(columns, list(frame.columns))
        kinds = {name: frame.dtypes[name] for name in self._names}
        _check_numeric({k: str(v) for k, v in kinds.items() if v.kind not in _NUMERIC})
        self._frame = frame[self._names]
        self.header = self._frame._meta
        self.n_parts = self._frame.npartitions
        self.mark = _digest(self._frame._name, self._names, self.n_parts)

    def read(self, part: int) -> Iterator[Block]:
        rows = self._frame.partitions[part].compute()
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows.iloc[start : start + BLOCK_ROWS]
            # NumPy's dtypes have no missing values; their NaN is a value like any other.
            nullable = block.loc[:, [not isinstance(kind, np.dtype) for kind in block.dtypes]]
            _check_nulls(nullable.isna().sum())
            yield _float32([block[name].to_numpy(np.float32) for name in self._names], self._names)


class ArrowSource(Source):
    """Arrow table, record batch or dataset, as one part."""

    n_parts: ClassVar[int] = 1  # type: ignore[misc]
    mark: ClassVar[None] = None  # type: ignore[misc]

    def __init__(self, data: Any, columns: Sequence[str] | None) -> None:
        self._names = _column_names(columns, data.schema.names)
        _check_fields(data.schema, self._names)
        self._data = data
        self.header = _empty_table(data.schema, self._names)
        if type(data).__name__ in ("Table", "RecordBatch"):
            _check_nulls({name: data[name].null_count for name in self._names})

    def read(self, part: int) -> Iterator[Block]:
        for batch in self._batches():
            for start in range(0, batch.num_rows, BLOCK_ROWS):
                yield _batch_float32(batch.slice(start, BLOCK_ROWS), self._names)

    def _batches(self) -> Iterator[Any]:
        kind = type(self._data).__name__
        if kind == "RecordBatch":
            return iter([self._data])
        if kind == "Table":
            return iter(self._data.to_batches())
        # Batches that are read ahead, 16 in 4 files by default, would not be constant memory.
        ahead = {"batch_size": BLOCK_ROWS, "batch_readahead": 2, "fragment_readahead": 1}
        batches: Iterator[Any] = self._data.to_batches(columns=self._names, **ahead)
        return batches


class ParquetSource(Source):
    """Parquet file, or the Parquet files of a folder in the order of their names.

    A row group is a part.  Files of which the name begins with "_" or "." are ignored.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None) -> None:
        self._files = _parquet_files(path)
        first = _metadata(self._files[0])
        self._names = _column_names(columns, first.schema.to_arrow_schema().names)
        schema = first.schema.to_arrow_schema()
        _check_fields(schema, self._names)
        self._groups = []
        for number, file in enumerate(self._files):
            metadata = first if number == 0 else _metadata(file)
            self._check_schema(metadata.schema.to_arrow_schema(), schema, file)
            self._groups += [(file, group) for group in range(metadata.num_row_groups)]
            _check_nulls(_null_counts(metadata, self._names), f" of {file}")
        self.header = _empty_table(schema, self._names)
        self.n_parts = len(self._groups)
        files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in self._files]
        self.mark = _digest(files, self._names)

    def read(self, part: int) -> Iterator[Block]:
        file, group = self._groups[part]
        with _parquet().ParquetFile(file, pre_buffer=False) as opened:
            batches = opened.iter_batches(
                batch_size=BLOCK_ROWS, row_groups=[group], columns=self._names, use_threads=False
            )
            for batch in batches:
                yield _batch_float32(batch, self._names, f" of {file}")

    def _check_schema(self, schema: Any, first: Any, file: Path) -> None:
        """Raise a ValueError unless the columns are those of the first file."""
        for name in self._names:
            kind = str(schema.field(name).type) if name in schema.names else "missing"
            expected = str(first.field(name).type)
            if kind != expected:
                raise ValueError(
                    f"The Parquet files have different schemas: column {name} is {expected} in "
                    f"{self._files[0]}, but {kind} in {file}; write them with one schema, or "
                    "leave the column out by columns=."
                )


def open_source(source: Any, columns: Sequence[Any] | None = None) -> Source | None:
    """Return the source of an object; None if it is not one, such as an array in memory.

    Parameters
    ----------
    source : Parquet file or folder, Arrow table or dataset, dask array or data frame, zarr or HDF5
    columns : sequence of names, or of numbers for an array, or None

    Raises
    ------
    ImportError
        If Parquet is to be read without pyarrow.
    FileNotFoundError
        If there is no file or folder of this name.
    ValueError
        If the columns are not numbers, or not the same in all files, or if values are missing.
    """
    if isinstance(source, str | os.PathLike):
        return ParquetSource(Path(source), columns)
    kind = kind_of(source)
    if kind in ("h5py.Dataset", "zarr.Array"):
        chunks = source.chunks or (BLOCK_ROWS,)
        return ArraySource(source, columns, int(chunks[0]), _stored_mark(source, kind))
    if kind == "dask.Array":
        return DaskArraySource(source, columns)
    if kind == "dask.DataFrame":
        return DaskFrameSource(source, columns)
    if kind is not None:
        return ArrowSource(source, columns)
    return None


_KINDS = {
    "h5py.Dataset",
    "zarr.Array",
    "dask.Array",
    "dask.DataFrame",
    "pyarrow.Table",
    "pyarrow.RecordBatch",
    "pyarrow.Dataset",
}


def kind_of(source: Any) -> str | None:
    """Package and class of a source, such as "h5py.Dataset"; None if it is not one."""
    names = (f"{each.__module__.split('.')[0]}.{each.__name__}" for each in type(source).__mro__)
    return next((name for name in names if name in _KINDS), None)


def check_two_axes(array: Any) -> None:
    """Raise a ValueError unless the array is one of numbers and has rows and columns."""
    if len(array.shape) != 2:
        raise ValueError(
            f"Expected an array of rows and columns, got the shape {tuple(array.shape)}; reshape "
            "it to (n_samples, n_features)."
        )
    if array.dtype.kind not in _NUMERIC:
        raise ValueError(
            f"Expected an array of numbers, got the dtype {array.dtype}; convert it, or choose "
            "another array."
        )


def _column_numbers(columns: Sequence[int] | None, n_columns: int) -> list[int]:
    if columns is None:
        return list(range(n_columns))
    _check_sequence(columns)
    wrong = [c for c in columns if not isinstance(c, Integral) or not 0 <= int(c) < n_columns]
    if wrong:
        raise ValueError(
            f"columns has {wrong[0]!r}, but the columns of an array are numbers from 0 to "
            f"{n_columns - 1}."
        )
    return [int(c) for c in columns]


def _column_names(columns: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    if columns is None:
        columns = names
    _check_sequence(columns)
    wrong = [name for name in columns if name not in names]
    if wrong:
        raise ValueError(
            f"columns has {wrong[0]!r}, but the columns of the source are "
            f"{shown([str(name) for name in names])}."
        )
    return list(columns)


def _check_sequence(columns: Any) -> None:
    if isinstance(columns, str) or not len(columns) or len(set(columns)) < len(columns):
        raise ValueError(
            f"columns must be a sequence of different columns, at least one, got {columns!r}."
        )


def _check_numeric(others: dict[str, str]) -> None:
    if others:
        named = shown([f"{name} ({kind})" for name, kind in others.items()])
        raise ValueError(
            f"{len(others)} column(s) are not numbers: {named}; leave them out by columns=, or "
            "encode them as numbers."
        )


def _check_fields(schema: Any, names: Sequence[str]) -> None:
    types = _pyarrow().types
    kinds = {name: schema.field(name).type for name in names}
    tests = types.is_integer, types.is_floating, types.is_boolean
    _check_numeric({n: str(k) for n, k in kinds.items() if not any(test(k) for test in tests)})


def _check_nulls(counts: Any, where: str = "") -> None:
    """Raise a ValueError if a column has missing values; `counts` maps names to numbers."""
    missing = {name: int(n) for name, n in counts.items() if n}
    if missing:
        named = shown([f"{name} ({n} rows)" for name, n in missing.items()])
        raise ValueError(
            f"{len(missing)} column(s){where} have missing values: {named}; drop or impute them, "
            "or leave the columns out by columns=."
        )


def _float32(columns: Sequence[NDArray[Any]], names: Sequence[Any], start: int = 0) -> Block:
    """Columns side by side; `names` and the number of the first row are for messages."""
    block = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    with np.errstate(over="raise"):
        for j, column in enumerate(columns):
            try:
                block[:, j] = column
            except FloatingPointError as error:
                raise ValueError(
                    f"Column {names[j]} has values above 3.4e38, which float32 cannot hold; use "
                    "other units for it."
                ) from error
    return block


def _batch_float32(batch: Any, names: Sequence[str], where: str = "") -> Block:
    arrays = [batch.column(batch.schema.get_field_index(name)) for name in names]
    if any(array.null_count for array in arrays):
        counts = [array.null_count for array in arrays]
        _check_nulls(dict(zip(names, counts, strict=True)), where)
    return _float32([array.to_numpy(zero_copy_only=False) for array in arrays], names)


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no file or folder {str(path)!r}; a path is that of a Parquet file or of "
            "a folder of Parquet files."
        )
    found = sorted(
        each
        for each in path.rglob("*")
        if each.suffix in _PARQUET
        and not any(part[0] in "_." for part in each.relative_to(path).parts)
        and each.is_file()
    )
    if not found:
        raise ValueError(
            f"The folder {str(path)!r} has no Parquet files, whose names end with "
            f"{' or '.join(_PARQUET)}; choose another folder, or rename the files."
        )
    return found


def _metadata(file: Path) -> Any:
    try:
        return _parquet().read_metadata(file)
    except _pyarrow().ArrowInvalid as error:
        raise ValueError(
            f"{str(file)!r} is not a Parquet file, or is damaged ({error}); open another format "
            "first, such as a file of NumPy by numpy.load(path, mmap_mode='r')."
        ) from error


def _null_counts(metadata: Any, names: Sequence[str]) -> dict[str, int]:
    """Numbers of missing values that the statistics of the file report, if it has any."""
    counts = dict.fromkeys(names, 0)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            statistics = column.statistics
            if column.path_in_schema in counts and statistics and statistics.has_null_count:
                counts[column.path_in_schema] += statistics.null_count
    return counts


def _empty_table(schema: Any, names: Sequence[str]) -> Any:
    return _pyarrow().schema([schema.field(name) for name in names]).empty_table()


def _stored_mark(array: Any, kind: str) -> str:
    """What identifies an array in a file: its place, and the time of the last change of HDF5."""
    if kind == "zarr.Array":
        return f"{array.store} {array.path} {array.chunks}"
    path = Path(array.file.filename).resolve()
    changed = path.stat().st_mtime_ns if path.is_file() else "in memory"
    return f"{path} {changed} {array.name}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(
            "Parquet is read by pyarrow. You can install it with `pip install "
            "skinterflow[parquet]`."
        ) from error


def _parquet() -> Any:
    _pyarrow()
    return importlib.import_module("pyarrow.parquet")
