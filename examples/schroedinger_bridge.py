"""
Schroedinger bridges
====================

Bridges between two Gaussians, learned by the max-min problem over the path, and their closed form.

Of all diffusions with noise level epsilon between two densities, the bridge is the closest to
Brownian motion. The forward drift minimises a quadratic loss; the path, here straight lines with a
noise term of learned scale, maximises it (Albergo, Boffi and Vanden-Eijnden 2023, theorem 3.10).
For small epsilon the bridge is the optimal transport, whose standard deviation changes at a
constant rate.

Run with ``python examples/schroedinger_bridge.py``; the plot is saved to
``schroedinger_bridge.png`` or to the path given as argument.
"""

import math
import sys

import matplotlib.pyplot as plt
import torch

from skinterflow.interflow import (
    Beta,
    BridgeObjective,
    Brownian,
    LearnedGamma,
    Linear,
    MixtureField,
    NormalMixture,
    ResidualMLP,
    StochasticInterpolant,
    bridge_defect,
    train,
)

NOISE = (0.02, 0.5, 1.5)
MEANS, DEVIATIONS = (-1.0, 1.0), (1.0, 0.5)


def pairs():
    while True:
        yield (
            [
                mean + deviation * torch.randn(512, 1)
                for mean, deviation in zip(MEANS, DEVIATIONS, strict=True)
            ],
            None,
        )


def normal(mean, deviation):
    return NormalMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([[[deviation**2]]]))


def exact_bridge(epsilon):
    """Straight lines with a noise term of this width."""
    path = StochasticInterpolant(
        Linear(), Brownian(2.0 * math.hypot(DEVIATIONS[0] * DEVIATIONS[1], epsilon))
    )
    source, target = (normal(*end) for end in zip(MEANS, DEVIATIONS, strict=True))
    return MixtureField(target, path, source)


def learned_bridge(epsilon, max_iter):
    path = StochasticInterpolant(Linear(), LearnedGamma())
    objective = BridgeObjective(ResidualMLP(1, (32, 32)), path, Beta(), epsilon)
    *_, last = train(
        objective,
        pairs(),
        max_iter=max_iter,
        learning_rate=0.01,
        weight_decay=0.0,
        maximized=list(path.parameters()),
        maximized_rate=1.0,
        maximized_from=0.2,
    )
    return last.averaged


@torch.no_grad()
def drift_error(learned, exact, epsilon):
    """Relative error of the forward drift along the bridge."""
    error = square = 0.0
    for t in torch.linspace(0.05, 0.95, 19):
        x0, x1 = (
            mean + deviation * torch.randn(1000, 1)
            for mean, deviation in zip(MEANS, DEVIATIONS, strict=True)
        )
        x = exact.path(t, x0, x1, torch.randn(1000, 1))
        drift, score = exact.drift_and_score(t, x)
        forward = drift + epsilon * score
        error, square = (
            error + (learned.field(t, x) - forward).square().mean(),
            square + forward.square().mean(),
        )
    return float((error / square).sqrt())


def deviation(t, noise_variance):
    """Standard deviation of the marginal for a noise term of this variance."""
    return ((1 - t) ** 2 * DEVIATIONS[0] ** 2 + t**2 * DEVIATIONS[1] ** 2 + noise_variance).sqrt()


def main(path="schroedinger_bridge.png", max_iter=700):
    t = torch.linspace(0, 1, 101)
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for colour, epsilon in zip(("tab:blue", "tab:orange", "tab:red"), NOISE, strict=True):
            bridge, oracle = learned_bridge(epsilon, int(max_iter)), exact_bridge(epsilon)
            exact, learned = (
                deviation(t, scale.square(t).detach())
                for scale in (oracle.path.gamma, bridge.path.gamma)
            )
            axis.plot(t, exact, color=colour, linewidth=5, alpha=0.3)
            axis.plot(t, learned, color=colour, label=f"epsilon = {epsilon}")
            spread, drift = (
                float((learned / exact - 1).abs().max()),
                drift_error(bridge, oracle, epsilon),
            )
            defect = bridge_defect(
                bridge.field,
                MEANS[0] + DEVIATIONS[0] * torch.randn(8000, 1),
                epsilon,
                torch.Generator().manual_seed(0),
            )
            print(
                f"epsilon = {epsilon}: deviations within {100 * spread:.1f}% of the closed form, "
                f"forward drift within {100 * drift:.1f}%, defect {defect:.3f}"
            )
    axis.plot(
        t, DEVIATIONS[0] + t * (DEVIATIONS[1] - DEVIATIONS[0]), "k:", label="optimal transport"
    )
    axis.set(
        xlabel="t",
        ylabel="standard deviation along the path",
        title="Bridges from N(-1, 1) to N(1, 1/4); wide: closed form",
    )
    axis.legend()
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
