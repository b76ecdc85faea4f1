"""Hostile calls: each ends in a finite right answer or in an error of ours, and changes nothing.

A call is drawn from a seed: a model, some parameters, a method, and arguments of which some are
absurd.  The tables below say what there is to draw; a new method or argument is one more line.  To
see the calls of one seed again: ``HOSTILE_SEED=123 pytest -s tests/test_hostile.py -k test_calls``.
"""

import copy
import functools
import os
import random
import signal
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.neighbors import KernelDensity

import skinterflow
from skinterflow import (
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    InterpolantFlowRegressor,
    InterpolantTransport,
)
from skinterflow._persistence.codec import encode
from skinterflow.interflow import Solver
from tests.helpers import QUICK, cluster_in_scatter, same

HOSTILITY = 0.1
"""How often an argument is a bad one."""
SECONDS = 10.0
"""A call that takes longer hangs."""
HOME = Path(skinterflow.__file__).parent
ERRORS = (ValueError, TypeError, AttributeError, FloatingPointError, OSError)
"""What a call may raise; SavedModelError, NotFittedError and InvalidParameterError are among
them."""
WHERE_OURS = (str(HOME), f"{os.sep}sklearn{os.sep}utils{os.sep}", f"{os.sep}sklearn{os.sep}base.py")
"""Files whose messages are ours, or scikit-learn's own about its arguments."""
ROWS = np.random.default_rng(0).normal(size=(60, 2))
TINY = {**QUICK, "hidden_layer_sizes": (8,), "max_iter": 3, "batch_size": 16}


TINY_REGRESSOR = {**TINY, "trunk_layer_sizes": (8,), "regressor": None, "early_stopping": False}

# What the models are.

MODELS = {
    "density": lambda: InterpolantFlowDensity(**TINY, early_stopping=False).fit(ROWS),
    "density, crossed": lambda: InterpolantFlowDensity(**TINY, end_time=0.9).fit(ROWS),
    "density of a frame": lambda: (
        InterpolantFlowDensity(**TINY, early_stopping=False)
        .fit(pd.DataFrame(ROWS, columns=["a", "b"]))
        .set_output(transform="pandas")
    ),
    "density with bounds": lambda: InterpolantFlowDensity(
        **TINY, early_stopping=False, bounds={0: (-10, None), 1: (-9, 9)}
    ).fit(ROWS),
    "density with atoms": lambda: InterpolantFlowDensity(**TINY, early_stopping=False).fit(
        np.clip(ROWS, -0.5, None)
    ),
    "density, a mixture": lambda: InterpolantFlowDensity(**TINY, early_stopping=True).fit(
        cluster_in_scatter(200)[0][:, :2]
    ),
    "density of whole numbers": lambda: InterpolantFlowDensity(
        **TINY, early_stopping=False, integer_features=[1]
    ).fit(np.column_stack([ROWS[:, 0], np.rint(ROWS[:, 1])])),
    "density with a score": lambda: InterpolantFlowDensity(
        **TINY, gamma="brownian", targets=("b", "eta"), base="learned", interpolant="linear"
    ).fit(ROWS),
    "density with a student": lambda: InterpolantFlowDensity(
        **TINY, early_stopping=False, student_layer_sizes=(4,), end_time=0.8
    ).fit(ROWS),
    "density without a scaling": lambda: InterpolantFlowDensity(
        **TINY, early_stopping=False, scaling=None
    ).fit(ROWS),
    "transport": lambda: InterpolantTransport(**TINY).fit(ROWS, ROWS + 1.0),
    "transport with noise": lambda: InterpolantTransport(**TINY, gamma="brownian").fit(
        ROWS, ROWS + 1.0
    ),
    "mirror": lambda: InterpolantTransport(**TINY, interpolant="mirror", gamma="sine_squared").fit(
        ROWS
    ),
    "regressor": lambda: InterpolantFlowRegressor(**TINY_REGRESSOR).fit(ROWS, ROWS[:, 0] ** 2),
    "regressor with bounds": lambda: InterpolantFlowRegressor(
        **TINY_REGRESSOR, bounds=(-10, None), conformal=True
    ).fit(ROWS, ROWS[:, 0] ** 2),
    "regressor of whole numbers": lambda: InterpolantFlowRegressor(
        **TINY_REGRESSOR, integer_target=True
    ).fit(ROWS, np.rint(3.0 * ROWS[:, 0])),
    "detector": lambda: InterpolantFlowOutlierDetector(**TINY, n_folds=2).fit(ROWS),
    "detector without folds": lambda: InterpolantFlowOutlierDetector(**TINY, n_folds=None).fit(
        pd.DataFrame(ROWS, columns=["a", "b"])
    ),
    "unfitted regressor": lambda: InterpolantFlowRegressor(**TINY_REGRESSOR),
    "unfitted density": lambda: InterpolantFlowDensity(**TINY),
    "unfitted transport": lambda: InterpolantTransport(**TINY),
}


