"""Expected parts of a path, and what is made of them: the denoising integrator, learned ends."""

import pytest
import torch

from skinterflow.interflow import (
    Brownian,
    Diffusion,
    EncodingDecoding,
    Fourier,
    HeadedDrift,
    LearnedQuantities,
    Linear,
    Mirror,
    MixtureField,
    Normalized,
    NormalMixture,
    SeparateHeads,
    SineSquared,
    StochasticInterpolant,
    StochasticSolver,
    Trigonometric,
    VariancePreserving,
    VelocityField,
    denoise,
)
from skinterflow.interflow.heads import check_targets
from tests.interflow.test_quantities import time


def modes(distance, variance):
    means = torch.tensor([[-distance], [2.0 * distance]], dtype=torch.float64)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    return NormalMixture(weights, means, torch.full((2, 1, 1), variance, dtype=torch.float64))


def fourier():
    path = Fourier(2)
    with torch.no_grad():
        path.alpha_modes += 0.1
        path.beta_modes -= 0.05
    return path


SOURCE, TARGET = modes(0.5, 0.3), modes(-0.6, 0.2)
PATHS = {
    "trigonometric": (Trigonometric(), None),
    "linear": (Linear(), None),
    "variance preserving": (VariancePreserving(), None),
    "fourier": (fourier(), None),
    "linear, brownian": (Linear(), Brownian()),
    "trigonometric, sine": (Trigonometric(), SineSquared()),
    "normalized": (Normalized(Linear(), Brownian()), Brownian()),
    "encoding-decoding": (EncodingDecoding(), SineSquared()),
}
X = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]


def exact_parts(path, t, x):
    """``E[x0]``, ``E[x1]`` and ``E[z]`` of each pair of components, averaged with their weights."""
    marginal = MixtureField(TARGET, path, SOURCE)._marginal(t).mixture
    weights = path.interpolant.weights(t)
    gamma = path.noise_term(t)
    share = marginal.component_log_prob(x).softmax(0)
    off = (x[:, 0] - marginal.means) / marginal.covariances[:, :, 0]
    n = len(TARGET.weights)
    parts = []
    for end, weight, means in (
        (SOURCE, weights.alpha, SOURCE.means.repeat_interleave(n, 0)),
        (TARGET, weights.beta, TARGET.means.repeat(len(SOURCE.weights), 1)),
    ):
        parts.append((share * (means + weight * end.covariances[0, 0] * off)).sum(0))
    return [*parts, (share * gamma * off).sum(0)]


over_paths = pytest.mark.parametrize(("interpolant", "gamma"), PATHS.values(), ids=PATHS)


@over_paths
@pytest.mark.parametrize("t", [0.0, 0.2, 0.6, 0.9, 0.99, 1.0])
def test_expected_parts_on_every_affine_path(interpolant, gamma, t):
    path, at = StochasticInterpolant(interpolant, gamma), time(t)
    field = MixtureField(TARGET, path, SOURCE)
    found, weights = field.expected_parts(at, X), path.interpolant.weights(at)
    with torch.no_grad():
        for part, exact, weight, rate in zip(
            found[:2], exact_parts(path, at, X), weights[:2], weights[2:], strict=False
        ):
            if weight.abs() + rate.abs() > 1e-9:
                torch.testing.assert_close(part[:, 0], exact, rtol=1e-4, atol=1e-4)
            else:
                assert part.isnan().all()
        torch.testing.assert_close(found[2][:, 0], exact_parts(path, at, X)[2], atol=1e-6, rtol=0.0)
        if weights.beta != 0:
            torch.testing.assert_close(field.denoised(at, X), found[1])


def test_row_of_a_mirror_is_denoised():
    """From N(0, 1) with noise of variance 1/4, the row is ``x / (1 + 1/4)``."""

    class Normal(MixtureField):
        def drift_and_score(self, t, x):
            square = self.path.gamma.square(t)
            score = -x / (1.0 + square)
            return -self.path.gamma.at(t).product * score, score

    path = StochasticInterpolant(Mirror(), Brownian())
    field = Normal(NormalMixture.standard(1), path)
    torch.testing.assert_close(field.denoised(time(0.5), X), X / 1.25)


