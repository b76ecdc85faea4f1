"""Rows with atoms whose law is known: lognormal columns that are zero together.

    python benchmarks/atoms.py

In a third of the rows most columns are zero, in the others few are; the logarithms of the other
entries are normal and correlated.  Log-likelihoods are those of new rows.  The error of a mass is
divided by the binomial standard deviation of the training rows, and that of the share of samples at
an atom, from the mass, by that of the samples.
"""

import itertools
import time

import numpy as np
import torch
from _common import Record, Rows, parser, report, rounded, write_table
from scipy.stats import multivariate_normal

from skinterflow import InterpolantFlowDensity

N_COLUMNS, N_ROWS, N_SAMPLES = 5, 2_000, 20_000
STATES = ((0.35, 0.8), (0.65, 0.15))
"""Probability of a state, and of a zero in each column given the state."""
CORRELATION = 0.4 * np.ones((N_COLUMNS, N_COLUMNS)) + 0.6 * np.eye(N_COLUMNS)
SETTINGS = {
    "defaults": {},
    "with bounds": {"bounds": dict.fromkeys(range(N_COLUMNS), (0, None))},
}


def draw(n_rows: int, seed: int) -> Rows:
    """Rows of the law."""
    rng = np.random.default_rng(seed)
    X = np.exp(rng.multivariate_normal(np.zeros(N_COLUMNS), CORRELATION, n_rows))
    zeros = np.where(rng.random(n_rows) < STATES[0][0], STATES[0][1], STATES[1][1])
    X[rng.random(X.shape) < zeros[:, None]] = 0.0
    return X


def log_density(X: Rows) -> Rows:
    """True log-density of the rows."""
    value = np.empty(len(X))
    for pattern in itertools.product((False, True), repeat=N_COLUMNS):
        zero = np.array(pattern)
        rows, k = ((X == 0) == zero).all(axis=1), int(zero.sum())
        value[rows] = np.log(sum(p * q**k * (1.0 - q) ** (N_COLUMNS - k) for p, q in STATES))
        if rows.any() and not zero.all():
            logs = np.log(X[rows][:, ~zero])
            normal = multivariate_normal(cov=CORRELATION[np.ix_(~zero, ~zero)])
            value[rows] += normal.logpdf(logs) - logs.sum(axis=1)
    return value


def measure(setting: str) -> Record:
    """One row of the table."""
    X, new = draw(N_ROWS, 0), draw(N_ROWS, 1)
    start = time.process_time()
    density = InterpolantFlowDensity(random_state=0, **SETTINGS[setting]).fit(X)
    seconds = time.process_time() - start
    difference = log_density(new) - density.score_samples(new)
    mass = sum(p * q for p, q in STATES)
    masses = np.concatenate(list(density.atom_masses_.values()))
    shares = (density.sample(N_SAMPLES, random_state=0) == 0).mean(axis=0)
    deviation = np.sqrt(mass * (1.0 - mass))
    return {
        "method": setting,
        "true log-likelihood": round(float(log_density(new).mean()), 2),
        "nats below": round(float(difference.mean()), 3),
        "error": round(float(difference.std() / np.sqrt(len(new))), 3),
        "largest error of a mass": rounded(_largest(masses - mass, deviation, N_ROWS), 2),
        "largest error of samples": rounded(_largest(shares - masses, deviation, N_SAMPLES), 2),
        "seconds": rounded(seconds, 2),
    }


def _largest(errors: Rows, deviation: float, n_rows: int) -> float:
    """Largest error in standard deviations of a mean over rows."""
    return float(np.abs(errors).max() / (deviation / np.sqrt(n_rows)))


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    torch.set_num_threads(1)
    rows = []
    for setting in SETTINGS:
        rows.append(measure(setting))
        report(rows[-1])
    write_table(rows, "atoms", arguments)


if __name__ == "__main__":
    main()
