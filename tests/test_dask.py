"""On a cluster and lazily, predictions and fits are those of the arrays."""

import sys

import numpy as np
import pandas as pd
import pytest

import skinterflow.dask
from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow import Solver
from tests.helpers import QUICK

TINY = QUICK | {"hidden_layer_sizes": (8,), "max_iter": 3, "solver": Solver("rk4", 0.1, 0.0)}


@pytest.fixture(scope="module")
def da():
    return pytest.importorskip("dask.array", reason="dask is not installed")


@pytest.fixture(scope="module")
def dd():
    return pytest.importorskip("dask.dataframe", reason="dask is not installed")


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(90, 2))


def quick():
    return InterpolantFlowDensity(**TINY, early_stopping=False)


@pytest.fixture(scope="module")
def density(X):
    return quick().fit(X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("chunks", [(40, 2), (40, 1)])
def test_predictions_of_an_array(dtype, chunks, X, density, da):
    rows = X.astype(dtype)
    lazy = da.from_array(rows, chunks=chunks)
    for method in ("score_samples", "transform"):
        predicted = getattr(skinterflow.dask, method)(density, lazy)
        expected = getattr(density, method)(rows)
        assert (predicted.shape, predicted.dtype) == (expected.shape, dtype)
        np.testing.assert_array_equal(predicted.compute(scheduler="sync"), expected)


def test_predictions_of_a_frame(X, dd):
    """With its index and names; partitions without rows are no fault."""
    frame = pd.DataFrame(X, columns=["a", "b"], index=np.arange(90) * 2)
    density = quick().fit(frame)
    lazy = dd.from_pandas(frame, npartitions=3)
    lazy = lazy.map_partitions(lambda rows: rows[rows.index >= 80])
    scores = skinterflow.dask.score_samples(density, lazy).compute(scheduler="sync")
    part = frame[frame.index >= 80]
    expected = pd.Series(density.score_samples(part), index=part.index, name="log_density")
    pd.testing.assert_series_equal(scores, expected)
    latents = skinterflow.dask.transform(density, lazy).compute(scheduler="sync")
    expected = pd.DataFrame(density.transform(part), part.index, ["latent0", "latent1"])
    pd.testing.assert_frame_equal(latents, expected)


def test_a_transport_maps_an_array(X, da):
    transport = InterpolantTransport(**TINY).fit(X, X + 1.0)
    mapped = skinterflow.dask.transform(transport, da.from_array(X, chunks=(40, 2)))
    np.testing.assert_array_equal(mapped.compute(scheduler="sync"), transport.transform(X))


def test_samples_follow_from_the_seed(density, da):
    """Whatever the scheduler, with chunks that differ."""
    drawn = skinterflow.dask.sample(density, 25, random_state=0, chunk_rows=10)
    assert drawn.chunks == ((10, 10, 5), (2,))
    first = drawn.compute(scheduler="sync")
    again = skinterflow.dask.sample(density, 25, random_state=0, chunk_rows=10)
    np.testing.assert_array_equal(again.compute(scheduler="threads"), first)
    assert len(np.unique(first[:, 0])) == 25
    other = skinterflow.dask.sample(density, 25, random_state=1, chunk_rows=10)
    assert not np.isin(other.compute(scheduler="sync"), first).any()


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    # The warnings of a cluster are not ours: a port that is taken, a loop that closes late.
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_a_fit_on_a_cluster_is_that_of_the_array(client, X, da, dd, density):
    """Of an array in float32; the estimator that was passed remains as it was."""
    expected = quick().fit(X.astype(np.float32))
    frame = dd.from_pandas(pd.DataFrame(X, columns=["a", "b"]), npartitions=3)
    for rows in (da.from_array(X, chunks=(40, 1)), frame):
        est = quick()
        fitted = skinterflow.dask.fit(client, est, rows)
        assert not hasattr(est, "n_iter_")
        scores = fitted.score_samples(frame if rows is frame else X)
        dtype = np.float32 if rows is frame else np.float64
        np.testing.assert_array_equal(scores, expected.score_samples(X.astype(dtype)))
    assert fitted.feature_names_in_.tolist() == ["a", "b"]
    lazy = skinterflow.dask.score_samples(density, da.from_array(X, chunks=(40, 2)))
    np.testing.assert_array_equal(client.compute(lazy).result(), density.score_samples(X))


def test_a_fit_that_fails_says_why(client, X, da):
    rows = da.from_array(np.where(X > 2, np.nan, X), chunks=(40, 2))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        skinterflow.dask.fit(client, quick(), rows)


def test_searches_use_the_cluster(client, X):
    """joblib's dask backend, as the documentation shows it."""
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(quick(), {"alpha": [0.0, 0.1]}, cv=2)
    with parallel_config(backend="dask"):
        found = search.fit(X).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, search.fit(X).cv_results_["mean_test_score"])


def test_what_is_refused(X, density, da):
    with pytest.raises(TypeError, match=r"X must be a dask array or data frame, got ndarray; call"):
        skinterflow.dask.score_samples(density, X)
    with pytest.raises(ValueError, match=r"X has the shape \(90, 1\), but .* fitted to 2 columns"):
        skinterflow.dask.transform(density, da.from_array(X[:, :1]))
    with pytest.raises(ValueError, match="n_samples must"):
        skinterflow.dask.sample(density, 0)


def test_without_dask(density, X, monkeypatch):
    for name in ("dask", "dask.array", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: skinterflow.dask.fit(None, density, X),
        lambda: skinterflow.dask.score_samples(density, X),
        lambda: skinterflow.dask.sample(density),
    ):
        with pytest.raises(ImportError, match=r"requires dask\. You can install it with `pip inst"):
            call()
