"""Displays of the regressor: what is computed is what the estimator predicts, and what cannot be
drawn is refused."""

import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.integrate import trapezoid
from scipy.stats import kstest, norm, poisson
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinterflow import (
    ConditionalDensityDisplay,
    InterpolantFlowRegressor,
    PITDisplay,
    PredictionIntervalDisplay,
    TrainingDisplay,
)

DISPLAYS = [PredictionIntervalDisplay, PITDisplay, ConditionalDensityDisplay]
TINY = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 20,
    "batch_size": 32,
    "regressor": None,
    "early_stopping": False,
    "random_state": 0,
}
RNG = np.random.default_rng(0)
X = pd.DataFrame(
    {
        "size": RNG.normal(size=80),
        "weight": np.where(RNG.random(80) < 0.1, np.nan, RNG.normal(3.0, size=80)),
        "kind": pd.Categorical(RNG.choice(["a", "b", "b"], 80)),
    }
)
Y = X["size"].to_numpy() + 0.3 * RNG.normal(size=80)


@pytest.fixture(autouse=True)
def no_figures_are_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    return InterpolantFlowRegressor(**TINY).fit(X, Y)


@pytest.fixture(scope="module")
def several():
    return InterpolantFlowRegressor(**TINY | {"max_iter": 1}).fit(X, np.c_[Y, -Y])


@pytest.fixture(scope="module")
def counting():
    counts = np.random.default_rng(0).poisson(np.exp(0.5 * X["size"]))
    return InterpolantFlowRegressor(**TINY, integer_target=True).fit(X, counts)


def ask(display, estimator, **arguments):
    given = ("size",) if display is ConditionalDensityDisplay else (Y,)
    return display.from_estimator(estimator, X, *given, **arguments)


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_intervals_in_the_order_of_the_medians(fitted):
    display = ask(PredictionIntervalDisplay, fitted, coverages=[0.9, 0.5])
    assert display.quantiles == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95])
    assert display.y_quantiles == pytest.approx(fitted.predict_quantiles(X, display.quantiles))
    assert display.coverages_ == pytest.approx([0.9, 0.5])
    low, high = fitted.predict_interval(X, 0.5).T
    assert display.observed_[1] == np.mean((low <= Y) & (high >= Y))
    outer, inner = display.ax_.collections[:2]
    assert inner.get_datalim(display.ax_.transData).y1 == pytest.approx(high.max())
    assert outer.get_datalim(display.ax_.transData).y1 > high.max()
    (median,) = display.ax_.lines
    order = np.argsort(display.y_quantiles[:, 2], kind="stable")
    assert np.array_equal(median.get_ydata(), display.y_quantiles[order, 2])
    points = display.ax_.collections[2].get_offsets()
    assert np.array_equal(points, np.c_[np.arange(80), Y[order]])
    assert labels(display.ax_) == ("rows, ordered by the predicted median", "y")
    assert legend(display.ax_)[1] == f"0.5 of probability, {display.observed_[1]:.1%} of the rows"
    assert legend(display.ax_)[2:] == ["median", "observed"]


def test_intervals_along_a_feature(fitted):
    """Rows in which it is missing are not shown."""
    display = ask(PredictionIntervalDisplay, fitted, feature="weight", coverages=[0.8])
    present = X["weight"].notna().to_numpy()
    assert 0 < present.sum() < 80
    assert np.array_equal(display.x, X["weight"][present])
    assert np.array_equal(display.y_true, Y[present])
    bars = display.ax_.collections[0].get_segments()
    low, high = fitted.predict_interval(X[present], 0.8)[np.argsort(display.x)[3]]
    assert bars[3] == pytest.approx(np.array([[np.sort(display.x)[3]] * 2, [low, high]]).T)
    assert labels(display.ax_) == ("weight", "y")


def test_some_of_many_rows(fitted):
    first, second = (
        ask(PredictionIntervalDisplay, fitted, subsample=10, random_state=0) for _ in range(2)
    )
    assert len(first.y_true) == 10
    assert set(first.y_true) <= set(Y)
    assert np.array_equal(first.y_true, second.y_true)
    assert len(ask(PredictionIntervalDisplay, fitted, subsample=None).y_true) == 80


def test_intervals_of_another_model():
    quantiles = np.tile(norm.ppf([0.1, 0.5, 0.9]), (4, 1))
    display = PredictionIntervalDisplay.from_predictions(
        [0.0, 1.0, 2.0, 3.0], quantiles, [0.1, 0.5, 0.9], x=[1, 2, 3, 4], feature_name="age"
    )
    assert display.observed_ == pytest.approx([0.5])
    assert display.ax_.get_xlabel() == "age"


