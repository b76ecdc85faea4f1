r"""Paths of one data point: one-sided and mirror paths with any function of it.

A one-sided path starts at a standard normal base point, which is its noise, and moves the data
point in any way (paper 2 [1]_, definition 3.3),

.. math:: x_t = \alpha(t)\, x_0 + J_t(x_1), \qquad J_0 = 0, \quad J_1(x_1) = x_1 .

The score is ``-E[x0 | x_t] / alpha``, as on an affine path, but it does not follow from the drift
unless `J` is a multiple of the data point: ``"s"`` or ``"eta"`` is learned together with ``"b"``.

A mirror path leads from a data set to itself (definition 3.6),

.. math:: x_t = K_t(x_1) + \gamma(t)\, z, \qquad K_0(x_1) = K_1(x_1) = x_1 .

For ``K_t(x_1) = x_1``, :class:`~skinterflow.interflow.interpolants.Mirror`, the velocity is zero,
and the denoiser is all that is learned (remark 3.8).  For other `K`, either the drift or the
velocity is learned as well.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from skinterflow.interflow.interpolants import Interpolant, expand_as_leading


class OneSidedInterpolant(Interpolant):
    """``x_t = alpha(t) x0 + J(t, x1)`` from a standard normal base (paper 2, definition 3.3).

    Examples
    --------
    Large values arrive first.

    >>> import torch
    >>> from skinterflow.interflow import OneSidedInterpolant, StochasticInterpolant
    >>> from skinterflow.interflow.interpolants import expand_as_leading
    >>> class Outwards(OneSidedInterpolant):
    ...     def alpha(self, t):
    ...         return 1.0 - t
    ...
    ...     def data(self, t, x1):
    ...         s = expand_as_leading(t, x1)
    ...         return s * x1 + s * (1.0 - s) * x1.pow(3)
    >>> path = StochasticInterpolant(Outwards())
    >>> path(torch.tensor(0.5), torch.ones(1, 1), torch.full((1, 1), 2.0), None)
    tensor([[3.5000]])
    """

    has_base_scale = True

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the noise, of the shape of `t`: one at ``t = 0`` and zero at ``t = 1``."""

    @abstractmethod
    def data(self, t: Tensor, x1: Tensor) -> Tensor:
        """The function ``J``: zero at ``t = 0`` and `x1` at ``t = 1``.

        Parameters
        ----------
        t : Tensor of shape () or (B,), times in [0, 1]
        x1 : Tensor of shape ``(B, *event)``

        Returns
        -------
        Tensor of shape ``(B, *event)``
        """

    def base_scale(self, t: Tensor) -> Tensor:
        return self.alpha(t)

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return expand_as_leading(self.alpha(t), x0) * x0 + self.data(t, x1)


class MirrorInterpolant(Interpolant):
    """``x_t = K(t, x1)``, which leads back to ``x1``, with a noise term (paper 2, definition 3.6).

    Examples
    --------
    On the way back to themselves, points contract by half.

    >>> import math, torch
    >>> from skinterflow.interflow import Brownian, MirrorInterpolant, StochasticInterpolant
    >>> from skinterflow.interflow.interpolants import expand_as_leading
    >>> class Contracting(MirrorInterpolant):
    ...     def data(self, t, x1):
    ...         return (1.0 - 0.5 * torch.sin(math.pi * expand_as_leading(t, x1))) * x1
    >>> path, x1 = StochasticInterpolant(Contracting(), Brownian()), torch.full((1, 1), 4.0)
    >>> path(torch.tensor(0.5), x1, x1, torch.ones(1, 1))
    tensor([[2.5000]])
    """

    needs_noise = True
    resamples = True

    @abstractmethod
    def data(self, t: Tensor, x1: Tensor) -> Tensor:
        """The function ``K``: `x1` at both ends.

        Parameters
        ----------
        t : Tensor of shape () or (B,), times in [0, 1]
        x1 : Tensor of shape ``(B, *event)``

        Returns
        -------
        Tensor of shape ``(B, *event)``
        """

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return self.data(t, x1)
