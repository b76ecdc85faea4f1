"""Every warning of ours points at the line of the user that led to it."""

import ast
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score

import skinterflow
from skinterflow import (
    AccuracyWarning,
    DegenerateDataWarning,
    DistillationWarning,
    InterpolantFlowDensity,
    InterpolantFlowOutlierDetector,
    InterpolantFlowRegressor,
    InterpolantTransport,
)
from skinterflow._fit import distillation, run
from skinterflow._persistence import checkpoint
from skinterflow._predict import conditional
from skinterflow.interflow import (
    Brownian,
    Flow,
    Linear,
    MixtureField,
    NormalMixture,
    Solver,
    StochasticInterpolant,
    bridge_defect,
)

ROOT = Path(skinterflow.__file__).parent
TINY = {"hidden_layer_sizes": (8,), "max_iter": 2, "early_stopping": False, "random_state": 0}
CASES = []


def case(place, text, category=UserWarning):
    """Register a case: a function that prepares what then warns at a place, ``file:function``."""

    def register(prepare):
        CASES.append(pytest.param(prepare, place, text, category, id=prepare.__name__))
        return prepare

    return register


def rows(n=60):
    return np.random.default_rng(0).normal(size=(n, 2))


def fit(X, model=InterpolantFlowDensity, **parameters):
    return lambda: model(**{**TINY, **parameters}).fit(X)


@case("_runtime.py:resolve_device_or_cpu", "used on the CPU")
def device_that_is_missing(monkeypatch, tmp_path):
    density = fit(rows())().set_params(device="cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return lambda: density.transform(rows())


@case("outliers.py:_check_rows", "only 15 training rows")
def few_rows_of_a_detector(monkeypatch, tmp_path):
    detector = InterpolantFlowOutlierDetector(hidden_layer_sizes=(8,), max_iter=2, n_folds=2)
    return lambda: detector.fit(rows(15))


@case("_data/degenerate.py:warn_columns", "constant", DegenerateDataWarning)
def constant_column(monkeypatch, tmp_path):
    return fit(np.column_stack([rows(), np.ones(60)]))


@case("_data/degenerate.py:warn_columns", "constant", DegenerateDataWarning)
def constant_column_in_a_search(monkeypatch, tmp_path):
    X = np.column_stack([rows(), np.ones(60)])
    return lambda: cross_val_score(InterpolantFlowDensity(**TINY), X, cv=2)


@case("_data/degenerate.py:warn_columns", "integer-valued", DegenerateDataWarning)
def column_of_whole_numbers(monkeypatch, tmp_path):
    return fit(np.column_stack([rows(), np.round(5 * rows()[:, :1])]))


@case("_data/degenerate.py:warn_columns", "collinear", DegenerateDataWarning)
def collinear_columns_of_a_transport(monkeypatch, tmp_path):
    X = np.column_stack([rows(), rows() @ [[1.0], [2.0]]])
    transport = InterpolantTransport(hidden_layer_sizes=(8,), max_iter=2)
    return lambda: transport.fit(X, X[:, ::-1].copy())


@case("_data/degenerate.py:warn_columns", "on a bound", DegenerateDataWarning)
def rows_on_a_bound(monkeypatch, tmp_path):
    X = np.abs(rows())
    X[:20, 0] = 0.0
    return fit(X, bounds={0: (0, None)}, atoms=None)


@case("_data/degenerate.py:warn_columns", "different values", DegenerateDataWarning)
def column_of_a_few_values(monkeypatch, tmp_path):
    return fit(np.column_stack([rows(), np.resize([0.1, 0.2, 0.4], 60)]))


@case("_data/degenerate.py:warn_columns", "repeat single values", DegenerateDataWarning)
def atoms_that_cannot_be_fitted(monkeypatch, tmp_path):
    return fit(np.clip(rows(), -0.5, None), base="learned")


@case("_data/groups.py:warn_copies", "exact copies", DegenerateDataWarning)
def copied_rows(monkeypatch, tmp_path):
    return fit(np.concatenate([rows(100), rows(100)]), early_stopping="auto")


@case("_fit/distillation.py:_keep_teacher", "is the model", DistillationWarning)
def student_that_loses_too_much(monkeypatch, tmp_path):
    monkeypatch.setattr(distillation, "MAX_DISTILLATION_LOSS", -1e9)
    return fit(rows(), student_layer_sizes=(1,), max_iter=30)


@case("interflow/custom.py:check_function", "kinks")
def field_with_a_kink(monkeypatch, tmp_path):
    return fit(rows(), field=lambda t, x: torch.relu(x))


@case("_persistence/checkpoint.py:write_if_due", "could not be written")
def checkpoint_on_a_full_disk(monkeypatch, tmp_path):
    def write(self, state):
        if state["history"]["n_iter"]:
            raise OSError("No space left")

    monkeypatch.setattr(checkpoint.Checkpoint, "write", write)
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    return fit(rows(), checkpoint=tmp_path / "checkpoint")


@case("_fit/run.py:warn_of_failure", "diverged", ConvergenceWarning)
def training_that_diverges(monkeypatch, tmp_path):
    note = run.Run._record
    monkeypatch.setattr(run.Run, "_record", lambda self, loss, before: note(self, 1.7e6, before))
    return fit(rows())


@case("_fit/run.py:warn_of_failure", "learned little", ConvergenceWarning)
def rows_far_from_unit_size(monkeypatch, tmp_path):
    return fit(1e5 * rows(), scaling=None)


@case("_fit/run.py:warn_of_failure", "end_time_=0", ConvergenceWarning)
def fit_that_ends_at_the_gaussian(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "choose_end_time", lambda *arguments: 0.0)
    return fit(rows(), early_stopping=True)


@case("_fit/run.py:warm_start_from", "nothing left to train")
def warm_start_without_steps(monkeypatch, tmp_path):
    density = fit(rows(), warm_start=True)()
    return lambda: density.fit(rows())


@case("interflow/bridges.py:bridge_defect", "this is not a bridge")
def path_that_is_no_bridge(monkeypatch, tmp_path):
    path = StochasticInterpolant(Linear(), Brownian(a=4.0))
    field = MixtureField(NormalMixture(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, 1)), path)

    def forward(t, x):
        drift, score = field.drift_and_score(t, x)
        return drift + 0.5 * score

    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2_000, 1, generator=generator)
    return lambda: bridge_defect(forward, x0, 0.5, generator)


