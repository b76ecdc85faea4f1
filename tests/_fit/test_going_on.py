"""Fits that go on: after a kill, from an earlier fit, along a stream."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skinterflow import InterpolantFlowDensity, InterpolantTransport, SavedModelError
from skinterflow._fit import run as fitting
from skinterflow._persistence import checkpoint
from tests.helpers import ONE_FIELD, QUICK, Recorder, needs_callbacks

TINY = QUICK | {"hidden_layer_sizes": (8,), "max_iter": 20}
LONGER = QUICK | {"max_iter": 40, "end_time": 1.0, "early_stopping": False}


def weights(estimator):
    return torch.cat([p.detach().flatten() for p in estimator._field.parameters()])


class Killed(BaseException):
    """What no handler of the fit catches."""


def killed_after(monkeypatch, n_writes):
    """From here on, every step is written down, and the fit dies right after the n-th write."""
    write, written = checkpoint.Checkpoint.write, []

    def write_and_die(self, state):
        write(self, state)
        written.append(1)
        if len(written) == n_writes:
            raise Killed

    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint.Checkpoint, "write", write_and_die)


@pytest.mark.parametrize(
    ("choice", "n_writes"),
    [
        pytest.param({}, 1, id="before the first step"),
        pytest.param({}, 17, id="on the way"),
        pytest.param({}, 21, id="after the last step"),
        pytest.param(
            {"early_stopping": "auto", "n_iter_no_change": 99, "max_iter": 5}, 4, id="four members"
        ),
        pytest.param({"early_stopping": True, "n_iter_no_change": 99}, 9, id="judged"),
        pytest.param({"interpolant": "fourier", "base": "learned"}, 15, id="learned path"),
        pytest.param({"gamma": "brownian", "targets": ("b", "eta")}, 7, id="heads"),
        pytest.param({"student_layer_sizes": (8,)}, 19, id="student"),
    ],
)
def test_killed_fit_goes_on_to_the_same_result(iris, tmp_path, monkeypatch, choice, n_writes):
    """Weights, history and end time are bitwise those of one fit."""
    parameters = TINY | {"early_stopping": False} | choice
    whole = InterpolantFlowDensity(**parameters).fit(iris)
    path = tmp_path / "fit.checkpoint"
    with monkeypatch.context() as patch:
        killed_after(patch, n_writes)
        broken = InterpolantFlowDensity(**parameters, checkpoint=path)
        with pytest.raises(Killed):
            broken.fit(iris)
    assert path.exists()
    assert not hasattr(broken, "n_iter_")
    resumed = InterpolantFlowDensity(**parameters, checkpoint=str(path)).fit(iris)
    assert torch.equal(weights(resumed), weights(whole))
    for name in (
        "end_time_",
        "n_iter_",
        "loss_curve_",
        "check_steps_",
        "validation_scores_",
        "best_validation_score_",
        "initial_action_",
    ):
        assert getattr(resumed, name) == getattr(whole, name)
    np.testing.assert_array_equal(
        resumed.sample(5, random_state=0), whole.sample(5, random_state=0)
    )
    assert not path.exists()  # the fit is done


@pytest.mark.parametrize("choice", [{"gamma": "quadratic"}, {"bridge": 0.5}])
@pytest.mark.filterwarnings("ignore:The forward drift changes systematically")
def test_killed_transport_goes_on_to_the_same_result(iris, tmp_path, monkeypatch, choice):
    parameters, sides = QUICK | choice, (iris[:70], iris[70:])
    whole = InterpolantTransport(**parameters).fit(*sides)
    with monkeypatch.context() as patch:
        killed_after(patch, 12)
        with pytest.raises(Killed):
            InterpolantTransport(**parameters, checkpoint=tmp_path / "fit").fit(*sides)
    with pytest.raises(ValueError, match="belongs to another fit"):
        InterpolantTransport(
            **parameters | {"gamma": None, "bridge": 0.4}, checkpoint=tmp_path / "fit"
        ).fit(*sides)
    assert torch.equal(
        weights(InterpolantTransport(**parameters, checkpoint=tmp_path / "fit").fit(*sides)),
        weights(whole),
    )


def test_fit_without_a_seed_goes_on_with_that_of_its_file(iris, tmp_path, monkeypatch):
    parameters = TINY | {
        "random_state": None,
        "early_stopping": False,
        "checkpoint": tmp_path / "fit",
    }
    with monkeypatch.context() as patch:
        killed_after(patch, 9)
        with pytest.raises(Killed):
            InterpolantFlowDensity(**parameters).fit(iris)
    content = (tmp_path / "fit").read_bytes()
    first = InterpolantFlowDensity(**parameters).fit(iris)
    (tmp_path / "fit").write_bytes(content)
    assert torch.equal(weights(InterpolantFlowDensity(**parameters).fit(iris)), weights(first))


def fit_in_a_process(path, X, result):
    """Body of a process that is killed: it writes every step down."""
    torch.set_num_threads(1)
    checkpoint._SECONDS = 0.0
    density = InterpolantFlowDensity(**LONGER, checkpoint=path).fit(X)
    np.save(result, weights(density).numpy())


def last_write(path):
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
def test_processes_killed_at_random_moments(iris, tmp_path):
    """Ten kills, wherever they fall, even in a write; a process forked from a server that has no
    threads starts at once."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order differ in the last bit
    whole = weights(InterpolantFlowDensity(**LONGER).fit(iris))
    torch.set_num_threads(n_threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    random, path, result = np.random.default_rng(0), tmp_path / "fit", tmp_path / "weights.npy"
    for kill in range(11):
        process = context.Process(target=fit_in_a_process, args=(path, iris, result))
        process.start()
        if kill < 10:
            started, deadline = last_write(path), time.monotonic() + 60
            while (
                last_write(path) == started and process.is_alive() and time.monotonic() < deadline
            ):
                time.sleep(0.005)
            time.sleep(random.uniform(0.0, 0.1))
            process.kill()
        process.join()
    assert process.exitcode == 0
    np.testing.assert_array_equal(np.load(result), whole.numpy())


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"alpha": 1.0}, slice(None)),
        ({"random_state": 1}, slice(None)),
        ({}, slice(1, None)),
        ({"base": "learned"}, slice(None)),
    ],
)
def test_checkpoint_of_another_fit(iris, tmp_path, monkeypatch, change, rows):
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(Killed):
            InterpolantFlowDensity(**LONGER, checkpoint=tmp_path / "fit").fit(iris)
    other = InterpolantFlowDensity(**LONGER | change, checkpoint=tmp_path / "fit")
    with pytest.raises(
        ValueError,
        match=r"fit' belongs to another fit: .* Delete the file to start a new fit, or choose "
        r"another one",
    ):
        other.fit(iris[rows])
    assert (tmp_path / "fit").exists()


