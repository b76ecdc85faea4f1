r"""Diagnostics of a learned field and of its path.

- ``G(v) + E|v|^2`` is zero at the optimum (paper 1 [1]_, equation 11).
- ``E|v|^2``, the transport action, is an upper bound of the squared Wasserstein-2 distance between
  the two ends; a learned path minimises it (paper 1, proposition 2).
- The error of the field bounds the distance of its samples from the data (paper 1, proposition 3).
- A flow along straight lines needs few steps (:func:`straightness`).
- For a diffusion, the errors of drift and score bound the relative entropy (paper 2 [2]_, section
  2.4).

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.noise import Gamma, StochasticInterpolant

_N_TIMES = 64
_N_PRODUCTS = 1_001


class PathStatistics(NamedTuple):
    """Means over pairs of points and times, in flow units.

    In the formulas, `v` is the field and ``dx_t/dt`` the rate of the path with its noise term.

    Attributes
    ----------
    loss : float, ``G``
    action : float, ``E|v_t(x_t)|^2``
    length : float, the mean over times of ``sqrt(E|v_t(x_t)|^2)``
    regression : float
        ``E|v_t(x_t) - dx_t/dt|^2``, an upper bound of the squared error of the field.

    Examples
    --------
    The loss and the action of the minimiser add up to zero (paper 1, equation 11).

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
    """Statistics of a drift along the path (paper 1, equations 8 to 11 and proposition 2).

    Parameters
    ----------
    field : VelocityField
    path : StochasticInterpolant
    x0, x1 : Tensors of shape (B, D)
        Pairs in random order; each is used at one of 64 evenly spaced times.
    z : Tensor of shape (B, D), standard normal, or None for a path without a noise term

    Returns
    -------
    PathStatistics

    Examples
    --------
    An untrained field is zero, and the rate of the path is 3.

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


def straightness(positions: Tensor, times: Sequence[float]) -> float:
    r"""Mean square difference of a velocity from that of the straight line between the two ends.

    .. math:: S = \int_0^1 E\left| \dot x_t - (x_1 - x_0) \right|^2 dt

    It is zero if every point moves straight at constant speed, so that one step of Euler's method
    has no error ([1]_).  For times from `t_0` to `t_K`, the mean over these times is taken, and the
    line is ``(x_K - x_0) / (t_K - t_0)``.

    Parameters
    ----------
    positions : Tensor of shape (K + 1, B, D), such as those of :meth:`Flow.trajectory`
        The points are taken to move straight between two times, which lowers the result by a
        fraction of about ``1 / K^2``.
    times : sequence of K + 1 floats, increasing

    Returns
    -------
    float, in squared units of the positions per squared unit of time

    References
    ----------
    .. [1] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data with
        rectified flow", ICLR 2023.

    Examples
    --------
    Half of the time at rest, then at speed two: the mean of ``(0 - 1)^2`` and ``(2 - 1)^2``.

    >>> import torch
    >>> from skinterflow.interflow import straightness
    >>> straightness(torch.tensor([0.0, 0.0, 1.0])[:, None, None], times=[0.0, 0.5, 1.0])
    1.0
    """
    steps = torch.as_tensor(times, dtype=positions.dtype, device=positions.device).diff()
    share = (steps / steps.sum())[:, None, None]
    velocities = positions.diff(dim=0) / steps[:, None, None]
    line = (positions[-1] - positions[0]) / steps.sum()
    return float((share * (velocities - line).square()).sum(dim=(0, 2)).mean())


@torch.no_grad()
def lipschitz_constant(
    field: VelocityField,
    path: StochasticInterpolant,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None = None,
) -> float:
    """Largest spectral norm of the Jacobian of the field along the path.

    It is a lower bound of the Lipschitz constant.  With a Lipschitz constant `K`, ``exp(1 + 2 K)``
    times the squared error of the field bounds the squared Wasserstein-2 distance (paper 1,
    proposition 3).

    Parameters
    ----------
    field : VelocityField
    path : StochasticInterpolant
    x0, x1 : Tensors of shape (B, D)
        Pairs in random order; each is used at one of B evenly spaced times.
    z : Tensor of shape (B, D), standard normal, or None for a path without a noise term

    Returns
    -------
    float, per unit of time

    Examples
    --------
    From N(0, 1) to N(0, 4) along straight lines, the slope is largest at ``t = 0.6``: 5 / 4.

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
    r"""Bound on the relative entropy of the data with respect to samples of a learned diffusion.

    With ``E|b - b'|^2`` and ``E|s - s'|^2``, the mean squared errors of drift and score along the
    path, it is (paper 2, section 2.4)

    .. math:: \frac{1}{2 \epsilon} E|b - b'|^2 + \frac{\epsilon}{2} E|s - s'|^2 .

    An error is the difference between a loss ``G`` and its minimum.  For the probability flow,
    ``epsilon = 0``, there is no such bound.

    Equation 2.45 of the paper is half of this bound: it has the same factors, but its losses have a
    factor one half.  It omits the factor two of ``|p + q|^2 <= 2 |p|^2 + 2 |q|^2``, and Gaussians
    exceed it, as the example shows.

    Parameters
    ----------
    drift_error, score_error : float
        In squared flow units per unit of time, and in squared nats per flow unit.
    epsilon : float, positive, a constant noise level

    Returns
    -------
    float, nats

    Raises
    ------
    ValueError
        If `epsilon` is not positive.

    Examples
    --------
    >>> from skinterflow.interflow import kl_bound
    >>> round(kl_bound(drift_error=0.04, score_error=0.01, epsilon=1.0), 3)
    0.025

    On the trigonometric path from N(0, 1) to N(0, 1), the drift is 0 and the score -x.  With a
    learned drift d and a learned score d / epsilon - x, the diffusion ends at N(m, 1), where
    ``m = 2 d (1 - exp(-epsilon)) / epsilon``.  Its divergence is between half of the bound and the
    bound.

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
    r"""Bound of :func:`kl_bound` from the error of the velocity instead of the drift.

    The factor of the error of the score is ``sup_t (gamma gamma' - epsilon)^2 / (2 epsilon)``
    (paper 2, section 2.4).

    Parameters
    ----------
    velocity_error, score_error : float
        As for :func:`kl_bound`, with the velocity's error in place of the drift's.
    gamma : Gamma, scale of the noise term of the path
    epsilon : float, positive, a constant noise level

    Returns
    -------
    float, nats

    Raises
    ------
    ValueError
        If `epsilon` is not positive.

    Examples
    --------
    For the Brownian scale, ``gamma gamma' = 1/2 - t`` differs from `epsilon` by 1 at ``t = 1``.

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
    """Constant noise level that minimises :func:`kl_bound` (paper 2, section 2.4).

    It is the square root of the ratio of the errors.

    Parameters
    ----------
    drift_error, score_error : float, positive, as for :func:`kl_bound`

    Returns
    -------
    float

    Examples
    --------
    >>> from skinterflow.interflow import best_epsilon, kl_bound
    >>> round(best_epsilon(drift_error=0.04, score_error=0.01), 3)
    2.0
    >>> kl_bound(0.04, 0.01, epsilon=2.0) < kl_bound(0.04, 0.01, epsilon=1.0)
    True
    """
    return math.sqrt(drift_error / score_error)
