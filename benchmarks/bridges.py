"""Schroedinger bridges between Gaussians of different shape against their closed form.

    python benchmarks/bridges.py

The covariances of the two sides do not commute.  Errors are relative to the bridge between
Gaussians with the moments of the training rows, so that they are those of the fit; the last column
is the error of the drift that these rows have as a sample.  The variance is that of 10,000 rows
after the diffusion, the larger error of the two columns; these rows start with the moments of the
training rows, and their noise is about 1%.  The error of a drift is its root mean square over the
law of the bridge at ten times from 0.05 to 0.95.
"""

import time

import numpy as np
import torch
from _common import Record, Rows, parser, report, rounded, write_table
from torch import Tensor

from skinterflow import InterpolantTransport
from skinterflow.interflow import GaussianBridge

LEVELS = (0.1, 0.5)
SHAPES = np.array([[[1.0, 0.5], [0.5, 0.5]], [[0.3, -0.2], [-0.2, 1.0]]])
N_TEST, N_STEPS = 10_000, 50


def moments(X: Rows) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(X)
    return rows.mean(0), rows.T.cov(correction=0)


def with_moments(X: Rows, mean: Tensor, covariance: Tensor) -> Rows:
    """Rows moved and scaled to have exactly this mean and covariance."""
    own_mean, own = moments(X)
    root, own_root = torch.linalg.cholesky(covariance), torch.linalg.cholesky(own)
    white = torch.linalg.solve_triangular(own_root, (torch.from_numpy(X) - own_mean).T, upper=False)
    return (white.T @ root.T + mean).numpy()


def learned_drift(model: InterpolantTransport, t: float, x: Rows) -> Tensor:
    return torch.from_numpy(model.velocity(x, t) + model.bridge * model.score_gradient(x, t=t))


def measure(epsilon: float, n_rows: int, max_iter: int) -> Record:
    random = np.random.default_rng(0)
    X0, X1 = (random.multivariate_normal(np.zeros(2), shape, n_rows) for shape in SHAPES)
    started = time.process_time()
    model = InterpolantTransport(bridge=epsilon, max_iter=max_iter, random_state=0).fit(X0, X1)
    seconds = time.process_time() - started
    truth = GaussianBridge(*moments(X0), *moments(X1), epsilon)
    zero, shapes = torch.zeros(2, dtype=torch.float64), torch.from_numpy(SHAPES)
    whole = GaussianBridge(zero, shapes[0], zero, shapes[1], epsilon)
    start = with_moments(random.standard_normal((N_TEST, 2)), *moments(X0))
    end = model.sample(start, random_state=0, n_steps=N_STEPS)
    variance = moments(end)[1].diagonal() / truth.covariance1.diagonal() - 1.0
    errors, squares = [], 0.0
    for t in torch.linspace(0.05, 0.95, 10, dtype=torch.float64):
        x = with_moments(random.standard_normal((2_000, 2)), truth.mean(t), truth.covariance(t))
        rows = torch.from_numpy(x)
        exact = truth.drift(t, rows)
        others = learned_drift(model, float(t), x), whole.drift(t, rows)
        errors.append([float((other - exact).square().sum()) for other in others])
        squares += float(exact.square().sum())
    drift, sampling = np.sqrt(np.sum(errors, axis=0) / squares)
    return {
        "epsilon": epsilon,
        "rows": n_rows,
        "steps": max_iter,
        "fit, CPU s": rounded(seconds, 2),
        "variance, %": rounded(100 * float(variance.abs().max()), 2),
        "drift, %": rounded(100 * drift, 2),
        "defect": rounded(model.bridge_defect_, 2),
        "drift of the sample, %": rounded(100 * sampling, 2),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=8_000)
    arguments.add_argument("--max-iter", type=int, default=1_500)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rows = []
    for epsilon in LEVELS:
        rows.append(measure(epsilon, options.rows, options.max_iter))
        report(rows[-1])
    write_table(rows, "bridges", arguments)


if __name__ == "__main__":
    main()
