"""How many rows a second the trained default field scores, against an earlier commit and a spline
flow, and how accurately.

    python benchmarks/rates.py --data-dir DIR --old DIR

Every set is fitted once, with the defaults, on its first fold.  The same field is then scored by
this code and by that of a checkout of commit f51299d (`--old`), in one process after the other, on
one thread, and with them zuko's NSF, trained for seconds only, because its rate does not depend on
its weights.  All rates are rows per second of processor time.  Errors are distances to a solve with
a tolerance of 1e-9: on test rows, on these stretched about the mean by 2.5, and on uniform rows of
the training rows' box widened by half.  "Exceed" is the share of rows whose error is larger than
its estimate.  "Log-likelihood" is the mean over the same test rows, by both solves.  A model of
columns with atoms has no rate by the earlier commit.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _common import (
    LARGE,
    Record,
    Rows,
    answer,
    fold,
    load,
    measure_alone,
    parser,
    report,
    rounded,
    some_rows,
    write_table,
)

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Moons
from skinterflow.interflow.fields import ResidualMLP

SETS = (*LARGE, "moons")
_STRETCH, _BOX = 2.5, 1.5
_ERROR_ROWS = 100
_TIMED_ROWS = 4_096
_REFERENCE = {"atol": 1e-9, "rtol": 0.0}
_OLD_RATE = """
import json, sys, time
import numpy as np, torch
from skinterflow import InterpolantFlowDensity
from skinterflow._saving import Storable
from skinterflow.interflow.flows import Flow
from skinterflow.interflow.fields import ResidualMLP
torch.set_num_threads(1)
state = torch.load(sys.argv[1], weights_only=False)
field = ResidualMLP(*state["shape"])
field.load_state_dict(state["field"])
flow = Flow(field.double().requires_grad_(False), end_time=state["end_time"])
flow.solver = flow.calibrate(state["calibration"]).solver(5e-3, 1e-5)
from skinterflow.interflow.flows import Pushforward
density, u = Pushforward(flow), state["rows"]
density.measured_log_prob(u[:64])
started = time.process_time()
density.measured_log_prob(u)
scored = time.process_time() - started
started = time.process_time()
flow.transport(torch.randn(1_024, u.shape[1], dtype=u.dtype), 0.0, state["end_time"])
print(json.dumps([len(u) / scored, 1_024 / (time.process_time() - started)]))
"""
"""What the earlier commit runs: the same weights on the same rows, in flow units, by its own steps;
its files are of another version."""


def split(name: str, directory: Path) -> tuple[Rows, Rows]:
    """Training and test rows of the first fold."""
    X = Moons().sample(3_000, random_state=0) if name == "moons" else load(name, directory)
    return fold(X, 0)


def rate(work: Callable[[Rows], object], rows: Rows) -> float:
    """Rows per second of processor time, after a call that does not count."""
    work(rows[:64])
    started = time.process_time()
    work(rows)
    return len(rows) / (time.process_time() - started)


def nsf_rates(train: Rows, rows: Rows, seconds: float) -> Record:
    """Rows that a spline flow scores and samples a second, in batches of its own choice."""
    from _neural_peers import ZukoNSF

    peer = ZukoNSF(train.shape[1])
    peer.fit(train, seconds)

    def in_batches(work: Callable[[Rows], object]) -> Callable[[Rows], object]:
        n = peer.batch_rows
        return lambda part: [work(part[start : start + n]) for start in range(0, len(part), n)]

    rows = rows.astype(np.float32)
    return {
        "NSF, scored per s": rounded(rate(in_batches(peer.log_prob), rows)),
        "NSF, sampled per s": rounded(rate(in_batches(lambda part: peer.sample(len(part))), rows)),
    }


def kinds_of_rows(train: Rows, test: Rows) -> dict[str, Rows]:
    """Rows of the data, in the tails, and outside."""
    mean, low, high = train.mean(axis=0), train.min(axis=0), train.max(axis=0)
    uniform = np.random.default_rng(0).uniform(-0.5, 0.5, size=test.shape)
    return {
        "data": test,
        "tail": mean + _STRETCH * (test - mean),
        "uniform": 0.5 * (low + high) + _BOX * (high - low) * uniform,
    }


def fitted(name: str, train: Rows, options: argparse.Namespace) -> InterpolantFlowDensity:
    """The default estimator, from a file of an earlier run if there is one."""
    path = (
        None if options.models is None else options.models / f"{name.replace(' ', '_')}.safetensors"
    )
    if path is not None and path.exists():
        return InterpolantFlowDensity.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integer-valued columns and copies of rows
        density = InterpolantFlowDensity(random_state=0, max_iter=options.max_iter or "auto").fit(
            train
        )
    if path is not None:
        density.save(path)
    return density


def old_rates(
    density: InterpolantFlowDensity, train: Rows, test: Rows, old: Path
) -> tuple[float, float]:
    """Rows scored and carried a second by an earlier commit."""
    field = density._field
    state = {
        "shape": (field.n_features, field.hidden_layer_sizes, field.activation),
        "field": field.state_dict(),
        "end_time": density.end_time_,
        "calibration": density._target(torch.from_numpy(some_rows(train, 64))),
        "rows": density._target(torch.from_numpy(some_rows(test, 256))),
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, f"{folder}/state")
        command = [sys.executable, "-c", _OLD_RATE, f"{folder}/state"]
        environment = os.environ | {"PYTHONPATH": str(old)}
        found = subprocess.run(
            command, cwd=old, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    scored, carried = json.loads(found.stdout.splitlines()[-1])
    return scored, carried


def errors(density: InterpolantFlowDensity, kinds: dict[str, Rows], n_rows: int) -> Record:
    """Mean errors, and how often they are larger than estimated."""
    tight, row = copy.deepcopy(density).set_params(**_REFERENCE), {}
    for kind, rows in kinds.items():
        some = some_rows(rows, n_rows)
        value, estimated = density.score_samples(some, return_error=True)
        exact = tight.score_samples(some)
        error = np.abs(value - exact)
        row[f"mean error, {kind}"] = rounded(float(error.mean()), 2)
        row[f"exceed, {kind}"] = rounded(float((error > estimated).mean()), 2)
        if kind == "data":
            row["log-likelihood"] = rounded(float(value.mean()), 5)
            row["log-likelihood, exact"] = rounded(float(exact.mean()), 5)
    return row


def measure(name: str, options: argparse.Namespace) -> list[Record]:
    """The row of one data set."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    train, test = split(name, options.data_dir)
    density = fitted(name, train, options)
    row: Record = {"data": name}
    # The earlier commit knows no atoms.
    compared = options.old is not None and isinstance(density._field, ResidualMLP)
    old = [old_rates(density, train, test, options.old)] if compared else []
    tiled = test[np.arange(_TIMED_ROWS) % len(test)]
    row["scored per s"] = rounded(rate(density.score_samples, tiled))
    row["sampled per s"] = rounded(
        rate(lambda rows: density.sample(len(rows), random_state=0), tiled)
    )
    if compared:
        old.append(old_rates(density, train, test, options.old))
        scored, sampled = (max(values) for values in zip(*old, strict=True))
        row |= {
            "f51299d, scored per s": rounded(scored),
            "times": rounded(row["scored per s"] / scored, 2),
        }
        row["f51299d, sampled per s"] = rounded(sampled)
    if options.seconds:
        row |= nsf_rates(train, tiled, options.seconds)
    if options.error_rows:
        row |= errors(density, kinds_of_rows(train, test), options.error_rows)
    return [row]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with the data sets")
    arguments.add_argument("--old", type=Path, help="checkout of commit f51299d")
    arguments.add_argument(
        "--models", type=Path, help="folder where fitted models are kept, and looked for"
    )
    arguments.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="only these sets")
    arguments.add_argument(
        "--seconds", type=float, default=10.0, help="time to fit the spline flow; 0 leaves it out"
    )
    arguments.add_argument(
        "--error-rows",
        type=int,
        default=_ERROR_ROWS,
        help="rows to measure errors on; 0 leaves them out",
    )
    arguments.add_argument(
        "--max-iter", type=int, help="steps of the fit, for a quick look instead of the defaults"
    )
    arguments.add_argument(
        "--timeout", type=float, default=7_200.0, help="seconds after which a set is given up"
    )
    arguments.add_argument(
        "--one", help=argparse.SUPPRESS
    )  # data, for the process that measures it
    options = arguments.parse_args()
    if options.one:
        answer(lambda: measure(options.one, options))
        return
    passed = [
        "--data-dir",
        str(options.data_dir),
        "--seconds",
        str(options.seconds),
        "--error-rows",
        str(options.error_rows),
    ]
    for option in ("old", "models", "max_iter"):
        if getattr(options, option) is not None:
            passed += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    torch.set_num_threads(1)  # as in the processes that measure
    rows = []
    for name in options.sets:
        rows += [
            {"data": name, **row}
            for row in measure_alone(__file__, ["--one", name, *passed], timeout=options.timeout)
        ]
        report(rows[-1])
    write_table(rows, "rates", arguments)


if __name__ == "__main__":
    main()
