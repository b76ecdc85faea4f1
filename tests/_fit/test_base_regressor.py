"""Base regressors: the number of trees of "auto", chosen by the cross-fitted error."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold

from skinterflow._fit import base_regressor
from skinterflow._fit.base_regressor import base_prediction, cross_fitted

RNG = np.random.default_rng(0)
X = RNG.uniform(-1.0, 1.0, size=(200, 2))
SMOOTH = np.sin(4.0 * X[:, :1]) * X[:, 1:]
NOISE = RNG.normal(size=(200, 1))


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(base_regressor, "_TREES", (2, 5, 10))
    monkeypatch.setattr(base_regressor, "_USUAL_TREES", 5)


def n_trees(y, weight=None):
    weight = np.ones(len(X)) if weight is None else weight
    regressors, prediction = cross_fitted("auto", X, y, weight, 0)
    return [len(each.roots) for each in regressors], regressors, prediction


def test_there_are_as_many_trees_as_the_held_out_rows_ask_for():
    assert n_trees(np.hstack([SMOOTH, NOISE]))[0] == [10, 2]


def test_weights_count_in_the_choice():
    y = np.where(X[:, :1] > 0, SMOOTH, 100.0 * NOISE)
    assert n_trees(y, 1e-9 + (X[:, 0] > 0))[0] == [10]


def test_long_data_have_no_more_trees_than_usual(monkeypatch):
    monkeypatch.setattr(base_regressor, "_MOST_ROW_TREES", 1_999)
    assert n_trees(SMOOTH)[0] == [5]


def test_predictions_are_those_of_models_that_were_fitted_at_once():
    _, regressors, prediction = n_trees(SMOOTH)

    def fitted(rows):
        model = HistGradientBoostingRegressor(max_iter=10, random_state=0, early_stopping=False)
        return model.fit(X[rows], SMOOTH[rows, 0])

    for train, held_out in KFold(5, shuffle=True, random_state=0).split(X):
        expected = fitted(train).predict(X[held_out])
        np.testing.assert_allclose(prediction[held_out, 0], expected, rtol=1e-9)
    expected = fitted(slice(None)).predict(X)
    np.testing.assert_allclose(base_prediction(regressors, X)[:, 0], expected, rtol=1e-9)
