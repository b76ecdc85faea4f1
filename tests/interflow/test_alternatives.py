"""Alternative objectives have the minimisers that closed forms say."""

import itertools

import pytest
import torch

from skinterflow.interflow.alternatives import (
    CrossedObjective,
    PenalizedObjective,
    ScoreObjective,
    squared_slopes,
)
from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ResidualMLP
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective, path_loss
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.times import Beta
from tests.helpers import perturbed, points
from tests.oracles import mixture, normal_mixture, pairs_on_a_grid


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def of_one_time(function, n_features=1):
    """A closed form at one time for all rows as a field."""
    return CustomField(lambda t, x: function(t[0], x), n_features)


def network(n_features=2, widths=(5, 5)):
    with torch.random.fork_rng():
        return perturbed(ResidualMLP(n_features, widths))


@pytest.mark.parametrize("t", [0.2, 0.8])
@pytest.mark.parametrize("noise", [None, Brownian()], ids=["no noise term", "noise term"])
def test_divergence_loss_is_minimised_by_the_score(t, noise):
    """Equation 2.30: it is ``E|f|^2 - 2 E[f . s]`` for any field `f`."""
    exact = mixture(1, Linear(), noise)
    z0, x1, weights = pairs_on_a_grid(exact.target)
    z = None
    if noise is not None:  # the noise of both sources, which only adds up, in the base point
        alpha = exact.path.interpolant.alpha(time(t))
        z0, z = (1 + noise.square(time(t)) / alpha**2).sqrt() * z0, torch.zeros_like(z0)
    x = exact.path(time(t), z0, x1, z)
    score = exact.score(time(t), x)

    def loss(function):
        objective = ScoreObjective(of_one_time(function), exact.path, Beta())
        return float(weights @ objective(z0, x1, time([t]), z).detach())

    def exact_loss(f):
        return float(weights @ (f.square() - 2 * f * score)[:, 0])

    assert loss(exact.score) == pytest.approx(exact_loss(score), rel=1e-6)
    assert loss(lambda t, x: 2 * exact.score(t, x)) == pytest.approx(0.0, abs=1e-6)
    assert loss(lambda t, x: torch.sin(x)) == pytest.approx(exact_loss(torch.sin(x)), rel=1e-6)


def test_score_between_two_data_sets_without_a_noise_term():
    """The learned score belongs to the quantities of the path, although no noise is known."""
    exact = mixture(2, Linear(), None, normal_mixture(2, seed=5))
    drift = HeadedDrift(
        SeparateHeads([of_one_time(f, 2) for f in (exact.drift, exact.score)]),
        ("b", "s"),
        exact.path,
    )
    learned = LearnedQuantities(drift, exact.path)
    learned.check_score()
    torch.testing.assert_close(
        learned.score(time(0.4), points(5, 2)), exact.score(time(0.4), points(5, 2))
    )


def test_divergence_loss_takes_estimates_and_groups_of_rows():
    field = network(2, (5,))
    x0, x1, t = points(6, 2, 1), points(6, 2, 2), time([0.2, 0.7])
    objective = ScoreObjective(field, Trigonometric(), Beta())
    xt = Trigonometric()(t.repeat_interleave(3), x0, x1)
    score, divergence = field.value_and_divergence(t.repeat_interleave(3), xt)
    losses = objective(x0, x1, t)
    torch.testing.assert_close(losses, score.square().sum(-1) + 2 * divergence)
    probes = Hutchinson(field, 4)
    _, estimates = probes.value_and_divergence(t.repeat_interleave(3), xt)
    torch.testing.assert_close(
        ScoreObjective(probes, Trigonometric(), Beta())(x0, x1, t),
        score.square().sum(-1) + 2 * estimates.mean(1),
    )
    losses.mean().backward()
    assert field.out.weight.grad.abs().max() > 0


def corners(root):
    """Points with mean zero and the covariance ``root root^T``, of equal weight."""
    n = len(root)
    return n**0.5 * torch.cat([torch.eye(n), -torch.eye(n)]).double() @ root.T


def test_penalty_shrinks_the_slopes_of_a_linear_velocity():
    """Between N(0, I) and N(0, L L^T) the velocity is ``A x``; among ``M x`` the penalised loss is
    minimised by ``M = A C (C + lambda I)^-1``."""
    root, t, penalty = time([[1.5, 0.0], [0.7, 0.4]]), 0.6, 0.3
    x0, x1 = corners(torch.eye(2).double()), corners(root)
    x0, x1 = (part.reshape(-1, 2) for part in (x0[:, None].expand(4, 4, 2), x1.expand(4, 4, 2)))
    identity = torch.eye(2).double()
    covariance = (1 - t) ** 2 * identity + t**2 * root @ root.T
    moment = -(1 - t) * identity + t * root @ root.T  # A C

    def slope(matrix, strength):
        matrix = matrix.clone().requires_grad_()
        field = CustomField(lambda t, x: x @ matrix.T, 2)
        objective = PenalizedObjective(field, Linear(), Beta(), penalty=strength)
        objective(x0, x1, time([t])).mean().backward()
        return matrix.grad

    best = moment @ torch.linalg.inv(covariance + penalty * identity)
    assert slope(best, penalty).abs().max() < 1e-12
    assert slope(moment @ torch.linalg.inv(covariance), 0.0).abs().max() < 1e-12
    assert slope(best, 1.1 * penalty).abs().max() > 1e-2


