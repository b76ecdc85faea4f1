r"""A test of whether a diffusion is the Schroedinger bridge between its ends.

The forward drift of the bridge is a gradient, ``u = grad lambda``, whose potential solves
``d/dt lambda + |u|^2 / 2 + epsilon div u = 0`` (paper 2 [1]_, theorem 3.10).  By Ito's formula,
``u_t(X_t)`` is then a martingale: along the diffusion the drift changes at random, but not on
average, from any starting point.  If the family of paths does not contain the bridge, the drift
changes systematically, although the diffusion has the right marginals at both ends.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from skinterflow.interflow.sde import StochasticSolver
from skinterflow.interflow.warn import warn

_TIMES = (0.05, 0.5, 0.95)
"""Times between which the change of the drift is measured: few, because errors of the drift are
divided by the time between them, and not at the ends, where these errors are largest."""
_LARGEST_DEFECT = 0.15
"""Above this a warning is raised; drifts of a bridge with errors of 1% to 2% have 0.02 to 0.11."""


@torch.no_grad()
def bridge_defect(
    drift: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    epsilon: float,
    generator: torch.Generator,
) -> float:
    """Distance of a diffusion ``dX = u dt + sqrt(2 epsilon) dW`` from a Schroedinger bridge.

    It is the systematic change of the drift along paths of the diffusion, per unit of time and
    relative to the drift.  The changes from ``t = 0.05`` to 0.5 and from 0.5 to 0.95 are regressed
    linearly on the position, and the explained part is compared with the drift.  For a bridge
    (paper 2, theorem 3.10) the result is zero up to the error of the drift and a random part of
    about ``sqrt(D / B)``.

    Parameters
    ----------
    drift : callable
        Forward drift ``u(t, x)`` at a scalar time and points of shape (B, D), such as the field of
        a `BridgeObjective`.
    x0 : Tensor of shape (B, D), a large sample of the source
    epsilon : float, positive, the noise level
    generator : torch.Generator on the device of `x0`

    Returns
    -------
    float, per unit of time

    Warns
    -----
    UserWarning
        If it is above 0.15: the family of paths does not contain the bridge, or the training has
        not reached it.

    Examples
    --------
    Between two Gaussians with equal covariance, straight lines with
    ``gamma^2 = 2 sqrt(1 + epsilon^2) t (1 - t)`` give the bridge.

    >>> import math, torch
    >>> from skinterflow.interflow import (
    ...     Brownian,
    ...     Linear,
    ...     MixtureField,
    ...     NormalMixture,
    ...     StochasticInterpolant,
    ...     bridge_defect,
    ... )
    >>> path = StochasticInterpolant(Linear(), Brownian(2.0 * math.hypot(1.0, 0.5)))
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, 1)), path
    ... )
    >>> def forward(t, x):
    ...     drift, score = field.drift_and_score(t, x)
    ...     return drift + 0.5 * score
    >>> generator = torch.Generator().manual_seed(0)
    >>> bridge_defect(
    ...     forward, torch.randn(4_000, 1, generator=generator), epsilon=0.5, generator=generator
    ... ) < 0.1
    True
    """
    solver = StochasticSolver()

    def carried(x: Tensor, start: float, end: float) -> Tensor:
        return solver.solve(drift, lambda _: epsilon, x, start, end, generator)

    x = carried(x0, 0.0, _TIMES[0])
    u = drift(x0.new_tensor(_TIMES[0]), x)
    systematic, total = x0.new_zeros(()), x0.new_zeros(())
    for start, end in itertools.pairwise(_TIMES):
        later = carried(x, start, end)
        u_later = drift(x0.new_tensor(end), later)
        systematic += _explained(x, (u_later - u) / (end - start))
        total += u.square().sum(1).mean()
        x, u = later, u_later
    defect = float((systematic / total).clamp(min=0.0).sqrt())
    if not defect <= _LARGEST_DEFECT:
        warn(
            f"The forward drift changes systematically along its own paths, by {defect:.2g} of its "
            "size per unit of time, unlike that of a Schroedinger bridge: both ends may be right, "
            "but this is not a bridge. Use a family of paths that contains the bridge, train "
            "longer, or give more rows.",
            UserWarning,
        )
    return defect


def _explained(x: Tensor, change: Tensor) -> Tensor:
    """Mean square of the changes explained by a linear regression on `x`, corrected for chance."""
    columns = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
    fitted = columns @ torch.linalg.lstsq(columns, change).solution
    by_chance = columns.shape[1] / len(x) * (change - fitted).square().sum(1).mean()
    return fitted.square().sum(1).mean() - by_chance
