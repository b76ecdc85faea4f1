"""Paths with a noise term: scales, quantities, learned heads, diffusions and bridges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.flows import Diffusion, Flow, Pushforward
from skinterflow.interflow.heads import (
    HeadedDrift,
    Heads,
    SeparateHeads,
    SharedTrunk,
    check_targets,
)
from skinterflow.interflow.interpolants import (
    EncodingDecoding,
    Fourier,
    Linear,
    Mirror,
    Trigonometric,
    check_endpoints,
)
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.noise import (
    QUANTITIES,
    Brownian,
    Gamma,
    LearnedGamma,
    Normalized,
    Quadratic,
    Sigmoid,
    SineSquared,
    StochasticInterpolant,
    check_gamma,
)
from skinterflow.interflow.objectives import BridgeObjective, PathObjective, path_loss
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Compose
from skinterflow.interflow.sde import StochasticSolver
from skinterflow.interflow.times import Beta
from skinterflow.interflow.training import train
from tests.helpers import Bent, energy_distance, learned_gaussian, perturbed, points, true_score
from tests.oracles import mixture, normal_mixture


def bent_gamma():
    scale = LearnedGamma(3)
    with torch.no_grad():
        scale.modes.copy_(torch.tensor([0.2, -0.3, 0.1]))
    return scale


GAMMAS = {
    "brownian": Brownian,
    "wide brownian": lambda: Brownian(2.0),
    "quadratic": Quadratic,
    "sine squared": SineSquared,
    "sigmoid": Sigmoid,
    "learned": bent_gamma,
}
over_gammas = pytest.mark.parametrize("make", GAMMAS.values(), ids=GAMMAS)
PATHS = {
    "linear": lambda: StochasticInterpolant(Linear(), Brownian(2.0)),
    "trigonometric, unit variance": lambda: StochasticInterpolant(
        Normalized(Trigonometric(), Brownian()), Brownian()
    ),
    "linear, unit variance": lambda: StochasticInterpolant(
        Normalized(Linear(), Quadratic()), Quadratic()
    ),
    "encoding-decoding": lambda: StochasticInterpolant(EncodingDecoding(), SineSquared()),
    "learned": lambda: StochasticInterpolant(Linear(), bent_gamma()),
    "mirror": lambda: StochasticInterpolant(Mirror(), Brownian()),
    "no noise term": lambda: StochasticInterpolant(Trigonometric()),
}
over_paths = pytest.mark.parametrize("make", PATHS.values(), ids=PATHS)


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def two_sided(path):
    """Exact quantities between two mixtures, or of a mixture with itself on a mirror path."""
    return mixture(
        2,
        path.interpolant,
        path.gamma,
        normal_mixture(2, seed=3 if isinstance(path.interpolant, Mirror) else 5),
    )


def draw(field, n, seed=0):
    """Independent ends, or equal ones on a mirror path, and noise."""
    generator = torch.Generator().manual_seed(seed)
    x1 = field.target.sample(n, generator)
    x0 = x1 if isinstance(field.path.interpolant, Mirror) else field.source.sample(n, generator)
    return x0, x1, torch.randn(n, field.n_features, generator=generator, dtype=torch.float64)


@over_gammas
def test_scale_is_zero_at_the_ends_and_its_rate_is_the_derivative(make):
    scale = make()
    check_gamma(scale)
    t, h = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    value, rate, product = scale.at(t)
    torch.testing.assert_close(
        rate, (scale.at(t + h).value - scale.at(t - h).value) / (2 * h), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(product, value * rate)
    assert torch.isfinite(scale.at(torch.tensor([0.0, 1.0], dtype=torch.float64)).product).all()


def test_scales_are_those_of_the_paper():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(Brownian(3.0).at(t).value, (3 * t * (1 - t)).sqrt())
    torch.testing.assert_close(Quadratic().at(t).value, t * (1 - t))
    torch.testing.assert_close(SineSquared().at(t).value, torch.sin(math.pi * t) ** 2)
    f = 10.0
    hump = torch.sigmoid(f * (t - 0.5) + 1) - torch.sigmoid(f * (t - 0.5) - 1)
    expected = hump - torch.sigmoid(time(1 - f / 2)) + torch.sigmoid(time(-1 - f / 2))
    torch.testing.assert_close(Sigmoid(f).at(t).value, expected.abs())
    torch.testing.assert_close(LearnedGamma().square(t), Brownian().square(t))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        Brownian(3.0).at(ends).product, torch.tensor([1.5, -1.5], dtype=torch.float64)
    )


@pytest.mark.parametrize("interpolant", [Trigonometric(), Linear()], ids=repr)
@pytest.mark.parametrize("scale", [Brownian(), Quadratic()], ids=repr)
def test_normalized_paths_keep_the_variance(interpolant, scale):
    path, t = Normalized(interpolant, scale), torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(
        path.alpha(t) ** 2 + path.beta(t) ** 2 + scale.square(t), torch.ones_like(t)
    )
    torch.testing.assert_close(
        path.alpha(t) * interpolant.beta(t), path.beta(t) * interpolant.alpha(t)
    )
    check_endpoints(path, 2)


@over_paths
@given(seed=st.integers(0, 99), rows=st.sampled_from([1, 2, 7]))
def test_path_leaves_the_ends_where_they_are(make, seed, rows):
    path, x1, z = make(), points(rows, 2, seed), points(rows, 2, seed + 1)
    x0 = x1 if isinstance(path.interpolant, Mirror) else points(rows, 2, seed + 2)
    for t, end in ((0.0, x0), (1.0, x1)):
        torch.testing.assert_close(
            path(torch.full((rows,), t, dtype=torch.float64), x0, x1, z), end, atol=1e-7, rtol=0
        )
    t = torch.linspace(0.1, 0.9, rows, dtype=torch.float64)
    point, targets = path.regression(QUANTITIES, t, x0, x1, z)
    torch.testing.assert_close(point, path(t, x0, x1, z))
    h = 1e-6
    torch.testing.assert_close(
        targets["b"],
        (path(t + h, x0, x1, z) - path(t - h, x0, x1, z)) / (2 * h),
        rtol=1e-4,
        atol=1e-4,
    )


@over_paths
@pytest.mark.parametrize("t", [0.1, 0.45, 0.8])
def test_oracle_solves_the_continuity_equation(make, t):
    """``d/dt log rho = -div b - b s``, with
    `s` the gradient of ``log rho``, and the divergence that of `b`."""
    field, x, h = two_sided(make()), points(6, 2), 1e-5
    drift, score = field.drift_and_score(time(t), x)
    torch.testing.assert_close(score, true_score(field, t, x))
    value, divergence = field.value_and_divergence(time(t), x)
    torch.testing.assert_close(value, drift)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: field(time(t), row[None])[0]))(x)
    torch.testing.assert_close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(-1))
    rate = (field.log_prob(time(t + h), x) - field.log_prob(time(t - h), x)) / (2 * h)
    torch.testing.assert_close(rate, -divergence - (drift * score).sum(-1), rtol=1e-5, atol=1e-5)


def test_oracle_has_the_densities_of_both_ends():
    field, x = two_sided(PATHS["linear"]()), points(6, 2)
    for t, end in ((0.0, field.source), (1.0, field.target)):
        torch.testing.assert_close(field.log_prob(time(t), x), end.log_prob(x))
    one = NormalMixture(
        torch.ones(1, dtype=torch.float64),
        points(1, 2),
        torch.eye(2, dtype=torch.float64)[None] * 2.0,
    )
    torch.testing.assert_close(
        one.log_prob(x),
        torch.distributions.MultivariateNormal(one.means[0], one.covariances[0]).log_prob(x),
    )
    drawn = one.sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), one.means[0], rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(drawn.T), one.covariances[0], rtol=0, atol=0.1)


@over_paths
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_quantities_are_the_conditional_expectations_of_their_targets(make, t):
    """The gradients of all losses are zero at the truth, within four standard errors, and not for a
    quantity that is a little wrong."""
    path = make()
    field = two_sided(path) if path.gamma is not None else mixture(2, path.interpolant)
    n = 20_000
    x0, x1, z = draw(field, n)
    x, targets = path.regression(QUANTITIES, torch.full((n,), t, dtype=torch.float64), x0, x1, z)
    truths = {
        "b": field.drift(time(t), x),
        "v": field.velocity(time(t), x),
        "s": field.score(time(t), x),
        "eta": field.denoiser(time(t), x),
    }
    # The data have weight zero in the first half of an encoding-decoding path.
    if not isinstance(path.interpolant, EncodingDecoding) or t > 0.5:
        truths["x1"] = field.denoised(time(t), x)
    for name, truth in truths.items():
        residual = truth - targets.get(name, x1)
        for direction in (x, torch.sin(2.0 * x), torch.ones_like(x)):
            gradient = (residual * direction).sum(-1)
            assert gradient.mean().abs() <= 4 * gradient.std() / math.sqrt(n) + 1e-12, name
        wrong = ((residual + 0.3 * x) * x).sum(-1)
        assert wrong.mean().abs() > 4 * wrong.std() / math.sqrt(n)


def test_antithetic_pairs_tame_the_variance_near_the_ends():
    path = StochasticInterpolant(Linear(), Brownian())
    field, n = two_sided(path), 4_000
    x0, x1, z = draw(field, n)
    t = torch.full((n,), 1e-4, dtype=torch.float64)

    class Score(VelocityField):
        n_features = 2

        def forward(self, t, x):
            return field.score(t.flatten()[0], x)

        def value_and_divergence(self, t, x):
            raise NotImplementedError

    headed = HeadedDrift(SeparateHeads([Score(), Score()]), ("v", "s"), path)
    paired = path_loss(headed, path, t, x0, x1, z)
    x, targets = path.regression(QUANTITIES, t, x0, x1, z)
    s, v = field.score(t[0], x), targets["v"]
    single = (s * (s - 2 * targets["s"])).sum(-1) + (s * (s - 2 * v)).sum(-1)
    assert paired.std() < 0.2 * single.std()
    assert (paired.mean() - single.mean()).abs() < 4 * single.std() / math.sqrt(n)


class Exact(Heads):
    """Heads that know the truth."""

    def __init__(self, field, targets):
        super().__init__()
        self.field, self.targets, self.n_features = field, targets, field.n_features

    def forward(self, t, x):
        exact = {
            "b": self.field.drift,
            "v": self.field.velocity,
            "s": self.field.score,
            "eta": self.field.denoiser,
        }
        return tuple(exact[name](t, x) for name in self.targets)

    def combined(self, t, x, weights):
        def total(x):
            parts = (w * f for w, f in zip(weights, self(t, x), strict=True) if w is not None)
            return sum(parts, torch.zeros_like(x))

        jacobian = torch.func.vmap(torch.func.jacrev(lambda row: total(row[None])[0]))(x)
        return total(x), jacobian.diagonal(dim1=1, dim2=2).sum(-1)

    def hidden_weights(self):
        return []


TWO_SIDED = [("b",), ("b", "s"), ("eta", "b"), ("v", "s"), ("v", "eta")]
LEARNABLE = [
    *[("linear", targets) for targets in TWO_SIDED],
    *[("trigonometric, unit variance", targets) for targets in TWO_SIDED],
    *[("mirror", targets) for targets in [("eta",), ("s",), ("b", "s")]],
    *[("no noise term", targets) for targets in [("b",), ("eta",), ("s",), ("b", "eta")]],
]


@pytest.mark.parametrize(("name", "targets"), LEARNABLE, ids=str)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_every_quantity_follows_from_those_that_were_learned(name, targets, t):
    path = PATHS[name]()
    field = two_sided(path) if path.gamma is not None else mixture(2, path.interpolant)
    learned = LearnedQuantities(
        HeadedDrift(Exact(field, targets), targets, path), path, None if path.gamma else Compose([])
    )
    x = points(5, 2)
    value, divergence = learned.field.value_and_divergence(time(t), x)
    torch.testing.assert_close(value, field(time(t), x))
    torch.testing.assert_close(divergence, field.value_and_divergence(time(t), x)[1])
    torch.testing.assert_close(learned.drift(time(t), x), field(time(t), x))
    if {"s", "eta"} & set(targets) or path.gamma is None:
        for quantity in ("velocity", "score", "denoiser", "denoised"):
            torch.testing.assert_close(
                getattr(learned, quantity)(time(t), x), getattr(field, quantity)(time(t), x)
            )


@pytest.mark.parametrize(
    ("name", "targets"),
    [("linear", ("v", "eta")), ("linear", ("b", "eta")), ("no noise term", ("eta",))],
)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_formulas_that_divide_are_read_at_the_nearest_time_inside(name, targets, t):
    path = PATHS[name]()
    truth = two_sided(path) if path.gamma is not None else mixture(2, path.interpolant)
    field, x = HeadedDrift(Exact(truth, targets), targets, path), points(3, 2)
    drift, score = LearnedQuantities(
        field, path, None if path.gamma else Compose([])
    ).drift_and_score(time(t), x)
    torch.testing.assert_close(score, truth.score(time(min(max(t, path.core[0]), path.core[1])), x))
    torch.testing.assert_close(drift, truth.drift(time(t), x), rtol=0.2, atol=0.3)
    torch.testing.assert_close(field.value_and_divergence(time(t), x)[0], drift)
    torch.testing.assert_close(field(time(t), x), drift)


@pytest.mark.parametrize("scale", [Quadratic(), SineSquared(), Brownian(1e-6)], ids=repr)
@pytest.mark.parametrize("t", [0.001, 0.02, 0.999])
def test_drift_is_evaluated_at_every_time_with_a_bounded_rate(scale, t):
    """Small or smooth scales magnify nothing, near the ends as elsewhere."""
    path = StochasticInterpolant(Linear(), scale)
    truth, x = two_sided(path), points(3, 2)
    field = HeadedDrift(Exact(truth, ("v", "eta")), ("v", "eta"), path)
    torch.testing.assert_close(field(time(t), x), truth(time(t), x))
    with torch.random.fork_rng():
        objective = PathObjective(
            HeadedDrift(SharedTrunk(2, 2, (4,)), ("b", "s"), path), path, Beta()
        )
        assert torch.isfinite(objective(points(8, 2).float(), points(8, 2, 1).float())).all()
    assert torch.isfinite(LearnedQuantities(field, path).score(time(t), x)).all()


@pytest.mark.parametrize(
    "path", [(Linear(), Brownian(8.0)), (EncodingDecoding(), Brownian())], ids=str
)
def test_paths_without_variance_to_scale_are_refused(path):
    with pytest.raises(
        ValueError,
        match=(
            r"cannot be scaled to unit variance with Brownian\(a=[18]\.0\): "
            r"at t=0\.\d+ gamma is not below 1"
        ),
    ):
        Normalized(*path)


def test_a_path_is_normalised_once():
    with pytest.raises(ValueError, match="is already normalised; pass its `interpolant` attribute"):
        Normalized(Normalized(Linear(), Quadratic()), Quadratic())


@pytest.mark.parametrize("scale", [None, Brownian(), Quadratic()], ids=repr)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_score_follows_from_the_drift_of_a_gaussian_base(scale, t):
    path, base, x = StochasticInterpolant(Linear(), scale), learned_gaussian(), points(5, 2)
    base.requires_grad_(False)
    root = base(torch.eye(2, dtype=torch.float64)) - base.mean
    source = NormalMixture(
        torch.ones(1, dtype=torch.float64), base.mean[None], (root.T @ root)[None]
    )
    for given_base, start in ((base, source), (Compose([]), None)):
        field = MixtureField(normal_mixture(), path, start)
        score = LearnedQuantities(field, path, given_base).score(time(t), x)
        torch.testing.assert_close(score, field.score(time(t), x), rtol=1e-8, atol=1e-8)


def heads(kind, n_heads, sizes):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind is SharedTrunk:
            return perturbed(SharedTrunk(3, n_heads, sizes))
        return SeparateHeads([perturbed(ResidualMLP(3, sizes)) for _ in range(n_heads)]).double()


@pytest.mark.parametrize("kind", [SharedTrunk, SeparateHeads])
@pytest.mark.parametrize("sizes", [(5,), (4, 4), (4, 6, 6)])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_divergence_of_combined_heads_is_the_trace_of_the_jacobian(kind, sizes, rows):
    several, x = heads(kind, 2, sizes), points(rows, 3)
    for weights in ([time(0.7), time(-2.0)], [None, time(1.5)]):

        def total(t, row, weights=weights):
            return sum(
                w * f for w, f in zip(weights, several(t, row[None]), strict=True) if w is not None
            )[0]

        value, divergence = several.combined(time(0.4), x, weights)
        torch.testing.assert_close(value, torch.stack([total(time(0.4), row) for row in x]))
        jacobian = torch.stack(
            [torch.func.jacrev(lambda row: total(time(0.4), row))(row) for row in x]
        )
        torch.testing.assert_close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(-1))
    t = torch.linspace(0.2, 0.8, rows, dtype=torch.float64)
    value, divergence = several.combined(t, x, [t, 1 - t])
    for k in range(rows):
        one, trace = several.combined(t[k], x[k : k + 1], [t[k], 1 - t[k]])
        torch.testing.assert_close((value[k], divergence[k]), (one[0], trace[0]))


def test_heads_share_what_they_say():
    shared, separate = heads(SharedTrunk, 2, (4, 4)), heads(SeparateHeads, 2, (4, 4))
    assert len(shared.hidden_weights()) == 2
    assert len(separate.hidden_weights()) == 4
    assert all(any(w is p for p in separate.parameters()) for w in separate.hidden_weights())


def error_of(field, truth, path):
    """Mean squared error of what was learned, relative to the mean square of the truth, over the
    path."""
    x0, x1, z = draw(truth, 500, seed=7)
    learned, errors = LearnedQuantities(field, path, None), []
    for t in (0.2, 0.5, 0.8):
        x = path(torch.full((500,), t, dtype=torch.float64), x0, x1, z)
        exact = dict(zip(("b", "s"), truth.drift_and_score(time(t), x), strict=True))
        with torch.no_grad():
            got = dict(
                zip(("b", "s"), learned.drift_and_score(torch.tensor(t), x.float()), strict=True)
            )
        errors.append(
            sum(
                float((got[q] - exact[q]).square().mean() / exact[q].square().mean()) for q in exact
            )
        )
    return sum(errors)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SharedTrunk, SeparateHeads])
@pytest.mark.parametrize("targets", [("b", "s"), ("b", "eta"), ("v", "s"), ("v", "eta")])
def test_error_of_a_trained_net_falls(kind, targets):
    path = StochasticInterpolant(Linear(), Brownian())
    truth = two_sided(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        several = (
            SharedTrunk(2, 2, (32, 32))
            if kind is SharedTrunk
            else SeparateHeads([ResidualMLP(2, (32, 32)) for _ in range(2)])
        )
        field = HeadedDrift(several, targets, path)
        before = error_of(field, truth, path)
        objective = PathObjective(field, path, Beta())
        pairs = (
            ([part.float() for part in draw(truth, 256, seed)[:2]], None) for seed in range(250)
        )
        *_, last = train(
            objective,
            pairs,
            max_iter=250,
            learning_rate=0.01,
            hidden_weights=field.hidden_weights(),
        )
    after = error_of(last.averaged.field, truth, path)
    assert before > 3.0
    assert after < 0.35 * before


DIFFUSIONS = [
    ("linear", 0.0),
    ("linear", 0.5),
    ("linear", 1.0),
    ("linear", 2.5),
    ("trigonometric, unit variance", 1.0),
    ("mirror", 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epsilon"), DIFFUSIONS, ids=str)
@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
def test_diffusions_have_the_law_of_their_end(name, epsilon, forward):
    """Two moments within four standard errors and an energy distance like that of fresh samples, in
    both directions."""
    field, n = two_sided(PATHS[name]()), 5_000
    start, end = (field.source, field.target) if forward else (field.target, field.source)
    generator = torch.Generator().manual_seed(2)
    x, fresh, other = start.sample(n, generator), end.sample(n, generator), end.sample(n, generator)
    solver = StochasticSolver(n_steps=int(80 * max(1.0, epsilon)))
    moved = Diffusion(field, lambda t: epsilon).push(
        x, 1.0 - forward, float(forward), solver, generator
    )
    for power in (1, 2):
        difference = (moved**power).mean(0) - (fresh**power).mean(0)
        assert (
            difference.abs() < 4 * ((moved**power).var(0) / n + (fresh**power).var(0) / n).sqrt()
        ).all()
    moved, fresh, other = moved[:2_500], fresh[:2_500], other[:2_500]
    assert energy_distance(moved, fresh) < energy_distance(fresh, other).abs() + 0.003


@pytest.mark.parametrize("name", ["linear", "no noise term"])
def test_last_step_is_to_the_expected_end(name):
    """A diffusion that stops where scores diverge, and one denoising step from there."""
    path = PATHS[name]()
    field, n, late = (
        (two_sided(path) if path.gamma is not None else mixture(2, path.interpolant)),
        2_000,
        1.0 - 1e-3,
    )
    generator = torch.Generator().manual_seed(4)
    x, fresh, other = (
        end.sample(n, generator) for end in (field.source, field.target, field.target)
    )
    near = Diffusion(field, lambda t: 0.5).push(
        x, 0.0, late, StochasticSolver(n_steps=80), generator
    )
    assert (
        energy_distance(field.denoised(time(late), near), fresh)
        < energy_distance(fresh, other).abs() + 0.005
    )
    step = field.denoised(time(late), near) - near
    assert 0.0 < step.norm(dim=1).median() < 0.1


def test_flow_of_a_path_with_a_noise_term_has_the_density_of_the_target():
    """From the standard normal base, with a noise term."""
    field, x = mixture(2, Linear(), Brownian()), points(6, 2)
    density = Pushforward(Flow(field, Solver(atol=1e-6, rtol=0.0)))
    torch.testing.assert_close(density.log_prob(x), field.target.log_prob(x), rtol=1e-5, atol=1e-5)


def test_mirror_flow_comes_back_and_its_diffusion_does_not():
    field, x = (
        two_sided(PATHS["mirror"]()),
        normal_mixture().sample(200, torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(Flow(field, Solver(atol=1e-4)).push(x), x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        field.velocity(time(0.3), x), torch.zeros_like(x), atol=1e-12, rtol=0
    )
    moved = Diffusion(field, lambda t: 0.5).push(
        x, 0.0, 1.0, StochasticSolver(n_steps=100), torch.Generator().manual_seed(1)
    )
    assert (moved - x).norm(dim=1).median() > 0.1


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_log_density_by_random_paths(epsilon):
    """The flow's, within four standard errors, and not below Jensen's bound."""
    field, x = mixture(2, Linear(), Brownian()), 0.5 * points(8, 2)
    estimate = Diffusion(field, lambda t: epsilon).log_prob(
        x, 1.0, Compose([]), 400, StochasticSolver(n_steps=100), torch.Generator().manual_seed(0)
    )
    exact = field.target.log_prob(x)
    assert ((estimate.value - exact).abs() < 4 * estimate.standard_error + 5e-3).all()
    assert (estimate.lower_bound <= estimate.value + 1e-12).all()
    if epsilon > 0:
        assert (estimate.standard_error > 1e-3).all()
        assert (estimate.lower_bound < exact + 4 * estimate.standard_error).all()
    else:
        assert (estimate.standard_error < 1e-10).all()


def test_learned_scores_fade_where_they_are_divided():
    path = StochasticInterpolant(Linear(), Brownian())
    with torch.random.fork_rng():
        learned = {
            name: LearnedQuantities(HeadedDrift(SharedTrunk(2, 2, (4,)), ("b", name), path), path)
            for name in ("s", "eta")
        }
    assert [learned["s"].noise_fraction(t) for t in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert [learned["eta"].noise_fraction(t) for t in (0.0, 0.5, 1.0)] == [0.0, 1.0, 0.0]
    assert learned["eta"].noise_fraction(0.01) == pytest.approx(math.sqrt(0.01 * 0.99) / 0.2)
    # The drift of a path with the Brownian scale contains the score, even at t = 1.  Without a
    # noise term, the gain on errors of the drift is beta / alpha.
    assert (
        LearnedQuantities(mixture(2, Linear(), Brownian()), path, Compose([])).noise_fraction(1.0)
        == 1.0
    )
    straight = StochasticInterpolant(Linear())
    assert LearnedQuantities(mixture(2, Linear()), straight, Compose([])).noise_fraction(
        0.99
    ) == pytest.approx(5.0 * 0.01 / 0.99)


BRIDGE_ENDS = {"spread": 1.0, "narrow": 0.5}


def bridge(epsilon, d=1):
    """Exact bridge from N(-1, 1) to N(1, 1/4), the entropic coupling of two Gaussians.

    Its path is straight, with a noise term of this width.
    """
    identity, one = torch.eye(d, dtype=torch.float64)[None], torch.ones(1, d, dtype=torch.float64)
    width = 2.0 * math.sqrt((BRIDGE_ENDS["spread"] * BRIDGE_ENDS["narrow"]) ** 2 + epsilon**2)
    source, target = (
        NormalMixture(torch.ones(1, dtype=torch.float64), sign * one, size**2 * identity)
        for sign, size in zip((-1.0, 1.0), BRIDGE_ENDS.values(), strict=True)
    )
    return MixtureField(target, StochasticInterpolant(Linear(), Brownian(width)), source)


def test_limit_of_the_bridge_is_optimal_transport():
    """For little noise the drift is that of McCann's interpolation between the two Gaussians."""
    field = bridge(1e-4)
    for t in (0.1, 0.5, 0.9):
        deviation = (1 - t) * BRIDGE_ENDS["spread"] + t * BRIDGE_ENDS["narrow"]
        mean = 2 * t - 1
        x = mean + deviation * points(6, 1)
        expected = 2.0 + (BRIDGE_ENDS["narrow"] - BRIDGE_ENDS["spread"]) / deviation * (x - mean)
        torch.testing.assert_close(field(time(t), x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.02, 1.0])
