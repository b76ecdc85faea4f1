"""What a user of one fitted model waits for: the density of one row, a region of highest density,
and a map.

    python benchmarks/latency.py

Seconds are processor time on one thread, for default fits; the first call of each kind is the
first one after the fit.  A map is the default `DensityDisplay` of two columns.
"""

import time
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch
from _common import Record, Rows, fold, load, parser, report, rounded, write_table

from skinterflow import DensityDisplay, InterpolantFlowDensity
from skinterflow.datasets import Moons

SETS: dict[str, Callable[[], Rows]] = {
    "moons 3000x2": lambda: Moons().sample(3_000, random_state=0),
    "breast cancer 512x30": lambda: fold(load("breast_cancer", None), 0)[0],
}


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return rounded(time.process_time() - started)


def measure(name: str) -> Record:
    X = SETS[name]()
    density = InterpolantFlowDensity(random_state=0)
    row: Record = {"data": name, "fit": seconds(lambda: density.fit(X))}
    row["one row"] = seconds(lambda: density.score_samples(X[:1]))
    row["contains, first call"] = seconds(lambda: density.contains(X[:1], 0.9))
    row["contains, one row"] = seconds(lambda: density.contains(X[1:2], 0.9))
    row["another level"] = seconds(lambda: density.contains(X[1:2], 0.5))
    if X.shape[1] == 2:
        row["map"] = seconds(lambda: DensityDisplay.from_estimator(density))
    report(row)
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    torch.set_num_threads(1)
    write_table([measure(name) for name in SETS], "latency", arguments)


if __name__ == "__main__":
    main()
