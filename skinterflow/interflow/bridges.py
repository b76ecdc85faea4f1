r"""Schroedinger bridges: pairs of points that give one, and a test of whether a diffusion is one.

Given both ends, the bridge of noise level ``epsilon`` is a Brownian bridge.  Its pairs of ends are
the entropic optimal transport, with density proportional to ``exp(f(x0) + g(x1) - |x1 - x0|^2 / (4
epsilon))``.  Straight lines between such pairs with ``gamma^2 = 2 epsilon t (1 - t)`` are therefore
a path whose forward drift ``b + epsilon s`` is that of the bridge, for any two ends
(:func:`bridge_pairs`; [2]_).  Paths with independent ends, which the max-min problem of paper 2
ranges over, hold it for few: a single scale of the noise does so for Gaussians of the same shape.

The forward drift of the bridge is a gradient, ``u = grad lambda``, whose potential solves
``d/dt lambda + |u|^2 / 2 + epsilon div u = 0`` (paper 2 [1]_, theorem 3.10).  By Ito's formula,
``u_t(X_t)`` is then a martingale: along the diffusion the drift changes at random, but not on
average, from any starting point.  If the family of paths does not contain the bridge, the drift
changes systematically, although the diffusion has the right marginals at both ends.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
.. [2] Tong et al., "Simulation-free Schroedinger bridges via score and flow matching", AISTATS
    2024.
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
_SINKHORN_ROWS = 512
"""Rows of each side on which the potentials of the entropic transport converge."""
_POLISHING = ((2_048, 16), (8_192, 8))
"""Rows of each side on which they take more steps, and the number of these.  The sampling error of
the rows of the last steps remains in the pairs: with 2,048 it was half of the error of a drift."""
_ANNEALING = (16.0, 4.0, 1.0)
"""Noise levels, relative to the wanted one, that are solved one after the other."""
_MOST_STEPS, _POTENTIAL_TOLERANCE = 200, 1e-2
"""Sinkhorn steps at each level, and the change of the potentials, in nats, that ends them."""
_BLOCK_ENTRIES = 2**22
_LARGEST_DEFECT = 0.15
"""Above this a warning is raised; drifts of a bridge with errors of 1% to 2% have 0.02 to 0.11."""


class GaussianBridge:
    r"""Schroedinger bridge between two Gaussians of any shape, in closed form.

    Its ends are jointly Gaussian ([1]_), and ``x_t`` is a Brownian bridge between them, so that the
    forward drift is linear at each time.

    Parameters
    ----------
    mean0, mean1 : Tensors of shape (D,)
    covariance0, covariance1 : Tensors of shape (D, D), positive definite
    epsilon : float, positive, the noise level

    Attributes
    ----------
    cross_covariance : Tensor of shape (D, D), ``Cov(x_0, x_1)``

    References
    ----------
    .. [1] Janati, Muzellec, Peyre and Cuturi, "Entropic optimal transport between unbalanced
        Gaussian measures has a closed form", NeurIPS 2020.

    Examples
    --------
    In one dimension, from variance 4 to 1 with little noise, the points shrink to half.

    >>> import torch
    >>> from skinterflow.interflow import GaussianBridge
    >>> zero, one = torch.zeros(1), torch.ones(1, 1)
    >>> bridge = GaussianBridge(zero, 4.0 * one, zero, one, epsilon=1e-3)
    >>> bridge.drift(torch.tensor(0.0), torch.tensor([[2.0]])).round(decimals=2)
    tensor([[-1.]])
    """

    def __init__(
        self,
        mean0: Tensor,
        covariance0: Tensor,
        mean1: Tensor,
        covariance1: Tensor,
        epsilon: float,
    ) -> None:
        self.mean0, self.covariance0 = mean0, covariance0
        self.mean1, self.covariance1 = mean1, covariance1
        self.epsilon = epsilon
        self._noise = epsilon * torch.eye(len(mean0), dtype=mean0.dtype, device=mean0.device)
        values, vectors = torch.linalg.eigh(covariance0)
        half, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
        values, vectors = torch.linalg.eigh(half @ covariance1 @ half + self._noise @ self._noise)
        root = vectors * values.sqrt() @ vectors.T
        self.cross_covariance = half @ root @ inverse - self._noise

    def mean(self, t: Tensor) -> Tensor:
        """Mean of ``x_t``, shape (D,)."""
        return (1.0 - t) * self.mean0 + t * self.mean1

    def covariance(self, t: Tensor) -> Tensor:
        """Covariance of ``x_t``, shape (D, D)."""
        both = self.cross_covariance + self.cross_covariance.T + 2.0 * self._noise
        ends = (1.0 - t) ** 2 * self.covariance0 + t**2 * self.covariance1
        return ends + t * (1.0 - t) * both

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Forward drift ``u_t(x) = E[x_1 - x_t | x_t = x] / (1 - t)``, shape (B, D)."""
        s, across = 1.0 - t, self.cross_covariance
        rate = s * (across.T - self.covariance0) + t * (self.covariance1 - across - 2 * self._noise)
        slope = torch.linalg.solve(self.covariance(t), rate, left=False)
        return self.mean1 - self.mean0 + (x - self.mean(t)) @ slope.T

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """Gradient of the log-density of ``x_t``, shape (B, D)."""
        return -torch.linalg.solve(self.covariance(t), (x - self.mean(t)).T).T


