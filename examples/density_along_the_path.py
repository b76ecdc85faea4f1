"""
From a normal to a checkerboard, and every density between
==========================================================

This is figure 1 of Albergo and Vanden-Eijnden, ICLR 2023.

One fitted field provides the density at every time on the path: ``score_samples(X, t=...)``. White
lines are the trajectories of a few points, from ``trajectory``; the last panel shows samples. The
true log-density is minus the logarithm of the area, so the error can be computed.

Run with ``python examples/density_along_the_path.py``; the plot is saved to
``density_along_the_path.png`` or to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Checkerboard

TIMES = (0.0, 0.4, 0.7, 0.9, 1.0)


def plot(density):
    axis = np.linspace(-3, 3, 80)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure, axes = plt.subplots(
        1, len(TIMES) + 1, figsize=(16, 3.4), layout="constrained", sharey=True
    )
    fine = np.linspace(0.0, 1.0, 41)
    trajectories = density.trajectory(density.sample(12, random_state=1, t=0.0), fine)
    for panel, t in zip(axes, TIMES, strict=False):
        heights = np.exp(density.score_samples(grid.astype(np.float32), t=t)).reshape(80, 80)
        panel.imshow(heights, origin="lower", extent=(-3, 3, -3, 3), cmap="viridis")
        so_far = trajectories[fine <= t + 1e-9]
        panel.plot(so_far[:, :, 0], so_far[:, :, 1], color="white", linewidth=0.7)
        panel.scatter(so_far[-1, :, 0], so_far[-1, :, 1], color="white", s=6)
        panel.set(title=f"density at t = {t:g}", xlabel="$x_1$")
    axes[0].set_ylabel("$x_2$")
    axes[-1].scatter(*density.sample(4000, random_state=0).T, s=1, color="tab:blue")
    axes[-1].set(title="samples", xlabel="$x_1$", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    return figure


def main(path="density_along_the_path.png", max_iter=1500):
    target = Checkerboard()
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(96, 96, 96),
        max_iter=int(max_iter),
        end_time=1.0,
        atol=2e-2,
        random_state=0,
    )
    density.fit(target.sample(50_000, random_state=0))
    test = target.sample(2000, random_state=1)
    print(
        f"Mean log-density of {len(test)} new rows: {density.score(test):.3f} nats; the truth is "
        f"{target.score_samples(test).mean():.3f}."
    )
    figure = plot(density)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
