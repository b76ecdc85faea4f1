"""Diagnosis of a fit: how well the field is learned, and what it makes of test rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from scipy.special import gammaln, hyp1f1
from scipy.stats import kstest
from sklearn.utils import Bunch
from torch import Tensor

from skinterflow._predict.model import FlowModel
from skinterflow.interflow.diagnostics import lipschitz_constant, path_statistics, straightness
from skinterflow.interflow.flows import PathEstimate
from skinterflow.interflow.likelihoods import cross_entropy

_MAX_ROWS = 16_384
_LIPSCHITZ_ROWS = 512
_STRAIGHT_ROWS, _STRAIGHT_TIMES = 512, 33
"""Points of which the straightness is measured, and times of their positions."""
_ENERGY_ROWS = 2_000
LIKELIHOOD_ROWS = 1_000
"""Rows that are diffused, and whose scores are carried along the flow."""
_N_TIMES = 201


def diagnose_density(
    model: FlowModel,
    rows: NDArray[Any],
    noise: NDArray[np.float64],
    latent: NDArray[Any],
    batch_size: int,
) -> Bunch:
    """Compute the diagnostics of :meth:`InterpolantFlowDensity.diagnose`.

    Parameters
    ----------
    model : FlowModel
    rows : array of shape (n, D)
    noise : array of shape (2, n, D)
        Standard normal numbers for the base points and for the noise term of the path.
    latent : array of shape (n, D)
        Latents of the rows.
    batch_size : int
        Number of rows within which the fit coupled rows and base points.
    """
    x, start, z = (
        torch.from_numpy(np.array(part[:_MAX_ROWS], dtype=np.float64)).to(model.device)
        for part in (rows, *noise)
    )
    x0, x1 = model.source(start), model.target(x)
    latent = latent.astype(np.float64)
    return Bunch(
        **_path_diagnosis(model, x0, x1, z, batch_size),
        latent_ks=np.array([kstest(column, "norm").statistic for column in latent.T]),
        latent_energy_distance=energy_distance_to_normal(latent[:_ENERGY_ROWS]),
    )


def diagnose_transport(
    model: FlowModel,
    rows: tuple[NDArray[Any], NDArray[Any]],
    noise: NDArray[np.float64],
    carried: NDArray[Any],
    batch_size: int,
) -> Bunch:
    """Compute the diagnostics of :meth:`InterpolantTransport.diagnose`.

    Parameters
    ----------
    model : FlowModel
    rows : two arrays of shape (n, D)
        Rows of the source and of the target, in random order or as pairs.
    noise : array of shape (n, D)
        Standard normal numbers for the noise term of the path.
    carried : array of shape (n, D)
        Rows of the source after the map, in target units.
    batch_size : int
        Number of rows within which the fit coupled the two sides.
    """
    start, end, z, mapped = (
        torch.from_numpy(np.array(part[:_MAX_ROWS], dtype=np.float64)).to(model.device)
        for part in (*rows, noise, carried)
    )
    x0, x1 = model.source(start), model.target(end)
    ends = (part[:_ENERGY_ROWS].cpu().numpy() for part in (model.target(mapped), x1))
    return Bunch(
        **_path_diagnosis(model, x0, x1, z, batch_size),
        energy_distance=_energy_distance(*ends),
    )


def diagnose_likelihood(
    model: FlowModel, rows: NDArray[Any], noise: NDArray[np.float64], batch_size: int
) -> dict[str, float]:
    """Compute the terms of lemma 2.4 for :meth:`InterpolantFlowDensity.diagnose_likelihood`.

    Parameters
    ----------
    model : FlowModel with a Gaussian source and a score
    rows : array of shape (n, D)
        Rows of the target, in random order.
    noise : array of shape (2, n, D)
        Standard normal numbers for the base points and for the noise term of the path.
    batch_size : int
        Number of rows within which the fit coupled rows and base points.
    """
    x, start, z = (
        torch.from_numpy(np.array(part, dtype=np.float64)).to(model.device)
        for part in (rows, *noise)
    )
    time = _last_time_of_score(model)
    x1 = model.target(x)
    x0 = _partners(model, model.source(start), x1, batch_size)
    errors = model.likelihood_errors(x0, x1, z, time)
    return {
        "time": time,
        "kl_lower_bound": errors.divergence,
        "kl_lower_bound_error": errors.standard_error,
        "fisher_divergence": errors.fisher,
        "drift_error_bound": errors.drift,
    }


def chosen_rows(rows: NDArray[Any], random: np.random.RandomState) -> NDArray[Any]:
    """At most as many rows as are diffused, in random order.

    Raises
    ------
    ValueError
        If there is a single row, whose mean has no standard error.
    """
    if len(rows) < 2:
        raise ValueError(
            f"A cross-entropy and its standard error need at least 2 rows, got {len(rows)}."
        )
    return rows[random.permutation(len(rows))[:LIKELIHOOD_ROWS]]


def path_bunch(by_paths: NDArray[np.float64]) -> Bunch:
    """Log-densities by random paths, with names, from columns of shape (n, 3)."""
    names = ("log_density", "standard_error", "lower_bound")
    return Bunch(**dict(zip(names, by_paths.T, strict=True)))


def cross_entropies(log_density: NDArray[Any], by_paths: NDArray[np.float64]) -> dict[str, float]:
    """Cross-entropies of rows relative to the flow and to a diffusion, in nats.

    Parameters
    ----------
    log_density : array of shape (n,)
        Log-densities of the flow.
    by_paths : array of shape (n, 3)
        Those of the diffusion, with their standard errors and lower bounds.
    """
    flow = log_density.astype(np.float64)
    diffusion = cross_entropy(PathEstimate(*torch.from_numpy(by_paths).unbind(dim=1)))
    return {
        "cross_entropy": float(-flow.mean()),
        "cross_entropy_error": float(flow.std(ddof=1) / math.sqrt(len(flow))),
        "diffusion_cross_entropy": diffusion.value,
        "diffusion_cross_entropy_error": diffusion.standard_error,
        "diffusion_cross_entropy_bound": diffusion.upper_bound,
    }


def _last_time_of_score(model: FlowModel) -> float:
    """Latest time of the flow at which its score multiplies no error by much."""
    times = np.linspace(0.0, model.flow.end_time, _N_TIMES)
    known = [t for t in times.tolist() if model.quantities.noise_fraction(t) == 1.0]
    return max(known, default=0.0)


def _partners(model: FlowModel, x0: Tensor, x1: Tensor, batch_size: int) -> Tensor:
    """The points of the source as partners of those of the target, as in the fit."""
    coupling = model.quantities.coupling
    return torch.cat(
        [
            a[coupling.partners(a, b)]
            for a, b in zip(x0.split(batch_size), x1.split(batch_size), strict=True)
        ]
    )


def _path_diagnosis(
    model: FlowModel, x0: Tensor, x1: Tensor, z: Tensor, batch_size: int
) -> dict[str, float]:
    """Statistics of the field on the path between points in flow units, and of its flow."""
    path = model.quantities.path
    x0 = _partners(model, x0, x1, batch_size)
    statistics = path_statistics(model.flow.field, path, x0, x1, z)
    slope = lipschitz_constant(
        model.flow.field, path, *(part[:_LIPSCHITZ_ROWS] for part in (x0, x1, z))
    )
    with np.errstate(over="ignore"):
        bound = float(np.exp(0.5 + slope) * math.sqrt(statistics.regression))
    return {
        "loss": statistics.loss,
        "loss_plus_action": statistics.loss + statistics.action,
        "action": statistics.action,
        "path_length": statistics.length,
        "straightness": _straightness(model, x0[:_STRAIGHT_ROWS]),
        "lipschitz": slope,
        "wasserstein2_bound": bound,
    }


def _straightness(model: FlowModel, x0: Tensor) -> float:
    """Straightness of the flow from these points; zero if it ends where it begins."""
    if model.flow.end_time == 0.0:
        return 0.0
    times = np.linspace(0.0, model.flow.end_time, _STRAIGHT_TIMES).tolist()
    return straightness(model.flow.trajectory(x0.to(model.dtype), times), times)


def check_overflow(diagnosis: Bunch, n_rows: int) -> None:
    """Raise a FloatingPointError if a number other than the bound is not finite."""
    overflown = [
        name
        for name, value in diagnosis.items()
        if name != "wasserstein2_bound" and not np.isfinite(value).all()
    ]
    if overflown:
        raise FloatingPointError(
            f"{', '.join(overflown)} overflow, because some of the {n_rows} rows are far outside "
            "the fitted data; drop those rows."
        )


def _energy_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Energy distance ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of two samples."""
    among = sum(2.0 * pdist(rows).sum() / len(rows) ** 2 for rows in (x, y))
    return float(2.0 * cdist(x, y).mean() - among)


def energy_distance_to_normal(z: NDArray[np.float64]) -> float:
    """Energy distance ``2 E|Z - Y| - E|Z - Z'| - E|Y - Y'|`` of rows to ``Y ~ N(0, I)``.

    The expectations over `Y` are known in closed form.

    References
    ----------
    Szekely and Rizzo, "A new test for multivariate normality", Journal of Multivariate Analysis 93,
    2005.
    """
    n, d = z.shape
    ratio = math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    to_normal = math.sqrt(2.0) * ratio * hyp1f1(-0.5, d / 2, -0.5 * (z**2).sum(axis=1)).mean()
    among_rows = 2.0 * pdist(z).sum() / n**2
    return float(2.0 * to_normal - among_rows - 2.0 * ratio)
