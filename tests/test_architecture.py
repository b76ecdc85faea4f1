"""Imports go downward only: the torch floor knows nothing of the estimators, and no module imports
one above it."""

import ast
from pathlib import Path

import pytest

import skinterflow

ROOT = Path(skinterflow.__file__).parent
ORDER = [
    ["interflow.derivatives", "interflow.quadrature", "interflow.snapshots"],
    [
        "interflow.interpolants",
        "interflow.times",
        "interflow.scaling",
        "interflow.fields",
        "interflow.ode",
        "interflow.muon",
    ],
    [
        "interflow.couplings",
        "interflow.divergence",
        "interflow.latent",
        "interflow.marginals",
        "interflow.training",
        "interflow.sde",
        "interflow.trajectories",
    ],
    ["interflow.heads", "interflow.diagnostics", "interflow.bridges", "interflow.grading"],
    ["interflow.objectives", "interflow.quantities", "interflow.nested"],
    ["interflow.flows", "interflow.mixtures"],
    ["interflow"],
    ["_version"],
    [
        "_arguments",
        "_callbacks",
        "_estimator",
        "_files",
        "_fitted",
        "_fitted_values",
        "_limits",
        "_plots",
        "_regions",
        "_scaling",
    ],
    ["_columns", "_groups", "_rows", "_diagnostics", "_state", "datasets"],
    ["_checkpoint", "_saving"],
    ["_fitting"],
    ["_defaults", "_distillation"],
    ["_flow_estimator"],
    ["density", "transport"],
    ["display"],
    [""],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FORWARD_MODE = {"jvp", "jacfwd", "hessian", "linearize", "forward_ad", "dual_level", "make_dual"}
"""What differentiates forward keeps its level in a global variable, which all threads of a process
share."""
LOWER_FLOOR_ONLY = {"numpy", "sklearn", "joblib"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_downward(path):
    level = LEVEL[module_name(path)]
    for name in imports(path):
        if name.split(".")[0] == "skinterflow":
            assert LEVEL[name.removeprefix("skinterflow").removeprefix(".")] < level, (
                f"{path.name} imports {name}"
            )


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent.name == "interflow"], ids=module_name
)
def test_torch_floor_does_not_import_numpy_or_scikit_learn(path):
    assert not LOWER_FLOOR_ONLY & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_is_differentiated_forward(path):
    tree = ast.walk(ast.parse(path.read_text()))
    names = {getattr(node, "attr", getattr(node, "id", None)) for node in tree} | set(imports(path))
    assert not FORWARD_MODE & names