def test_penalty_is_the_squared_norm_of_the_jacobian():
    field, x = network(3), points(4, 3).reshape(2, 2, 3)
    t = time([0.2, 0.9])
    jacobians = torch.stack(
        [
            torch.func.jacrev(lambda row, s=s: field(s, row[None])[0])(row)
            for s, rows in zip(t, x, strict=True)
            for row in rows
        ]
    )
    exact = jacobians.square().sum((1, 2)).reshape(2, 2)
    torch.testing.assert_close(squared_slopes(field, t[:, None], x), exact)
    plain, penalized = (
        objective(x[:, 0], x[:, 1], t)
        for objective in (
            PathObjective(field, Linear(), Beta()),
            PenalizedObjective(field, Linear(), Beta(), penalty=2.0),
        )
    )
    xt = Linear()(t, x[:, 0], x[:, 1])
    torch.testing.assert_close(penalized, plain + 2.0 * squared_slopes(field, t, xt))


@pytest.mark.parametrize("noise", [None, Brownian()], ids=["no noise term", "noise term"])
def test_crossed_loss_is_the_mean_over_all_combinations(noise):
    """Equation I.1, with three base points, five rows and two times."""
    field, path = network(2), StochasticInterpolant(Linear(), noise)
    x0, x1, t = points(3, 2, 1), points(5, 2, 2), time([0.3, 0.8])
    z = None if noise is None else points(3, 2, 3)
    losses = CrossedObjective(field, path, Beta(), n_times=2)(x0, x1, t, z)
    expected = torch.zeros(5).double()
    for k, i, j in itertools.product(range(2), range(3), range(5)):
        own = None if z is None else z[i : i + 1]
        expected[j] += path_loss(field, path, t[k : k + 1], x0[i : i + 1], x1[j : j + 1], own)[0]
    torch.testing.assert_close(losses, expected / 6)


def test_crossed_loss_has_the_minimum_of_the_path():
    """With the quantiles of both ends in place of draws: ``(c^2 - 2 c) E|v|^2`` for ``c v``."""
    exact = mixture(1)
    z, x1, weights = pairs_on_a_grid(exact.target)
    v = exact(time(0.6), exact.path(time(0.6), z, x1, None))
    square = float(weights @ v.square()[:, 0])
    u = (torch.arange(400).double() + 0.5) / 400
    axis = torch.linspace(-8, 8, 4001).double()
    cdf = exact.target.log_prob(axis[:, None]).exp().cumsum(0) * (axis[1] - axis[0])
    x0 = torch.special.ndtri(u)[:, None]
    x1 = axis[torch.searchsorted(cdf, u).clamp(max=4000)][:, None]

    def loss(c):
        field = of_one_time(lambda t, x: c * exact(t, x))
        objective = CrossedObjective(field, exact.path, Beta(), n_times=1)
        return float(objective(x0, x1, time([0.6])).mean())

    assert loss(1.0) == pytest.approx(-square, rel=0.02)
    assert loss(2.0) == pytest.approx(0.0, abs=0.02 * square)


def test_crossed_objective_draws_times_and_the_noise_of_base_points():
    path = StochasticInterpolant(Linear(), Brownian())
    objective = CrossedObjective(network(2).float(), path, Beta(), n_times=7)
    t, z = objective.draw(torch.zeros(3, 2), torch.Generator().manual_seed(0))
    assert t.shape == (7,)
    assert z.shape == (3, 2)
    with torch.random.fork_rng():
        assert objective(torch.zeros(3, 2), torch.ones(5, 2)).shape == (5,)


def test_arguments_out_of_range():
    field = network(2)
    for penalty in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="penalty must be finite and not negative"):
            PenalizedObjective(field, Linear(), Beta(), penalty=penalty)
    with pytest.raises(ValueError, match="n_times must be at least 1, got 0"):
        CrossedObjective(field, Linear(), Beta(), n_times=0)
    with pytest.raises(ValueError, match=r"Rows must be of the shapes \(n, D\) and \(N, D\)"):
        CrossedObjective(field, Linear(), Beta(), n_times=1)(torch.ones(3, 2), torch.ones(3, 1))