@functools.cache
def model(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name]()


# What the arguments are: functions of a random.Random.


def of(*good, bad=()):
    """One of the good ones, or now and then a bad one."""
    return lambda draw: draw.choice(bad if bad and draw.random() < HOSTILITY else good)


def spoiled(draw):
    """Rows of which one number is absurd."""
    rows = good_rows(draw)
    rows[draw.randrange(len(rows)), draw.randrange(2)] = draw.choice(
        [np.nan, np.inf, 1e308, -1e308, 1e300, -1e300, 1e155, -1e155, 1e100, 1e40, 1e12, 5e-324]
    )
    return rows


def good_rows(draw):
    return ROWS[: draw.choice([2, 3, 30])].copy()


def scaled_rows(draw):
    with np.errstate(over="ignore"):
        return good_rows(draw) * draw.choice(
            [0.0, 1e-320, 1e-170, 1e5, 1e30, 1e150, 1e155, 1e300, -1e300, 1e306]
        )


def single(rows):
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return rows.astype(np.float32)


def strange_rows(draw):
    return draw.choice(
        [
            None, 1, "rows", [], [[]], {}, np.zeros((0, 2)), np.zeros((3, 1)), np.zeros((3, 5)),
            np.zeros(3), np.zeros((2, 2, 2)), np.array([["a", "b"]]), np.array([[1j, 0]]),
            [[1, 2], [3]], [[None, 1.0]], object(), np.array([[10**400, 1]], dtype=object),
            pd.DataFrame({"a": [1.0, 2.0], "b": [0.5, 1.0]}),
            pd.DataFrame({"b": [1.0], "a": [0.5]}), np.zeros((3, 2), dtype=bool),
            np.ma.masked_array(np.zeros((3, 2)), True),
            np.array([["2020-01-01"] * 2], dtype="datetime64[D]"), torch.zeros(2, 2),
        ]
    )  # fmt: skip


def rows(draw):
    kind = draw.choice(
        [spoiled, spoiled, scaled_rows, scaled_rows, strange_rows]
        if draw.random() < 2 * HOSTILITY
        else [good_rows]
    )
    given = kind(draw)
    return (
        single(given)
        if isinstance(given, np.ndarray) and given.dtype == np.float64 and draw.random() < 0.3
        else given
    )


NUMBERS = [
    0,
    1,
    -1,
    0.5,
    2,
    np.nan,
    np.inf,
    -np.inf,
    1e-50,
    1e-9,
    5e-324,
    1e300,
    10**400,
    -(10**400),
    2**63,
    True,
    None,
    "a",
    1j,
]
times_of_path = of(
    None,
    0,
    1,
    0.5,
    0.8,
    1e-12,
    1e-50,
    1.0 - 1e-12,
    np.float32(0.25),
    bad=[*NUMBERS, [], [0.5], np.array(0.5), object()],
)


several_times = of(
    [0.8, 0.5, 0.0], [0.0, 0.25], [0.5], np.linspace(0, 0.8, 4), (0.8, 0.0), [0.5, 0.5 + 1e-8],
    bad=[0.5, None, "abc", [], [0.0, 0.0], [0.0, None], [0, 2], [np.nan, 1], [[0, 1]], {0.0: 1},
         {0.0, 1.0}, [10**400, 0], [0.5, 0.5 + 1e-16], [1.0, 0.0]],
)  # fmt: skip


weights = of(
    None, 1.0, "rows", "huge", "tiny",
    bad=[0.0, -1.0, np.nan, np.inf, "a", [], [1.0], "nan", "mixed", "zero", "one", "2d"],
)  # fmt: skip
"""Words stand for as many weights as there are rows."""


def weights_of(kind, n):
    first = np.arange(n) == 0
    made = {
        "rows": np.arange(n) + 1.0, "nan": np.full(n, np.nan), "huge": np.full(n, 1e308),
        "tiny": np.full(n, 5e-324), "mixed": np.where(first, 1e300, 1e-300),
        "zero": np.zeros(n), "one": first + 0.0, "2d": np.ones((n, 1)),
    }  # fmt: skip
    return made.get(kind, kind) if isinstance(kind, str) else kind


