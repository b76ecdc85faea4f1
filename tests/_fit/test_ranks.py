"""A fit on two processes is the fit of one, and no process waits for another in vain."""

import datetime
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    InterpolantFlowRegressor,
    InterpolantTransport,
    ProcessGroupError,
    all_ranks,
    one_process,
)
from skinterflow._persistence import checkpoint
from skinterflow.interflow import processes
from tests.helpers import HAS_CALLBACKS, QUICK, needs_callbacks
from tests.ranks import run_ranks

HELD_OUT = QUICK | {"early_stopping": True, "end_time": 1.0}
"""With an odd number of rows, and 32 rows in a batch: two groups that share a time."""
IMPATIENT = HELD_OUT | {
    "scaling": "standardize",
    "learning_rate_init": 0.02,
    "n_iter_no_change": 1,
    "tol": 10.0,
}
ROWS = np.random.default_rng(0).normal(size=(201, 2)) ** 3
COLUMNS = np.column_stack([np.abs(ROWS[:, 0]), np.maximum(ROWS[:, 1], 0.0)])
"""A positive column, and one with an atom."""
FITS = {
    "density": lambda: InterpolantFlowDensity(**HELD_OUT).fit(ROWS),
    "crossed": lambda: InterpolantFlowDensity(**QUICK | {"max_iter": 5}).fit(ROWS[:21]),
    "noise": lambda: InterpolantFlowDensity(
        **HELD_OUT | {"max_iter": 10},
        gamma="brownian",
        targets=("v", "eta"),
        coupling="optimal_transport",
    ).fit(ROWS),
    "bounds and atoms": lambda: InterpolantFlowDensity(
        **HELD_OUT | {"max_iter": 10, "end_time": "auto"}, bounds={0: (0, np.inf)}, mixture="auto"
    ).fit(COLUMNS),
    "impatient": lambda: InterpolantFlowDensity(**IMPATIENT).fit(ROWS),
    "student": lambda: InterpolantFlowDensity(
        **HELD_OUT | {"max_iter": 10, "student_layer_sizes": (8,)}
    ).fit(ROWS),
    "transport": lambda: InterpolantTransport(**QUICK).fit(ROWS[:100], 1.0 + ROWS[100:]),
    "regressor": lambda: InterpolantFlowRegressor(
        trunk_layer_sizes=(8, 8),
        hidden_layer_sizes=(8,),
        regressor=None,
        max_iter=3,
        random_state=0,
    ).fit(ROWS[:41, :1], ROWS[:41, 1]),
}


PREDICTIONS = {
    "scores": lambda fitted: fitted["density"].score_samples(ROWS),
    "one score": lambda fitted: fitted["density"].score_samples(ROWS[:1]),
    "latents": lambda fitted: fitted["density"].transform(ROWS.astype(np.float32)),
    "samples": lambda fitted: fitted["density"].sample(11, random_state=0),
    "gradients": lambda fitted: fitted["density"].score_gradient(ROWS[:9]),
    "mapped": lambda fitted: fitted["transport"].transform(ROWS),
    "quantiles": lambda fitted: fitted["regressor"].predict_quantiles(ROWS[:9, :1], [0.1, 0.9]),
    "given": lambda fitted: fitted["regressor"].log_density(ROWS[:9, :1], ROWS[:9, 1]),
    "outputs": lambda fitted: fitted["regressor"].sample(ROWS[:9, :1], 3, random_state=0),
}


def shared(ask, *arguments):
    with all_ranks():
        return ask(*arguments)


class FromStep:
    """A callback that acts once, when the fit has taken two steps, on one rank."""

    def __init__(self, action, rank=1):
        self.action, self.on = action, dist.get_rank() == rank

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, **data):
        due = self.on and fitted_estimator is not None and fitted_estimator.n_iter_ >= 2
        self.on = self.on and not due
        return self.action() if due else False


def fail():
    raise ZeroDivisionError("of this rank")


def interrupt():
    signal.raise_signal(signal.SIGINT)
    return False


def outcome(action):
    """What an action returns or raises."""
    try:
        return action()
    except (Exception, KeyboardInterrupt) as error:
        return error


def summary(estimator):
    return {
        "weights": estimator._trained.state_dict(),
        "field": estimator._field.state_dict(),
        "steps": estimator.check_steps_,
        "scores": getattr(estimator, "validation_scores_", None),
        "end_time": estimator.end_time_,
        "n_iter": estimator.n_iter_,
    }


def differing(name, values):
    """Fit on ranks that differ in one parameter."""
    value = values[dist.get_rank()]
    return outcome(lambda: InterpolantFlowDensity(**QUICK | {name: value}).fit(ROWS))


def differing_rows(*rows):
    return outcome(lambda: InterpolantFlowDensity(**QUICK).fit(rows[dist.get_rank()]))


def alone():
    """Each rank its own fit, of which the other knows nothing."""
    with one_process():
        return InterpolantTransport(**QUICK | {"random_state": dist.get_rank()}).fit(ROWS, ROWS)


