"""Validation of the fitted attributes of a loaded model.

A file with a correct digest may still have been crafted, with an end time of -1 or weights that are
NaN.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from skinterflow.interflow.atoms import AtomMasses, AtomScaling
from skinterflow.interflow.grading import KINDS, LEVELS, Grading
from skinterflow.interflow.marginals import Bounds
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.ode import Calibration, Solver
from skinterflow.interflow.scaling import Compose, Scaling

_PROBES = (-1.0, 0.0, 1.0)
"""Points, in flow units, at which every part of a valid model is finite."""


def check_fitted_values(fitted: Mapping[str, Any]) -> None:
    """Raise unless a fit can have produced these attributes.

    Parameters
    ----------
    fitted : mapping of name to value, of the declared types

    Raises
    ------
    ValueError
        With the name and the value of the first invalid attribute.
    """
    n_features = fitted["n_features_in_"]
    for name in ("_source", "_target", "_path", "_trained", "_field"):
        _check_tensors(name, fitted[name])
    _check_progress(fitted["_progress"])
    _require(
        n_features >= 1 and fitted["_n_features_out"] == n_features, "n_features_in_", n_features
    )
    _require(0.0 <= fitted["end_time_"] <= 1.0, "end_time_", fitted["end_time_"])
    _require(fitted.get("n_iter_", 0) >= 0, "n_iter_", fitted.get("n_iter_", 0))
    for name in ("feature_names_in_", "target_feature_names_in_"):
        names = np.asarray(fitted.get(name, ["a"] * n_features))
        _require(
            names.shape == (n_features,) and all(isinstance(column, str) for column in names),
            name,
            names,
        )
    if "mixture_weights_" in fitted:
        _check_mixture(fitted, n_features)
    if "bounds_" in fitted or "integer_features_" in fitted:
        _check_columns(
            fitted["bounds_"], fitted["integer_features_"], fitted["_target"], n_features
        )
    incidence = _check_atoms(fitted, n_features)
    _check_scaling("_source", fitted["_source"], n_features + len(incidence))
    if isinstance(fitted["_target"], AtomScaling):
        _check_parts(fitted["_target"], n_features)
    else:
        _check_scaling("_target", fitted["_target"], n_features)
    for name in ("_trained", "_field"):
        _check_field(name, fitted[name], n_features, len(incidence))
    if fitted["_calibration"] is not None:
        _check_calibration(fitted["_calibration"])


def check_regressor_values(fitted: Mapping[str, Any]) -> None:
    """Raise unless a fit of a regressor can have produced these attributes.

    Parameters
    ----------
    fitted : mapping of name to value, of the declared types

    Raises
    ------
    ValueError
        With the name and the value of the first invalid attribute.
    """
    fields, k, n = fitted["_trained"].fields(), fitted["n_outputs_"], fitted["n_features_in_"]
    weights, sizes = np.asarray(fitted["member_weights_"]), fitted["_sizes"]
    kinds, encoding = np.asarray(fitted["uses_regressor_"]), fitted["_encoding"]
    _require(n >= 1 and encoding.center.shape == encoding.scale.shape == (n,), "_encoding", n)
    _require(0.0 <= fitted["end_time_"] <= 1.0, "end_time_", fitted["end_time_"])
    valid = weights.shape == (len(fields),) and bool((weights >= 0).all())
    _require(valid and abs(weights.sum() - 1.0) < 1e-6, "member_weights_", weights)
    _require(kinds.shape == (len(fields),) and kinds.dtype == np.bool_, "uses_regressor_", kinds)
    _require(bool((sizes > 0).all()) and sizes.shape == (len(fields), k), "_sizes", sizes)
    _require(len(fitted["_base"]) in (0, k), "_base", fitted["_base"])
    _require(not kinds.any() or len(fitted["_base"]) == k, "_base", fitted["_base"])
    for name in ("_target", "_path", "_trained", "_field"):
        _check_tensors(name, fitted[name])
    _check_scaling("_target", fitted["_target"], k)
    _check_columns(fitted["bounds_"], fitted["_whole"], fitted["_target"], k)
    _check_conformal(fitted["calibration_latents_"], fitted["calibration_rows_"], k)
    for field in fields:
        _require(field.n_outputs == k, "_trained", field)
        _require(field.n_context == encoding.n_columns + k, "_trained", field)
        _check_field("_trained", field, field.n_features)


def _check_conformal(latents: Any, rows: Any, n_outputs: int) -> None:
    """Check the latents of calibration rows, and that there are as many as such rows."""
    if latents is None:  # also of a fit that was saved by a callback before its end
        return
    _require(n_outputs == 1 and rows is not None and rows.ndim == 1, "calibration_rows_", rows)
    # Rows of weight zero in a later fit no longer calibrate.
    valid = (
        latents.ndim == 1 and 0 < len(latents) <= int(rows.sum()) and not np.isnan(latents).any()
    )
    _require(valid and bool((latents[1:] >= latents[:-1]).all()), "calibration_latents_", latents)


def _require(holds: bool, name: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} cannot be {str(value)[:100]}")


def _check_mixture(fitted: Mapping[str, Any], n_features: int) -> None:
    """Check end times and weights of a mixture, and the Gaussian mixture, if there is one."""
    times: Any = fitted.get("mixture_end_times_")
    weights = fitted["mixture_weights_"]
    normals = fitted.get("_normals")
    for name, value in (("mixture_end_times_", times), ("mixture_weights_", weights)):
        floats = isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 1
        _require(floats and bool(((value >= 0.0) & (value <= 1.0)).all()), name, value)
    n_weights = len(times) + (normals is not None)
    _require(
        len(weights) == n_weights and bool((weights > 0.0).all()) and abs(weights.sum() - 1) < 1e-6,
        "mixture_weights_",
        weights,
    )
    _require(fitted["end_time_"] in times, "mixture_end_times_", times)
    if normals is not None:
        _check_normals(normals, n_features)


def _check_normals(normals: NormalMixture, n_features: int) -> None:
    """Check that a Gaussian mixture has weights, and positive definite covariances."""
    weights, covariances = normals.weights, normals.covariances
    k = len(weights) if weights.ndim == 1 else 0
    shapes = (
        k > 0
        and normals.means.shape == (k, n_features)
        and covariances.shape == (k, n_features, n_features)
    )
    parts = (weights, normals.means, covariances)
    _require(
        shapes and all(part.dtype == torch.float64 and part.isfinite().all() for part in parts),
        "_normals",
        normals,
    )
    positive = torch.linalg.cholesky_ex(covariances).info == 0
    _require(
        bool(positive.all() and (weights > 0).all() and abs(weights.sum() - 1) < 1e-6),
        "_normals",
        normals,
    )


def _check_columns(bounds: Any, whole: Any, target: Scaling, n_features: int) -> None:
    """Check the bounds and the whole numbers, also against the map of the target's scaling."""
    shapes = (
        isinstance(bounds, np.ndarray)
        and isinstance(whole, np.ndarray)
        and bounds.shape == (n_features, 2)
    )
    _require(
        shapes and bounds.dtype == np.float64 and bool((bounds[:, 0] <= bounds[:, 1]).all()),
        "bounds_",
        bounds,
    )
    _require(whole.shape == (n_features,) and whole.dtype == np.bool_, "integer_features_", whole)
    edges = bounds + np.outer(whole, (-0.5, 0.5))
    if isinstance(target, AtomScaling):
        _check_columns_of_parts(bounds, whole, target)
        return
    parts = list(target.parts) if isinstance(target, Compose) else []
    if not np.isfinite(bounds).any():
        _require(not parts or not isinstance(parts[0], Bounds), "bounds_", bounds)
        return
    first = parts[0] if parts else None
    mapped = (
        np.stack([first.lower.numpy(), first.upper.numpy()], axis=1)
        if isinstance(first, Bounds)
        else None
    )
    _require(mapped is not None and np.array_equal(mapped, edges), "bounds_", bounds)