outputs = of(
    "outputs", "outputs", "column", "huge",
    bad=[None, 3, "a", [], [1.0], "nan", "infinite", "constant", "wide", "words",
         [[1.0], [2.0, 3.0]], 10**400, {}],
)  # fmt: skip
"""Words stand for as many outputs as there are rows."""


def outputs_of(kind, n):
    numbers = np.sin(np.arange(float(n)))
    made = {
        "outputs": numbers, "column": numbers[:, None], "huge": 1e100 * numbers,
        "nan": np.where(np.arange(n) == 0, np.nan, numbers), "wide": np.zeros((n, 3)),
        "infinite": np.where(np.arange(n) == 0, np.inf, numbers), "constant": np.zeros(n),
        "words": ["a"] * n,
    }  # fmt: skip
    return made.get(kind, kind) if isinstance(kind, str) else kind


levels = of(
    0.5, [0.05, 0.95], [0.9, 0.1, 0.5], np.linspace(0.01, 0.99, 5),
    bad=[0.0, 1.0, -1, [], [[0.5]], np.nan, "a", None, [0.5, np.nan], 10**400, [0.5, 2.0]],
)  # fmt: skip
coverage = of(0.9, 0.5, 1e-9, 1.0 - 1e-12, bad=[0, 1, -1, np.nan, "a", None, [0.9], 10**400])
count = of(1, 2, 5, np.int64(3), bad=[0, -1, 1.5, "a", None, 2**63, 10**30, True, np.nan])
seed = of(None, 0, 7, np.random.RandomState, bad=[-1, 2**40, "a", 1.5, np.nan])
level = of(
    0.5,
    0.9,
    [0.5, 0.6],
    [[0.5, 0.6]],
    bad=[0.0, 1.0, -1, np.nan, 1e-300, "a", None, [], [[0.5], [0.5, 0.6]], 10**400, True],
)
n_drawn = of(20, 50, bad=[0, 10**30, "a", 1.5])
epsilon = of(
    "decreasing", "sine", 0, 0.5, 2.0, lambda t: 1.0 - t, lambda t: torch.tensor(0.5),
    bad=[-1.0, np.nan, np.inf, 1e6, 1e300, 10**400, "loud", None, [], True, lambda t: None,
         lambda t: "a", lambda t: np.nan, lambda t: [1.0, 2.0], lambda t: 1j],
)  # fmt: skip
n_steps = of(None, 1, 5, bad=[0, -1, 1.5, 10**30, "a"])
n_paths = of(2, 3, bad=[1, 0, -1, 1.5, None, 10**30, "a", True])
last_times = of(None, None, 0.9, bad=[0.0, 1.0, -1, np.nan, "a", 10**400])
method_of_sampling = of("ode", "sde", "denoising", bad=["langevin", None, ["ode"]])


class Given:
    """A density that returns what it should not."""

    def __init__(self, result):
        self.result = result

    def score_samples(self, X):
        return self.result(len(X))


GIVEN = [lambda n: np.zeros((n, 1)), lambda n: np.full(n, np.nan), lambda n: 0.0,
         lambda n: np.full(n, np.inf), lambda n: np.zeros(n + 1), lambda n: ["a"] * n,
         lambda n: None]  # fmt: skip
"""Results that no density may return."""


def densities(draw):
    if draw.random() < 0.5:
        return Given(draw.choice(GIVEN))
    return of(
        KernelDensity().fit(ROWS), model("density"), model("density of a frame"),
        *map(Given, (np.zeros, lambda n: np.full(n, -np.inf), lambda n: [0] * n)),
        bad=[KernelDensity(), model("unfitted density"), None, 3],
    )(draw)  # fmt: skip


paths = of(
    "model",
    bad=[
        "",
        "a\0b",
        b"x",
        3,
        None,
        ".",
        "no/where/model",
        "pipe",
        "/dev/zero",
        "/dev/null",
        "other",
        "x" * 300,
    ],
)
STATES = [{}, None, 3, {"format_version": 1}, {"format_version": "a", "tree": 1, "arrays": {}},
          {"format_version": 1, "tree": {}, "arrays": {}},
          {"format_version": 1, "tree": [], "arrays": {}},
          {"format_version": 99, "tree": 1, "arrays": {}}, [], "state"]  # fmt: skip

