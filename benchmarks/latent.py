"""The experiments of paper 2: how the noise of a diffusion, the noise term of the path, and the
choice of the learned quantities change the samples.

Scaled to two cores::

    python benchmarks/latent.py checkerboard
    python benchmarks/latent.py scales
    python benchmarks/latent.py mixture

At the size of the paper::

    python benchmarks/latent.py checkerboard --width 512 --layers 4 --max-iter 7000 --rows 300000
    python benchmarks/latent.py scales --width 512 --layers 4 --max-iter 7000 --rows 300000 \\
        --learning-rate 0.002
    python benchmarks/latent.py mixture --width 512 --layers 4 --max-iter 10000 --rows 50000 \\
        --steps 1000

Both go from a standard normal on straight paths, with uniform times and the package's own network
and training.

**checkerboard** (section 7.1): drift and score are learned by a network each, with
``gamma = sqrt(t (1 - t))`` and without a noise term, where the base point is the noise.  Samples
are drawn by the ODE (epsilon 0) and by diffusions of constant noise.  "KL" is between the truth and
the samples over the cells of a 48 x 48 grid, less that of as many true samples; "outside" is the
part of the samples on no square.

**scales** (section 7.1, figure 10): the same board with the four scales of the noise term of table
8 and without a noise term.  Velocity and score are learned by a network each; without a noise term
the velocity is the drift.  The figures are mean and variance of ``|log rho - log rho'|`` at 2,000
true samples, where ``rho'`` is a kernel density estimate of the samples with Scott's bandwidth, as
in the paper, which publishes a figure and no table.  The row "true samples" is what the estimate
alone leaves.

**mixture** (section 7.2): five modes in 128 dimensions with ``m ~ N(0, 7.5^2 I)`` and
``C = W^T W / d + I``; drift, velocity, score and denoiser are learned once each, and pairs of them
are used.  "KL" is the mean over 20 pairs of coordinates of that between the true marginal and a
kernel density estimate of the samples, less that of the same estimate on as many true samples (the
paper's control variate).  Where the denoiser is divided by gamma the noise fades at the ends, as
everywhere in the package.

Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
and Diffusions", 2023.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from _common import Record, environment, parser, report, rounded, save_table, write_table
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from torch import Tensor

from skinterflow.datasets import Checkerboard
from skinterflow.interflow import (
    Beta,
    Brownian,
    Diffusion,
    Flow,
    Gamma,
    HeadedDrift,
    LearnedQuantities,
    Linear,
    NormalMixture,
    PathObjective,
    Quadratic,
    ResidualMLP,
    SeparateHeads,
    Sigmoid,
    SineSquared,
    Solver,
    StochasticInterpolant,
    StochasticSolver,
    train,
)

EPSILONS = (0.0, 0.5, 1.0, 2.5)
PAIRS = (("b", "s"), ("b", "eta"), ("v", "s"), ("v", "eta"))
SCALES: dict[str, Gamma | None] = {
    "sqrt(t (1 - t))": Brownian(),
    "t (1 - t)": Quadratic(),
    "sin^2(pi t)": SineSquared(),
    "sigmoids": Sigmoid(),
    "none": None,
}
_N_CELLS = 48
_N_MARGINALS = 20
_BLOCK_ROWS = 10_000


def trained(
    targets: Sequence[str],
    path: StochasticInterpolant,
    batches: Iterator[tuple[Tensor, Tensor]],
    d: int,
    options: argparse.Namespace,
) -> HeadedDrift:
    """A network for each target, trained side by side on the same points."""
    heads = SeparateHeads([ResidualMLP(d, [options.width] * options.layers) for _ in targets])
    field = HeadedDrift(heads, targets, path)
    objective = PathObjective(field, path, Beta()).to(options.device)
    *_, last = train(
        objective,
        ((pair, None) for pair in batches),
        max_iter=options.max_iter,
        learning_rate=options.learning_rate,
        hidden_weights=field.hidden_weights(),
    )
    return last.averaged.field.requires_grad_(False)


@torch.no_grad()
def samples(
    field: HeadedDrift, path: StochasticInterpolant, epsilon: float, options: argparse.Namespace
) -> Tensor:
    """Rows by the ODE, or by a diffusion of constant noise."""
    generator = torch.Generator(options.device).manual_seed(1)
    x0 = torch.randn(options.rows, field.n_features, generator=generator, device=options.device)
    parts = x0.split(_BLOCK_ROWS)
    if epsilon == 0.0:
        flow = Flow(field, Solver(n_steps=10, atol=1e-3, rtol=1e-3, max_refinements=5))
        return torch.cat([flow.transport(part, 0.0, 1.0).y for part in parts]).cpu()
    diffusion = Diffusion(LearnedQuantities(field, path), lambda t: epsilon)
    solver = StochasticSolver(n_steps=int(options.steps * max(1.0, epsilon)))
    return torch.cat([diffusion.push(part, 0.0, 1.0, solver, generator) for part in parts]).cpu()


def checkerboard(options: argparse.Namespace) -> list[Record]:
    board, table = Checkerboard(), []
    rows = torch.from_numpy(board.sample(50_000, random_state=0)).float()
    truth = board.sample(options.rows, random_state=2)
    drawn = {}
    for name, gamma in (("sqrt(t (1 - t))", Brownian()), ("none", None)):
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            path = StochasticInterpolant(Linear(), gamma)
            field = trained(("b", "s"), path, _pairs(rows, options), 2, options)
            for epsilon in EPSILONS:
                started = time.perf_counter()
                x = samples(field, path, epsilon, options).numpy().astype(np.float64)
                drawn.setdefault((name, epsilon), x)
                table.append(
                    {
                        "gamma": name,
                        "seed": seed,
                        "epsilon": epsilon,
                        "KL, nats": rounded(
                            _grid_divergence(x, board) - _grid_divergence(truth, board)
                        ),
                        "outside": rounded(float(np.isneginf(board.score_samples(x)).mean())),
                        "sampling, s": round(time.perf_counter() - started, 1),
                    }
                )
                report(table[-1])
                save_table(table, "latent-checkerboard-seeds")
    if options.plot:
        plot_checkerboard(drawn, options.plot)
    return _over_seeds(table, ["gamma", "epsilon"], ["KL, nats", "outside"])


def scales(options: argparse.Namespace) -> list[Record]:
    board = Checkerboard()
    rows = torch.from_numpy(board.sample(50_000, random_state=0)).float()
    at = board.sample(2_000, random_state=3)
    truth = {"gamma": "true samples", "seed": 0, "epsilon": 0.0}
    table = [truth | _log_errors(board.sample(options.rows, random_state=2), at, board)]
    for name, gamma in SCALES.items():
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            path = StochasticInterpolant(Linear(), gamma)
            targets = ("b" if gamma is None else "v", "s")
            field = trained(targets, path, _pairs(rows, options), 2, options)
            for epsilon in EPSILONS:
                x = samples(field, path, epsilon, options).numpy().astype(np.float64)
                row = {"gamma": name, "seed": seed, "epsilon": epsilon}
                table.append(row | _log_errors(x, at, board))
                report(table[-1])
                save_table(table, "latent-scales-seeds")
    return _over_seeds(table, ["gamma", "epsilon"], ["mean", "variance"])


def _log_errors(
    x: NDArray[np.float64], at: NDArray[np.float64], board: Checkerboard
) -> dict[str, float]:
    """Mean and variance of the absolute error of a log-density estimated from samples."""
    errors = np.abs(gaussian_kde(x.T).logpdf(at.T) - board.score_samples(at))
    return {"mean": rounded(float(errors.mean())), "variance": rounded(float(errors.var()))}


def _pairs(rows: Tensor, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    rows = rows.to(options.device)
    while True:
        x1 = rows[torch.randint(len(rows), (options.batch_size,), device=rows.device)]
        yield torch.randn_like(x1), x1


def _grid_divergence(x: NDArray[np.float64], board: Checkerboard) -> float:
    """KL divergence of the board's cell probabilities with respect to those of samples, half a
    count in every cell."""
    edges = np.linspace(-board.n_squares / 2, board.n_squares / 2, _N_CELLS + 1)
    counts = np.histogram2d(*x.T, bins=[edges, edges])[0] + 0.5
    centres = 0.5 * (edges[1:] + edges[:-1])
    cells = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    p = np.exp(board.score_samples(cells)).reshape(counts.shape)
    p /= p.sum()
    q = counts / (len(x) + 0.5 * counts.size)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def five_modes(d: int = 128) -> NormalMixture:
    generator = torch.Generator().manual_seed(0)
    means = 7.5 * torch.randn(5, d, generator=generator, dtype=torch.float64)
    roots = torch.randn(5, d, d, generator=generator, dtype=torch.float64)
    return NormalMixture(
        torch.full((5,), 0.2, dtype=torch.float64),
        means,
        roots.mT @ roots / d + torch.eye(d, dtype=torch.float64),
    )


def mixture(options: argparse.Namespace) -> list[Record]:
    target, table = five_modes(), []
    generator = torch.Generator().manual_seed(3)
    pool = target.sample(100_000, generator).float()
    marginals = _marginals(target, target.sample(options.rows, generator).numpy())
    for seed in range(3):  # what is left where nothing is wrong
        divergence = _marginal_divergence(target.sample(options.rows, generator).numpy(), marginals)
        table.append(
            {
                "learned": "nothing: true samples",
                "seed": seed,
                "epsilon": 0.0,
                "KL, nats": rounded(divergence),
            }
        )
    path = StochasticInterpolant(Linear(), Brownian())
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        fields = {}
        for pair in (("b", "s"), ("v", "eta")):
            heads = trained(pair, path, _pairs(pool, options), 128, options).heads
            fields |= dict(zip(pair, heads.fields, strict=True))
        for pair, epsilon in itertools.product(PAIRS, EPSILONS):
            started = time.perf_counter()
            field = HeadedDrift(SeparateHeads([fields[name] for name in pair]), pair, path)
            x = samples(field, path, epsilon, options).numpy().astype(np.float64)
            table.append(
                {
                    "learned": ", ".join(pair),
                    "seed": seed,
                    "epsilon": epsilon,
                    "KL, nats": rounded(_marginal_divergence(x, marginals)),
                    "sampling, s": round(time.perf_counter() - started, 1),
                }
            )
            report(table[-1])
            save_table(table, "latent-mixture-seeds")
    if options.plot:
        plot_mixture(table, options.plot)
    return _over_seeds(table, ["learned", "epsilon"], ["KL, nats"])


def _marginals(
    target: NormalMixture, truth: NDArray[np.float64]
) -> list[tuple[list[int], NDArray[np.float64], NDArray[np.float64]]]:
    """Pairs of coordinates, fresh points of the true marginals, and the log-density there of the
    estimate on true samples."""
    marginals = []
    for k in range(_N_MARGINALS):
        columns = [2 * k, 2 * k + 1]
        marginal = NormalMixture(
            target.weights, target.means[:, columns], target.covariances[:, columns][:, :, columns]
        )
        at = marginal.sample(2_000, torch.Generator().manual_seed(k)).numpy().T
        marginals.append((columns, at, _kernel_density(truth, columns).logpdf(at)))
    return marginals


def _kernel_density(x: NDArray[np.float64], columns: list[int]) -> gaussian_kde:
    return gaussian_kde(x[:, columns].T, bw_method=0.05)


def _marginal_divergence(
    x: NDArray[np.float64],
    marginals: Sequence[tuple[list[int], NDArray[np.float64], NDArray[np.float64]]],
) -> float:
    """Mean over the marginals of ``E[log kde(true samples) - log kde(samples)]``."""
    return float(
        np.mean(
            [
                (reference - _kernel_density(x, columns).logpdf(at)).mean()
                for columns, at, reference in marginals
            ]
        )
    )


def _over_seeds(
    table: Sequence[Record], keys: Sequence[str], values: Sequence[str]
) -> list[Record]:
    """Means over the seeds, with the range where there are several."""
    rows = []
    for key, group in itertools.groupby(
        sorted(table, key=lambda row: [row[k] for k in keys]),
        key=lambda row: [row[k] for k in keys],
    ):
        runs = list(group)
        row: Record = dict(zip(keys, key, strict=True))
        for value in values:
            numbers = [run[value] for run in runs]
            row[value] = rounded(float(np.mean(numbers)))
            if len(numbers) > 1:
                row[f"{value}: range"] = f"{min(numbers):.3g} to {max(numbers):.3g}"
        rows.append(row)
    return rows


def plot_checkerboard(drawn: dict[tuple[str, float], NDArray[np.float64]], path: Path) -> None:
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for name, _ in drawn))
    figure = Figure(figsize=(2.5 * len(EPSILONS), 2.7 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(EPSILONS), sharex=True, sharey=True)
    for row, name in zip(axes, names, strict=True):
        for axis, epsilon in zip(row, EPSILONS, strict=True):
            axis.hist2d(*drawn[name, epsilon].T, bins=120, range=[[-2.6, 2.6]] * 2, cmap="magma")
            axis.set(
                title=f"ODE, gamma {name}" if epsilon == 0 else f"epsilon {epsilon:g}",
                xticks=[],
                yticks=[],
                aspect="equal",
            )
            axis.title.set_fontsize(9)
    figure.savefig(path, dpi=110)


def plot_mixture(table: Sequence[Record], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for pair in PAIRS:
        name = ", ".join(pair)
        values = [
            np.mean([r["KL, nats"] for r in table if (r["learned"], r["epsilon"]) == (name, e)])
            for e in EPSILONS
        ]
        axis.plot(EPSILONS, values, marker="o", label=name)
    axis.set(
        xlabel="noise level epsilon (0: ODE)",
        ylabel="KL of two-dimensional marginals, nats",
        title="Five modes in 128 dimensions",
    )
    axis.legend(title="learned")
    figure.savefig(path, dpi=110)


EXPERIMENTS = {"checkerboard": checkerboard, "scales": scales, "mixture": mixture}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("experiment", choices=EXPERIMENTS)
    arguments.add_argument("--width", type=int, default=128)
    arguments.add_argument("--layers", type=int, default=3)
    arguments.add_argument("--batch-size", type=int, default=512)
    arguments.add_argument("--learning-rate", type=float, default=5e-3)
    arguments.add_argument("--max-iter", type=int, default=4_000)
    arguments.add_argument("--rows", type=int, default=30_000, help="samples")
    arguments.add_argument(
        "--steps",
        type=int,
        default=150,
        help="Heun steps of a diffusion at epsilon 1, in proportion above",
    )
    arguments.add_argument("--seeds", type=int, default=1, help="trainings")
    arguments.add_argument("--plot", type=Path, help="write a figure here (matplotlib)")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    print(f"{environment(options.device)}\n")
    write_table(
        EXPERIMENTS[options.experiment](options),
        f"latent-{options.experiment}",
        arguments,
        options.device,
    )


if __name__ == "__main__":
    main()
