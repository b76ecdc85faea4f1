"""Diagnosis of a fitted density: how well the field is learned, and how normal the latents are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.special import gammaln, hyp1f1
from scipy.stats import kstest
from sklearn.utils import Bunch

from skinterflow._predict.model import FlowModel
from skinterflow.interflow.diagnostics import lipschitz_constant, path_statistics

_MAX_ROWS = 16_384
_LIPSCHITZ_ROWS = 512
_ENERGY_ROWS = 2_000


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
    x0, x1, path = model.source(start), model.target(x), model.quantities.path
    x0 = torch.cat(
        [
            a[model.quantities.coupling.partners(a, b)]
            for a, b in zip(x0.split(batch_size), x1.split(batch_size), strict=True)
        ]
    )
    statistics = path_statistics(model.flow.field, path, x0, x1, z)
    slope = lipschitz_constant(
        model.flow.field, path, *(part[:_LIPSCHITZ_ROWS] for part in (x0, x1, z))
    )
    latent = latent.astype(np.float64)
    with np.errstate(over="ignore"):
        bound = float(np.exp(0.5 + slope) * math.sqrt(statistics.regression))
    return Bunch(
        loss=statistics.loss,
        loss_plus_action=statistics.loss + statistics.action,
        action=statistics.action,
        path_length=statistics.length,
        lipschitz=slope,
        wasserstein2_bound=bound,
        latent_ks=np.array([kstest(column, "norm").statistic for column in latent.T]),
        latent_energy_distance=energy_distance_to_normal(latent[:_ENERGY_ROWS]),
    )


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
