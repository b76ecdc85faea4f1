"""Laws of the flow and its density, on fields with closed forms and on networks."""

import warnings

import pytest
import torch

from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.flows import (
    AccuracyWarning,
    Diffusion,
    Flow,
    Pushforward,
    base_log_prob,
    standard_normal_log_prob,
)
from skinterflow.interflow.interpolants import Linear, Trigonometric, VariancePreserving
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Compose
from skinterflow.interflow.sde import StochasticSolver
from tests.helpers import (
    draws_of_mixture,
    energy_distance,
    learned_gaussian,
    perturbed,
    points,
    true_score,
)
from tests.oracles import gaussian, mixture

TIGHT = Solver(atol=1e-7, rtol=0.0)
INTERPOLANTS = [Trigonometric(), Linear()]


def network(d=2, size=0.2):
    with torch.random.fork_rng():
        return perturbed(ResidualMLP(d, (6, 6, 6)), size=size)


FIELDS = {
    "mixture": lambda: mixture(2),
    "mixture, linear path": lambda: mixture(2, Linear()),
    "network": network,
}
over_registry = pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS)


@over_registry
@pytest.mark.parametrize("end_time", [1.0, 0.6])
def test_pull_undoes_push(make, end_time):
    flow = Flow(make(), TIGHT, end_time)
    torch.testing.assert_close(
        flow.pull(flow.push(points(5, 2))), points(5, 2), rtol=1e-6, atol=1e-6
    )


