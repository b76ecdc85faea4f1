"""The covariance of the Gaussian at which a flow starts."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import FactorAnalysis

from skinterflow._data.covariance import best_covariance, factor_covariance


def standardised(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def factor_model(n_rows, n_columns, rank, seed):
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(n_columns, rank))
    return random.normal(size=(n_rows, rank)) @ loadings.T + random.normal(size=(n_rows, n_columns))


def test_factor_covariance_is_that_of_scikit_learn():
    X = standardised(factor_model(500, 8, 2, seed=0))
    fitted, noise = factor_covariance(X.T @ X / len(X), 2)
    oracle = FactorAnalysis(2, svd_method="lapack", tol=1e-8, max_iter=5_000).fit(X)
    np.testing.assert_allclose(fitted, oracle.get_covariance(), atol=0.01)
    np.testing.assert_allclose(noise, oracle.noise_variance_, atol=0.01)


def test_a_covariance_of_that_form_is_a_fixed_point():
    loadings = np.random.default_rng(0).normal(size=(6, 2))
    noise = np.linspace(0.5, 1.5, 6)
    covariance = loadings @ loadings.T + np.diag(noise)
    fitted, found = factor_covariance(covariance, 2, noise)
    np.testing.assert_allclose(fitted, covariance, atol=1e-10)
    np.testing.assert_allclose(found, noise, atol=1e-10)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(60, 30), (150, 60)])
def test_factors_are_found_where_they_are(n_rows, n_columns):
    rows = factor_model(n_rows + 400, n_columns, 3, seed=1)
    X, new = rows[:n_rows], rows[n_rows:]
    new, X = (new - X.mean(axis=0)) / X.std(axis=0), standardised(X)

    def score(covariance):
        return multivariate_normal(np.zeros(n_columns), covariance).logpdf(new).mean()

    shrunk = ledoit_wolf(X, assume_centered=True)[0]
    assert score(best_covariance(X, np.ones(n_rows))) > score(shrunk) + 0.5


def test_without_factors_it_is_ledoit_wolf():
    X = standardised(np.random.default_rng(0).normal(size=(100, 12)))
    shrunk = ledoit_wolf(X, assume_centered=True)[0]
    np.testing.assert_allclose(best_covariance(X, np.ones(100)), shrunk, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3), (19, 4), (40, 1), (30, 600)])
def test_too_few_rows_or_too_many_columns_are_not_compared(shape):
    X = standardised(factor_model(*shape, 1, seed=0))
    shrunk = ledoit_wolf(X, assume_centered=True)[0]
    np.testing.assert_allclose(best_covariance(X, np.ones(len(X))), shrunk, atol=1e-12)


def test_weights_count_as_repeated_rows():
    X, weight = standardised(factor_model(80, 6, 2, seed=3)), np.ones(80)
    weight[:40] = 3.0
    scatter = (X * weight[:, None]).T @ X / weight.sum()
    repeated = np.repeat(X, weight.astype(int), axis=0)
    np.testing.assert_allclose(
        factor_covariance(scatter, 2)[0],
        factor_covariance(repeated.T @ repeated / len(repeated), 2)[0],
        atol=1e-10,
    )
    covariance = best_covariance(X, weight)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_collinear_columns_have_a_covariance():
    X = factor_model(100, 5, 2, seed=0)
    X = standardised(np.column_stack([X, X[:, 0]]))
    assert np.isfinite(best_covariance(X, np.ones(100))).all()
