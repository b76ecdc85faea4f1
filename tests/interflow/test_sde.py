"""Integration of diffusions: laws with closed forms, orders, errors."""

import math

import pytest
import torch

from skinterflow.interflow.sde import NOISE_LEVELS, STOCHASTIC_METHODS, StochasticSolver


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("method", STOCHASTIC_METHODS)
def test_ornstein_uhlenbeck_process(method):
    """``dX = -2 X dt + sqrt(2 (1 + t)) dW`` from 3: mean and variance in closed form."""
    solver = StochasticSolver(method, n_steps=200 if method == "heun" else 1000)
    y0 = torch.full((20_000, 1), 3.0, dtype=torch.float64)
    y = solver.solve(lambda t, y: -2.0 * y, lambda t: 1.0 + t, y0, 0.0, 1.0, generator())
    variance = 2 * ((1 - math.exp(-4)) / 4 + 1 / 4 - (1 - math.exp(-4)) / 16)
    assert float(y.mean()) == pytest.approx(3 * math.exp(-2), abs=4 * math.sqrt(variance / 20_000))
    assert float(y.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("euler", 1)])
def test_order_of_convergence_without_noise(method, order):
    y0 = torch.ones(1, 1, dtype=torch.float64)
    errors = [
        abs(
            float(
                StochasticSolver(method, n).solve(
                    lambda t, y: -y, lambda t: 0.0, y0, 0.0, 1.0, generator()
                )
            )
            - math.exp(-1)
        )
        for n in (50, 100)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_same_generator_same_paths():
    y0 = torch.zeros(5, 2)
    paths = [
        StochasticSolver(n_steps=4).solve(lambda t, y: y, lambda t: 1.0, y0, 0.0, 0.5, generator(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(paths[0], paths[1])
    assert not torch.equal(paths[0], paths[2])
    assert paths[0].dtype == torch.float32


@pytest.mark.parametrize("level", NOISE_LEVELS.values(), ids=NOISE_LEVELS)
def test_named_levels_vanish_at_the_data(level):
    assert level(1.0) == pytest.approx(0.0, abs=1e-12)
    assert all(level(k / 10) >= 0 for k in range(11))


def test_divergence_names_the_time_and_the_rows():
    def explosive(t, y):
        return torch.where(y > 0, y**3, 0.0)

    y0 = torch.tensor([[5.0], [-1.0], [9.0]], dtype=torch.float64)
    with pytest.raises(
        FloatingPointError,
        match=r"is not finite for 2 of 3 rows at t=0\.\d+; raise n_steps above 50",
    ):
        StochasticSolver(n_steps=50).solve(explosive, lambda t: 0.0, y0, 0.0, 1.0, generator())


@pytest.mark.parametrize(
    "level", [lambda t: t - 0.5, lambda t: float("inf") if t > 0.9 else 1.0, lambda t: float("nan")]
)
def test_impossible_noise_is_refused(level):
    with pytest.raises(
        ValueError,
        match=r"epsilon must be finite and not negative on \[0, 1\], but is .* at t=",
    ):
        StochasticSolver().solve(lambda t, y: y, level, torch.zeros(2, 2), 0.0, 1.0, generator())


def test_noise_of_the_wrong_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=(
            r"epsilon must return a single number for a time, but returned an array of shape "
            r"\(2,\) at t=0"
        ),
    ):
        StochasticSolver().solve(
            lambda t, y: y, lambda t: torch.ones(2), torch.zeros(2, 2), 0.0, 1.0, generator()
        )


@pytest.mark.parametrize("forward", [True, False])
def test_integrals_along_the_path_get_no_noise(forward):
    solver = StochasticSolver(n_steps=50)

    def drift(t, y):
        return torch.cat([torch.zeros_like(y[:, :1]), torch.ones_like(y[:, :1])], dim=1)

    y = solver.solve(
        drift,
        lambda t: 2.0,
        torch.zeros(4000, 2),
        1.0 - forward,
        float(forward),
        generator(),
        n_noisy=1,
    )
    torch.testing.assert_close(y[:, 1], torch.full((4000,), 1.0 if forward else -1.0))
    assert float(y[:, 0].var()) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"method": "milstein"}, "Unknown stochastic solver"), ({"n_steps": 0}, "at least 1, got 0")],
)
def test_impossible_solver_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        StochasticSolver(**choice)
