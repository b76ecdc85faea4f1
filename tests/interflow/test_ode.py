"""The integration: order, accuracy per row, rows apart, bounds on the work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from skinterflow.interflow.ode import (
    ADAPTIVE_METHODS,
    FIXED_GRID_ORDERS,
    Solver,
    calibrate,
    time_grid,
)
from tests.helpers import points


def pendulum(t, y):
    """A driven pendulum: smooth, nonlinear, no closed form."""
    return torch.stack([y[:, 1], torch.cos(3 * t) - 5 * torch.sin(y[:, 0])], dim=1)


def reference(y0, t0, t1):
    def f(t, y):
        return pendulum(torch.tensor(t), torch.from_numpy(y)[None])[0].numpy()

    return np.stack(
        [solve_ivp(f, (t0, t1), row, rtol=1e-11, atol=1e-12).y[:, -1] for row in y0.numpy()]
    )


def starts(n, seed=0):
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", FIXED_GRID_ORDERS)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.8, 0.1)])
def test_accepted_rows_are_as_accurate_as_asked(method, t0, t1):
    solver = Solver(method, atol=1e-3 if method == "euler" else 1e-5, rtol=0.0, max_refinements=11)
    solution = solver.solve(pendulum, starts(6), t0, t1)
    assert not solution.unresolved.any()
    errors = np.abs(solution.y.numpy() - reference(starts(6), t0, t1)).max(axis=1)
    assert (errors <= solver.atol).all()


@pytest.mark.parametrize("method", FIXED_GRID_ORDERS)
def test_error_estimate_falls_with_the_order_of_the_method(method):
    errors = [
        float(
            Solver(method, atol=np.inf, n_steps=n, max_refinements=1)
            .solve(pendulum, starts(4), 0.0, 1.0)
            .error.max()
        )
        for n in (32, 64)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(FIXED_GRID_ORDERS[method], abs=0.35)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_adaptive_methods_agree(method):
    solution = Solver(method, atol=1e-8, rtol=1e-8).solve(pendulum, starts(3), 0.0, 1.0)
    errors = np.abs(solution.y.numpy() - reference(starts(3), 0.0, 1.0)).max(axis=1)
    assert (errors < 1e-7).all()
    assert (errors <= solution.error.numpy() + 1e-10).all()
    assert not solution.unresolved.any()


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_step_size_suits_the_most_difficult_of_many_rows(method):
    """One fast row among a thousand that rest: a mean over the rows sees a thirtieth of its
    error."""

    def turning(t, y):
        return y[:, 2:] * torch.stack([-y[:, 1], y[:, 0], torch.zeros_like(y[:, 0])], dim=1)

    y0 = torch.zeros(1_000, 3, dtype=torch.float64)
    y0[:, 0] = 1.0
    y0[0, 2] = 40.0
    solution = Solver(method, atol=1e-3, rtol=0.0).solve(turning, y0, 0.0, 1.0)
    error = float((solution.y[0, :2] - torch.tensor([np.cos(40.0), np.sin(40.0)])).norm())
    assert error <= float(solution.error[0]) <= 1e-3
    torch.testing.assert_close(solution.y[1:], y0[1:])


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_rows_that_no_tolerance_resolves_are_counted(method):
    """In float32 the last digits do not agree with a tolerance of 1e-9."""
    solution = Solver(method, atol=1e-9, rtol=0.0).solve(pendulum, starts(3).float(), 0.0, 1.0)
    assert solution.unresolved.all()
    assert (solution.error > 1e-9).all()


@given(n=st.integers(1, 6), seed=st.integers(0, 20))
def test_rows_do_not_see_each_other(n, seed):
    y0, solver = starts(n, seed), Solver(atol=1e-6)
    together = solver.solve(pendulum, y0, 1.0, 0.0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        solver.solve(pendulum, y0[order], 1.0, 0.0).y, together.y[order], rtol=1e-12, atol=1e-12
    )
    for row in range(n):
        alone = solver.solve(pendulum, y0[row : row + 1], 1.0, 0.0)
        torch.testing.assert_close(alone.y[0], together.y[row], rtol=1e-12, atol=1e-12)


def test_only_rows_above_the_tolerance_are_refined():
    """An easy row beside a hard one is solved twice, on 8 and on 16 steps of four stages."""
    evaluated = []

    def f(t, y):
        evaluated.append(len(y))
        return -y * torch.where(y[:, :1] > 0, 1.0, 25.0)

    solver = Solver(atol=1e-7)
    solver.solve(f, torch.tensor([[1.0], [-1.0]], dtype=torch.float64), 0.0, 1.0)
    assert evaluated.count(2) == (8 + 16) * 4
    assert set(evaluated) == {1, 2}


def test_work_is_bounded_and_what_is_left_is_marked():
    calls = []

    def f(t, y):
        calls.append(t)
        return torch.sin(1e4 * y)

    solution = Solver(atol=1e-12, rtol=0.0, max_refinements=3).solve(
        f, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0
    )
    assert solution.unresolved.all()
    assert solution.error[0] > 1e-12
    assert len(calls) == (8 + 16 + 32 + 64) * 4


def test_float32_stays_float32_and_says_what_it_cannot_hold():
    """Its error includes rounding; a tolerance below that is reported as missed, without endless
    refinement."""
    evaluated = []

    def counted(t, y):
        evaluated.append(len(y))
        return pendulum(t, y)

    solution = Solver(atol=1e-9, rtol=0.0).solve(counted, starts(4).float(), 0.0, 1.0)
    assert solution.y.dtype == torch.float32
    assert solution.unresolved.all()
    assert (
        np.linalg.norm(solution.y.numpy() - reference(starts(4), 0.0, 1.0), axis=1)
        <= solution.error.numpy()
    ).all()
    assert len(evaluated) < (8 + 16 + 32 + 64 + 128) * 4


def stiff(t, y):
    """Slow but near t = 0.3, where it swings; rows differ in how much."""
    return y[:, :1] * torch.exp(-1e3 * (t - 0.3) ** 2) * torch.tensor(
        [[20.0, 15.0]], dtype=y.dtype
    ) - 0.1 * y.flip(1)


@pytest.fixture(scope="module")
def calibration():
    return calibrate(stiff, starts(20), 0.0, 1.0)


def test_calibrated_steps_are_dense_where_the_field_is_stiff(calibration):
    times = time_grid(0.0, 1.0, 20, calibration.nodes)
    assert ((times > 0.2) & (times < 0.4)).double().mean() > 0.4
    for n_steps in (12, 24):
        exact = Solver(atol=1e-7, rtol=0.0).solve(stiff, starts(20, 1), 0.0, 1.0).y
        errors = [
            float(
                (solver.on_grid(stiff, starts(20, 1), 0.0, 1.0, n_steps) - exact).norm(dim=1).mean()
            )
            for solver in (Solver(nodes=calibration.nodes), Solver())
        ]
        assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("atol", [1e-1, 1e-3, 1e-5])
def test_calibrated_solver_does_the_least_work(calibration, atol):
    """Counted on other rows, no other first grid of the calibration is cheaper by more than a
    fifth, and the accuracy is what was asked."""

    def work(solver):
        evaluated = []

        def counted(t, y):
            evaluated.append(len(y))
            return stiff(t, y)

        return solver.solve(counted, starts(40, 2), 0.0, 1.0), sum(evaluated)

    chosen = calibration.solver(atol, 0.0)
    solution, done = work(chosen)
    assert not solution.unresolved.any()
    assert done <= 1.2 * min(
        work(replace(chosen, n_steps=n, max_refinements=8))[1] for n in (2, 4, 8)
    )


def test_calibration_of_a_part_of_the_path_covers_the_whole():
    nodes = calibrate(stiff, starts(5), 0.8, 0.0).nodes
    assert Solver(nodes=nodes).nodes == nodes
    assert 0.8 in nodes


def test_one_row_in_twenty_at_most_is_worse_than_its_estimate(calibration):
    exact = Solver(atol=1e-7, rtol=0.0).solve(stiff, starts(100, 3), 0.0, 1.0).y
    for atol in (1e-1, 1e-2, 1e-3):
        solution = calibration.solver(atol, 0.0).solve(stiff, starts(100, 3), 0.0, 1.0)
        assert ((solution.y - exact).norm(dim=1) > solution.error).double().mean() <= 0.05


@pytest.mark.parametrize(
    "nodes", [(0.0, 0.6, 0.4, 1.0), (0.1, 1.0), (0.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.0,)]
)
def test_time_grid_out_of_order_is_refused(nodes):
    with pytest.raises(
        ValueError, match=r"nodes of a time grid must increase from 0 to 1, got \(0\.\d"
    ):
        Solver(nodes=nodes)


def test_velocity_that_is_not_finite_is_named_with_rows_and_time():
    def f(t, y):
        return torch.where((y > 0) & (t > 0.5), torch.nan, 0.0 * y)

    with pytest.raises(FloatingPointError, match=r"not finite for 2 of 3 rows at t=0\.[5-9]"):
        Solver().solve(f, torch.tensor([[1.0], [-1.0], [2.0]]), 0.0, 1.0)


def test_adaptive_method_that_fails_says_so():
    with pytest.raises(
        FloatingPointError, match=r"solver='dopri5' gave up on 1 rows between t=0 and t=1"
    ):
        Solver("dopri5", atol=1e-9).solve(
            lambda t, y: y**3 * 1e6, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0
        )


@given(t0=st.floats(0, 1), t1=st.floats(0, 1), n=st.integers(1, 20))
def test_grid_runs_from_start_to_end(t0, t1, n):
    grid = time_grid(t0, t1, n)
    assert len(grid) == n + 1
    assert (float(grid[0]), float(grid[-1])) == (t0, t1)
    assert ((grid.diff() * (1 if t1 >= t0 else -1)) >= -1e-15).all()


def test_no_rows_and_no_time_are_no_work():
    for y0, t1 in ((torch.zeros(0, 2), 1.0), (torch.ones(3, 2), 0.0)):
        assert torch.equal(Solver().solve(pendulum, y0, 0.0, t1).y, y0)


def test_unknown_method_and_tolerances_are_refused():
    with pytest.raises(ValueError, match=r"Unknown solver 'rk5'; choose one of 'euler'"):
        Solver("rk5")
    for atol, rtol in ((0.0, 0.0), (-1.0, 0.1), (0.1, -1.0), (float("nan"), 0.0)):
        with pytest.raises(
            ValueError, match=r"must not be negative and not both be zero, got atol="
        ):
            Solver(atol=atol, rtol=rtol)


def test_tolerance_below_what_float64_can_hold_is_refused():
    with pytest.raises(
        ValueError,
        match=r"atol=1e-18 with rtol=0\.0 is below the precision.*Set atol to 1e-10 or more",
    ):
        Solver(atol=1e-18, rtol=0.0)
    assert Solver(atol=1e-18, rtol=1e-5).tolerance(torch.ones(1, 1)) == pytest.approx(1e-5)


def test_calibration_makes_coarse_estimates_honest():
    """A rate that oscillates too fast for the first grids, so that two of them agree and both are
    wrong."""

    def rate(t, y):
        return torch.cos(8 * torch.pi * t) * (1 + y[:, :1].square()) * torch.ones_like(y)

    y0 = points(64, 2)
    calibration = calibrate(rate, y0, 1.0, 0.0)
    assert max(calibration.caution) > 2.0
    assert min(calibration.caution) >= 1.0
    exact = (
        Solver(atol=1e-10, rtol=0.0, max_refinements=9).solve(rate, points(200, 2, 1), 1.0, 0.0).y
    )
    for atol in (0.3, 0.03):
        solution = calibration.solver(atol, 0.0).solve(rate, points(200, 2, 1), 1.0, 0.0)
        assert ((solution.y - exact).norm(dim=1) > solution.error).double().mean() <= 0.05
