"""The student that becomes the model, and the guard before it does."""

import copy

import numpy as np
import pytest
import torch

from skinterflow import InterpolantFlowDensity
from skinterflow._data.batches import FlowRows, ShuffledRows
from skinterflow._fit import distillation
from skinterflow._fit.distillation import compute_targets
from skinterflow._runtime import seeded_generators
from skinterflow.exceptions import DistillationWarning
from skinterflow.interflow.fields import ResidualMLP
from skinterflow.interflow.interpolants import Trigonometric
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import DistillationObjective
from skinterflow.interflow.scaling import Compose
from skinterflow.interflow.times import Beta
from tests.helpers import QUICK, moons, perturbed, points, trace_of_jacobian

TAUGHT = {
    "hidden_layer_sizes": (32, 32, 32),
    "student_layer_sizes": (32, 32),
    "max_iter": 300,
    "end_time": 1.0,
    "random_state": 0,
    "batch_size": 128,
}


@pytest.fixture(scope="module")
def taught():
    return InterpolantFlowDensity(**TAUGHT).fit(moons())


@pytest.mark.slow
def test_student_is_the_model_and_keeps_the_likelihood(taught):
    assert isinstance(taught._field, ResidualMLP)
    assert taught._field.hidden_layer_sizes == (32, 32)
    teacher = copy.deepcopy(taught)
    teacher._field, teacher._calibration = taught._trained, None
    held_out = moons(1000, seed=1)
    assert taught.score(held_out) == pytest.approx(teacher.score(held_out), abs=0.2)
    assert abs(taught.distillation_loss_) < 0.2
    assert not np.allclose(
        taught.transform(held_out[:5]), teacher.transform(held_out[:5]), atol=1e-4
    )


@pytest.mark.slow
def test_student_is_normalised(taught):
    x, y = np.linspace(-3, 4, 106), np.linspace(-2.5, 3, 101)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    total = (
        np.exp(copy.deepcopy(taught).set_params(atol=0.2, n_jobs=1).score_samples(grid)).sum()
        * (x[1] - x[0])
        * (y[1] - y[0])
    )
    assert total == pytest.approx(1.0, abs=1e-2)


def test_teacher_can_be_kept(iris):
    density = InterpolantFlowDensity(**QUICK, early_stopping=True, student_layer_sizes=None).fit(
        iris
    )
    assert density._field.hidden_layer_sizes == (16, 16)
    assert density._field is density._trained
    assert density.distillation_loss_ is None


@pytest.mark.parametrize("trouble", ["loses", "diverges"])
def test_bad_student_leaves_the_teacher_with_a_warning(trouble, iris, monkeypatch):
    def spoilt(student, *rest):
        return perturbed(student, size=0.5 if trouble == "loses" else float("nan")).float()

    monkeypatch.setattr(distillation, "distil", spoilt)
    reason = {"loses": r"lost \d.* nats per row", "diverges": "diverged"}[trouble]
    with pytest.warns(
        DistillationWarning,
        match=rf"The student {reason}.* so that the trained field is the model.*"
        r"student_layer_sizes=None",
    ):
        density = InterpolantFlowDensity(
            **QUICK, end_time=1.0, early_stopping=True, student_layer_sizes=(8, 8)
        ).fit(iris)
    kept = InterpolantFlowDensity(
        **QUICK, end_time=1.0, early_stopping=True, student_layer_sizes=None
    ).fit(iris)
    np.testing.assert_allclose(density.score_samples(iris), kept.score_samples(iris), atol=0.05)
    assert density._field.hidden_layer_sizes == (16, 16)


def distilled_by(monkeypatch, iris, losses, **choice):
    """A fit with students that lose so much, or diverge (None), and the number of steps of each."""
    scores, asked = iter([0.0, *(-loss for loss in losses if loss is not None)]), []

    def distil(student, *rest):
        asked.append((student.hidden_layer_sizes, rest[6]))
        if losses[len(asked) - 1] is None:
            raise FloatingPointError("not finite")
        return student

    monkeypatch.setattr(distillation, "distil", distil)
    monkeypatch.setattr(distillation, "_validation_score", lambda *arguments: next(scores))
    parameters = QUICK | {"end_time": 1.0, "early_stopping": True, "student_layer_sizes": "auto"}
    parameters |= {"solver": "dopri5"}  # chooses its own steps, so that no student is calibrated
    density = InterpolantFlowDensity(**parameters | choice).fit(iris)
    return density, asked


