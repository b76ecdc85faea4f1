"""What tells a Schroedinger bridge from other diffusions between the same ends."""

import math
import warnings

import pytest
import torch

from skinterflow.interflow import (
    Brownian,
    GaussianBridge,
    Linear,
    MixtureField,
    NormalMixture,
    StochasticInterpolant,
    bridge_defect,
    bridge_pairs,
    bridges,
)


def normal(mean, variances):
    one = torch.ones(1, dtype=torch.float64)
    return NormalMixture(
        one,
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor(variances, dtype=torch.float64).diag()[None],
    )


def defect(source, target, width, epsilon):
    field = MixtureField(target, StochasticInterpolant(Linear(), Brownian(width)), source)

    def forward(t, x):
        drift, score = field.drift_and_score(t, x)
        return drift + epsilon * score

    x0 = source.sample(3_000, torch.Generator().manual_seed(0))
    return bridge_defect(forward, x0, epsilon, torch.Generator().manual_seed(1))


ROUND = normal([-1.0, -1.0], [1.0, 1.0]), normal([1.0, 1.0], [0.25, 0.25])


@pytest.mark.parametrize("epsilon", [0.02, 0.5, 1.5])
def test_bridge_between_round_gaussians(epsilon):
    width = 2.0 * math.hypot(0.5, epsilon)  # closed form
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert defect(*ROUND, width, epsilon) < 0.1


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_other_noise_between_the_same_ends_is_no_bridge(epsilon, factor):
    with pytest.warns(
        UserWarning,
        match=(
            r"changes systematically along its own paths, by .* this is not a bridge. "
            r"Use a family of paths"
        ),
    ):
        assert defect(*ROUND, factor * 2.0 * math.hypot(0.5, epsilon), epsilon) > 0.3


@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_straight_lines_do_not_hold_the_bridge_between_gaussians_of_different_shape(epsilon):
    """Whatever the noise, which has one scale for both columns."""
    for width in (0.3, 1.0):
        with pytest.warns(UserWarning, match="this is not a bridge"):
            assert (
                defect(
                    normal([0.0, 0.0], [1.0, 0.04]), normal([0.0, 0.0], [0.04, 1.0]), width, epsilon
                )
                > 0.2
            )


SHAPES = (
    torch.tensor([[1.0, 0.5], [0.5, 0.5]], dtype=torch.float64),
    torch.tensor([[0.3, -0.2], [-0.2, 1.0]], dtype=torch.float64),
)
"""Covariances that do not commute."""


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.sqrt() @ vectors.T


def gaussian_coupling(epsilon):
    """Covariance of the ends of the bridge between the two shapes (Janati et al., "Entropic
    optimal transport between unbalanced Gaussian measures has a closed form", 2020)."""
    half = root(SHAPES[0])
    inner = root(4.0 * half @ SHAPES[1] @ half + (2.0 * epsilon) ** 2 * torch.eye(2))
    return 0.5 * (half @ inner @ torch.linalg.inv(half) - 2.0 * epsilon * torch.eye(2))


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_pairs_of_gaussians_of_different_shape(epsilon):
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (
        (torch.randn(2_000, 2, generator=generator, dtype=torch.float64) @ root(shape)).float()
        for shape in SHAPES
    )
    x0, x1 = x0 - x0.mean(0), x1 - x1.mean(0)
    partners = x1[bridge_pairs(x0, x1, epsilon, generator, n_draws=4)]
    joint = torch.cat([x0.repeat_interleave(4, 0), partners.flatten(0, 1)], dim=1).double().T.cov()
    expected = gaussian_coupling(epsilon)
    torch.testing.assert_close(joint[:2, 2:], expected, atol=0.04, rtol=0.0)
    torch.testing.assert_close(joint[2:, 2:], SHAPES[1], atol=0.06, rtol=0.0)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_bridge_of_gaussians_in_closed_form(epsilon):
    """Its drift has the covariances of the bridge, and is a gradient (theorem 3.10)."""
    mean0, mean1 = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    bridge = GaussianBridge(mean0, SHAPES[0], mean1, SHAPES[1], epsilon)
    torch.testing.assert_close(bridge.cross_covariance, gaussian_coupling(epsilon))
    identity, h = torch.eye(2, dtype=torch.float64), 1e-5
    for time in (0.0, 0.3, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        mean, covariance = bridge.mean(t), bridge.covariance(t)
        slope = (bridge.drift(t, mean + identity) - bridge.drift(t, mean[None])).T
        torch.testing.assert_close(slope, slope.T)
        torch.testing.assert_close(bridge.drift(t, mean[None])[0], mean1 - mean0)
        rate = (bridge.covariance(t + h) - bridge.covariance(t - h)) / (2.0 * h)
        expected = slope @ covariance + covariance @ slope.T + 2.0 * epsilon * identity
        torch.testing.assert_close(rate, expected, atol=1e-8, rtol=1e-6)
        x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        normal = torch.distributions.MultivariateNormal(mean, covariance)
        score = torch.autograd.grad(normal.log_prob(x.requires_grad_()).sum(), x)[0]
        torch.testing.assert_close(bridge.score(t, x.detach()), score)
    torch.testing.assert_close(bridge.covariance(t), SHAPES[1])


def test_potentials_of_all_rows(monkeypatch):
    """The sampling error of few rows would remain in the pairs of many."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (
        (torch.randn(3_000, 2, generator=generator, dtype=torch.float64) @ root(shape)).float()
        for shape in SHAPES
    )

    def error():
        partners = x1[bridge_pairs(x0, x1, 0.1, torch.Generator().manual_seed(1), 8)]
        joint = torch.cat([x0.repeat_interleave(8, 0), partners.flatten(0, 1)], 1).double().T.cov()
        own = [x.double().T.cov() for x in (x0, x1)]
        zero = torch.zeros(2, dtype=torch.float64)
        expected = GaussianBridge(zero, own[0], zero, own[1], 0.1).cross_covariance
        return float((joint[:2, 2:] - expected).abs().max())

    with_all = error()
    assert with_all < 0.01
    monkeypatch.setattr(bridges, "_POLISHING", ((512, 8),))
    assert error() > 2.0 * with_all
