"""
Noise between two data sets
===========================

Rows of one data set are carried to another, with a noise level that is chosen after the training.

With a noise term on the path, ``gamma="brownian"``, the score can be learned between any two
densities. The drift alone gives a map, in which every row has one destination. Drift and score give
diffusions of any noise level: the rows of the target are the same, and every row of the source has
many destinations (Albergo, Boffi and Vanden-Eijnden 2023, section 2).

Run with ``python examples/noise_between_two_sets.py``; the plot is saved to
``noise_between_two_sets.png`` or to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantTransport
from skinterflow.datasets import EightGaussians, Moons

NOISE = (0.1, 1.0)


def plot(X0, results, one, fans):
    figure, axes = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 4.8), layout="constrained", sharey=True
    )
    for axis, (title, rows), fan in zip(axes, results.items(), fans, strict=True):
        axis.scatter(*X0.T, s=2, alpha=0.15, color="tab:gray", label="source")
        axis.scatter(*rows.T, s=3, alpha=0.3, color="tab:blue", label="carried")
        for end in fan:
            axis.plot([one[0], end[0]], [one[1], end[1]], color="tab:red", linewidth=0.4, alpha=0.5)
        axis.scatter(*fan.T, s=8, color="tab:red", label="ends of one row")
        axis.set(title=title, xlabel="$x_1$", aspect="equal")
    axes[0].set(ylabel="$x_2$")
    axes[0].legend(loc="lower left", markerscale=3)
    return figure


def main(path="noise_between_two_sets.png", max_iter=1000):
    source, target = EightGaussians(radius=2.0, deviation=0.15), Moons(deviation=0.08)
    X0, X1 = source.sample(10_000, random_state=0), 1.2 * target.sample(10_000, random_state=1)
    transport = InterpolantTransport(
        gamma="brownian", hidden_layer_sizes=(64, 64, 64), max_iter=int(max_iter), random_state=0
    )
    transport.fit(X0, X1)
    some, one = X0[:1500], X0[:1]
    results, fans = {"map (no noise)": transport.transform(some)}, [transport.transform(one)]
    for epsilon in NOISE:
        results[f"diffusion, epsilon = {epsilon}"] = transport.sample(
            some, random_state=0, epsilon=epsilon
        )
        fans.append(transport.sample(np.repeat(one, 60, axis=0), random_state=1, epsilon=epsilon))
    for (title, rows), fan in zip(results.items(), fans, strict=True):
        print(
            f"{title}: mean of the rows {rows.mean(axis=0).round(2)}, spread of the ends of one "
            f"row {fan.std(axis=0).round(2)}"
        )
    print(f"rows of the target: mean {X1.mean(axis=0).round(2)}")
    figure = plot(some, results, one[0], fans)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
