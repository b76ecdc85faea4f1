r"""
Reweighting one sample to another
=================================

A tutorial for physicists. A simulation does not quite agree with the measurement. Which weights
make them agree?

The weight of a simulated row is the ratio of two densities, :math:`w(x) = p_1(x) / p_0(x)`: that of
the measurement over that of the simulation. :class:`~skinterflow.InterpolantTransport` learns the
map that carries the simulation to the measurement, and with the density of the simulation it gives
that of the measurement at any row. Here the true weights are known, and classifiers, the usual
method for such weights, are compared.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skinterflow import InterpolantFlowDensity, InterpolantTransport

# %%
# Simulation and measurement
# --------------------------
#
# Two observables, for example a scaled energy and a scaled angle. The simulation has two processes.
# The detector has a gain and an offset in the first observable that the simulation lacks, and the
# square of the first observable leaks into the second:
#
# .. math:: x'_1 = 1.1 \, x_1 + 0.25, \qquad x'_2 = x_2 + 0.15 \, x_1^2 .
#
# The Jacobian of this map is 1.1 everywhere, so the density of the measurement is also known.

PROCESSES = [
    (0.65, multivariate_normal([-0.4, 0.0], [[0.6, 0.2], [0.2, 0.5]])),
    (0.35, multivariate_normal([1.0, 0.8], [[0.2, 0.0], [0.0, 0.3]])),
]
GAIN, OFFSET, LEAK = 1.1, 0.25, 0.15


def simulate(n, seed):
    random = np.random.default_rng(seed)
    first = random.random(n) < PROCESSES[0][0]
    both = [process.rvs(n, random_state=seed + k) for k, (_, process) in enumerate(PROCESSES)]
    return np.where(first[:, None], *both)


def distort(x):
    return np.column_stack([GAIN * x[:, 0] + OFFSET, x[:, 1] + LEAK * x[:, 0] ** 2])


def simulated_log_density(x):
    return np.log(sum(part * process.pdf(x) for part, process in PROCESSES))


def measured_log_density(x):
    x1 = (x[:, 0] - OFFSET) / GAIN
    return simulated_log_density(np.column_stack([x1, x[:, 1] - LEAK * x1**2])) - np.log(GAIN)


class KnownSimulation:
    """All that a transport requires of a density."""

    def score_samples(self, X):
        return simulated_log_density(X)


X0, X1 = simulate(10_000, 0), distort(simulate(10_000, 100))
rows, new = simulate(3000, 200), distort(simulate(3000, 300))

# %%
# Five estimates of the weights
# -----------------------------
#
# * **Transport**: the map from simulation to measurement, and a density of the simulation. Its
#   ``target_log_density`` at a simulated row, minus the density of the simulation there, is the
#   logarithm of the weight. The density may be fitted; if it is known, as that of a generator can
#   be, only the map has to be learned.
# * **Two densities**: one fitted to each sample.
# * **Classifiers**: the odds that a row is measured rather than simulated are the weight, if there
#   are equally many rows of both kinds.

short = {"hidden_layer_sizes": (64, 64, 64), "max_iter": 1000, "atol": 2e-2, "random_state": 0}
simulation = InterpolantFlowDensity(**short).fit(X0)
measurement = InterpolantFlowDensity(**short).fit(X1)
transport = InterpolantTransport(**short).fit(X0, X1)
log_simulation = simulation.score_samples(rows)
log_weights = {
    "truth": measured_log_density(rows) - simulated_log_density(rows),
    "transport, p0 known": transport.target_log_density(rows, KnownSimulation())
    - simulated_log_density(rows),
    "transport": transport.target_log_density(rows, simulation) - log_simulation,
    "two densities": measurement.score_samples(rows) - log_simulation,
}
X, is_measured = np.concatenate([X0, X1]), np.repeat([0, 1], len(X0))
for name, classifier in {
    "logistic, cubic": make_pipeline(
        StandardScaler(), PolynomialFeatures(3), LogisticRegression(max_iter=1000)
    ),
    "boosted trees": HistGradientBoostingClassifier(random_state=0),
}.items():
    probability = classifier.fit(X, is_measured).predict_proba(rows)
    log_weights[name] = np.log(probability[:, 1] / probability[:, 0])

# %%
# Do the weights work?
# --------------------
#
# Three numbers for each set of weights: the distance from the true logarithms; the mean of an
# observable that no fit has seen, :math:`x_1 x_2`, in the weighted simulation and in the
# measurement; and the *effective sample size* :math:`(\sum w)^2 / \sum w^2`, which is what remains
# of the 3,000 rows.


def weighted(log_weight):
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


observable, target = rows.prod(axis=1), new.prod(axis=1)
print(f"{'mean of x1 x2':<20}{'rms error of log w':>20}{'mean of x1 x2':>16}{'effective rows':>16}")
print(f"{'simulation':<20}{'':>20}{observable.mean():>16.3f}{len(rows):>16}")
for name, log_weight in log_weights.items():
    weight = weighted(log_weight)
    error = np.sqrt(np.mean((log_weight - log_weights["truth"]) ** 2))
    print(f"{name:<20}{error:>20.3f}{weight @ observable:>16.3f}{1 / (weight**2).sum():>16.0f}")
print(
    f"{'measurement':<20}{'':>20}{target.mean():>16.3f}   with a standard error of "
    f"{target.std() / np.sqrt(len(target)):.3f}"
)

# %%
# The observable, simulated, measured, and reweighted by the transport:

weight = weighted(log_weights["transport, p0 known"])
bins = np.linspace(-3, 4, 40)
figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axis.hist(observable, bins, density=True, histtype="step", label="simulation")
axis.hist(target, bins, density=True, color="tab:gray", alpha=0.4, label="measurement")
axis.hist(
    observable,
    bins,
    density=True,
    histtype="step",
    color="tab:red",
    weights=weight,
    label="simulation, reweighted",
)
axis.set(xlabel="$x_1 x_2$")
axis.legend(fontsize="small")
plt.show()

# %%
# The logarithms of the weights, against the true ones:

figure, axes = plt.subplots(
    1, len(log_weights) - 1, figsize=(13, 3.1), layout="constrained", sharey=True
)
for axis, name in zip(axes, list(log_weights)[1:], strict=True):
    axis.scatter(log_weights["truth"], log_weights[name], s=2, alpha=0.3)
    axis.plot([-4, 3], [-4, 3], color="black", linewidth=0.8)
    axis.set(title=name, xlabel="true log w", xlim=(-4, 3), ylim=(-4, 3), aspect="equal")
axes[0].set_ylabel("estimated log w")
plt.show()

# %%
# The map alone is learned well: with the known density of the simulation, the weights are nearly
# the true ones. If that density is also fitted, its errors enter at two places, at the row and at
# the origin of the row, mostly in the tails, where rows are rare and weights are large; there the
# mean of the observable suffers. The classifiers are farther from the true weights row by row,
# though good for this one mean.
#
# Where weights fail
# ------------------
#
# A weight can only make a row count more. Where the measurement has rows and the simulation hardly
# any, a few simulated rows receive huge weights, and the effective sample size decreases. This is
# not the fault of an estimator: the *true* weights do the same. Below, the offset increases.

offsets = np.linspace(0.0, 3.0, 13)
log_simulated = simulated_log_density(rows)
effective = [
    1 / (weighted(measured_log_density(rows - [offset, 0.0]) - log_simulated) ** 2).sum()
    for offset in offsets
]
figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axis.plot(offsets, effective, marker="o")
axis.set(
    xlabel="additional offset of the measurement",
    ylabel="effective rows, true weights",
    yscale="log",
)
plt.show()

# %%
# The transport has another solution, which requires no density: *move* the rows instead of
# weighting them. Every moved row counts in full. But moving does not show which simulated process a
# measured row came from: the map is one of many that carry one sample to the other.

moved = transport.transform(rows)
figure, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axis.hist(observable, bins, density=True, histtype="step", label="simulation")
axis.hist(target, bins, density=True, color="tab:gray", alpha=0.4, label="measurement")
axis.hist(
    moved.prod(axis=1),
    bins,
    density=True,
    histtype="step",
    color="tab:red",
    label="simulation, moved",
)
axis.set(xlabel="$x_1 x_2$")
axis.legend(fontsize="small")
print(f"mean of x1 x2 in the moved simulation: {moved.prod(axis=1).mean():.3f}")
plt.show()
