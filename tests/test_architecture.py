"""Imports go downward only: the torch floor knows nothing of the estimators, and no module imports
one above it."""

import ast
from pathlib import Path

import pytest

import skinterflow

ROOT = Path(skinterflow.__file__).parent
ORDER = [
    ["interflow.processes"],
    [
        "interflow.derivatives",
        "interflow.monotone",
        "interflow.quadrature",
        "interflow.snapshots",
        "interflow.warn",
    ],
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
        "interflow.marginals",
        "interflow.noise",
        "interflow.one_sided",
        "interflow.training",
        "interflow.sde",
        "interflow.trajectories",
    ],
    [
        "interflow.atoms",
        "interflow.heads",
        "interflow.diagnostics",
        "interflow.bridges",
        "interflow.custom",
        "interflow.grading",
        "interflow.unet",
    ],
    ["interflow.quantities", "interflow.nested", "interflow.gradients"],
    ["interflow.flows", "interflow.mixtures", "interflow.score_based"],
    ["interflow.objectives", "interflow.combined", "interflow.likelihoods"],
    ["interflow.alternatives", "interflow.conditional", "interflow.diffusive"],
    ["interflow"],
    ["_version", "exceptions", "_runtime", "_data", "_fit", "_predict", "_persistence"],
    ["_data.degenerate", "_data.encoding", "_data.groups", "_data.trees", "_data.weights"],
    ["_data.atoms", "_data.covariance", "_data.ranks", "_data.sources"],
    ["_data.scaling", "_data.stored"],
    ["_data.batches", "_data.columns", "_data.memmap", "datasets"],
    ["_persistence.container", "_persistence.registry", "_persistence.values"],
    ["_persistence.codec"],
    ["_persistence.checkpoint", "_persistence.mixin"],
    [
        "_predict.arguments",
        "_predict.conformal",
        "_predict.kernels",
        "_predict.maps",
        "_predict.model",
        "_predict.regions",
    ],
    ["_predict.conditional", "_predict.diagnosis"],
    ["_fit.base_regressor", "_fit.callbacks", "_fit.limits", "_fit.ranks", "_fit.recipe"],
    ["_fit.validation"],
    ["_fit.components", "_fit.mixture"],
    ["_fit.run", "_fit.context"],
    ["_fit.distillation"],
    ["_base"],
    ["density", "regressor", "transport"],
    ["_plots", "_reflow", "contrib", "dask", "metrics", "outliers"],
    ["_launch", "contrib.pyod", "contrib.skpro", "display"],
    ["outlier_display", "regression_display"],
    [""],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FORWARD_MODE = {"jvp", "jacfwd", "hessian", "linearize", "forward_ad", "dual_level", "make_dual"}
"""What differentiates forward keeps its level in a global variable, which all threads of a process
share."""
LOWER_FLOOR_ONLY = {"numpy", "sklearn", "joblib"}


ROOMS = ["interflow", "", "_data", "_persistence", "_predict", "_fit", "_base", "estimators"]
"""Each room knows those before it; "" holds what has no room: exceptions, seeds, the version."""
ESTIMATORS = {
    "_launch",
    "_reflow",
    "density",
    "transport",
    "regressor",
    "metrics",
    "outliers",
    "display",
    "outlier_display",
    "regression_display",
    "_plots",
    "contrib",
    "dask",
    "datasets",
    "skinterflow",
}


def room(name):
    """Room of a module, by its name below the package."""
    first = name.split(".")[0]
    if first in ESTIMATORS or not first:
        return "estimators"
    return first if first in ROOMS else ""


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
