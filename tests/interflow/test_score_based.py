"""Score-based diffusion, diffusive interpolants and diffusions from a point, by closed forms."""

import math

import pytest
import torch

from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.diffusive import DiffusiveInterpolant, brownian_bridge
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.flows import Diffusion, Flow, Pushforward
from skinterflow.interflow.interpolants import (
    AffineInterpolant,
    Linear,
    Trigonometric,
    VariancePreserving,
)
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.score_based import (
    ScoreModel,
    diffusion_time,
    flow_time,
    noising_level,
)
from skinterflow.interflow.sde import StochasticSolver
from skinterflow.interflow.times import Beta
from tests.helpers import energy_distance, points
from tests.oracles import gaussian, mixture, normal_mixture, pairs_on_a_grid


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def seeded():
    return torch.Generator().manual_seed(0)


def test_time_change_turns_the_process_into_the_path():
    """Equations 5.4 and 5.5, and that the two times are inverse to each other."""
    tau, x1, z = time([0.0, 0.3, 2.0]), points(3, 2, 1), points(3, 2, 2)
    t = flow_time(tau)
    process = torch.exp(-tau)[:, None] * x1 + (1 - torch.exp(-2 * tau)).sqrt()[:, None] * z
    torch.testing.assert_close(VariancePreserving()(t, z, x1), process)
    torch.testing.assert_close(diffusion_time(t), tau)


