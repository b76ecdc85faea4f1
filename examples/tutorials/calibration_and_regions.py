"""
Calibration and regions of highest density
==========================================

A tutorial for statisticians. Is a fitted density right, and where does it expect the next row?

Three fits of the same two columns, whose true density is known, are compared with rows that they
have not seen: by their latents, and by the coverage and the size of their regions of highest
density. One fit is good, one was stopped too early, and one was made to memorise its rows.
"""

import matplotlib.pyplot as plt
import numpy as np

from skinterflow import CalibrationDisplay, DensityDisplay, InterpolantFlowDensity, TrainingDisplay
from skinterflow.datasets import EightGaussians

# %%
# Three fits
# ----------
#
# The fits differ only in the length of the training and in the measures against overfitting; the
# third has few rows. The networks are small, so that the page builds quickly.

truth = EightGaussians(radius=1.6, deviation=0.3)
train, test = truth.sample(10_000, random_state=0), truth.sample(1000, random_state=1)
common = {"hidden_layer_sizes": (64, 64), "random_state": 0}
fits = {
    "good": InterpolantFlowDensity(max_iter=1000, **common).fit(train),
    "too short": InterpolantFlowDensity(max_iter=40, end_time=1.0, **common).fit(train),
    "memorised": InterpolantFlowDensity(
        max_iter=1500, early_stopping=False, alpha=0.0, **common
    ).fit(train[:150]),
}
TrainingDisplay.from_estimator(fits["good"])
plt.show()

# %%
# Is it right?
# ------------
#
# If the density is right, the latents of new rows are standard normal, and a region with 90% of the
# probability contains 90% of new rows. ``CalibrationDisplay`` shows both, with bands for the random
# variation under a correct density.

figure, axes = plt.subplots(len(fits), 2, figsize=(9, 12), layout="constrained")
for pair, (name, fit) in zip(axes, fits.items(), strict=True):
    CalibrationDisplay.from_estimator(fit, test, random_state=0, ax=pair)
    for panel in pair:
        panel.set_title(f"{name}: {panel.get_title().lower()}")
plt.show()

# %%
# The short training has not found the hole in the middle: it has its highest density where there
# are no rows, and its outer regions contain more rows than they should. The memorised density is
# too narrow: all its regions contain fewer rows than they should, and the latents have heavy tails.
#
# A wrong density can pass both tests, and neither test shows which of two densities is better. The
# mean log-density of new rows does, by a paired comparison; the difference between the truth and a
# fit is an estimate of the Kullback-Leibler divergence.

true_log_density = truth.score_samples(test)
log_density = {name: fit.score_samples(test) for name, fit in fits.items()}
print(f"{'truth':<10} {true_log_density.mean():6.3f} nats per row")
for name, values in log_density.items():
    below = true_log_density - values
    error = below.std(ddof=1) / np.sqrt(len(below))
    print(
        f"{name:<10} {values.mean():6.3f} nats per row, below the truth by {below.mean():.3f}, "
        f"standard error {error:.3f}"
    )

# %%
# Regions of highest density
# --------------------------
#
# The region of highest density of 90% is the smallest that contains 90% of the probability. It
# follows the shape of the data, may consist of several parts, and its boundary is a contour of the
# density.

display = DensityDisplay.from_estimator(fits["good"], test, levels=(0.5, 0.9), random_state=0)
display.ax_.set_title("Regions of highest density, and new rows")
plt.show()

# %%
# ``density_threshold`` is the log-density on the boundary, in any number of columns, estimated from
# samples of the model, with its Monte Carlo error. ``contains`` returns which rows are inside. The
# error does not include the error of the *fit*: the true threshold is printed for comparison.

levels = np.array([0.5, 0.9, 0.99])
thresholds, errors = fits["good"].density_threshold(levels, random_state=0, return_error=True)
true_thresholds = np.quantile(
    truth.score_samples(truth.sample(100_000, random_state=2)), 1 - levels
)
for level, threshold, error, exact in zip(levels, thresholds, errors, true_thresholds, strict=True):
    inside = fits["good"].contains(test, level, random_state=0).mean()
    print(
        f"{level:.0%} region: threshold {threshold:.3f} +- {error:.3f} nats, true {exact:.3f}; "
        f"{inside:.1%} of new rows are inside"
    )

# %%
# Coverage from any fit, and what it costs
# ----------------------------------------
#
# If coverage must hold for any fit, take the threshold from held-out rows instead of samples of the
# model: of :math:`n` rows, the :math:`\lfloor (n + 1)(1 - p) \rfloor`-th lowest log-density (split
# conformal prediction). A new row is inside with a probability of at least :math:`p`, because it is
# as likely as any of the others to be that low. The price of a bad fit is then the *area* of the
# region.

held_out, new = truth.sample(4000, random_state=3), truth.sample(4000, random_state=4)
axis = np.linspace(-3, 3, 120)
grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
cell = (axis[1] - axis[0]) ** 2
heights = {name: fit.score_samples(grid.astype(np.float32)) for name, fit in fits.items()}

figure, panels = plt.subplots(1, len(fits), figsize=(12, 4), layout="constrained", sharey=True)
for panel, (name, fit) in zip(panels, fits.items(), strict=True):
    threshold = np.sort(fit.score_samples(held_out))[int((len(held_out) + 1) * (1 - 0.9)) - 1]
    inside = (fit.score_samples(new) >= threshold).mean()
    area = (heights[name] >= threshold).sum() * cell
    panel.contourf(
        axis,
        axis,
        heights[name].reshape(120, 120),
        levels=[threshold, np.inf],
        colors=["tab:blue"],
        alpha=0.3,
    )
    panel.scatter(*test.T, s=2, color="black")
    panel.set(
        title=f"{name}: {inside:.1%} of new rows inside,\narea {area:.2f}",
        xlabel="$x_1$",
        aspect="equal",
    )
panels[0].set_ylabel("$x_2$")
true_area = (truth.score_samples(grid) >= true_thresholds[1]).sum() * cell
print(f"Area of the true region of 90%: {true_area:.2f}")
plt.show()

# %%
# Coverage is an average over rows: it may be higher in one part of the plane and lower in another.
# The better the density, the smaller these differences.