PARAMETERS = {
    "divergence": ["exact", 1, 3, -3, 0, "trace", 2**40, 1.5, None],
    "atol": ["auto", 5e-3, 1.0, 1e-3, -1, 0, np.nan, np.inf, "a", None, 10**400],
    "rtol": [0.0, 1e-5, -1, np.nan, "a", 10**400],
    "solver": [
        "rk4",
        "euler",
        "midpoint",
        "heun3",
        "dopri5",
        "rk5",
        3,
        None,
        Solver("heun3"),
        Solver("rk4", atol=0.1),
    ],
    "n_jobs": [None, 1, 2, -1, 0, 2**63, "a", 1.5],
    "device": ["cpu", torch.device("cpu"), "auto", "moon", "meta", 3, None],
    "point": ["mean", "median", "mode", None, 3],
}
"""Parameters that predictions read, set after the fit."""

FIT_PARAMETERS = {
    **PARAMETERS,
    "contamination": ["auto", 0.1, 0.5, 1e-300, 0, 1, np.nan, "a", None, 10**400],
    "n_folds": [2, 3, None, 1, 0, 50, 2.5, "a", 10**30],
    "trim": [0.0, 0.2, 0.4999, 0.5, -0.1, np.nan, "a", None],
    "mixture": ["auto", None, False, "a", 0],
    "end_time": ["auto", 1.0, 0.5, 1e-9, 0.0, 1e-50, -1, 2, np.nan, "a", 10**400],
    "hidden_layer_sizes": ["auto", (4,), (4, 3), (10**9,), (2**62,), (10**30,), (0,), (), "a", None,
                           [[4], [4, 3]], 5, {}, (4.5,), (1,) * 2000],
    "integer_target": [True, False, "a", None],
    "conformal": [True, False, "a", None],
    "regressor": [None, "auto", Ridge(), Ridge, "forest", 3, KernelDensity()],
    "categorical_features": ["from_dtype", None, [0], [True, False], [5], ["a"], "a", [[0]], 3],
    "trunk_layer_sizes": [(4,), (4, 4), (10**9,), (0,), (), "auto", None, 5, (4.5,)],
    "dropout": ["auto", 0.0, 0.5, 1.0, -0.1, np.nan, "a", None],
    "student_layer_sizes": [None, "auto", (4,), (10**9,), (), (1, 2, 3), "a"],
    "learning_rate_init": ["auto", 0.01, 1e300, 10**400, 0, -1, np.nan, np.inf, "a", 1e-300, 100.0],
    "alpha": [0.0, 30.0, -1, 1e300, np.nan, 10**400, "a"],
    "targets": ["auto", "b", ("b", "eta"), "eta1", ("eta0", "eta1"), [["b"]], [1], [], "z",
                ("b", "b"), None, 3, {"b"}],
    "gamma": [None, "brownian", "loud", 3],
    "bridge": [None, 0.5, 0.1, 0, -1, 1e300, 1e-300, 10**400, np.nan, "a"],
    "field": [None, "mlp", 3, lambda t, x: 0.0 * x, lambda t, x: x[:, :1], lambda t, x: x / 0.0,
              lambda x: x, torch.nn.Identity()],
    "interpolant": ["linear", "trigonometric", "mirror", "fourier", "encoding_decoding", "cubic",
                    None],
    "coupling": ["independent", "optimal_transport", "none", 3],
    "time_beta": [(1.0, 0.5), (2.0, 0.5), (3, 3), (None, None), (1e300, 1e-300), (np.inf, 1),
                  (np.nan, 1), ("a", "b"), (1.0,), "ab", 3, (0, 1), (10**400, 1), [[1, 2], [3]]],
    "scaling": ["gaussianize", "power", "whiten", "standardize", None, "minmax", 3],
    "bounds": [None, (-1e3, None), (None, 9), (1, 0), {0: (-1e3, None)},
               [(-1e9, 1e9), None], np.array(3), {0: (-1e308, 1e308)},
               {0: (np.nan, 1)}, {5: (0, 1)}, "ab", [None], 3, {0: (1, 0)}, {0: 3},
               {0: (-(10**400), 10**400)}, [(0, 1j), None], {None: (0, 1)}],
    "integer_features": [None, [], [5], ["a"], "a", [1.5], np.array(1), [True], [[0]], 3],
    "atoms": ["auto", None, {}, {0: [0.0]}, {0: []}, {0: 3}, {0: "a"}, {0: [np.nan]}, {5: [0]},
              {0: [10**400]}, {None: [0]}, {0: None}, "ab", 3, {0: [1, 1 + 1e-12]}],
    "batch_size": ["auto", 8, 1, 0, 2**63, 10**30, "a", 1.5],
    "max_iter": [1, 3, 0, -1, 2**63, 10**400, "a", 1.5],
    "max_time": [None, 0.2, 1e-9, 0, -1, np.nan, "a", 10**400],
    "early_stopping": ["auto", True, False, "a", None],
    "validation_fraction": [0.1, 0.9, 1e-300, 0.0, 1.0, np.nan, "a"],
    "n_iter_no_change": [1, 3, 0, 10**30, "a"],
    "tol": [0.0, 1e-4, -1, np.inf, 10**400, "a"],
    "warm_start": [True, False, "a"],
    "random_state": [0, None, -1, 2**40, "a"],
    "base": ["normal", "learned", "uniform"],
    "activation": ["silu", "tanh", "relu", 3],
    "checkpoint": [None, "model", "", "a\0b", b"x", 3, ".", "no/where/model", "pipe", "/dev/zero",
                   "other"],
}  # fmt: skip
"""Parameters of a fit."""

