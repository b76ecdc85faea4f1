"""Laws of the paths, over a registry."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow.interpolants import (
    AffineInterpolant,
    EncodingDecoding,
    Fourier,
    Linear,
    Trigonometric,
    VariancePreserving,
    check_endpoints,
    learned_parameters,
)
from tests.helpers import Bent


class Quadratic(AffineInterpolant):
    """A user's own affine path."""

    def alpha(self, t):
        return 1 - t**2

    def beta(self, t):
        return t**2


def learned():
    """A Fourier path on its way."""
    path = Fourier(3)
    with torch.no_grad():
        path.alpha_modes.copy_(torch.tensor([0.3, -0.2, 0.1]))
        path.beta_modes.copy_(torch.tensor([-0.1, 0.2, 0.05]))
    return path


INTERPOLANTS = {
    "trigonometric": Trigonometric,
    "linear": Linear,
    "variance preserving": VariancePreserving,
    "encoding-decoding": EncodingDecoding,
    "learned": learned,
    "user's path": Bent,
    "user's affine path": Quadratic,
}
SHAPES = st.sampled_from([(1, 1), (1, 3), (3, 1), (3, 3), (4, 2), (2, 3, 4), (3, 3, 3)])
over_registry = pytest.mark.parametrize("make", INTERPOLANTS.values(), ids=INTERPOLANTS)


def ends(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


@over_registry
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_path_starts_at_the_base_and_ends_at_the_data(make, shape, seed):
    x0, x1 = ends(shape, seed)
    for t, end in ((0.0, x0), (1.0, x1)):
        torch.testing.assert_close(
            make()(torch.full(shape[:1], t, dtype=torch.float64), x0, x1), end
        )
        torch.testing.assert_close(make()(torch.tensor(t, dtype=torch.float64), x0, x1), end)


@over_registry
@given(shape=SHAPES, seed=st.integers(0, 99), time=st.floats(0.01, 0.99))
def test_rate_equals_finite_differences(make, shape, seed, time):
    x0, x1 = ends(shape, seed)
    t, h = torch.full(shape[:1], time, dtype=torch.float64), 1e-6
    point, rate = make().path(t, x0, x1)
    torch.testing.assert_close(point, make()(t, x0, x1))
    torch.testing.assert_close(
        rate, (make()(t + h, x0, x1) - make()(t - h, x0, x1)) / (2 * h), rtol=1e-6, atol=1e-5
    )


@over_registry
@given(n=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_row_has_its_own_time(make, n, seed):
    """Also where the number of rows equals the number of features, as a wrong broadcast would go
    unseen otherwise."""
    x0, x1 = ends((n, n), seed)
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    together = make()(t, x0, x1)
    for row in range(n):
        torch.testing.assert_close(
            together[row], make()(t[row : row + 1], x0[row : row + 1], x1[row : row + 1])[0]
        )


@pytest.mark.parametrize("make", [Trigonometric, VariancePreserving])
def test_path_keeps_unit_covariance(make):
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(make().alpha(t) ** 2 + make().beta(t) ** 2, torch.ones(11))


@pytest.mark.parametrize("make", [Trigonometric, Linear, VariancePreserving, learned])
@given(shape=SHAPES, seed=st.integers(0, 99), time=st.floats(0.01, 0.99))
def test_expected_ends_of_a_single_pair_are_its_ends(make, shape, seed, time):
    """Where only one path passes, the point and its rate tell both ends."""
    x0, x1 = ends(shape, seed)
    t = torch.full(shape[:1], time, dtype=torch.float64)
    torch.testing.assert_close(
        make().expected_ends(t, *make().path(t, x0, x1)), (x0, x1), rtol=1e-6, atol=1e-6
    )


def test_rate_of_the_variance_preserving_path_is_finite_at_its_end():
    x0, x1 = ends((2, 2), 0)
    point, rate = VariancePreserving().path(torch.ones(2, dtype=torch.float64), x0, x1)
    torch.testing.assert_close(point, x1)
    assert torch.isfinite(rate).all()


def test_untrained_fourier_path_is_trigonometric_and_learns():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(Fourier().alpha(t), Trigonometric().alpha(t))
    torch.testing.assert_close(Fourier().beta(t), Trigonometric().beta(t))
    path = learned()
    x0, x1 = ends((11, 2), 0)
    point, rate = path.path(t.double(), x0, x1)
    (point.square().sum() + rate.square().sum()).backward()
    assert all((p.grad != 0).all() for p in learned_parameters(path))
    assert [len(p) for p in learned_parameters(path, "a name", Linear())] == [3, 3]


def test_path_that_misses_its_end_is_refused_with_the_miss():
    class Short(Linear):
        def beta(self, t):
            return 0.5 * t

    with pytest.raises(ValueError, match=r"must give x1 at t=1, but misses it by 1\b"):
        check_endpoints(Short(), 3)
    for make in INTERPOLANTS.values():
        check_endpoints(make(), 3)
