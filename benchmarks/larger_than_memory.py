"""Time and memory of a fit to rows that are larger than memory, and of their conversion.

    python benchmarks/larger_than_memory.py                        # 10^8 rows of 10 columns: 4 GB
    python benchmarks/larger_than_memory.py --rows 1000000 --parquet-rows 1000000 --score-rows 1000

One table, each row measured in a process of its own with one thread:

- "to_memmap" of a folder of ten Parquet files in float64, in row groups of 10^5 rows;
- "random batches": the training rows of a fit alone, 20 batches of 512, from a memory map and from
  zarr and HDF5 in chunks of 10^4 rows, of 10^6 rows;
- "fit": the defaults but for a fixed number of steps, on a memory map of a mixture of ten Gaussians
  in float32, and "score_samples" of its first rows by the fitted model.

"Own" is the largest memory of the process that is not a file's, of which it had "before" when the
part began.  Pages of the memory map are given back once their rows are read, so that the resident
memory ("peak") does not grow with the file (Linux).
"""

import argparse
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from _common import (
    Record,
    answer,
    environment,
    measure_alone,
    parser,
    peak_memory_mb,
    report,
    rounded,
    write_table,
)
from growth import write_data

from skinterflow import InterpolantFlowDensity, to_memmap
from skinterflow._data.batches import NO_ROWS, Reader, StreamedRows
from skinterflow._data.memmap import opened
from skinterflow._runtime import seeded_generators
from skinterflow.interflow import Identity

_N_FILES, _GROUP_ROWS = 10, 10**5
_CHUNK_ROWS, _STORED_ROWS = 10**4, 10**6
_BATCHES, _BATCH_ROWS = 20, 512


def own_memory_mb() -> float:
    """Resident memory of this process that is not a file's, MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


@contextmanager
def measured(row: Record) -> Iterator[None]:
    """Add the seconds and the memory of the block to the row."""
    before, peaks, done = own_memory_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks[0] = max(peaks[0], own_memory_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        row["s"] = rounded(time.perf_counter() - started)
        row["CPU s"] = rounded(time.process_time() - cpu)
        done.set()
        watcher.join()
        row["before, MB"] = round(before)
        row["own, MB"] = round(max(peaks[0], own_memory_mb()))
        row["peak, MB"] = round(peak_memory_mb())


def fit_and_score(folder: Path, options: argparse.Namespace) -> Iterator[Record]:
    """Rows of the table on a fit to a memory map, and on the scores of its first rows."""
    X = np.load(folder / "X.npy", mmap_mode="r")
    estimator = InterpolantFlowDensity(
        max_iter=options.max_iter, n_iter_no_change=10**6, random_state=0
    )
    row = {"what": f"fit, {options.max_iter:,} steps", "rows": len(X)}
    with warnings.catch_warnings(), measured(row):
        warnings.simplefilter("ignore")
        estimator.fit(X)
    yield row
    scored = min(options.score_rows, len(X))
    row = {"what": "score_samples", "rows": scored}
    with warnings.catch_warnings(), measured(row):
        warnings.simplefilter("ignore")
        estimator.score_samples(X[:scored])
    yield row | {"rows per s": rounded(scored / row["s"])}


def convert(folder: Path, options: argparse.Namespace) -> Iterator[Record]:
    """Row of the table on the conversion of Parquet."""
    row = {"what": "to_memmap of Parquet", "rows": options.parquet_rows}
    with measured(row):
        n_rows = len(to_memmap(folder / "parquet", folder / "rows.npy"))
    assert n_rows == options.parquet_rows
    (folder / "rows.npy").unlink()
    yield row | {"rows per s": rounded(n_rows / row["s"])}


def read_batches(folder: Path, options: argparse.Namespace) -> Iterator[Record]:
    """Rows of the table on random batches of each format."""
    import h5py
    import zarr

    X = np.random.default_rng(0).normal(size=(_STORED_ROWS, 10)).astype(np.float32)
    np.save(folder / "stored.npy", X)
    chunks = {"shape": X.shape, "dtype": X.dtype, "chunks": (_CHUNK_ROWS, 10)}
    compressed = zarr.create_array(folder / "stored.zarr", **chunks)
    compressed[:] = X
    with h5py.File(folder / "stored.h5", "w") as file:
        formats = {
            "memory map": np.load(folder / "stored.npy", mmap_mode="r"),
            "zarr": opened(compressed),
            "HDF5": opened(file.create_dataset("X", data=X, chunks=(_CHUNK_ROWS, 10))),
        }
        for name, rows in formats.items():
            weight, widths = np.broadcast_to(1.0, len(rows)), np.zeros(10)
            cpu = torch.device("cpu")
            source = StreamedRows(Reader(rows, weight, widths, Identity(), cpu), NO_ROWS)
            generators, row = (
                seeded_generators(0, cpu),
                {"what": f"random batches, {name}", "rows": len(rows)},
            )
            with measured(row):
                for number in range(_BATCHES):
                    source.batch(number, _BATCH_ROWS, generators)
            yield row | {"rows per s": rounded(_BATCHES * _BATCH_ROWS / row["s"])}


MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Record]]] = {
    "parquet": convert,
    "batches": read_batches,
    "fit": fit_and_score,
}


def write_parquet(folder: Path, n_rows: int) -> None:
    """A folder of Parquet files of normal rows, in float64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    random, n = np.random.default_rng(0), n_rows // _N_FILES
    schema = pa.schema([(f"x{j}", pa.float64()) for j in range(10)])
    for number in range(_N_FILES):
        with pq.ParquetWriter(folder / f"{number}.parquet", schema) as writer:
            for start in range(0, n, _GROUP_ROWS):
                X = random.standard_normal((min(_GROUP_ROWS, n - start), 10))
                writer.write_table(pa.table(dict(zip(schema.names, X.T, strict=True))))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=10**8, help="rows of the memory map (10^8)")
    arguments.add_argument("--max-iter", type=int, default=1_000, help="steps of the fit (1,000)")
    arguments.add_argument("--score-rows", type=int, default=10**6, help="rows scored (10^6)")
    arguments.add_argument(
        "--parquet-rows", type=int, default=10**7, help="rows converted, a multiple of ten (10^7)"
    )
    arguments.add_argument(
        "--directory",
        type=Path,
        help="where the files of rows remain for the next run (10^8 rows take 4 GB), or are found; "
        "otherwise they are temporary",
    )
    arguments.add_argument(
        "--choices", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="(all)"
    )
    arguments.add_argument("--timeout", type=float, default=14_400.0, help="seconds for one part")
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # of the measuring process
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.one:
        name, folder = options.one
        answer(lambda: list(MEASUREMENTS[name](Path(folder), options)))
        return
    passed = [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in ("rows", "max_iter", "score_rows", "parquet_rows")
    ]
    print(f"{environment()}\n")
    table: list[Record] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.directory or Path(temporary)
        if "fit" in options.choices and not (folder / "X.npy").exists():
            write_data(folder / "X.npy", options.rows, 10)
        if "parquet" in options.choices and not (folder / "parquet").exists():
            write_parquet(folder / "parquet", options.parquet_rows)
        for part in options.choices:
            one = [*passed, "--one", part, str(folder)]
            for row in measure_alone(__file__, one, timeout=options.timeout):
                table.append(row if "what" in row else {"what": part, **row})
                report(table[-1])
            write_table(table, "larger_than_memory", arguments)


if __name__ == "__main__":
    main()
