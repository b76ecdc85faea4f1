r"""
Photometric redshifts: a density for each galaxy
================================================

A tutorial for astronomers. How far away is a galaxy of which only brightness and colours are known?

The density of the redshift given the photometry, :math:`p(z \mid c)`, is fitted by
``InterpolantFlowRegressor``. The galaxies are simulated, so every predicted density can be compared
with the true one, and with that of a Gaussian mixture for photometry and redshift together.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from skinterflow import InterpolantFlowRegressor, PITDisplay, PredictionIntervalDisplay

# sphinx_gallery_thumbnail_number = 2

# %%
# A toy universe
# --------------
#
# No galaxy here is from a survey, and no spectrum from a template. The model is as follows:
#
# * the redshift has the density :math:`p(z) \propto z^2 e^{-(z / 0.5)^{1.5}}`;
# * the magnitude is normal about :math:`20 + 2 z`, with deviation 1: far galaxies are fainter;
# * the type :math:`\tau` is uniform from red (0) to blue (1), at all redshifts alike;
# * a galaxy's spectrum has a step that the redshift moves through the bands. A colour is the
#   contrast of two neighbouring bands, and has a bump where the step lies between them; red
#   galaxies have the higher step;
# * colours are measured with normal errors, of 0.04 magnitudes for bright galaxies and up to 0.24
#   for faint ones.

CENTRES = np.array([0.375, 0.725, 1.075])


def colours(z, tau):
    """Colours without errors; the last axis has the three colours g-r, r-i and i-z."""
    z, redness = np.asarray(z)[..., None], 1.0 - np.asarray(tau)[..., None]
    return 0.1 + 0.4 * redness + (0.3 + 1.2 * redness) * np.exp(-0.5 * ((z - CENTRES) / 0.25) ** 2)


def colour_error(magnitude):
    return 0.04 + 0.2 * expit(1.5 * (magnitude - 22.0))


def galaxies(n, seed):
    """Magnitude and three colours, and the redshifts."""
    random = np.random.default_rng(seed)
    z = 0.5 * random.gamma(2.0, size=n) ** (1 / 1.5)
    magnitude = random.normal(20.0 + 2.0 * z, 1.0)
    noise = colour_error(magnitude)[:, None] * random.normal(size=(n, 3))
    return np.column_stack([magnitude, colours(z, random.uniform(size=n)) + noise]), z


photometry, z = galaxies(10_000, 0)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained", sharex=True)
for axis, name, column in zip(
    axes, ("magnitude", "g - r", "r - i", "i - z"), photometry.T, strict=True
):
    axis.scatter(z, column, s=1, alpha=0.2)
    axis.set(xlabel="redshift", ylabel=name, xlim=(0, 2))
plt.show()

# %%
# One fit
# -------
#
# The features are the photometry, the output is the redshift. The network is small and the training
# short, so that this page builds quickly; keep the defaults of `trunk_layer_sizes`, `max_iter` and
# `regressor` for real data. The number of components of the mixture is selected by BIC.

flow = InterpolantFlowRegressor(
    trunk_layer_sizes=(64, 64, 64), max_iter=900, regressor=None, atol=1e-2, random_state=0
).fit(photometry, z)
rows = np.column_stack([photometry, z])
mixtures = [GaussianMixture(n, random_state=0).fit(rows) for n in (10, 20, 40)]
mixture = min(mixtures, key=lambda fitted: fitted.bic(rows))
print(f"The mixture has {mixture.n_components} components; the flow took {flow.n_iter_} steps.")

# %%
# The density of each galaxy
# --------------------------
#
# ``log_density`` of the regressor is normalised for every galaxy. A joint density :math:`p(c, z)`
# has to be evaluated on a grid of redshifts and normalised,
# :math:`p(z \mid c) = p(c, z) / \int p(c, z') \, dz'`. So has the truth.

grid = np.linspace(0.005, 1.995, 200)
step = grid[1] - grid[0]


def normalised(log_density):
    """One slice per row, which integrates to one over the grid."""
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    return density / (density.sum(axis=1, keepdims=True) * step)


def slices(joint, photometry):
    points = np.column_stack(
        [np.repeat(photometry, len(grid), axis=0), np.tile(grid, len(photometry))]
    )
    return normalised(joint.score_samples(points).reshape(len(photometry), len(grid)))


def true_slices(photometry, n_types=80):
    """The true slices of the simulation: the type is integrated out."""
    expected = colours(grid[:, None], (np.arange(n_types) + 0.5) / n_types)
    log_prior = 2 * np.log(grid) - (grid / 0.5) ** 1.5
    log_density = []
    for magnitude, *measured in photometry:
        likelihood = (
            norm.pdf(measured, expected, colour_error(magnitude)).prod(axis=-1).mean(axis=1)
        )
        log_density.append(
            np.log(likelihood + 1e-300) + norm.logpdf(magnitude, 20.0 + 2.0 * grid, 1.0) + log_prior
        )
    return normalised(np.array(log_density))


test, test_z = galaxies(300, 1)
test, test_z = test[test_z < grid[-1]], test_z[test_z < grid[-1]]
truth, joint = true_slices(test), slices(mixture, test)

figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained", sharex=True)
for k, axis in enumerate(axes.flat):
    density = np.exp(flow.log_density(np.repeat(test[[k]], len(grid), axis=0), grid))
    axis.plot(grid, truth[k], color="black", linewidth=3.0, alpha=0.3, label="truth")
    axis.plot(grid, density, color="tab:blue", linewidth=1.5, label="flow")
    axis.plot(grid, joint[k], color="tab:orange", linewidth=1.2, label="mixture")
    axis.axvline(test_z[k], color="tab:red", linestyle=":", label="the galaxy's redshift")
    axis.set(yticks=[])
axes[0, 0].legend(fontsize="small")
for axis in axes[1]:
    axis.set_xlabel("redshift")
figure.supylabel("p(z | photometry)")
plt.show()

# %%
# Bright red galaxies have narrow densities, and faint blue ones have wide, skewed or bimodal ones.
# A density shows this, and a point estimate with an error bar cannot. No estimate is better for
# every galaxy; the next section has the mean over many.
#
# How good are they?
# ------------------
#
# * The mean log-density of the true redshifts, in nats: no estimate can exceed that of the truth in
#   the long run.
# * The *probability integral transform* (PIT), the predicted probability of a redshift up to that
#   of the galaxy, is uniform if the densities are calibrated.
# * The median is a point estimate; its error is measured by the normalised median deviation of
#   :math:`\Delta z = (z_\mathrm{estimate} - z) / (1 + z)`.
#
# The regressor has a method for each, without a grid.

at = np.rint((test_z - grid[0]) / step).astype(int)
log_density = {"flow": flow.log_density(test, test_z)}
pit = {"flow": flow.cdf(test, test_z)}
medians = {"flow": flow.predict_quantiles(test, 0.5)[:, 0]}
for name, density in (("truth", truth), ("mixture", joint)):
    cumulative = np.cumsum(density, axis=1) * step
    log_density[name] = np.log(density[np.arange(len(at)), at])
    pit[name] = np.clip(
        [np.interp(z, grid + step / 2, row) for z, row in zip(test_z, cumulative, strict=True)],
        0,
        1,
    )
    medians[name] = grid[(cumulative < 0.5).sum(axis=1)]
for name, median in medians.items():
    off = (median - test_z) / (1 + test_z)
    print(
        f"{name:<8} log p(z | c) {log_density[name].mean():5.2f} nats, "
        f"redshift within the central 90% for {np.mean(np.abs(pit[name] - 0.5) < 0.45):.0%}, "
        f"median deviation {1.4826 * np.median(np.abs(off - np.median(off))):.4f}, off by more "
        f"than 0.15: {np.mean(np.abs(off) > 0.15):.1%}"
    )

figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for axis, name in zip(axes, ("truth", "flow", "mixture"), strict=True):
    axis.plot([0, 2], [0, 2], color="black", linewidth=0.8)
    axis.scatter(test_z, medians[name], s=4)
    axis.set(title=f"medians, {name}", xlabel="redshift", xlim=(0, 2), ylim=(0, 2), aspect="equal")
axes[0].set_ylabel("median of the density")
plt.show()

# %%
# The PIT of the flow, and that of the mixture below it:

figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
for pair, name in zip(axes, ("flow", "mixture"), strict=True):
    PITDisplay.from_predictions(pit[name], ax=pair)
    for panel in pair:
        panel.set_title(f"{name}: {panel.get_title()}")
plt.show()

# %%
# The intervals of the flow along the magnitude: those of faint galaxies are wide.

PredictionIntervalDisplay.from_estimator(flow, test, test_z, feature=0).ax_.set(
    xlabel="magnitude", ylabel="redshift"
)
plt.show()

# %%
# For real galaxies: the densities hold for galaxies like those of the training set. If spectra were
# taken of bright galaxies only, weight the rows (``fit(X, z, sample_weight=...)``), or reweight as
# in :ref:`sphx_glr_auto_examples_tutorials_reweighting.py`. The fit does not exclude redshifts
# below zero, it only makes them rare.
