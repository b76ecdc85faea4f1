"""Ctrl-C: the estimator is fitted, whoever called the fit is interrupted, and a second Ctrl-C ends
at once."""

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from skinterflow import InterpolantFlowDensity, InterpolantFlowRegressor, InterpolantTransport
from skinterflow._fit import distillation
from skinterflow._fit import run as fitting
from skinterflow._fit.limits import Interruption
from tests.helpers import QUICK

PLAIN = QUICK | {"early_stopping": False, "end_time": 1.0}


@pytest.fixture
def interrupted_at(monkeypatch):
    """Ctrl-C after a step of the next fit."""

    def interrupt(step):
        steps = fitting.Run.steps

        def interrupted(run):
            for number in steps(run):
                yield number
                if number == step:
                    raise KeyboardInterrupt

        monkeypatch.setattr(fitting.Run, "steps", interrupted)

    return interrupt


@pytest.mark.parametrize("choice", [{}, {"early_stopping": "auto"}, {"early_stopping": True}])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_interrupted_fit_raises_and_leaves_a_fitted_estimator(iris, interrupted_at, choice):
    interrupted_at(11)
    density = InterpolantFlowDensity(**PLAIN | choice)
    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted after 11 of 30 steps; the estimator is fitted"
    ):
        density.fit(iris)
    assert density.n_iter_ == 11
    assert np.isfinite(density.score(iris))


REGRESSOR = PLAIN | {"early_stopping": "auto", "trunk_layer_sizes": (8,), "regressor": None}


@pytest.mark.parametrize("conformal", [False, True])
def test_interrupted_regressor(iris, interrupted_at, conformal):
    interrupted_at(11)
    regressor = InterpolantFlowRegressor(**REGRESSOR, conformal=conformal)
    with pytest.raises(KeyboardInterrupt, match="after 11 of 30 steps"):
        regressor.fit(iris[:, :3], iris @ np.sqrt(range(4)))
    assert regressor.n_iter_ == 11
    assert np.isfinite(regressor.predict(iris[:, :3])).all()
    assert (regressor.calibration_latents_ is not None) == conformal


def test_interrupt_while_a_regressor_is_calibrated_by_its_held_out_rows(iris, monkeypatch):
    X, y = iris[:, :3], iris @ np.sqrt(range(4))
    parameters = REGRESSOR | {"early_stopping": False}
    whole = InterpolantFlowRegressor(**parameters, conformal=True).fit(X, y)
    work, times = InterpolantFlowRegressor._calibrate, [1]

    def interrupted(*arguments):
        if times[0]:
            times[0] -= 1
            raise KeyboardInterrupt
        return work(*arguments)

    monkeypatch.setattr(InterpolantFlowRegressor, "_calibrate", interrupted)
    regressor = InterpolantFlowRegressor(**parameters, conformal=True)
    with pytest.raises(KeyboardInterrupt, match="interrupted after its training"):
        regressor.fit(X, y)
    np.testing.assert_array_equal(regressor.predict_interval(X), whole.predict_interval(X))
    before, times[0] = dict(vars(regressor)), 2
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(X, y)
    assert vars(regressor) == before


def test_interrupted_transport(iris, interrupted_at):
    interrupted_at(11)
    transport = InterpolantTransport(**QUICK)
    with pytest.raises(KeyboardInterrupt, match="after 11 of 30 steps"):
        transport.fit(iris[:70], iris[70:])
    assert transport.transform(iris[:3]).shape == (3, 4)


def test_interrupt_before_the_first_step_leaves_the_previous_state(iris, monkeypatch):
    density = InterpolantFlowDensity(**PLAIN).fit(iris)
    before = dict(vars(density))

    def at_once(run):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(fitting.Run, "steps", at_once)
    with pytest.raises(KeyboardInterrupt):
        density.fit(iris)
    assert vars(density) == before


@pytest.mark.parametrize("search", ["cross_val_score", "grid"])
def test_search_ends_with_the_fit_that_was_interrupted(iris, interrupted_at, search):
    interrupted_at(11)
    density = InterpolantFlowDensity(**PLAIN)
    grid = GridSearchCV(density, {"alpha": [1.0, 2.0]}, cv=2)
    run = grid.fit if search == "grid" else lambda X: cross_val_score(density, X, cv=3)
    with pytest.raises(KeyboardInterrupt):
        run(iris)


