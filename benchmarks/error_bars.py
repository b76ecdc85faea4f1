"""How often the estimated error of a log-density is exceeded: on rows of the data, and on rows that
are moved away from their mean.

    python benchmarks/error_bars.py

Rows are stretched about the mean of the data by a factor; at 1 they are rows of the data, and above
it more and more of them are in the tails.  The true error is the distance to a solve with
tolerances of 1e-8.
"""

import copy

import numpy as np
import torch
from _common import Record, Rows, parser, report, rounded, write_table

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Checkerboard, Moons

SETS = {
    "checkerboard 3000x2": Checkerboard().sample(3_000, random_state=0),
    "moons 3000x2": Moons().sample(3_000, random_state=0),
}
FACTORS = (1.0, 2.0, 4.0, 8.0)
_MAX_ITER = 1_000
_ROWS = 200


def measure(name: str, X: Rows) -> list[Record]:
    """A row of the table for each factor."""
    density = InterpolantFlowDensity(max_iter=_MAX_ITER, random_state=0).fit(X)
    tight = copy.deepcopy(density).set_params(atol=1e-8, rtol=1e-8)
    chosen = X[np.random.default_rng(0).permutation(len(X))[:_ROWS]]
    rows = []
    for factor in FACTORS:
        moved = X.mean(axis=0) + factor * (chosen - X.mean(axis=0))
        value, estimated = density.score_samples(moved, return_error=True)
        error = np.abs(value - tight.score_samples(moved))
        rows.append(
            {
                "data": name,
                "factor": factor,
                "rows that exceed it": rounded(float((error > estimated).mean())),
                "median error, nats": rounded(float(np.median(error)), 2),
                "largest error, nats": rounded(float(error.max()), 2),
            }
        )
        report(rows[-1])
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    torch.set_num_threads(1)
    write_table(
        [row for name, X in SETS.items() for row in measure(name, X)], "error_bars", arguments
    )


if __name__ == "__main__":
    main()
