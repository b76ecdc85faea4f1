r"""
Photometric redshifts: a joint density and its slices
=====================================================

A tutorial for astronomers. How far away is a galaxy of which only brightness and colours are known?

One joint density of photometry and redshift is fitted, :math:`p(c, z)`. The density of the redshift
of *one* galaxy is a slice of it, :math:`p(z \mid c) = p(c, z) / \int p(c, z') \, dz'`: score the
photometry of the galaxy together with a grid of redshifts, and normalise. The galaxies are
simulated, so every slice can be compared with the true one.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from skinterflow import InterpolantFlowDensity

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
# The rows have five columns: the photometry and the redshift. The network is small and the training
# short, so that this page builds quickly; keep the defaults of `hidden_layer_sizes` and `max_iter`
# for real data. The number of components of the mixture is selected by BIC.

rows = np.column_stack([photometry, z])
flow = InterpolantFlowDensity(
    hidden_layer_sizes=(128, 128), max_iter=1000, atol=2e-2, random_state=0
).fit(rows)
mixtures = [GaussianMixture(n, random_state=0).fit(rows) for n in (10, 20, 40)]
mixture = min(mixtures, key=lambda fitted: fitted.bic(rows))
print(f"The mixture has {mixture.n_components} components; the flow took {flow.n_iter_} steps.")

# %%
# Slices
# ------
#
# Any estimator with ``score_samples`` provides slices. Rows of float32 are scored in float32, which
# is faster. One call computes all slices of all galaxies.

grid = np.linspace(0.005, 1.995, 200)
step = grid[1] - grid[0]


def normalised(log_density):
    """One slice per row, which integrates to one over the grid."""
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    return density / (density.sum(axis=1, keepdims=True) * step)


def slices(estimator, photometry):
    points = np.column_stack(
        [np.repeat(photometry, len(grid), axis=0), np.tile(grid, len(photometry))]
    )
    return normalised(
        estimator.score_samples(points.astype(np.float32)).reshape(len(photometry), len(grid))
    )


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
estimates = {
    "truth": true_slices(test),
    "flow": slices(flow, test),
    "mixture": slices(mixture, test),
}

styles = {
    "truth": ("black", 3.0, 0.3),
    "flow": ("tab:blue", 1.5, 1.0),
    "mixture": ("tab:orange", 1.2, 1.0),
}
figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained", sharex=True)
for k, axis in enumerate(axes.flat):
    for name, (color, width, alpha) in styles.items():
        axis.plot(grid, estimates[name][k], color=color, linewidth=width, alpha=alpha, label=name)
    axis.axvline(test_z[k], color="tab:red", linestyle=":", label="the galaxy's redshift")
    axis.set(yticks=[])
axes[0, 0].legend(fontsize="small")
for axis in axes[1]:
    axis.set_xlabel("redshift")
figure.supylabel("p(z | photometry)")
plt.show()

# %%
# Bright red galaxies have narrow slices, and faint blue ones have wide, skewed or bimodal ones. A
# slice shows this, and a point estimate with an error bar cannot. No estimate is better for every
# galaxy; the next section has the mean over many.
#
# How good are the slices?
# ------------------------
#
# * The mean log-density of the true redshifts, in nats: no estimate can exceed that of the truth in
#   the long run.
# * The *probability integral transform* (PIT), the part of a slice below the redshift of the
#   galaxy, is uniform if the slices are calibrated.
# * The median of a slice is a point estimate; its error is measured by the normalised median
#   deviation of :math:`\Delta z = (z_\mathrm{estimate} - z) / (1 + z)`.

at = np.rint((test_z - grid[0]) / step).astype(int)
pit, medians = {}, {}
for name, density in estimates.items():
    cumulative = np.cumsum(density, axis=1) * step
    pit[name] = np.array(
        [np.interp(z, grid + step / 2, row) for z, row in zip(test_z, cumulative, strict=True)]
    )
    medians[name] = grid[(cumulative < 0.5).sum(axis=1)]
    off = (medians[name] - test_z) / (1 + test_z)
    print(
        f"{name:<8} log p(z | c) {np.log(density[np.arange(len(at)), at]).mean():5.2f} nats, "
        f"redshift within the central 90% for {np.mean(np.abs(pit[name] - 0.5) < 0.45):.0%}, "
        f"median deviation {1.4826 * np.median(np.abs(off - np.median(off))):.4f}, off by more "
        f"than 0.15: {np.mean(np.abs(off) > 0.15):.1%}"
    )

figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
for axis, (name, estimate) in zip(axes, medians.items(), strict=False):
    axis.plot([0, 2], [0, 2], color="black", linewidth=0.8)
    axis.scatter(test_z, estimate, s=4, color="tab:gray" if name == "truth" else styles[name][0])
    axis.set(title=f"medians, {name}", xlabel="redshift", xlim=(0, 2), ylim=(0, 2), aspect="equal")
axes[0].set_ylabel("median of the slice")
for name, (color, _, _) in styles.items():
    axes[3].hist(
        pit[name], np.linspace(0, 1, 11), histtype="step", color=color, linewidth=1.5, label=name
    )
axes[3].axhline(len(test_z) / 10, color="black", linewidth=0.8, linestyle=":")
axes[3].set(title="PIT", xlabel="part of the slice below the redshift", ylabel="galaxies")
axes[3].legend(fontsize="small", loc="lower center")
plt.show()

# %%
# For real galaxies: the slices hold for galaxies like those of the training set. If spectra were
# taken of bright galaxies only, weight the rows (``fit(X, sample_weight=...)``), or reweight as in
# :ref:`sphx_glr_auto_examples_tutorials_reweighting.py`. The fit does not exclude redshifts below
# zero, it only makes them rare; the grid excludes them here.
