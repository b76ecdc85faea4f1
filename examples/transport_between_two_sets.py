"""
A map between two data sets
===========================

Neither of them is normal (figure 2 of Albergo and Vanden-Eijnden, ICLR 2023).

``InterpolantTransport`` learns to carry eight Gaussians to three rings. The map is invertible, so
the density of one side, which is known here, gives that of the other: ``target_log_density``.

Run with ``python examples/transport_between_two_sets.py``; the plot is saved to
``transport_between_two_sets.png`` or to the path given.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantTransport
from skinterflow.datasets import EightGaussians, Rings


def plot(source, carried, target, back):
    figure, axes = plt.subplots(
        1, 4, figsize=(13, 3.9), layout="constrained", sharex=True, sharey=True
    )
    color = np.arctan2(*source.T)  # each point keeps its colour
    axes[0].scatter(*source.T, s=3, c=color, cmap="twilight")
    axes[1].scatter(*carried.T, s=3, c=color, cmap="twilight")
    color = np.arctan2(*target.T)
    axes[2].scatter(*target.T, s=3, c=color, cmap="twilight")
    axes[3].scatter(*back.T, s=3, c=color, cmap="twilight")
    titles = ("rows of the source", "carried to the target", "rows of the target", "carried back")
    for panel, title in zip(axes, titles, strict=True):
        panel.set(title=title, xlabel="$x_1$", aspect="equal")
    axes[0].set_ylabel("$x_2$")
    return figure


def main(path="transport_between_two_sets.png", max_iter=2000):
    source, target = EightGaussians(radius=1.6, deviation=0.3), Rings(deviation=0.12)
    transport = InterpolantTransport(
        hidden_layer_sizes=(128, 128, 128), max_iter=int(max_iter), random_state=0
    )
    transport.fit(source.sample(20_000, random_state=0), target.sample(20_000, random_state=1))
    test0, test1 = source.sample(3000, random_state=2), target.sample(3000, random_state=3)
    through, truth = (
        transport.target_log_density(test1[:1000], source).mean(),
        target.score_samples(test1[:1000]).mean(),
    )
    print(
        f"Mean log-density of new rows on rings, through the map: {through:.3f} nats; the truth is "
        f"{truth:.3f}."
    )
    figure = plot(test0, transport.transform(test0), test1, transport.inverse_transform(test1))
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
