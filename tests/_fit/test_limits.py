"""What ends a fit: its budget of time, patience, a training that diverges."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow._fit import distillation, limits, validation
from skinterflow._fit import run as fitting
from skinterflow._fit.limits import TimeBudget
from skinterflow.interflow.training import _learning_rate_factor
from tests.helpers import QUICK

PLAIN = QUICK | {"early_stopping": False, "end_time": 1.0}


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by a second at every step of a training, and not else."""
    now = [0.0]
    monkeypatch.setattr(limits, "clock", lambda: now[0])
    steps = fitting.Run.steps

    def slow(run):
        for number in steps(run):
            now[0] += 1.0
            yield number

    monkeypatch.setattr(fitting.Run, "steps", slow)
    return now


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_time_ends_the_fit_and_its_schedule(iris, ticking, monkeypatch, early_stopping):
    """Forty seconds are forty steps of a thousand; the checks are those of forty, and the rate has
    decayed."""
    rates, factor = [], _learning_rate_factor
    monkeypatch.setattr(
        "skinterflow.interflow.training._learning_rate_factor",
        lambda *args: rates.append(factor(*args)) or rates[-1],
    )
    parameters = QUICK | {
        "max_iter": 1000,
        "early_stopping": early_stopping,
        "end_time": 1.0,
        "n_iter_no_change": 99,
    }
    density = InterpolantFlowDensity(**parameters, max_time=40.0).fit(iris)
    assert 39 <= density.n_iter_ <= 41
    assert density.check_steps_[-1] == density.n_iter_
    assert len(density.check_steps_) == 10
    assert max(rates) > 0.8
    assert rates[density.n_iter_ - 1] < 0.02
    assert np.isfinite(density.score(iris))


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::skinterflow.DistillationWarning"
)
def test_students_of_auto_share_the_time_of_one(iris, ticking, monkeypatch):
    """A hundred seconds: 65 steps of the field, and 17 or 18 of each student."""
    train, n_steps = distillation.train, []

    def slow(*arguments, **choice):
        n_steps.append(0)
        for step in train(*arguments, **choice):
            ticking[0] += 1.0
            n_steps[-1] = step.number
            yield step

    monkeypatch.setattr(distillation, "train", slow)
    monkeypatch.setattr(distillation, "SMALL_DISTILLATION_LOSS", -1e9)  # none is good enough
    parameters = QUICK | {"max_iter": 1000, "early_stopping": True, "end_time": 1.0}
    InterpolantFlowDensity(
        **parameters, n_iter_no_change=99, max_time=100.0, student_layer_sizes="auto"
    ).fit(iris)
    assert len(n_steps) == 2
    assert all(16 <= n <= 19 for n in n_steps)
    assert ticking[0] == pytest.approx(100.0, abs=2.0)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::skinterflow.DistillationWarning"
)
def test_student_has_its_share_of_the_time(iris, ticking, monkeypatch, early_stopping):
    """A hundred seconds: 65 steps of the field, and 35 of the student, at a second each."""
    train, n_steps = distillation.train, []

    def slow(*arguments, **choice):
        for step in train(*arguments, **choice):
            ticking[0] += 1.0
            n_steps.append(step.number)
            yield step

    monkeypatch.setattr(distillation, "train", slow)
    parameters = QUICK | {
        "max_iter": 1000,
        "early_stopping": early_stopping,
        "end_time": 1.0,
        "n_iter_no_change": 99,
    }
    density = InterpolantFlowDensity(**parameters, max_time=100.0, student_layer_sizes=(8, 8)).fit(
        iris
    )
    assert 64 <= density.n_iter_ <= 66
    assert 34 <= n_steps[-1] <= 36
    assert ticking[0] == pytest.approx(100.0, abs=2.0)


def test_steps_that_end_before_the_time_are_a_fit_without_a_limit(iris):
    limited = InterpolantFlowDensity(**PLAIN, max_time=1e6).fit(iris)
    unlimited = InterpolantFlowDensity(**PLAIN).fit(iris)
    weights = [
        torch.cat([p.flatten() for p in density._field.parameters()])
        for density in (limited, unlimited)
    ]
    assert torch.equal(*weights)


def test_time_of_a_transport(iris, ticking):
    assert (
        14
        <= InterpolantTransport(**QUICK | {"max_iter": 1000}, max_time=15.0)
        .fit(iris[:70], iris[70:])
        .n_iter_
        <= 16
    )


def test_each_warm_start_has_its_time(iris, ticking):
    density = InterpolantFlowDensity(
        **PLAIN | {"max_iter": 1000}, max_time=10.0, warm_start=True
    ).fit(iris)
    first = density.n_iter_
    assert 9 <= density.fit(iris).n_iter_ - first <= 11


