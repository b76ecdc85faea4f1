"""Laws of conditional flows: their field, their solver, and mixtures of increasing maps."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from skinterflow.interflow import (
    Beta,
    BoundField,
    ConditionalFlow,
    ConditionalMLP,
    ConditionalObjective,
    Ensemble,
    Trigonometric,
)
from skinterflow.interflow.monotone import MonotoneMixture, latent_nodes, log_normal_mass
from tests.helpers import perturbed, trace_of_jacobian


def made(n_outputs=1, n_context=3, seed=0, **parameters):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        field = ConditionalMLP(n_outputs, n_context, (8, 8), (6, 6), **parameters)
    return perturbed(field, seed)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
@pytest.mark.parametrize("head", [(5,), (6, 6), (6, 5), (4, 4, 4)])
def test_divergence_is_the_trace_of_the_jacobian(n_outputs, head):
    with torch.random.fork_rng():
        field = perturbed(ConditionalMLP(n_outputs, 2, (7, 7), head), 1)
    t = torch.tensor(0.4, dtype=torch.float64)
    rows, context = drawn(4, n_outputs + 2), drawn(4, 2, seed=1)
    bound = field.bind(context)
    for each, x in ((field, rows), (bound, rows[:, :n_outputs])):
        torch.testing.assert_close(each.value_and_divergence(t, x)[0], each(t, x))
    torch.testing.assert_close(
        field.value_and_divergence(t, rows)[1], trace_of_jacobian(field, t, rows)
    )


def test_the_field_of_rows_moves_the_outputs_as_the_bound_one_and_keeps_the_context():
    field, rows = made(2), drawn(5, 5)
    t = torch.tensor(0.7, dtype=torch.float64)
    velocity = field(t, rows)
    bound = field.bind(rows[:, 2:])
    assert isinstance(bound, BoundField)
    torch.testing.assert_close(velocity[:, :2], bound(t, rows[:, :2]))
    assert (velocity[:, 2:] == 0).all()


def test_an_untrained_flow_is_the_identity():
    with torch.random.fork_rng():
        field = ConditionalMLP(2, 3, (8,), (6, 6)).double()
    y = drawn(4, 5, 2)
    carried = ConditionalFlow(field).pull(drawn(4, 3), y)
    torch.testing.assert_close(carried.y, y)
    assert (carried.log_det == 0).all()


@pytest.mark.parametrize("end_time", [0.6, 1.0])
def test_pull_inverts_push(end_time):
    flow = ConditionalFlow(made(2), end_time, atol=1e-8)
    context, z = drawn(4, 3), drawn(4, 5, 2, seed=1)
    y = flow.push(context, z).y
    back = flow.pull(context, y)
    assert (y - z).abs().max() > 0.1
    torch.testing.assert_close(back.y, z, atol=1e-5, rtol=0)


def test_log_determinant_is_that_of_the_jacobian():
    flow, context = ConditionalFlow(made(2), atol=1e-7), drawn(3, 3)
    y = drawn(3, 1, 2, seed=1)
    log_det = flow.pull(context, y).log_det[:, 0]
    step = 1e-4
    columns = [
        (flow.pull(context, y + h).y - flow.pull(context, y - h).y)[:, 0] / (2 * step)
        for h in step * torch.eye(2, dtype=torch.float64)
    ]
    expected = torch.linalg.slogdet(torch.stack(columns, dim=-1)).logabsdet
    torch.testing.assert_close(log_det, expected, atol=1e-5, rtol=0)


def test_the_density_of_one_output_is_the_derivative_of_its_distribution_and_has_mass_one():
    flow, context = ConditionalFlow(made(), atol=1e-8), drawn(2, 3)
    y = torch.linspace(-12.0, 12.0, 2001, dtype=torch.float64)[None, :, None].expand(2, -1, -1)
    carried = flow.pull(context, y)
    log_prob = -0.5 * (carried.y[..., 0] ** 2 + math.log(2 * math.pi)) + carried.log_det
    mass = torch.trapezoid(log_prob.exp(), y[0, :, 0], dim=1)
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)
    cdf = torch.special.ndtr(carried.y[..., 0])
    rate = (cdf[:, 2:] - cdf[:, :-2]) / (y[0, 2:, 0] - y[0, :-2, 0])
    torch.testing.assert_close(rate, log_prob.exp()[:, 1:-1], atol=2e-4, rtol=0)


def test_the_error_bounds_what_a_finer_solve_changes():
    with torch.random.fork_rng():
        field = perturbed(ConditionalMLP(1, 3, (8, 8), (6, 6)), size=0.3)
    context, y = drawn(20, 3), 2.0 * drawn(20, 1, 1, seed=1)
    coarse = ConditionalFlow(field, atol=1e-2).pull(context, y)
    exact = ConditionalFlow(field, atol=1e-10).pull(context, y)
    resolved = coarse.error <= 1e-2
    wrong = (coarse.y - exact.y).abs()[:, 0, 0] > coarse.error + 1e-9
    assert resolved.float().mean() >= 0.9
    assert wrong.float().mean() <= 0.15


def test_many_points_are_carried_as_few():
    flow, context = ConditionalFlow(made(), atol=1e-6), drawn(3, 3)
    z = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
    expected = flow.push(context, z.expand(3, -1)[..., None]).y[..., 0]
    table = flow.table(context, z)
    torch.testing.assert_close(table.y, expected, atol=1e-4, rtol=5e-4)
    finer = flow.table(context[1:], z, flow.table(context, z[::2]).rows(torch.tensor([1, 2])))
    for part, whole in zip(finer, table, strict=True):
        torch.testing.assert_close(part, whole[1:])


def test_points_of_a_table_are_accurate_as_probabilities():
    """Also where the density is high, so that small errors of a point are large probabilities."""
    with torch.random.fork_rng():
        field = perturbed(ConditionalMLP(1, 3, (8, 8), (6, 6)), size=0.3)
    field.modulation.bias.data[-1] -= 5.0  # contracts: the density is high
    context, z = drawn(12, 3), latent_nodes(33)
    atol, exact = 5e-4, ConditionalFlow(field, atol=1e-8)
    table = ConditionalFlow(field, atol=atol).table(context, z)
    assert (table.error <= atol).all()
    back = exact.pull(context, table.y[..., None]).y[..., 0]
    wrong = (torch.special.ndtr(back) - torch.special.ndtr(z)).abs()
    assert wrong.max() < 1e-3
    slopes = table.y.diff(dim=1) / z.diff()
    assert slopes.min() < 0.01
    single = ConditionalFlow(field.float(), atol=1e-12).table(context.float(), z.float())
    assert (single.error > 1e-9).all()  # rounding is part of the error


def test_rows_do_not_depend_on_each_other():
    flow, context, y = ConditionalFlow(made(), atol=1e-6), drawn(6, 3), drawn(6, 2, 1, seed=1)
    together = flow.pull(context, y)
    for row in range(6):
        alone = flow.pull(context[row : row + 1], y[row : row + 1])
        torch.testing.assert_close(alone.y[0], together.y[row], atol=1e-12, rtol=0)


def test_the_log_density_at_an_end_time_is_that_of_the_flow_that_ends_there():
    field, rows = made(), drawn(4, 4)
    times = torch.tensor([1.0, 0.5, 1.0, 0.8], dtype=torch.float64)
    values = ConditionalFlow(field, atol=1e-6).log_prob_at(rows, times)
    for row, time in enumerate(times.tolist()):
        alone = ConditionalFlow(field, time, 1e-6).log_prob(rows[row : row + 1])
        torch.testing.assert_close(values[row : row + 1], alone)


def test_the_loss_is_lowest_at_the_conditional_velocity():
    """Between N(0, 1) and the point y = x, the velocity is that of a straight path."""
    objective = ConditionalObjective(made().float(), Trigonometric(), Beta())
    x1 = drawn(32, 4).float()
    generator = torch.Generator().manual_seed(0)
    t, keep = objective.draw(x1, generator)
    x0 = torch.randn(32, objective.n_source_columns, generator=generator)
    assert t.shape == (2, 8)
    assert objective(x0, x1, t, keep).shape == (32,)
    modulations = objective.field.modulations(x1[:, 1:], keep)
    expected = []
    for row in range(32):
        for k in range(8):
            time = t[row // 16, k]
            a, b = torch.cos(0.5 * math.pi * time), torch.sin(0.5 * math.pi * time)
            y, z = x1[row, 0], x0[row, k]
            point, rate = a * z + b * y, 0.5 * math.pi * (a * y - b * z)
            v = objective.field.velocity(
                point[None], modulations[row] + objective.field.time_modulations(time)
            )[0]
            expected.append(v * v - 2 * v * rate)
    expected = torch.stack(expected).reshape(32, 8).mean(1)
    torch.testing.assert_close(objective(x0, x1, t, keep), expected, atol=1e-4, rtol=1e-4)


def test_members_train_together_as_alone():
    members = [
        ConditionalObjective(made(seed=k).float(), Trigonometric(), Beta(1.0, 0.5))
        for k in range(2)
    ]
    ensemble, x1 = Ensemble(members), drawn(2, 16, 4).float()
    t, keep = ensemble.draw(x1, torch.Generator().manual_seed(0))
    x0 = drawn(2, 16, 8, seed=3).float()
    together = ensemble(x0, x1, t, keep)
    for k in range(2):
        torch.testing.assert_close(together[k], members[k](x0[k], x1[k], t[k], keep[k]))


def test_dropout_scales_what_it_keeps():
    keep = made(dropout=0.25).draw_keep(2000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert keep.shape == (2000, 16)
    assert {round(float(v), 4) for v in keep.unique()} == {0.0, round(4 / 3, 4)}
    assert keep.mean() == pytest.approx(1.0, abs=0.01)


def test_a_dropped_layer_is_left_out():
    field, context = made(), drawn(5, 3)
    keep = torch.ones(5, 16, dtype=torch.float64)
    torch.testing.assert_close(field.modulations(context, keep), field.modulations(context))
    keep[:, 8:] = 0.0  # the second layer, whose input is added to its output
    first = torch.nn.functional.silu(field.trunk[0](context))
    torch.testing.assert_close(field.modulations(context, keep), field.modulation(first))


# Mixtures of increasing maps.


def bent():
    z = latent_nodes(97)
    return MonotoneMixture(
        torch.stack([z - 2.0 + 0.5 * torch.sin(z), 1.5 * z + 2.0, z.sinh()])[None],
        torch.tensor([0.3, 0.3, 0.4]),
    )


def test_quantiles_invert_the_distribution_and_do_not_cross():
    mixture, levels = bent(), torch.linspace(1e-3, 1.0 - 1e-3, 199, dtype=torch.float64)
    y = mixture.quantiles(levels)
    assert (y.diff() > 0).all()
    torch.testing.assert_close(mixture.cdf(y)[0][0], levels, atol=1e-8, rtol=0)


def test_quantiles_of_members_that_are_almost_the_same():
    """Their quantiles bracket that of the mixture up to the error of the interpolation only."""
    z = latent_nodes(9)
    mixture = MonotoneMixture(torch.stack([z.sinh(), z.sinh() + 1e-7])[None], torch.ones(2))
    levels = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    found = mixture.cdf(mixture.quantiles(levels))[0][0]
    torch.testing.assert_close(found, levels, atol=1e-7, rtol=0)


def test_tails_are_accurate_where_the_distribution_is_one():
    z = latent_nodes(97)
    mixture = MonotoneMixture(torch.stack([z, 2.0 * z])[None], torch.tensor([0.5, 0.5]))
    latents = torch.tensor([-20.0, -9.0, 0.0, 9.0, 20.0], dtype=torch.float64)
    y = mixture.quantiles_of_latents(latents)
    side = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    log_tail, slope = mixture.log_tail(y, side > 0)
    expected = torch.special.log_ndtr(-side * latents)
    torch.testing.assert_close(log_tail[0], expected, rtol=1e-9, atol=1e-9)
    more = mixture.log_tail(y + 1e-6, side > 0)[0]
    torch.testing.assert_close((log_tail - more) * side / 1e-6, slope, rtol=1e-4, atol=1e-6)


def test_a_mass_is_accurate_in_both_tails():
    a = torch.tensor([-40.0, -1.0, 8.0, 60.0, -torch.inf, 3.0, -torch.inf], dtype=torch.float64)
    b = torch.tensor([-39.0, 2.0, 8.5, 61.0, -4.0, torch.inf, torch.inf], dtype=torch.float64)
    expected = [special.log_ndtr(p) + np.log1p(-np.exp(special.log_ndtr(q) - special.log_ndtr(p)))
                for q, p in [(-40, -39), (-1, 2), (-8.5, -8), (-61, -60), (-np.inf, -4),
                             (-np.inf, -3), (-np.inf, np.inf)]]  # fmt: skip
    torch.testing.assert_close(log_normal_mass(a, b), torch.tensor(expected).double())


def test_the_distribution_is_that_of_the_maps():
    y = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64)
    z = MonotoneMixture(latent_nodes(97).sinh()[None, None], torch.ones(1))
    torch.testing.assert_close(z.latents(y[None])[0][0, 0], y.asinh(), atol=1e-5, rtol=0)
    value, density = z.cdf(y[None])
    torch.testing.assert_close(value[0], torch.special.ndtr(y.asinh()), atol=1e-5, rtol=0)
    expected = torch.exp(-0.5 * y.asinh() ** 2) / math.sqrt(2 * math.pi) / torch.sqrt(1 + y**2)
    torch.testing.assert_close(density[0], expected, atol=1e-4, rtol=0)


def test_the_mean_and_the_estimated_error():
    mixture = bent()
    torch.testing.assert_close(
        mixture.mean(), torch.zeros(1, dtype=torch.float64), atol=1e-9, rtol=0
    )
    lognormal = MonotoneMixture((0.5 * latent_nodes(49)).exp()[None, None], torch.ones(1))
    assert lognormal.mean() == pytest.approx(math.exp(0.125), rel=1e-6)
    rough = MonotoneMixture(
        (latent_nodes(49) + 0.6 * torch.sin(5.0 * latent_nodes(49)) / 5.0)[None, None],
        torch.ones(1),
    )
    y = torch.linspace(-3.0, 3.0, 301, dtype=torch.float64)
    points = y + 0.6 * torch.sin(5.0 * y) / 5.0
    true = torch.special.ndtr(y) - rough.cdf(points[None])[0][0]
    assert mixture.error() < 1e-4 < rough.error()
    assert true.abs().max() < 2.0 * rough.error()


def test_maps_continue_as_straight_lines():
    line = MonotoneMixture((2.0 * latent_nodes(49) + 1.0)[None, None], torch.ones(1))
    torch.testing.assert_close(
        line.push(torch.tensor([-9.0, 9.0], dtype=torch.float64))[0, 0],
        torch.tensor([-17.0, 19.0], dtype=torch.float64),
    )
