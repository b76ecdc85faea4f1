"""
Is the field learned?
=====================

A diagnosis on rows that the fit has not seen.

At the optimum ``G + E|v|^2`` is zero, and the latents of test rows are standard normal. One fit
here had enough steps, the other did not. The first criterion is necessary, not sufficient: a field
that is still almost zero meets it. The latents show the difference.

Run with ``python examples/is_it_learned.py``; the plot is saved to ``is_it_learned.png`` or to the
path given as argument.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Moons


def plot(fits, test):
    figure, axes = plt.subplots(1, 2 * len(fits), figsize=(13, 3.3), layout="constrained")
    for (scatter, quantiles), (name, (density, diagnosis)) in zip(
        axes.reshape(-1, 2), fits.items(), strict=True
    ):
        latent = density.transform(test)
        scatter.scatter(*latent.T, s=3)
        scatter.set(
            title=f"{name}: latents of test rows",
            xlabel="$z_1$",
            ylabel="$z_2$",
            xlim=(-4, 4),
            ylim=(-4, 4),
            aspect="equal",
        )
        levels = norm.ppf((np.arange(len(latent)) + 0.5) / len(latent))
        for k, distance in enumerate(diagnosis.latent_ks):
            quantiles.plot(
                levels, np.sort(latent[:, k]), label=f"$z_{k + 1}$, KS distance {distance:.3f}"
            )
        quantiles.plot([-3, 3], [-3, 3], color="black", linewidth=0.8, linestyle=":")
        quantiles.set(
            title=f"$G + E|v|^2$ = {diagnosis.loss_plus_action:.3f}",
            xlabel="normal quantile",
            ylabel="quantile of the latent",
        )
        quantiles.legend()
    return figure


def main(path="is_it_learned.png", max_iter=1500):
    train, test = Moons().sample(5000, random_state=0), Moons().sample(2000, random_state=1)
    fits = {}
    for name, n_steps in (
        ("too short", max(1, int(max_iter) // 30)),
        ("long enough", int(max_iter)),
    ):
        density = InterpolantFlowDensity(
            hidden_layer_sizes=(64, 64, 64),
            max_iter=n_steps,
            early_stopping=False,
            scaling="standardize",
            random_state=0,
        ).fit(train)
        diagnosis = density.diagnose(test, random_state=0)
        fits[name] = density, diagnosis
        print(
            f"{name}: G + E|v|^2 = {diagnosis.loss_plus_action:.3f}, energy distance of the "
            f"latents to N(0, I) {diagnosis.latent_energy_distance:.4f}, largest slope "
            f"{diagnosis.lipschitz:.0f}"
        )
    figure = plot(fits, test)
    if path:
        figure.savefig(path, dpi=110)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
