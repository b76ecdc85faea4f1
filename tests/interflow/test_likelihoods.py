"""Likelihoods of diffusions in both directions, and lemma 2.4, against closed forms."""

import math

import pytest
import torch

from skinterflow.interflow.flows import Diffusion, Flow, PathEstimate, Pushforward
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.likelihoods import cross_entropy, likelihood_errors
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.quantities import LearnedQuantities, Quantities
from skinterflow.interflow.scaling import Identity
from skinterflow.interflow.sde import StochasticSolver
from tests.helpers import points

STEPS = StochasticSolver(n_steps=30)
COARSE = Solver("midpoint", atol=0.1, n_steps=2)
"""Enough for these flows, whose trajectories are straight."""
ERROR = 0.5


def mixture(*means):
    k = len(means)
    means = torch.tensor(means, dtype=torch.float64)[:, None]
    return NormalMixture(
        torch.full((k,), 1 / k, dtype=torch.float64),
        means,
        torch.full((k, 1, 1), 0.5, dtype=torch.float64),
    )


class Shifted(MixtureField):
    """Standard normals at both ends of the trigonometric path, with a drift that is wrong by a
    constant: at time t the flow has the law N(ERROR t, 1)."""

    def __init__(self):
        super().__init__(NormalMixture.standard(1))

    def drift_and_score(self, t, x):
        drift, score = super().drift_and_score(t, x)
        return drift + ERROR, score

    def value_and_divergence(self, t, x):
        value, divergence = super().value_and_divergence(t, x)
        return value + ERROR, divergence


def generator():
    return torch.Generator().manual_seed(0)


def normal(x, mean):
    return torch.distributions.Normal(mean, 1.0).log_prob(x)[:, 0]


@pytest.mark.parametrize("t", [0.0, 0.6])
def test_backward_diffusion_of_exact_quantities_has_the_density_of_the_path(t):
    """Between two mixtures with a noise term, from the density of the target (2.60)."""
    path = StochasticInterpolant(Linear(), Brownian())
    field, x = MixtureField(mixture(-1.5, 1.0), path, mixture(0.0, 2.0)), 0.5 * points(6, 1)
    estimate = Diffusion(field, lambda t: 0.2).path_estimate(
        x, t, 1.0, field.target.log_prob, 400, STEPS, generator()
    )
    exact = field.log_prob(torch.tensor(t, dtype=torch.float64), x)
    assert (estimate.standard_error < 0.1).all()
    assert ((estimate.value - exact).abs() < 4 * estimate.standard_error + 5e-3).all()
    assert (estimate.lower_bound < estimate.value).all()


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_each_direction_has_the_density_of_its_own_diffusion(start):
    """With a wrong drift, both are Ornstein-Uhlenbeck processes from N(0, 1), which shift to
    plus or minus ERROR (1 - exp(-epsilon)) / epsilon; the flow shifts by ERROR."""
    epsilon, x = 0.5, points(5, 1)
    estimate = Diffusion(Shifted(), lambda t: epsilon).path_estimate(
        x, 1.0 - start, start, lambda x: normal(x, 0.0), 400, STEPS, generator()
    )
    shift = ERROR * (1 - math.exp(-epsilon)) / epsilon
    exact = normal(x, shift if start == 0 else -shift)
    assert ((estimate.value - exact).abs() < 4 * estimate.standard_error + 5e-3).all()
    assert (exact - normal(x, ERROR if start == 0 else -ERROR)).abs().max() > 0.1


def test_forward_estimate_is_that_of_log_prob():
    diffusion, x = Diffusion(Shifted(), lambda t: 0.5), points(4, 1)
    old = diffusion.log_prob(x, 1.0, Identity(), 8, STEPS, generator())
    new = diffusion.path_estimate(x, 1.0, 0.0, lambda x: normal(x, 0.0), 8, STEPS, generator())
    torch.testing.assert_close(old.value, new.value)


