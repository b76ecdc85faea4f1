"""Laws of the flow and its density, on fields with closed forms and on networks."""

import warnings

import pytest
import torch

from skinterflow.interflow.fields import ResidualMLP
from skinterflow.interflow.flows import AccuracyWarning, Flow, Pushforward, standard_normal_log_prob
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.ode import Solver

from .oracles import gaussian, mixture
from .test_fields import perturbed, points

TIGHT = Solver(atol=1e-7, rtol=0.0)
INTERPOLANTS = [Trigonometric(), Linear()]


def network(d=2):
    with torch.random.fork_rng():
        return perturbed(ResidualMLP(d, (6, 6, 6)), size=0.2)


FIELDS = {"mixture": lambda: mixture(2), "mixture, linear path": lambda: mixture(2, Linear()), "network": network}
over_registry = pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS)


@over_registry
@pytest.mark.parametrize("end_time", [1.0, 0.6])
def test_pull_undoes_push(make, end_time):
    flow = Flow(make(), TIGHT, end_time)
    torch.testing.assert_close(flow.pull(flow.push(points(5, 2))), points(5, 2), rtol=1e-6, atol=1e-6)


@over_registry
def test_log_det_equals_autodiff(make):
    flow, x = Flow(make(), Solver(atol=1e-6)), points(3, 2)
    pulled, log_det = flow.pull_and_logdet(x)
    h = 1e-5
    steps = h * torch.eye(2, dtype=torch.float64)
    columns = [(flow.pull(x + step) - flow.pull(x - step)) / (2 * h) for step in steps]
    torch.testing.assert_close(pulled, flow.pull(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(torch.stack(columns, dim=-1)).logabsdet, rtol=1e-4, atol=1e-4)


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
        Pushforward(Flow(field, TIGHT)).log_prob(points(6, 2), t), field.log_prob(t, points(6, 2)), rtol=1e-6, atol=1e-6
    )


def test_rows_with_their_own_times_in_one_solve():
    density, x, t = Pushforward(Flow(network(), TIGHT)), points(4, 2), torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    together = density.log_prob_at(x, t)
    apart = torch.stack([density.log_prob(row[None], float(time))[0] for time, row in zip(t, x, strict=True)])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


def test_affine_flow_of_a_gaussian():
    """From N(0, 1) to N(m, s^2) the map is x -> m + s x."""
    flow = Flow(gaussian(torch.tensor([2.0], dtype=torch.float64), torch.tensor([[9.0]], dtype=torch.float64)), TIGHT)
    torch.testing.assert_close(flow.push(points(5, 1)), 2.0 + 3.0 * points(5, 1), rtol=1e-6, atol=1e-6)


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
    torch.testing.assert_close(flow.trajectory(forward[-1], [1.0, 0.25, 0.0])[-1], x, rtol=1e-6, atol=1e-6)


def test_samples_have_the_moments_of_the_mixture():
    field = mixture(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = Pushforward(Flow(field, Solver(atol=1e-4))).sample(4000)
    mean = field.weights @ field.means
    second = (field.weights[:, None, None] * (field.covariances + field.means[:, :, None] * field.means[:, None, :])).sum(0)
    covariance = second - mean[:, None] * mean
    standard_error = (covariance.diagonal() / 4000).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * standard_error).all()
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.15, atol=0.1)


def test_rows_left_above_the_tolerance_are_counted_in_one_warning():
    flow = Flow(mixture(2), Solver(atol=1e-14, rtol=0.0, max_refinements=1))
    with pytest.warns(AccuracyWarning, match=r"^[45] of 5 rows were left .* after 16 steps") as caught:
        Pushforward(flow).log_prob(points(5, 2))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pushforward(flow).measured_log_prob(points(5, 2))


def test_error_estimate_covers_the_true_error():
    field, x = mixture(2), points(200, 2)
    measured = Pushforward(Flow(field, Solver(atol=1e-2))).measured_log_prob(x)
    true_error = (measured.value - field.log_prob(1.0, x)).abs()
    assert (true_error <= measured.error).double().mean() >= 0.95


def test_standard_normal():
    torch.testing.assert_close(standard_normal_log_prob(points(4, 3)), torch.distributions.Normal(0, 1).log_prob(points(4, 3)).sum(-1))
