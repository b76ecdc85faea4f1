"""One-sided and mirror paths with any function of the data point, by quadrature."""

import math

import numpy as np
import pytest
import torch

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads, check_targets
from skinterflow.interflow.interpolants import check_endpoints, expand_as_leading
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.one_sided import MirrorInterpolant, OneSidedInterpolant
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Identity
from tests.helpers import ONE_FIELD, QUICK, Bent, moons, points
from tests.oracles import normal_mixture, pairs_on_a_grid


class Outwards(OneSidedInterpolant):
    """Neither linear in the data point nor a product of a time and a point."""

    def alpha(self, t):
        return torch.cos(0.5 * math.pi * t)

    def data(self, t, x1):
        t = expand_as_leading(t, x1)
        return t * x1 + 0.8 * torch.sin(math.pi * t) * torch.tanh(x1)


class Swinging(MirrorInterpolant):
    def data(self, t, x1):
        t = expand_as_leading(t, x1)
        return x1 + 0.8 * torch.sin(math.pi * t) * torch.tanh(x1)


PATHS = {
    "one-sided": StochasticInterpolant(Outwards()),
    "mirror": StochasticInterpolant(Swinging(), Brownian()),
}
over_paths = pytest.mark.parametrize("name", PATHS)
TARGET = normal_mixture(1)


def time(t):
    return torch.tensor(t, dtype=torch.float64)


class Exact:
    """Quantities of the path ``scale z + f(t, x1)`` as means over a grid of `x1`."""

    def __init__(self, path):
        self.path = path
        self.x1 = torch.linspace(-6, 6, 150, dtype=torch.float64)[:, None]

    def parts(self, t, x):
        """Weights of the nodes, (150, B), and the noise and the rates of both terms there."""
        noise_only = self.path.gamma is None
        zero = torch.zeros_like(self.x1)
        centre, rate = self.path.interpolant.path(t, zero, self.x1)
        if noise_only:
            scale, scale_rate = (
                value[0, 0] for value in self.path.interpolant.path(t, zero[:1] + 1, zero[:1])
            )  # at the origin, which the data function keeps
        else:
            scale, scale_rate = self.path.gamma.at(t)[:2]
        z = (x[:, 0] - centre) / scale
        logs = TARGET.log_prob(self.x1)[:, None] - 0.5 * z.square() - scale.log()
        step = self.x1[1, 0] - self.x1[0, 0]
        log_density = logs.logsumexp(0) + step.log() - 0.5 * math.log(2 * math.pi)
        return logs.softmax(0), z, rate.expand_as(z), scale, scale_rate, log_density

    def quantity(self, name, t, x):
        weights, z, rate, scale, scale_rate, _ = self.parts(t, x)
        drift = rate + scale_rate * z
        v = drift if self.path.gamma is None else rate
        value = {"b": drift, "v": v, "eta": z, "s": -z / scale}[name]
        return (weights * value).sum(0)[:, None]

    def log_prob(self, t, x):
        return self.parts(t, x)[-1]

    def field(self, name):
        return CustomField(lambda t, x: self.quantity(name, t.flatten()[0], x), 1)


@over_paths
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_quantities_are_the_expectations_of_their_targets(name, t):
    """Equations 3.16, 3.18, 3.26 and 3.28: ``E[(y - E[y | x_t]) g(x_t)] = 0`` for any `g`."""
    path, exact = PATHS[name], Exact(PATHS[name])
    z, x1, weights = pairs_on_a_grid(TARGET, 110)
    xt, targets = path.regression(("b", "v", "s", "eta"), time(t), z, x1, z)
    for quantity, target in targets.items():
        value = exact.quantity(quantity, time(t), xt)
        for g in (torch.ones_like(xt), xt, torch.sin(3 * xt)):
            assert float(weights @ ((target - value) * g)) == pytest.approx(0, abs=1e-6)
            assert abs(float(weights @ ((target - 1.1 * value - 0.1) * g))) > 1e-4