@torch.no_grad()
def bridge_defect(
    drift: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    epsilon: float,
    generator: torch.Generator,
    solver: StochasticSolver = StochasticSolver(),
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
    solver : StochasticSolver, for each of the parts of the time

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


@torch.no_grad()
def bridge_pairs(
    x0: Tensor, x1: Tensor, epsilon: float, generator: torch.Generator, n_draws: int = 1
) -> Tensor:
    """Draw partners by the entropic optimal transport, whose pairs are the ends of the bridge.

    The potentials are those of up to 8,192 rows of each side, by Sinkhorn's algorithm, extended to
    all rows.  Partners of a row are drawn from all rows of the other side.

    Parameters
    ----------
    x0 : Tensor of shape (n, D), rows of the source
    x1 : Tensor of shape (m, D), rows of the target
    epsilon : float, positive, the noise level in squared units of the rows
    generator : torch.Generator on the device of the rows
    n_draws : int, number of partners of each row

    Returns
    -------
    Tensor of int64 of shape (n, n_draws), numbers of rows of `x1`

    References
    ----------
    Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013.

    Examples
    --------
    With little noise, partners are close; with much, they are independent.

    >>> import torch
    >>> from skinterflow.interflow import bridge_pairs
    >>> generator = torch.Generator().manual_seed(0)
    >>> x0, x1 = (torch.randn(300, 1, generator=generator) for _ in range(2))
    >>> def correlation(epsilon):
    ...     partners = x1[bridge_pairs(x0, x1, epsilon, generator)[:, 0]]
    ...     return float(torch.corrcoef(torch.cat([x0, partners], dim=1).T)[0, 1])
    >>> correlation(0.01) > 0.95, abs(correlation(100.0)) < 0.2
    (True, True)
    """
    most = _POLISHING[-1][0]
    some0, some1 = (
        x[torch.randperm(len(x), generator=generator, device=x.device)[:most]] for x in (x0, x1)
    )
    outer = _potential(x1, some0, _source_potential(some0, some1, epsilon), epsilon)
    n_rows = max(1, _BLOCK_ENTRIES // len(x1))
    drawn = [
        torch.multinomial(
            _affinity(part, x1, epsilon).add_(outer).softmax(1),
            n_draws,
            replacement=True,
            generator=generator,
        )
        for part in x0.split(n_rows)
    ]
    return torch.cat(drawn)


def _affinity(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """``-|x - y|^2 / (4 epsilon)`` for all pairs, shape (n, m)."""
    return torch.cdist(x, y).square_().div_(-4.0 * epsilon)


def _potential(x: Tensor, y: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """Potential at the rows `x`, shape (n,), for that of the rows `y` of the other side."""
    parts = x.split(max(1, _BLOCK_ENTRIES // len(y)))
    return torch.cat([-_affinity(part, y, epsilon).add_(potential).logsumexp(1) for part in parts])


def _source_potential(x0: Tensor, x1: Tensor, epsilon: float) -> Tensor:
    """Potential `f` of the rows of the source, shape (n,), by Sinkhorn's algorithm in logarithms.

    A few rows converge from high noise levels to the wanted one; then more rows take a few steps.
    """
    few0, few1 = x0[:_SINKHORN_ROWS], x1[:_SINKHORN_ROWS]
    f = x0.new_zeros(len(few0))
    for factor in _ANNEALING:
        # In units of the cost, the potentials of one level are close to those of the next.
        level = factor * epsilon
        f = _balanced(_affinity(few0, few1, level), f / level) * level
    f /= epsilon
    for n_rows, n_steps in _POLISHING:
        more0, more1 = x0[:n_rows], x1[:n_rows]
        for _ in range(n_steps):
            g = _potential(more1, few0, f, epsilon)
            f = _potential(more0, more1, g, epsilon)
            few0 = more0
    return f


def _balanced(affinity: Tensor, f: Tensor) -> Tensor:
    """Potential `f` after Sinkhorn steps until it changes little."""
    for _ in range(_MOST_STEPS):
        g = -(affinity + f[:, None]).logsumexp(0)
        before, f = f, -(affinity + g).logsumexp(1)
        if float((f - before).abs().max()) < _POTENTIAL_TOLERANCE:
            break
    return f
