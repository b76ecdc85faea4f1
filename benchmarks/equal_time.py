"""Equal time: what density estimators reach when each gets the same wall time on the same cores.

    python benchmarks/equal_time.py --data-dir DIR                  # 60 s a peer python
    benchmarks/equal_time.py --data-dir DIR --seconds 40 --sets magic --methods "zuko NSF"
    KernelDensity

Four data sets, first fold of ten, standardised with the training mean and deviation.  A peer has
`--seconds` for everything that it needs to be fitted, tuning and validation included (see
`_peers.py` and `_neural_peers.py`); ours is run with its defaults and takes the time that it takes,
which the table gives.  Log-likelihood in nats per test row, with its standard error over the rows;
continuous flows of others are scored on at most 1,000 rows.  Rates are measured after a warm-up,
for 4 s, in the precision that stands beside them.  "Log-density error" is the mean distance of our
log-densities to those of a solve at 1e-7, on at most 500 test rows.  Each method runs in a process
of its own; its memory is the largest that was resident, and what was there before the fit
(interpreter, libraries, data) stands beside it.  A method that fails is a row with its error.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _common import (
    LARGE,
    Record,
    Rows,
    answer,
    check_density_exists,
    environment,
    fold,
    load,
    measure_alone,
    memory_mb,
    parser,
    peak_memory_mb,
    report,
    rounded,
    rows_per_second,
    save_table,
    some_rows,
    write_table,
)
from _neural_peers import NflowsRQNSF, OptimalTransportCFM, ZukoCNF, ZukoMAF, ZukoNSF
from _peers import Density, Ours, OursNarrow, OursWide, TunedGaussianMixture, TunedKernelDensity

METHODS: dict[str, type[Density]] = {
    "InterpolantFlowDensity": Ours,
    "InterpolantFlowDensity, student (384, 192), atol 0.1": OursWide,
    "InterpolantFlowDensity, student (128, 128), atol 0.1": OursNarrow,
    "KernelDensity": TunedKernelDensity,
    "GaussianMixture": TunedGaussianMixture,
    "zuko NSF": ZukoNSF,
    "zuko MAF": ZukoMAF,
    "nflows RQ-NSF": NflowsRQNSF,
    "zuko CNF": ZukoCNF,
    "torchcfm OT-CFM": OptimalTransportCFM,
}
_TIMED_ROWS = 10_000
_ERROR_ROWS = 500


def measure(name: str, method: str, options: argparse.Namespace) -> Iterator[Record]:
    """Rows of the table for one method on one data set, one for each precision."""
    warnings.filterwarnings("ignore", module="sklearn|zuko|nflows|torchcfm")
    torch.manual_seed(0)
    np.random.seed(0)
    train, test = fold(load(name, options.data_dir), 0)
    density = build(method, train.shape[1], options)
    before = memory_mb()
    started = time.perf_counter()
    density.fit(train, options.seconds)
    fit_seconds = time.perf_counter() - started
    for n_rows in (density.max_test_rows, options.test_rows):
        test = some_rows(test, n_rows)
    for dtype in density.dtypes:
        yield {
            **scored(density, test.astype(dtype)),
            "fit, s": round(fit_seconds, 1),
            "before the fit, MB": round(before),
        }


def scored(density: Density, test: Rows) -> Record:
    """Columns on a fitted method, in the precision of the test rows."""
    log_prob = np.concatenate(
        [density.log_prob(part) for part in in_batches(test, density.batch_rows)]
    ).astype(np.float64)
    tiled = test[np.arange(_TIMED_ROWS) % len(test)]
    return {
        "precision": test.dtype.name,
        "test rows": len(test),
        "log-likelihood": round(float(log_prob.mean()), 3),
        "standard error": round(float(log_prob.std(ddof=1) / np.sqrt(len(log_prob))), 3),
        "worst row": round(float(log_prob.min()), 1),
        "rows scored per s": rounded(
            rows_per_second(
                lambda a, b: density.log_prob(tiled[a:b]), _TIMED_ROWS, density.batch_rows
            )
        ),
        "rows sampled per s": rounded(
            rows_per_second(lambda a, b: density.sample(b - a), _TIMED_ROWS, density.batch_rows)
        ),
        "log-density error": rounded(density.log_density_error(some_rows(test, _ERROR_ROWS))),
        "peak memory, MB": round(peak_memory_mb()),
    }


def build(method: str, n_features: int, options: argparse.Namespace) -> Density:
    if issubclass(METHODS[method], Ours):
        return METHODS[method](
            n_features, options.device, "auto" if options.max_iter is None else options.max_iter
        )
    return METHODS[method](n_features)


def in_batches(rows: Rows, batch_rows: int) -> Iterator[Rows]:
    for start in range(0, len(rows), batch_rows):
        yield rows[start : start + batch_rows]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with the data sets")
    arguments.add_argument(
        "--sets", nargs="+", default=LARGE, choices=LARGE, help="only these sets"
    )
    arguments.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, help="only these methods"
    )
    arguments.add_argument("--seconds", type=float, default=60.0, help="wall time to fit a peer")
    arguments.add_argument("--device", default="cpu", help="device of ours")
    arguments.add_argument(
        "--max-iter", type=int, help="steps of ours, for a quick look instead of the defaults"
    )
    arguments.add_argument(
        "--test-rows", type=int, help="score at most so many test rows, for a quick look"
    )
    arguments.add_argument(
        "--timeout", type=float, default=3_600.0, help="seconds after which a method is given up"
    )
    arguments.add_argument(
        "--one", nargs=2, help=argparse.SUPPRESS
    )  # data and method, for the process that measures them
    options = arguments.parse_args()
    if options.one:
        answer(lambda: list(measure(*options.one, options)))
        return
    passed = [
        "--data-dir",
        str(options.data_dir),
        "--seconds",
        str(options.seconds),
        "--device",
        options.device,
    ]
    for option in ("max_iter", "test_rows"):
        if getattr(options, option) is not None:
            passed += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    print(f"{options.seconds:g} s a peer; {environment(options.device)}\n")
    rows = []
    for name in options.sets:
        check_density_exists(name, load(name, options.data_dir))
        for method in options.methods:
            for row in measure_alone(
                __file__, ["--one", name, method, *passed], timeout=options.timeout
            ):
                rows.append({"data": name, "method": method, **row})
                report(rows[-1])
                save_table(rows, "equal_time")
    write_table(rows, "equal_time", arguments, options.device)


if __name__ == "__main__":
    main()