def test_gaussian_bridge_is_learned_within_two_per_cent(epsilon):
    """Forward drift and spread of the marginals, from a different initial scale of the noise."""
    truth = bridge(epsilon)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field, scale = ResidualMLP(1, (32, 32)), LearnedGamma(3)
        path = StochasticInterpolant(Linear(), scale)
        objective = BridgeObjective(field, path, Beta(), epsilon)
        pool = [part.float() for part in draw(truth, 2**17)[:2]]
        pairs = (
            (ends, None)
            for ends in zip(*(part.split(512) for part in pool), strict=True)
            for _ in range(4)
        )
        *_, last = train(
            objective,
            pairs,
            max_iter=1000,
            learning_rate=0.01,
            weight_decay=0.0,
            maximized=list(scale.parameters()),
            maximized_rate=1.0,
            maximized_from=0.2,
        )
    learned, errors, squares = last.averaged, [], []
    x0, x1, z = draw(truth, 4_000, seed=-1)
    for t in torch.linspace(0.05, 0.95, 19, dtype=torch.float64):
        expected, got = truth.path.gamma.square(t), learned.path.gamma.square(t).detach()
        ends = (1 - t) ** 2 * BRIDGE_ENDS["spread"] ** 2 + t**2 * BRIDGE_ENDS["narrow"] ** 2
        assert float(((ends + got) / (ends + expected)).sqrt()) == pytest.approx(1.0, abs=0.02)
        x = truth.path(t, x0, x1, z)
        drift, score = truth.drift_and_score(t, x)
        with torch.no_grad():
            errors.append(
                (learned.field(t.float(), x.float()) - drift - epsilon * score).square().mean()
            )
        squares.append((drift + epsilon * score).square().mean())
    assert math.sqrt(sum(errors) / sum(squares)) < 0.02