ALL = {
    "save": {"path": paths},
    "load": {"path": paths, "device": of(None, "cpu", bad=["moon", 3])},
    "__setstate__": {"state": of(*STATES)},
}
BOTH = {
    **ALL,
    "transform": {"rows": rows},
    "get_feature_names_out": {"input_features": of(None, bad=[["a", "b"], ["a"], 3, "a"])},
}
METHODS = {
    InterpolantFlowDensity: {
        **BOTH,
        "fit": {"rows": rows, "y": of(None, 3), "sample_weight": weights,
                "X_val": lambda draw: None if draw.random() < 0.7 else rows(draw),
                "sample_weight_val": weights},
        "partial_fit": {"rows": rows, "y": of(None), "sample_weight": weights},
        "score_samples": {"rows": rows, "return_error": of(False, True), "t": times_of_path},
        "score": {"rows": rows, "y": of(None, 3), "sample_weight": weights},
        "atom_log_mass": {"rows": rows},
        "density_threshold": {"level": level, "n_samples": n_drawn, "random_state": seed,
                              "return_error": of(False, True)},
        "contains": {"rows": rows, "level": level, "n_samples": n_drawn, "random_state": seed},
        "score_gradient": {"rows": rows, "t": times_of_path},
        "velocity": {"rows": rows, "t": times_of_path},
        "trajectory": {"rows": rows, "times": several_times},
        "sample": {"n_samples": count, "random_state": seed, "t": times_of_path,
                   "method": method_of_sampling, "epsilon": epsilon, "n_steps": n_steps,
                   "denoise_from": last_times},
        "inverse_transform": {"rows": rows},
        "diagnose": {"rows": rows, "random_state": seed},
        "diagnose_likelihood": {"rows": rows, "epsilon": epsilon, "n_paths": n_paths,
                                "n_steps": n_steps, "random_state": seed},
        "diffusion_log_density": {"rows": rows, "t": times_of_path, "epsilon": epsilon,
                                  "n_paths": n_paths, "n_steps": n_steps, "random_state": seed},
    },
    InterpolantFlowRegressor: {
        **ALL,
        "fit": {"rows": rows, "y": outputs, "sample_weight": weights},
        "predict": {"rows": rows},
        "predict_quantiles": {"rows": rows, "quantiles": levels},
        "predict_interval": {"rows": rows, "coverage": coverage},
        "cdf": {"rows": rows, "y": outputs},
        "log_density": {"rows": rows, "y": outputs, "return_error": of(False, True)},
        "sample": {"rows": rows, "n_samples": count, "random_state": seed},
        "sample_y": {"rows": rows, "n_samples": count, "random_state": seed},
        "score": {"rows": rows, "y": outputs},  # weights are those of scikit-learn's R2
    },
    InterpolantFlowOutlierDetector: {
        **ALL,
        "fit": {"rows": rows, "y": of(None, 3)},
        "fit_predict": {"rows": rows, "y": of(None)},
        "score_samples": {"rows": rows},
        "decision_function": {"rows": rows},
        "predict": {"rows": rows},
        "p_values": {"rows": rows, "adjust": of(None, "fdr", bad=["bh", 3, ["fdr"], True])},
        "explain": {"rows": rows},
    },
    InterpolantTransport: {
        **BOTH,
        "fit": {"rows": rows, "X1": rows, "sample_weight": weights,
                "target_sample_weight": weights, "paired": of(False, False, True)},
        "inverse_transform": {"rows": rows},
        "sample": {"rows": rows, "random_state": seed, "epsilon": epsilon, "n_steps": n_steps,
                   "denoise_from": last_times},
        "inverse_sample": {"rows": rows, "random_state": seed, "epsilon": epsilon,
                           "n_steps": n_steps},
        "score_gradient": {"rows": rows, "t": times_of_path},
        "velocity": {"rows": rows, "t": times_of_path},
        "trajectory": {"rows": rows, "times": several_times},
        "diagnose": {"rows": rows, "X1": rows, "random_state": seed},
        "diagnose_likelihood": {"rows": rows, "source_density": densities, "epsilon": epsilon,
                                "n_paths": n_paths, "n_steps": n_steps, "random_state": seed},
        "diffusion_log_density": {"rows": rows, "target_density": densities, "epsilon": epsilon,
                                  "n_paths": n_paths, "n_steps": n_steps, "random_state": seed},
        "log_density": {"rows": rows, "density": densities, "t": times_of_path},
        "log_abs_det_jacobian": {"rows": rows},
        "target_log_density": {"rows": rows, "density": densities},
        "source_log_density": {"rows": rows, "density": densities},
    },
}  # fmt: skip
"""Arguments of every public method; those named `rows` and `density`, `path`, `state`, `level` are
given by place."""
BY_PLACE = {"rows", "density", "path", "state"}
FITS = {"fit", "fit_predict", "partial_fit"}
CHANGES = FITS | {"__setstate__"}
NO_CALLS = {
    "get_params",
    "set_params",
    "set_output",
    "get_metadata_routing",
    "fit_transform",
    "set_callbacks",
}
"""Of scikit-learn, and tested by its checks."""


