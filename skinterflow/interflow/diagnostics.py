r"""How well a field was learned, and how far its path is: numbers from paper 1.

``G(v) + E|v|^2`` is zero at the optimum (equation 11); ``E|v|^2``, the transport action, bounds the squared Wasserstein-2 distance of the
two ends from above, and is what a learned path lowers (proposition 2); the error of the field bounds the distance of its samples from
the data (proposition 3).  For a diffusion, the errors of drift and score bound the relative entropy (paper 2, section 2.4).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.latent import Gamma, StochasticInterpolant

_N_TIMES = 64
_N_PRODUCTS = 1_001


class PathStatistics(NamedTuple):
    """Means over pairs of points and times, in flow units.

    Attributes
    ----------
    loss : float, ``G``
    action : float, ``E|v_t(x_t)|^2``
    length : float, the mean over times of ``sqrt(E|v_t(x_t)|^2)``
    regression : float, ``E|v_t(x_t) - dx_t/dt|^2``, which is at least the squared error of the field
    """

    loss: float
    action: float
    length: float
    regression: float


@torch.no_grad()
def path_statistics(field: VelocityField, path: StochasticInterpolant, x0: Tensor, x1: Tensor, z: Tensor | None = None) -> PathStatistics:
    """Statistics of a drift on the path between the pairs.

    Parameters
    ----------
    field : VelocityField
    path : StochasticInterpolant
    x0, x1 : Tensors of shape (B, D), rows in random order; each is seen at one of 64 times, evenly spaced
    z : Tensor of shape (B, D), latents, or None for a path without
    """
    n_times = min(_N_TIMES, len(x0))
    t = ((torch.arange(len(x0), device=x0.device) % n_times + 0.5) / n_times).to(x0)
    xt, targets = path.regression(("b",), t, x0, x1, z)
    rate = targets["b"]
    v = field(t, xt)
    squares = v.square().sum(-1)
    speeds = torch.stack([squares[k::n_times].mean() for k in range(n_times)]).sqrt()
    return PathStatistics(
        loss=float((squares - 2.0 * (v * rate).sum(-1)).mean()),
        action=float(squares.mean()),
        length=float(speeds.mean()),
        regression=float((v - rate).square().sum(-1).mean()),
    )


@torch.no_grad()
def lipschitz_constant(field: VelocityField, path: StochasticInterpolant, x0: Tensor, x1: Tensor, z: Tensor | None = None) -> float:
    """Largest slope of the field, the spectral norm of its Jacobian, met on the path between the pairs: a lower bound of the constant."""
    t = ((torch.arange(len(x0), device=x0.device) + 0.5) / len(x0)).to(x0)

    def at(time: Tensor, x: Tensor) -> Tensor:
        return field(time[None], x[None])[0]

    jacobians = torch.func.vmap(torch.func.jacfwd(at, argnums=1))(t, path(t, x0, x1, z))
    return float(torch.linalg.matrix_norm(jacobians, ord=2).max())


def kl_bound(drift_error: float, score_error: float, epsilon: float) -> float:
    r"""Bound on the relative entropy of the data with respect to the samples of a learned diffusion (paper 2, section 2.4).

    With ``E|b - b'|^2`` and ``E|s - s'|^2``, means over the path of the squared errors of drift and score, it is

    .. math:: \frac{1}{2 \epsilon} E|b - b'|^2 + \frac{\epsilon}{2} E|s - s'|^2 .

    The errors are what the losses ``G`` exceed their minima by.  For the probability flow, epsilon 0, there is no such bound.

    Parameters
    ----------
    drift_error, score_error : float, in the squares of flow units per unit of time, and of nats per flow unit
    epsilon : float, positive, a constant noise level
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}; the bound is infinite without noise.")
    return drift_error / (2.0 * epsilon) + 0.5 * epsilon * score_error


def kl_bound_by_velocity(velocity_error: float, score_error: float, gamma: Gamma, epsilon: float) -> float:
    r"""As :func:`kl_bound` where the velocity was learned: with ``sup_t (gamma gamma' - epsilon)^2 / (2 epsilon)`` times the score's.

    Parameters
    ----------
    velocity_error, score_error : float
    gamma : Gamma
    epsilon : float, positive
    """
    products = gamma.at(torch.linspace(0.0, 1.0, _N_PRODUCTS, dtype=torch.float64)).product
    largest = float((products - epsilon).square().max())
    return kl_bound(velocity_error, 0.0, epsilon) + largest / (2.0 * epsilon) * score_error


def best_epsilon(drift_error: float, score_error: float) -> float:
    """The constant noise level that makes :func:`kl_bound` least: the root of the errors' ratio."""
    return math.sqrt(drift_error / score_error)
