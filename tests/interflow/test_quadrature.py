"""Quadrature: what is exact, nested, and fast."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from skinterflow.interflow.quadrature import fejer


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
