r"""The noise term of paper 2 [1]_, ``gamma(t) z``, and the path that it belongs to.

The path is ``x_t = I_t(x0, x1) + gamma(t) z`` with ``z ~ N(0, I)`` independent of both ends
(definition 2.1).  As ``gamma(0) = gamma(1) = 0``, the noise term leaves the ends unchanged and
smooths the density between them, so that the score ``grad log rho_t`` can be learned for any ends.
Several quantities belong to a path.  Each is a conditional expectation, and therefore the minimiser
of a quadratic loss (section 2.3):

==========  =====================  ==========================================
name        symbol                 expectation, given ``x_t = x``
==========  =====================  ==========================================
drift       ``b``                  ``E[dI_t/dt + gamma'(t) z]``
velocity    ``v``                  ``E[dI_t/dt]``
score       ``s``                  ``-E[z] / gamma(t)``
denoiser    ``eta``                ``E[z]``
ends        ``eta0``, ``eta1``     ``E[x0]``, ``E[x1]``
==========  =====================  ==========================================

so that ``b = v - gamma gamma' s`` and ``s = -eta / gamma``.  Without a noise term, drift and
velocity are equal, ``b = v``.  If, in addition, the base is standard normal, the base point is the
noise, with scale ``alpha(t)`` (the one-sided paths of section 4.4).

A scale is defined by its square, which is smooth at the ends, where ``gamma`` may not be.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from skinterflow.interflow.derivatives import values_and_rates
from skinterflow.interflow.interpolants import AffineInterpolant, Interpolant, expand_as_leading

QUANTITIES = ("b", "v", "s", "eta", "eta0", "eta1")
_LEAST_SCALE = 0.01
"""Least scale of the noise at training times, for targets that are divided by it."""
_LEAST_DIVISOR = 0.1
"""Below this scale of the noise, a learned denoiser is divided at the nearest time with this scale,
because the division magnifies its error."""
_LARGEST_RATE = 5.0
"""Above this rate of the scale, a learned denoiser is multiplied by the rate at the nearest time
with this rate, for the same reason."""
_N_TIMES = 20_001


class GammaAt(NamedTuple):
    """``gamma``, its rate, and ``gamma gamma'``, which is finite at the ends.

    Attributes
    ----------
    value : Tensor of the shape of the times, ``gamma``
    rate : Tensor of their shape, ``gamma'``
    product : Tensor of their shape, ``gamma gamma'``

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Brownian
    >>> [float(part) for part in Brownian().at(torch.tensor(0.0))]
    [0.0, inf, 0.5]
    """

    value: Tensor
    rate: Tensor
    product: Tensor


class Gamma(ABC):
    """Scale of the noise term: zero at both ends and positive between (paper 2, definition 2.1).

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Gamma
    >>> class Early(Gamma):
    ...     def square(self, t):
    ...         return t * (1.0 - t) ** 2
    >>> Early().at(torch.tensor(0.25)).value
    tensor(0.3750)
    """

    @abstractmethod
    def square(self, t: Tensor) -> Tensor:
        """``gamma(t)^2``, of the shape of `t`, twice differentiable on [0, 1]."""

    def at(self, t: Tensor) -> GammaAt:
        """Scale and rates, from the square and its derivative.

        The rate may be infinite or NaN where the scale is zero.
        """
        (square,), (rate,) = values_and_rates((self.square,), t)
        value = square.clamp(min=0.0).sqrt()
        return GammaAt(value, 0.5 * rate / value, 0.5 * rate)


@dataclass(frozen=True)
class Brownian(Gamma):
    """``gamma = sqrt(a t (1 - t))``, the scale of a Brownian bridge (paper 2, table 8).

    As ``gamma gamma'`` is not zero at the ends, the drift contains the scores of both ends there.

    Parameters
    ----------
    a : float, positive

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Brownian
    >>> Brownian(a=4.0).square(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    tensor([0.0000, 0.7500, 1.0000, 0.0000])
    """

    a: float = 1.0

    def square(self, t: Tensor) -> Tensor:
        return self.a * t * (1.0 - t)


@dataclass(frozen=True)
class Quadratic(Gamma):
    """``gamma = t (1 - t)``, with a finite rate at the ends (paper 2, table 8).

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Quadratic
    >>> Quadratic().at(torch.tensor(0.5)).value
    tensor(0.2500)
    """

    def square(self, t: Tensor) -> Tensor:
        return (t * (1.0 - t)).square()


@dataclass(frozen=True)
class SineSquared(Gamma):
    """``gamma = sin^2(pi t)``, for :class:`EncodingDecoding` (paper 2, table 8).

    At ``t = 1/2``, where no part of the ends remains, the noise has unit variance.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import SineSquared
    >>> SineSquared().at(torch.tensor(0.5)).value
    tensor(1.)
    """

    def square(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi * t) ** 4


@dataclass(frozen=True)
class Sigmoid(Gamma):
    r"""A bump around ``t = 1/2``, the difference of two sigmoids (paper 2, table 8).

    .. math::
        \gamma(t) = \sigma(f (t - \tfrac12) + 1) - \sigma(f (t - \tfrac12) - 1)
        - \sigma(1 - f / 2) + \sigma(-1 - f / 2)

    Parameters
    ----------
    steepness : float, the `f` above

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Sigmoid
    >>> [
    ...     round(float(Sigmoid(steepness).at(torch.tensor(0.5)).value), 2)
    ...     for steepness in (5.0, 10.0)
    ... ]
    [0.31, 0.45]
    """

    steepness: float = 10.0

    def square(self, t: Tensor) -> Tensor:
        return (self._hump(t) - self._hump(torch.zeros_like(t))).square()

    def _hump(self, t: Tensor) -> Tensor:
        centred = self.steepness * (t - 0.5)
        return torch.sigmoid(centred + 1.0) - torch.sigmoid(centred - 1.0)


class LearnedGamma(Gamma, nn.Module):
    r"""A learned scale, ``gamma^2 = t (1 - t) exp(sum_m c_m cos(m pi t))``, ``m = 0, ..., M - 1``.

    Before training it equals :class:`Brownian`.  Trained together with the path in a max-min
    problem, it solves a Schroedinger bridge (paper 2, theorem 3.10).

    Parameters
    ----------
    n_modes : int, the number M

    Attributes
    ----------
    modes : Parameter of shape (M,)

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Brownian, LearnedGamma
    >>> t = torch.linspace(0.0, 1.0, 5)
    >>> torch.allclose(LearnedGamma().square(t), Brownian().square(t))
    True
    """

    def __init__(self, n_modes: int = 3) -> None:
        super().__init__()
        self.n_modes = n_modes
        self.modes = nn.Parameter(torch.zeros(n_modes))

    def extra_repr(self) -> str:
        return f"n_modes={self.n_modes}"

    def square(self, t: Tensor) -> Tensor:
        orders = math.pi * torch.arange(len(self.modes), dtype=t.dtype, device=t.device)
        return (
            t
            * (1.0 - t)
            * (torch.cos(t[..., None] * orders) * self.modes.to(t.dtype)).sum(-1).exp()
        )


class Normalized(AffineInterpolant, nn.Module):
    """An affine path scaled to ``alpha^2 + beta^2 + gamma^2 = 1``.

    See equation 4.10 and table 4 of paper 2.  If both ends have zero mean and unit covariance, so
    has the path at every time.

    Parameters
    ----------
    interpolant : AffineInterpolant
    gamma : Gamma, below 1; the path needs the same one

    Raises
    ------
    ValueError
        If `gamma` is not below 1 or both ends have weight zero at some time, which the message
        names; or if the path is already normalised.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Brownian, Linear, Normalized
    >>> path, gamma, t = Normalized(Linear(), Brownian()), Brownian(), torch.linspace(0.0, 1.0, 5)
    >>> torch.allclose(path.alpha(t) ** 2 + path.beta(t) ** 2 + gamma.square(t), torch.ones(5))
    True
    """

    def __init__(self, interpolant: AffineInterpolant, gamma: Gamma) -> None:
        super().__init__()
        if isinstance(interpolant, Normalized):
            raise ValueError(
                f"{interpolant!r} is already normalised; pass its `interpolant` attribute."
            )
        self.interpolant = interpolant
        self.gamma = gamma
        t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
        lost = ~(self._factor(t) > 0) | ~torch.isfinite(self._factor(t))
        if lost.any():
            raise ValueError(
                f"{interpolant!r} cannot be scaled to unit variance with {gamma!r}: at "
                f"t={float(t[lost][0]):g} gamma is not below 1, or both ends have weight zero; use "
                "a smaller gamma or another path."
            )

    def alpha(self, t: Tensor) -> Tensor:
        return self.interpolant.alpha(t) * self._factor(t)

    def beta(self, t: Tensor) -> Tensor:
        return self.interpolant.beta(t) * self._factor(t)

    def _factor(self, t: Tensor) -> Tensor:
        squares = self.interpolant.alpha(t).square() + self.interpolant.beta(t).square()
        return ((1.0 - self.gamma.square(t)) / squares).sqrt()


class StochasticInterpolant(nn.Module):
    """The path ``x_t = I_t(x0, x1) + gamma(t) z`` and the regression targets of its quantities.

    See definition 2.1 and section 2.3 of paper 2.

    Parameters
    ----------
    interpolant : Interpolant
    gamma : Gamma, or None for a path without a noise term

    Examples
    --------
    The regression target of the score is ``-z / gamma``; here ``gamma = 1/2``, because ``t = 1/2``.

    >>> import torch
    >>> from skinterflow.interflow import Brownian, Linear, StochasticInterpolant
    >>> path = StochasticInterpolant(Linear(), Brownian())
    >>> x_t, targets = path.regression(
    ...     ("v", "s"),
    ...     torch.tensor(0.5),
    ...     torch.zeros(1, 2),
    ...     torch.ones(1, 2),
    ...     torch.full((1, 2), 2.0),
    ... )
    >>> x_t
    tensor([[1.5000, 1.5000]])
    >>> targets["v"], targets["s"]
    (tensor([[1., 1.]]), tensor([[-4., -4.]]))
    """

    def __init__(self, interpolant: Interpolant, gamma: Gamma | None = None) -> None:
        super().__init__()
        self.interpolant = interpolant
        self.gamma = gamma

    def extra_repr(self) -> str:
        return f"{self.interpolant!r}, gamma={self.gamma!r}"

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw `z` for points `x`; None for a path without a noise term.

        Parameters
        ----------
        x : Tensor of any shape
        generator : torch.Generator on its device, or None for torch's global random state

        Returns
        -------
        Tensor of the shape of `x`, or None
        """
        if self.gamma is None:
            return None
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def forward(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        """Point on the path, shape ``(B, *event)``, at times of shape () or (B,)."""
        point = self.interpolant(t, x0, x1)
        return (
            point
            if self.gamma is None
            else point + expand_as_leading(self.noise_scale(t), point) * cast(Tensor, z)
        )

    def regression(
        self, quantities: Sequence[str], t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Point on the path and the regression target of each quantity.

        The conditional expectation of a target, given the point, is the quantity.

        Parameters
        ----------
        quantities : sequence of "b", "v", "s", "eta", "eta0", "eta1"
        t : Tensor of shape () or (B,), in :attr:`interior` for "s" and, with a noise term, for "b"
        x0, x1 : Tensors of shape ``(B, *event)``
        z : Tensor of shape ``(B, *event)``, or None without a noise term

        Returns
        -------
        Tensor of shape ``(B, *event)``, and a dict of tensors of this shape
        """
        point, rate = self.interpolant.path(t, x0, x1)
        noise, drift = x0, rate
        if self.gamma is not None:
            noise = cast(Tensor, z)
            scale, scale_rate, _ = (expand_as_leading(part, point) for part in self.gamma.at(t))
            point, drift = point + scale * noise, rate + scale_rate * noise
        targets = {"b": drift, "v": rate, "eta": noise, "eta0": x0, "eta1": x1}
        if "s" in quantities:
            targets["s"] = -noise / expand_as_leading(self.noise_scale(t), noise)
        return point, {name: targets[name] for name in quantities}

    def antithetic(self, x0: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Base points and `z` of the antithetic path, with negated noise (section 6.1)."""
        return (-x0, None) if z is None else (x0, -z)

    def divides(self, quantities: tuple[str, ...]) -> bool:
        """Whether a target divides by the scale of the noise.

        Its variance then diverges at the ends unless antithetic pairs are used.
        """
        return "s" in quantities or ("b" in quantities and self.gamma is not None)

    def noise_term(self, t: Tensor) -> Tensor:
        """Scale ``gamma`` of the noise term, of the shape of `t`; zero without one."""
        return torch.zeros_like(t) if self.gamma is None else self.noise_scale(t)

    def noise_scale(self, t: Tensor) -> Tensor:
        """Scale of the noise in "s" and "eta": ``gamma`` or, without a noise term, ``alpha``.

        Parameters
        ----------
        t : Tensor of any shape

        Returns
        -------
        Tensor of the shape of `t`

        Raises
        ------
        ValueError
            If there is no noise term and the path does not scale and add the base point.
        """
        if self.gamma is not None:
            return self.gamma.square(t).clamp(min=0.0).sqrt()
        return self.interpolant.base_scale(t)

    @property
    def device(self) -> torch.device:
        """Device of the parameters; the CPU if there are none."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @cached_property
    def interior(self) -> tuple[float, float]:
        """First and last time at which the scale of the noise is at least 0.01.

        If half of its largest value is less than 0.01, that is the threshold.
        """
        return self._times_of_scale(_LEAST_SCALE)

    @cached_property
    def core(self) -> tuple[float, float]:
        """First and last time at which the scale of the noise is at least 0.1.

        If half of its largest value is less than 0.1, that is the threshold.
        """
        return self._times_of_scale(_LEAST_DIVISOR)

    @cached_property
    def bounded_rate(self) -> tuple[float, float]:
        """First and last time at which ``|gamma'|`` is at most 5."""
        t = self._times()
        with torch.no_grad():
            inside = t[cast(Gamma, self.gamma).at(t).rate.abs() <= _LARGEST_RATE]
        return float(inside[0]), float(inside[-1])

    @torch.no_grad()
    def _times_of_scale(self, least: float) -> tuple[float, float]:
        t = self._times()
        scale = self.noise_scale(t)
        inside = t[scale >= min(least, 0.5 * float(scale.max()))]
        return float(inside[0]), float(inside[-1])

    def _times(self) -> Tensor:
        return torch.linspace(0.0, 1.0, _N_TIMES, dtype=torch.float64, device=self.device)


@torch.no_grad()
def check_gamma(gamma: Gamma) -> None:
    """Raise unless a scale is zero at both ends, and positive and finite between.

    Parameters
    ----------
    gamma : Gamma, evaluated at 101 evenly spaced times

    Raises
    ------
    ValueError
        If it is not; the message names the time and the value.

    Examples
    --------
    >>> from skinterflow.interflow import Brownian
    >>> from skinterflow.interflow.noise import check_gamma
    >>> check_gamma(Brownian())
    >>> check_gamma(Brownian(a=-1.0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: gamma must be positive and finite between the ends, but the square of ...
    """
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    square = gamma.square(t)
    if square.shape != t.shape:
        raise ValueError(
            f"{gamma!r} must give one square for each time, shape {tuple(t.shape)}, but gives "
            f"{tuple(square.shape)}."
        )
    for end in (0, -1):
        if not square[end].abs() <= 1e-8:
            raise ValueError(
                f"gamma must be zero at t={float(t[end]):g}, but the square of {gamma!r} is "
                f"{float(square[end]):.3g} there; multiply it by t (1 - t), for example."
            )
    inside = square[1:-1]
    if not ((inside > 0) & torch.isfinite(inside)).all():
        worst = int((~((inside > 0) & torch.isfinite(inside))).nonzero()[0])
        raise ValueError(
            f"gamma must be positive and finite between the ends, but the square of {gamma!r} is "
            f"{float(inside[worst]):.3g} at t={float(t[worst + 1]):g}."
        )
