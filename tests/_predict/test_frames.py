"""How far a prediction walks: frames of ours from the public method to the first velocity."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

import skinterflow
from skinterflow import InterpolantFlowDensity
from skinterflow.interflow.fields import AveragedField
from tests.helpers import ONE_FIELD

HOME = Path(skinterflow.__file__).parent
CALLS = {
    "score_samples": lambda density, X: density.score_samples(X),
    "transform": lambda density, X: density.transform(X),
    "sample": lambda density, X: density.sample(5, random_state=0),
    "inverse_transform": lambda density, X: density.inverse_transform(X),
    "score_gradient": lambda density, X: density.score_gradient(X),
    "velocity": lambda density, X: density.velocity(X, 0.5),
}
MOST_FRAMES, MOST_CLOSURES = 14, 2


class Reached(Exception):
    """The first velocity was asked for, with the frames of ours on the way."""

    def __init__(self, frames):
        self.frames = frames


def walk(density, X, call, monkeypatch):
    """Frames of ours, from the public method to the first value of the field (of four)."""

    def velocity(self, *arguments):
        frame, frames = sys._getframe(1), []
        while frame is not None:
            if HOME in Path(frame.f_code.co_filename).parents:
                name = frame.f_code.co_qualname
                frames.append((str(Path(frame.f_code.co_filename).relative_to(HOME)), name))
            frame = frame.f_back
        raise Reached(frames[::-1])

    for name in ("at", "forward", "value_and_divergence"):
        monkeypatch.setattr(AveragedField, name, velocity)
    with pytest.raises(Reached) as reached:
        call(density, X)
    return reached.value.frames


@pytest.mark.parametrize("name", CALLS)
def test_the_walk_to_the_first_velocity_is_short(fitted, iris, monkeypatch, name):
    frames = walk(copy.deepcopy(fitted), iris, CALLS[name], monkeypatch)
    print(*(f"{file}:{function}" for file, function in frames), sep="\n")
    closures = [function for _, function in frames if "<locals>" in function]
    assert len(frames) <= MOST_FRAMES
    assert len(closures) <= MOST_CLOSURES


@pytest.mark.parametrize("name", ["transform", "sample", "score_gradient"])
def test_no_file_is_entered_again(fitted, iris, monkeypatch, name):
    frames = walk(copy.deepcopy(fitted), iris, CALLS[name], monkeypatch)
    files = [file for file, _ in frames]
    entered = [a for a, b in zip(files, [None, *files], strict=False) if a != b]
    assert len(entered) == len(set(entered))


def test_the_model_is_built_once(iris, monkeypatch):
    density = InterpolantFlowDensity(**ONE_FIELD).fit(iris)
    built, build = [], InterpolantFlowDensity._built_model
    monkeypatch.setattr(
        InterpolantFlowDensity,
        "_built_model",
        lambda self, *rest: built.append(rest) or build(self, *rest),
    )
    for _ in range(3):
        density.score_samples(iris)
        density.transform(iris)
    assert len(built) == 1
    density.score_samples(iris.astype(np.float32))  # the solver chooses the precision
    density.set_params(atol=0.1).score_samples(iris)
    assert len(built) == 2
    density.set_params(max_iter=5).fit(iris).score_samples(iris)
    assert len(built) == 3
