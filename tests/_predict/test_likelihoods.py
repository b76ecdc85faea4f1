"""Densities of diffusions and diagnoses of the likelihood, on estimators with exact fields."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow import Standardize, VelocityField
from tests.helpers import ONE_FIELD, QUICK

PATHS = {"n_paths": 64, "n_steps": 25, "random_state": 0}
HALVED = {"scaling": Standardize(torch.zeros(2), torch.full((2,), 0.5))}
"""Rows are doubled before the flow."""


class Widening(VelocityField):
    """The exact drift and score from N(0, I) to N(0, 4 I): the variance is `variance(t)`."""

    n_features = 2

    def __init__(self, variance, targets=("b",)):
        super().__init__()
        self.variance, self.targets = variance, targets

    def _slope(self, t):
        t = t.detach()
        h = 1e-4
        rate = (self.variance(t + h) - self.variance(t - h)) / (2 * h)
        return 0.5 * rate / self.variance(t)

    def forward(self, t, x):
        return self._slope(t).to(x).reshape(-1, 1) * x

    def value_and_divergence(self, t, x):
        return self(t, x), (2 * self._slope(t)).to(x).expand(len(x))

    def drift_and_score(self, t, x):
        return self(t, x), -x / self.variance(t).to(x)


def give(estimator, field):
    estimator._field = estimator._trained = field
    estimator._calibration = None
    return estimator


@pytest.fixture(scope="module")
def density():
    """Rows of N(0, I), in flow units N(0, 4 I), by the exact field of the trigonometric path."""
    X = np.random.default_rng(0).standard_normal((300, 2))
    fitted = InterpolantFlowDensity(
        **ONE_FIELD | {"max_iter": 1}, **HALVED, end_time=1.0, atol=1e-4
    ).fit(X)
    return give(fitted, Widening(lambda t: 1 + 3 * torch.sin(0.5 * torch.pi * t) ** 2)), X


@pytest.fixture(scope="module")
def transport():
    """Rows of N(0, I / 4) to rows of N(0, I), by the exact field with a noise term."""
    X = np.random.default_rng(0).standard_normal((300, 2))
    fitted = InterpolantTransport(
        **QUICK | {"max_iter": 1}, **HALVED, gamma="brownian", targets=("b", "s"), atol=1e-4
    ).fit(0.5 * X, X)
    give(fitted, Widening(lambda t: (1 - t) ** 2 + 4 * t**2 + t * (1 - t), ("b", "s")))
    return fitted, X


class Normal:
    """A density estimator with the log-density of independent normals."""

    def __init__(self, scale):
        self.scale = scale

    def score_samples(self, X):
        return stats.norm(scale=self.scale).logpdf(X).sum(axis=1)


def check_estimate(estimate, exact):
    error = estimate.standard_error
    assert 1e-4 < error.max() < 0.15
    assert (np.abs(estimate.log_density - exact) < 4 * error + 5e-3).all()
    assert (estimate.lower_bound < estimate.log_density).all()


@pytest.mark.parametrize("t", [None, 0.5])
def test_density_of_the_diffusion_is_the_closed_form(density, t):
    fitted, X = density
    scale = 1.0 if t is None else np.sqrt(2.5) / 2  # 1 + 3 / 2 in flow units
    exact = stats.norm(scale=scale).logpdf(X[:40]).sum(axis=1)
    check_estimate(fitted.diffusion_log_density(X[:40], t=t, **PATHS), exact)


@pytest.mark.parametrize("forward", [True, False])
def test_density_of_both_diffusions_of_a_transport(transport, forward):
    """From the density of the source at rows of the target, and the other way round."""
    fitted, X = transport
    scales, rows = ((0.5, 1.0), X[:40]) if forward else ((1.0, 0.5), 0.5 * X[:40])
    given = {"source_density" if forward else "target_density": Normal(scales[0])}
    estimate = fitted.diffusion_log_density(rows, **given, **PATHS)
    check_estimate(estimate, stats.norm(scale=scales[1]).logpdf(rows).sum(axis=1))
    same = fitted.diffusion_log_density(rows, **given, **PATHS)
    np.testing.assert_array_equal(same.log_density, estimate.log_density)


def test_cross_entropies_of_a_transport(transport):
    fitted, X = transport
    diagnosis = fitted.diagnose_likelihood(X[:60], source_density=Normal(0.5), **PATHS)
    exact = -stats.norm.logpdf(X[:60]).sum(axis=1).mean()
    assert diagnosis.cross_entropy == pytest.approx(exact, abs=2e-3)
    assert diagnosis.diffusion_cross_entropy == pytest.approx(exact, abs=0.03)
    assert diagnosis.diffusion_cross_entropy_bound > diagnosis.diffusion_cross_entropy


def test_diagnosis_of_an_exact_fit_and_of_other_rows(density):
    """An exact fit has no divergence; shifted rows raise the cross-entropy by half the square."""
    fitted, X = density
    diagnosis = fitted.diagnose_likelihood(X[:120], **PATHS | {"n_paths": 8})
    exact = -stats.norm.logpdf(X[:120]).sum(axis=1)
    assert diagnosis.cross_entropy == pytest.approx(exact.mean(), abs=2e-3)
    assert diagnosis.cross_entropy_error == pytest.approx(
        exact.std(ddof=1) / np.sqrt(120), rel=0.01
    )
    assert diagnosis.diffusion_cross_entropy == pytest.approx(exact.mean(), abs=0.03)
    assert diagnosis.diffusion_cross_entropy_bound > diagnosis.diffusion_cross_entropy
    assert 0.91 < diagnosis.time < 0.92  # where 2 / pi tan(pi t / 2) is 5
    assert diagnosis.fisher_divergence < 1e-3
    assert abs(diagnosis.kl_lower_bound) < 4 * diagnosis.kl_lower_bound_error + 1e-3
    # What is left of the regression loss is the variance of the rate given the point.
    t = (np.arange(8) + 0.5) / 8 * diagnosis.time
    width = 1 + 3 * np.sin(0.5 * np.pi * t) ** 2
    action = 2 * (0.75 * np.pi * np.sin(np.pi * t)) ** 2 / width
    rates = 2 * np.pi**2 / 4 * (np.sin(0.5 * np.pi * t) ** 2 + 4 * np.cos(0.5 * np.pi * t) ** 2)
    assert diagnosis.drift_error_bound == pytest.approx(
        diagnosis.time * (rates - action).mean(), rel=0.3
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, X: d.diffusion_log_density(X, n_paths=1), "n_paths must be an integer of at"),
        (lambda d, X: d.diffusion_log_density(X, epsilon=-1.0), "epsilon must be finite and not"),
        (lambda d, X: d.diffusion_log_density(X, t=2.0), r"t must be a number in \[0, 1\]"),
        (lambda d, X: d.diffusion_log_density(1e200 * X), "2 of 2 rows are so far outside"),
        (lambda d, X: d.diagnose_likelihood(X[:1]), "need at least 2 rows, got 1"),
    ],
)
def test_impossible_arguments_of_a_density(density, call, message):
    with pytest.raises(ValueError, match=message):
        call(density[0], density[1][:2])


def test_a_density_of_zero(transport):
    """Where it is zero on all paths, the log-density is minus infinity."""
    fitted, _ = transport
    nowhere = Normal(1.0)
    nowhere.score_samples = lambda rows: np.where(rows[:, 0] < 0.0, -np.inf, 0.0)
    rows = np.array([[-3.0, 0.0], [3.0, 0.0]])
    estimate = fitted.diffusion_log_density(rows, source_density=nowhere, **PATHS)
    assert np.isneginf(estimate.log_density).tolist() == [True, False]
    assert np.isfinite(estimate.standard_error).all()
    with pytest.raises(ValueError, match="source_density is zero where 1 of 2 rows come from"):
        fitted.diagnose_likelihood(rows, source_density=nowhere, **PATHS)


@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ({}, "None of source_density and target_density were given"),
        (
            {"source_density": Normal(1.0), "target_density": Normal(1.0)},
            "Both of source_density and target_density were given; give the one of the side",
        ),
    ],
)
def test_one_density_must_be_given(transport, densities, message):
    for method in (transport[0].diffusion_log_density, transport[0].diagnose_likelihood):
        with pytest.raises(ValueError, match=message):
            method(transport[1][:2], **densities)


def test_where_no_score_is_known():
    """Between two data sets without a noise term, and under a coupling."""
    X = np.random.default_rng(0).standard_normal((40, 2))
    small = QUICK | {"max_iter": 1}
    with pytest.raises(ValueError, match=r"targets=\('b', 'eta'\)"):
        InterpolantTransport(**small).fit(X, X).diffusion_log_density(
            X, source_density=KernelDensity().fit(X)
        )
    coupled = InterpolantFlowDensity(
        **ONE_FIELD | {"max_iter": 1}, coupling="optimal_transport"
    ).fit(X)
    with pytest.raises(ValueError, match="The score does not follow from the drift under"):
        coupled.diagnose_likelihood(X)
