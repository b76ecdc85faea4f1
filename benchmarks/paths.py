"""Paths, bases and couplings on two-dimensional targets: what they shorten, what they cost, and
what they do to the likelihood.

    python benchmarks/paths.py                      # 50,000 rows, equal steps (the defaults')
    python benchmarks/paths.py --max-iter 500       # a quick look

The targets are checkerboard and eight Gaussians, whose true log-density is known: "below the truth"
is the mean over 10,000 new rows of the true log-density less the estimated one, a KL divergence in
nats.  Nothing is set but what the row names and the random state; the flow goes to t = 1.  Action
and length are in flow units, "before" that of the path before it was learned (after half of the
steps).  Evaluations are counted at atol 1e-3, as in `cost.py`.  This redoes, as a table, the
checkerboard ablation of Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic
Interpolants", ICLR 2023, appendix H (curves there).
"""

import argparse
import time

import numpy as np
import torch
from _common import Record, environment, parser, report, rounded, save_table, write_table
from cost import field_as, solve

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Checkerboard, Density, EightGaussians

TARGETS: dict[str, Density] = {"checkerboard": Checkerboard(), "eight Gaussians": EightGaussians()}
CHOICES = {
    "default": {},
    "default, uniform times": {"time_beta": (1.0, 1.0)},
    "learned path, uniform times": {"interpolant": "fourier", "time_beta": (1.0, 1.0)},
    "learned path and base, uniform times": {
        "interpolant": "fourier",
        "base": "learned",
        "time_beta": (1.0, 1.0),
    },
    "linear path": {"interpolant": "linear"},
    "linear path, optimal-transport coupling": {
        "interpolant": "linear",
        "coupling": "optimal_transport",
    },
    "variance-preserving path, uniform times": {
        "interpolant": "variance_preserving",
        "time_beta": (1.0, 1.0),
    },
}


def measure(target: Density, choice: dict, options: argparse.Namespace) -> Record:
    train, test = target.sample(options.rows, random_state=0), target.sample(10_000, random_state=1)
    estimator = InterpolantFlowDensity(
        **choice,
        end_time=1.0,
        max_iter=options.max_iter or "auto",
        random_state=0,
        device=options.device,
        atol=1e-3,
    )
    started = time.perf_counter()
    estimator.fit(train)
    seconds = time.perf_counter() - started
    below = target.score_samples(test) - estimator.score_samples(test)
    u = estimator._target(torch.from_numpy(test)).to(options.device)
    work, _ = solve(field_as(estimator, "float64", options.device), 1.0, estimator._solver(), u)
    return {
        "below the truth, nats": round(float(below.mean()), 4),
        "standard error": rounded(float(below.std() / np.sqrt(len(below))), 2),
        "action before": _shown(estimator.initial_action_),
        "action": _shown(estimator.action_),
        "length before": _shown(estimator.initial_path_length_),
        "length": _shown(estimator.path_length_),
        "evaluations per row": work["evaluations per row"],
        "steps": estimator.n_iter_,
        "fit, s": round(seconds, 1),
        "ms per step": round(1e3 * seconds / estimator.n_iter_, 1),
    }


def _shown(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    arguments.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    arguments.add_argument("--rows", type=int, default=50_000)
    arguments.add_argument("--max-iter", type=int)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    print(f"{environment(options.device)}\n")
    rows = []
    for target in options.targets:
        for choice in options.choices:
            torch.manual_seed(0)
            rows.append(
                {
                    "target": target,
                    "choice": choice,
                    **measure(TARGETS[target], CHOICES[choice], options),
                }
            )
            report(rows[-1])
            save_table(rows, "paths")
    write_table(rows, "paths", arguments, options.device)


if __name__ == "__main__":
    main()
