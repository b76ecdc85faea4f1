r"""How well a field was learned, and how far its path is: numbers from paper 1.

``G(v) + E|v|^2`` is zero at the optimum (equation 11); ``E|v|^2``, the transport action, bounds the squared Wasserstein-2 distance of the
two ends from above, and is what a learned path lowers (proposition 2); the error of the field bounds the distance of its samples from
the data (proposition 3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Interpolant

_N_TIMES = 64


class PathStatistics(NamedTuple):
    """Means over pairs of points and times, in flow units.

    Attributes
    ----------
    loss : float, ``G``
    action : float, ``E|v_t(x_t)|^2``
    length : float, the mean over times of ``sqrt(E|v_t(x_t)|^2)``
    regression : float, ``E|v_t(x_t) - dI_t/dt|^2``, which is at least the squared error of the field
    """

    loss: float
    action: float
    length: float
    regression: float


@torch.no_grad()
def path_statistics(field: VelocityField, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> PathStatistics:
    """Statistics of a field on the path between the pairs.

    Parameters
    ----------
    field : VelocityField
    interpolant : Interpolant
    x0, x1 : Tensors of shape (B, D), rows in random order; each is seen at one of 64 times, evenly spaced
    """
    n_times = min(_N_TIMES, len(x0))
    t = ((torch.arange(len(x0), device=x0.device) % n_times + 0.5) / n_times).to(x0)
    xt, rate = interpolant.path(t, x0, x1)
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
def lipschitz_constant(field: VelocityField, interpolant: Interpolant, x0: Tensor, x1: Tensor) -> float:
    """Largest slope of the field, the spectral norm of its Jacobian, met on the path between the pairs: a lower bound of the constant."""
    t = ((torch.arange(len(x0), device=x0.device) + 0.5) / len(x0)).to(x0)

    def at(time: Tensor, x: Tensor) -> Tensor:
        return field(time[None], x[None])[0]

    jacobians = torch.func.vmap(torch.func.jacfwd(at, argnums=1))(t, interpolant(t, x0, x1))
    return float(torch.linalg.matrix_norm(jacobians, ord=2).max())
