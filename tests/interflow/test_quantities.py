"""Scores that follow from a drift: how errors of the drift enter, and what does not follow."""

import math

import pytest
import torch

from skinterflow.interflow import (
    Brownian,
    Compose,
    Diffusion,
    EncodingDecoding,
    LearnedQuantities,
    Linear,
    Mirror,
    MixtureField,
    NormalMixture,
    OptimalTransport,
    Quadratic,
    Sigmoid,
    SineSquared,
    Standardize,
    StochasticInterpolant,
    StochasticSolver,
    Trigonometric,
    VariancePreserving,
)

PATHS = {
    "trigonometric": (Trigonometric(), None),
    "linear": (Linear(), None),
    "variance preserving": (VariancePreserving(), None),
    "trigonometric, brownian": (Trigonometric(), Brownian()),
    "linear, sine": (Linear(), SineSquared()),
    "trigonometric, sigmoid": (Trigonometric(), Sigmoid()),
    "encoding-decoding, sine": (EncodingDecoding(), SineSquared()),
    "encoding-decoding, quadratic": (EncodingDecoding(), Quadratic()),
    "encoding-decoding, brownian": (EncodingDecoding(), Brownian()),
}
over_paths = pytest.mark.parametrize(("interpolant", "gamma"), PATHS.values(), ids=PATHS)


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def two_modes():
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    return NormalMixture(
        torch.full((2,), 0.5, dtype=torch.float64),
        means,
        torch.full((2, 1, 1), 0.1, dtype=torch.float64),
    )


class Inexact(MixtureField):
    """The drift with a smooth error, as a trained network has it."""

    def value_and_divergence(self, t, x):
        value, divergence = super().value_and_divergence(t, x)
        return value + 0.1 * torch.sin(3.0 * x + 5.0 * t), divergence


@over_paths
def test_noise_keeps_the_law_though_the_drift_has_errors(interpolant, gamma):
    """Encoding and decoding with the square of a sine gave a deviation of 2.3 for 1.05."""
    path = StochasticInterpolant(interpolant, gamma)
    quantities = LearnedQuantities(Inexact(two_modes(), path), path, Compose([]))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3_000, 1, generator=generator, dtype=torch.float64)
    samples = Diffusion(quantities, lambda t: 2.0).push(
        z, 0.0, 1.0, StochasticSolver(n_steps=300), generator
    )
    assert float(samples.std()) == pytest.approx(math.sqrt(1.1), abs=0.04)
    assert float((samples > 0).double().mean()) == pytest.approx(0.5, abs=0.04)


@over_paths
def test_error_of_a_score_is_at_most_the_gain_times_that_of_the_drift(interpolant, gamma):
    path, x = (
        StochasticInterpolant(interpolant, gamma),
        torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None],
    )
    exact, inexact = (
        LearnedQuantities(kind(two_modes(), path), path, Compose([]))
        for kind in (MixtureField, Inexact)
    )
    for t in (0.1, 0.45, 0.6, 0.9, 0.98):
        error = (exact.score(time(t), x) - inexact.score(time(t), x)).abs().max()
        trust = exact.trust(t)
        assert trust * float(error) <= 5.0 * 0.1 * (1 + 1e-6)  # what noise of level one makes of it


def test_score_that_is_mostly_error_is_refused():
    path = StochasticInterpolant(EncodingDecoding(), SineSquared())
    quantities = LearnedQuantities(Inexact(two_modes(), path), path, Compose([]))
    quantities.check_gain(0.9)
    with pytest.raises(
        ValueError,
        match=r"At t=0\.99 the score that follows from the drift .* multiplied by "
        r"5\.1[0-9]e\+03.*method='flow'",
    ):
        quantities.check_gain(0.99)
    with pytest.raises(ValueError, match=r"At t=1 .* multiplied"):
        quantities.check_gain(1.0)


def test_gain_counts_the_deviations_of_the_base():
    """A base that is ten times as narrow in one column has a hundredth of the noise there."""
    path = StochasticInterpolant(Linear())
    field = MixtureField(NormalMixture.standard(2), path)
    wide, narrow = (
        LearnedQuantities(field, path, Standardize(torch.zeros(2), torch.tensor([1.0, scale])))
        for scale in (1.0, 10.0)
    )
    assert narrow.trust(0.9) == pytest.approx(wide.trust(0.9) / 100.0, rel=1e-4)


def test_coupled_ends_do_not_tell_the_score():
    path = StochasticInterpolant(Linear())
    field = MixtureField(two_modes(), path)
    coupled = LearnedQuantities(field, path, Compose([]), OptimalTransport())
    x = torch.ones(3, 1, dtype=torch.float64)
    for use in (coupled.check_score, lambda: coupled.score(time(0.5), x)):
        with pytest.raises(
            ValueError, match="does not follow from the drift under OptimalTransport"
        ):
            use()
    # What is linear in the ends holds for any pairs of them.
    independent = LearnedQuantities(field, path, Compose([]))
    for quantity in ("velocity", "denoiser", "denoised"):
        torch.testing.assert_close(
            getattr(coupled, quantity)(time(0.5), x), getattr(independent, quantity)(time(0.5), x)
        )


@pytest.mark.parametrize("t", [0.5, 0.75, 0.9, 1.0])
def test_denoised_row_of_decoding(t):
    """From N(0, 4) the expectation is ``beta 4 x / (4 beta^2 + gamma^2)``; it was NaN at every
    time."""
    path = StochasticInterpolant(EncodingDecoding(), SineSquared())
    target = NormalMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 1, dtype=torch.float64),
        time(4.0).reshape(1, 1, 1),
    )
    field, x = MixtureField(target, path), torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    if t == 0.5:
        with pytest.raises(
            ValueError,
            match=r"At t=0\.5 nothing of the data is on the path of EncodingDecoding\(\); "
            r"take a later time",
        ):
            field.denoised(time(t), x)
        return
    beta, gamma = math.cos(math.pi * t) ** 2, math.sin(math.pi * t) ** 2
    torch.testing.assert_close(
        field.denoised(time(t), x), 4.0 * beta * x / (4.0 * beta**2 + gamma**2)
    )


@pytest.mark.parametrize(
    ("t", "start", "end"), [(0.25, 2.0, math.nan), (0.5, math.nan, math.nan), (0.75, math.nan, 2.0)]
)
def test_absent_end_is_not_a_number(t, start, end):
    ends = EncodingDecoding().expected_ends(
        time(t), torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    )
    torch.testing.assert_close(
        torch.cat(ends).flatten(), torch.tensor([start, end], dtype=torch.float64), equal_nan=True
    )


def test_mirror_has_one_row_at_both_ends():
    x = torch.ones(2, 1)
    assert all(torch.equal(end, x) for end in Mirror().expected_ends(torch.tensor(0.5), x, 0.0 * x))