@over_registry
def test_log_det_equals_autodiff(make):
    flow, x = Flow(make(), Solver(atol=1e-6, rtol=0.0)), points(3, 2)
    pulled, log_det = flow.pull_and_logdet(x)
    h = 1e-5
    steps = h * torch.eye(2, dtype=torch.float64)
    columns = [(flow.pull(x + step) - flow.pull(x - step)) / (2 * h) for step in steps]
    torch.testing.assert_close(pulled, flow.pull(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        log_det, torch.linalg.slogdet(torch.stack(columns, dim=-1)).logabsdet, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_density_of_a_gaussian_is_exact(interpolant, d):
    root = torch.eye(d, dtype=torch.float64) + 0.3 * torch.ones(d, d, dtype=torch.float64)
    mean = torch.arange(1.0, d + 1, dtype=torch.float64)
    density = Pushforward(Flow(gaussian(mean, root @ root.mT, interpolant), TIGHT))
    x = points(6, d)
    expected = torch.distributions.MultivariateNormal(mean, root @ root.mT).log_prob(x)
    torch.testing.assert_close(density.log_prob(x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_density_of_a_mixture_is_exact_at_every_time(interpolant, t):
    field = mixture(2, interpolant)
    torch.testing.assert_close(
        Pushforward(Flow(field, TIGHT)).log_prob(points(6, 2), t),
        field.log_prob(torch.tensor(t, dtype=torch.float64), points(6, 2)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_rows_with_their_own_times_in_one_solve():
    density, x, t = (
        Pushforward(Flow(network(), TIGHT)),
        points(4, 2),
        torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64),
    )
    together = density.log_prob_at(x, t)
    apart = torch.stack(
        [density.log_prob(row[None], float(time))[0] for time, row in zip(t, x, strict=True)]
    )
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


def test_affine_flow_of_a_gaussian():
    """From N(0, 1) to N(m, s^2) the map is x -> m + s x."""
    flow = Flow(
        gaussian(
            torch.tensor([2.0], dtype=torch.float64), torch.tensor([[9.0]], dtype=torch.float64)
        ),
        TIGHT,
    )
    torch.testing.assert_close(
        flow.push(points(5, 1)), 2.0 + 3.0 * points(5, 1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("d", [1, 2])
def test_density_of_a_network_integrates_to_one(d):
    axis = torch.linspace(-8, 8, 65 if d == 2 else 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    density = Pushforward(Flow(network(d), Solver(atol=1e-4)))
    total = density.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** d
    assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_trajectory_passes_through_push_and_back():
    flow, x = Flow(mixture(2), TIGHT), points(3, 2)
    forward = flow.trajectory(x, [0.0, 0.5, 1.0])
    assert forward.shape == (3, 3, 2)
    torch.testing.assert_close(forward[-1], flow.push(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        flow.trajectory(forward[-1], [1.0, 0.25, 0.0])[-1], x, rtol=1e-6, atol=1e-6
    )


def test_samples_have_the_moments_of_the_mixture():
    field = mixture(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = Pushforward(Flow(field, Solver(atol=1e-4))).sample(4000)
    weights, means, covariances = field.target.weights, field.target.means, field.target.covariances
    mean = weights @ means
    second = (weights[:, None, None] * (covariances + means[:, :, None] * means[:, None, :])).sum(0)
    covariance = second - mean[:, None] * mean
    standard_error = (covariance.diagonal() / 4000).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * standard_error).all()
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.15, atol=0.1)


def test_rows_left_above_the_tolerance_are_counted_in_one_warning():
    flow = Flow(mixture(2), Solver(atol=1e-14, rtol=0.0, max_refinements=1))
    with pytest.warns(
        AccuracyWarning, match=r"^[45] of 5 rows were left .* after 24 steps"
    ) as caught:
        Pushforward(flow).log_prob(points(5, 2))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pushforward(flow).measured_log_prob(points(5, 2))


def test_error_estimate_covers_the_true_error():
    field, x = mixture(2), points(200, 2)
    measured = Pushforward(Flow(field, Solver(atol=1e-2))).measured_log_prob(x)
    true_error = (measured.value - field.target.log_prob(x)).abs()
    assert (true_error <= measured.error).double().mean() >= 0.95


def test_standard_normal():
    torch.testing.assert_close(
        standard_normal_log_prob(points(4, 3)),
        torch.distributions.Normal(0, 1).log_prob(points(4, 3)).sum(-1),
    )


def noise_free(t):
    return 0.0


def diffusion(field, level, interpolant=Trigonometric(), base=Compose([])):
    """The diffusion of a field as it is learned, whose score follows from it."""
    return Diffusion(LearnedQuantities(field, StochasticInterpolant(interpolant), base), level)


@pytest.mark.parametrize("interpolant", [*INTERPOLANTS, VariancePreserving()], ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_score_follows_from_the_velocity(interpolant, t):
    """Plus sign: the formula printed in paper 1 has the other."""
    field, time = mixture(2, interpolant), torch.tensor(t, dtype=torch.float64)
    score = diffusion(field, noise_free, interpolant).quantities.score(time, points(6, 2))
    torch.testing.assert_close(score, true_score(field, t, points(6, 2)), rtol=1e-4, atol=1e-6)
    if interpolant == Trigonometric():
        v = field(time, points(6, 2))
        torch.testing.assert_close(
            score,
            -points(6, 2) + 2 / torch.pi * torch.tan(torch.pi * time / 2) * v,
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.5, 0.99, 1.0])
def test_score_carried_along_the_flow(interpolant, t):
    field = mixture(2, interpolant)
    measured = Pushforward(Flow(field, TIGHT)).score(points(6, 2), t)
    torch.testing.assert_close(
        measured.value, true_score(field, t, points(6, 2)), rtol=1e-4, atol=1e-5
    )
    assert (
        (measured.value - true_score(field, t, points(6, 2))).norm(dim=1) <= measured.error + 1e-9
    ).all()


def test_score_of_a_network_is_the_gradient_of_its_log_density():
    density, x, h = (
        Pushforward(Flow(network(), Solver(atol=1e-6)), learned_gaussian()),
        points(3, 2),
        1e-3,
    )
    steps = h * torch.eye(2, dtype=torch.float64)
    differences = [
        (density.log_prob(x + step) - density.log_prob(x - step)) / (2 * h) for step in steps
    ]
    torch.testing.assert_close(
        density.score(x).value, torch.stack(differences, dim=1), rtol=1e-3, atol=1e-3
    )


def test_learned_base_is_the_gaussian_that_it_says():
    base, x = learned_gaussian(), points(5, 2)
    root = base(torch.eye(2, dtype=torch.float64)) - base.mean
    expected = torch.distributions.MultivariateNormal(base.mean, root.T @ root).log_prob(x)
    torch.testing.assert_close(base_log_prob(base, x), expected)
    still = Pushforward(Flow(network(size=0.0), TIGHT), base)
    torch.testing.assert_close(still.log_prob(x), expected)
    torch.testing.assert_close(
        still.log_prob_at(x, torch.full((5,), 0.7, dtype=torch.float64)), expected
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sample = still.sample(4000)
    torch.testing.assert_close(torch.cov(sample.T), root.T @ root, rtol=0.1, atol=0.1)


def test_score_of_a_gaussian_base_follows_from_the_velocity():
    """At the base, whatever the velocity."""
    base, x = learned_gaussian(), points(4, 2)
    root = base(torch.eye(2, dtype=torch.float64)) - base.mean
    score = diffusion(network(size=0.0), noise_free, base=base).quantities.score(
        torch.tensor(0.0, dtype=torch.float64), x
    )
    torch.testing.assert_close(score, -(x - base.mean) @ torch.linalg.inv(root.T @ root))


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 8.0])
def test_diffusion_has_the_law_of_the_flow(epsilon):
    """Two moments within four standard errors, and an energy distance like that of two fresh
    samples; for any noise."""
    field, n = mixture(2), 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x0, fresh, other = (
            torch.randn(n, 2, dtype=torch.float64),
            draws_of_mixture(field, n),
            draws_of_mixture(field, n),
        )
    solver = StochasticSolver(n_steps=int(150 * max(1.0, epsilon)))
    x = diffusion(field, lambda t: epsilon).push(
        x0, 0.0, 1.0, solver, torch.Generator().manual_seed(1)
    )
    for power in (1, 2):
        difference = (x**power).mean(0) - (fresh**power).mean(0)
        standard_error = ((x**power).var(0) / n + (fresh**power).var(0) / n).sqrt()
        assert (difference.abs() < 4 * standard_error).all()
    some = slice(2_000)
    assert energy_distance(x[some], fresh[some]) < (
        energy_distance(fresh[some], other[some]).abs() + 0.005
    )
    if epsilon > 0:
        moved = (x - Flow(field, Solver(atol=1e-3)).push(x0)).norm(dim=1)
        assert moved.median() > 0.5  # the noise did act


def test_diffusion_without_noise_is_the_flow():
    field, x0 = mixture(2), points(5, 2)
    pushed = diffusion(field, noise_free).push(
        x0, 0.0, 0.8, StochasticSolver(n_steps=400), torch.Generator()
    )
    torch.testing.assert_close(pushed, Flow(field, TIGHT, 0.8).push(x0), rtol=1e-4, atol=1e-4)


def test_errors_of_the_field_do_not_grow_with_the_noise():
    """A velocity that is a little wrong: its score is wrong by that over alpha, and noise up to the
    end would collapse the samples."""

    class Wrong(VelocityField):
        n_features = 2

        def __init__(self, field):
            super().__init__()
            self.field = field

        def forward(self, t, x):
            return self.field(t, x) - 0.05 * x

        def value_and_divergence(self, t, x):
            raise NotImplementedError

    field = mixture(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x0, fresh = torch.randn(1000, 2, dtype=torch.float64), draws_of_mixture(field, 1000)
    pushed = diffusion(Wrong(field), lambda t: 2.0).push(
        x0, 0.0, 1.0, StochasticSolver(n_steps=300), torch.Generator().manual_seed(1)
    )
    assert energy_distance(pushed, fresh) < 0.02
