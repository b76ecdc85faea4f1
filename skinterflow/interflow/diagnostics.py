r"""How well a field was learned, and how far its path is: numbers from paper 1.

``G(v) + E|v|^2`` is zero at the optimum (equation 11); ``E|v|^2``, the transport action, bounds the
squared Wasserstein-2 distance of the two ends from above, and is what a learned path lowers
(proposition 2); the error of the field bounds the distance of its samples from the data
(proposition 3).  For a diffusion, the errors of drift and score bound the relative entropy (paper
2, section 2.4).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.noise import Gamma, StochasticInterpolant

_N_TIMES = 64
_N_PRODUCTS = 1_001


class PathStatistics(NamedTuple):
    """Means over pairs of points and times, in flow units.

    Attributes
    ----------
    loss : float, ``G``
    action : float, ``E|v_t(x_t)|^2``
    length : float, the mean over times of ``sqrt(E|v_t(x_t)|^2)``
    regression : float
        ``E|v_t(x_t) - dx_t/dt|^2``, which is at least the squared error of the field.

    Examples
    --------
    For the field that minimises the loss, loss and action add up to zero (paper 1, equation 11).

    >>> from skinterflow.interflow import PathStatistics
    >>> statistics = PathStatistics(loss=-9.0, action=9.0, length=3.0, regression=0.5)
    >>> statistics.loss + statistics.action
    0.0
    """

    loss: float
    action: float
    length: float
    regression: float


@torch.no_grad()
def path_statistics(
    field: VelocityField,
    path: StochasticInterpolant,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None = None,
) -> PathStatistics:
    """Statistics of a drift on the path between the pairs.

    Parameters
    ----------
    field : VelocityField
    path : StochasticInterpolant
    x0, x1 : Tensors of shape (B, D)
        Rows in random order; each is seen at one of 64 times, evenly spaced.
    z : Tensor of shape (B, D), latents, or None for a path without

    Returns
    -------
    PathStatistics

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, equations 8 to 11 and proposition 2.

    Examples
    --------
    An untrained field is zero, and the rate of the path, 3 here, is still to be learned.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Linear,
    ...     ResidualMLP,
    ...     StochasticInterpolant,
    ...     path_statistics,
    ... )
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ResidualMLP(1, hidden_layer_sizes=(8,))
    >>> x0 = torch.linspace(-1.0, 1.0, 64)[:, None]
    >>> statistics = path_statistics(field, StochasticInterpolant(Linear()), x0, x0 + 3.0)
    >>> statistics.action, round(statistics.regression, 2)
    (0.0, 9.0)
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
def lipschitz_constant(
    field: VelocityField,
    path: StochasticInterpolant,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None = None,
) -> float:
    """Largest slope of the field, the spectral norm of its Jacobian, met on the path between the
    pairs: a lower bound of the constant.

    Parameters
    ----------
    field : VelocityField
    path : StochasticInterpolant
    x0, x1 : Tensors of shape (B, D)
        Rows in random order; each is seen at one of B times, evenly spaced.
    z : Tensor of shape (B, D), latents, or None for a path without

    Returns
    -------
    float, per unit of time

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, proposition 3: ``exp(1 + 2 K)`` times the squared error of a field of Lipschitz constant K
    bounds the squared Wasserstein-2 distance.

    Examples
    --------
    From N(0, 1) to N(0, 4) along straight lines the slope is largest at ``t = 0.6``, where it is 5
    / 4.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Linear,
    ...     MixtureField,
    ...     NormalMixture,
    ...     StochasticInterpolant,
    ...     lipschitz_constant,
    ... )
    >>> path = StochasticInterpolant(Linear())
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), 4.0)), path
    ... )
    >>> round(lipschitz_constant(field, path, torch.zeros(50, 1), torch.ones(50, 1)), 2)
    1.25
    """
    t = ((torch.arange(len(x0), device=x0.device) + 0.5) / len(x0)).to(x0)

    def at(time: Tensor, x: Tensor) -> Tensor:
        return field(time[None], x[None])[0]

    jacobians = torch.func.vmap(torch.func.jacrev(at, argnums=1))(t, path(t, x0, x1, z))
    return float(torch.linalg.matrix_norm(jacobians, ord=2).max())


