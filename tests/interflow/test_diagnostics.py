"""Diagnostics against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from skinterflow._predict.diagnosis import energy_distance_to_normal
from skinterflow.interflow.diagnostics import (
    best_epsilon,
    kl_bound,
    kl_bound_by_velocity,
    lipschitz_constant,
    path_statistics,
    straightness,
)
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from tests.helpers import points
from tests.oracles import gaussian


class RowWise(VelocityField):
    """An oracle that takes one time for all rows, asked row by row."""

    def __init__(self, field):
        super().__init__()
        self.field, self.n_features = field, field.n_features

    def forward(self, t, x):
        return torch.func.vmap(lambda time, row: self.field(time, row[None])[0])(
            t.expand(len(x)), x
        )

    def value_and_divergence(self, t, x):
        raise NotImplementedError


def pairs(n, mean, root):
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, n, len(mean), generator=generator, dtype=torch.float64)
    return x0, mean + x1 @ root.T


def test_statistics_of_the_true_velocity():
    """N(0, I) to N(m, 4 I) along straight lines: G = -E|v|^2, and the action is an integral in
    closed form."""
    mean, root = (
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        2.0 * torch.eye(2, dtype=torch.float64),
    )
    field = RowWise(gaussian(mean, root @ root.T, Linear()))
    statistics = path_statistics(field, StochasticInterpolant(Linear()), *pairs(20_000, mean, root))
    # v = m + (c'/2c)(x - t m) with c = (1-t)^2 + 4 t^2, so that E|v|^2 = |m|^2 + 2 c'^2 / (4 c)
    t = np.linspace(0, 1, 100_001)
    c, rate = (1 - t) ** 2 + 4 * t**2, 10 * t - 2
    action = 5 + trapezoid(2 * rate**2 / (4 * c), t)
    length = trapezoid(np.sqrt(5 + 2 * rate**2 / (4 * c)), t)
    assert statistics.action == pytest.approx(action, rel=0.02)
    assert statistics.length == pytest.approx(length, rel=0.02)
    assert statistics.loss == pytest.approx(-action, rel=0.03)
    # what is left of the regression loss is the variance of the rate given the point: E|rate|^2 = 5
    # + 2 (1 + 4)
    assert statistics.regression == pytest.approx(15 - action, rel=0.05)


def test_slope_of_a_gaussian_flow():
    """The Jacobian of the velocity is c'/2c times the identity."""
    mean = torch.zeros(2, dtype=torch.float64)
    field = RowWise(gaussian(mean, 4.0 * torch.eye(2, dtype=torch.float64), Linear()))
    slope = lipschitz_constant(
        field,
        StochasticInterpolant(Linear()),
        *pairs(400, mean, 2.0 * torch.eye(2, dtype=torch.float64)),
    )
    t = (np.arange(400) + 0.5) / 400
    assert slope == pytest.approx(
        np.abs((10 * t - 2) / (2 * ((1 - t) ** 2 + 4 * t**2))).max(), rel=1e-6
    )


def test_few_rows():
    field = RowWise(
        gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    )
    assert math.isfinite(
        path_statistics(
            field, StochasticInterpolant(Trigonometric()), points(3, 2), points(3, 2, 1)
        ).length
    )