@pytest.mark.parametrize("levels", [[0.1, 0.9], [0.1, 0.5, 0.8], [0.9, 0.5, 0.1], [0.5], [0.1]])
def test_levels_that_are_no_intervals(levels):
    with pytest.raises(
        ValueError,
        match=r"quantiles must be increasing levels that are symmetric about 0.5, such as .*, one "
        rf"for each column of y_quantiles; got \[.*\] for {len(levels)} columns",
    ):
        PredictionIntervalDisplay.from_predictions([0.0], [np.zeros(len(levels))], levels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coverages": [0.5, 1.0]}, r"coverage must be a number in \(0, 1\), such as 0.9, got 1.0"),
        ({"feature": "kind"}, "feature='kind' is not a single numerical column; choose one by"),
        ({"feature": ["size", "weight"]}, r"feature=\['size', 'weight'\] is not a single numer"),
        ({"feature": "age"}, "features='age' is not a column; the columns are 'size', 'weight'"),
        ({"subsample": 0}, "subsample must be a positive integer, or None, got 0"),
        ({"subsample": 0.5}, "subsample must be a positive integer, or None, got 0.5"),
    ],
)
def test_intervals_that_are_refused(fitted, arguments, message):
    with pytest.raises(ValueError, match=message):
        ask(PredictionIntervalDisplay, fitted, **arguments)


def test_probability_transform_is_the_distribution_function(fitted):
    display = ask(PITDisplay, fitted, n_bins=5, levels=[0.8, 0.4])
    assert np.array_equal(display.pit, fitted.cdf(X, Y))
    assert display.bin_density == pytest.approx(np.histogram(display.pit, 5, (0, 1))[0] / 16)
    inside = [np.mean(np.abs(display.pit - 0.5) <= level / 2) for level in (0.4, 0.8)]
    assert display.levels == pytest.approx([0.4, 0.8])
    assert display.coverage == pytest.approx(inside)
    histogram, coverage = display.axes_
    assert labels(histogram) == ("predicted probability up to the output", "density")
    assert legend(histogram) == ["95% interval of a true model", "rows"]
    assert labels(coverage) == ("probability of the interval", "fraction of rows inside")
    assert coverage.lines[1].get_ydata() == pytest.approx(inside)


def test_probability_transform_of_right_counts_is_uniform(counting, monkeypatch):
    """Drawn between the probabilities below and up to the observed number, with a seed."""

    def cdf(self, frame, y):
        return poisson.cdf(y, np.exp(0.5 * frame["size"]))

    monkeypatch.setattr(InterpolantFlowRegressor, "cdf", cdf)
    frame = X.iloc[np.resize(np.arange(80), 2_000)]
    y = np.random.default_rng(1).poisson(np.exp(0.5 * frame["size"]))
    first, second, other = (
        PITDisplay.from_estimator(counting, frame, y, random_state=seed).pit for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert (cdf(None, frame, y - 1) <= first).all()
    assert (first <= cdf(None, frame, y)).all()
    assert kstest(first, "uniform").pvalue > 0.01


def test_bands_hold_for_the_truth_and_not_for_a_narrow_model():
    y = np.random.default_rng(1).normal(size=2_000)
    true = PITDisplay.from_predictions(norm.cdf(y), n_bins=20)
    narrow = PITDisplay.from_predictions(norm.cdf(1.5 * y), n_bins=20)

    def inside(display):
        parts = (
            (display.bin_density, display.bin_interval),
            (display.coverage, display.coverage_interval),
        )
        return [np.mean((low <= value) & (value <= high)) for value, (low, high) in parts]

    assert min(inside(true)) >= 0.85
    assert max(inside(narrow)) < 0.5
    assert (narrow.coverage < narrow.levels).all()
    deviation = np.sqrt(0.05 * 0.95 / 2_000)
    assert true.bin_interval[1, 0] == pytest.approx(1 + 20 * 1.96 * deviation, abs=0.02)


@pytest.mark.parametrize("pit", [[0.5, 1.2], [-0.1], [[0.5, 0.5]]])
def test_values_that_are_no_probabilities(pit):
    with pytest.raises(ValueError, match=r"pit must be one probability in \[0, 1\] for each row"):
        PITDisplay.from_predictions(pit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_bins": 1}, "n_bins must be an integer of at least 2, got 1"),
        ({"levels": [0.0]}, r"level must be one or more numbers in \(0, 1\)"),
    ],
)
def test_calibration_that_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PITDisplay.from_predictions([0.5], **arguments)


def test_map_of_the_density(fitted):
    display = ask(ConditionalDensityDisplay, fitted, y=Y, grid_resolution=30)
    across, up = display.grid
    rows = pd.DataFrame({"size": across, "weight": X["weight"].median(), "kind": "b"})
    rows["kind"] = rows["kind"].astype(X["kind"].dtype)
    assert across[[0, -1]] == pytest.approx(np.quantile(X["size"], [0.005, 0.995]))
    expected = fitted.log_density(rows[4:5], up[[9]])
    assert display.log_density.shape == (30, 30)
    assert display.log_density[9, 4] == pytest.approx(expected[0], abs=0.02)
    assert display.y_quantiles == pytest.approx(fitted.predict_quantiles(rows, [0.05, 0.5, 0.95]))
    mass = trapezoid(np.exp(display.log_density), up, axis=0)
    assert mass == pytest.approx(np.ones(30), abs=0.03)
    assert np.array_equal(display.points, np.c_[X["size"], Y])
    assert labels(display.ax_) == ("size", "y")
    assert legend(display.ax_) == ["rows", "quantiles 0.05, 0.5, 0.95"]
    assert display.figure_.axes[1].get_ylabel() == "density"