def test_checkpoint_that_was_damaged(iris, tmp_path):
    (tmp_path / "fit").write_bytes(b"not a checkpoint")
    with pytest.raises(
        SavedModelError, match="fit' cannot be resumed: The file was not saved by skinterflow"
    ):
        InterpolantFlowDensity(**QUICK, checkpoint=tmp_path / "fit").fit(iris)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", IsADirectoryError, "is a directory; give a file in it"),
        ("absent/fit", FileNotFoundError, r"The directory of .* does not exist"),
    ],
)
def test_checkpoint_that_cannot_be_written(iris, tmp_path, name, error, message):
    """The error comes before the work."""
    with pytest.raises(error, match=message):
        InterpolantFlowDensity(**QUICK, checkpoint=tmp_path / name).fit(iris)


def test_disk_that_fails_later_costs_the_checkpoint_not_the_fit(iris, tmp_path, monkeypatch):
    write, written = checkpoint.write_atomically, []

    def full(path, data):
        written.append(1)
        if len(written) > 1:
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.warns(
        UserWarning,
        match=r"The fit continues, but its progress could not be written to checkpoint=.*"
        r"No space left",
    ):
        density = InterpolantFlowDensity(**ONE_FIELD, checkpoint=tmp_path / "fit").fit(iris)
    assert torch.equal(weights(density), weights(InterpolantFlowDensity(**ONE_FIELD).fit(iris)))