@pytest.mark.parametrize("place", ["end time", "mixture", "statistics", "calibration"])
def test_interrupt_after_the_training_finishes_the_fit(iris, monkeypatch, place):
    """What was cut off is done anew; a second Ctrl-C leaves the previous state."""
    target, name = {
        "end time": (fitting, "choose_end_time"),
        "mixture": (fitting, "choose_mixture"),
        "statistics": (fitting, "statistics_of"),
        "calibration": (InterpolantFlowDensity, "_calibrated"),
    }[place]
    work, times = getattr(target, name), [1]

    def interrupted(*arguments):
        if times[0]:
            times[0] -= 1
            raise KeyboardInterrupt
        return work(*arguments)

    parameters = PLAIN
    if place == "mixture":
        parameters = QUICK | {"early_stopping": True, "max_iter": 4}
    whole = InterpolantFlowDensity(**parameters).fit(iris)
    monkeypatch.setattr(target, name, interrupted)
    density = InterpolantFlowDensity(**parameters)
    with pytest.raises(
        KeyboardInterrupt, match="interrupted after its training; the estimator is fitted"
    ):
        density.fit(iris)
    np.testing.assert_array_equal(density.score_samples(iris), whole.score_samples(iris))
    before, times[0] = dict(vars(density)), 2
    with pytest.raises(KeyboardInterrupt):
        density.fit(iris)
    assert vars(density) == before


def test_interrupt_while_the_student_is_distilled_keeps_the_teacher(iris, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(distillation, "distil", interrupted)
    density = InterpolantFlowDensity(**PLAIN, student_layer_sizes=(8, 8))
    with pytest.raises(
        KeyboardInterrupt, match="during the distillation; the trained field is the model"
    ):
        density.fit(iris)
    assert density._field is density._trained
    assert density.distillation_loss_ is None
    assert np.isfinite(density.score(iris))


def test_second_interrupt_ends_at_once():
    interruption = Interruption()
    interruption.note("first")
    with pytest.raises(KeyboardInterrupt, match="first"):
        interruption.note("second")

    def cut_off():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interruption.finish(cut_off)
    interruption = Interruption()
    interruption.raise_if_noted()  # nothing was noted
    assert interruption.finish(lambda: 3) == 3


def interrupt_the_first_fit(process):
    """Send SIGINT once a fit reports its progress."""
    assert process.stdout.readline() == "training\n"
    assert process.stdout.readline().startswith("step ")
    process.send_signal(signal.SIGINT)


@pytest.mark.slow
def test_signal_ends_a_search_in_a_process():
    """A real SIGINT, once the first fit of each search trains."""
    program = """
    import signal
    import numpy as np, torch
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from skinterflow import InterpolantFlowDensity
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    class Loud(InterpolantFlowDensity):
        def _train(self, *arguments):
            print("training")
            trained = super()._train(*arguments)
            print("trained")
            return trained

    density = Loud(
        hidden_layer_sizes=(8,), max_iter=20_000, early_stopping=False, random_state=0, verbose=True
    )
    X = np.random.default_rng(0).normal(size=(60, 2))
    try:
        cross_val_score(density, X, cv=50)
    except KeyboardInterrupt as interrupt:
        print(f"next search after: {interrupt}")
    GridSearchCV(density, {"alpha": range(50)}, cv=2).fit(X)
    """
    command = [sys.executable, "-u", "-c", textwrap.dedent(program)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        interrupt_the_first_fit(process)
        out = [""]
        while not out[-1].startswith("next search after: The fit was interrupted after"):
            out.append(process.stdout.readline())
            if out[-1] in ("", "training\n"):  # it ended, or there is another fit
                process.kill()
                pytest.fail(process.stderr.read())
        assert "trained\n" in out
        interrupt_the_first_fit(process)
        last, err = process.communicate(timeout=120)
    assert process.returncode in (1, -signal.SIGINT, 130)
    assert "trained\n" in last
    assert "training\n" not in last
    assert "KeyboardInterrupt: The fit was interrupted after" in err
