"""The adapter to skpro: its own interface tests pass, and distributions say what the model does."""

import importlib
import sys

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError

from skinterflow import InterpolantFlowRegressor

TINY = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 20,
    "regressor": None,
    "early_stopping": False,
    "random_state": 0,
}


def test_without_skpro(monkeypatch):
    """Where it is not installed, importing the module says how to install it."""
    monkeypatch.delitem(sys.modules, "skinterflow.contrib.skpro", raising=False)
    monkeypatch.setitem(sys.modules, "skpro.distributions.base", None)
    monkeypatch.setitem(sys.modules, "skpro", None)
    with pytest.raises(
        ImportError,
        match=r"skinterflow\.contrib\.skpro requires skpro\. You can install it with `pip install "
        r"skinterflow\[skpro\]`",
    ):
        importlib.import_module("skinterflow.contrib.skpro")


@pytest.fixture(scope="module")
def adapter():
    pytest.importorskip("skpro", reason="the extra skpro is not installed")
    from skinterflow.contrib import skpro

    return skpro


@pytest.fixture(scope="module")
def data():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    return X[:40], y[:40]


@pytest.fixture(scope="module")
def fitted(adapter, data):
    return adapter.InterpolantFlowProbaRegressor(InterpolantFlowRegressor(**TINY)).fit(*data)


@pytest.fixture(scope="module")
def distribution(fitted, data):
    return fitted.predict_proba(data[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["InterpolantFlowDistribution", "InterpolantFlowProbaRegressor"])
def test_checks_of_skpro(adapter, name):
    from skpro.utils import check_estimator

    state = np.random.get_state()
    try:
        results = check_estimator(getattr(adapter, name), verbose=False)
    finally:
        np.random.set_state(state)
    assert {test: result for test, result in results.items() if result != "PASSED"} == {}
    assert len(results) > 30


def test_distributions_are_those_of_the_model(fitted, distribution, data):
    X, y = data
    model, table = fitted.estimator_, y.to_frame()
    assert distribution.shape == (40, 1)
    assert list(distribution.columns) == ["target"]
    assert np.array_equal(distribution.log_pdf(table)["target"], model.log_density(X, y))
    assert np.array_equal(distribution.pdf(table)["target"], np.exp(model.log_density(X, y)))
    assert np.array_equal(distribution.cdf(table)["target"], model.cdf(X, y))
    quantiles = model.predict_quantiles(X, [0.1, 0.9])
    for predicted in (
        distribution.quantile([0.1, 0.9]),
        fitted.predict_quantiles(X, [0.1, 0.9]),
        fitted.predict_interval(X, 0.8),
    ):
        assert predicted.to_numpy() == pytest.approx(quantiles, rel=1e-6)
    assert np.array_equal(np.ravel(fitted.predict(X)), model.predict(X))
    assert distribution.mean()["target"].to_numpy() == pytest.approx(model.predict(X), rel=1e-3)


def test_each_row_has_its_own_level(distribution):
    levels = np.random.default_rng(0).uniform(0.01, 0.99, size=(40, 1))
    assert distribution.cdf(distribution.ppf(levels)).to_numpy() == pytest.approx(levels, abs=1e-3)


def test_moments_are_those_of_the_quantiles(distribution):
    """And of the density, on a grid."""
    few = distribution.iloc[[3, 30]]
    n = 1_000
    quantiles = few.estimator.predict_quantiles(few.X, (np.arange(n) + 0.5) / n)
    assert few.mean()["target"].to_numpy() == pytest.approx(quantiles.mean(axis=1), rel=1e-3)
    assert few.var()["target"].to_numpy() == pytest.approx(quantiles.var(axis=1), rel=0.02)
    distance = np.abs(quantiles[:, :, None] - quantiles[:, None]).mean(axis=(1, 2))
    assert few.energy()["energy"].to_numpy() == pytest.approx(distance, rel=0.01)
    point = np.array([[100.0], [200.0]])
    distance = np.abs(quantiles - point).mean(axis=1)
    assert few.energy(point)["energy"].to_numpy() == pytest.approx(distance, rel=0.01)
    grid = np.linspace(-400.0, 800.0, 150)
    rows = few.X.iloc[np.repeat([0, 1], 150)]
    squared = np.exp(2 * few.estimator.log_density(rows, np.tile(grid, 2))).reshape(2, 150)
    expected = squared.sum(axis=1) * (grid[1] - grid[0])
    assert few.pdfnorm()["target"].to_numpy() == pytest.approx(expected, rel=0.01)


def test_parts_of_a_distribution(distribution, fitted, data):
    part = distribution.iloc[[7, 2]]
    assert list(part.index) == list(data[0].index[[7, 2]])
    medians = distribution.ppf(0.5).iloc[[7, 2]]
    assert part.ppf(0.5).to_numpy() == pytest.approx(medians.to_numpy(), rel=1e-6)
    one = distribution.iloc[7, 0]
    assert one.shape == ()
    assert one.ppf(0.5) == pytest.approx(medians.iloc[0, 0], rel=1e-6)
    assert np.shape(one.sample(5)) == (5, 1)


def test_what_is_no_distribution(adapter, data, fitted):
    X, y = data
    with pytest.raises(NotFittedError, match="not fitted yet"):
        adapter.InterpolantFlowDistribution(InterpolantFlowRegressor(), X)
    with pytest.raises(ValueError, match="A scalar distribution has one row, but X has 40; give"):
        adapter.InterpolantFlowDistribution(fitted.estimator_, X)
    both = InterpolantFlowRegressor(**TINY | {"max_iter": 1}).fit(X, np.c_[y, -y])
    with pytest.raises(ValueError, match="estimator must have one output, but it has 2; fit one"):
        adapter.InterpolantFlowDistribution(both, X[:1])
    for name, needed in {"integer_target": "a density", "conformal": "quantiles that"}.items():
        model = InterpolantFlowRegressor(**TINY | {"max_iter": 1, name: True}).fit(X, y)
        with pytest.raises(ValueError, match=f"must have {name}=False.*needs {needed}"):
            adapter.InterpolantFlowDistribution(model, X[:1])
    with pytest.raises(ValueError, match="iat requires the number of a row and of a column"):
        fitted.predict_proba(X).iat[0]
