"""Fits side by side in the threads of one process: each as if it were alone, and torch's global
random state left alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import cross_val_score

from skinterflow import InterpolantFlowDensity, InterpolantFlowRegressor, InterpolantTransport
from skinterflow._fit import validation

N_FITS = 4
TINY = {"hidden_layer_sizes": (8,), "max_iter": 2, "batch_size": 16}
KINDS = {
    "cross-fitted": {},
    "one member": {"early_stopping": True},
    "student": {"student_layer_sizes": (8, 8), "end_time": 1.0, "early_stopping": False},
    "heads": {"gamma": "brownian", "targets": ("b", "eta"), "early_stopping": False},
    "learned path": {"interpolant": "fourier", "base": "learned", "early_stopping": False},
    "whole numbers": {"integer_features": [0], "early_stopping": False},
    "atoms": {},
    "stream": {"early_stopping": False},
    "transport": {},
    "noisy transport": {"gamma": "quadratic"},
    "regressor": {"trunk_layer_sizes": (8,), "end_time": 1.0},
}


@pytest.fixture(autouse=True)
def two_folds(monkeypatch):
    monkeypatch.setattr(validation, "_N_FOLDS", 2)


def fitted(kind, rows, seed):
    """Weights, and what else a fit of a kind has learned, as plain numbers."""
    parameters = TINY | KINDS[kind] | {"random_state": seed}
    if "transport" in kind:
        estimator = InterpolantTransport(**parameters).fit(rows[:70], rows[70:])
    elif kind == "stream":
        estimator = InterpolantFlowDensity(**parameters).partial_fit(rows)
    elif kind == "regressor":
        estimator = InterpolantFlowRegressor(**parameters).fit(
            rows[:, :3], rows @ np.sqrt(range(4))
        )
    else:
        rows = rows.copy()
        if kind == "whole numbers":
            rows[:, 0] = np.rint(rows[:, 0])
        elif kind == "atoms":
            rows[:, 0] = np.maximum(rows[:, 0], 5.05)
        estimator = InterpolantFlowDensity(**parameters).fit(rows)
    weights = torch.cat([p.detach().flatten() for p in estimator._field.parameters()])
    others = ("action_", "mixture_weights_", "member_weights_")
    numbers = np.concatenate([np.ravel(getattr(estimator, name, [])) for name in others])
    return [*weights.tolist(), estimator.end_time_, *estimator.loss_curve_, *numbers.tolist()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::skinterflow.DistillationWarning")
def test_fits_in_threads_are_those_of_one_thread(kind, iris):
    alone = [fitted(kind, iris, seed) for seed in range(N_FITS)]
    with ThreadPoolExecutor(N_FITS) as pool:
        together = list(pool.map(lambda seed: fitted(kind, iris, seed), range(N_FITS)))
    assert together == alone
    assert len({tuple(fit) for fit in alone}) == N_FITS


def test_joblib_threads(iris):
    kinds = ["cross-fitted", "transport", "one member"]
    together = Parallel(n_jobs=3, backend="threading")(
        delayed(fitted)(kind, iris, 0) for kind in kinds
    )
    assert together == [fitted(kind, iris, 0) for kind in kinds]


def test_cross_validation_in_threads(iris):
    density = InterpolantFlowDensity(**TINY, random_state=0)
    alone = cross_val_score(density, iris, cv=3)
    with parallel_config("threading", n_jobs=3):
        np.testing.assert_array_equal(cross_val_score(density, iris, cv=3), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::skinterflow.DistillationWarning")
def test_fit_leaves_the_global_random_numbers_to_others(kind, iris):
    """Another thread draws while the fit goes on, and gets what it would have got without."""
    draws, fit = [], threading.Thread(target=fitted, args=(kind, iris, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fit.start()
        while fit.is_alive():
            draws.append(float(torch.rand(())))
            fit.join(0.001)
        torch.manual_seed(0)
        assert [float(torch.rand(())) for _ in draws] == draws
    assert len(draws) > 10
