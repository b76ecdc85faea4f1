"""
Quick start: a density of real data
===================================

A density next to familiar ones: held-out log-likelihood, samples, and a plot.

The data are 569 breast tumours with 30 measurements each (scikit-learn's ``load_breast_cancer``).
Every method is fitted to the same training rows and scored on the same held-out rows; the bandwidth
and the number of components are tuned by cross-validation.

Run with ``python examples/quickstart.py``; the plot is saved to ``quickstart.png`` or to the path
given as argument. It takes one to two minutes, and reports its progress on standard error.
"""

import contextlib
import sys
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity

DURATION = "one to two minutes, most of them for the flow"


def progress(message):
    """Report the progress on standard error."""
    print(message, file=sys.stderr, flush=True)


def held_out_log_likelihoods(train, test):
    """Mean held-out log-likelihood per row of each method, in nats, with the fitted flow."""
    searches = {
        "KernelDensity": GridSearchCV(
            KernelDensity(), {"bandwidth": np.geomspace(0.1, 3.0, 12)}, cv=5
        ),
        "GaussianMixture": GridSearchCV(
            GaussianMixture(reg_covar=1e-3, random_state=0), {"n_components": range(1, 9)}, cv=5
        ),
    }
    scores = {}
    for name, search in searches.items():
        progress(f"Tuning {name} by cross-validation ...")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of single candidates
            scores[name] = search.fit(train).best_estimator_.score_samples(test).mean()
    started = time.perf_counter()
    progress("Fitting InterpolantFlowDensity: four small nets, cross-fitted ...")
    with contextlib.redirect_stdout(sys.stderr):
        density = InterpolantFlowDensity(random_state=0, verbose=True).fit(train)
    progress("Scoring the held-out rows ...")
    scores["InterpolantFlowDensity"] = density.score(test)
    print(
        f"The flow took {time.perf_counter() - started:.0f} s to fit and score, with default "
        "parameters."
    )
    return scores, density


def plot(density, test, names):
    """Held-out rows and samples in two pairs of columns, and the log-densities of both."""
    progress("Drawing samples and scoring some of them for the plot ...")
    samples = density.sample(2000, random_state=0)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for axis, (i, j) in zip(axes, [(0, 4), (6, 7)], strict=False):
        axis.scatter(*samples[:, [i, j]].T, s=4, alpha=0.35, color="tab:blue", label="samples")
        axis.scatter(
            *test[:, [i, j]].T,
            s=14,
            color="tab:orange",
            edgecolor="white",
            linewidth=0.3,
            label="held-out rows",
        )
        axis.set(xlabel=f"{names[i]} (standardised)", ylabel=f"{names[j]} (standardised)")
    axes[0].legend(loc="upper right")
    log_densities = {
        "samples": density.score_samples(samples[:300]),
        "held-out rows": density.score_samples(test),
    }
    low, high = np.percentile(log_densities["samples"], [0.5, 100])
    bins = np.linspace(low - 15, high + 2, 30)
    for (label, values), color in zip(
        log_densities.items(), ("tab:blue", "tab:orange"), strict=True
    ):
        axes[2].hist(
            np.clip(values, bins[0], None), bins, density=True, alpha=0.6, label=label, color=color
        )
    axes[2].set(xlabel="log-density (nats; lowest bin: that or less)", ylabel="fraction per nat")
    axes[2].legend()
    return figure


def standardised_split(X):
    """Training and held-out rows, standardised by the former; and their means and deviations."""
    train, test = train_test_split(X, test_size=0.2, random_state=0)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / deviation, (test - mean) / deviation, mean, deviation


def main(path="quickstart.png"):
    progress(f"This takes {DURATION}.")
    torch.set_num_threads(
        1
    )  # nets this small are no faster with more, and much slower where cores are shared
    data = load_breast_cancer()
    train, test, mean, deviation = standardised_split(data.data)
    scores, density = held_out_log_likelihoods(train, test)
    print(
        f"Held-out log-likelihood of {len(test)} rows x {test.shape[1]} columns, nats per row of "
        "standardised data (higher is better):"
    )
    for name, score in sorted(scores.items(), key=lambda item: item[1]):
        print(f"  {name:<24}{score:8.2f}")
    print(
        "A new row, drawn from the density:",
        np.round(density.sample(1, random_state=0)[0, :5] * deviation[:5] + mean[:5], 2),
        "...",
    )
    figure = plot(density, test, data.feature_names)
    if path:
        figure.savefig(path, dpi=130)
        print(f"The plot is in {path}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