def n_of(given):
    try:
        return len(given)
    except TypeError:
        return 3


def started(draw):
    """The name of a model, and a copy of it; or one of its parameters that was not fitted."""
    name = draw.choice(list(MODELS))
    return (
        (name, copy.deepcopy(model(name)))
        if draw.random() < 0.85
        else (f"clone of {name}", clone(model(name)))
    )


def called(draw, estimator):
    """A method, its arguments, and parameters that are set before."""
    method = draw.choice(list(METHODS[type(estimator)]))
    arguments = {key: strategy(draw) for key, strategy in METHODS[type(estimator)][method].items()}
    n_changed = draw.choice([0, 1, 1, 2] if method in FITS else [0, 0, 0, 0, 1])
    values = FIT_PARAMETERS if method in FITS else PARAMETERS
    names = [key for key in values if key in estimator.get_params()]
    parameters = {key: draw.choice(values[key]) for key in draw.sample(names, n_changed)}
    n = n_of(arguments.get("rows"))
    for key in ("sample_weight", "target_sample_weight", "sample_weight_val"):
        if key in arguments:
            other = {"target_sample_weight": "X1", "sample_weight_val": "X_val"}.get(key)
            arguments[key] = weights_of(
                arguments[key], n if other is None else n_of(arguments[other])
            )
    if "y" in arguments:
        arguments["y"] = outputs_of(arguments["y"], n)
    for key, given in arguments.items():
        if given is np.random.RandomState:
            arguments[key] = np.random.RandomState(5)
        if key == "density" and isinstance(given, InterpolantFlowDensity):
            arguments[key] = copy.deepcopy(given)
    return method, arguments, parameters


def invoke(estimator, method, arguments):
    by_place = [value for key, value in arguments.items() if key in BY_PLACE]
    by_name = {key: value for key, value in arguments.items() if key not in BY_PLACE}
    owner = type(estimator) if method == "load" else estimator
    return getattr(owner, method)(*by_place, **by_name)


# What the answers must be.


def values_of(estimator):
    """Everything that an estimator has, as plain data."""
    return encode(
        {
            name: value
            for name, value in vars(estimator).items()
            if name not in ("_skl_callbacks", "_cache")
        },
        keep_objects=True,
    )


def no_nan(array):
    """Numbers, of which minus infinity alone may be a log-density."""
    return array.dtype.kind != "f" or not (np.isnan(array).any() or (array == np.inf).any())