def test_zero_density_at_the_start():
    """All paths of a row end where the density is zero: minus infinity, without an error."""
    estimate = Diffusion(Shifted(), lambda t: 0.1).path_estimate(
        points(3, 1), 0.0, 1.0, lambda x: torch.full_like(x[:, 0], -math.inf), 4, STEPS, generator()
    )
    assert (estimate.value == -math.inf).all()
    assert (estimate.standard_error == 0.0).all()


def test_cross_entropy_of_estimates():
    estimate = PathEstimate(
        torch.tensor([-1.0, -3.0]), torch.tensor([0.1, 0.1]), torch.tensor([-1.5, -3.1])
    )
    found = cross_entropy(estimate)
    assert found.value == 2.0
    assert found.standard_error == pytest.approx(1.0)
    assert found.upper_bound == pytest.approx(2.3)


@pytest.mark.parametrize("reference", [True, False])
def test_lemma_for_a_shifted_flow(reference):
    """The divergence of N(0, 1) with respect to N(ERROR, 1) is ERROR^2 / 2, whether the true drift
    is known or only the rates of the paths are."""
    learned, exact = Shifted(), MixtureField(NormalMixture.standard(1))
    errors = likelihood_errors(
        learned,
        Pushforward(Flow(learned, COARSE)),
        *torch.randn(2, 8_000, 1, generator=generator(), dtype=torch.float64),
        reference=exact if reference else None,
    )
    tolerance = 1e-2 if reference else 4 * errors.standard_error
    assert errors.divergence == pytest.approx(ERROR**2 / 2, abs=tolerance)
    assert errors.fisher == pytest.approx(ERROR**2 / 3, rel=0.01)
    if reference:
        assert errors.drift == pytest.approx(ERROR**2)
        assert errors.score == pytest.approx(0.0, abs=1e-12)
        assert errors.bound == pytest.approx(ERROR**2 / math.sqrt(3), rel=0.01)
    else:
        assert 0.001 < errors.standard_error < 0.02
        assert errors.drift == pytest.approx(ERROR**2 + math.pi**2 / 4, rel=0.05)
        assert errors.score == 0.0
    assert errors.divergence < errors.bound


def test_a_score_that_follows_from_the_drift_gives_a_lower_bound():
    """The score has g = 2 / pi tan(pi t / 2) times the error of the drift, and the divergence is
    too small by ``g ERROR^2``."""
    field, end_time = Shifted(), 0.9
    errors = likelihood_errors(
        LearnedQuantities(field, field.path, Identity()),
        Pushforward(Flow(field, COARSE)),
        *torch.randn(2, 8_000, 1, generator=generator(), dtype=torch.float64),
        end_time=end_time,
    )
    t = (torch.arange(8) + 0.5) / 8 * end_time
    gain = 2 / math.pi * torch.tan(math.pi * t / 2)
    expected = end_time * float((t - gain).mean()) * ERROR**2
    assert errors.divergence == pytest.approx(expected, abs=4 * errors.standard_error)
    assert errors.divergence < 0.0 < ERROR**2 * end_time**2 / 2


def test_lemma_until_an_earlier_time():
    errors = likelihood_errors(
        Shifted(),
        Pushforward(Flow(Shifted(), COARSE)),
        *torch.randn(2, 320, 1, generator=generator(), dtype=torch.float64),
        reference=MixtureField(NormalMixture.standard(1)),
        end_time=0.5,
    )
    assert errors.divergence == pytest.approx(ERROR**2 / 8, rel=0.05)
    assert errors.drift == pytest.approx(ERROR**2 / 2)


def test_quantities_are_asked_at_one_time_for_all_rows():
    """A field that a user gives needs no times of single rows."""

    class OneTime(Quantities):
        path = StochasticInterpolant(Trigonometric())

        def drift(self, t, x):
            assert t.ndim == 0
            return torch.zeros_like(x)

        def drift_and_score(self, t, x):
            return self.drift(t, x), -x

        def noise_fraction(self, t):
            return 1.0

    exact = Pushforward(Flow(MixtureField(NormalMixture.standard(2)), COARSE))
    errors = likelihood_errors(OneTime(), exact, points(40, 2), points(40, 2, 1))
    assert errors.fisher == pytest.approx(0.0, abs=1e-4)