def test_time_of_a_resumed_fit_is_that_of_all_its_sessions(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(limits, "clock", lambda: now[0])
    budget = TimeBudget(10.0)
    budget.begin_training(earlier=4.0)
    now[0] = 3.0
    assert budget.part() == pytest.approx(0.7)
    assert budget.left() == pytest.approx(3.0)
    budget.reserved = 3.0
    assert budget.part() == 1.0


@pytest.mark.parametrize("max_time", [0, -1.0, "a"])
def test_time_must_be_positive(iris, max_time):
    with pytest.raises(ValueError, match="'max_time' parameter"):
        InterpolantFlowDensity(**QUICK, max_time=max_time).fit(iris)


def test_rate_follows_the_scarcer_of_steps_and_time():
    assert _learning_rate_factor(10, 1000, 0.5) == pytest.approx(0.5)
    assert _learning_rate_factor(500, 1000, 0.1) == pytest.approx(_learning_rate_factor(500, 1000))
    assert _learning_rate_factor(1, 1000, 1.0) == 0.0


@pytest.mark.parametrize(
    ("scores", "n_steps"), [([-2.0, -2.1, -2.2, -2.3], 30), ([-1.0, -1.1, -1.2, -1.3], 5)]
)
def test_patience_waits_until_something_is_learned(iris, monkeypatch, scores, n_steps):
    """Scores that fall from the first check on end the training early only if they are above that
    of the Gaussian, -2."""
    parameters = QUICK | {"early_stopping": True, "end_time": 1.0}
    left = iter(scores + [scores[-1]] * 20)
    monkeypatch.setattr(fitting.Run, "_validation_score", lambda self, members: next(left))
    monkeypatch.setattr(fitting.Run, "_gaussian_score", -2.0)
    assert InterpolantFlowDensity(**parameters).fit(iris).n_iter_ == n_steps


def test_fit_that_ends_at_the_gaussian_says_so(iris, monkeypatch):
    monkeypatch.setattr(fitting, "choose_end_time", lambda *arguments: 0.0)
    with pytest.warns(
        ConvergenceWarning,
        match=r"end_time_=0, and the model is a Gaussian .* after 30 steps .* raise max_iter=30",
    ):
        density = InterpolantFlowDensity(**QUICK | {"early_stopping": True}, mixture=None).fit(iris)
    assert density.end_time_ == 0.0


@pytest.mark.slow
def test_scores_that_fall_in_the_warm_up_end_no_fit():
    """Normal columns that share a scale: the first twenty-five steps gain nothing, and patience
    ended the fit there, at the Gaussian."""
    X = np.random.default_rng(2).normal(size=(4_000, 5))
    X[:, 1:] *= np.abs(X[:, :1])
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(64, 64), max_iter=150, learning_rate_init=0.01, random_state=2
    ).fit(X)
    assert density.n_iter_ == 150
    assert density.score(X[:500]) > density.score_samples(X[:500], t=0.0).mean() + 0.05


@pytest.mark.slow
def test_short_schedule_on_many_rows_is_no_gaussian():
    """A curved mixture: a short training with held-out rows is as good as one without."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2))
    X[:, 1] += X[:, 0] ** 2
    quick = {
        "hidden_layer_sizes": (32, 32),
        "max_iter": 100,
        "random_state": 0,
        "scaling": "whiten",
    }
    stopped = InterpolantFlowDensity(**quick).fit(X)
    whole = InterpolantFlowDensity(**quick, early_stopping=False).fit(X)
    assert stopped.end_time_ > 0
    assert stopped.score(X) > whole.score(X) - 0.1


@pytest.mark.parametrize("early_stopping", [True, False])
def test_learning_rate_that_is_too_high_is_named(iris, early_stopping):
    density = InterpolantFlowDensity(**QUICK | {"early_stopping": early_stopping}).fit(iris)
    before = dict(vars(density))
    with pytest.raises(
        FloatingPointError,
        match=r"diverged by step \d+.*learning_rate_init=1000 is too high for these rows; try 100",
    ):
        density.set_params(learning_rate_init=1e3).fit(iris)
    assert vars(density) == before | {"learning_rate_init": 1e3}


def test_training_that_ends_with_a_large_loss_keeps_the_best_weights(iris, monkeypatch):
    note = fitting.Run._record

    def large(self, loss, before):
        note(self, 1.7e6 if self.history.steps else loss, before)

    monkeypatch.setattr(fitting.Run, "_record", large)
    message = (
        r"loss of 1\.7e\+06, where an untrained field has 0: learning_rate_init=0.3 .* "
        r"best check are kept"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        density = InterpolantFlowDensity(
            **QUICK | {"early_stopping": True, "learning_rate_init": 0.3}
        ).fit(iris)
    assert np.isfinite(density.score(iris))


@pytest.mark.parametrize("early_stopping", [True, False])
def test_rows_that_are_large_for_want_of_a_scaling(early_stopping):
    X = 1e6 * np.random.default_rng(0).normal(size=(100, 2))
    with pytest.warns(
        ConvergenceWarning,
        match=r"size \S+ in flow units, where 1 is right; set scaling='gaussianize'",
    ):
        InterpolantFlowDensity(**QUICK | {"early_stopping": early_stopping}, scaling=None).fit(X)


def test_part_of_a_stream_that_diverges(iris):
    density = InterpolantFlowDensity(**PLAIN).partial_fit(iris)
    before = dict(vars(density))
    with pytest.raises(FloatingPointError, match="learning_rate_init"):
        density.set_params(learning_rate_init=1e3).partial_fit(iris)
    assert vars(density).keys() == before.keys()
    assert density.n_iter_ == before["n_iter_"]


def test_ordinary_fit_says_nothing(iris, monkeypatch):
    monkeypatch.setattr(validation, "_N_FOLDS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        InterpolantFlowDensity(**QUICK | {"max_iter": 100}).fit(iris)