def test_bridge_needs_a_noise_term_and_a_positive_epsilon():
    field = mixture()
    with pytest.raises(ValueError, match="needs a path with a noise term"):
        BridgeObjective(field, StochasticInterpolant(Linear()), Beta(), 1.0)
    with pytest.raises(ValueError, match=r"epsilon must be positive and finite, got 0\.0"):
        BridgeObjective(field, StochasticInterpolant(Linear(), Brownian()), Beta(), 0.0)


class Given(Gamma):
    def __init__(self, square):
        self.given = square

    def __repr__(self):
        return "Given()"

    def square(self, t):
        return self.given(t)


@pytest.mark.parametrize(
    ("square", "message"),
    [
        (lambda t: 1 + t, r"must be zero at t=0, but the square of Given\(\) is 1 there"),
        (lambda t: t, r"must be zero at t=1, but the square of Given\(\) is 1 there"),
        (
            lambda t: t * (1 - t) * (t - 0.5),
            r"must be positive and finite between the ends, but .* is -\d.* at t=0\.01",
        ),
        (
            lambda t: t * (1 - t) / (t - 0.5).abs(),
            r"positive and finite between the ends, but .* is inf at t=0\.5",
        ),
        (lambda t: torch.zeros(()), r"one square for each time, shape \(101,\), but gives \(\)"),
    ],
)
def test_impossible_scales_are_refused(square, message):
    with pytest.raises(ValueError, match=message):
        check_gamma(Given(square))


