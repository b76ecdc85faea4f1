"""The five tabular sets of paper 1 (table 2): test log-likelihoods next to the published ones.

The sets are those of Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density
estimation", NIPS 2017, whose archive ``data.tar.gz`` is on Zenodo under record 1161203::

    tar xzf data.tar.gz
    python benchmarks/tabular.py --data-dir data --sets POWER GAS HEPMASS MINIBOONE BSDS300

with the defaults of the package.  At the size of the paper, with its law of the times::

    python benchmarks/tabular.py --data-dir data --sets POWER GAS HEPMASS MINIBOONE \\
        --hidden-layer-sizes 512 512 512 512 --max-iter 100000 --end-time 1 --device cuda
    python benchmarks/tabular.py --data-dir data --sets BSDS300 \\
        --hidden-layer-sizes 1024 1024 1024 --max-iter 100000 --end-time 1 --time-beta 1.0 0.7 \\
        --device cuda

A quick look takes some of the rows::

    python benchmarks/tabular.py --data-dir data --sets MINIBOONE --train-rows 5000 --test-rows 1000

Columns, noise, order and parts are those of the authors of the archive, so that the figures can be
compared: nats per row, higher is better.  The held-out rows of a fit are the validation rows.  The
published figures are means over the test rows; 2 standard errors of the test rows alone are about
0.01 for POWER, 0.02 for GAS, 0.03 for HEPMASS, 0.45 for MINIBOONE and 0.28 for BSDS300.

Sources: Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
2023, table 2; Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", NeurIPS 2019, for
RQ-NSF (C); Grathwohl et al., "FFJORD", ICLR 2019.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import Record, environment, parser, print_table, report, save_table
from numpy.typing import NDArray

from skinterflow import InterpolantFlowDensity

Rows = NDArray[np.float64]

PUBLISHED = {
    "POWER": {"FFJORD": 0.46, "RQ-NSF (C)": 0.64, "InterFlow": 0.57},
    "GAS": {"FFJORD": 8.59, "RQ-NSF (C)": 13.09, "InterFlow": 12.35},
    "HEPMASS": {"FFJORD": -14.92, "RQ-NSF (C)": -14.75, "InterFlow": -14.85},
    "MINIBOONE": {"FFJORD": -10.43, "RQ-NSF (C)": -9.67, "InterFlow": -10.42},
    "BSDS300": {"FFJORD": 157.40, "RQ-NSF (C)": 157.54, "InterFlow": 156.22},
}
"""Test log-likelihoods; InterFlow is the method of paper 1."""
_MOST_REPEATED = 5
"""Columns of HEPMASS with a value that is in more rows are left out."""
_CORRELATED = 0.98
"""Columns of GAS that are correlated by more are left out."""


class Parts(NamedTuple):
    """Training, validation and test rows."""

    train: Rows
    validation: Rows
    test: Rows


def existing(folder: Path, name: str) -> Path:
    """Path of a file of the archive.

    Raises
    ------
    FileNotFoundError
        If it is missing.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; download data.tar.gz of Zenodo's record 1161203, unpack it, and "
            "give its folder data as --data-dir."
        )
    return path


def tenths(X: Rows) -> Parts:
    """The last tenth for the test, and the last tenth of the rest for validation."""
    X, test = X[: -int(0.1 * len(X))], X[-int(0.1 * len(X)) :]
    n_validation = int(0.1 * len(X))
    return Parts(X[:-n_validation], X[-n_validation:], test)


def standardized(parts: Parts, fitted: Rows) -> Parts:
    """Rows in units of mean and standard deviation of `fitted`."""
    mean, deviation = fitted.mean(axis=0), fitted.std(axis=0)
    return Parts(*((X - mean) / deviation for X in parts))


def power(folder: Path) -> Parts:
    """Household electricity: six of eight columns, with noise below their resolution."""
    random = np.random.RandomState(42)
    X = np.load(existing(folder, "power/data.npy"))
    random.shuffle(X)
    X = np.delete(X, [1, 3], axis=1)
    n = len(X)
    voltage, gap, meters = random.rand(n, 1), random.rand(n, 1), random.rand(n, 3)
    parts = tenths(X + np.hstack([0.001 * gap, 0.01 * voltage, meters, np.zeros((n, 1))]))
    return standardized(parts, np.vstack(parts[:2]))


