r"""The latent: ``x_t = I_t(x0, x1) + gamma(t) z`` with ``z ~ N(0, I)`` independent of both ends
(paper 2, definition 2.1).

A latent with ``gamma(0) = gamma(1) = 0`` leaves the ends where they are and smooths everything
between them, which makes the score ``grad log rho_t`` learnable whatever the ends are.  Four
quantities belong to a path; each is a conditional expectation, so that each minimises a quadratic
loss (section 2.3):

==========  =====================  ==========================================
name        symbol                 expectation, given ``x_t = x``
==========  =====================  ==========================================
drift       ``b``                  ``E[dI_t/dt + gamma'(t) z]``
velocity    ``v``                  ``E[dI_t/dt]``
score       ``s``                  ``-E[z] / gamma(t)``
denoiser    ``eta``                ``E[z]``
==========  =====================  ==========================================

so that ``b = v - gamma gamma' s`` and ``s = -eta / gamma``.  Without a latent ``b = v``, and where
the base is standard normal the base point itself is the noise, of scale ``alpha(t)`` (the one-sided
paths of section 4.4).

``gamma`` is given by its square, which is smooth at the ends where ``gamma`` is not.
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

QUANTITIES = ("b", "v", "s", "eta")
_LEAST_SCALE = 0.01
"""Scale of the noise below which times are not trained on where a target divides by it."""
_LEAST_DIVISOR = 0.1
"""Scale of the noise below which a learned denoiser is divided at the nearest time outside: its
error is divided, too."""
_LARGEST_RATE = 5.0
"""Rate of the scale above which a learned denoiser is multiplied by it at the nearest time outside,
for the same reason."""
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
    """Scale of the latent: ``gamma(0) = gamma(1) = 0``, and positive between.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, definition 2.1.

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
        """Scale and rates, by the derivative of the square; the rate is not finite where the scale
        is zero."""
        (square,), (rate,) = values_and_rates((self.square,), t)
        value = square.clamp(min=0.0).sqrt()
        return GammaAt(value, 0.5 * rate / value, 0.5 * rate)


@dataclass(frozen=True)
class Brownian(Gamma):
    """``gamma = sqrt(a t (1 - t))``, the spread of a Brownian bridge: the one choice whose drift
    carries the scores of both ends.

    Parameters
    ----------
    a : float, positive

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, table 8.

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
    """``gamma = t (1 - t)``: a scale whose rate is finite at the ends.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, table 8.

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
    """``gamma = sin^2(pi t)``: all of the variance in the middle, as :class:`EncodingDecoding`
    needs it.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, table 8.

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
    """A hump in the middle, the difference of two sigmoids.

    It is ``gamma = sigma(f (t - 1/2) + 1) - sigma(f (t - 1/2) - 1) - sigma(1 - f / 2) + sigma(-1 -
    f / 2)``.

    Parameters
    ----------
    steepness : float, the `f` above

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, table 8.

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
    r"""A scale to be learned with the path: ``gamma^2 = t (1 - t) exp(sum_m c_m cos(m pi t))``,
    with `m` from 0 to M - 1.

    Untrained it is :class:`Brownian`.

    Parameters
    ----------
    n_modes : int, the number M

    Attributes
    ----------
    modes : Parameter of shape (M,)

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, theorem 3.10: the path and the scale that solve a Schroedinger bridge.

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
    """Any affine path with ``alpha^2 + beta^2 + gamma^2 = 1``: the variance-preserving form.

    Ends of zero mean and unit covariance keep both at every time.

    Parameters
    ----------
    interpolant : AffineInterpolant
    gamma : Gamma, below 1; give the same to the path

    Raises
    ------
    ValueError
        If `gamma` leaves no variance for the ends, or the path has none of them, with the time; or
        if the path is normalised already.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, equation 4.10 and table 4.

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
            raise ValueError(f"{interpolant!r} is normalised already; give the path inside of it.")
        self.interpolant = interpolant
        self.gamma = gamma
        t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
        lost = ~(self._factor(t) > 0) | ~torch.isfinite(self._factor(t))
        if lost.any():
            raise ValueError(
                f"{interpolant!r} cannot be scaled to unit variance with {gamma!r}: at "
                f"t={float(t[lost][0]):g} gamma is not below 1, or nothing of either end is left; "
                "take a smaller gamma, or another path."
            )

    def alpha(self, t: Tensor) -> Tensor:
        return self.interpolant.alpha(t) * self._factor(t)

    def beta(self, t: Tensor) -> Tensor:
        return self.interpolant.beta(t) * self._factor(t)

    def _factor(self, t: Tensor) -> Tensor:
        squares = self.interpolant.alpha(t).square() + self.interpolant.beta(t).square()
        return ((1.0 - self.gamma.square(t)) / squares).sqrt()