def kl_bound(drift_error: float, score_error: float, epsilon: float) -> float:
    r"""Bound on the relative entropy, in nats, of the data with respect to the samples of a learned
    diffusion.

    With ``E|b - b'|^2`` and ``E|s - s'|^2``, means over the path of the squared errors of drift and
    score, it is

    .. math:: \frac{1}{2 \epsilon} E|b - b'|^2 + \frac{\epsilon}{2} E|s - s'|^2 .

    The errors are what the losses ``G`` exceed their minima by.  For the probability flow, epsilon
    0, there is no such bound.

    Equation 2.45 of the paper has the same factors, but before losses with a factor one half, and
    so is half of this.  It loses the factor two of ``|p + q|^2 <= 2 |p|^2 + 2 |q|^2``, and
    Gaussians exceed it: see the example.

    Parameters
    ----------
    drift_error, score_error : float
        In the squares of flow units per unit of time, and of nats per flow unit.
    epsilon : float, positive, a constant noise level

    Returns
    -------
    float, nats

    Raises
    ------
    ValueError
        If `epsilon` is not positive.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, section 2.4.

    Examples
    --------
    >>> from skinterflow.interflow import kl_bound
    >>> round(kl_bound(drift_error=0.04, score_error=0.01, epsilon=1.0), 3)
    0.025

    On the trigonometric path from N(0, 1) to N(0, 1), with drift 0 and score -x, let the learned
    drift be d and the learned score d / epsilon - x.  Their diffusion ends at N(m, 1) with
    ``m = 2 d (1 - exp(-epsilon)) / epsilon``: above half of the bound, below it.

    >>> import math
    >>> d, epsilon = 0.2, 1.25
    >>> divergence = (2 * d * (1 - math.exp(-epsilon)) / epsilon) ** 2 / 2
    >>> bound = kl_bound(d**2, (d / epsilon) ** 2, epsilon)
    >>> bound / 2 < divergence < bound
    True
    """
    if not epsilon > 0:
        raise ValueError(
            f"epsilon must be positive, got {epsilon!r}; the bound is infinite without noise."
        )
    return drift_error / (2.0 * epsilon) + 0.5 * epsilon * score_error


def kl_bound_by_velocity(
    velocity_error: float, score_error: float, gamma: Gamma, epsilon: float
) -> float:
    r"""As
    :func:`kl_bound` where the velocity was learned: with ``sup_t (gamma gamma' - epsilon)^2 / (2 epsilon)``
    times the score's.

    Parameters
    ----------
    velocity_error, score_error : float
        As for :func:`kl_bound`, with the velocity's error in place of the drift's.
    gamma : Gamma, scale of the latent that the score is about
    epsilon : float, positive, a constant noise level

    Returns
    -------
    float, nats

    Raises
    ------
    ValueError
        If `epsilon` is not positive.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, section 2.4.

    Examples
    --------
    ``gamma gamma' = 1/2 - t`` of the Brownian latent is 1 away from `epsilon` at ``t = 1``.

    >>> from skinterflow.interflow import Brownian, kl_bound_by_velocity
    >>> round(
    ...     kl_bound_by_velocity(
    ...         velocity_error=0.04, score_error=0.01, gamma=Brownian(), epsilon=0.5
    ...     ),
    ...     3,
    ... )
    0.05
    """
    products = gamma.at(torch.linspace(0.0, 1.0, _N_PRODUCTS, dtype=torch.float64)).product
    largest = float((products - epsilon).square().max())
    return kl_bound(velocity_error, 0.0, epsilon) + largest / (2.0 * epsilon) * score_error


def best_epsilon(drift_error: float, score_error: float) -> float:
    """The constant noise level that makes :func:`kl_bound` least: the root of the errors' ratio.

    Parameters
    ----------
    drift_error, score_error : float, positive, as for :func:`kl_bound`

    Returns
    -------
    float

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, section 2.4.

    Examples
    --------
    >>> from skinterflow.interflow import best_epsilon, kl_bound
    >>> round(best_epsilon(drift_error=0.04, score_error=0.01), 3)
    2.0
    >>> kl_bound(0.04, 0.01, epsilon=2.0) < kl_bound(0.04, 0.01, epsilon=1.0)
    True
    """
    return math.sqrt(drift_error / score_error)
