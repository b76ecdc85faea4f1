"""
New rows from old ones
======================

A data set is resampled by a path from it to itself.

On the mirror path ``x_t = x_1 + gamma(t) z`` only the noise term moves, and only the denoiser is
learned. The flow carries every row back to itself; a diffusion carries it to another row of the
same density, which is close for low noise levels (Albergo, Boffi and Vanden-Eijnden 2023, table 4).

Run with ``python examples/resample_by_a_mirror.py``; the plot is saved to
``resample_by_a_mirror.png`` or to the path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import InterpolantTransport
from skinterflow.datasets import Moons

NOISE = (0.02, 0.2, 2.0)


def plot(X, resampled):
    figure, axes = plt.subplots(
        1, 1 + len(resampled), figsize=(15, 3.2), layout="constrained", sharex=True, sharey=True
    )
    colour = X[:, 0]
    for axis, (title, rows) in zip(axes, {"rows": X, **resampled}.items(), strict=True):
        axis.scatter(*rows.T, c=colour, s=6, cmap="viridis")
        axis.set(title=title, xlabel="$x_1$", aspect="equal")
    axes[0].set(ylabel="$x_2$")
    figure.suptitle("Colour: where each row was")
    return figure


def main(path="resample_by_a_mirror.png", max_iter=1000):
    moons = Moons()
    transport = InterpolantTransport(
        interpolant="mirror",
        gamma="brownian",
        hidden_layer_sizes=(64, 64, 64),
        max_iter=int(max_iter),
        random_state=0,
    )
    transport.fit(moons.sample(10_000, random_state=0))
    X = moons.sample(1_000, random_state=1)
    resampled = {
        f"epsilon = {epsilon}": transport.sample(X, random_state=0, epsilon=epsilon)
        for epsilon in NOISE
    }
    for title, rows in resampled.items():
        print(
            f"{title}: rows moved by {np.linalg.norm(rows - X, axis=1).mean():.2f} in the mean, "
            f"deviations {rows.std(axis=0).round(2)}"
        )
    print(f"deviations of the rows: {X.std(axis=0).round(2)}")
    figure = plot(X, resampled)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
