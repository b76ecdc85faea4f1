"""
Diffusion models as paths
=========================

Score-based diffusion is one path, one noise level, and a bias that other noise levels do not have.

Diffusion models turn data into noise by ``dZ = -Z dtau + sqrt(2) dW`` and learn to predict the
noise. With ``t = exp(-tau)`` this process is the path ``t x1 + sqrt(1 - t^2) x0``, called
"variance_preserving" here, and the predicted noise is the target "eta". Upper row: the data at four
times of the process. Lower row: samples of one fit. The flow and the diffusion with ``epsilon = 1``
start at ``t = 0``. Score-based diffusion is the same equation with ``epsilon = 1 / t``, which is
infinite there. It starts at a later time, from a standard normal, which is not the law of the path
at that time. Its samples are therefore biased, here with too many points in the smallest cluster
(Albergo, Boffi and Vanden-Eijnden 2023, section 5.1). Last panel: how the bias falls with the time
of the start.

Run with ``python examples/diffusion_models.py``; the plot is saved to ``diffusion_models.png`` or
to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import torch

from skinterflow.interflow import (
    Beta,
    Diffusion,
    HeadedDrift,
    LearnedQuantities,
    NormalMixture,
    PathObjective,
    SharedTrunk,
    StochasticInterpolant,
    StochasticSolver,
    VariancePreserving,
    diffusion_time,
    noising_level,
    train,
)

NOISED = (1.0, 0.8, 0.4, 0.1)
STARTS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
DATA = NormalMixture(
    torch.tensor([0.6, 0.3, 0.1]),
    torch.tensor([[1.5, 1.0], [-0.5, 1.5], [0.5, -1.5]]),
    torch.stack([torch.diag(torch.tensor(v)) for v in ([0.3, 0.03], [0.03, 0.1], [0.05, 0.05])]),
)


def pairs(generator):
    while True:
        x1 = DATA.sample(256, generator)
        yield (torch.randn(x1.shape, generator=generator), x1), None


def predicted_noise(path, max_iter, generator):
    """The quantities that follow from the noise that a network predicts."""
    field = HeadedDrift(SharedTrunk(2, 1, (48, 48, 48), generator=generator), ("eta",), path)
    *_, last = train(
        PathObjective(field, path, Beta()),
        pairs(generator),
        max_iter=max_iter,
        learning_rate=5e-3,
        hidden_weights=field.hidden_weights(),
    )
    return LearnedQuantities(last.averaged.field, path)


def energy_distance(x, y):
    def mean(a, b):
        return float(torch.cdist(a, b).mean())

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def plot(noised, samples, distances, reference):
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.6), layout="constrained")
    for panel, (title, rows) in zip(axes.flat, {**noised, **samples}.items(), strict=False):
        panel.scatter(*rows.T, s=2, alpha=0.4, color="tab:blue" if title in samples else "0.4")
        panel.set(title=title, xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    panel = axes[1, 3]
    panel.plot(*zip(*distances.items(), strict=True), "o-", label="epsilon = 1 / t, later start")
    panel.axhline(reference, color="tab:orange", label="epsilon = 1, from t = 0")
    panel.set(title="energy distance to the data", xlabel="time tau of the start", yscale="log")
    panel.legend()
    return figure


@torch.no_grad()
def results(quantities, generator):
    """Noised data, samples, and their distances from the data by the time of the start."""
    path, solver = quantities.path, StochasticSolver(n_steps=50)
    x0, x1 = torch.randn(2000, 2, generator=generator), DATA.sample(2000, generator)
    noised = {
        f"tau = {float(diffusion_time(torch.tensor(t))):.1f}, t = {t}": path(
            torch.tensor(t), x0, x1, None
        )
        for t in NOISED
    }
    score_based = Diffusion(quantities, noising_level(path.interpolant))
    later = {t: score_based.push(x0, t, 1.0, solver, generator) for t in STARTS}
    samples = {
        "flow": Diffusion(quantities, lambda t: 0.0).push(x0, 0.0, 1.0, solver, generator),
        "diffusion, epsilon = 1": Diffusion(quantities, lambda t: 1.0).push(
            x0, 0.0, 1.0, solver, generator
        ),
        "score-based, from t = 0.5": later[0.5],
    }
    distances = {
        float(diffusion_time(torch.tensor(t))): energy_distance(rows, x1)
        for t, rows in later.items()
    }
    return noised, samples, distances, energy_distance(samples["diffusion, epsilon = 1"], x1)


def main(path="diffusion_models.png", max_iter=600):
    generator = torch.Generator().manual_seed(0)
    variance_preserving = StochasticInterpolant(VariancePreserving())
    quantities = predicted_noise(variance_preserving, int(max_iter), generator)
    noised, samples, distances, reference = results(quantities, generator)
    for tau, distance in distances.items():
        print(f"score-based diffusion from tau = {tau:.1f}: energy distance {distance:.4f}")
    print(f"diffusion of the path from t = 0: energy distance {reference:.4f}")
    figure = plot(noised, samples, distances, reference)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
