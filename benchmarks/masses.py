"""Total mass of fitted densities of one and two columns, and what it takes to compute it.

    python benchmarks/masses.py

Every density is fitted and scored with the defaults.  Its mass is a sum over a grid: the integral
over columns of real numbers by the trapezoidal rule, and the sum over columns of whole numbers.
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from _common import Record, Rows, parser, report, rounded, write_table

from skinterflow import InterpolantFlowDensity

_N_ROWS = 1_000
Grid = tuple[Rows, ...]
Case = tuple[Rows, dict[str, object], Grid]


def skewed(random: np.random.Generator) -> Case:
    grid = np.concatenate([np.linspace(-3.0, 60.0, 12_000), np.linspace(60.05, 400.0, 2_000)])
    return random.lognormal(0.0, 1.0, (_N_ROWS, 1)), {}, (grid,)


def bounded(random: np.random.Generator) -> Case:
    grid = 1.0 / (1.0 + np.exp(-np.linspace(-14.0, 14.0, 12_000)))
    return random.beta(0.7, 2.0, (_N_ROWS, 1)), {"bounds": [(0.0, 1.0)]}, (grid,)


def many_modes(random: np.random.Generator) -> Case:
    X = 3.0 * random.integers(0, 8, (_N_ROWS, 1)) + 0.2 * random.standard_normal((_N_ROWS, 1))
    return X, {}, (np.linspace(-10.0, 35.0, 12_000),)


def skewed_and_bounded(random: np.random.Generator) -> Case:
    first = random.lognormal(0.0, 0.7, _N_ROWS)
    X = np.column_stack([first, random.beta(2.0, 2.0 + first)])
    grid = np.exp(np.linspace(-8.0, 6.0, 241)), 1.0 / (1.0 + np.exp(-np.linspace(-14, 14, 241)))
    return X, {"bounds": [(0.0, None), (0.0, 1.0)]}, grid


def many_modes_of_two(random: np.random.Generator) -> Case:
    centers = random.uniform(-8.0, 8.0, (9, 2))
    X = centers[random.integers(0, 9, _N_ROWS)] + 0.3 * random.standard_normal((_N_ROWS, 2))
    return X, {}, (np.linspace(-11.0, 11.0, 241),) * 2


def whole_and_real(random: np.random.Generator) -> Case:
    whole = random.poisson(3.0, _N_ROWS)
    side = np.where(random.random(_N_ROWS) < 0.5, -2.0, 2.0)
    X = np.column_stack([whole, 0.4 * whole + side + 0.4 * random.standard_normal(_N_ROWS)])
    return X, {"integer_features": [0]}, (np.arange(-2.0, 22.0), np.linspace(-9.0, 16.0, 201))


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "skewed, one column": skewed,
    "bounded, one column": bounded,
    "many modes, one column": many_modes,
    "skewed and bounded, two columns": skewed_and_bounded,
    "many modes, two columns": many_modes_of_two,
    "whole numbers and real numbers": whole_and_real,
}


def weights(grid: Rows, whole: bool) -> Rows:
    """Of the trapezoidal rule, or one for each whole number."""
    if whole:
        return np.ones(len(grid))
    steps = np.diff(grid)
    return 0.5 * (np.append(steps, 0.0) + np.insert(steps, 0, 0.0))


def measure(name: str) -> Record:
    X, parameters, grids = CASES[name](np.random.default_rng(0))
    density = InterpolantFlowDensity(random_state=0, **parameters).fit(X)
    rows = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(grids))
    weight = np.ones(1)
    for j, grid in enumerate(grids):
        whole = j in parameters.get("integer_features", ())
        weight = np.multiply.outer(weight, weights(grid, whole))
    started = time.process_time()
    value, error = density.score_samples(rows, return_error=True)
    seconds = time.process_time() - started
    part = weight.ravel() * np.exp(value)
    return {
        "data": name,
        "mass minus one": rounded(float(part.sum()) - 1.0, 2),
        "estimated error of the mass": rounded(float(part @ error), 2),
        "points of the grid": len(rows),
        "points per s": rounded(len(rows) / seconds),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The fit ended")
    rows = []
    for name in CASES:
        rows.append(measure(name))
        report(rows[-1])
    write_table(rows, "masses", arguments)


if __name__ == "__main__":
    main()
