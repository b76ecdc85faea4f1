"""The display of contributions shows the rows and columns that it says it shows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    OutlierExplanationDisplay,
)

NAMES = ["a", "b", "c"]
X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=NAMES)


@pytest.fixture(scope="module")
def fitted():
    return InterpolantFlowOutlierDetector(
        hidden_layer_sizes=(8,), max_iter=20, n_folds=2, random_state=0
    ).fit(X)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_bars_of_one_row(fitted):
    row = pd.DataFrame([[0.0, 9.0, 1.0]], columns=NAMES)
    display = OutlierExplanationDisplay.from_estimator(fitted, row)
    assert display.feature_names[0] == "b"
    widths = [bar.get_width() for bar in display.ax_.patches]
    assert widths == sorted(fitted.explain(row)[0])
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == display.feature_names


def test_map_of_the_lowest_rows(fitted):
    display = OutlierExplanationDisplay.from_estimator(fitted, X, max_rows=4, max_features=2)
    lowest = np.argsort(fitted.score_samples(X))[:4]
    assert display.rows.tolist() == lowest.tolist()
    columns = [NAMES.index(name) for name in display.feature_names]
    shown = np.asarray(display.ax_.images[0].get_array())
    np.testing.assert_array_equal(shown, fitted.explain(X)[lowest][:, columns])
    left_out = ({0, 1, 2} - set(columns)).pop()
    sizes = np.abs(fitted.explain(X)[lowest]).sum(axis=0)
    assert sizes.argmin() == left_out


def test_given_axes(fitted):
    ax = plt.subplots()[1]
    assert OutlierExplanationDisplay.from_estimator(fitted, X, ax=ax).ax_ is ax


@pytest.mark.parametrize("argument", ["max_rows", "max_features"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_numbers_that_cannot_be_used(fitted, argument, value):
    with pytest.raises(ValueError, match=rf"{argument} must be a positive integer, got {value}"):
        OutlierExplanationDisplay.from_estimator(fitted, X, **{argument: value})


def test_other_estimators():
    with pytest.raises(TypeError, match="requires a fitted InterpolantFlowOutlierDetector"):
        OutlierExplanationDisplay.from_estimator(InterpolantFlowDensity(), X)