def with_callback(action, **parameters):
    density = InterpolantFlowDensity(**HELD_OUT, **parameters)
    error = outcome(lambda: density.set_callbacks(FromStep(action)).fit(ROWS))
    return getattr(density, "n_iter_", None), None if error is density else error


def checks(folder):
    """All that two ranks have to do, as starting them takes long."""
    warnings.simplefilter("ignore")
    rank = dist.get_rank()
    fitted = {name: fit() for name, fit in FITS.items()}
    found = {name: summary(estimator) for name, estimator in fitted.items()}
    found |= {name: (ask(fitted), shared(ask, fitted)) for name, ask in PREDICTIONS.items()}
    found["random"] = shared(fitted["density"].sample, 5)
    found["other predictions"] = outcome(lambda: shared(fitted["density"].transform, ROWS[rank:]))
    nan = ROWS.copy()
    nan[rank - 1] = np.nan if rank else 0.0
    found["parameter"] = differing("max_iter", (30, 40))
    found["invalid rows"] = differing_rows(ROWS, nan)
    found["columns"] = differing_rows(ROWS, ROWS[:, :1])
    names = ["a", "b"] if rank == 0 else ["b", "a"]
    found["names"] = differing_rows(*[pd.DataFrame(ROWS, columns=names)] * 2)
    found["no rows"] = differing_rows(ROWS, ROWS[:0])
    found["other rows"] = differing_rows(ROWS, ROWS[::-1])
    found["any seed"] = differing("random_state", (None, None))._trained.state_dict()
    detector = InterpolantFlowOutlierDetector(hidden_layer_sizes=(8,), max_iter=3, n_folds=2)
    found["any detector"] = detector.fit(ROWS[:41]).score_samples(ROWS[:9])
    parts = slice(0, 200) if rank == 0 else slice(200, None)
    weights = np.linspace(1.0, 2.0, len(ROWS))
    found["sharded"] = summary(
        InterpolantFlowDensity(**HELD_OUT).fit(ROWS[parts], None, weights[parts], sharded=True)
    )
    found["weighted"] = summary(InterpolantFlowDensity(**HELD_OUT).fit(ROWS, None, weights))
    found["some weights"] = outcome(
        lambda: InterpolantFlowDensity(**HELD_OUT).fit(
            ROWS[parts], None, weights[parts] if rank else None, sharded=True
        )
    )
    found["timed"] = summary(InterpolantFlowDensity(**HELD_OUT | {"max_time": 0.5}).fit(ROWS))
    found["alone"] = summary(alone())
    if HAS_CALLBACKS:
        found["stopped"] = with_callback(lambda: True)
        found["interrupted"] = with_callback(interrupt)
        found["raised"] = with_callback(fail)
        found["after"] = summary(FITS["density"]())
    found["lonely"] = lonely()  # at the end, because the ranks are out of step after it
    return found


def lonely():
    """A fit that the other rank does not call, within a group whose timeout is a second."""
    if dist.get_rank():
        time.sleep(3)
        return None
    new_group = dist.new_group
    dist.new_group = lambda **options: new_group(
        **options | {"timeout": datetime.timedelta(seconds=1)}
    )
    return outcome(FITS["density"])


def with_a_kill(folder):
    """A fit of which one rank is killed after two steps, and what the other one gets when."""
    warnings.simplefilter("ignore")
    checkpoint._SECONDS = 0.0
    path, started = Path(folder) / "checkpoint", time.monotonic()
    error = with_callback(lambda: os.kill(os.getpid(), signal.SIGKILL), checkpoint=path)[1]
    return error, time.monotonic() - started


def resume(folder):
    warnings.simplefilter("ignore")
    path = Path(folder) / "checkpoint"
    return summary(InterpolantFlowDensity(**HELD_OUT, checkpoint=path).fit(ROWS))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_ranks(checks, 2, tmp_path_factory.mktemp("two"))


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def distance(a, b):
    """Distance of two states, relative to their size."""
    a, b = (torch.cat([part.double().flatten() for part in state.values()]) for state in (a, b))
    return float((a - b).norm() / a.norm())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FITS)
def test_ranks_have_the_weights_of_one_process(two, name):
    first, second, one = two[0][name], two[1][name], summary(FITS[name]())
    assert equal(first["weights"], second["weights"])
    assert equal(first["field"], second["field"])
    assert distance(first["weights"], one["weights"]) < 1e-6
    assert (first["steps"], first["end_time"]) == (one["steps"], one["end_time"])
    assert first["scores"] == second["scores"]
    if one["scores"]:
        np.testing.assert_allclose(first["scores"], one["scores"], atol=1e-6)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_shared_predictions_are_those_of_one_process(two, name):
    for alone, together in (found[name] for found in two):
        assert alone.dtype == together.dtype
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(two[0][name][1], two[1][name][1])


def test_shared_samples_without_a_seed_are_equal(two):
    np.testing.assert_array_equal(two[0]["random"], two[1]["random"])


