"""Two-dimensional targets: samples and densities belong together."""

import numpy as np
import pytest

from skinterflow.datasets import Checkerboard, Density, EightGaussians, Moons, Rings, Spirals

DISTRIBUTIONS = {
    "checkerboard": Checkerboard,
    "odd checkerboard": lambda: Checkerboard(3),
    "eight Gaussians": EightGaussians,
    "rings": Rings,
    "blurred rings": lambda: Rings(radii=(0.5, 1.2), deviation=0.25),
    "spirals": Spirals,
    "moons": Moons,
}
over_registry = pytest.mark.parametrize("make", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
over_densities = pytest.mark.parametrize(
    "make",
    [make for make in DISTRIBUTIONS.values() if isinstance(make(), Density)],
    ids=lambda make: repr(make()),
)


@over_registry
def test_samples_are_seeded_rows_of_the_plane(make):
    sample = make().sample(50, random_state=0)
    assert sample.shape == (50, 2)
    np.testing.assert_array_equal(sample, make().sample(50, random_state=0))
    assert not np.array_equal(sample, make().sample(50, random_state=1))
    assert np.abs(sample).max() < 4


@over_densities
def test_density_integrates_to_one(make):
    axis = (np.arange(800) + 0.5) / 100 - 4
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(make().score_samples(grid)).sum() / 100**2 == pytest.approx(1.0, abs=1e-3)


@over_densities
def test_samples_have_the_density(make):
    """Counts in the cells of a grid are those that the density gives, by a chi-squared test at five
    deviations."""
    n, edges = 50_000, np.linspace(-4, 4, 17)
    counts = np.histogram2d(*make().sample(n, random_state=0).T, bins=[edges, edges])[0].ravel()
    axis = (np.arange(800) + 0.5) / 100 - 4
    mass = (
        np.exp(
            make().score_samples(
                np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
            )
        )
        / 100**2
    )
    expected = n * mass.reshape(16, 50, 16, 50).sum(axis=(1, 3)).ravel()
    assert (counts[expected < 1e-9] == 0).all()
    kept = expected > 5
    chi2 = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi2 < kept.sum() + 5 * np.sqrt(2 * kept.sum())


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        Moons().sample(0)
    with pytest.raises(
        ValueError, match="X has 3 columns, but the density is defined on the plane"
    ):
        Rings().score_samples(np.zeros((2, 3)))
