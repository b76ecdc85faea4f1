r"""Interpolants: the path that joins a base point to a data point.

A stochastic interpolant is ``x_t = I_t(x0, x1)`` with ``I_0(x0, x1) = x0`` and ``I_1(x0, x1) = x1``, where
``x0 ~ rho_0`` and ``x1 ~ rho_1`` are independent [1]_.  In this package ``t = 0`` is the base and ``t = 1`` the data.
The law of ``x_t`` solves a continuity equation whose velocity is ``v_t(x) = E[d/dt I_t | x_t = x]``, so all that learning needs
is the point on the path and its rate.  A class states the path; :meth:`Interpolant.path` derives the rate.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023, equations 2 to 5 and B.2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def expand_as_leading(t: Tensor, x: Tensor) -> Tensor:
    """Give `t` trailing axes of length one, so that it multiplies `x` along the leading axes.

    Parameters
    ----------
    t : Tensor of shape (), (B,) or any shape that broadcasts with the leading axes of `x`
    x : Tensor of shape ``(B, *event)``

    Returns
    -------
    Tensor with ``x.ndim`` axes (a scalar `t` stays a scalar).
    """
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Interpolant(ABC):
    """A differentiable path ``I_t(x0, x1)`` from ``x0`` at ``t = 0`` to ``x1`` at ``t = 1`` (paper 1, equations 2 to 6)."""

    @abstractmethod
    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Point on the path.

        Parameters
        ----------
        t : Tensor of shape () or (B,), times in [0, 1]
        x0, x1 : Tensors of shape ``(B, *event)``

        Returns
        -------
        Tensor of shape ``(B, *event)``
        """

    def __call__(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return self.forward(t, x0, x1)

    def path(self, t: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Point on the path and its rate ``d/dt I_t(x0, x1)``, both of shape ``(B, *event)``, by one forward-mode derivative."""
        point, rate = torch.func.jvp(lambda s: self.forward(s, x0, x1), (t,), (torch.ones_like(t),))[:2]
        return point, rate


class AffineInterpolant(Interpolant):
    """``I_t = alpha(t) x0 + beta(t) x1`` with ``alpha(0) = beta(1) = 1`` and ``alpha(1) = beta(0) = 0`` (equation B.2)."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the base point, of the shape of `t`."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Weight of the data point, of the shape of `t`."""

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return _combine(self.alpha(t), self.beta(t), x0, x1)

    def path(self, t: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        # Only the weights depend on time: differentiating them alone keeps the forward-mode derivative off the large arrays.
        (a, b), (a_rate, b_rate) = torch.func.jvp(lambda s: (self.alpha(s), self.beta(s)), (t,), (torch.ones_like(t),))[:2]
        return _combine(a, b, x0, x1), _combine(a_rate, b_rate, x0, x1)


def _combine(a: Tensor, b: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    return expand_as_leading(a, x0) * x0 + expand_as_leading(b, x1) * x1


def _quarter_turn(t: Tensor) -> Tensor:
    # ``t * number`` would send a zero tangent for the number through the forward-mode derivative, at five times the cost.
    return torch.ops.aten.mul.Scalar(t, 0.5 * math.pi)


@dataclass(frozen=True)
class Trigonometric(AffineInterpolant):
    r"""``I_t = cos(pi t / 2) x0 + sin(pi t / 2) x1`` (equation 5).

    Independent ends of equal covariance keep that covariance at every time.

    Examples
    --------
    >>> import torch
    >>> x_t, rate = Trigonometric().path(torch.tensor(0.0), torch.ones(1, 2), torch.zeros(1, 2))
    >>> x_t
    tensor([[1., 1.]])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(_quarter_turn(t))

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(_quarter_turn(t))


@dataclass(frozen=True)
class Linear(AffineInterpolant):
    """``I_t = (1 - t) x0 + t x1``: straight lines at constant speed (paper 1, appendix D)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def beta(self, t: Tensor) -> Tensor:
        return t


def check_endpoints(interpolant: Interpolant, n_features: int) -> None:
    """Raise if a path does not start at `x0` and end at `x1`, with the size of the miss.

    Raises
    ------
    ValueError
        If either end is missed by more than 1e-4.
    """
    ends = torch.linspace(-2.0, 2.0, 2 * n_features).reshape(2, 1, n_features)
    for time, target in enumerate(ends):
        miss = float((interpolant(torch.full((1,), float(time)), *ends) - target).abs().max())
        if not miss <= 1e-4:
            raise ValueError(
                f"{interpolant!r} must give x{time} at t={time}, but misses it by {miss:.3g}; "
                "let alpha(0) = beta(1) = 1 and alpha(1) = beta(0) = 0."
            )
