"""Rectified flows against closed forms, without a fit of the first flow."""

import numpy as np
import pytest
import torch

from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowRegressor,
    InterpolantTransport,
    reflow,
)
from skinterflow.interflow import VelocityField

RECIPE = {"hidden_layer_sizes": (16, 16), "max_iter": 120, "batch_size": 64, "random_state": 0}
SPREADS = np.array([2.0, 0.5])


class Independent(VelocityField):
    """Velocity of lines between independent N(0, I) and N(0, diag(spread)^2), of which the flow is
    ``x0 sqrt((1 - t)^2 + spread^2 t^2)``."""

    def __init__(self):
        super().__init__()
        self.register_buffer("squares", torch.from_numpy(SPREADS**2))

    @property
    def n_features(self):
        return 2

    def forward(self, t, x):
        return self.slopes(t, x) * x

    def value_and_divergence(self, t, x):
        slopes = self.slopes(t, x)
        return slopes * x, slopes.sum(dim=1).expand(len(x))

    def slopes(self, t, x):
        t, squares = t.to(x).reshape(-1, 1), self.squares.to(x)
        return (squares * t - (1.0 - t)) / ((1.0 - t) ** 2 + squares * t**2)


def with_closed_form(estimator, *sides):
    """The estimator with the exact field in place of a trained one."""
    estimator.set_params(hidden_layer_sizes=(8,), max_iter=1, scaling=None, random_state=0)
    estimator.fit(*sides)
    estimator._field = estimator._trained = Independent()
    estimator._calibration = None
    estimator._cache = {}
    return estimator


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((400, 2))


@pytest.fixture(scope="module")
def bent(rows):
    return with_closed_form(InterpolantTransport(atol=1e-6), rows, rows * SPREADS)


@pytest.fixture(scope="module")
def straight(bent, rows):
    return reflow(bent, rows, transport=InterpolantTransport(**RECIPE))


def test_straightness_of_crossing_lines_is_the_closed_form(bent, rows):
    """``int (d width / dt)^2 dt - (spread - 1)^2`` for each column."""
    t = np.linspace(0.0, 1.0, 20_001)
    rate = np.gradient(np.sqrt((1 - t) ** 2 + SPREADS[:, None] ** 2 * t**2), t, axis=1)
    bends = np.trapezoid(rate**2, t, axis=1) - (SPREADS - 1.0) ** 2
    diagnosis = bent.diagnose(rows, rows * SPREADS, random_state=0)
    assert diagnosis.straightness == pytest.approx(bends @ (rows**2).mean(axis=0), rel=0.1)


def test_reflow_straightens_and_keeps_the_map(bent, straight, rows):
    """Lines from x to spread x do not cross: their flow is straight and has the same map."""
    before, after = (
        model.diagnose(rows, rows * SPREADS, random_state=0) for model in (bent, straight)
    )
    assert after.straightness < 0.02 * before.straightness
    new = np.random.default_rng(1).standard_normal((1_000, 2))
    np.testing.assert_allclose(straight.transform(new), bent.transform(new), atol=0.15)
    np.testing.assert_allclose(straight.transform(new).std(axis=0), SPREADS, rtol=0.06)


def test_a_straight_flow_remains_as_it_is(straight, rows):
    again = reflow(straight, rows, transport=InterpolantTransport(**RECIPE))
    np.testing.assert_allclose(again.transform(rows), straight.transform(rows), atol=0.1)
    assert again.diagnose(rows, again.transform(rows), random_state=0).straightness < 0.01


def test_ends_of_a_density(rows):
    """Its rows with their latents, and as many base points with their images."""
    density = with_closed_form(
        InterpolantFlowDensity(early_stopping=False, end_time=1.0, atol=1e-6), rows * SPREADS
    )
    seen = []

    class Watched(InterpolantTransport):
        def fit(self, X0, X1, paired):
            seen.append((X0, X1))
            return super().fit(X0, X1, paired=paired)

    one = Watched(**RECIPE | {"max_iter": 1})
    reflow(density, rows * SPREADS, transport=one, random_state=0)
    start, end = seen[0]
    assert len(start) == 2 * len(rows)
    np.testing.assert_allclose(start * SPREADS, end, atol=1e-3)
    np.testing.assert_array_equal(end[: len(rows)], rows * SPREADS)
    reflow(density, rows * SPREADS, transport=one, random_state=0)
    np.testing.assert_array_equal(seen[1][0], start)


@pytest.mark.parametrize(
    ("estimator", "transport", "error", "message"),
    [
        (InterpolantFlowRegressor(), None, TypeError, "got InterpolantFlowRegressor"),
        (InterpolantTransport(), None, ValueError, "not fitted yet"),
        ("bent", "linear", TypeError, "transport must be an InterpolantTransport or None, got str"),
        ("mirror", None, ValueError, "interpolant='mirror' connects a data set to itself"),
        ("bounded", None, ValueError, "fitted with bounds, integer_features, which a map"),
    ],
)
def test_what_has_no_pairs_is_refused(rows, bent, estimator, transport, error, message):
    tiny = {"hidden_layer_sizes": (8,), "max_iter": 1, "random_state": 0}
    X = np.abs(np.rint(rows))
    fits = {
        "bent": lambda: bent,
        "mirror": lambda: InterpolantTransport(
            **tiny, interpolant="mirror", gamma="sine_squared"
        ).fit(rows),
        "bounded": lambda: InterpolantFlowDensity(
            **tiny, bounds={0: (-0.5, None)}, integer_features=[1], early_stopping=False
        ).fit(X + [[0.3, 0.0]] * rows),
    }
    with pytest.raises(error, match=message):
        reflow(fits.get(estimator, lambda: estimator)(), rows, transport=transport)