def _check_columns_of_parts(bounds: Any, whole: Any, target: AtomScaling) -> None:
    """Check the bounds and the whole numbers against the map of each part of the columns."""
    for columns, part in zip(target.columns, target.parts, strict=True):
        _require(_are_numbers_of(columns, len(bounds)), "the columns of _target", columns)
        index = columns.numpy()
        _check_columns(bounds[index], whole[index], cast(Scaling, part), len(index))


def _are_numbers_of(columns: Tensor, n_features: int) -> bool:
    return columns.dtype == torch.int64 and bool(
        ((columns >= 0) & (columns < n_features)).all() and columns.ndim == 1
    )


def _check_atoms(fitted: Mapping[str, Any], n_features: int) -> Tensor:
    """Check that all parts agree on the atoms; return which atom is in which column, (K, D)."""
    by_name, masses_of = fitted.get("atoms_", {}), fitted.get("atom_masses_", {})
    target = fitted["_target"]
    if not by_name and not isinstance(target, AtomScaling):
        _require(masses_of == {}, "atom_masses_", masses_of)
        return torch.zeros(0, n_features)
    _require(isinstance(target, AtomScaling), "atoms_", by_name)
    names = list(fitted.get("feature_names_in_", range(n_features)))
    _require(all(name in names for name in by_name), "atoms_", by_name)
    pairs = [(names.index(name), value) for name, value in by_name.items()]
    ordered = torch.tensor([j for j, values in pairs for _ in values])
    incidence = torch.nn.functional.one_hot(ordered, n_features).float()
    values = np.concatenate([np.asarray(values, dtype=np.float64) for _, values in pairs])
    _require(
        np.array_equal(values, target.values.numpy()) and bool(np.isfinite(values).all()),
        "atoms_",
        by_name,
    )
    coded = [
        target.masses,
        fitted["_source"],
        fitted["_path"],
        *fitted["_trained"].fields(),
        *fitted["_field"].fields(),
    ]
    for module in coded:
        own = dict(module.named_buffers()).get("incidence", torch.zeros(0))
        _require(torch.equal(own.float(), incidence), "the atoms of a part", module)
    _check_masses(target.masses, incidence)
    _require(list(masses_of) == list(by_name), "atom_masses_", masses_of)
    return incidence


