"""
Shorter paths
=============

A learned path, and a path between nearby points.

A path with parameters (``interpolant="fourier"``) and a base with parameters (``base="learned"``)
are trained against the field: the field lowers the loss, they raise it, and the transport action
decreases (Albergo and Vanden-Eijnden, ICLR 2023, proposition 2 and appendix H). With
``coupling="optimal_transport"`` nearby points are joined by straight lines instead. The data are
off centre here and are not scaled, so that the base has something to learn.

Run with ``python examples/shorter_paths.py``; the plot is saved to ``shorter_paths.png`` or to the
path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Checkerboard

CHOICES = {
    "fixed": {},
    "learned path": {"interpolant": "fourier"},
    "learned path and base": {"interpolant": "fourier", "base": "learned"},
    "straight, near pairs": {"interpolant": "linear", "coupling": "optimal_transport"},
}


def plot(densities):
    figure, axes = plt.subplots(
        1, len(densities), figsize=(13, 4.1), layout="constrained", sharex=True, sharey=True
    )
    for panel, (name, density) in zip(axes, densities.items(), strict=True):
        trajectories = density.trajectory(
            density.sample(60, random_state=2, t=0.0), np.linspace(0.0, 1.0, 31)
        )
        panel.plot(trajectories[:, :, 0], trajectories[:, :, 1], color="tab:gray", linewidth=0.6)
        panel.scatter(*trajectories[0].T, s=8, color="tab:orange", label="t = 0", zorder=2)
        panel.scatter(*trajectories[-1].T, s=8, color="tab:blue", label="t = 1", zorder=2)
        panel.set(
            title=f"{name}\naction {density.action_:.2f}, length {density.path_length_:.2f}",
            xlabel="$x_1$",
            aspect="equal",
        )
    axes[0].set_ylabel("$x_2$")
    axes[0].legend(loc="upper left")
    return figure


def main(path="shorter_paths.png", max_iter=1000):
    target = Checkerboard()
    rows, test = target.sample(20_000, random_state=0), target.sample(1000, random_state=1)
    shift = np.array([1.0, 0.5])
    densities = {}
    for name, choice in CHOICES.items():
        density = InterpolantFlowDensity(
            **choice,
            time_beta=(1.0, 1.0),
            hidden_layer_sizes=(64, 64, 64),
            max_iter=int(max_iter),
            batch_size=256,
            scaling=None,
            end_time=1.0,
            random_state=0,
        )
        densities[name] = density.fit(rows + shift)
        before = (
            "" if density.initial_action_ is None else f" (before {density.initial_action_:.2f})"
        )
        print(
            f"{name}: action {density.action_:.2f}{before}, mean log-density of new rows "
            f"{density.score(test + shift):.3f} nats"
        )
    figure = plot(densities)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
