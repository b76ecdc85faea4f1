"""Trajectories: order, what is evaluated and what is kept, and the signs of errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow import trajectories
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.quadrature import clenshaw_curtis
from skinterflow.interflow.trajectories import Clock, interpolation, refined, travel
from tests.helpers import Counted, points
from tests.oracles import mixture

DOUBLE = torch.float64


def log_density(found):
    x0 = found.end
    return -0.5 * (x0.square().sum(1) + x0.shape[1] * math.log(2 * math.pi)) + found.log_det()[:, 0]


@given(t0=st.floats(0, 1), t1=st.floats(0, 1))
def test_clock_runs_from_start_to_end(t0, t1):
    clock, s = Clock(t0, t1), clenshaw_curtis(25)[0].tolist()
    times = [clock.time(each) for each in s]
    assert times[0] == pytest.approx(t0, abs=1e-15)
    assert times[-1] == pytest.approx(t1, abs=1e-15)
    assert all(min(t0, t1) <= time <= max(t0, t1) for time in times)
    assert (np.diff(times) * (1 if t1 >= t0 else -1) >= -1e-15).all()


@pytest.mark.parametrize("s", [-0.5, -0.2, 0.1, 0.5])
def test_rate_of_the_clock_is_its_derivative(s):
    clock, h = Clock(0.9, 0.1), 1e-6
    inside = min(max(s, -0.5 + h), 0.5 - h)
    assert clock.rate(inside) == pytest.approx(
        (clock.time(inside + h) - clock.time(inside - h)) / (2 * h), rel=1e-6
    )


@pytest.mark.parametrize(("t0", "t1"), [(1.0, 0.0), (0.0, 0.8), (0.3, 0.7)])
def test_positions_converge_by_the_fourth_order(t0, t1):
    field, x, clock = mixture(2), points(5, 2), Clock(t0, t1)
    exact = travel(field, x, clock, 193, None, DOUBLE).end
    errors = [
        float((travel(field, x, clock, m, None, DOUBLE).end - exact).norm()) for m in (25, 49)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.7)


def test_log_determinant_converges_fast():
    field, x = mixture(2), points(20, 2)
    errors = [
        float(
            (
                log_density(travel(field, x, Clock(1.0, 0.0), 97, n, DOUBLE))
                - field.target.log_prob(x)
            )
            .abs()
            .mean()
        )
        for n in (7, 13, 25)
    ]
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.1 * errors[1]


def test_signs_fall_with_the_errors():
    field, x, clock = mixture(2), points(20, 2), Clock(1.0, 0.0)
    found = [travel(field, x, clock, m, m, DOUBLE) for m in (13, 25, 49)]
    for sign in ("defect", "roughness"):
        sizes = [float(getattr(each, sign)().mean()) for each in found]
        assert sizes[0] > 3 * sizes[1] > 9 * sizes[2]


def test_each_step_takes_three_velocities_beside_the_one_at_its_node():
    field = Counted(mixture(2))
    travel(field, points(128, 2), Clock(1.0, 0.0), 13, 7, DOUBLE)
    assert field.divergences == 7 * 128
    assert field.velocities == (3 * 12 + 6) * 128


def test_levels_that_few_rows_reach_have_smaller_blocks():
    field, x, clock = Counted(mixture(2)), points(3, 2), Clock(1.0, 0.0)
    known = travel(field, x, clock, 13, 13, DOUBLE)
    few = travel(field, x, clock, 13, 13, DOUBLE, few=True)
    assert field.divergences == 13 * (128 + 64)
    torch.testing.assert_close(few.end, known.end, rtol=0, atol=1e-12)
    field.divergences = 0
    refined(known, field, clock, 25, DOUBLE, DOUBLE)
    assert field.divergences == 12 * 64


def test_wide_rows_have_smaller_blocks(monkeypatch):
    """The signs of errors are then taken of blocks of the same size."""
    field, x, clock = Counted(mixture(2)), points(60, 2), Clock(1.0, 0.0)
    known = travel(field, x, clock, 13, 13, DOUBLE)
    monkeypatch.setattr(trajectories, "_BLOCK_NUMBERS", 51)
    field.divergences = 0
    found = travel(field, x, clock, 13, 13, DOUBLE)
    assert field.divergences == 13 * 75
    torch.testing.assert_close(found.end, known.end, rtol=0, atol=1e-12)
    assert [block.positions.shape for block in found.blocks()] == [(13, 25, 2)] * 3
    assert [block.divergences.shape for block in found.blocks()] == [(13, 25, 1)] * 3


def test_nodes_between_are_all_that_a_finer_rule_evaluates():
    field, clock = Counted(mixture(2)), Clock(1.0, 0.0)
    known = travel(field, points(128, 2), clock, 25, 13, DOUBLE)
    field.velocities = field.divergences = 0
    found = refined(known, field, clock, 25, DOUBLE, DOUBLE)
    assert (field.velocities, field.divergences) == (0, 12 * 128)
    torch.testing.assert_close(
        found.log_det(),
        travel(field, points(128, 2), clock, 25, 25, DOUBLE).log_det(),
        rtol=0,
        atol=1e-12,
    )


def test_positions_between_are_interpolated_where_they_are_not_known():
    field, clock, x = mixture(2), Clock(1.0, 0.0), points(10, 2)
    found = refined(travel(field, x, clock, 25, 25, DOUBLE), field, clock, 49, DOUBLE, DOUBLE)
    torch.testing.assert_close(
        found.positions, travel(field, x, clock, 49, 49, DOUBLE).positions, rtol=0, atol=2e-3
    )
    torch.testing.assert_close(log_density(found), field.target.log_prob(x), rtol=0, atol=2e-2)


def test_interpolation_is_exact_for_polynomials():
    nodes, finer = clenshaw_curtis(7)[0], clenshaw_curtis(13)[0]
    torch.testing.assert_close(interpolation(7, 13) @ nodes**6, finer**6)


def test_velocity_that_is_not_finite_is_named_with_rows_and_time():
    class Broken(VelocityField):
        n_features = 1

        def forward(self, t, x):
            return torch.where((x > 0) & (t > 0.5), torch.nan, 0.0 * x)

        def value_and_divergence(self, t, x):
            return self(t, x), torch.zeros_like(x[:, 0])

    with pytest.raises(FloatingPointError, match=r"not finite for 2 of 3 rows at t=0\.[5-9]"):
        travel(Broken(), torch.tensor([[1.0], [-1.0], [2.0]]), Clock(0.0, 1.0), 13, 13, DOUBLE)