def _check_masses(masses: AtomMasses, incidence: Tensor) -> None:
    """Check that the masses of all patterns are positive, and add up to one."""
    n_atoms = len(incidence)
    shares, patterns, frequencies = masses.shares, masses.patterns, masses.frequencies
    _require(
        shares.shape == (n_atoms,)
        and patterns.shape == (len(frequencies), n_atoms)
        and len(frequencies) > 0,
        "the shapes of the masses",
        tuple(patterns.shape),
    )
    _require(
        bool((shares > 0).all() and (shares @ incidence.to(shares) < 1).all()), "shares", shares
    )
    _require(
        bool((frequencies >= 0).all()) and abs(float(frequencies.sum()) - 1.0) < 1e-9,
        "frequencies",
        frequencies,
    )
    _require(
        bool(((patterns == 0) | (patterns == 1)).all())
        and len(torch.unique(patterns, dim=0)) == len(patterns),
        "patterns",
        patterns,
    )
    _require(0.0 <= masses.mixing < 1.0, "mixing", masses.mixing)


def _check_parts(target: AtomScaling, n_features: int) -> None:
    """Check that the parts have each column once, those with atoms alone, and have inverses."""
    together = torch.cat(target.columns).sort().values
    _require(
        torch.equal(together, torch.arange(n_features)), "the columns of _target", target.columns
    )
    with_atoms = target.masses.incidence.sum(dim=0) > 0
    for columns, part in zip(target.columns, target.parts, strict=True):
        alone = len(columns) == 1 or not bool(with_atoms[columns].any())
        _require(alone, "the columns of _target", columns)
        _check_scaling("_target", cast(Scaling, part), len(columns))


def _check_tensors(name: str, module: nn.Module) -> None:
    for key, tensor in module.state_dict().items():
        _require(
            not (tensor.is_floating_point() and bool(tensor.isnan().any())), f"{name}.{key}", "NaN"
        )


def _check_progress(progress: Any) -> None:
    """Check that the state of a training has numbers throughout, and counts of at least zero."""
    if progress is None:
        return
    numbers = list(_numbers(progress))
    _require(not any(math.isnan(number) for number in numbers), "_progress", "NaN")
    counts = [
        progress["seed"],
        progress["training"]["number"],
        progress["history"]["n_iter"],
        progress.get("n_no_change", 0),
    ]
    _require(
        all(type(count) is int and count >= 0 for count in counts),
        "the counts of _progress",
        counts,
    )


