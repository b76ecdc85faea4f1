"""Laws of the couplings, over a registry."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow.couplings import Given, Independent, OptimalTransport
from tests.helpers import points

COUPLINGS = {
    "independent": Independent,
    "given": Given,
    "optimal transport": OptimalTransport,
    "in groups": lambda: OptimalTransport(3),
}
over_registry = pytest.mark.parametrize("make", COUPLINGS.values(), ids=COUPLINGS)


def cost(x0, x1):
    return float((x0 - x1).square().sum())


@over_registry
@given(n=st.integers(1, 9), d=st.integers(1, 4), seed=st.integers(0, 20))
def test_every_base_point_meets_one_data_point(make, n, d, seed):
    x0, x1 = points(n, d, seed), points(n, d, seed + 1)
    partners = make().partners(x0, x1)
    assert torch.equal(partners.sort().values, torch.arange(n))
    assert cost(x0[partners], x1) <= cost(x0, x1) + 1e-9


def test_optimal_transport_is_the_cheapest_of_all_permutations():
    x0, x1 = points(5, 2, 0), points(5, 2, 1)
    cheapest = min(cost(x0[list(order)], x1) for order in itertools.permutations(range(5)))
    assert cost(x0[OptimalTransport().partners(x0, x1)], x1) == pytest.approx(cheapest)


def test_groups_do_not_mix():
    x0, x1 = points(7, 2, 0), points(7, 2, 1)
    partners = OptimalTransport(3).partners(x0, x1)
    assert (partners // 3).tolist() == [0, 0, 0, 1, 1, 1, 2]
