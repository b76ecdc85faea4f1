"""How time and memory grow with the number of rows and of dimensions.

    python benchmarks/growth.py rows              # 10^3 to 10^7 rows of 10 dimensions, 1,000 steps
    python benchmarks/growth.py dimensions        # 2 to 512 dimensions of 2,000 rows, 200 steps
    python benchmarks/growth.py rows --rows 1000 100000 --max-iter 200

The defaults but for a fixed number of steps (nothing stops early), so that what grows is all but
the training itself.  The rows are drawn from a mixture of ten Gaussians and lie, float32, in a
temporary file (``--directory``); beyond 10^5 of them they are memory-mapped.  Each point is
measured in a process of its own.  "Before" is its resident memory with the data at hand, then come
its peaks after the fit and after scoring (of at most `--score-rows` rows, float32); pages of a
mapped file count towards them once they are read.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import (
    Record,
    answer,
    environment,
    measure_alone,
    memory_mb,
    parser,
    peak_memory_mb,
    report,
    rounded,
    save_table,
    synchronize,
    write_table,
)

from skinterflow import InterpolantFlowDensity

_IN_MEMORY = 10**5
_CHUNK_ROWS = 10**5
_N_COMPONENTS = 10
_ROWS = [10**k for k in range(3, 8)]
_DIMENSIONS = [2, 8, 32, 64, 128, 256, 512]


def write_data(path: Path, n_rows: int, n_features: int) -> None:
    """Rows of a Gaussian mixture, a chunk at a time."""
    random = np.random.default_rng(0)
    means = 2.0 * random.standard_normal((_N_COMPONENTS, n_features))
    mixing = random.standard_normal((n_features, n_features)) / np.sqrt(n_features)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, n_features))
    for start in range(0, n_rows, _CHUNK_ROWS):
        n = min(_CHUNK_ROWS, n_rows - start)
        X[start : start + n] = (
            means[random.integers(_N_COMPONENTS, size=n)]
            + random.standard_normal((n, n_features)) @ mixing
        )
    X.flush()


def measure(path: Path, options: argparse.Namespace) -> Record:
    """One row of the table."""
    size = np.load(path, mmap_mode="r").shape
    X = np.load(path, mmap_mode="r" if size[0] > _IN_MEMORY else None)
    scored = np.array(X[: options.score_rows])
    estimator = InterpolantFlowDensity(
        max_iter=options.max_iter, n_iter_no_change=10**6, random_state=0, device=options.device
    )
    before = memory_mb()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X)
    synchronize(options.device)
    fit_seconds, fit_peak = time.perf_counter() - started, peak_memory_mb()
    started = time.perf_counter()
    estimator.score_samples(scored)
    score_seconds = time.perf_counter() - started
    row = {
        "rows": size[0],
        "dimension": size[1],
        "data, MB": round(X.nbytes / 1024**2, 1),
        "steps": estimator.n_iter_,
        "fit, s": round(fit_seconds, 1),
        "rows scored per s": rounded(len(scored) / score_seconds),
        "before, MB": round(before),
        "peak of fit, MB": round(fit_peak),
        "peak of score, MB": round(peak_memory_mb()),
    }
    if torch.device(options.device).type == "cuda":
        row["peak on the GPU, MB"] = round(torch.cuda.max_memory_allocated() / 1024**2)
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("table", choices=("rows", "dimensions"))
    arguments.add_argument(
        "--rows", nargs="+", type=int, help="numbers of rows (10^3 to 10^7; 2,000 for dimensions)"
    )
    arguments.add_argument(
        "--dimensions", nargs="+", type=int, help="numbers of dimensions (10 for rows; 2 to 512)"
    )
    arguments.add_argument(
        "--max-iter", type=int, help="steps (1,000 for rows, 200 for dimensions)"
    )
    arguments.add_argument(
        "--score-rows", type=int, help="rows that are scored (1,000 for rows, 200 for dimensions)"
    )
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument(
        "--directory", type=Path, help="where the temporary files go (10^7 rows take 400 MB)"
    )
    arguments.add_argument(
        "--timeout", type=float, default=3_600.0, help="seconds after which a point is given up"
    )
    arguments.add_argument(
        "--one", type=Path, help=argparse.SUPPRESS
    )  # the file, for the process that measures it
    options = arguments.parse_args()
    by_rows = options.table == "rows"
    options.rows = options.rows or (_ROWS if by_rows else [2_000])
    options.dimensions = options.dimensions or ([10] if by_rows else _DIMENSIONS)
    options.max_iter = options.max_iter or (1_000 if by_rows else 200)
    options.score_rows = options.score_rows or (1_000 if by_rows else 200)
    if options.one:
        answer(lambda: [measure(options.one, options)])
        return
    passed = [
        "--max-iter",
        str(options.max_iter),
        "--score-rows",
        str(options.score_rows),
        "--device",
        options.device,
    ]
    print(f"{options.max_iter} steps; {environment(options.device)}\n")
    table: list[Record] = []
    for n_rows in options.rows:
        for n_features in options.dimensions:
            with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                path = Path(folder) / "rows.npy"
                write_data(path, n_rows, n_features)
                for row in measure_alone(
                    __file__, [options.table, "--one", str(path), *passed], timeout=options.timeout
                ):
                    table.append({"rows": n_rows, "dimension": n_features, **row})
                    report(table[-1])
                    save_table(table, f"growth-{options.table}")
    write_table(table, f"growth-{options.table}", arguments, options.device)


if __name__ == "__main__":
    main()
