"""Write the files of
`tests/data`, which the next releases must load: ``python -m tests.make_saved_models``.

Files of a release are never written again; a new release adds its own.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import skinterflow
from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow import Brownian, LearnedGamma, Linear, Normalized, OptimalTransport

DATA = Path(__file__).parent / "data"
TINY = {"hidden_layer_sizes": (4, 4), "max_iter": 20, "batch_size": 16}
ROWS = np.array([[0.0, 1.0], [1.0, 2.0], [-1.0, 0.5]])
"""Rows that the tests ask the models about."""


def training_rows(n, seed):
    x = np.random.RandomState(seed).standard_normal((n, 2))
    return np.column_stack([x[:, 0], 1.0 + 0.5 * x[:, 0] + x[:, 1] ** 2])


def density():
    """A learned path and base, a student, a frame, and parameters of many kinds."""
    model = InterpolantFlowDensity(
        **TINY,
        interpolant="fourier",
        gamma=LearnedGamma(2),
        base="learned",
        targets=("b", "eta"),
        student_layer_sizes=(4,),
        end_time=0.95,
        random_state=np.random.RandomState(0),
        device=torch.device("cpu"),
        atol=1e-4,
    )
    return model.fit(pd.DataFrame(training_rows(60, 0), columns=["length", "weight"]))


def transport():
    """An own scaling of the path, a coupling with a parameter, and two heads."""
    gamma = Brownian(0.5)
    model = InterpolantTransport(
        **TINY,
        interpolant=Normalized(Linear(), gamma),
        gamma=gamma,
        targets=("b", "eta"),
        coupling=OptimalTransport(8),
        scaling="whiten",
        random_state=0,
        atol=1e-4,
    )
    return model.fit(training_rows(40, 1), training_rows(50, 2) + 1.0)


def main():
    np.set_printoptions(precision=8)
    release = "_".join(skinterflow.__version__.split(".")[:2])
    for name, model in (("density", density()), ("transport", transport())):
        model.save(DATA / f"{name}_{release}.safetensors")
        print(
            name, repr(model.score_samples(frame()) if name == "density" else model.transform(ROWS))
        )


def frame():
    return pd.DataFrame(ROWS, columns=["length", "weight"])


if __name__ == "__main__":
    main()