def test_parts_of_the_ranks_are_fitted_as_one(two):
    for found in two:
        assert equal(found["sharded"]["weights"], found["weighted"]["weights"])


def test_parts_need_a_group():
    with pytest.raises(ValueError, match="sharded=True needs a process group"):
        InterpolantFlowDensity(**QUICK).fit(ROWS, sharded=True)


def test_patience_ends_the_fit_on_all_ranks(two):
    assert two[0]["impatient"]["n_iter"] < 30


def test_time_budget_ends_at_the_same_step(two):
    assert equal(two[0]["timed"]["weights"], two[1]["timed"]["weights"])
    assert two[0]["timed"]["n_iter"] == two[1]["timed"]["n_iter"]


def test_random_state_of_none_is_drawn_by_the_first_rank(two):
    assert equal(two[0]["any seed"], two[1]["any seed"])


def test_detector_of_any_seed_is_the_same_on_all_ranks(two):
    np.testing.assert_array_equal(two[0]["any detector"], two[1]["any detector"])


def test_a_rank_alone_has_its_own_fit(two):
    assert not equal(two[0]["alone"]["weights"], two[1]["alone"]["weights"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parameter", "max_iter is 30 on rank 0 and 40 on rank 1; pass the same on every rank"),
        ("columns", r"number of columns is \(2,\) on rank 0 and \(1,\) on rank 1"),
        ("names", "column names is a, b on rank 0 and b, a on rank 1"),
        ("no rows", "Rank 1 of 2 has no rows; pass the same rows on every rank"),
        ("other predictions", r"number of rows is \[201\] on rank 0 and \[200\] on rank 1"),
        ("some weights", "sample_weight is missing on rank 0 and given on rank 1"),
        ("other rows", "the content of the rows is .* pass the same rows, in the same order,"),
    ],
)
def test_ranks_that_differ_raise_the_same_error(two, name, message):
    for found in two:
        with pytest.raises(ValueError, match=message):
            raise found[name]
    assert str(two[0][name]) == str(two[1][name])


def test_rows_that_are_invalid_on_one_rank_are_an_error_on_both(two):
    with pytest.raises(
        ProcessGroupError,
        match="Rank 0 of 2 stopped, because rank 1 failed with ValueError: Input X contains NaN",
    ):
        raise two[0]["invalid rows"]
    with pytest.raises(ValueError, match="Input X contains NaN"):
        raise two[1]["invalid rows"]


@needs_callbacks
def test_callback_of_one_rank_stops_all(two):
    (first, _), (second, _) = (found["stopped"] for found in two)
    assert first == second < 30


@needs_callbacks
def test_ctrl_c_on_one_rank_ends_the_fit_of_all(two):
    (first, error0), (second, error1) = (found["interrupted"] for found in two)
    assert first == second < 30
    for error in (error0, error1):
        with pytest.raises(KeyboardInterrupt, match=f"interrupted after {first} of 30 steps"):
            raise error


@needs_callbacks
def test_failure_of_one_rank_is_a_failure_of_all(two):
    (n_iter, error0), (_, error1) = (found["raised"] for found in two)
    assert n_iter is None
    with pytest.raises(ProcessGroupError, match="rank 1 failed with ZeroDivisionError: of this"):
        raise error0
    with pytest.raises(ZeroDivisionError, match="of this rank"):
        raise error1


@needs_callbacks
def test_fit_after_a_failure_is_unaffected(two):
    for found in two:
        assert equal(found["after"]["weights"], two[0]["density"]["weights"])


def test_rank_that_waits_for_others_says_how_to_call_it_alone(two):
    with pytest.raises(ProcessGroupError, match="Rank 0 of 2 waited 100 seconds for the other"):
        raise two[0]["lonely"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What the other rank of one that is killed has to say, with the checkpoint in the folder."""
    folder = tmp_path_factory.mktemp("killed")
    return folder, run_ranks(with_a_kill, 2, folder)


@needs_callbacks
def test_killed_rank_is_an_error_of_the_other(killed):
    (error, seconds), nothing = killed[1]
    assert nothing is None
    assert seconds < 60  # of a timeout of 100
    with pytest.raises(ProcessGroupError, match="another process ended, cannot be reached"):
        raise error


@needs_callbacks
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_fit_is_resumed_on_any_number_of_ranks(two, killed, tmp_path, n_ranks):
    shutil.copy(killed[0] / "checkpoint", tmp_path)
    resumed = [resume(tmp_path)] if n_ranks == 1 else run_ranks(resume, n_ranks, tmp_path)
    for found in resumed:
        assert found["steps"] == two[0]["density"]["steps"]
        assert equal(found["weights"], resumed[0]["weights"])
    assert distance(resumed[0]["weights"], two[0]["density"]["weights"]) < 1e-6
    assert not (tmp_path / "checkpoint").exists()


def test_without_a_group_nothing_is_shared():
    x = torch.arange(3.0)
    with processes.all_ranks():
        assert processes.of_all(1) == [1]
        assert processes.over_ranks(lambda rows: rows, x) is x
        assert not processes.interrupt()
