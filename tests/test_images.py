"""Images: bits per dimension with its three errors, and a U-Net through the estimator."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skinterflow import InterpolantFlowDensity
from skinterflow.interflow import CustomField, Solver, UNet
from skinterflow.metrics import bits_per_dimension

N_LEVELS = 5
TINY = {"early_stopping": False, "batch_size": 32, "max_iter": 10, "random_state": 0}


class Independent:
    """Pixels that are independent, each level with its own probability, and a linear density within
    a cell: ``p_k (1 + slope u)`` for noise ``u``."""

    probabilities = np.array([0.4, 0.3, 0.2, 0.05, 0.05])

    def __init__(self, slope):
        self.slope = slope

    def score_samples(self, X):
        levels = np.round(X)
        within = np.log1p(self.slope * (X - levels))
        return (np.log(self.probabilities)[levels.astype(int)] + within).sum(axis=1)


@pytest.fixture(scope="module")
def images():
    """Images of 3 x 4 whose pixels are similar to their neighbours."""
    noise = np.random.default_rng(0).normal(size=(200, 4, 5))
    smooth = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + noise[:, :-1, :-1]
    return np.clip(np.round(smooth + 2.0), 0, N_LEVELS - 1).reshape(200, 12)


@pytest.fixture(scope="module")
def density(images):
    field = UNet((3, 4), (2, 4), n_probes=2, generator=torch.Generator().manual_seed(0))
    return InterpolantFlowDensity(
        field=field, integer_features=list(range(12)), solver=Solver(atol=10.0), **TINY
    ).fit(images)


def test_bits_are_those_of_the_probabilities(images):
    bits = bits_per_dimension(Independent(0.0), images, n_levels=N_LEVELS, random_state=0)
    per_image = -np.log2(Independent.probabilities)[images.astype(int)].mean(axis=1)
    assert bits.value == pytest.approx(per_image.mean())
    assert bits.sampling_error == pytest.approx(per_image.std(ddof=1) / np.sqrt(200))
    assert bits.monte_carlo_error == pytest.approx(0.0, abs=1e-12)
    assert bits.solver_error == 0.0


@pytest.mark.parametrize("block_rows", [7, 128])
def test_the_monte_carlo_error_is_that_of_the_draws(images, monkeypatch, block_rows):
    """``E[log2(1 + u)]`` over u in [-1/2, 1/2) has a closed form."""
    monkeypatch.setattr("skinterflow.metrics._PROBED_ROWS", block_rows)
    even = bits_per_dimension(Independent(0.0), images[:20], n_levels=N_LEVELS, random_state=0)
    a, b = 0.5, 1.5
    excess = -((b * np.log(b) - b) - (a * np.log(a) - a)) / np.log(2.0)
    deviations = []
    for seed in range(20):
        bits = bits_per_dimension(
            Independent(1.0), images[:20], n_levels=N_LEVELS, n_draws=16, random_state=seed
        )
        deviations.append((bits.value - even.value - excess) / bits.monte_carlo_error)
    assert 0.6 < np.sqrt(np.mean(np.square(deviations))) < 1.6


def test_estimates_agree_with_the_exact_divergence(images, density):
    """Exact by the same weights in a field without probes; the probes of each draw are others."""
    exact = InterpolantFlowDensity(**density.get_params()).set_params(field=exact_network())
    exact.__dict__.update({k: v for k, v in vars(density).items() if k not in ("field", "_cache")})
    exact._field, exact._cache = exact_copy(density._field), {}
    options = {"n_levels": N_LEVELS, "n_draws": 2, "random_state": 0}
    truth = bits_per_dimension(exact, images[:4], **options)
    estimate = bits_per_dimension(density, images[:4], n_probes=1, **options)
    assert estimate.monte_carlo_error > truth.monte_carlo_error
    assert abs(estimate.value - truth.value) < 4 * estimate.monte_carlo_error
    assert truth.solver_error > 0.0
    assert bits_per_dimension(density, images[:4], n_probes=1, **options) == estimate


def exact_network():
    generator = torch.Generator().manual_seed(0)
    return UNet((3, 4), (2, 4), n_probes=None, generator=generator)


def exact_copy(field):
    """The field, with the exact divergence."""
    copied = CustomField(exact_network(), 12)
    copied.load_state_dict(field.state_dict())
    return copied


def test_a_fit_with_a_network_of_images_gives_whole_samples_and_is_saved(density, tmp_path):
    density.save(tmp_path / "model")
    loaded = InterpolantFlowDensity.load(tmp_path / "model")
    drawn = loaded.sample(5, random_state=0)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    np.testing.assert_array_equal(drawn, density.sample(5, random_state=0))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda X: X / 4, {}, "whole numbers from 0 to 4 .* undo a division by the largest level"),
        (lambda X: X - 1, {}, "from 0 to 4 .* the first -1 in row"),
        (lambda X: X, {"n_levels": 3}, "from 0 to 2 .n_levels=3., but .* set n_levels"),
        (lambda X: X, {"n_levels": 4.5}, "n_levels must be an integer of at least 2, got 4.5"),
        (lambda X: X, {"n_draws": 1}, "n_draws must be an integer of at least 2, got 1"),
        (lambda X: X, {"n_probes": 0}, "n_probes must be an integer of at least 1, got 0"),
    ],
)
def test_images_outside_their_levels_are_refused(images, change, options, message):
    with pytest.raises(ValueError, match=message):
        bits_per_dimension(Independent(0.0), change(images), **{"n_levels": N_LEVELS, **options})


def test_images_of_another_shape_and_estimators_without_a_fit_are_refused(images, density):
    with pytest.raises(ValueError, match="6 features, but InterpolantFlowDensity is expecting 12"):
        bits_per_dimension(density, images[:, :6], n_levels=N_LEVELS)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        bits_per_dimension(InterpolantFlowDensity(), images, n_levels=N_LEVELS)


def test_statistics_of_wide_images_take_few_of_them(images, monkeypatch):
    monkeypatch.setattr("skinterflow._fit.run._STATISTICS_NUMBERS", 12 * 70)
    sizes = []
    InterpolantFlowDensity(
        field=lambda t, x: sizes.append(len(x)) or 0.0 * x,
        integer_features=list(range(12)),
        solver=Solver(atol=10.0),
        **TINY,
    ).fit(images)
    assert max(sizes) == 96  # three batches
