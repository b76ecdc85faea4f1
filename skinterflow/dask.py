"""Fits on a dask cluster, and lazy predictions on dask arrays and data frames.

It requires dask (``pip install skinterflow[dask]``), which is imported when a function is called.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skinterflow._data.sources import kind_of
from skinterflow._predict.arguments import checked_n_samples
from skinterflow._runtime import (
    RandomStateLike,
    private_random_state,
    step_seed,
    suppress_feature_name_warning,
)
from skinterflow.density import InterpolantFlowDensity
from skinterflow.transport import InterpolantTransport

__all__ = ["fit", "sample", "score_samples", "transform"]

_Estimator = TypeVar("_Estimator", InterpolantFlowDensity, InterpolantTransport)
_BLOCK_ROWS = 2**14


def fit(client: Any, est: InterpolantFlowDensity, X: Any) -> InterpolantFlowDensity:
    """Fit a density on a worker of a dask cluster.

    One worker trains.  It collects the rows part by part in a temporary memory map on its disk, so
    that neither it nor this process holds all of them in memory; the other workers compute the
    parts.  The result is that of ``est.fit(X)``.

    Parameters
    ----------
    client : distributed.Client
    est : InterpolantFlowDensity
        Estimator with the parameters of the fit, which remains as it is.
    X : dask array or data frame of shape (n_samples, n_features), or other rows
        Whatever ``est.fit`` takes; the workers must be able to read a path.

    Returns
    -------
    fitted : InterpolantFlowDensity
        A fitted copy, on this side of the cluster.

    Raises
    ------
    ImportError
        If dask is not installed.

    Examples
    --------
    >>> import dask.array as da
    >>> import skinterflow.dask
    >>> from distributed import Client
    >>> from skinterflow import InterpolantFlowDensity
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... )
    >>> X = da.random.default_rng(0).normal(size=(200, 2), chunks=(50, 2))
    >>> with Client(processes=False, dashboard_address=None) as client:
    ...     fitted = skinterflow.dask.fit(client, density, X)
    >>> skinterflow.dask.score_samples(fitted, X)
    dask.array<..., shape=(200,), dtype=float64, chunksize=(50,), chunktype=numpy.ndarray>
    """
    _import("distributed")
    task = client.submit(_fit_on_worker, clone(est), _Unopened(X), pure=False)
    fitted: InterpolantFlowDensity = task.result()
    return fitted


def score_samples(est: InterpolantFlowDensity, X: Any) -> Any:
    """Log-densities of the rows of a dask array or data frame, computed when they are needed.

    Parameters
    ----------
    est : InterpolantFlowDensity
        Fitted estimator.
    X : dask array or data frame of shape (n_samples, n_features)

    Returns
    -------
    log_density : dask array, or dask series with the index of the frame, of shape (n_samples,)
        For each row, ``est.score_samples(X)``.

    Raises
    ------
    ImportError
        If dask is not installed.
    TypeError
        If `X` is neither a dask array nor a dask data frame.
    ValueError
        If `X` has another number of columns than the rows of the fit.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> import skinterflow.dask
    >>> from skinterflow import InterpolantFlowDensity
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... ).fit(X)
    >>> log_density = skinterflow.dask.score_samples(density, da.from_array(X, chunks=(40, 2)))
    >>> bool(np.allclose(log_density.compute(), density.score_samples(X)))
    True
    """
    return _mapped(est, X, "score_samples", None)


def transform(est: InterpolantFlowDensity | InterpolantTransport, X: Any) -> Any:
    """Latents, or mapped rows, of a dask array or data frame, computed when they are needed.

    Parameters
    ----------
    est : InterpolantFlowDensity or InterpolantTransport
        Fitted estimator.
    X : dask array or data frame of shape (n_samples, n_features)

    Returns
    -------
    Z : dask array, or dask data frame with the index of `X`, of shape (n_samples, n_features)
        For each row, ``est.transform(X)``; the columns of a frame are those of
        ``est.get_feature_names_out()``.

    Raises
    ------
    ImportError
        If dask is not installed.
    TypeError
        If `X` is neither a dask array nor a dask data frame.
    ValueError
        If `X` has another number of columns than the rows of the fit.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> import skinterflow.dask
    >>> from skinterflow import InterpolantFlowDensity
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... ).fit(X)
    >>> skinterflow.dask.transform(density, da.from_array(X, chunks=(40, 2)))
    dask.array<..., shape=(100, 2), dtype=float64, chunksize=(40, 2), chunktype=numpy.ndarray>
    """
    return _mapped(est, X, "transform", list(est.get_feature_names_out()))


def sample(
    est: InterpolantFlowDensity,
    n_samples: int = 1,
    random_state: RandomStateLike = None,
    *,
    chunk_rows: int = _BLOCK_ROWS,
) -> Any:
    """Samples of the fitted density as a dask array, drawn when they are needed.

    Parameters
    ----------
    est : InterpolantFlowDensity
        Fitted estimator.
    n_samples : int, default=1
    random_state : int, RandomState instance or None, default=None
        Seed.  Every chunk draws from a seed of its own, so that samples do not depend on the
        workers, but on `chunk_rows`; those of ``est.sample`` are others.
    chunk_rows : int, default=16384
        Number of rows of a chunk.

    Returns
    -------
    X : dask array of shape (n_samples, n_features), float64

    Raises
    ------
    ImportError
        If dask is not installed.
    ValueError
        If a number is not positive, or `random_state` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import skinterflow.dask
    >>> from skinterflow import InterpolantFlowDensity
    >>> density = InterpolantFlowDensity(
    ...     hidden_layer_sizes=(8,), max_iter=1, early_stopping=False, random_state=0
    ... ).fit(np.random.default_rng(0).normal(size=(100, 2)))
    >>> skinterflow.dask.sample(density, 100, random_state=0, chunk_rows=40)
    dask.array<..., shape=(100, 2), dtype=float64, chunksize=(40, 2), chunktype=numpy.ndarray>
    """
    da, delayed = _import("dask.array"), _import("dask").delayed
    check_is_fitted(est)
    n_features = est.n_features_in_
    n_samples = checked_n_samples(n_samples, n_features)
    chunk_rows = checked_n_samples(chunk_rows, n_features)
    seed = int(private_random_state(random_state).randint(2**31))
    model, draw = delayed(est), delayed(_draw)
    chunks = [
        da.from_delayed(
            draw(model, min(chunk_rows, n_samples - start), step_seed(seed, number) % 2**32),
            (min(chunk_rows, n_samples - start), n_features),
            dtype=np.float64,
        )
        for number, start in enumerate(range(0, n_samples, chunk_rows))
    ]
    return da.concatenate(chunks)


class _Unopened:
    """Holder of rows, which dask would compute if they were an argument of a task."""

    def __init__(self, X: Any) -> None:
        self.X = X


def _fit_on_worker(est: InterpolantFlowDensity, rows: _Unopened) -> InterpolantFlowDensity:
    # Inside, the cluster computes the parts of the rows; the worker gives its place back meanwhile.
    with _import("distributed").worker_client():
        return est.fit(rows.X)


def _mapped(est: _Estimator, X: Any, method: str, names: list[str] | None) -> Any:
    """Lazy result of a method, which has one column for each of `names`; None is one axis."""
    delayed = _import("dask").delayed
    check_is_fitted(est)
    kind = kind_of(X)
    if kind not in ("dask.Array", "dask.DataFrame"):
        raise TypeError(
            f"X must be a dask array or data frame, got {type(X).__name__}; call "
            f"est.{method}(X), or convert it by dask.array.from_array."
        )
    if len(X.shape) != 2 or X.shape[1] != est.n_features_in_:
        raise ValueError(
            f"X has the shape {X.shape}, but {type(est).__name__} was fitted to "
            f"{est.n_features_in_} columns; pass rows of these columns."
        )
    single = all(
        each == np.float32 for each in (X.dtypes if kind == "dask.DataFrame" else [X.dtype])
    )
    dtype = np.float32 if single else np.float64
    empty = np.empty((0,) if names is None else (0, len(names)), dtype=dtype)
    if kind == "dask.DataFrame":
        meta = _framed(empty, X._meta, names)
        return X.map_partitions(_frame_answer, delayed(est), method, empty, names, meta=meta)
    dropped = {"drop_axis": 1} if names is None else {}
    rows = X.rechunk({1: -1})
    return rows.map_blocks(_answer, delayed(est), method, empty, dtype=dtype, meta=empty, **dropped)


def _answer(rows: Any, est: Any, method: str, empty: NDArray[Any]) -> NDArray[Any]:
    """Result of a method for the rows of a block, which may have none."""
    return np.asarray(getattr(est, method)(rows)) if len(rows) else empty


def _frame_answer(
    rows: Any, est: Any, method: str, empty: NDArray[Any], names: list[str] | None
) -> Any:
    return _framed(_answer(rows, est, method, empty), rows, names)


def _framed(values: NDArray[Any], rows: Any, names: list[str] | None) -> Any:
    """Values as a data frame or a series, with the index of the rows."""
    pd = _import("pandas")
    if names is None:
        return pd.Series(values, index=rows.index, name="log_density")
    return pd.DataFrame(values, index=rows.index, columns=names)


def _draw(est: Any, n_samples: int, seed: int) -> NDArray[Any]:
    with suppress_feature_name_warning():
        drawn: NDArray[Any] = np.asarray(est.sample(n_samples, random_state=seed))
    return drawn


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "skinterflow.dask requires dask. You can install it with `pip install "
            "skinterflow[dask]`."
        ) from error