def check_answer(estimator, method, arguments, answer):
    """Finite, and of the right shape."""
    n, width = n_of(arguments.get("rows")), getattr(estimator, "n_features_in_", 2)
    if method in FITS:
        assert method == "fit_predict" or answer is estimator
        predicts = isinstance(estimator, InterpolantFlowRegressor | InterpolantFlowOutlierDetector)
        answer = (estimator.predict if predicts else estimator.transform)(arguments["rows"])
        assert np.isfinite(np.asarray(answer)).all()
        return
    if method in ("save", "__setstate__"):
        assert answer is None
        return
    if method == "load":
        assert type(answer) is type(estimator)
        return
    if method == "get_feature_names_out":
        assert answer.shape == (width,)
        return
    if method == "score" and isinstance(estimator, InterpolantFlowRegressor) and n < 2:
        assert np.isnan(answer)  # scikit-learn's R2 of a single row
        return
    parts = answer if isinstance(answer, tuple) else (answer,)
    if method.startswith("diagnose"):
        infinite = {"wasserstein2_bound", "diffusion_cross_entropy_bound"}
        parts = [np.asarray(value) for name, value in answer.items() if name not in infinite]
        shape = None
    elif method == "diffusion_log_density":
        parts, shape = answer.values(), (n,)
    else:
        output = () if getattr(estimator, "_one_dimensional", True) else (1,)
        usual = (n if "rows" in arguments else arguments.get("n_samples"), width)
        if isinstance(estimator, InterpolantFlowRegressor):  # samples
            usual = (n, arguments.get("n_samples"), *output)
        shape = {
            "score_samples": (n,), "score": (), "contains": (n,), "log_abs_det_jacobian": (n,),
            "atom_log_mass": (n,),
            "target_log_density": (n,), "source_log_density": (n,),
            "density_threshold": np.shape(arguments.get("level")),
            "trajectory": (n_of(arguments.get("times")), n, width),
            "decision_function": (n,), "p_values": (n,),
            "predict": (n, *output), "log_density": (n,), "cdf": np.shape(arguments.get("y")),
            "predict_interval": (n, 2),
            "predict_quantiles": (n, np.size(arguments.get("quantiles"))),
            "sample_y": (n, *output, arguments.get("n_samples")),
        }.get(method, usual)  # fmt: skip
    for place, part in enumerate(parts):
        array = np.asarray(part)
        assert shape is None or array.shape == tuple(shape), (array.shape, shape)
        if (
            method == "score_samples" and place
        ):  # an error is NaN where there is no estimate, and infinite where the flow overflows
            assert not (array < 0).any()
        elif method in (
            "score_samples",
            "score",
            "decision_function",
            "log_density",
            "target_log_density",
            "source_log_density",
            "density_threshold",
            "diffusion_log_density",
        ):
            assert no_nan(array), array
        else:
            assert array.dtype == bool or np.isfinite(array).all(), array


def check_error(error):
    """One of ours: by its class, where it was raised, and its words."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    # scikit-learn lets an integer pass that is larger than any float.
    assert isinstance(error, ERRORS) or (
        type(error) is OverflowError and WHERE_OURS[1] in innermost
    ), repr(error)
    ours = innermost.startswith(WHERE_OURS[0]) or any(part in innermost for part in WHERE_OURS[1:])
    # The operating system speaks for itself about files.
    assert ours or (isinstance(error, OSError) and error.errno), (
        f"{type(error).__name__} from {innermost}: {error}"
    )
    foreign = (
        "unsupported operand",
        "object is not",
        "not subscriptable",
        "NoneType",
        "too large to convert",
        "broadcast",
        "Tensor",
    )
    assert str(error).strip(), repr(error)
    if innermost.startswith(WHERE_OURS[0]):
        assert type(error) is not AttributeError or "partial_fit" in str(error), error
        assert not any(words in str(error) for words in foreign), error


class State:
    """What is shared by all calls of a process."""

    def __init__(self):
        # A copy, because the state holds an array that NumPy changes in place.
        self.numpy = copy.deepcopy(np.random.get_state(legacy=False))
        self.python = random.getstate()
        self.torch = torch.random.get_rng_state()
        self.filters = list(warnings.filters)
        self.rest = (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            np.geterr(),
        )

    def check(self):
        now = State()
        assert same(now.numpy, self.numpy)
        assert now.python == self.python
        assert torch.equal(now.torch, self.torch)
        assert now.filters == self.filters
        assert now.rest == self.rest


class HangError(BaseException):
    """A call took too long."""


def ring(*_):
    raise HangError


def check_calls(number):
    """Draw some calls of one model from a seed, make them, and look at what comes of each: "answer"
    or "error"."""
    draw = random.Random(number)
    name, estimator = started(draw)
    own, what, outcomes = estimator.get_params(), f"HOSTILE_SEED={number}: {name}", []
    for _ in range(draw.choice([1, 1, 2, 3])):
        method, arguments, parameters = called(draw, estimator)
        what += f".{method}({arguments}) with {parameters}"
        try:
            outcomes.append(check_call(estimator.set_params(**parameters), method, arguments))
        except (HangError, Exception) as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        estimator.set_params(**own)
    return outcomes


def check_call(estimator, method, arguments):
    """Make one call, and look at what comes of it."""
    before, shared, outcome = values_of(estimator), State(), "answer"
    content = Path("model").read_bytes()
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(round(2 * SECONDS))
    started = time.thread_time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shared.filters = list(warnings.filters)
            try:
                answer = invoke(estimator, method, arguments)
            except Exception as error:
                outcome, answer = "error", str(error)
                check_error(error)
            signal.alarm(0)
            shared.check()
            if outcome == "answer" and method in CHANGES:
                check_answer(estimator, method, arguments, answer)
            elif outcome == "answer":
                assert same(values_of(estimator), before), "the estimator was changed"
                check_answer(estimator, method, arguments, answer)
            else:
                assert same(values_of(estimator), before), (
                    "a call that failed changed the estimator"
                )
            check_warnings(
                caught,
                estimator,
                method,
                arguments,
                looked_for_infinity=outcome == "error" and " contains " in answer,
            )
        assert time.thread_time() - started < SECONDS, "it hangs"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        for left in Path().glob("model*"):
            left.unlink()
        Path("model").write_bytes(content)
    return outcome


def check_warnings(caught, estimator, method, arguments, looked_for_infinity):
    """Ours; and about the names of columns only if rows with names were given to a model without,
    or the other way round."""
    differ = isinstance(arguments.get("rows"), pd.DataFrame) != hasattr(
        estimator, "feature_names_in_"
    )
    for warning in caught:
        # NumPy warns while scikit-learn looks for infinity.
        assert issubclass(warning.category, UserWarning) or looked_for_infinity, warning
        about_names = "feature names" in str(warning.message)
        assert not about_names or method in FITS or ("rows" in arguments and differ), warning


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a saved model, another file and a pipe."""
    monkeypatch.chdir(tmp_path)
    model("density").save("model")
    Path("other").write_bytes(b"no model")
    os.mkfifo("pipe")
    for name in MODELS:  # fitted before the clock runs
        model(name)
    return tmp_path


