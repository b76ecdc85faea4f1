"""Gradient fields: energies whose gradient is the score, and the gradient part of a velocity."""

import numpy as np
import pytest
import torch

from skinterflow import InterpolantFlowDensity
from skinterflow.interflow.custom import check_function
from skinterflow.interflow.fields import ResidualMLP
from skinterflow.interflow.gradients import GradientField, Potential
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import path_loss
from skinterflow.interflow.ode import Solver
from tests.helpers import ONE_FIELD, moons, perturbed, points, trace_of_jacobian
from tests.oracles import mixture, pairs_on_a_grid


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def random_potential(n_features=3):
    with torch.random.fork_rng():
        return perturbed(Potential(n_features, (6, 6)))


def jacobians(field, t, x):
    return torch.stack([torch.func.jacrev(lambda row: field(t, row[None])[0])(row) for row in x])


def test_gradient_of_the_log_density_is_the_score():
    exact, t, x = mixture(2), time(0.4), 1.5 * points(6, 2, 1)
    field = GradientField(lambda time, rows: exact.log_prob(time[0], rows), 2)
    value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(value, exact.score(t, x))
    torch.testing.assert_close(
        divergence, jacobians(exact.score, t, x).diagonal(dim1=1, dim2=2).sum(-1)
    )
    torch.testing.assert_close(field.potential(t, x), exact.log_prob(t, x))


def test_gradient_field_has_no_curl_and_a_network_has():
    t, x = time(0.3), points(4, 3)
    jacobian = jacobians(GradientField(random_potential(), 3), t, x)
    torch.testing.assert_close(jacobian, jacobian.mT)
    with torch.random.fork_rng():
        other = jacobians(perturbed(ResidualMLP(3, (6, 6))), t, x)
    assert (other - other.mT).abs().max() > 1e-2


def test_divergence_is_the_laplacian_with_and_without_gradients():
    field, t, x = GradientField(random_potential(), 3), time(0.3), points(4, 3)
    laplacian = trace_of_jacobian(field, t, x)
    value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(divergence, laplacian)
    with torch.no_grad():
        fixed = field.value_and_divergence(t, x)
    torch.testing.assert_close(fixed, (value.detach(), divergence.detach()))
    assert not fixed[1].requires_grad
    divergence.sum().backward()
    assert all(p.grad is not None for p in field.function.layers.parameters())


def test_batch_axes_and_the_untrained_field():
    field = GradientField(random_potential(2), 2)
    t, x = time([0.2, 0.7]), points(6, 2).reshape(2, 3, 2)
    apart = torch.stack([field(one, rows) for one, rows in zip(t, x, strict=True)])
    torch.testing.assert_close(field(t[:, None], x), apart)
    with torch.random.fork_rng():
        untrained = GradientField(Potential(2, (4,)), 2)
    assert (untrained(torch.tensor(0.5), torch.ones(3, 2)) == 0).all()


@pytest.mark.parametrize("t", [0.2, 0.9])
def test_energy_is_minimised_by_the_log_density(t):
    """Equation 2.31: of a scale `c` of the energy the loss is ``(c^2 - 2 c) E|s|^2``."""
    exact = mixture(1, Trigonometric())
    path = StochasticInterpolant(Trigonometric())
    z, x1, weights = pairs_on_a_grid(exact.target)
    square = float(weights @ exact.score(time(t), path(time(t), z, x1, None)).square()[:, 0])

    def loss(c, energy):
        field = GradientField(energy(c), 1)
        drift = HeadedDrift(SeparateHeads([field]), ("s",), path)
        return float(weights @ path_loss(drift, path, time([t]), z, x1).detach())

    def scaled(c):
        return lambda time, x: c * exact.log_prob(time[0], x)

    def tilted(c):
        return lambda time, x: c * (exact.log_prob(time[0], x) + 0.1 * x[:, 0])

    assert loss(1.0, scaled) == pytest.approx(-square, rel=1e-6)
    assert loss(2.0, scaled) == pytest.approx(0.0, abs=1e-6 * square)
    assert loss(1.0, tilted) == pytest.approx(0.01 - square, rel=1e-6)


def test_best_gradient_field_is_the_gradient_part_of_the_velocity():
    """Proposition B.4 of paper 1 for the pairs ``x1 = A x0``, whose velocity at ``t = 0`` is
    ``(A - I) x``: among ``S x`` with a symmetric `S` the best is the symmetric part, and what is
    left out leaves N(0, I) as it is."""
    x0 = 2**0.5 * torch.cat([torch.eye(2), -torch.eye(2)]).double()  # with covariance I
    shift = time([[0.3, 1.7], [-0.9, -0.2]])
    x1, path = x0 @ (shift + torch.eye(2)).T, StochasticInterpolant(Linear())

    def slope(matrix):
        matrix = matrix.clone().requires_grad_()
        field = GradientField(lambda t, x: 0.5 * (x * (x @ matrix)).sum(-1), 2)
        path_loss(field, path, torch.zeros(4).double(), x0, x1).mean().backward()
        return matrix.grad

    symmetric = 0.5 * (shift + shift.T)
    assert slope(symmetric).abs().max() < 1e-12
    assert slope(symmetric + 0.01 * torch.eye(2)).abs().max() > 1e-3
    left_out = shift - symmetric
    assert (left_out + left_out.T).abs().max() == 0


def test_function_must_give_one_number_for_each_row():
    for wrong in (lambda t, x: x, lambda t, x: x[:, :1], lambda t, x: x.sum()):
        with pytest.raises(ValueError, match="A potential must give one number for each row"):
            GradientField(wrong, 2)(torch.tensor(0.5), torch.ones(3, 2))
    check_function(GradientField(random_potential(2).float(), 2), 2)
    with pytest.raises(ValueError, match="A potential must give one number for each row"):
        check_function(GradientField(lambda t, x: x, 2), 2)
    with torch.random.fork_rng():
        kinked = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    with pytest.warns(UserWarning, match="kinks"):
        check_function(GradientField(lambda t, x: kinked(x)[:, 0], 2), 2)


def test_estimator_takes_a_gradient_field(tmp_path):
    X = moons(120)
    with torch.random.fork_rng():
        field = GradientField(Potential(2, (8, 8)), 2)
    density = InterpolantFlowDensity(
        **ONE_FIELD | {"max_iter": 10},
        field=field,
        targets=("b", "eta"),
        solver=Solver(n_steps=4, atol=10.0),
        scaling=None,
        atoms=None,
        student_layer_sizes=None,
        end_time=1.0,
    ).fit(X)
    x, h = X[:3], 0.01 * np.eye(2)
    ahead, behind = (
        np.stack([density.velocity(x + sign * step, t=0.5) for step in h]) for sign in (1, -1)
    )
    slopes = (ahead - behind)[[0, 1], :, [1, 0]]
    assert abs(slopes).min() > 0
    np.testing.assert_allclose(*slopes, rtol=1e-2, atol=1e-6)
    density.save(tmp_path / "model")
    loaded = InterpolantFlowDensity.load(tmp_path / "model")
    assert (loaded.score_samples(X[:5]) == density.score_samples(X[:5])).all()