@over_paths
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_score_is_the_gradient_of_the_log_density(name, t):
    """It follows from the learned "s" or "eta", by the scale of the noise."""
    path, exact, x = PATHS[name], Exact(PATHS[name]), points(5, 1)
    score = torch.func.grad(lambda y: exact.log_prob(time(t), y).sum())(x)
    sets = [("b", "eta"), ("b", "s")] + [("v", "eta"), ("v", "s")] * (name == "mirror")
    for targets in sets:
        drift = HeadedDrift(SeparateHeads([exact.field(q) for q in targets]), targets, path)
        learned = LearnedQuantities(drift, path, Identity())
        learned.check_score()
        torch.testing.assert_close(learned.score(time(t), x), score)
        torch.testing.assert_close(learned.drift(time(t), x), exact.quantity("b", time(t), x))
        torch.testing.assert_close(learned.velocity(time(t), x), exact.quantity("v", time(t), x))
        torch.testing.assert_close(learned.denoiser(time(t), x), exact.quantity("eta", time(t), x))


def test_flow_of_the_drift_has_the_density_of_the_path():
    exact, x = Exact(PATHS["one-sided"]), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    flow = Flow(exact.field("b"), Solver(atol=1e-4), end_time=0.8)
    torch.testing.assert_close(
        Pushforward(flow).log_prob(x), exact.log_prob(time(0.8), x), rtol=0, atol=1e-3
    )


def test_too_few_targets_are_refused():
    """The denoiser alone is enough only where the velocity is zero, or the path affine."""
    for name in PATHS:
        for targets in (("eta",), ("s",), ("eta1",)):
            with pytest.raises(ValueError, match="are too few or too many"):
                check_targets(targets, PATHS[name])
    with pytest.raises(ValueError, match=r"no noise to learn 's' from; .* OneSidedInterpolant"):
        check_targets(("b", "s"), StochasticInterpolant(Bent()))
    alone = LearnedQuantities(Exact(PATHS["one-sided"]).field("b"), PATHS["one-sided"], Identity())
    with pytest.raises(ValueError, match=r"does not follow from its drift.*targets=\('b', 'eta'\)"):
        alone.check_score()
    with pytest.raises(ValueError, match=r"The ends of .* do not follow from its velocity"):
        alone.denoised(time(0.5), points(2, 1))


def test_ends_of_the_paths():
    check_endpoints(Outwards(), 3)
    check_endpoints(Swinging(), 3)

    class Half(MirrorInterpolant):
        def data(self, t, x1):
            return (1.0 - 0.5 * expand_as_leading(t, x1)) * x1

    for n_features in (1, 3):
        with pytest.raises(ValueError, match=r"must give x1 at t=1, but misses it by 1; let K\(0"):
            check_endpoints(Half(), n_features)
    with pytest.raises(ValueError, match=r"must give x1 at t=1.*as on every mirror path"):
        InterpolantTransport(**QUICK, interpolant=Half(), gamma="brownian").fit(moons(40))
    with pytest.raises(ValueError, match="needs a noise term, without which rows come back"):
        InterpolantTransport(**QUICK, interpolant=Swinging()).fit(moons(40))


COARSE = Solver(n_steps=4, atol=10.0)


def test_density_on_a_one_sided_path_has_a_score():
    X = moons(80)
    density = InterpolantFlowDensity(
        **ONE_FIELD | {"max_iter": 10, "hidden_layer_sizes": (8,)},
        interpolant=Outwards(),
        targets=("b", "eta"),
        solver=COARSE,
        student_layer_sizes=None,
        end_time=1.0,
        atoms=None,
    ).fit(X)
    assert np.isfinite(density.score_gradient(X[:4], t=0.5, method="path")).all()
    assert np.isfinite(density.sample(3, random_state=0, method="sde", epsilon=0.5)).all()


def test_transport_on_a_mirror_path_learns_drift_and_denoiser():
    X = moons(80)
    mirror = InterpolantTransport(
        **QUICK | {"hidden_layer_sizes": (8,)},
        interpolant=Swinging(),
        gamma="brownian",
        solver=COARSE,
    ).fit(X)
    assert mirror.transform(X[:4]).shape == (4, 2)
    assert np.isfinite(mirror.score_gradient(X[:4], t=0.5)).all()