@pytest.mark.parametrize(
    ("path", "targets", "message"),
    [
        (
            "linear",
            ("v",),
            r"targets=\('v',\) are too few or too many .* learn one of \('b',\), .*\('s', 'v'\)",
        ),
        ("linear", ("eta",), r"targets=\('eta',\) are too few"),
        (
            "linear",
            ("b", "x"),
            r"some of 'b', 'v', 's', 'eta', 'eta0', 'eta1', each once, got \('b', 'x'\)",
        ),
        ("linear", ("b", "b"), r"each once, got \('b', 'b'\)"),
        ("no noise term", ("v", "s"), r"are too few or too many .* learn one of \('b',\)"),
    ],
)
def test_impossible_targets_are_refused(path, targets, message):
    with pytest.raises(ValueError, match=message):
        check_targets(targets, PATHS[path]())
    assert set(targets) - {"x"} <= set(QUANTITIES)


def test_paths_that_are_not_affine_need_a_noise_term():
    bent = StochasticInterpolant(Bent())
    with pytest.raises(ValueError, match="no noise to learn 'eta' from"):
        check_targets(("b", "eta"), bent)
    with pytest.raises(ValueError, match="no noise of a known scale"):
        bent.noise_scale(time(0.5))
    with pytest.raises(ValueError, match=r"The ends of .* do not follow from its velocity"):
        LearnedQuantities(mixture(), bent, Compose([])).denoised(time(0.5), points(2, 2))
    with pytest.raises(ValueError, match=r"The closed form needs alpha\(t\) x0"):
        MixtureField(normal_mixture(), bent)(time(0.5), points(2, 2))


