"""scikit-learn's callbacks, and held-out rows of one's own."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow._fit.run import check_steps
from tests.helpers import QUICK, Recorder, needs_callbacks

PLAIN = QUICK | {"early_stopping": False, "end_time": 1.0}


@needs_callbacks
@pytest.mark.parametrize("kind", [InterpolantFlowDensity, InterpolantTransport])
def test_callback_hears_every_check(iris, kind):
    recorder, rows = (
        Recorder(),
        (iris,) if kind is InterpolantFlowDensity else (iris[:75], iris[75:]),
    )
    parameters = {name: value for name, value in PLAIN.items() if name in kind().get_params()}
    estimator = kind(**parameters).set_callbacks(recorder).fit(*rows)
    n_checks = len(check_steps(30))
    assert recorder.heard == [
        "setup",
        "begin fit",
        *["begin check", "end check"] * n_checks,
        "end fit",
        "teardown",
    ]
    assert [model.n_iter_ for model in recorder.models] == [*estimator.check_steps_, 30]
    without = kind(**parameters).fit(*rows)
    np.testing.assert_array_equal(
        estimator.transform(rows[0]), without.transform(rows[0])
    )  # listening changes nothing
    np.testing.assert_allclose(
        recorder.models[-1].transform(rows[0]), without.transform(rows[0]), atol=1e-2
    )  # on a grid of its own


@needs_callbacks
def test_callback_stops_the_training(iris):
    recorder = Recorder(stop_after=5)
    density = InterpolantFlowDensity(**PLAIN).set_callbacks(recorder).fit(iris)
    assert density.n_iter_ == 5
    assert len(density.loss_curve_) == len(density.check_steps_) == len(recorder.models) - 1
    assert recorder.heard[-2:] == ["end fit", "teardown"]


@needs_callbacks
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_patience_ends_the_stretch_that_it_cuts_off(iris):
    recorder = Recorder()
    overtrained = PLAIN | {"early_stopping": True, "validation_fraction": 0.5, "alpha": 0.0}
    density = InterpolantFlowDensity(
        **overtrained | {"max_iter": 300, "learning_rate_init": 0.02, "n_iter_no_change": 1}
    )
    density.set_callbacks(recorder).fit(iris[::4])
    assert density.n_iter_ < 300
    assert recorder.heard.count("begin check") == recorder.heard.count("end check")


@needs_callbacks
def test_callback_that_fails_leaves_the_previous_state_and_is_torn_down(iris):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no more")

    density, failing = InterpolantFlowDensity(**PLAIN).fit(iris), Failing()
    before = density.score_samples(iris)
    with pytest.raises(RuntimeError, match="no more"):
        density.set_callbacks(failing).fit(iris)
    np.testing.assert_array_equal(density.score_samples(iris), before)
    assert failing.heard[-1] == "teardown"


@needs_callbacks
def test_scoring_monitor_follows_the_likelihood(iris):
    """On the rows that were given to judge; names of columns go along."""
    from sklearn.callback import ScoringMonitor

    frame = pd.DataFrame(iris, columns=list("abcd"))
    monitor = ScoringMonitor(scoring={"log_likelihood": lambda estimator, X, y: estimator.score(X)})
    density = InterpolantFlowDensity(
        **QUICK | {"end_time": 1.0, "n_iter_no_change": 99}
    ).set_callbacks(monitor)
    density.fit(frame[:100], X_val=frame[100:])
    scores = [
        row["log_likelihood"]
        for row in monitor.get_logs().data
        if row.get("task_name", "check") == "check"
    ]
    assert scores[-1] == pytest.approx(density.score(frame[100:]), abs=0.05)


@needs_callbacks
def test_progress_bar_in_a_search(iris, capsys):
    """It passes down from a search and a pipeline to the estimator."""
    pytest.importorskip(
        "rich", reason="scikit-learn's ProgressBar draws with rich, which is optional there"
    )
    from sklearn.callback import ProgressBar

    search = GridSearchCV(
        make_pipeline(StandardScaler(), InterpolantFlowDensity(**PLAIN)),
        {"interpolantflowdensity__alpha": [1.0]},
        cv=2,
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(iris)
    assert "InterpolantFlowDensity" in capsys.readouterr().out


def test_rows_given_to_judge(iris):
    density = InterpolantFlowDensity(**QUICK | {"n_iter_no_change": 99}).fit(
        iris[:100], X_val=iris[100:]
    )
    assert len(density.validation_scores_) == len(check_steps(30))
    assert type(density._field).__name__ == "ResidualMLP"  # nothing is cross-fitted
    other = InterpolantFlowDensity(**QUICK | {"n_iter_no_change": 99}).fit(
        iris[:100], X_val=iris[100:] + 10.0
    )
    assert max(other.validation_scores_) < min(density.validation_scores_) - 10.0


def test_weights_of_the_rows_that_judge(iris):
    """A row without weight does not count: the scores are those of the others alone."""
    weight = np.r_[np.ones(25), np.zeros(25)]
    parameters = QUICK | {"n_iter_no_change": 99, "end_time": 1.0}
    weighted = InterpolantFlowDensity(**parameters).fit(
        iris[:100], X_val=iris[100:], sample_weight_val=weight
    )
    alone = InterpolantFlowDensity(**parameters).fit(iris[:100], X_val=iris[100:125])
    np.testing.assert_allclose(weighted.validation_scores_, alone.validation_scores_, atol=0.2)
    assert not np.allclose(
        weighted.validation_scores_,
        InterpolantFlowDensity(**parameters).fit(iris[:100], X_val=iris[100:]).validation_scores_,
    )


@pytest.mark.parametrize(
    ("choice", "arguments", "message"),
    [
        (
            {},
            {"X_val": np.zeros((5, 3))},
            "X has 3 features, but InterpolantFlowDensity is expecting 4",
        ),
        ({}, {"X_val": np.full((5, 4), np.nan)}, "contains NaN"),
        (
            {},
            {"sample_weight_val": np.ones(5)},
            "sample_weight_val was given without X_val; pass the held-out rows as X_val",
        ),
        ({}, {"X_val": np.ones((5, 4)), "sample_weight_val": np.zeros(5)}, "zero"),
        (
            {"early_stopping": False},
            {"X_val": np.ones((5, 4))},
            "X_val was given, but early_stopping=False; set early_stopping=True",
        ),
    ],
)
def test_held_out_rows_that_cannot_be_used(iris, choice, arguments, message):
    with pytest.raises(ValueError, match=message):
        InterpolantFlowDensity(**QUICK | choice).fit(iris, **arguments)


def test_pipeline_transforms_the_rows_that_judge(iris):
    with sklearn.config_context(enable_metadata_routing=True):
        density = InterpolantFlowDensity(**QUICK).set_fit_request(X_val=True)
        scaled = make_pipeline(StandardScaler(), density, transform_input=["X_val"]).fit(
            iris[:100], X_val=iris[100:]
        )
    scaler = StandardScaler().fit(iris[:100])
    alone = InterpolantFlowDensity(**QUICK).fit(
        scaler.transform(iris[:100]), X_val=scaler.transform(iris[100:])
    )
    assert scaled[-1].validation_scores_ == alone.validation_scores_
