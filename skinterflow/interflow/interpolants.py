r"""Interpolants: paths from a base point to a data point.

A stochastic interpolant is ``x_t = I_t(x0, x1)`` with ``I_0(x0, x1) = x0`` and
``I_1(x0, x1) = x1``, where ``x0 ~ rho_0`` and ``x1 ~ rho_1`` are independent (paper 1 [1]_,
equations 2 to 6; paper 2 [2]_ adds a noise term, :mod:`~skinterflow.interflow.noise`).  In this
package ``t = 0`` is the base and ``t = 1`` the data.  The law of ``x_t`` solves a continuity
equation with velocity ``v_t(x) = E[d/dt I_t | x_t = x]``, so training only needs the point on the
path and its rate.  A class defines the path; :meth:`Interpolant.path` derives the rate.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from skinterflow.interflow.derivatives import directional_derivative, values_and_rates


def expand_as_leading(t: Tensor, x: Tensor) -> Tensor:
    """Give `t` trailing axes of length one, so that it multiplies `x` along the leading axes.

    Parameters
    ----------
    t : Tensor of shape (), (B,) or any shape that broadcasts with the leading axes of `x`
    x : Tensor of shape ``(B, *event)``

    Returns
    -------
    Tensor with ``x.ndim`` axes (a scalar `t` stays a scalar).

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.interpolants import expand_as_leading
    >>> expand_as_leading(torch.tensor([1.0, 2.0]), torch.ones(2, 3)) * torch.ones(2, 3)
    tensor([[1., 1., 1.],
            [2., 2., 2.]])
    """
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


class Interpolant(ABC):
    """A differentiable path ``I_t(x0, x1)`` from ``x0`` at ``t = 0`` to ``x1`` at ``t = 1``.

    Attributes
    ----------
    needs_noise : bool, whether the path requires a noise term
    resamples : bool, whether both ends are the same row, which resamples a data set
    is_still : bool, whether the path does not depend on time, so that its velocity is zero
    has_base_scale : bool
        Whether the path is a scale times the base point plus a function of the data point, so that
        a standard normal base is its noise.

    Examples
    --------
    A custom path defines the point; the rate is derived.

    >>> import torch
    >>> from skinterflow.interflow import Interpolant
    >>> from skinterflow.interflow.interpolants import expand_as_leading
    >>> class Bent(Interpolant):
    ...     def forward(self, t, x0, x1):
    ...         s = expand_as_leading(t, x0)
    ...         return (1.0 - s) * x0 + s * x1 + 4.0 * s * (1.0 - s)
    >>> Bent().path(torch.tensor(0.5), torch.zeros(1, 2), torch.ones(1, 2))
    (tensor([[1.5000, 1.5000]]), tensor([[1., 1.]]))
    """

    needs_noise: ClassVar[bool] = False
    resamples: ClassVar[bool] = False
    is_still: ClassVar[bool] = False
    has_base_scale: ClassVar[bool] = False

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
        """Point on the path and its rate ``d/dt I_t(x0, x1)``, both of shape ``(B, *event)``."""
        return directional_derivative(lambda s: self.forward(s, x0, x1), t, torch.ones_like(t))

    def base_scale(self, t: Tensor) -> Tensor:
        """Scale of the base point, of the shape of `t`, if `has_base_scale`.

        Raises
        ------
        ValueError
            If the base point is not scaled and added.
        """
        raise ValueError(
            f"{self!r} has no noise of a known scale, because it is neither alpha(t) x0 + beta(t) "
            "x1 nor alpha(t) x0 + J(t, x1); set gamma."
        )


class Weights(NamedTuple):
    """``alpha(t)``, ``beta(t)`` and their rates, each of the shape of `t`.

    Attributes
    ----------
    alpha, beta : Tensors, weights of the base point and of the data point
    alpha_rate, beta_rate : Tensors, their derivatives by `t`

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Linear
    >>> weights = Linear().weights(torch.tensor([0.0, 0.25]))
    >>> weights.alpha, weights.alpha_rate
    (tensor([1.0000, 0.7500]), tensor([-1., -1.]))
    """

    alpha: Tensor
    beta: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor


class AffineInterpolant(Interpolant):
    """``I_t = alpha(t) x0 + beta(t) x1``, linear in both ends (paper 1, equations B.2 and B.3).

    The weights satisfy ``alpha(0) = beta(1) = 1`` and ``alpha(1) = beta(0) = 0``.  For these paths
    the expected ends follow from the velocity (:meth:`expected_ends`).

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import AffineInterpolant
    >>> class Accelerated(AffineInterpolant):
    ...     def alpha(self, t):
    ...         return 1.0 - t.square()
    ...
    ...     def beta(self, t):
    ...         return t.square()
    >>> x_t, rate = Accelerated().path(torch.tensor(0.5), torch.zeros(1, 2), torch.ones(1, 2))
    >>> x_t, rate
    (tensor([[0.2500, 0.2500]]), tensor([[1., 1.]]))
    """

    has_base_scale = True

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the base point, of the shape of `t`."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Weight of the data point, of the shape of `t`."""

    def base_scale(self, t: Tensor) -> Tensor:
        return self.alpha(t)

    def weights(self, t: Tensor) -> Weights:
        """Weights of both ends and their rates."""
        (a, b), (a_rate, b_rate) = values_and_rates((self.alpha, self.beta), t)
        return Weights(a, b, a_rate, b_rate)

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return _combine(self.alpha(t), self.beta(t), x0, x1)

    def path(self, t: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        # Only the weights depend on time, and differentiating them does not touch the large arrays.
        a, b, a_rate, b_rate = self.weights(t)
        return _combine(a, b, x0, x1), _combine(a_rate, b_rate, x0, x1)

    def expected_ends(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        r"""Expected ends ``E[x0 | x_t]`` and ``E[x1 | x_t]``.

        They solve ``y = alpha E[x0] + beta E[x1]`` and ``v = alpha' E[x0] + beta' E[x1]``, where
        `y` and `v` are the conditional expectations of the interpolant and of its rate.  An end is
        NaN where its weight and the rate of its weight are zero.

        Parameters
        ----------
        t : Tensor of shape () or (B,), in [0, 1]
        y, v : Tensors of shape ``(B, *event)``; without a noise term, `y` is the point ``x_t``

        Returns
        -------
        Two tensors of shape ``(B, *event)``
        """
        a, b, a_rate, b_rate = self.weights(t)
        determinant = expand_as_leading(a_rate * b - a * b_rate, y)
        # Where one end has weight zero, the point is a multiple of the other.
        alone = determinant == 0
        start, end = (torch.where(weight == 0, torch.nan, 1.0 / weight) for weight in (a, b))
        return (
            torch.where(
                alone, expand_as_leading(start, y) * y, _combine(-b_rate, b, y, v) / determinant
            ),
            torch.where(
                alone, expand_as_leading(end, y) * y, _combine(a_rate, -a, y, v) / determinant
            ),
        )


def _combine(a: Tensor, b: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    return expand_as_leading(a, x0) * x0 + expand_as_leading(b, x1) * x1


def _quarter_turn(t: Tensor) -> Tensor:
    return 0.5 * math.pi * t


@dataclass(frozen=True)
class Trigonometric(AffineInterpolant):
    """``I_t = cos(pi t / 2) x0 + sin(pi t / 2) x1`` (paper 1, equation 5).

    If both ends are independent with the same covariance, the path has it at every time.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Trigonometric
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
    """``I_t = (1 - t) x0 + t x1``: straight lines at constant speed (paper 1, appendix D).

    Equation 4.9 of paper 2 prints the two weights swapped, ``alpha = t`` and ``beta = 1 - t``,
    which would start at `x1`; its table 4 has them as here.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Linear
    >>> Linear().path(torch.tensor(0.25), torch.zeros(1, 2), torch.full((1, 2), 4.0))
    (tensor([[1., 1.]]), tensor([[4., 4.]]))
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def beta(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class VariancePreserving(AffineInterpolant):
    """``I_t = sqrt(1 - t^2) x0 + t x1``: the path of score-based diffusion (paper 2, table 4).

    Noise is the fraction ``1 - t^2`` of the variance.  The rate diverges at ``t = 1``, although the
    velocity does not: train with uniform times, Beta(1, 1), because Beta(1, 0.5) samples the
    largest rates most often.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import VariancePreserving
    >>> path, t = VariancePreserving(), torch.linspace(0.0, 1.0, 5)
    >>> torch.allclose(path.alpha(t) ** 2 + path.beta(t) ** 2, torch.ones(5))
    True
    """

    def alpha(self, t: Tensor) -> Tensor:
        variance = 1.0 - t.square()
        inside = variance > 0
        return torch.where(
            inside, torch.where(inside, variance, 1.0).sqrt(), 0.0
        )  # its rate is zero, not infinite, at the very end

    def beta(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class EncodingDecoding(AffineInterpolant):
    """``I_t = cos^2(pi t) x0`` for ``t < 1/2`` and ``cos^2(pi t) x1`` after it (paper 2, table 4).

    At ``t = 1/2`` both ends have weight zero.  The path requires a noise term, without which all
    paths meet in one point.

    Examples
    --------
    At ``t = 1/2`` only the noise term remains.

    >>> import torch
    >>> from skinterflow.interflow import EncodingDecoding, SineSquared, StochasticInterpolant
    >>> path = StochasticInterpolant(EncodingDecoding(), SineSquared())
    >>> x0, x1, z = torch.full((1, 2), 5.0), torch.full((1, 2), 7.0), torch.tensor([[1.0, 2.0]])
    >>> path(torch.tensor(0.5), x0, x1, z)
    tensor([[1., 2.]])
    """

    needs_noise = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, torch.cos(math.pi * t).square(), 0.0)

    def beta(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.cos(math.pi * t).square(), 0.0)


@dataclass(frozen=True)
class Mirror(AffineInterpolant):
    """``I_t = x1``, where both ends are the same row (paper 2, table 4).

    Only the noise term moves points, and the path resamples a data set.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Brownian, Mirror, StochasticInterpolant
    >>> path, x1, z = (
    ...     StochasticInterpolant(Mirror(), Brownian()),
    ...     torch.full((1, 2), 7.0),
    ...     torch.tensor([[1.0, 2.0]]),
    ... )
    >>> path(torch.tensor(0.5), x1, x1, z)
    tensor([[7.5000, 8.0000]])
    """

    needs_noise = True
    resamples = True
    is_still = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def expected_ends(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return y, y


class Fourier(AffineInterpolant, nn.Module):
    r"""A learned path: trigonometric, plus sines that are zero at the ends.

    .. math::
        \alpha(t) &= \cos(\pi t / 2) + \sum_{m=1}^M a_m \sin(m \pi t) \\
        \beta(t) &= \sin(\pi t / 2) + \sum_{m=1}^M b_m \sin(m \pi t)

    Before training it equals :class:`Trigonometric`.  Paper 1 (appendix H, proposition 2) uses
    M = 7 modes.  Its normalisation of the series (equations H.1 and H.2) is not verified here.
    Another normalisation has the same paths, but scales the coefficients, and so changes how fast
    each mode is learned.

    Parameters
    ----------
    n_modes : int, the number M of sines

    Attributes
    ----------
    alpha_modes, beta_modes : Parameters of shape (M,)

    Examples
    --------
    The ends do not depend on the modes.

    >>> import torch
    >>> from skinterflow.interflow import Fourier
    >>> path = Fourier(n_modes=3)
    >>> _ = torch.nn.init.ones_(path.alpha_modes)
    >>> torch.allclose(path.alpha(torch.tensor([0.0, 1.0])), torch.tensor([1.0, 0.0]), atol=1e-5)
    True
    """

    def __init__(self, n_modes: int = 7) -> None:
        super().__init__()
        self.n_modes = n_modes
        self.alpha_modes = nn.Parameter(torch.zeros(n_modes))
        self.beta_modes = nn.Parameter(torch.zeros(n_modes))

    def extra_repr(self) -> str:
        return f"n_modes={self.n_modes}"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(_quarter_turn(t)) + self._series(t, self.alpha_modes)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(_quarter_turn(t)) + self._series(t, self.beta_modes)

    def _series(self, t: Tensor, modes: Tensor) -> Tensor:
        orders = math.pi * torch.arange(1, len(modes) + 1, dtype=t.dtype, device=t.device)
        return (torch.sin(t[..., None] * orders) * modes.to(t.dtype)).sum(-1)


def learned_parameters(*parts: object) -> list[nn.Parameter]:
    """Trainable parameters of the modules among the `parts`.

    Parameters
    ----------
    *parts : objects, of which only instances of nn.Module have parameters

    Returns
    -------
    list of nn.Parameter

    Examples
    --------
    >>> from skinterflow.interflow import Brownian, Fourier, LearnedGamma, Linear
    >>> from skinterflow.interflow.interpolants import learned_parameters
    >>> [
    ...     tuple(parameter.shape)
    ...     for parameter in learned_parameters(Fourier(n_modes=7), LearnedGamma(n_modes=3))
    ... ]
    [(7,), (7,), (3,)]
    >>> learned_parameters(Linear(), Brownian())
    []
    """
    return [
        p
        for part in parts
        if isinstance(part, nn.Module)
        for p in part.parameters()
        if p.requires_grad
    ]


@torch.no_grad()
def check_endpoints(interpolant: Interpolant, n_features: int) -> None:
    """Raise unless a path starts at `x0` and ends at `x1`; a mirror path does both at `x1`.

    Parameters
    ----------
    interpolant : Interpolant
    n_features : int, dimension D of the points that are tried

    Raises
    ------
    ValueError
        If the error at an end is above 1e-4; the message has the error.

    Examples
    --------
    >>> from skinterflow.interflow import Linear, Mirror
    >>> from skinterflow.interflow.interpolants import check_endpoints
    >>> check_endpoints(Linear(), n_features=2)
    >>> check_endpoints(Mirror(), n_features=2)
    >>> class Short(Linear):
    ...     def beta(self, t):
    ...         return 0.5 * t
    >>> check_endpoints(Short(), n_features=2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: Short() must give x1 at t=1, but misses it by 1; let alpha(0) = beta(1) = 1 ...
    """
    ends = torch.linspace(-2.0, 2.0, 2 * n_features).reshape(2, 1, n_features)
    way_out = (
        "let K(0, x1) = K(1, x1) = x1, as on every mirror path."
        if interpolant.resamples
        else "let alpha(0) = beta(1) = 1 and alpha(1) = beta(0) = 0."
    )
    for time, end in enumerate((1, 1) if interpolant.resamples else (0, 1)):
        point = interpolant(torch.full((1,), float(time)), *ends)
        miss = float((point - ends[end]).abs().max())
        if not miss <= 1e-4:
            raise ValueError(
                f"{interpolant!r} must give x{end} at t={time}, but misses it by {miss:.3g}; "
                f"{way_out}"
            )