def test_interrupted_fit_keeps_its_checkpoint(iris, tmp_path, monkeypatch):
    """Ctrl-C leaves a model, and the same call goes on where it stopped."""
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    density = InterpolantFlowDensity(**LONGER, checkpoint=tmp_path / "fit")
    note, noted = checkpoint.Checkpoint.write_if_due, []

    def interrupted(self, state):
        note(self, state)
        noted.append(1)
        if len(noted) == 16:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "write_if_due", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted after 16 of 40 steps"):
        density.fit(iris)
    assert density.n_iter_ == 16
    assert np.isfinite(density.score(iris))
    density.fit(iris)
    assert density.n_iter_ == 40
    assert torch.equal(weights(density), weights(InterpolantFlowDensity(**LONGER).fit(iris)))


@pytest.mark.parametrize("early_stopping", [False, "auto"])
def test_warm_start_continues_the_optimiser_and_the_schedule(iris, monkeypatch, early_stopping):
    """A fit that was stopped on its way goes on to what it would have become."""
    parameters = LONGER | {"early_stopping": early_stopping, "n_iter_no_change": 99}
    whole = InterpolantFlowDensity(**parameters).fit(iris)
    density = InterpolantFlowDensity(**parameters, warm_start=True)
    checked = fitting.Run.check

    def stop_at_10(run):
        checked(run)
        if run.history.n_iter == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Run, "check", stop_at_10)
        with pytest.raises(KeyboardInterrupt, match="interrupted after 10 of 40 steps"):
            density.fit(iris)
    assert density.n_iter_ == 10
    density.fit(iris)
    assert density.n_iter_ == 40
    assert density.check_steps_ == whole.check_steps_
    if not early_stopping:  # the interrupt came after the check, before its state was kept
        assert len(density.loss_curve_) == len(whole.loss_curve_)


@needs_callbacks
def test_warm_start_is_bitwise_one_fit(iris):
    """With the schedule of the whole, in two parts: the second takes up the moments, the average
    and the random numbers of the first."""
    whole = InterpolantFlowDensity(**LONGER).fit(iris)
    density = InterpolantFlowDensity(**LONGER, warm_start=True)
    density.set_callbacks(Recorder(stop_after=10)).fit(iris)
    assert density.n_iter_ == 10
    density.set_callbacks().fit(iris)
    assert torch.equal(weights(density), weights(whole))
    assert density.loss_curve_ == whole.loss_curve_


def test_warm_start_with_nothing_left(iris):
    density = InterpolantFlowDensity(**ONE_FIELD, warm_start=True).fit(iris)
    before = weights(density).clone()
    with pytest.warns(
        UserWarning,
        match=r"nothing left to train: .* n_iter_=30 steps, and max_iter=30; raise max_iter",
    ):
        density.fit(iris)
    assert torch.equal(weights(density), before)


def test_warm_start_never_ends_worse_than_it_began(iris):
    """The fitted model is the first that held-out rows judge."""
    density = InterpolantFlowDensity(
        **QUICK | {"max_iter": 200, "early_stopping": True}, warm_start=True
    ).fit(iris)
    before, best = weights(density).clone(), density.best_validation_score_
    with pytest.warns(ConvergenceWarning, match="learning_rate_init=100 is too high"):
        density.set_params(max_iter=400, learning_rate_init=100.0, n_iter_no_change=1).fit(iris)
    assert density.best_validation_score_ == pytest.approx(best)
    assert torch.equal(weights(density), before)


