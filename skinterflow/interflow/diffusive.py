r"""Diffusive interpolants, and diffusions from a single point (paper 2 [1]_, section 3.1).

A diffusive interpolant has a Brownian bridge ``B_t`` where the path of
:mod:`~skinterflow.interflow.noise` has a smooth noise term,

.. math:: x^d_t = I_t(x_0, x_1) + \sqrt{2 a}\, B_t

(definition 3.1, here with a constant ``a``).  At every single time it has the law of the path with
``gamma = sqrt(2 a t (1 - t))`` (equation 3.2), whose quantities can be learned without stochastic
calculus.  Its forward drift for the noise level ``epsilon = a``,

.. math::

    u = b + a s = E\left[ \partial_t I_t - \sqrt{2 a t / (1 - t)}\, z \mid x_t = x \right]

(equation 3.8), stays finite at ``t = 0`` even if all base points are equal, while ``b`` and ``s``
diverge there.  The diffusion ``dX = u dt + sqrt(2 a) dW`` therefore carries a single point to the
data (theorem 3.1, equation 3.11), which no flow can do.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import Brownian, StochasticInterpolant
from skinterflow.interflow.objectives import BridgeObjective
from skinterflow.interflow.sde import Drift, StochasticSolver
from skinterflow.interflow.times import TimeLaw


class DiffusiveInterpolant:
    """The process ``I_t(x0, x1) + sqrt(2 a) B_t`` with a Brownian bridge ``B_t``.

    See definition 3.1 of paper 2.

    Parameters
    ----------
    interpolant : Interpolant
    a : float, positive, the noise level of the diffusion that follows from it

    Attributes
    ----------
    path : StochasticInterpolant
        The path with the same law at every single time, ``gamma = sqrt(2 a t (1 - t))`` (equation
        3.2).

    Raises
    ------
    ValueError
        If `a` is not positive and finite.

    Examples
    --------
    From the point 0 to N(3, 1), by random paths.  The forward drift is learned from pairs of the
    point with a row; here it is known.

    >>> import torch
    >>> from skinterflow.interflow import DiffusiveInterpolant, Linear, StochasticSolver
    >>> process = DiffusiveInterpolant(Linear(), a=0.5)
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = process.sample(
    ...     lambda t, x: torch.full_like(x, 3.0),
    ...     torch.zeros(1),
    ...     2_000,
    ...     StochasticSolver(n_steps=20),
    ...     generator,
    ... )
    >>> abs(float(x.mean()) - 3.0) < 0.1, abs(float(x.std()) - 1.0) < 0.1
    (True, True)
    """

    def __init__(self, interpolant: Interpolant, a: float = 1.0) -> None:
        if not 0.0 < a < math.inf:
            raise ValueError(f"a must be positive and finite, got {a!r}; it is a noise level.")
        self.interpolant = interpolant
        self.a = a
        self.path = StochasticInterpolant(interpolant, Brownian(2.0 * a))

    def trajectory(
        self, times: Sequence[float], x0: Tensor, x1: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw the process at several times (equation 3.1).

        Parameters
        ----------
        times : sequence of float in [0, 1], in increasing order
        x0, x1 : Tensors of shape (B, D)
        generator : torch.Generator on their device

        Returns
        -------
        Tensor of shape (len(times), B, D)
        """
        bridge = brownian_bridge(times, x0, generator)
        points = [self.interpolant(x0.new_full((len(x0),), t), x0, x1) for t in times]
        return torch.stack(points) + math.sqrt(2.0 * self.a) * bridge

    def objective(self, field: VelocityField, time_law: TimeLaw) -> BridgeObjective:
        """The loss whose minimiser is the forward drift ``u`` (equation 3.14).

        For a diffusion from a point, the base points of all batches are equal to it.

        Parameters
        ----------
        field : VelocityField, for the forward drift
        time_law : TimeLaw, which should be uniform

        Returns
        -------
        BridgeObjective with ``epsilon = a``, on a path that is not learned
        """
        return BridgeObjective(field, self.path, time_law, epsilon=self.a)

    def sample(
        self,
        drift: Drift,
        x0: Tensor,
        n: int,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> Tensor:
        """Carry a single point to the data by ``dX = u dt + sqrt(2 a) dW`` (equation 3.11).

        Parameters
        ----------
        drift : callable, the forward drift ``u(t, x)`` of scalar `t` and `x` of shape (n, D)
        x0 : Tensor of shape (D,), the point
        n : int, number of samples
        solver : StochasticSolver
        generator : torch.Generator on the device of `x0`

        Returns
        -------
        Tensor of shape (n, D)
        """
        return solver.solve(drift, lambda t: self.a, x0.expand(n, -1), 0.0, 1.0, generator)


def brownian_bridge(times: Sequence[float], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Brownian bridges, which are zero at ``t = 0`` and ``t = 1``, at several times.

    They are ``W_t - t W_1`` for Brownian motions ``W`` (paper 2, section 3.1).

    Parameters
    ----------
    times : sequence of float in [0, 1], in increasing order
    like : Tensor of any shape, of which each number has a bridge
    generator : torch.Generator on its device

    Returns
    -------
    Tensor of shape ``(len(times), *like.shape)``

    Raises
    ------
    ValueError
        If the times are not in [0, 1], or not in increasing order.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.diffusive import brownian_bridge
    >>> generator = torch.Generator().manual_seed(0)
    >>> bridge = brownian_bridge([0.0, 0.5, 1.0], torch.empty(5_000), generator)
    >>> [round(float(b.std()), 1) for b in bridge]
    [0.0, 0.5, 0.0]
    """
    grid = torch.tensor([0.0, *times, 1.0], dtype=torch.float64)
    if not (grid.diff() >= 0).all():
        raise ValueError(f"times must be in [0, 1] and in increasing order, got {list(times)!r}.")
    steps = torch.randn(
        (len(grid) - 1, *like.shape), generator=generator, dtype=like.dtype, device=like.device
    )
    shape = (-1,) + (1,) * like.ndim
    motion = (grid.diff().sqrt().to(like).reshape(shape) * steps).cumsum(0)
    return motion[:-1] - grid[1:-1].to(like).reshape(shape) * motion[-1]
