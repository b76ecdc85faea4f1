"""Displays: what is computed is what the estimator says, what is drawn is labelled, and what cannot
be drawn is refused."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinterflow import (
    CalibrationDisplay,
    DensityDisplay,
    InterpolantFlowDensity,
    InterpolantTransport,
    TrainingDisplay,
    TrajectoryDisplay,
)
from tests.helpers import QUICK

DISPLAYS = [DensityDisplay, TrainingDisplay, TrajectoryDisplay, CalibrationDisplay]
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
FEW = {"n_samples": 100, "random_state": 0}


@pytest.fixture(autouse=True)
def no_figures_are_left():
    yield
    plt.close("all")


def quick(rows, **parameters):
    return InterpolantFlowDensity(
        **(QUICK | {"early_stopping": False, "max_iter": 10} | parameters)
    ).fit(rows)


@pytest.fixture(scope="module")
def frame(iris):
    return pd.DataFrame(iris, columns=NAMES)


@pytest.fixture(scope="module")
def named(frame):
    return quick(frame)


@pytest.fixture(scope="module")
def line(iris):
    return quick(iris[:, :1])


@pytest.fixture(scope="module")
def plane(frame):
    return quick(frame[NAMES[:2]])


@pytest.fixture(scope="module")
def normal():
    """A fitted estimator whose density is N(0, I)."""
    return quick(np.random.default_rng(0).normal(size=(40, 2)), scaling=None, end_time=1e-9)


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def frame_of(plane, rows):
    return pd.DataFrame(rows, columns=plane.feature_names_in_)


def test_curve(line, iris):
    display = DensityDisplay.from_estimator(line, iris[:, :1], levels=(0.9, 0.5), **FEW)
    (grid,) = display.grid
    assert grid.shape == display.log_density.shape == (400,)
    assert display.log_density == pytest.approx(line.score_samples(grid[:, None]), abs=0.1)
    assert trapezoid(np.exp(display.log_density), grid) == pytest.approx(1.0, abs=0.03)
    assert display.thresholds == pytest.approx(line.density_threshold([0.9, 0.5], **FEW))
    assert labels(display.ax_) == ("column 0", "density")
    assert legend(display.ax_) == ["0.9 of probability", "0.5 of probability", "density", "data"]
    assert display.axes_.shape == (1, 1)
    assert display.figure_ is display.ax_.figure
    wide, narrow = (patch.get_paths()[0].get_extents() for patch in display.ax_.collections)
    assert wide.x0 < narrow.x0 < narrow.x1 < wide.x1


def test_map(plane, frame):
    display = DensityDisplay.from_estimator(plane, frame[NAMES[:2]], grid_resolution=12, **FEW)
    across, up = display.grid
    assert display.log_density.shape == (12, 12)
    (expected,) = plane.score_samples(frame_of(plane, [[across[3], up[7]]]))
    assert display.log_density[7, 3] == pytest.approx(expected, abs=1e-3)
    assert labels(display.ax_) == tuple(NAMES[:2])
    display.figure_.canvas.draw()
    assert {text.get_text() for text in display.ax_.texts} <= {"0.5", "0.9"}
    assert display.figure_.axes[1].get_ylabel() == "density"
    contours = [part for part in display.ax_.collections if hasattr(part, "levels")]
    assert sorted(contours[0].levels) == pytest.approx(sorted(display.thresholds))


def test_a_fine_map_is_exact_wherever_it_can_be_seen(normal):
    """Low contours can be seen as well, beyond the colours of the map."""
    display = DensityDisplay.from_estimator(
        normal, grid_resolution=45, levels=(0.5, 0.999), n_samples=2_000, random_state=0
    )
    square = sum(part**2 for part in np.meshgrid(*display.grid))
    expected = -0.5 * square - np.log(2 * np.pi)
    lowest = min(display.thresholds)
    seen = expected >= lowest - 1.0
    assert lowest < expected.max() - 6.5
    assert 0.5 < seen.mean() < 0.99
    assert display.log_density[seen] == pytest.approx(expected[seen], abs=1e-3)
    assert (display.log_density[~seen] < lowest).all()


def test_map_with_the_columns_exchanged(plane):
    """The same density, seen from the other side."""
    display = DensityDisplay.from_estimator(
        plane, features=NAMES[1::-1], grid_resolution=5, levels=(), **FEW
    )
    across, up = display.grid
    (expected,) = plane.score_samples(frame_of(plane, [[up[1], across[3]]]))
    assert display.log_density[1, 3] == pytest.approx(expected, abs=1e-3)
    assert labels(display.ax_) == (NAMES[1], NAMES[0])
    assert len(display.thresholds) == 0


def test_density_at_a_time(line):
    display = DensityDisplay.from_estimator(line, grid_resolution=10, t=0.3, levels=0.5, **FEW)
    assert display.log_density == pytest.approx(
        line.score_samples(display.grid[0][:, None], t=0.3), abs=1e-3
    )
    samples = line.sample(100, 0, t=0.3)
    assert display.thresholds == pytest.approx(np.median(line.score_samples(samples, t=0.3)))
    assert np.array_equal(display.samples, samples)


def test_corner_plot(named, frame):
    display = DensityDisplay.from_estimator(named, frame, **FEW)
    axes = display.axes_
    assert axes.shape == (4, 4)
    assert [ax.get_xlabel() for ax in axes[-1]] == NAMES
    assert [ax.get_ylabel() for ax in axes[1:, 0]] == NAMES[1:]
    assert all(ax.axison == (row >= column) for (row, column), ax in np.ndenumerate(axes))
    assert legend(axes[0, -1]) == ["samples", "data"]
    assert axes[2, 0].get_xlim() == axes[0, 0].get_xlim() == axes[3, 0].get_xlim()
    samples, data = (points.get_offsets() for points in axes[3, 1].collections)
    assert np.array_equal(samples, display.samples[:, [1, 3]])
    assert np.array_equal(data, frame.to_numpy()[:, [1, 3]])
    assert display.log_density is None
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("features", "shown"),
    [
        (["petal width", 0, np.int64(1)], [3, 0, 1]),
        ("sepal width", [1]),
        (2, [2]),
        ((2, 3), [2, 3]),
    ],
)
def test_chosen_features_are_samples(named, frame, features, shown):
    display = DensityDisplay.from_estimator(named, frame, features=features, **FEW)
    assert display.feature_names == [NAMES[k] for k in shown]
    assert np.array_equal(display.samples, named.sample(100, 0)[:, shown])
    assert np.array_equal(display.X, frame.to_numpy()[:, shown])
    assert display.log_density is None
    expected = {1: "density", 2: NAMES[3], 3: ""}[len(shown)]
    assert display.ax_.get_ylabel() == expected
    if len(shown) < 3:
        assert display.ax_.get_xlabel() == NAMES[shown[0]]
        assert legend(display.ax_) == ["samples", "data"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            ["petal width", "stem"],
            "features='stem' is not a column; the columns are 'sepal length', 'sepal width'",
        ),
        ([4], "features=4 is not a column; use numbers from 0 to 3, or names"),
        ([-1], "features=-1 is not a column"),
        ([1.0], r"features=1\.0 is not a column"),
        ([], r"features must be one or more distinct columns, got \[\]"),
        ([1, "sepal width"], r"one or more distinct columns, got \[1, 'sepal width'\]"),
    ],
)
def test_columns_that_are_none(named, features, message):
    with pytest.raises(ValueError, match=message):
        DensityDisplay.from_estimator(named, features=features)


def test_names_where_there_were_none(line):
    with pytest.raises(
        ValueError,
        match="features='a' is a name, but the estimator was fitted without feature names; use "
        "column numbers",
    ):
        DensityDisplay.from_estimator(line, features="a")
    with pytest.raises(ValueError, match=r"use numbers from 0 to 0\.$"):
        TrajectoryDisplay.from_estimator(line, features=9)


def test_too_many_columns(iris):
    wide = quick(np.hstack([iris, iris**2]), max_iter=2)
    with pytest.raises(
        ValueError,
        match=r"A corner plot of 8 columns is too large.*choose up to 6.*"
        r"features=\[0, 1, 2, 3, 4, 5\]",
    ):
        DensityDisplay.from_estimator(wide)
    with pytest.raises(
        ValueError,
        match=r"Trajectories are drawn in one or two columns; choose two of the 3, such as "
        r"features=\[2, 0\]",
    ):
        TrajectoryDisplay.from_estimator(wide, features=[2, 0, 1])


def test_one_far_row_does_not_hide_the_others(line, iris):
    rows = np.vstack([iris[:, :1], iris[:, :1], [[1e9]]])
    display = DensityDisplay.from_estimator(line, rows, grid_resolution=3, **FEW)
    assert display.grid[0].max() < 20
    assert display.ax_.get_xlim()[1] < 20


def test_a_narrow_column_far_from_zero():
    """float32 would not tell its values apart."""
    rows = 1e9 + np.random.default_rng(0).normal(size=(40, 1))
    display = DensityDisplay.from_estimator(quick(rows), grid_resolution=20, levels=(), **FEW)
    assert len(np.unique(display.log_density)) > 10


@pytest.mark.parametrize("resolution", [1, 2.5, "fine"])
def test_grids_that_are_none(line, resolution):
    with pytest.raises(
        ValueError, match=r"grid_resolution must be an integer of at least 2, or None, got"
    ):
        DensityDisplay.from_estimator(line, grid_resolution=resolution)


@pytest.mark.parametrize("display", [DensityDisplay, CalibrationDisplay])
def test_levels_that_are_none(line, iris, display):
    with pytest.raises(ValueError, match=r"level must be one or more numbers in \(0, 1\)"):
        display.from_estimator(line, iris[:, :1], levels=(0.5, 1.0))


def test_data_of_another_width(named, iris):
    with pytest.raises(ValueError, match="feature names should match"):
        DensityDisplay.from_estimator(named, pd.DataFrame(iris[:, :2], columns=NAMES[:2]))


def test_training(iris):
    density = InterpolantFlowDensity(**QUICK, early_stopping=True).fit(iris)
    assert density.check_steps_ == [1, 2, 3, 5, 8, 11, 15, 20, 25, 30][: len(density.loss_curve_)]
    display = TrainingDisplay.from_estimator(density)
    assert labels(display.ax_) == ("gradient steps", "training loss $G$")
    assert display.validation_ax_.get_ylabel() == "held-out log-likelihood (nats per row)"
    assert list(display.axes_) == [display.ax_, display.validation_ax_]
    (loss,), (scores, best) = display.ax_.lines, display.validation_ax_.lines
    assert np.array_equal(
        loss.get_xydata(), np.transpose([density.check_steps_, density.loss_curve_])
    )
    assert np.array_equal(
        scores.get_xydata(), np.transpose([density.check_steps_, density.validation_scores_])
    )
    assert best.get_ydata() == [density.best_validation_score_]
    assert legend(display.validation_ax_)[2].startswith("best, ")


def test_training_without_rows_that_judge(named):
    rows = np.random.default_rng(0).normal(size=(2, 20, 2))
    transport = InterpolantTransport(**QUICK | {"max_iter": 3}).fit(*rows)
    for estimator in (named, transport):
        display = TrainingDisplay.from_estimator(estimator)
        assert display.validation_ax_ is None
        assert display.axes_.shape == (1,)
        assert legend(display.ax_) == ["training loss"]


def test_ways(named):
    display = TrajectoryDisplay.from_estimator(
        named, n_samples=7, features=["petal width", "sepal length"], random_state=0
    )
    assert display.positions.shape == (21, 7, 2)
    assert display.times[[0, -1]] == pytest.approx([0.0, named.end_time_])
    assert np.array_equal(display.positions[0], named.sample(7, 0, t=0.0)[:, [3, 0]])
    assert display.positions[-1] == pytest.approx(named.sample(7, 0)[:, [3, 0]], abs=0.02)
    assert labels(display.ax_) == ("petal width", "sepal length")
    assert legend(display.ax_) == ["start, t = 0", "end, t = 1"]
    assert len(display.ax_.lines) == 7
    start, end = (points.get_offsets() for points in display.ax_.collections)
    assert np.array_equal(start, display.positions[0])
    assert np.array_equal(end, display.positions[-1])


def test_ways_of_rows_lead_back(named, frame):
    display = TrajectoryDisplay.from_estimator(named, frame[:5])
    assert np.array_equal(display.positions[0], frame.to_numpy()[:5, :2])
    assert legend(display.ax_) == ["start, t = 1", "end, t = 0"]
    display = TrajectoryDisplay.from_estimator(named, frame[:5], times=[0.25, 0.5])
    assert display.positions == pytest.approx(named.trajectory(frame[:5], [0.25, 0.5])[:, :, :2])


def test_ways_in_one_column_are_against_time(line):
    display = TrajectoryDisplay.from_estimator(
        line, times=[0.0, 0.5, 1.0], n_samples=4, random_state=0
    )
    assert labels(display.ax_) == ("time t", "column 0")
    assert display.ax_.lines[2].get_xdata() == pytest.approx([0.0, 0.5, 1.0])
    assert display.ax_.lines[2].get_ydata() == pytest.approx(display.positions[:, 2, 0])


def test_a_gaussian_has_no_ways(line):
    """Where the flow was left out, the points stay where they are."""
    still = InterpolantFlowDensity.__new__(InterpolantFlowDensity)
    vars(still).update(vars(line) | {"end_time_": 0.0})
    assert TrajectoryDisplay.from_estimator(still, n_samples=3, random_state=0).positions.shape == (
        1,
        3,
        1,
    )


def test_calibration_of_the_true_density(normal):
    display = CalibrationDisplay.from_estimator(
        normal, np.random.default_rng(3).normal(size=(1500, 2)), random_state=1, n_samples=1000
    )
    low, high = display.coverage_interval
    assert display.levels == pytest.approx(np.arange(0.05, 1.0, 0.05))
    assert ((low <= display.coverage) & (display.coverage <= high)).all()
    low, high = display.normal_interval[:, :, None]
    inside = (low <= display.latent_quantiles) & (display.latent_quantiles <= high)
    assert inside.mean() > 0.9
    assert display.latent_quantiles.shape == (1000, 2)
    assert display.latent_quantiles == pytest.approx(
        np.tile(display.normal_quantiles[:, None], 2), abs=0.5
    )


def test_calibration_of_a_density_that_is_too_narrow(normal):
    display = CalibrationDisplay.from_estimator(
        normal, 2 * np.random.default_rng(3).normal(size=(200, 2)), levels=[0.8, 0.5], **FEW
    )
    assert display.levels == pytest.approx([0.5, 0.8])
    # of N(0, 4 I) in the disc where |x|^2 < c: 1 - exp(-c / 8), and c = -2 log(1 - level)
    assert display.coverage == pytest.approx(1 - (1 - display.levels) ** 0.25, abs=0.1)
    assert (display.coverage < display.coverage_interval[0]).all()
    assert display.latent_quantiles[-20:] == pytest.approx(
        2 * np.tile(display.normal_quantiles[-20:, None], 2), rel=0.5
    )


def test_intervals_of_calibration(normal):
    """One row is a normal number; and the boundaries come from as many samples as there are
    rows."""
    display = CalibrationDisplay.from_estimator(normal, [[0.0, 0.5]], levels=0.5, **FEW)
    assert display.normal_interval[:, 0] == pytest.approx(norm.ppf([0.025, 0.975]))
    display = CalibrationDisplay.from_estimator(normal, np.zeros((100, 2)), levels=0.5, **FEW)
    assert display.coverage_interval[:, 0] == pytest.approx(
        0.5 + np.array([-1, 1]) * 1.96 * np.sqrt(0.25 * (1 / 100 + 1 / 100)), abs=0.02
    )


def test_labels_of_calibration(named, frame):
    display = CalibrationDisplay.from_estimator(named.set_output(transform="pandas"), frame, **FEW)
    latent, coverage = display.axes_
    assert labels(latent) == ("quantile of the standard normal", "quantile of the latent")
    assert legend(latent) == ["95% interval of a true model", *NAMES]
    assert labels(coverage) == ("probability of the region", "fraction of rows inside")
    assert coverage.get_xlim() == coverage.get_ylim() == (0.0, 1.0)


def test_calibration_of_many_columns(normal):
    """Their lines share one colour and one label."""
    display = CalibrationDisplay.from_estimator(normal, np.zeros((3, 2)), **FEW)
    display.latent_quantiles, display.feature_names = (
        np.zeros((3, 11)),
        [f"x{k}" for k in range(11)],
    )
    display.plot()
    assert legend(display.axes_[0]) == ["95% interval of a true model", "11 columns"]
    assert {to_rgba(line.get_color()) for line in display.axes_[0].lines[1:]} == {
        to_rgba("tab:blue")
    }


def test_axes_that_are_given(named, frame):
    figure, ax = plt.subplots()
    assert TrainingDisplay.from_estimator(named, ax=ax).ax_ is ax
    assert (
        TrajectoryDisplay.from_estimator(named, frame[:3], times=[1.0, 0.5], ax=ax).figure_
        is figure
    )
    display = DensityDisplay.from_estimator(named, features=0, ax=ax, **FEW)
    assert display.ax_ is ax
    assert len(plt.get_fignums()) == 1
    axes = plt.subplots(3, 3)[1]
    display = DensityDisplay.from_estimator(named, features=(0, 1, 2), ax=axes, **FEW)
    assert (display.axes_ == axes).all()
    axes = plt.subplots(2, 1)[1]
    assert list(CalibrationDisplay.from_estimator(named, frame[:9], ax=axes, **FEW).axes_) == list(
        axes
    )


def test_plotting_again(line):
    display = DensityDisplay.from_estimator(line, grid_resolution=10, **FEW)
    first = display.ax_
    assert display.plot() is display
    assert display.ax_ is not first
    assert np.array_equal(display.ax_.lines[0].get_xydata(), first.lines[0].get_xydata())


def test_axes_that_are_none(named):
    ax = plt.subplots()[1]
    with pytest.raises(
        ValueError,
        match=r"ax must be an array of 4 x 4 matplotlib axes, such as "
        r"plt.subplots\(4, 4\)\[1\].*; got <Axes",
    ):
        DensityDisplay.from_estimator(named, ax=ax, **FEW)
    with pytest.raises(ValueError, match=r"ax must be matplotlib axes, such as .*; got 'left'"):
        TrainingDisplay.from_estimator(named, ax="left")


def ask(display, estimator):
    return display.from_estimator(estimator, *([[[0.0]]] if display is CalibrationDisplay else []))


@pytest.mark.parametrize("display", DISPLAYS)
def test_unfitted(display):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ask(display, InterpolantFlowDensity())


@pytest.mark.parametrize("display", DISPLAYS)
def test_what_is_no_density(display):
    pipeline = make_pipeline(StandardScaler(), InterpolantFlowDensity())
    with pytest.raises(
        TypeError,
        match=rf"(?s){display.__name__} requires a fitted Interpolant.*got Pipeline.*"
        r"for a pipeline, pass that step",
    ):
        ask(display, pipeline)


def test_ways_of_a_transport():
    with pytest.raises(
        TypeError,
        match="TrajectoryDisplay requires a fitted InterpolantFlowDensity, got "
        "InterpolantTransport",
    ):
        TrajectoryDisplay.from_estimator(InterpolantTransport())


@pytest.mark.parametrize("display", DISPLAYS)
def test_without_matplotlib(display, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ImportError,
        match=rf"{display.__name__}\.from_estimator requires matplotlib.*"
        r"`pip install skinterflow\[plot\]`",
    ):
        ask(display, named)
    with pytest.raises(ImportError, match=rf"{display.__name__}\.plot requires matplotlib"):
        display.__new__(display).plot()


def test_matplotlib_is_not_imported_before_it_is_needed():
    command = (
        "import sys, skinterflow; skinterflow.DensityDisplay; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
