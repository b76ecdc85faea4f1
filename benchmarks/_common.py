"""What the benchmarks share: data and folds, tables, memory, timing, and measurements in a process
of their own.

Folds, columns and units are those of the RNADE protocol: ``p = default_rng(0).permutation(n)``;
fold k tests on ``p[k::10]`` and trains on the rest; both are standardised with the training mean
and deviation.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch
from _published import is_published, publish
from numpy.typing import NDArray
from sklearn import datasets

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity

Rows = NDArray[np.floating[Any]]
Record = dict[str, Any]
"""One row of a table: column to value."""

RESULTS = Path(__file__).parent / "results"
_written: set[Path] = set()
"""Tables that this process has written."""
SMALL = ("iris", "wine", "diabetes", "breast_cancer")
LARGE = ("white wine", "parkinsons", "magic", "galaxies")
PARKINSONS_COLUMNS = [3, 4, 5, 7, 8, 9, 12, 13, 14, 15, 17, 18, 19, 20, 21]


_UNSCALED = {"diabetes": {"scaled": False}}
"""scikit-learn divides these columns by their norm, which hides whole numbers."""


def load(name: str, directory: Path | None) -> NDArray[np.float64]:
    """Rows of a data set, float64; only those of `SMALL` need no directory, and of these only the
    continuous columns are taken."""
    if name in SMALL:
        return continuous_columns(getattr(datasets, f"load_{name}")(**_UNSCALED.get(name, {})).data)
    if directory is None:
        raise ValueError(f"{name!r} is read from a file; give its folder with --data-dir.")
    if name == "white wine":
        return np.loadtxt(directory / "winequality-white.csv", delimiter=",", skiprows=1)[:, :11]
    if name == "parkinsons":
        return np.loadtxt(directory / "parkinsons_updrs.data", delimiter=",", skiprows=1)[
            :, PARKINSONS_COLUMNS
        ]
    return np.load(directory / f"{name}.npz")["X"].astype(np.float64)


def continuous_columns(X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns in which fewer than half of the values are whole numbers.

    The others have no density: any method can raise its likelihood there without bound, by narrow
    peaks at the whole numbers.
    """
    return X[:, (np.rint(X) == X).mean(axis=0) < 0.5]


def check_density_exists(name: str, X: NDArray[np.float64]) -> None:
    """Raise a ValueError for a set on which log-likelihoods compare nothing, by the package's own
    warning on the rows as they are.

    Standardised rows would not do: a scaled whole number is no whole number.
    """
    estimator = InterpolantFlowDensity(
        hidden_layer_sizes=(4,), max_iter=1, early_stopping=False, random_state=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DegenerateDataWarning)
        estimator.fit(X)
    for each in caught:
        if issubclass(each.category, DegenerateDataWarning):
            raise ValueError(
                f"The log-likelihoods of methods cannot be compared on {name!r}: {each.message}"
            )


