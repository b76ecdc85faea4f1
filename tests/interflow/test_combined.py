"""A flow stopped at several times, and a Gaussian mixture, as one density."""

import math

import pytest
import torch

from skinterflow.interflow import (
    CombinedDensity,
    Flow,
    MixtureField,
    NormalMixture,
    Pushforward,
    Solver,
)
from skinterflow.interflow.combined import mixture_log_prob, mixture_weights, normal_log_prob
from skinterflow.interflow.flows import Estimate
from tests.helpers import points

TIMES, WEIGHTS = (0.0, 0.6, 1.0), (0.2, 0.3, 0.4, 0.1)


def normals(d, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    roots = 0.4 * torch.randn(n, d, d, generator=generator, dtype=torch.float64)
    weights = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    return NormalMixture(
        weights / weights.sum(),
        torch.randn(n, d, generator=generator, dtype=torch.float64),
        roots @ roots.mT + 0.1 * torch.eye(d, dtype=torch.float64),
    )


def combined(d):
    field = MixtureField(normals(d))
    flow = Flow(field, Solver("rk4", atol=1e-4, rtol=0.0))
    return CombinedDensity(Pushforward(flow), TIMES, WEIGHTS, normals(d, 3, seed=1)), field


def closed_form(density, field, x):
    parts = [field.log_prob(torch.tensor(t, dtype=x.dtype), x) for t in TIMES]
    parts.append(density.normals.log_prob(x))
    return mixture_log_prob(torch.stack(parts), torch.tensor(WEIGHTS, dtype=x.dtype))


@pytest.mark.parametrize("d", [1, 2])
def test_it_is_the_mixture_of_its_parts(d):
    density, field = combined(d)
    x = points(20, d)
    measured = density.measured_log_prob(x)
    torch.testing.assert_close(measured.value, closed_form(density, field, x), atol=1e-5, rtol=1e-5)
    assert not measured.unresolved.any()
    assert (measured.error < 1e-3).all()


def test_it_integrates_to_one():
    axis = torch.linspace(-8.0, 8.0, 161, dtype=torch.float64)[:, None]
    density, _ = combined(1)
    total = torch.trapezoid(density.measured_log_prob(axis).value.exp(), axis[:, 0])
    assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_the_score_is_the_gradient():
    density, field = combined(2)
    x = points(10, 2).requires_grad_()
    (expected,) = torch.autograd.grad(closed_form(density, field, x).sum(), x)
    torch.testing.assert_close(density.score(x.detach()).value, expected, atol=1e-3, rtol=1e-3)


class Fixed:
    """A density whose rows have given estimates, by time."""

    def __init__(self, parts):
        self.parts = parts

    def measured_log_prob(self, x, t):
        return self.parts[t]


def test_errors_count_by_responsibility():
    """A component that a row cannot come from adds neither its error nor its warning."""
    bad = Estimate(torch.tensor([-1e4, 0.0]), torch.tensor([math.inf, 2.0]), torch.ones(2).bool())
    good = Estimate(torch.zeros(2), torch.tensor([0.1, 0.1]), torch.zeros(2).bool())
    density = CombinedDensity(Fixed({0.0: bad, 1.0: good}), (0.0, 1.0), (0.5, 0.5))
    measured = density.measured_log_prob(torch.zeros(2, 1))
    torch.testing.assert_close(measured.error, torch.tensor([0.1, 1.05]))
    assert measured.unresolved.tolist() == [False, True]


def test_a_row_where_all_parts_underflow_is_impossible():
    far = Estimate(torch.tensor([-math.inf]), torch.tensor([math.inf]), torch.ones(1).bool())
    density = CombinedDensity(Fixed({0.0: far, 1.0: far}), (0.0, 1.0), (0.5, 0.5))
    measured = density.measured_log_prob(torch.zeros(1, 1))
    assert measured.value.tolist() == [-math.inf]
    assert measured.unresolved.all()


def test_weights_of_separate_components_are_fractions_of_the_rows():
    owner = torch.tensor([0, 0, 0, 1, 1, 2])
    log_prob = torch.where(torch.arange(3)[:, None] == owner, 0.0, -1e3).double()
    weight = torch.tensor([1.0, 1.0, 2.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    torch.testing.assert_close(mixture_weights(log_prob, weight), expected)


def test_weights_maximise_the_likelihood():
    log_prob, weight = points(3, 50), torch.ones(50, dtype=torch.float64)
    weights = mixture_weights(log_prob, weight)
    assert float(weights.sum()) == pytest.approx(1.0)
    best = mixture_log_prob(log_prob, weights).mean()
    for k in range(3):
        other = 0.95 * weights
        other[k] += 0.05
        assert mixture_log_prob(log_prob, other).mean() <= best + 1e-6


def test_normal_log_prob_is_the_same_in_chunks():
    x = points(5_000, 2)
    torch.testing.assert_close(normal_log_prob(normals(2), x), normals(2).log_prob(x))
