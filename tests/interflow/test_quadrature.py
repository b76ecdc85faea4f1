"""Quadrature: what is exact, nested, and fast."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from skinterflow.interflow.quadrature import chebyshev, clenshaw_curtis, fejer


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10, 160])
def test_polynomials_are_integrated(n):
    nodes, weights = fejer(n)
    assert len(nodes) == n - 1
    assert (weights > 0).all()
    assert (nodes.abs() < 0.5).all()
    for power in range(min(n - 1, 20)):
        expected = 0.5**power / (power + 1) if power % 2 == 0 else 0.0
        assert float((weights * nodes**power).sum()) == pytest.approx(expected, abs=1e-14)


def test_rules_are_nested():
    torch.testing.assert_close(fejer(20)[0][1::2], fejer(10)[0])


def test_steep_ends_are_resolved():
    nodes, weights = fejer(160)
    value = float((weights * torch.exp(-200.0 * (nodes + 0.5))).sum())
    assert value == pytest.approx(
        quad(lambda x: np.exp(-200.0 * (x + 0.5)), -0.5, 0.5)[0], rel=1e-6
    )


@pytest.mark.parametrize("n", [3, 7, 13, 25, 385])
def test_polynomials_are_integrated_with_both_ends(n):
    nodes, weights = clenshaw_curtis(n)
    assert (float(nodes[0]), float(nodes[-1])) == (-0.5, 0.5)
    assert (weights > 0).all()
    for power in range(min(n, 20)):
        expected = 0.5**power / (power + 1) if power % 2 == 0 else 0.0
        assert float((weights * nodes**power).sum()) == pytest.approx(expected, abs=1e-14)


def test_rules_with_both_ends_are_nested():
    torch.testing.assert_close(clenshaw_curtis(25)[0][::2], clenshaw_curtis(13)[0])


@pytest.mark.parametrize("n", [3, 8, 25])
def test_chebyshev_coefficients_are_those_of_the_polynomial(n):
    values = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nodes = 2.0 * clenshaw_curtis(n)[0].numpy()
    np.testing.assert_allclose(
        np.polynomial.chebyshev.chebval(nodes, (chebyshev(n) @ values).numpy()),
        values.numpy(),
        atol=1e-12,
    )