@pytest.mark.parametrize("d", [1, 3])
def test_energy_distance_to_the_normal(d):
    """Near zero for normal rows; for a point mass at zero it is 2 E|Y| - E|Y - Y'| = (2 - sqrt(2))
    E|Y|."""
    random = np.random.default_rng(0)
    assert 0 < energy_distance_to_normal(random.standard_normal((2000, d))) < 0.01
    assert energy_distance_to_normal(random.standard_normal((500, d)) + 1.0) > 0.1
    mean_norm = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)
    assert energy_distance_to_normal(np.zeros((4, d))) == pytest.approx(
        (2 - math.sqrt(2)) * mean_norm
    )


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 2.0])
def test_bound_holds_for_gaussians(epsilon):
    """A drift and a score that are wrong by constants shift the mean of the diffusion; the KL of
    the end is known, and below the bound."""
    path = StochasticInterpolant(Linear(), Brownian())
    field = MixtureField(
        NormalMixture(torch.ones(1), torch.tensor([[1.0]]), torch.tensor([[[0.25]]])), path
    )
    drift_error, score_error, n = 0.3, 0.2, 2000
    mean = torch.zeros(1, 1)
    for k in range(
        n
    ):  # the mean of the wrong diffusion, by Euler's method: the equations are linear
        drift, score = field.drift_and_score(torch.tensor((k + 0.5) / n), mean)
        mean = mean + (drift + drift_error + epsilon * (score + score_error)) / n
    divergence = float((mean - 1.0).square()) / (2 * 0.25)
    bound = kl_bound(drift_error**2, score_error**2, epsilon)
    assert 0.01 < divergence < bound
    assert bound == pytest.approx(0.09 / (2 * epsilon) + epsilon / 2 * 0.04)


def test_best_noise_makes_the_bound_least():
    best = best_epsilon(0.09, 0.04)
    assert best == pytest.approx(1.5)
    assert all(kl_bound(0.09, 0.04, best) < kl_bound(0.09, 0.04, other) for other in (1.4, 1.6))
    with pytest.raises(ValueError, match=r"epsilon must be positive, got 0\.0"):
        kl_bound(0.09, 0.04, 0.0)


def test_bound_with_a_learned_velocity():
    """For ``gamma^2 = 2 t (1 - t)``, ``gamma gamma' = 1 - 2 t`` is from -1 to 1."""
    expected = 0.09 / (2 * 0.5) + 1.5**2 / (2 * 0.5) * 0.04
    assert kl_bound_by_velocity(0.09, 0.04, Brownian(2.0), 0.5) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"epsilon must be positive, got 0\.0"):
        kl_bound_by_velocity(0.09, 0.04, Brownian(2.0), 0.0)


def test_half_of_the_bound_is_exceeded():
    """Between two standard normals, with the diffusion of a wrong drift and score in closed form:
    why the factor two of (2.45) is kept."""
    drift_error, epsilon, n = 0.2, 1.25, 2000
    path = StochasticInterpolant(Trigonometric())
    field = MixtureField(NormalMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1)), path)
    mean = torch.zeros(1, 1, dtype=torch.float64)
    for k in range(n):
        drift, score = field.drift_and_score(torch.tensor((k + 0.5) / n), mean.float())
        mean = mean + (drift + drift_error + epsilon * (score + drift_error / epsilon)) / n
    shift = 2 * drift_error * (1 - math.exp(-epsilon)) / epsilon
    assert float(mean) == pytest.approx(shift, rel=1e-3)
    bound = kl_bound(drift_error**2, (drift_error / epsilon) ** 2, epsilon)
    assert 0.8 * bound < shift**2 / 2 < 0.82 * bound


def test_straightness_is_the_closed_form():
    """Of ``x0 sqrt((1 - t)^2 + s^2 t^2)``, the flow of lines from N(0, 1) to N(0, s^2)."""
    t, x0 = torch.linspace(0.0, 1.0, 201, dtype=torch.float64), torch.tensor([[1.0], [-2.0]])
    s = 3.0
    positions = ((1.0 - t) ** 2 + s**2 * t**2).sqrt()[:, None, None] * x0
    rate = (s**2 * t - (1.0 - t)) / ((1.0 - t) ** 2 + s**2 * t**2).sqrt()
    expected = (trapezoid(rate**2, t) - (s - 1.0) ** 2) * 2.5
    assert straightness(positions, t.tolist()) == pytest.approx(expected, rel=1e-3)
    lines = (1.0 + t)[:, None, None] * x0
    assert straightness(lines, t.tolist()) < 1e-20
    # Half of the time, at the same speeds: the mean over time is the same.
    assert straightness(0.5 * positions, (0.5 * t).tolist()) == pytest.approx(expected, rel=1e-3)