def test_warm_start_of_a_fit_that_kept_no_state(iris):
    """The training begins anew, from the fitted model, which has to be beaten."""
    density = InterpolantFlowDensity(**QUICK | {"max_iter": 200, "early_stopping": True}).fit(iris)
    before, best = weights(density).clone(), density.best_validation_score_
    with pytest.warns(ConvergenceWarning, match="learning_rate_init=10 is too high"):
        density.set_params(warm_start=True, learning_rate_init=10.0, n_iter_no_change=1).fit(iris)
    assert density.n_iter_ < 200
    assert density.best_validation_score_ == pytest.approx(best)
    assert torch.equal(weights(density), before)


def test_state_of_the_training_is_kept_for_warm_starts_only(iris):
    assert InterpolantFlowDensity(**ONE_FIELD).fit(iris)._progress is None
    assert clone(InterpolantFlowDensity(**ONE_FIELD, warm_start=True).fit(iris)).warm_start


def test_stream():
    """Rows in parts: a step for each batch, and the density follows where they go."""
    random = np.random.default_rng(0)
    density = InterpolantFlowDensity(**QUICK | {"learning_rate_init": 0.03}).partial_fit(
        random.normal(size=(96, 2))
    )
    assert density.n_iter_ == 3
    before = density.score(random.normal([2.0, -1.0], 0.5, (500, 2)))
    for part in range(2, 41):
        density.partial_fit(random.normal([2.0, -1.0], 0.5, (96, 2)))
        assert density.n_iter_ == 3 * part
        assert density.n_samples_seen_ == 96 * part
    assert density.check_steps_ == list(range(3, 121, 3))
    assert density.score(random.normal([2.0, -1.0], 0.5, (500, 2))) > before + 1.0
    with pytest.raises(
        ValueError, match="X has 3 features, but InterpolantFlowDensity is expecting 2"
    ):
        density.partial_fit(np.zeros((5, 3)))


def test_stream_is_repeatable_and_weighted(iris):
    first, second = (
        InterpolantFlowDensity(**ONE_FIELD).partial_fit(iris[:75]).partial_fit(iris[75:])
        for _ in range(2)
    )
    assert torch.equal(weights(first), weights(second))
    assert first.n_samples_seen_ == 150
    assert "n_samples_seen_" not in vars(first.fit(iris))
    weighted = InterpolantFlowDensity(**QUICK).partial_fit(
        iris[:75], sample_weight=np.arange(1.0, 76.0)
    )
    assert not torch.equal(
        weights(weighted), weights(InterpolantFlowDensity(**QUICK).partial_fit(iris[:75]))
    )


def test_stream_goes_on_after_a_fit(iris):
    density = InterpolantFlowDensity(
        **QUICK | {"max_iter": 5, "end_time": 1.0}, warm_start=True
    ).fit(iris)
    before, n_iter, n_fields = (
        weights(density).clone(),
        density.n_iter_,
        len(density._field.members),
    )
    density.partial_fit(iris)
    assert density.n_iter_ > n_iter
    assert len(density._field.members) == n_fields
    assert not torch.equal(weights(density), before)
    assert torch.equal(weights(density.partial_fit(iris)), weights(density))


@pytest.mark.parametrize("choice", [{"early_stopping": True}, {"student_layer_sizes": (8,)}])
def test_stream_neither_holds_out_nor_distils(iris, choice):
    density = InterpolantFlowDensity(**QUICK, **choice)
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as caught:
        density.partial_fit(iris)
    assert "partial_fit cannot hold out rows or distil a student" in str(caught.value.__cause__)
    assert "set early_stopping=False and student_layer_sizes=None" in str(caught.value.__cause__)


def test_failed_part_of_a_stream_leaves_the_state(iris):
    density = InterpolantFlowDensity(**QUICK).partial_fit(iris)
    before = dict(vars(density))
    with pytest.raises(ValueError, match="NaN"):
        density.partial_fit(np.full((5, 4), np.nan))
    assert vars(density).keys() == before.keys()
    assert all(vars(density)[name] is value for name, value in before.items())
