"""What students of several widths lose, and how fast they score.

    python benchmarks/students.py --data-dir DIR --models DIR

Every set is fitted once, with the defaults, on its first fold, or its model is read from
``--models``.  Students of several widths are then distilled from the same trained field.  "Lost" is
the mean log-likelihood of test rows by the trained field minus that by the student, both on a grid
of 25 nodes.  Rates are rows per second of processor time on one thread with the default tolerance,
for the students, the trained field, and zuko's NSF, which is trained for seconds only, because its
rate does not depend on its weights.
"""

import argparse
import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
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
from rates import fitted

from skinterflow import InterpolantFlowDensity
from skinterflow._data.batches import FlowRows, ShuffledRows
from skinterflow._fit.distillation import distil
from skinterflow._fit.recipe import resolve_time_law
from skinterflow._runtime import seeded_generators
from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.grading import UNGRADED

_WIDTHS = ("64,64", "128,128", "192,192", "256,256")
_TEST_ROWS, _TIMED_ROWS, _CALIBRATION_ROWS = 2_000, 8_192, 64
_SOLVER = replace(UNGRADED.solver(atol=math.inf, rtol=0.0), start=(25, 25))


def likelihood(density: InterpolantFlowDensity, field: VelocityField, test: Rows) -> float:
    """Mean log-density of the rows in flow units under a field of this model."""
    u = density._target(torch.from_numpy(test)).float()
    flow = Flow(copy.deepcopy(field).float(), _SOLVER, density.end_time_)
    return float(Pushforward(flow, density._source).log_prob(u).double().mean())


def student_of(
    density: InterpolantFlowDensity, train: Rows, widths: list[int], n_steps: int
) -> tuple[VelocityField, float]:
    """A student of the trained field, and the seconds of processor time that it took."""
    generators = seeded_generators(0, torch.device("cpu"))
    u = density._target(torch.from_numpy(train)).float()
    rows = ShuffledRows(FlowRows(u, torch.ones(len(u)), torch.zeros(len(u)).double()), seed=0)
    student = ResidualMLP(train.shape[1], widths, density.activation, generators.cpu)
    started = time.process_time()
    student = distil(
        student,
        copy.deepcopy(density._trained).float(),
        rows,
        density.end_time_,
        density._path,
        density._source,
        resolve_time_law(density.time_beta),
        n_steps,
        generators,
    )
    return student, time.process_time() - started


def with_student(
    density: InterpolantFlowDensity, student: VelocityField, train: Rows
) -> InterpolantFlowDensity:
    """The model with a student in place of the trained field."""
    model = copy.deepcopy(density)
    u = density._target(torch.from_numpy(some_rows(train, _CALIBRATION_ROWS)))
    field = copy.deepcopy(student).double().requires_grad_(False)
    model._field, model._cache = student, {}
    model._calibration = Flow(field, end_time=density.end_time_).calibrate(u)
    return model


def rate(work: Callable[[Rows], object], rows: Rows) -> float:
    """Rows per second of processor time."""
    work(rows[:64])
    started = time.process_time()
    work(rows)
    return len(rows) / (time.process_time() - started)


def measure(name: str, options: argparse.Namespace) -> list[Record]:
    """The rows of one data set."""
    from _neural_peers import ZukoNSF

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    train, test = fold(load(name, options.data_dir), 0)
    density = fitted(name, train, argparse.Namespace(models=options.models, max_iter=None))
    tiled = test[np.arange(_TIMED_ROWS) % len(test)]
    peer = ZukoNSF(train.shape[1])
    peer.fit(train, 3.0)
    others = {
        "trained field, scored per s": rounded(rate(density.score_samples, tiled), 2),
        "NSF, scored per s": rounded(rate(peer.log_prob, tiled.astype(np.float32)), 2),
    }
    test = some_rows(test, _TEST_ROWS)
    by_teacher, found = likelihood(density, density._trained, test), []
    for widths in options.widths:
        student, seconds = student_of(
            density, train, [int(width) for width in widths.split(",")], options.steps
        )
        row = {
            "data": name,
            "widths": widths,
            "steps": options.steps,
            "distillation, s": rounded(seconds, 2),
            "nats lost": round(by_teacher - likelihood(density, student, test), 2),
            "scored per s": rounded(
                rate(with_student(density, student, train).score_samples, tiled), 2
            ),
        }
        found.append(row | others)
        report(found[-1])
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with the data sets")
    arguments.add_argument(
        "--models", type=Path, help="folder where fitted models are kept, and looked for"
    )
    arguments.add_argument(
        "--sets", nargs="+", default=LARGE, choices=LARGE, help="only these sets"
    )
    arguments.add_argument(
        "--widths", nargs="+", default=list(_WIDTHS), help="of the hidden layers, such as 128,128"
    )
    arguments.add_argument("--steps", type=int, default=4_000, help="steps of each student")
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
    passed = ["--data-dir", str(options.data_dir), "--steps", str(options.steps)]
    passed += ["--widths", *options.widths]
    if options.models is not None:
        passed += ["--models", str(options.models)]
    rows = []
    for name in options.sets:
        found = measure_alone(__file__, ["--one", name, *passed], timeout=options.timeout)
        rows += [{"data": name, **row} for row in found]
    write_table(rows, "students", arguments)


if __name__ == "__main__":
    main()