@pytest.mark.parametrize("t", [0.02, 0.4, 0.97])
def test_drift_follows_from_the_score_as_in_the_paper(t):
    """Equations 5.6 and 5.10: ``b = t s + E[x1] = (x + s) / t``."""
    field, x = mixture(2, VariancePreserving()), 1.5 * points(6, 2, 1)
    b, s = field.drift_and_score(time(t), x)
    torch.testing.assert_close(b, t * s + field.denoised(time(t), x), rtol=1e-7, atol=1e-7)
    model = ScoreModel(lambda tau, y: field.score(flow_time(tau), y))
    torch.testing.assert_close(model.drift(time(t), x), b, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.score(time(t), x), s)
    torch.testing.assert_close(
        model.denoised(time(t), x), field.denoised(time(t), x), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("interpolant", [VariancePreserving(), Linear(), Trigonometric()], ids=repr)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_backward_drift_at_the_noising_level_does_not_know_the_data(interpolant, t):
    """Equation 5.7 for any one-sided path: ``b - epsilon s`` is a multiple of the point."""
    field, x = mixture(2, interpolant), 1.5 * points(6, 2, 1)
    b, s = field.drift_and_score(time(t), x)
    weights = interpolant.weights(time(t))
    level = noising_level(interpolant)(t)
    torch.testing.assert_close(b - level * s, weights.beta_rate / weights.beta * x)
    if isinstance(interpolant, VariancePreserving):
        assert level == pytest.approx(1 / t)
        torch.testing.assert_close(b + level * s, x / t + 2 * s / t)  # equation 5.8


def test_noising_level_at_the_ends():
    level = noising_level(VariancePreserving())
    assert level(1.0) == pytest.approx(1.0, abs=1e-6)
    assert level(0.0) == math.inf
    with pytest.raises(ValueError, match=r"epsilon must be finite .* but is inf at t=0"):
        Diffusion(mixture(1, VariancePreserving()), level).push(
            torch.zeros(2, 1, dtype=torch.float64), 0.0, 1.0, StochasticSolver(), seeded()
        )


def test_backward_diffusion_has_the_transition_of_the_ornstein_uhlenbeck_process():
    """Equation 5.3: ``N(x1 exp(-tau), 1 - exp(-2 tau))``, from a single point."""
    field = mixture(1, VariancePreserving())
    x1 = torch.full((4_000, 1), 3.0, dtype=torch.float64)
    y = Diffusion(field, noising_level(VariancePreserving())).push(
        x1, 1.0, 0.3, StochasticSolver(n_steps=60), seeded()
    )
    assert float(y.mean()) == pytest.approx(0.3 * 3.0, abs=4 * math.sqrt(0.91 / 4_000))
    assert float(y.var()) == pytest.approx(1 - 0.3**2, rel=4 * math.sqrt(2 / 4_000) + 0.01)


def test_score_based_diffusion_is_biased_and_the_diffusion_of_the_path_is_not():
    """From N(0, 1) at ``t0`` instead of ``t = 0``, equation 5.8 misses the mean `m` of N(m, 1) by
    ``t0^2 m``; equation 5.9 with a finite noise level starts at ``t = 0`` and does not."""
    m, t0, n = 4.0, 0.5, 4_000
    field = gaussian(time([m]), torch.eye(1, dtype=torch.float64), VariancePreserving())
    x0 = torch.randn(n, 1, dtype=torch.float64, generator=seeded())
    solver = StochasticSolver(n_steps=60)
    biased = Diffusion(field, noising_level(VariancePreserving())).push(
        x0, t0, 1.0, solver, seeded()
    )
    unbiased = Diffusion(field, lambda t: 1.0).push(x0, 0.0, 1.0, solver, seeded())
    assert float(biased.mean()) == pytest.approx(m * (1 - t0**2), abs=0.08)
    assert float(unbiased.mean()) == pytest.approx(m, abs=0.08)


def test_score_model_has_the_density_of_the_data():
    field = mixture(1, VariancePreserving())
    model = ScoreModel(lambda tau, x: field.score(flow_time(tau), x), first_time=1e-3)
    flow = Flow(CustomField(model.drift, 1), Solver(atol=1e-4))
    x = torch.linspace(-2, 2, 3, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        Pushforward(flow).log_prob(x), field.target.log_prob(x), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("first_time", [0.0, 1.0, math.nan])
def test_score_model_refuses_a_first_time_outside(first_time):
    with pytest.raises(ValueError, match="first_time must be between 0 and 1"):
        ScoreModel(lambda tau, x: -x, first_time=first_time)


class FlatStart(AffineInterpolant):
    """``x0`` does not move at first, as theorem 3.1 asks."""

    def alpha(self, t):
        return 1.0 - t.square()

    def beta(self, t):
        return t.square()


def from_point(target, process, x0):
    """The exact path from a single point."""
    n = len(x0)
    source = NormalMixture(
        torch.ones(1, dtype=torch.float64), x0[None], torch.zeros(1, n, n, dtype=torch.float64)
    )
    return MixtureField(target, process.path, source)


def forward_drift(field, a):
    """``u = b + a s`` (equation 3.8), at the nearest time at which both are finite."""

    def u(t, x):
        b, s = field.drift_and_score(t.clamp(min=1e-6), x)
        return b + a * s

    return u


def test_brownian_bridge_has_its_covariance():
    """``Cov(B_t, B_u) = t (1 - u)`` for ``t <= u``, and the ends are zero."""
    times = [0.0, 0.2, 0.7, 1.0]
    bridge = brownian_bridge(times, torch.empty(20_000, dtype=torch.float64), seeded())
    assert (bridge[[0, -1]] == 0).all()
    exact = torch.tensor([[min(t, u) * (1 - max(t, u)) for u in times] for t in times])
    torch.testing.assert_close(torch.cov(bridge), exact.double(), rtol=0, atol=0.008)
    with pytest.raises(ValueError, match=r"times must be in \[0, 1\] and in increasing order"):
        brownian_bridge([0.7, 0.2], torch.empty(1), seeded())


def test_diffusive_interpolant_has_the_law_of_its_path_at_a_time():
    """Equations 3.1 and 3.2."""
    process = DiffusiveInterpolant(Linear(), a=0.4)
    x0, x1 = torch.zeros(20_000, 1, dtype=torch.float64), torch.ones(20_000, 1).double()
    start, mid, end = process.trajectory([0.0, 0.3, 1.0], x0, x1, seeded())
    torch.testing.assert_close(start, x0)
    torch.testing.assert_close(end, x1)
    gamma = float(process.path.noise_scale(time(0.3)))
    assert gamma == pytest.approx(math.sqrt(2 * 0.4 * 0.3 * 0.7))
    assert float(mid.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(mid.std()) == pytest.approx(gamma, rel=0.02)
    with pytest.raises(ValueError, match="a must be positive and finite, got 0"):
        DiffusiveInterpolant(Linear(), a=0)


@pytest.mark.parametrize("interpolant", [FlatStart(), Linear()], ids=["flat start", "linear"])
def test_forward_drift_from_a_point_is_finite_at_both_ends(interpolant):
    """Equations 3.12 and 3.13: ``E[dI/dt]`` at the point, ``dI/dt + 2 a grad log rho_1`` at 1."""
    a, x0, target = 0.7, time([0.5, -1.0]), normal_mixture(2)
    field = from_point(target, DiffusiveInterpolant(interpolant, a), x0)
    u = forward_drift(field, a)
    rates = interpolant.weights(time(0.0))
    mean = target.weights @ target.means
    torch.testing.assert_close(
        u(time(0.0), x0[None]),
        (rates.alpha_rate * x0 + rates.beta_rate * mean)[None],
        rtol=0,
        atol=1e-4,
    )
    x, rates = points(5, 2, 1), interpolant.weights(time(1.0))
    score = torch.func.grad(lambda y: target.log_prob(y).sum())(x)
    torch.testing.assert_close(
        u(time(1.0), x), rates.alpha_rate * x0 + rates.beta_rate * x + 2 * a * score
    )


def test_diffusion_from_a_point_has_the_law_of_the_data():
    """Theorem 3.1, and that another noise level than `a` has not."""
    x0, target = time([0.5, -1.0]), normal_mixture(2)
    process = DiffusiveInterpolant(FlatStart(), a=0.7)
    u = forward_drift(from_point(target, process, x0), 0.7)
    data = target.sample(1_500, seeded())
    samples, wrong = (
        DiffusiveInterpolant(FlatStart(), a).sample(
            u, x0, 1_500, StochasticSolver(n_steps=100), seeded()
        )
        for a in (0.7, 0.5)
    )
    noise = 4 / 1_500
    assert energy_distance(samples, data) < noise < energy_distance(wrong, data)


class Scaled(VelocityField):
    """``c`` times an exact forward drift, which a minimiser has with ``c = 1``."""

    n_features = 1

    def __init__(self, u, c):
        super().__init__()
        self.u, self.c = u, c

    def forward(self, t, x):
        return self.c * self.u(t.flatten()[0], x.reshape(-1, 1)).reshape(x.shape)

    def value_and_divergence(self, t, x):
        raise NotImplementedError


@pytest.mark.parametrize("t", [0.01, 0.5, 0.98])
def test_objective_from_a_point_is_minimised_by_the_forward_drift(t):
    """Equation 3.14: of a scale `c` of the drift it is ``(c^2 - 2 c) E|u|^2``, and not for the
    forward drift at another noise level."""
    x0, a = time([0.5]), 0.7
    target, process = normal_mixture(1), DiffusiveInterpolant(FlatStart(), a)
    z, x1, weights = pairs_on_a_grid(target)
    field = from_point(target, process, x0)
    start = x0.expand_as(x1)

    def loss(level, c):
        scaled = Scaled(forward_drift(field, level), c)
        return float(weights @ process.objective(scaled, Beta())(start, x1, time([t]), z))

    square = float(
        weights @ forward_drift(field, a)(time(t), process.path(time(t), start, x1, z)).square()
    )
    assert loss(a, 1.0) == pytest.approx(-square, rel=1e-6)
    assert loss(a, 2.0) == pytest.approx(0.0, abs=1e-6 * square)
    assert abs(loss(1.2 * a, 2.0)) > 1e-3 * square