def run(numbers):
    """Make the calls; all that fail are shown."""
    outcomes, failures = [], []
    for number in numbers:
        try:
            outcomes += check_calls(number)
        except AssertionError as failure:
            failures.append(str(failure)[:1500])
            print(failures[-1])
    counts = {outcome: outcomes.count(outcome) for outcome in ("answer", "error")}
    summary = f"{counts['answer']} answers, {counts['error']} errors, {len(failures)} failures"
    print(summary)
    assert not failures, f"{summary}\n" + "\n".join(failures[:40])
    return outcomes


def test_every_public_method_is_drawn():
    for estimator, methods in METHODS.items():
        public = {
            name
            for name in dir(estimator)
            if not name.startswith(("_", "set_")) and callable(getattr(estimator, name, None))
        }
        assert public | {"__setstate__", "partial_fit"} >= methods.keys()
        assert public - NO_CALLS <= methods.keys(), public - NO_CALLS - methods.keys()
        assert set(estimator().get_params()) - FIT_PARAMETERS.keys() <= {"verbose"}


@pytest.mark.slow
def test_calls(place):
    if "HOSTILE_SEED" in os.environ:
        run([int(os.environ["HOSTILE_SEED"])])
        return
    outcomes = run(range(300))
    assert (
        min(outcomes.count("answer"), outcomes.count("error")) > 50
    )  # neither all good nor all bad


class Kind(random.Random):
    """Draws good arguments only."""

    def random(self):
        return 1.0

    def getrandbits(self, k):  # which choices are made by, where it is defined beside the above
        return super().getrandbits(k)


@pytest.mark.parametrize("value", [1e155, 1e300, -1e308, np.nan, np.float32(1e30)])
@pytest.mark.parametrize(
    "name",
    ["density", "density with atoms", "density with bounds", "detector", "transport with noise"],
)
def test_every_method_meets_extreme_rows(place, name, value):
    """One number of the rows is extreme, and all else is good."""
    rows = ROWS[:4].astype(np.asarray(value).dtype)
    rows[2, 0] = value
    failures = []
    for method, strategies in METHODS[type(model(name))].items():
        if "rows" in strategies and method not in FITS:
            estimator = copy.deepcopy(model(name))
            arguments = {key: strategy(Kind(0)) for key, strategy in strategies.items()} | {
                "rows": rows.copy()
            }
            arguments |= {"sample_weight": None} if "sample_weight" in arguments else {}
            try:
                check_call(estimator, method, arguments)
            except (HangError, Exception) as error:
                failures.append(f"{method}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("part", range(12))  # of some 850 calls each, 10,000 in all
def test_many_calls(place, part):
    run(range(1000 + 500 * part, 1000 + 500 * (part + 1)))