@case("interflow/bridges.py:bridge_defect", "this is not a bridge")
def map_that_is_no_bridge(monkeypatch, tmp_path):
    transport = InterpolantTransport(
        hidden_layer_sizes=(8,), max_iter=1, random_state=0, bridge=0.5
    )
    return lambda: transport.fit(rows(), rows() + 1.0)


@case("interflow/flows.py:warn_unresolved", "error above", AccuracyWarning)
def rows_of_a_density_that_are_not_resolved(monkeypatch, tmp_path):
    density = fit(rows(), max_iter=30, solver="euler", atol=1e-13, rtol=0)()
    return lambda: density.score_samples(rows())


@case("interflow/flows.py:warn_unresolved", "error above", AccuracyWarning)
def points_of_a_flow_that_are_not_resolved(monkeypatch, tmp_path):
    field = MixtureField(NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None]))
    flow = Flow(field, Solver("euler", atol=1e-6, n_steps=3, max_refinements=1))
    return lambda: flow.push(torch.ones(5, 2))


def regressor(**parameters):
    return InterpolantFlowRegressor(**TINY, trunk_layer_sizes=(4,), regressor=None, **parameters)


@case("regressor.py:_check_outputs", "many rows share", DegenerateDataWarning)
def outputs_that_repeat(monkeypatch, tmp_path):
    return lambda: regressor().fit(rows(), np.arange(60) % 3)


@case("regressor.py:_estimate", "error above", AccuracyWarning)
def log_densities_that_are_not_resolved(monkeypatch, tmp_path):
    model = regressor(atol=1e-300).fit(rows(), rows()[:, 0])
    return lambda: model.log_density(rows(), rows()[:, 0])


@case("regressor.py:_resolved", "60 of 60 rows were left with an estimated error", AccuracyWarning)
def quantiles_that_are_not_resolved_between_the_nodes(monkeypatch, tmp_path):
    model = regressor().fit(rows(), rows()[:, 0])
    monkeypatch.setattr(conditional.MonotoneMixture, "error", lambda self: torch.ones(60))
    return lambda: model.predict_quantiles(rows(), [0.1, 0.9])


@case("regressor.py:_resolved", "60 of 60 rows were left with an estimated error", AccuracyWarning)
def means_that_are_not_resolved_at_the_nodes(monkeypatch, tmp_path):
    model = regressor().fit(rows(), rows()[:, 0])
    monkeypatch.setattr(conditional.MonotoneMixture, "error", lambda self: torch.zeros(60))
    monkeypatch.setattr(conditional, "TABLE_TOLERANCE", 0.0)
    return lambda: model.predict(rows())


@pytest.mark.parametrize(("prepare", "place", "text", "category"), CASES)
def test_points_at_the_line_of_the_user(prepare, place, text, category, monkeypatch, tmp_path):
    work, places = prepare(monkeypatch, tmp_path), []
    original = warnings.warn_explicit

    def recorded(message, *args, **kwargs):
        caller = sys._getframe(2).f_code
        if text in str(message):
            places.append(f"{Path(caller.co_filename).relative_to(ROOT)}:{caller.co_name}")
        return original(message, *args, **kwargs)

    monkeypatch.setattr(warnings, "warn_explicit", recorded)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    assert [w for w in caught if text in str(w.message) and issubclass(w.category, category)]
    assert {w.filename for w in caught} == {__file__}
    assert set(places) == {place}


def test_every_place_that_warns_has_a_case():
    assert set(places_in_source()) == {case.values[1] for case in CASES}


def test_the_same_text_at_two_lines_is_shown_twice():
    X = np.column_stack([rows(), np.ones(60)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        InterpolantFlowDensity(**TINY).fit(X)
        InterpolantFlowDensity(**TINY).fit(X)
    lines = [warning.lineno for warning in caught if "constant" in str(warning.message)]
    assert len(lines) == len(set(lines)) == 2


def places_in_source():
    """File and function of every call of ``warn``, and of Python's own ``warnings.warn``."""
    for path in sorted(ROOT.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or path.name == "warn.py":
                continue
            for node in ast.walk(function):
                called = getattr(node, "func", None)
                if "warn" in (getattr(called, "id", None), getattr(called, "attr", None)):
                    yield f"{path.relative_to(ROOT)}:{function.name}"