def test_learned_path_is_known_to_its_drift():
    """One set of parameters, wherever the path is kept."""
    path = StochasticInterpolant(Fourier(2), bent_gamma())
    with torch.random.fork_rng():
        objective = PathObjective(
            HeadedDrift(SharedTrunk(2, 2, (4,)), ("b", "s"), path), path, Beta()
        )
    names = [name for name, _ in objective.named_parameters()]
    assert sum("modes" in name for name in names) == 3


def test_closed_form_takes_a_time_for_each_row():
    """As many rows as columns, where a wrong broadcast would not show itself."""
    target = NormalMixture(
        torch.tensor([0.3, 0.7]),
        torch.tensor([[1.0, 2.0], [-1.0, 0.5]]),
        torch.eye(2).expand(2, 2, 2) * 0.4,
    )
    field = MixtureField(target, StochasticInterpolant(Linear(), Brownian()))
    t, x = torch.tensor([0.2, 0.9]), torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    for function in (field.value_and_divergence, field.drift_and_score):
        row_by_row = [function(*row) for row in zip(t, x[:, None], strict=True)]
        for together, alone in zip(function(t, x), zip(*row_by_row, strict=True), strict=True):
            torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(
        field.log_prob(t, x),
        torch.cat([field.log_prob(*row) for row in zip(t, x[:, None], strict=True)]),
    )


def test_probes_for_a_field_without_parameters():
    field = MixtureField(NormalMixture(torch.ones(1), torch.ones(1, 2), torch.eye(2)[None]))
    assert Hutchinson(field, 3).value_and_divergence(torch.tensor(0.5), torch.ones(4, 2))[
        1
    ].shape == (4, 3)
