"""Conversion of rows on disk to a memory map of float32, which a fit reads fastest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skinterflow._data.sources import BLOCK_ROWS, ArraySource, Source, kind_of, open_source
from skinterflow._data.stored import StoredRows

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SECONDS = 5.0
"""Minimum time between two notes of the progress, each of which waits for the disk."""
_ITEM_BYTES = 4


class _Progress(NamedTuple):
    """How far a conversion is: the source, and the number of parts and rows in the file."""

    mark: str | None
    n_parts: int = 0
    n_rows: int = 0


def opened(X: Any) -> Any:
    """Return `X`, or the rows of a source as :class:`StoredRows`.

    Arrays of zarr and HDF5 are read when rows are needed.  Parquet, Arrow and dask are written to a
    temporary memory map, of which the space is free again when nothing refers to it.
    """
    if kind_of(X) in ("h5py.Dataset", "zarr.Array"):
        return StoredRows(X, np.empty((0, *X.shape[1:])))
    source = open_source(X)
    return X if source is None else StoredRows(_temporary_memmap(source), source.header)


def _temporary_memmap(source: Source) -> NDArray[np.float32]:
    with tempfile.TemporaryFile(prefix="skinterflow-") as file:
        n_rows = _copy(source, file, _Progress(None), _note_nothing).n_rows
        file.flush()
        shape = n_rows, source.n_features
        # The map keeps the content of the file, which no longer has a name.
        return np.memmap(file, np.float32, "r", shape=shape) if n_rows else np.empty(shape, "f4")


def to_memmap(
    source: Any, path: str | os.PathLike[str], columns: Sequence[Any] | None = None
) -> np.memmap[Any, np.dtype[np.float32]]:
    """Write rows to a memory map of float32, in one pass and at constant memory.

    The file is in NumPy's format (``numpy.load(path, mmap_mode="r")``) and is complete as soon as
    it is there.  Until then the rows are in ``path + ".part"``.  A conversion that was interrupted
    is resumed by the same call, if ``path + ".part.json"`` names the same source: Parquet files by
    name, size and time, dask by the names of its tasks, zarr and HDF5 by their place.

    Parameters
    ----------
    source : str or path-like, or object
        A Parquet file or a folder of Parquet files; an Arrow table or dataset; a dask array or data
        frame; an array of zarr or HDF5 (h5py); a NumPy array or memory map.
    path : str or path-like
        Name of the new file.  A file of this name is replaced.
    columns : sequence of str or int, default=None
        Columns in the order of the file: names, or numbers for an array.  None is all columns.

    Returns
    -------
    rows : numpy.memmap of shape (n_samples, n_columns), float32, read-only
        NaN is kept, although a fit refuses it.  float32 has 24 bits: whole numbers above 16,777,216
        and digits after the seventh are rounded.

    Raises
    ------
    ImportError
        If Parquet is to be read without pyarrow.
    FileNotFoundError
        If there is no file or folder of this name.
    TypeError
        If the source is of another type.
    ValueError
        If there are no rows, columns that are not numbers, unknown columns, files with different
        schemas, missing values, or numbers that are too large for float32.
    BlockingIOError
        If another process is writing this file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from skinterflow import to_memmap
    >>> X = np.arange(12.0).reshape(4, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = to_memmap(X, os.path.join(folder, "rows.npy"), columns=[0, 2])
    ...     print(rows.shape, rows.dtype, rows[1].tolist())
    ...     del rows  # Windows does not delete a file that is mapped
    (4, 2) float32 [3.0, 5.0]
    """
    opened_source = _source_of(source, columns)
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    note = target.with_name(f"{part.name}.json")
    with _locked(part) as file:
        try:
            _write(opened_source, file, note)
        except ValueError:  # the source has to change, and nothing of it can be resumed
            part.unlink()
            note.unlink(missing_ok=True)
            raise
        os.replace(part, target)
    note.unlink(missing_ok=True)
    rows: np.memmap[Any, np.dtype[np.float32]] = np.load(target, mmap_mode="r")
    return rows


def _source_of(source: Any, columns: Sequence[Any] | None) -> Source:
    found = open_source(source, columns)
    if found is None and isinstance(source, np.ndarray):
        return ArraySource(source, columns, BLOCK_ROWS, None)
    if found is None:
        raise TypeError(
            "source must be a path, an Arrow table or dataset, a dask array or data frame, or an "
            f"array of zarr, HDF5 or NumPy, got {type(source).__name__}; convert it to one of "
            "these."
        )
    return found


def _write(source: Source, file: BinaryIO, note: Path) -> None:
    """Write all rows that are not in the file yet, and then its header."""
    progress, header = _noted(note, source), _header(0, source)
    start = len(header) + progress.n_rows * source.n_features * _ITEM_BYTES
    if file.seek(0, os.SEEK_END) < start:  # only the note is left of an earlier conversion
        progress, start = _Progress(source.mark), len(header)
    file.truncate(start)
    file.seek(start)

    def note_progress(progress: _Progress) -> None:
        _sync(file)
        temporary = note.with_suffix(".tmp")
        temporary.write_text(json.dumps(progress))
        os.replace(temporary, note)

    keep = _note_nothing if source.mark is None else note_progress
    progress = _copy(source, file, progress._replace(mark=source.mark), keep)
    if not progress.n_rows:
        raise ValueError("The source has no rows; choose another one.")
    file.seek(0)
    file.write(_header(progress.n_rows, source))
    _sync(file)


def _copy(
    source: Source, file: BinaryIO, progress: _Progress, note: Callable[[_Progress], None]
) -> _Progress:
    """Write the parts of a source that are left, and note the progress from time to time.

    After an interruption the parts that were written whole are noted.
    """
    noted = time.monotonic()
    try:
        for part in range(progress.n_parts, source.n_parts):
            n_rows = progress.n_rows
            for block in source.read(part):
                file.write(block.data)
                n_rows += len(block)
            progress = progress._replace(n_parts=part + 1, n_rows=n_rows)
            if time.monotonic() - noted > _SECONDS:
                note(progress)
                noted = time.monotonic()
    except BaseException:
        note(progress)
        raise
    return progress


def _note_nothing(progress: _Progress) -> None:
    pass


def _noted(note: Path, source: Source) -> _Progress:
    """Progress of an earlier conversion of the same source, or none."""
    if source.mark is None or not note.is_file():
        return _Progress(source.mark)
    try:
        progress = _Progress(*json.loads(note.read_text()))
    except (ValueError, TypeError):  # another program wrote it
        return _Progress(source.mark)
    return progress if progress.mark == source.mark else _Progress(source.mark)


def _header(n_rows: int, source: Source) -> bytes:
    """Header of NumPy's format, which leaves space for any number of rows."""
    file, shape = io.BytesIO(), (n_rows, source.n_features)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, which no other process may do at the same time."""
    path.touch()
    with open(path, "r+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _busy(path) from error
            # The other process may have finished and renamed the file just before the lock.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise _busy(path)
        yield file


def _busy(path: Path) -> BlockingIOError:
    return BlockingIOError(
        f"Another process is writing {str(path)!r}; wait for it, or choose another path."
    )