def _numbers(tree: Any) -> Iterator[float]:
    """Numbers in a tree of plain data; a tensor gives one number, NaN if any of its entries is."""
    if isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _numbers(part)
    elif isinstance(tree, float):
        yield tree
    elif isinstance(tree, Tensor) and tree.is_floating_point():
        yield math.nan if bool(tree.isnan().any()) else 0.0


def _check_scaling(name: str, scaling: Scaling, n_features: int) -> None:
    """Check that the scaling maps the probes to finite rows and back, up to rounding."""
    with torch.no_grad():
        u = _probes(n_features, torch.float64)
        scaling = copy.deepcopy(scaling).double()
        x = scaling.inverse(u)
        back, log_det = scaling(x), scaling.log_abs_det(x)
        # How far rounding of the rows moves a point of the flow; much, for a column far from zero.
        rounding = (scaling(x * (1.0 + 1e-12)) - back).abs()
    _require(
        x.shape == u.shape and back.shape == u.shape and log_det.shape == (len(u),),
        f"the shape of {name}",
        tuple(x.shape),
    )
    close = (
        ((back - u).abs() <= 1e-3 + rounding).all()
        and x.isfinite().all()
        and log_det.isfinite().all()
    )
    _require(bool(close), name, f"{scaling!r}, which has no inverse")


def _check_field(name: str, field: Any, n_features: int, n_atoms: int = 0) -> None:
    dtype = next(field.parameters(), torch.empty(0)).dtype
    _require(
        all(bool(weight.isfinite().all()) for weight in field.parameters()),
        name,
        "a field with infinite weights",
    )
    with torch.no_grad():
        x = _probes(n_features, dtype)
        if n_atoms:  # a field of coded rows
            x = torch.cat([x, x.new_zeros(len(x), n_atoms)], dim=1)
        v = field(torch.tensor(0.5, dtype=dtype), x)
    _require(
        v.shape == x.shape and bool(v.isfinite().all()),
        name,
        "a field whose values are not finite, or of another shape",
    )


def _check_calibration(calibration: Calibration | Grading) -> None:
    if isinstance(calibration, Grading):
        _check_grading(calibration)
        return
    numbers = [
        *calibration.caution,
        *calibration.errors.flatten().tolist(),
        *calibration.sizes.flatten().tolist(),
    ]
    _require(all(0.0 <= number < math.inf for number in numbers), "_calibration", numbers)
    shapes = calibration.errors.shape == (len(calibration.caution), *calibration.sizes.shape)
    _require(
        shapes and calibration.sizes.ndim == 1, "_calibration", tuple(calibration.errors.shape)
    )
    # Both raise for a method or nodes that a solver cannot have.
    Solver(calibration.method, nodes=calibration.nodes)
    calibration.solver(1e-3, 1e-3)


def _check_grading(grading: Grading) -> None:
    pairs = [grading.quadrature, *(getattr(grading, kind) for kind in KINDS)]
    numbers = [factor for levels in pairs for pair in levels for factor in pair]
    numbers += [
        grading.reach,
        grading.rounding,
        grading.cost,
        *grading.rule_errors.flatten().tolist(),
    ]
    numbers += grading.state_errors.flatten().tolist()
    _require(all(0.0 <= number < math.inf for number in numbers), "_calibration", numbers)
    _require(
        all(
            len(levels) == len(LEVELS) and all(len(pair) == 2 for pair in levels)
            for levels in pairs
        ),
        "_calibration",
        pairs,
    )
    shapes = grading.state_errors.shape == (len(KINDS), *grading.rule_errors.shape) and len(
        grading.rule_errors
    ) == len(LEVELS)
    _require(
        shapes and grading.rule_errors.ndim == 2, "_calibration", tuple(grading.state_errors.shape)
    )
    grading.solver(1e-3, 1e-3).first("density")


def _probes(n_features: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor(_PROBES, dtype=dtype)[:, None].expand(-1, n_features)
