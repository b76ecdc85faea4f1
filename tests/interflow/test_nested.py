"""Rows carried as accurately as is asked, each for itself, and error bars that hold outside of the
data."""

import math
from dataclasses import replace

import pytest
import torch

from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import FrozenField, ResidualMLP
from skinterflow.interflow.flows import Flow, Pushforward, points_outside
from skinterflow.interflow.grading import LEVELS, UNGRADED
from skinterflow.interflow.nested import Carrier
from skinterflow.interflow.trajectories import Clock
from tests.helpers import Counted, perturbed, points
from tests.oracles import mixture


def network(*widths, d=3, seed=0):
    with torch.random.fork_rng():
        return perturbed(
            ResidualMLP(d, widths, generator=torch.Generator().manual_seed(seed)), size=0.2
        )


def draws(field, n, seed=0):
    return field.target.sample(n, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def graded():
    """A field, its grading, and rows of three kinds that the grading has not seen."""
    field = mixture(2)
    rows = draws(field, 200, 1)
    kinds = dict(zip(("tail", "uniform"), points_outside(rows), strict=True))
    return field, Flow(field).calibrate(draws(field, 96)), {"data": rows, **kinds}


@pytest.mark.parametrize("kind", ["data", "tail", "uniform"])
@pytest.mark.parametrize("atol", [0.1, 0.05, 1e-3])
def test_one_row_in_twenty_at_most_exceeds_its_error_bar(graded, kind, atol):
    field, grading, rows = graded
    measured = Pushforward(Flow(field, grading.solver(atol, 0.0))).measured_log_prob(rows[kind])
    error = (measured.value - field.target.log_prob(rows[kind])).abs()
    assert (error > measured.error).double().mean() <= 0.05
    assert (measured.unresolved == (measured.error > atol)).all()


@pytest.mark.parametrize("atol", [0.1, 1e-3, 1e-6])
def test_graded_rows_of_the_data_are_as_accurate_as_asked(graded, atol):
    field, grading, rows = graded
    measured = Pushforward(Flow(field, grading.solver(atol, 0.0))).measured_log_prob(rows["data"])
    error = (measured.value - field.target.log_prob(rows["data"])).abs()
    assert not measured.unresolved.any()
    assert error.quantile(0.95) <= atol


def test_calibration_of_a_field_starts_where_its_rows_are_accurate(graded):
    _, grading, _ = graded
    levels = [grading.solver(atol, 0.0).first("density") for atol in (10.0, 1e-2, 1e-9)]
    assert levels[0][1:] == (13, 13)
    assert levels == sorted(levels)
    assert levels[-1].precision == 1
    assert grading.solver(10.0, 0.0).first("points").m == LEVELS[0]


@pytest.mark.parametrize("widths", [(8, 8, 8), (8, 8), (32,) * 4], ids=str)
@pytest.mark.parametrize("atol", [1e-1, 1e-4], ids=["float32", "float64"])
def test_a_row_is_the_same_to_the_last_bit_beside_any_others(widths, atol):
    field, x = FrozenField(network(*widths)), 1.5 * points(300, 3)
    density = Pushforward(Flow(field, UNGRADED.solver(atol, 0.0)))
    whole = density.measured_log_prob(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    permuted = density.measured_log_prob(x[order])
    parts = [density.measured_log_prob(part) for part in x[:35].split(7)]
    alone = {row: density.measured_log_prob(x[row : row + 1]) for row in (0, 63, 299)}
    for column in range(2):
        assert torch.equal(permuted[column], whole[column][order])
        assert torch.equal(torch.cat([part[column] for part in parts]), whole[column][:35])
        for row, measured in alone.items():
            assert torch.equal(measured[column][0], whole[column][row])


@pytest.mark.slow
def test_a_row_is_the_same_to_the_last_bit_among_many(monkeypatch):
    field, x = network(8, 8, 8), 2.0 * points(4_000, 3)
    flow = Flow(field, UNGRADED.solver(0.1, 0.0))
    whole = flow.pull_and_logdet(x)[1]
    assert torch.equal(flow.pull_and_logdet(x[-1_000:])[1], whole[-1_000:])
    assert torch.equal(flow.pull_and_logdet(x[-1:])[1], whole[-1:])
    monkeypatch.setattr("skinterflow.interflow.nested._CHUNK_NUMBERS", 2**14)
    assert torch.equal(flow.pull_and_logdet(x[-1_000:])[1], whole[-1_000:])


def test_only_rows_above_the_tolerance_go_on():
    """Near the middle of a narrow mode the field is steep; far from it nothing happens."""
    field = Counted(mixture(2))
    easy = Carrier(field, Clock(0.3, 0.0), UNGRADED.solver(1.0, 0.0), "density").carry(
        points(128, 2)
    )
    assert field.divergences == 13 * 128
    assert not easy.unresolved.any()
    field.divergences = 0
    Carrier(field, Clock(1.0, 0.0), UNGRADED.solver(1e-3, 0.0), "density").carry(points(128, 2))
    assert field.divergences > 25 * 128


def test_rows_whose_rules_never_agree_have_a_large_error_and_are_counted():
    class Wild(Counted):
        def forward(self, t, x):
            return torch.zeros_like(x)

        def value_and_divergence(self, t, x):
            self.divergences += len(x)
            return torch.zeros_like(x), torch.where(x[:, 0] > 0, 1e3 * torch.sin(1e5 * t), 1.0)

    field = Wild(mixture(2))
    solver = replace(UNGRADED.solver(1e-3, 0.0), finest=97)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    carried = Carrier(field, Clock(0.0, 1.0), solver, "log_det").carry(x)
    assert carried.unresolved.tolist() == [True, False]
    assert float(carried.error[0]) > 10.0
    assert float(carried.log_det[1, 0]) == pytest.approx(1.0, abs=1e-3)
    assert field.divergences <= 128 * 13 + 64 * (12 + 24 + 48)


def test_rows_far_outside_are_carried_in_float64():
    field = network(8, 8, 8)
    x = torch.tensor([[0.1, 0.2, 0.3], [1e40, 0.0, 0.0]], dtype=torch.float64)
    carried = Flow(field, UNGRADED.solver(0.05, 1e-5)).transport(x, 1.0, 0.0)
    assert carried.y.isfinite().all()


@pytest.mark.parametrize("probes", [1, 4])
def test_several_estimates_of_the_divergence_have_a_standard_error(probes):
    flow = Flow(Hutchinson(network(8, 8, 8), probes), UNGRADED.solver(1e-2, 0.0))
    y, error, _ = flow.transport_with_logdet(points(5, 3), 1.0, 0.0)
    assert y.shape == (5, 3 + probes)
    assert error.isfinite().all()
    standard_error = flow.split(y)[2]
    assert bool(standard_error.isnan().all()) == (probes == 1)


def test_forth_and_back_is_no_change_of_volume():
    flow = Flow(network(8, 8, 8), UNGRADED.solver(1e-6, 0.0))
    there = flow.transport_with_logdet(points(5, 3), 0.2, 0.9).y
    back = flow.transport_with_logdet(there[:, :3], 0.9, 0.2).y
    torch.testing.assert_close(back[:, :3], points(5, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(back[:, 3], -there[:, 3], rtol=0, atol=1e-5)


def test_float32_is_as_good_as_its_error_says():
    field, x = network(16, 16, 16), points(50, 3)
    single = Pushforward(Flow(field, UNGRADED.solver(5e-3, 0.0))).measured_log_prob(x)
    assert UNGRADED.solver(5e-3, 0.0).first("density").precision == 0
    double = Pushforward(Flow(field, UNGRADED.solver(1e-9, 0.0))).measured_log_prob(x)
    assert ((single.value - double.value).abs() <= single.error).all()
    assert single.value.dtype == torch.float64


def test_no_rows_and_no_time_are_no_work():
    flow = Flow(mixture(2))
    assert flow.transport_with_logdet(torch.zeros(0, 2, dtype=torch.float64), 1.0, 0.0).y.shape == (
        0,
        3,
    )
    y = flow.transport_with_logdet(points(3, 2), 0.5, 0.5).y
    assert torch.equal(y[:, :2], points(3, 2))
    assert not y[:, 2].any()
    assert math.isclose(
        float(Pushforward(flow).log_prob(torch.zeros(1, 2, dtype=torch.float64), 0.0)),
        -math.log(2 * math.pi),
    )