def cdf(mixture, x):
    deviations = mixture.covariances[:, 0].sqrt()
    return (mixture.weights * torch.special.ndtr((x - mixture.means.T) / deviations.T)).sum(1)


@over_paths
def test_denoising_integrator_converges_to_the_flow(interpolant, gamma):
    """Which keeps the order of points of a line, and so their place among the others; the error
    falls with the step."""
    field = MixtureField(TARGET, StochasticInterpolant(interpolant, gamma), SOURCE)
    if isinstance(interpolant, EncodingDecoding):
        with pytest.raises(ValueError, match=r"At t=0\.4[0-9]* an end has weight zero on the path"):
            denoise(field, X, n_steps=25)
        return
    errors = [
        float((cdf(TARGET, denoise(field, X, n_steps=n)) - cdf(SOURCE, X)).abs().mean())
        for n in (15, 60)
    ]
    assert errors[0] < 0.06
    assert errors[1] < 0.5 * errors[0]


def test_one_step_is_the_expected_end():
    """The last step to ``t = 1``, of the integrator and of a diffusion."""
    field = MixtureField(TARGET, StochasticInterpolant(Linear(), Brownian()), SOURCE)
    expected = field.denoised(time(0.7), X)
    torch.testing.assert_close(denoise(field, X, 0.7, 1.0, n_steps=1), expected)
    pushed = Diffusion(field, lambda t: 0.0).push(
        X, 0.699999, 1.0, StochasticSolver(n_steps=1), torch.Generator(), denoise_from=0.7
    )
    torch.testing.assert_close(pushed, expected, atol=1e-4, rtol=0.0)


def test_diffusion_that_denoises_at_the_end_keeps_the_law():
    """Up to the variance that ``E[x1 | x_t]`` loses, of order ``(1 - t)``."""
    field = MixtureField(TARGET, StochasticInterpolant(Linear(), Brownian()), SOURCE)
    generator = torch.Generator().manual_seed(0)
    x = SOURCE.sample(4_000, generator)
    drawn = Diffusion(field, lambda t: 1.0).push(
        x, 0.0, 1.0, StochasticSolver(n_steps=60), generator, denoise_from=0.99
    )
    truth = TARGET.sample(4_000, generator)
    assert float(drawn.mean()) == pytest.approx(float(truth.mean()), abs=0.06)
    assert float(drawn.var()) == pytest.approx(float(truth.var()), rel=0.06)


class Part(VelocityField):
    """One exact part of a path, as a field."""

    n_features = 1

    def __init__(self, path, name):
        super().__init__()
        self.place, self.inner = ("eta0", "eta1", "eta").index(name), (path,)

    def forward(self, t, x):
        return exact_parts(self.inner[0], t, x)[self.place][:, None]

    def value_and_divergence(self, t, x):
        value = self(t, x)
        return value, torch.zeros_like(value[:, 0])


@pytest.mark.parametrize(
    ("targets", "gamma"),
    [
        (("eta0",), None),
        (("eta1",), None),
        (("eta0", "eta1"), None),
        (("eta0", "eta1"), Brownian()),
        (("eta0", "eta"), Brownian()),
        (("eta", "eta1"), Brownian()),
        (("eta0", "eta1", "eta"), SineSquared()),
    ],
    ids=str,
)
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_drift_and_score_follow_from_the_parts(targets, gamma, t):
    path = StochasticInterpolant(Linear(), gamma)
    exact = MixtureField(TARGET, path, SOURCE)
    field = HeadedDrift(SeparateHeads([Part(path, name) for name in targets]), targets, path)
    torch.testing.assert_close(field(time(t), X), exact.drift(time(t), X))
    if gamma is not None:
        learned = LearnedQuantities(field, path)
        learned.check_score()
        torch.testing.assert_close(learned.score(time(t), X), exact.score(time(t), X))


@pytest.mark.parametrize(
    ("targets", "path"),
    [
        (("eta1",), StochasticInterpolant(Linear(), Brownian())),
        (("eta1", "eta"), StochasticInterpolant(EncodingDecoding(), SineSquared())),
        (("eta0",), StochasticInterpolant(Mirror(), Brownian())),
        (("eta1", "b"), StochasticInterpolant(Linear())),
    ],
)
def test_too_few_parts_are_refused(targets, path):
    with pytest.raises(ValueError, match="are too few or too many"):
        check_targets(targets, path)
