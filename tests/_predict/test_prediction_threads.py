"""Threads share nothing that changes a result: blocks of rows, and calls in threads of the user."""

import copy
import threading

import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow._predict import model as engine
from tests.helpers import QUICK

N_ROWS = 1_500
BLOCK_ROWS = 600
"""Three blocks, of which two or three are predicted at a time."""
TINY = QUICK | {"hidden_layer_sizes": (8, 8), "early_stopping": False, "end_time": 1.0, "atol": 0.5}
TINY_TRANSPORT = QUICK | {"hidden_layer_sizes": (8, 8), "atol": 0.05}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(engine, "_BLOCK_ROWS", BLOCK_ROWS)


@pytest.fixture(scope="module")
def rows():
    x = np.random.default_rng(0).standard_normal((N_ROWS, 2))
    return np.column_stack([x[:, 0], x[:, 1] + x[:, 0] ** 2])


DENSITIES = {
    "default scaling": {},
    "deep": {"hidden_layer_sizes": (8, 8, 8)},
    "denoiser": {"targets": "eta", "end_time": 0.9},
    "velocity and score": {"targets": ("v", "s"), "gamma": "brownian"},
    "encoding-decoding": {"interpolant": "encoding_decoding", "gamma": "sine_squared"},
    "bounded, learned path": {
        "interpolant": "fourier",
        "base": "learned",
        "bounds": {1: (-9.0, None)},
    },
    "estimated divergence": {"divergence": 2},
    "estimated divergence of a denoiser": {"targets": "eta", "end_time": 0.9, "divergence": 2},
    "estimated divergence of a score": {
        "targets": ("v", "s"),
        "gamma": "brownian",
        "divergence": 2,
    },
}
PREDICTIONS = {
    "score_samples": lambda d, X: d.score_samples(X, return_error=True),
    "score_samples at a time": lambda d, X: d.score_samples(X, t=0.5),
    "score_gradient": lambda d, X: d.score_gradient(X),
    "velocity": lambda d, X: d.velocity(X, 0.7),
    "transform": lambda d, X: d.transform(X),
    "inverse_transform": lambda d, X: d.inverse_transform(X),
    "trajectory": lambda d, X: d.trajectory(X, [1.0, 0.5, 0.1]),
    "sample": lambda d, X: d.sample(N_ROWS, random_state=0),
    "diffusion": lambda d, X: d.sample(N_ROWS, random_state=0, method="sde", n_steps=3),
    "score": lambda d, X: d.score(X),
    "density_threshold": lambda d, X: d.density_threshold(0.5, n_samples=N_ROWS, random_state=0),
    "contains": lambda d, X: d.contains(X, 0.5, n_samples=100, random_state=0),
    "diagnose": lambda d, X: tuple(d.diagnose(X, random_state=0).values()),
}
POINTWISE = (
    "score_samples",
    "score_gradient",
    "velocity",
    "transform",
    "inverse_transform",
    "trajectory",
)
TRANSPORT_PREDICTIONS = {
    "transform": lambda d, X: d.transform(X),
    "inverse_transform": lambda d, X: d.inverse_transform(X),
    "sample": lambda d, X: d.sample(X, random_state=0, n_steps=3),
    "inverse_sample": lambda d, X: d.inverse_sample(X, random_state=0, n_steps=3),
    "score_gradient": lambda d, X: d.score_gradient(X, t=0.5),
    "log_abs_det_jacobian": lambda d, X: d.log_abs_det_jacobian(X),
    "target_log_density": lambda d, X: d.target_log_density(
        X, KernelDensity().fit(np.zeros((1, 2)))
    ),
    "source_log_density": lambda d, X: d.source_log_density(
        X, KernelDensity().fit(np.zeros((1, 2)))
    ),
}


@pytest.fixture(scope="module")
def density_of(rows):
    fitted = {}

    def fit(name):
        if name not in fitted:
            fitted[name] = InterpolantFlowDensity(**TINY | DENSITIES[name]).fit(rows[:1_000])
        return copy.deepcopy(fitted[name])

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("choice", DENSITIES)
def test_jobs_change_no_prediction_of_a_density(density_of, rows, choice):
    """Forward-mode derivatives gave thousands of velocities of other rows."""
    density = density_of(choice)
    predictions = (
        PREDICTIONS
        if choice == "default scaling"
        else {name: PREDICTIONS[name] for name in ("score_samples", "velocity")}
    )
    for name, predict in predictions.items():
        alone = predict(density.set_params(n_jobs=1), rows)
        for n_jobs in (2, 3):
            np.testing.assert_equal(
                predict(density.set_params(n_jobs=n_jobs), rows),
                alone,
                err_msg=f"{name}, {n_jobs} jobs",
            )


@pytest.mark.slow
def test_jobs_change_no_prediction_of_a_transport(rows):
    transport = InterpolantTransport(**TINY_TRANSPORT, gamma="brownian").fit(
        rows[:1_000], rows[:1_000] + 1.0
    )
    for name, predict in TRANSPORT_PREDICTIONS.items():
        alone = predict(transport.set_params(n_jobs=1), rows)
        for n_jobs in (2, 3):
            np.testing.assert_equal(
                predict(transport.set_params(n_jobs=n_jobs), rows),
                alone,
                err_msg=f"{name}, {n_jobs} jobs",
            )


@pytest.mark.parametrize("choice", DENSITIES)
def test_predictions_in_threads_of_the_user(density_of, rows, choice):
    density, X = density_of(choice), rows[:200]
    X = X[:60] if density.divergence != "exact" else X
    predictions = {name: PREDICTIONS[name] for name in POINTWISE}
    alone = {name: predict(density, X) for name, predict in predictions.items()}
    wrong = []

    def ask(name):
        try:
            for _ in range(2):
                np.testing.assert_equal(predictions[name](density, X), alone[name])
        except Exception as error:
            wrong.append((name, error))

    threads = [threading.Thread(target=ask, args=(name,)) for name in predictions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