def gas(folder: Path) -> Parts:
    """Gas sensors: without concentrations, time and columns that repeat others."""
    table = pd.read_pickle(existing(folder, "gas/ethylene_CO.pickle"))
    table = table.drop(columns=["Meth", "Eth", "Time"])
    while True:
        repeated = np.flatnonzero((table.corr().to_numpy() > _CORRELATED).sum(axis=1) > 1)
        if not len(repeated):
            break
        table = table.drop(columns=table.columns[repeated[0]])
    return tenths(((table - table.mean()) / table.std()).to_numpy(dtype=np.float64))


def hepmass(folder: Path) -> Parts:
    """Particle collisions: signal only, without columns that repeat single values."""
    tables = [
        pd.read_csv(existing(folder, f"hepmass/1000_{part}.csv"), index_col=False)
        for part in ("train", "test")
    ]
    train, test = (
        table[table.iloc[:, 0] == 1].iloc[:, 1:].to_numpy(dtype=np.float64) for table in tables
    )
    test = test[:, : train.shape[1]]  # the test file has a column more
    n_validation = int(0.1 * len(train))
    mean, deviation = train.mean(axis=0), train.std(axis=0, ddof=1)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    kept = [max(Counter(column).values()) <= _MOST_REPEATED for column in train.T]
    train, test = train[:, kept], test[:, kept]
    return Parts(train[:-n_validation], train[-n_validation:], test)


def miniboone(folder: Path) -> Parts:
    """Neutrino events, cleaned by the authors of the archive."""
    parts = tenths(np.load(existing(folder, "miniboone/data.npy")).astype(np.float64))
    return standardized(parts, np.vstack(parts[:2]))


def bsds300(folder: Path) -> Parts:
    """Patches of 8 x 8 pixels of natural images without their last pixel."""
    import h5py

    with h5py.File(existing(folder, "BSDS300/BSDS300.hdf5")) as file:
        return Parts(*(file[part][:].astype(np.float64) for part in Parts._fields))


SETS: dict[str, Callable[[Path], Parts]] = {
    "POWER": power,
    "GAS": gas,
    "HEPMASS": hepmass,
    "MINIBOONE": miniboone,
    "BSDS300": bsds300,
}


def measure(name: str, options: argparse.Namespace) -> Record:
    """Fit one set and score its test rows."""
    parts = SETS[name](options.data_dir)
    train, test = parts.train[: options.train_rows], parts.test[: options.test_rows]
    density = InterpolantFlowDensity(
        random_state=0,
        device=options.device,
        early_stopping=True,
        end_time="auto" if options.end_time is None else options.end_time,
        hidden_layer_sizes=options.hidden_layer_sizes or "auto",
        max_iter=options.max_iter or "auto",
        time_beta=tuple(options.time_beta),
    )
    started = time.perf_counter()
    density.fit(train, X_val=parts.validation[: options.test_rows])
    fitted = time.perf_counter()
    log_density = density.score_samples(test)
    return {
        "data": name,
        "columns": test.shape[1],
        "training rows": len(train),
        "test rows": len(test),
        "log-likelihood": round(float(log_density.mean()), 3),
        "standard error": round(float(log_density.std(ddof=1) / np.sqrt(len(test))), 3),
        **{f"{method} (published)": value for method, value in PUBLISHED[name].items()},
        "fit, s": round(fitted - started, 1),
        "score, s": round(time.perf_counter() - fitted, 1),
    }


def arguments() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="folder data of the archive")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options.add_argument("--train-rows", type=int, help="the first ones; all if not given")
    options.add_argument("--test-rows", type=int, help="the first ones; all if not given")
    options.add_argument("--hidden-layer-sizes", type=int, nargs="+", help="default: the package's")
    options.add_argument("--max-iter", type=int, help="steps; default: the package's")
    options.add_argument("--end-time", type=float, help="default: by held-out likelihood")
    options.add_argument("--time-beta", type=float, nargs=2, default=(1.0, 0.5))
    options.add_argument("--device", default="cpu")
    return options


def main() -> None:
    options = arguments().parse_args()
    print(f"{environment(options.device)}\n")
    table = []
    for name in options.sets:
        table.append(measure(name, options))
        report(table[-1])
        save_table(table, "tabular")
    print_table(pd.DataFrame(table, dtype=object))


if __name__ == "__main__":
    main()