@pytest.mark.parametrize(
    ("losses", "widths"),
    [
        pytest.param([0.1], (128, 128), id="the first is good enough"),
        pytest.param([0.4, 0.1], (256, 256), id="the second is better"),
        pytest.param([0.4, 0.6], (128, 128), id="the second is worse"),
        pytest.param([1.5, 0.9], (256, 256), id="the first would be rejected"),
        pytest.param([None, 0.4], (256, 256), id="the first diverges"),
        pytest.param([0.4, None], (128, 128), id="the second diverges"),
        pytest.param([float("nan"), 0.4], (256, 256), id="the first is not a number"),
    ],
)
def test_auto_tries_a_wider_student_where_one_loses_much(losses, widths, iris, monkeypatch):
    density, asked = distilled_by(monkeypatch, iris, losses)
    assert density._field.hidden_layer_sizes == widths
    assert density.distillation_loss_ == losses[widths == (256, 256)]
    assert asked == [((128, 128), 90), ((256, 256), 90)][: len(losses)]  # three times max_iter


@pytest.mark.parametrize(
    ("losses", "reason"), [([1.5, 1.2], r"lost 1\.20 nats"), ([None, None], "diverged")]
)
def test_auto_keeps_the_teacher_where_no_student_is_good_enough(losses, reason, iris, monkeypatch):
    with pytest.warns(DistillationWarning, match=f"The student {reason}"):
        density, asked = distilled_by(monkeypatch, iris, losses)
    assert density._field is density._trained
    assert len(asked) == 2


def test_sizes_of_the_user_are_tried_alone(iris, monkeypatch):
    density, asked = distilled_by(monkeypatch, iris, [0.4], student_layer_sizes=(8, 8))
    assert density.distillation_loss_ == 0.4
    assert asked == [((8, 8), 30)]


def test_student_of_another_name_is_refused(iris):
    with pytest.raises(ValueError, match=r"student_layer_sizes.* must be a str among {'auto'}"):
        InterpolantFlowDensity(**QUICK, student_layer_sizes="small").fit(iris)


@pytest.mark.parametrize("sizes", [(8, 8, 8), (0,), ("a",), (1.5, 2)])
def test_student_of_impossible_shape_is_refused(sizes, iris):
    with pytest.raises(ValueError, match=r"student_layer_sizes must .*, got \("):
        InterpolantFlowDensity(**QUICK, student_layer_sizes=sizes).fit(iris)


def test_targets_are_the_teacher_on_the_path():
    """At end time 0.6, all times are before it, points are interpolated, and velocity and
    divergence are the teacher's."""
    with torch.random.fork_rng():
        teacher = perturbed(ResidualMLP(2, (5, 5, 5)), size=0.2)
    x1 = points(50, 2)
    rows = ShuffledRows(FlowRows(x1, torch.ones(50), torch.zeros(50)), seed=0)
    path, generators = (
        StochasticInterpolant(Trigonometric()),
        seeded_generators(0, torch.device("cpu")),
    )
    targets = compute_targets(
        teacher, rows, 0.6, path, Compose([]), Beta(1.0, 0.5), 4000, generators
    )
    assert targets.x.shape == targets.v.shape == (250, 16, 2)
    assert targets.t.shape == (250, 1)
    assert targets.t.max() <= 0.6
    per_row = targets.t.repeat_interleave(16, dim=0)[:, 0].to(targets.x)
    x = targets.x.reshape(-1, 2)
    torch.testing.assert_close(targets.v.reshape(-1, 2), teacher(per_row, x))
    for row in (0, 777, 3999):
        expected = trace_of_jacobian(teacher, per_row[row], x[row : row + 1])
        torch.testing.assert_close(targets.divergence.flatten()[row : row + 1], expected)
    assert 0.3 < float(targets.t.mean()) < 0.5  # Beta(1, 0.5) on [0, 0.6] has mean 0.4


def test_student_that_is_the_teacher_has_no_loss():
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(3, (4, 4)))
    t, x = (
        torch.rand(5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        points(10, 3).reshape(5, 2, 3),
    )
    v, divergence = field.value_and_divergence(t, x)
    loss = DistillationObjective(field, 2.0)(t, x, v + 1.0, divergence - 3.0)
    torch.testing.assert_close(loss, torch.full((5, 2), 3 * 1.0 + 2.0 * 9.0, dtype=torch.float64))


def test_distillation_goes_on_from_the_teacher_when_warm(iris):
    """A warm start continues the trained field, not its student."""
    density = InterpolantFlowDensity(
        **QUICK, early_stopping=False, warm_start=True, student_layer_sizes=(8, 8)
    ).fit(iris)
    shapes = [p.shape for p in density._trained.parameters()]
    density.set_params(max_iter=60).fit(iris)
    assert [p.shape for p in density._trained.parameters()] == shapes
    assert density._field.hidden_layer_sizes == (8, 8)
