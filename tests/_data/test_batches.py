"""Where training rows come from: in memory or read when needed, the same rows either way."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow import InterpolantFlowDensity
from skinterflow._data import batches
from skinterflow._data.batches import (
    Reader,
    ShuffledPasses,
    ShuffledRows,
    StreamedRows,
    training_rows,
)
from skinterflow._runtime import seeded_generators
from skinterflow.interflow.scaling import Standardize
from tests.helpers import QUICK


def reader(X):
    scaling = Standardize(
        torch.ones(2, dtype=torch.float64), torch.full((2,), 4.0, dtype=torch.float64)
    )
    return Reader(X, np.arange(1.0, len(X) + 1), np.zeros(2), scaling, torch.device("cpu"))


@given(n_rows=st.integers(1, 40), batch_size=st.integers(1, 40))
def test_a_pass_draws_every_row_as_often_as_any_other(n_rows, batch_size):
    passes = ShuffledPasses(n_rows, torch.device("cpu"), seed=0)
    drawn = [passes.batch(number, batch_size) for number in range(5)]
    assert all(len(rows) == batch_size for rows in drawn)
    counts = torch.bincount(drawn[0], minlength=n_rows)
    assert counts.max() - counts.min() <= 1
    whole = (
        torch.cat([passes.batch(number, batch_size) for number in range(n_rows // batch_size)])
        if batch_size <= n_rows
        else drawn[0]
    )
    assert len(whole.unique()) == min(len(whole), n_rows)


def test_shuffled_passes_differ_and_a_number_is_one_batch():
    passes = ShuffledPasses(10, torch.device("cpu"), seed=0)
    drawn = [passes.batch(number, 5).tolist() for number in range(6)]
    assert len({tuple(rows) for rows in drawn}) == 6
    assert [passes.batch(number, 5).tolist() for number in reversed(range(6))] == drawn[::-1]


@pytest.mark.parametrize("kind", [ShuffledRows, StreamedRows])
def test_batches_hold_all_rows_but_those_held_out(kind, monkeypatch):
    """Each with its own weight, in flow units, in random order."""
    monkeypatch.setattr(batches, "_IN_MEMORY_ELEMENTS", 0 if kind is StreamedRows else 100)
    X, held_out = np.arange(20.0).reshape(10, 2), torch.tensor([7, 3])
    generators = seeded_generators(0, torch.device("cpu"))
    source = training_rows(reader(X), held_out, generators.cpu)
    drawn = [source.batch(number, 4, generators) for number in range(200)]
    assert isinstance(source, kind)
    assert len(source) == 8
    u, weight = (torch.cat(part) for part in zip(*drawn, strict=True))
    assert u.dtype == weight.dtype == torch.float32
    rows = ((4 * u[:, 0] + 1) / 2).long()
    assert set(rows.tolist()) == set(range(10)) - {3, 7}
    assert torch.equal(weight, rows + 1.0)
    counts = torch.bincount(rows)[[0, 1, 2, 4, 5, 6, 8, 9]]
    assert counts.min() > 60
    assert not torch.equal(u[:, 0], u[:, 0].sort().values)


def test_log_det_is_that_of_the_scaling():
    rows = reader(np.arange(6.0).reshape(3, 2)).read(torch.tensor([2, 0]), torch.Generator())
    torch.testing.assert_close(
        rows.log_det, torch.full((2,), -2 * np.log(4.0), dtype=torch.float64)
    )
    torch.testing.assert_close(rows.u[:, 0], torch.tensor([0.75, -0.25]))


@pytest.mark.slow
def test_memory_map_is_read_in_parts(tmp_path, monkeypatch):
    """Fit and score touch a few rows at a time, and the result is a density as good as one fitted
    in memory."""
    monkeypatch.setattr(batches, "_IN_MEMORY_ELEMENTS", 100)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.normal(size=(5000, 2)).astype(np.float32) * [1.0, 5.0])
    X = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sizes = []
    read = Reader._read
    monkeypatch.setattr(
        Reader,
        "_read",
        lambda self, rows, *rest: sizes.append(len(rows)) or read(self, rows, *rest),
    )
    density = InterpolantFlowDensity(**(QUICK | {"max_iter": 100}), mixture=None).fit(X)
    assert max(sizes) <= 500  # the held-out rows; batches are smaller
    assert density.score(X[:500]) == pytest.approx(
        -0.5 * 2 * (1 + np.log(2 * np.pi)) - np.log(5.0), abs=0.1
    )


class Failing(np.ndarray):
    """Rows on a disk that gives up."""

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            raise OSError("[Errno 5] Input/output error: 'rows.npy'")
        return super().__getitem__(key)


def test_disk_error_leaves_the_previous_state(fitted, iris, monkeypatch):
    density, before = InterpolantFlowDensity(**QUICK), dict(vars(fitted))
    vars(density).update(before)
    monkeypatch.setattr(
        Reader, "read", lambda self, rows, generator: self.X.view(Failing)[rows.numpy()]
    )
    with pytest.raises(OSError, match=r"Input/output error: 'rows\.npy'"):
        density.fit(iris)
    assert vars(density) == before
