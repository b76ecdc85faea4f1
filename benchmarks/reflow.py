"""Reflow: straightness, evaluations and likelihood before and after.

    python benchmarks/reflow.py

A density with a linear path, and one and two steps of reflow.  The true log-density is known:
"below the truth" is the mean over 4,000 new rows of the true log-density less that of the model, a
KL divergence in nats.  Evaluations are those of a log-density at ``atol=1e-3``.  "One step" is the
energy distance of 2,000 samples by one step of Euler's method to as many rows of the truth, and
"solved" that of samples by the solver; of two samples of the truth it is about 0.002.
"""

import time
from typing import Any

import numpy as np
import torch
from _common import Record, Rows, parser, report, rounded, write_table
from cost import field_as, solve
from sklearn.utils import Bunch

from skinterflow import InterpolantFlowDensity, InterpolantTransport, reflow
from skinterflow._predict.diagnosis import _energy_distance
from skinterflow.datasets import EightGaussians
from skinterflow.interflow.flows import standard_normal_log_prob

TARGET = EightGaussians()
NORMAL = Bunch(score_samples=lambda z: standard_normal_log_prob(torch.from_numpy(z)).numpy())


def log_density(model: Any, X: Rows) -> Rows:
    if isinstance(model, InterpolantFlowDensity):
        return model.score_samples(X)
    return model.target_log_density(X, NORMAL)


def images(model: Any, z: Rows) -> Rows:
    is_density = isinstance(model, InterpolantFlowDensity)
    return np.asarray(model.inverse_transform(z) if is_density else model.transform(z))


def one_step(model: Any, z: Rows) -> Rows:
    u = model._source(torch.from_numpy(z))
    with torch.no_grad():
        end = u + field_as(model, "float64", "cpu")(torch.zeros((), dtype=torch.float64), u)
    return model._target.inverse(end).numpy()


def measure(name: str, model: Any, seconds: float, train: Rows) -> Record:
    test, z = TARGET.sample(4_000, random_state=1), np.random.default_rng(2).normal(size=(2_000, 2))
    below = TARGET.score_samples(test) - log_density(model, test)
    u = model._target(torch.from_numpy(test))
    work, _ = solve(field_as(model, "float64", "cpu"), 1.0, model._solver(), u)
    sides = (train,) if isinstance(model, InterpolantFlowDensity) else (z, test[: len(z)])
    drawn = TARGET.sample(len(z), random_state=3)
    return {
        "flow": name,
        "fit, CPU s": rounded(seconds, 2),
        "straightness": rounded(model.diagnose(*sides, random_state=0).straightness, 2),
        "evaluations per row": work["evaluations per row"],
        "below the truth, nats": round(float(below.mean()), 4),
        "standard error": rounded(float(below.std() / np.sqrt(len(below))), 2),
        "solved": rounded(_energy_distance(images(model, z), drawn), 2),
        "one step": rounded(_energy_distance(one_step(model, z), drawn), 2),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=4_000)
    arguments.add_argument("--max-iter", type=int, default=600)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    train = TARGET.sample(options.rows, random_state=0)
    common = {"max_iter": options.max_iter, "random_state": 0, "atol": 1e-3}
    started = time.process_time()
    model: Any = InterpolantFlowDensity(
        **common, interpolant="linear", early_stopping=False, end_time=1.0
    ).fit(train)
    rows = []
    for name in ("density", "reflowed", "reflowed twice"):
        rows.append(measure(name, model, time.process_time() - started, train))
        report(rows[-1])
        if name != "reflowed twice":
            ends = (
                train
                if name == "density"
                else np.random.default_rng(4).normal(size=(options.rows, 2))
            )
            started = time.process_time()
            new = InterpolantTransport(**common)
            model = reflow(model, ends, transport=new, random_state=0)
    write_table(rows, "reflow", arguments)


if __name__ == "__main__":
    main()
