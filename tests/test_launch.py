"""A fit on several processes that the package starts itself."""

import os

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    InterpolantTransport,
    launch,
)
from skinterflow._launch import _MappedFile
from tests.helpers import QUICK

ROWS = np.random.default_rng(0).normal(size=(101, 2))


def mapped(path, rows):
    written = np.memmap(path, rows.dtype, "w+", 0, rows.shape)
    written[:] = rows
    written.flush()
    return written


def test_launch_gives_the_fit_of_one_process(tmp_path):
    rows = mapped(tmp_path / "rows", ROWS), 1.0 + ROWS[1:]
    transport = InterpolantTransport(**QUICK, device="cpu")
    assert launch(transport, *rows, n_processes=2) is transport
    alone = InterpolantTransport(**QUICK).fit(*rows)
    np.testing.assert_allclose(transport.transform(ROWS), alone.transform(ROWS), atol=1e-5)
    assert transport.get_params() == InterpolantTransport(**QUICK).get_params()


def test_a_detector_is_fitted_by_processes():
    detector = InterpolantFlowOutlierDetector(
        hidden_layer_sizes=(8,), max_iter=3, n_folds=2, random_state=0
    )
    alone = clone(detector).fit(ROWS).score_samples(ROWS)
    np.testing.assert_allclose(launch(detector, ROWS).score_samples(ROWS), alone, atol=1e-4)


def test_error_of_a_process_is_raised(tmp_path):
    density = InterpolantFlowDensity(**QUICK)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        launch(density, np.full((10, 2), np.nan))
    assert not density.__sklearn_is_fitted__()


@pytest.mark.parametrize(
    ("estimator", "n", "error", "message"),
    [
        (
            InterpolantFlowDensity(),
            0,
            ValueError,
            "n_processes must be an integer of at least 1, got 0",
        ),
        (InterpolantFlowDensity(), 1.5, ValueError, "must be an integer of at least 1, got 1.5"),
        (GaussianMixture(), 2, TypeError, "got GaussianMixture; use joblib for others"),
    ],
)
def test_invalid_calls_are_refused(estimator, n, error, message):
    with pytest.raises(error, match=message):
        launch(estimator, ROWS, n_processes=n)


def test_launch_within_a_group_is_refused(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(ValueError, match="already in one; call fit on all of its ranks"):
        launch(InterpolantFlowDensity(), ROWS)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="n_processes=2 is more than the 1 GPUs"):
        launch(InterpolantFlowDensity(device="auto"), ROWS)


def test_only_a_whole_map_is_opened_by_its_name(tmp_path):
    rows = mapped(tmp_path / "rows", ROWS)
    file = _MappedFile.of(rows)
    assert os.fspath(file.filename).endswith("rows")
    np.testing.assert_array_equal(file.open(), ROWS)
    assert _MappedFile.of(rows[3:]) is not file
    assert isinstance(_MappedFile.of(rows[3:]), np.memmap)
    assert _MappedFile.of(ROWS) is ROWS
