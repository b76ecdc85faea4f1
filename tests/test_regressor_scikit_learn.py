"""The regressor among scikit-learn's tools, on data frames with categories."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor
from sklearn.inspection import (
    PartialDependenceDisplay,
    partial_dependence,
    permutation_importance,
)
from sklearn.linear_model import LinearRegression
from sklearn.metrics import make_scorer, mean_pinball_loss
from sklearn.model_selection import GridSearchCV, cross_validate

from skinterflow import InterpolantFlowRegressor
from skinterflow.metrics import log_likelihood_scorer, neg_crps_scorer

MODEL = InterpolantFlowRegressor(
    trunk_layer_sizes=(8,),
    hidden_layer_sizes=(8,),
    max_iter=60,
    batch_size=32,
    learning_rate_init=0.02,
    alpha=0.0,
    dropout=0.0,
    regressor=None,
    early_stopping=False,
    end_time=1.0,
    random_state=0,
)
RNG = np.random.default_rng(0)
KINDS = RNG.choice(["a", "b", "c"], 90)
X = pd.DataFrame(
    {"slope": RNG.normal(size=90), "kind": pd.Categorical(KINDS), "noise": RNG.normal(size=90)}
)
Y = 2.0 * X["slope"].to_numpy() + 1.5 * (KINDS == "a") + 0.3 * RNG.normal(size=90)


@pytest.fixture(scope="module")
def fitted():
    return clone(MODEL).fit(X, Y)


def test_it_learns_from_the_columns(fitted):
    """Without this, the tests below would pass for a model of the marginal density."""
    assert fitted.score(X, Y) > 0.9


def test_permutation_importance_sees_the_density(fitted):
    result = permutation_importance(
        fitted, X, Y, scoring=log_likelihood_scorer, n_repeats=2, random_state=0
    )
    slope, kind, noise = result.importances_mean
    assert slope > kind > noise


def test_partial_dependence(fitted):
    display = PartialDependenceDisplay.from_estimator(
        fitted, X[:20], ["slope", "kind"], categorical_features=["kind"], grid_resolution=4
    )
    plt.close("all")
    average = [result["average"][0] for result in display.pd_results]
    assert (np.diff(average[0]) > 0).all()
    assert average[1].argmax() == 0
    both = partial_dependence(fitted, X[:5], ["slope"], kind="individual", grid_resolution=3)
    at = X[:5].assign(slope=both["grid_values"][0][1])
    assert both["individual"][0, :, 1] == pytest.approx(fitted.predict(at))


def test_a_transformed_target():
    positive = np.exp(0.3 * Y)
    target = TransformedTargetRegressor(MODEL, func=np.log, inverse_func=np.exp).fit(X, positive)
    assert (target.predict(X) > 0).all()
    assert target.score(X, positive) > 0.8
    quantiles = np.exp(target.regressor_.predict_quantiles(X, [0.1, 0.9]))
    assert 0.6 < np.mean((quantiles[:, 0] < positive) & (positive < quantiles[:, 1])) < 0.97


def test_a_stack():
    stack = StackingRegressor([("flow", MODEL)], LinearRegression(), cv=2).fit(X, Y)
    assert stack.score(X, Y) > 0.9


def test_searches_choose_by_the_density():
    scoring = {
        "likelihood": log_likelihood_scorer,
        "crps": neg_crps_scorer,
        "absolute": make_scorer(mean_pinball_loss, greater_is_better=False),
    }
    search = GridSearchCV(MODEL, {"max_iter": [1, 60]}, scoring=scoring, refit="crps", cv=2)
    search.fit(X, Y)
    assert search.best_params_ == {"max_iter": 60}
    for name in scoring:
        short, long = search.cv_results_[f"mean_test_{name}"]
        assert short < long
    assert search.score(X, Y) == neg_crps_scorer(search.best_estimator_, X, Y)


def test_cross_validation_scores_each_part_by_its_own_model():
    result = cross_validate(
        MODEL, X, Y, scoring=log_likelihood_scorer, cv=2, return_estimator=True, return_indices=True
    )
    rows = result["indices"]["test"][0]
    expected = result["estimator"][0].log_density(X.iloc[rows], Y[rows]).mean()
    assert result["test_score"][0] == expected


def test_an_unknown_category(fitted):
    other = X[:3].assign(kind=pd.Categorical(["a", "d", "d"]))
    with pytest.raises(
        ValueError,
        match=r"kind has the category 'd' in 2 of 3 rows, which was not in fit; its categories are "
        r"\['a', 'b', 'c'\]\.  Replace it, by a missing value for example\.",
    ):
        fitted.predict(other)


def test_categories_of_polars(fitted):
    """An Enum and a Categorical give the model of pandas' categories."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    for dtype in (polars.Enum(["a", "b", "c"]), polars.Categorical):
        columns = {name: X[name].tolist() for name in X}
        frame = polars.DataFrame(columns, schema_overrides={"kind": dtype})
        model = clone(MODEL).fit(frame, Y)
        assert np.array_equal(model.predict(frame), fitted.predict(X))
    enum = polars.Enum(["a", "b", "c", "d"])
    other = frame[:2].with_columns(polars.Series("kind", ["c", "d"], dtype=enum))
    with pytest.raises(ValueError, match="kind has the category 'd' in 1 of 2 rows, which was not"):
        model.predict(other)