def test_the_other_features_are_those_of_a_row(fitted):
    display = ask(ConditionalDensityDisplay, fitted, row=7, quantiles=0.5, grid_resolution=3)
    rows = X.iloc[[7] * 3].assign(size=display.grid[0])
    assert display.y_quantiles == pytest.approx(fitted.predict_quantiles(rows, [0.5]))


def test_an_array_and_the_accuracy_of_the_user():
    values = np.where(np.isnan(X[["size", "weight"]]), 3.0, X[["size", "weight"]])
    model = InterpolantFlowRegressor(**TINY, atol=0.1).fit(values, Y)
    display = ConditionalDensityDisplay.from_estimator(model, values, 1, grid_resolution=3)
    rows = np.column_stack([np.full(3, np.median(values[:, 0])), display.grid[0]])
    assert model.atol == 0.1
    assert np.array_equal(display.log_density[1], model.log_density(rows, [display.grid[1][1]] * 3))
    assert display.ax_.get_xlabel() == "column 1"


def test_map_of_whole_numbers(counting):
    display = ask(ConditionalDensityDisplay, counting, grid_resolution=20)
    assert np.array_equal(display.grid[1], np.arange(display.grid[1][0], display.grid[1][-1] + 1))
    assert np.exp(display.log_density).sum(axis=0) == pytest.approx(np.ones(20), abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row": 80}, "row must be a number from 0 to 79, or None, got 80"),
        ({"row": 1.0}, "row must be a number from 0 to 79, or None, got 1.0"),
        ({"quantiles": [0.5, 1.0]}, r"quantiles must be one or more levels in \(0, 1\)"),
        ({"grid_resolution": 1}, "grid_resolution must be an integer of at least 2, or None"),
    ],
)
def test_maps_that_are_refused(fitted, arguments, message):
    with pytest.raises(ValueError, match=message):
        ask(ConditionalDensityDisplay, fitted, **arguments)


def test_features_along_which_nothing_can_be_drawn(fitted):
    same = X.assign(size=1.0)
    with pytest.raises(ValueError, match="size has fewer than two different values in X, so that"):
        ConditionalDensityDisplay.from_estimator(fitted, same, "size")
    with pytest.raises(ValueError, match="feature='kind' is not a single numerical column"):
        ConditionalDensityDisplay.from_estimator(fitted, X, "kind")
    with pytest.raises(ValueError, match="feature names should match"):
        ConditionalDensityDisplay.from_estimator(fitted, X[["weight", "size", "kind"]], "size")


@pytest.mark.parametrize("display", DISPLAYS)
def test_several_outputs(several, display):
    with pytest.raises(ValueError, match="requires one output, but the model has 2"):
        ask(display, several)


@pytest.mark.parametrize("display", DISPLAYS)
def test_unfitted_and_other_estimators(display):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ask(display, InterpolantFlowRegressor())
    pipeline = make_pipeline(StandardScaler(), InterpolantFlowRegressor())
    with pytest.raises(
        TypeError,
        match=rf"(?s){display.__name__} requires a fitted InterpolantFlowRegressor, got Pipeline",
    ):
        ask(display, pipeline)


@pytest.mark.parametrize("display", DISPLAYS)
def test_axes_and_plotting_again(fitted, display):
    shape = (1, 2) if display is PITDisplay else (1, 1)
    few = {"grid_resolution": 3} if display is ConditionalDensityDisplay else {}
    axes = plt.subplots(*shape, squeeze=False)[1]
    shown = ask(display, fitted, ax=axes, **few)
    assert shown.figure_ is axes[0, 0].figure
    assert len(plt.get_fignums()) == 1
    assert shown.plot() is shown
    assert shown.figure_ is not axes[0, 0].figure
    shown.figure_.canvas.draw()
    with pytest.raises(ValueError, match=r"ax must be .*matplotlib axes.*; got 'left'"):
        shown.plot(ax="left")


@pytest.mark.parametrize("display", DISPLAYS)
def test_without_matplotlib(display, fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for method, call in {
        "from_estimator": lambda: ask(display, fitted),
        "plot": lambda: display.__new__(display).plot(),
    }.items():
        with pytest.raises(ImportError, match=rf"{display.__name__}\.{method} requires matplotlib"):
            call()


@pytest.mark.parametrize("display", DISPLAYS[:2])
def test_predictions_without_matplotlib(display, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = ([0.5],) if display is PITDisplay else ([0.0], [[0, 1, 2]], [0.1, 0.5, 0.9])
    with pytest.raises(ImportError, match=rf"{display.__name__}\.from_predictions requires"):
        display.from_predictions(*given)


def test_training_of_a_regressor(fitted):
    assert TrainingDisplay.from_estimator(fitted).validation_ax_ is None
    model = InterpolantFlowRegressor(**TINY | {"early_stopping": True, "max_iter": 5}).fit(X, Y)
    display = TrainingDisplay.from_estimator(model)
    assert display.validation_scores == model.validation_scores_
    assert display.validation_ax_ is not None
