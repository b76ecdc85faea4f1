"""
The score, and samples with noise
=================================

Samples with any amount of noise, from a field that was trained once.

Left: ``score_gradient(X, t=0.6)``, the gradient of the log-density, over that density. Then samples
of the stochastic differential equation ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` for several
noise levels, with the drift ``b`` of the flow: the trajectories differ, the law does not (Albergo,
Boffi and Vanden-Eijnden 2023, section 2).

Run with ``python examples/score_and_diffusion.py``; the plot is saved to
``score_and_diffusion.png`` or to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import EightGaussians

NOISE = (0.0, 0.5, 2.0, "decreasing")


def plot(density, samples):
    axis = np.linspace(-2.5, 2.5, 90)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure, axes = plt.subplots(
        1, 1 + len(samples), figsize=(15, 3.7), layout="constrained", sharey=True
    )
    heights = density.score_samples(grid.astype(np.float32), t=0.6).reshape(90, 90)
    axes[0].imshow(np.exp(heights), origin="lower", extent=(-2.5, 2.5, -2.5, 2.5), cmap="Blues")
    places = grid.reshape(90, 90, 2)[4::9, 4::9].reshape(-1, 2)
    axes[0].quiver(
        *places.T, *density.score_gradient(places, t=0.6).T, color="tab:red", width=0.006
    )
    axes[0].set(title="density and score at t = 0.6", xlabel="$x_1$", ylabel="$x_2$")
    for panel, (epsilon, rows) in zip(axes[1:], samples.items(), strict=True):
        panel.scatter(*rows.T, s=2, alpha=0.5)
        panel.set(
            title=f"samples, epsilon = {epsilon}",
            xlabel="$x_1$",
            xlim=(-2.5, 2.5),
            ylim=(-2.5, 2.5),
            aspect="equal",
        )
    return figure


def main(path="score_and_diffusion.png", max_iter=1000):
    target = EightGaussians(radius=1.6, deviation=0.25)
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(64, 64, 64), max_iter=int(max_iter), end_time=1.0, random_state=0
    )
    density.fit(target.sample(10_000, random_state=0))
    samples = {
        epsilon: density.sample(2000, random_state=0, method="sde", epsilon=epsilon)
        for epsilon in NOISE
    }
    for epsilon, rows in samples.items():
        print(
            f"epsilon = {epsilon}: mean log-density of the samples under the target "
            f"{target.score_samples(rows).mean():.3f} nats"
        )
    print(
        "rows of the target itself: "
        f"{target.score_samples(target.sample(2000, random_state=1)).mean():.3f} nats"
    )
    figure = plot(density, samples)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
