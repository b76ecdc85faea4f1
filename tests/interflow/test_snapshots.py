"""A field at one time is the field, in either precision."""

import pytest
import torch

from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import AveragedField, FrozenField, ResidualMLP
from skinterflow.interflow.heads import HeadedDrift, SeparateHeads, SharedTrunk
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from skinterflow.interflow.snapshots import NetworkSnapshot
from tests.helpers import perturbed, points
from tests.oracles import mixture


def network(*widths, activation="silu", d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        return perturbed(ResidualMLP(d, widths, activation, generator=generator))


def trunk(n_heads):
    with torch.random.fork_rng():
        return perturbed(SharedTrunk(3, n_heads, (6, 6, 6)))


LATENT = StochasticInterpolant(Trigonometric(), Brownian())
FIELDS = {
    "deep": lambda: network(6, 6, 6),
    "deep, of other widths": lambda: network(6, 6, 4, 8),
    "one layer": lambda: network(6),
    "two layers": lambda: network(6, 6),
    "two layers of other widths": lambda: network(6, 4, activation="tanh"),
    "elu": lambda: network(5, 5, 5, activation="elu"),
    "average": lambda: AveragedField([network(6, 6, 6), network(5, 5, seed=1)]),
    "mixture": lambda: mixture(3),
    "heads of one trunk": lambda: HeadedDrift(trunk(2), ("v", "s"), LATENT).double(),
    "separate heads": lambda: HeadedDrift(
        SeparateHeads([network(6, 6, 6), network(6, 6)]), ("v", "eta"), LATENT
    ).double(),
    "one-sided": lambda: HeadedDrift(trunk(1), ("eta",), StochasticInterpolant(Linear())).double(),
    "estimated": lambda: Hutchinson(network(6, 6, 6), 5),
}


@pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_snapshot_is_the_field(make, t, dtype):
    field, time, x = make(), torch.tensor(t, dtype=torch.float64), points(9, 3)
    with torch.no_grad():
        snapshot = field.at(time, dtype)
        given = x.to(snapshot.dtype or x.dtype)
        v, divergence = field.value_and_divergence(time, x)
        found = (snapshot.velocity(given), *snapshot.with_divergence(given))
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-4}
        if given.dtype == torch.float32
        else {"rtol": 1e-9, "atol": 1e-9}
    )
    for expected, value in zip((v, v, divergence), found, strict=True):
        assert value.dtype == given.dtype
        torch.testing.assert_close(value.double(), expected, **tolerance)
    assert torch.equal(given, x.to(given.dtype))  # nothing was worked out in place of the rows


@pytest.mark.parametrize("name", ["deep", "two layers", "heads of one trunk"])
def test_snapshot_stays_when_the_weights_change(name):
    field, x = FIELDS[name](), points(9, 3)
    snapshot = field.at(torch.tensor(0.4, dtype=torch.float64), torch.float64)
    before = snapshot.velocity(x)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.zero_()
    assert torch.equal(snapshot.velocity(x), before)


def test_parts_of_the_rows_make_the_whole(monkeypatch):
    field, time, x = network(6, 6, 6), torch.tensor(0.3, dtype=torch.float64), points(64, 3)
    whole = field.at(time, torch.float64).with_divergence(x)[1]
    monkeypatch.setattr("skinterflow.interflow.snapshots._TANGENT_ELEMENTS", 8 * 3 * 6)
    torch.testing.assert_close(field.at(time, torch.float64).with_divergence(x)[1], whole)


@pytest.mark.parametrize("n_rows", [1, 8, 9, 63, 64])
def test_rows_that_only_fill_a_block_change_nothing(monkeypatch, n_rows):
    """A block of 64 rows, whose last rows are copies, in parts of eight."""
    monkeypatch.setattr("skinterflow.interflow.snapshots._TANGENT_ELEMENTS", 8 * 3 * 6)
    field, time = network(6, 6, 6), torch.tensor(0.3, dtype=torch.float64)
    full = points(64, 3)
    filled = torch.cat([full[:n_rows], full[n_rows - 1 : n_rows].expand(64 - n_rows, -1)])
    v, divergence = field.at(time, torch.float64).with_divergence(filled)
    slopes = field.network_at(time, torch.float64).with_slopes(filled, 2)[1]
    assert v.shape == (64, 3)
    assert divergence.shape == (64,)
    assert slopes.shape == (64, 2)
    expected = field.at(time, torch.float64).with_divergence(full)[1]
    assert torch.equal(divergence[:n_rows], expected[:n_rows])
    assert torch.equal(divergence[n_rows:], divergence[n_rows - 1 : n_rows].expand(64 - n_rows))
    expected = field.network_at(time, torch.float64).with_slopes(full, 2)[1]
    assert torch.equal(slopes[:n_rows], expected[:n_rows])


def test_rows_that_only_fill_a_block_are_left_out(monkeypatch):
    monkeypatch.setattr("skinterflow.interflow.snapshots._TANGENT_ELEMENTS", 8 * 3 * 6)
    network_at = network(6, 6, 6).network_at(torch.tensor(0.3).double(), torch.float64)
    worked, x = [], points(9, 3)
    met = NetworkSnapshot._met

    def counted(self, slopes, n):
        worked.append(len(slopes[0]))
        return met(self, slopes, n)

    monkeypatch.setattr(NetworkSnapshot, "_met", counted)
    network_at.snapshot().with_divergence(torch.cat([x, x[-1:].expand(55, -1)]))
    assert worked == [8, 8]


class TestFrozenField:
    def test_is_the_field(self):
        field, t, x = network(6, 6, 6), torch.tensor(0.3, dtype=torch.float64), points(9, 3)
        frozen = FrozenField(field)
        assert (frozen.n_features, frozen.n_estimates) == (3, None)
        assert torch.equal(frozen(t, x), field(t, x))
        for found, expected in zip(
            frozen.value_and_divergence(t, x), field.value_and_divergence(t, x), strict=True
        ):
            assert torch.equal(found, expected)

    def test_each_time_and_precision_has_a_snapshot_of_its_own(self):
        field, x = network(6, 6, 6), points(9, 3)
        frozen = FrozenField(field)
        for _ in range(2):
            for t in (0.3, 0.4):
                time = torch.tensor(t, dtype=torch.float64)
                for dtype in (torch.float32, torch.float64):
                    snapshot = frozen.at(time, dtype)
                    assert snapshot is frozen.at(time, dtype)
                    assert torch.equal(
                        snapshot.velocity(x.to(dtype)), field.at(time, dtype).velocity(x.to(dtype))
                    )

    def test_what_is_kept_is_bounded(self, monkeypatch):
        monkeypatch.setattr("skinterflow.interflow.fields._MOST_SNAPSHOTS", 3)
        frozen = FrozenField(network(6, 6, 6))
        for t in torch.linspace(0.0, 1.0, 8, dtype=torch.float64):
            frozen.at(t, torch.float32)
        assert len(frozen._kept) == 3