def fold(X: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training and test rows of fold `k`, standardised by the former."""
    order = np.random.default_rng(0).permutation(len(X))
    test = np.zeros(len(X), dtype=bool)
    test[order[k::10]] = True
    mean, deviation = X[~test].mean(axis=0), X[~test].std(axis=0)
    return (X[~test] - mean) / deviation, (X[test] - mean) / deviation


def some_rows(X: Rows, n_rows: int | None) -> Rows:
    """At most `n_rows` rows, drawn without replacement and always the same; files are often sorted,
    so never the first ones."""
    if n_rows is None or n_rows >= len(X):
        return X
    return X[np.sort(np.random.default_rng(0).permutation(len(X))[:n_rows])]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of the options of one script, whose help is the module's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def commit() -> str:
    """The commit that is measured, with "-dirty" if files other than results differ from it."""
    described = _git("describe", "--always")
    changed = _git(
        "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)benchmarks/published"
    )
    return f"{described}-dirty" if changed else described or "unknown"


def _git(*arguments: str) -> str:
    answered = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return answered.stdout.strip()


def environment(device: str = "cpu") -> str:
    """One line on where a table comes from: commit, versions, processor, threads and device."""
    return f"commit {commit()}, torch {torch.__version__}, {machine(device)}"


def machine(device: str = "cpu") -> str:
    """Processor, threads and device; no name of the machine."""
    processor = platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        processor = next(
            line.partition(":")[2].strip() for line in file if line.startswith("model name")
        )
    n_threads = torch.get_num_threads()
    where = f"{processor}, {n_threads} thread{'s' if n_threads > 1 else ''}"
    if torch.device(device).type == "cuda":
        where += f", {torch.cuda.get_device_name(device)}"
    return where


def provenance(device: str = "cpu") -> Record:
    """What a published result file says of a run: commit, date, versions and machine."""
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
    return {
        "commit": commit(),
        "date": f"{datetime.now():%Y-%m-%d}",
        "versions": versions,
        "machine": machine(device),
    }


def report(row: Mapping[str, Any]) -> None:
    """A row as soon as it is known, on standard error."""
    print(dict(row), file=sys.stderr, flush=True)


def save_table(rows: Sequence[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """Write ``results/<name>.csv``: after every row in a long run, so that one which is cut short
    leaves something.

    A file of an earlier run is kept, with its time in its name: a quick look does not replace the
    results of a night.
    """
    table = pd.DataFrame(
        list(rows), dtype=object
    )  # so that an integer stays one beside a missing value
    if "error" in table:
        table["error"] = table.pop("error")  # last
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    if path.exists() and path not in _written:
        path.replace(
            path.with_stem(f"{name}-{datetime.fromtimestamp(path.stat().st_mtime):%Y%m%d-%H%M%S}")
        )
    _written.add(path)
    table.to_csv(path, index=False)
    return table


def write_table(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    arguments: argparse.ArgumentParser,
    device: str = "cpu",
) -> None:
    """Write ``results/<name>.csv`` and print the table as Markdown; write the published file, too,
    if this run is the published one."""
    print_table(save_table(rows, name))
    if is_published(name, arguments):
        path = publish(name, rows, provenance(device))
        print(
            f"{path} is written; python benchmarks/tables.py puts it into README and docs.",
            file=sys.stderr,
        )


def print_table(table: pd.DataFrame) -> None:
    """Print a table as Markdown; missing values are empty."""
    print(" | ".join(["", *table.columns, ""]).strip())
    print("|" + "---|" * len(table.columns))
    for row in table.itertuples(index=False):
        print("| " + " | ".join("" if pd.isna(value) else str(value) for value in row) + " |")


def append_row(row: Mapping[str, Any], path: Path) -> None:
    """Add a row to a CSV file, which gets its header with the first one."""
    path.parent.mkdir(exist_ok=True, parents=True)
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)


def rounded(value: float, digits: int = 3) -> float | int:
    """`value` with so many significant digits, an integer where it has no more."""
    if not np.isfinite(value) or value == 0:
        return float(value)
    result = float(f"{value:.{digits}g}")
    return int(result) if abs(result) >= 10.0 ** (digits - 1) else result


def memory_mb() -> float:
    """Resident memory of this process now, MB; on other systems than Linux, its peak."""
    return _status_mb("VmRSS")


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB.

    On Linux from /proc, because ``ru_maxrss`` of a process starts with the peak of the one that
    launched it.
    """
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def synchronize(device: str | torch.device = "cpu") -> None:
    """Wait until the device has done what it was asked; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    work: Callable[[], Any],
    *,
    min_seconds: float = 0.3,
    min_calls: int = 3,
    max_calls: int = 100,
    device: str = "cpu",
) -> float:
    """Median time of one call of `work`, after one that does not count."""
    work()
    synchronize(device)
    times: list[float] = []
    while len(times) < max_calls and (len(times) < min_calls or sum(times) < min_seconds):
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rows_per_second(
    work: Callable[[int, int], Any], n_rows: int, batch_rows: int, *, seconds: float = 4.0
) -> float:
    """Rate of ``work(start, stop)``, called on one batch of `n_rows` rows after the other, around
    and around, until the time is up.

    A small batch that does not count goes before.
    """
    work(0, max(1, batch_rows // 8))
    done, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        start = done % n_rows
        stop = min(start + batch_rows, n_rows)
        work(start, stop)
        done += stop - start
        elapsed = time.perf_counter() - started
    return done / elapsed


def shuffled_batches(n_rows: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Endless row numbers, `batch_size` at a time, in shuffled passes."""
    if batch_size > n_rows:
        raise ValueError(f"A batch of {batch_size} rows needs at least as many, got {n_rows}.")
    while True:
        yield from torch.randperm(n_rows)[: n_rows // batch_size * batch_size].split(batch_size)


def measure_alone(script: str, arguments: Sequence[str], *, timeout: float) -> list[Record]:
    """Rows that a script answers in a process of its own, so that memory, threads and failures are
    its own.

    A failure is a row, too: its column `error` says what went wrong, and the run goes on.
    """
    command = [sys.executable, script, *arguments]
    try:
        finished = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=timeout, check=False, env=os.environ
        )
    except subprocess.TimeoutExpired:
        return [{"error": f"no result within {timeout:.0f} s"}]
    try:
        return json.loads(finished.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return [{"error": f"exit status {finished.returncode} without a result"}]


def answer(measure: Callable[[], Sequence[Record]]) -> None:
    """The other end of :func:`measure_alone`: print the rows of one measurement, or its error, as
    JSON."""
    try:
        rows = list(measure())
    except Exception as error:  # whatever a peer raises is its result
        traceback.print_exc()
        first_line = next(iter(str(error).splitlines()), "")
        rows = [{"error": f"{type(error).__name__}: {first_line}"[:200].replace("|", "/")}]
    print(json.dumps(rows), flush=True)