class StochasticInterpolant(nn.Module):
    """The path ``x_t = I_t(x0, x1) + gamma(t) z``, with what each quantity is regressed on.

    Parameters
    ----------
    interpolant : Interpolant
    gamma : Gamma or None, no latent

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, definition 2.1 and section 2.3.

    Examples
    --------
    On the way from 0 to 1 the score is regressed on ``-z / gamma``, with ``gamma = 1/2`` in the
    middle.

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
        """Latents for points `x`, from a generator on their device or the global one; None where
        the path has none."""
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
        """Point on the path and, for each quantity, what has it for its conditional expectation
        there.

        Parameters
        ----------
        quantities : sequence of "b", "v", "s", "eta"
        t : Tensor of shape () or (B,), in :attr:`interior` for "s" and, with a latent, for "b"
        x0, x1 : Tensors of shape ``(B, *event)``
        z : Tensor of shape ``(B, *event)``, or None without a latent

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
        targets = {"b": drift, "v": rate, "eta": noise}
        if "s" in quantities:
            targets["s"] = -noise / expand_as_leading(self.noise_scale(t), noise)
        return point, {name: targets[name] for name in quantities}

    def antithetic(self, x0: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Base points and latents of the antithetic path, whose noise has the other sign (section
        6.1)."""
        return (-x0, None) if z is None else (x0, -z)

    def divides(self, quantities: tuple[str, ...]) -> bool:
        """Whether one of them has a target that divides by the scale of the noise, and so a
        variance that antithetic pairs must tame."""
        return "s" in quantities or ("b" in quantities and self.gamma is not None)

    def noise_scale(self, t: Tensor) -> Tensor:
        """Scale of the noise that "s" and "eta" are about, of the shape of `t`: ``gamma`` or,
        without a latent, ``alpha``.

        Raises
        ------
        ValueError
            If there is no latent, and the path is no AffineInterpolant.
        """
        if self.gamma is not None:
            return self.gamma.square(t).clamp(min=0.0).sqrt()
        if not isinstance(self.interpolant, AffineInterpolant):
            raise ValueError(
                f"{self.interpolant!r} has no noise of a known scale, because it is not alpha(t) "
                "x0 + beta(t) x1; give gamma."
            )
        return self.interpolant.alpha(t)

    @property
    def device(self) -> torch.device:
        """Where its parameters are, if it has any."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @cached_property
    def interior(self) -> tuple[float, float]:
        """First and last time at which the scale of the noise is at least 0.01, or half of its
        largest value if that is less."""
        return self._times_of_scale(_LEAST_SCALE)

    @cached_property
    def core(self) -> tuple[float, float]:
        """First and last time at which the scale of the noise is at least 0.1, or half of its
        largest value if that is less."""
        return self._times_of_scale(_LEAST_DIVISOR)

    @cached_property
    def bounded_rate(self) -> tuple[float, float]:
        """First and last time at which the rate of the latent's scale is at most 5, in size."""
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
    gamma : Gamma, looked at on 101 evenly spaced times

    Raises
    ------
    ValueError
        With the time and the value.

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
