r"""Mixtures of increasing maps of a standard normal, tabulated: distribution and quantiles.

A flow of one dimension is an increasing map ``y = T(z)`` of a standard normal `z`, so that its
distribution function is ``Phi(T^{-1}(y))`` and its quantile of level `q` is ``T(Phi^{-1}(q))``.
The distribution function of a mixture is the mean of those of its members.  Its quantiles lie
between those of the members, where they are found by Newton's method with a bracket.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

LARGEST_LATENT = 6.0
"""Latents up to which maps are tabulated; beyond, they continue as straight lines."""
_EVEN = 1.0
"""Latents up to about which nodes are evenly spaced; farther out, where little probability is,
their distances grow with the latent."""
_STENCIL = (1.0 / 12.0, -2.0 / 3.0, 0.0, 2.0 / 3.0, -1.0 / 12.0)
"""Weights of the central difference of fourth order."""
_MAX_STEPS, _CLOSE = 40, 1e-8
"""Bound on the steps of Newton's method, and the relative error of a tail at which it ends."""


def latent_nodes(n_nodes: int) -> Tensor:
    """Latents at which maps are tabulated, denser where the probability is.

    Every second of ``2 n - 1`` nodes is one of `n`.

    Parameters
    ----------
    n_nodes : int, odd, at least 9

    Returns
    -------
    Tensor of shape (n_nodes,), float64

    Examples
    --------
    >>> from skinterflow.interflow.monotone import latent_nodes
    >>> latent_nodes(9).round(decimals=2).tolist()
    [-6.0, -3.16, -1.59, -0.66, 0.0, 0.66, 1.59, 3.16, 6.0]
    """
    end = math.asinh(LARGEST_LATENT / _EVEN)
    return _EVEN * torch.linspace(-end, end, n_nodes, dtype=torch.float64).sinh()


class MonotoneMixture:
    """For each row, a mixture of increasing maps of a standard normal, given by values at nodes.

    Between the nodes a map is a monotone cubic (Fritsch and Carlson).

    Parameters
    ----------
    values : Tensor of shape (B, K, J), float64
        Values of the K maps at :func:`latent_nodes`, increasing.
    weights : Tensor of shape (K,), of sum one

    References
    ----------
    Fritsch and Carlson, "Monotone Piecewise Cubic Interpolation", SIAM Journal on Numerical
    Analysis 17, 1980.

    Examples
    --------
    The median of an equal mixture of N(-2, 1) and N(2, 1) is zero.

    >>> import torch
    >>> from skinterflow.interflow.monotone import MonotoneMixture, latent_nodes
    >>> z = latent_nodes(49)
    >>> mixture = MonotoneMixture(torch.stack([z - 2.0, z + 2.0])[None], torch.full((2,), 0.5))
    >>> bool(mixture.quantiles(torch.tensor([0.5])).abs() < 1e-6)
    True
    """

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        self.values = values
        self.weights = weights.to(values) / weights.to(values).sum()
        self.nodes = latent_nodes(values.shape[-1]).to(values.device)
        self.widths = self.nodes.diff()

    @cached_property
    def slopes(self) -> Tensor:
        """Derivatives of the maps at the nodes, shape (B, K, J), limited to keep them monotone."""
        secants = self.values.diff(dim=-1) / self.widths
        inner = _central_differences(self.values) / _central_differences(self.nodes)
        slopes = torch.cat([secants[..., :1], inner, secants[..., -1:]], dim=-1)
        least = torch.minimum(
            torch.cat([secants[..., :1], secants], dim=-1),
            torch.cat([secants, secants[..., -1:]], dim=-1),
        )
        # A zero slope would have no inverse.
        return torch.minimum(slopes, 3.0 * least).clamp(min=1e-3 * least)

    def push(self, z: Tensor) -> Tensor:
        """Values of all maps at latents, shape (Q,): shape (B, K, Q)."""
        cell = self._cells(z)
        left, right = (self.values[..., cell + k] for k in (0, 1))
        width = self.widths[cell]
        slopes = [width * self.slopes[..., cell + k] for k in (0, 1)]
        part = (z - self.nodes[cell]) / width
        return _cubic(part, left, right, *slopes)

    def latents(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of points under every map, and their derivatives.

        Parameters
        ----------
        y : Tensor of shape (B, Q)

        Returns
        -------
        z, rate : Tensors of shape (B, K, Q)
        """
        values, n_cells = self.values.contiguous(), self.values.shape[-1] - 1
        points = y[:, None].expand(-1, values.shape[1], -1).contiguous()
        cell = (torch.searchsorted(values, points, right=True) - 1).clamp(0, n_cells - 1)
        left, right = (values.gather(-1, cell + k) for k in (0, 1))
        width = right - left
        rates = [width / self.slopes.gather(-1, cell + k) for k in (0, 1)]
        part = (points - left) / width
        start, end = (self.nodes[cell + k] for k in (0, 1))
        z = _cubic(part, start, end, *rates)
        return z, _cubic_rate(part, start, end, *rates) / width

    def cdf(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution function at points, shape (B, Q), and its derivative, both (B, Q)."""
        z, rate = self.latents(y)
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi) * rate
        weights = self.weights[:, None]
        return (weights * torch.special.ndtr(z)).sum(1), (weights * density).sum(1)

    def log_tail(self, y: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the probability below points, or above them, and the size of its derivative.

        Parameters
        ----------
        y : Tensor of shape (B, Q)
        upper : boolean Tensor of shape (Q,) or (B, Q)
            Whether the probability is that above the point.

        Returns
        -------
        log_tail, slope : Tensors of shape (B, Q)
        """
        z, rate = self.latents(y)
        side = torch.where(upper, -1.0, 1.0).to(z).expand_as(y)[:, None]
        log_parts = torch.special.log_ndtr(side * z)
        joint = log_parts + self.weights.log()[:, None]
        log_tail = joint.logsumexp(dim=1)
        log_rate = -0.5 * z.square() - 0.5 * math.log(2.0 * math.pi) - log_parts
        shares = (joint - log_tail[:, None]).exp()
        return log_tail, (shares * log_rate.exp() * rate).sum(dim=1)

    def quantiles(self, levels: Tensor) -> Tensor:
        """Quantiles of levels in (0, 1), shape (Q,): shape (B, Q)."""
        return self.quantiles_of_latents(torch.special.ndtri(levels.to(self.values)))

    def quantiles_of_latents(self, z: Tensor) -> Tensor:
        """Quantiles of the levels ``Phi(z)``, accurate in both tails: shape (B, Q).

        Parameters
        ----------
        z : Tensor of shape (Q,)
        """
        pushed = self.push(z)
        low, high = self._brackets(z, pushed)
        y = (self.weights[:, None] * pushed).sum(dim=1)
        if len(self.weights) == 1:
            return y
        upper, wanted = z > 0, torch.special.log_ndtr(-z.abs())
        open_, best = torch.ones_like(y, dtype=torch.bool), y
        for _ in range(_MAX_STEPS):
            log_tail, slope = self.log_tail(y, upper)
            excess = torch.where(upper, wanted - log_tail, log_tail - wanted)
            # Each point ends on its own, so that it does not depend on the others.
            best = torch.where(open_, y, best)
            open_ = open_ & (excess.abs() > _CLOSE)
            if not open_.any():
                break
            low, high = torch.where(excess < 0, y, low), torch.where(excess > 0, y, high)
            step = y - excess / slope
            inside = (step > low) & (step < high)
            y = torch.where(open_, torch.where(inside, step, 0.5 * (low + high)), y)
        return best

    def _brackets(self, z: Tensor, pushed: Tensor) -> tuple[Tensor, Tensor]:
        """Points with lower and with higher levels than ``Phi(z)``, of shape (B, Q).

        They are values at the nodes around `z`, where :meth:`push` and :meth:`latents`, which both
        interpolate, are exact inverses; beyond the nodes, they are everywhere.
        """
        cell = self._cells(z)
        low = torch.where(z < -LARGEST_LATENT, pushed, self.values[..., cell])
        high = torch.where(z > LARGEST_LATENT, pushed, self.values[..., cell + 1])
        return low.amin(dim=1), high.amax(dim=1)

    def _cells(self, z: Tensor) -> Tensor:
        """Numbers of the cells between nodes."""
        n_cells = self.values.shape[-1] - 1
        return (torch.searchsorted(self.nodes, z.contiguous(), right=True) - 1).clamp(
            0, n_cells - 1
        )

    def mean(self, values: Tensor | None = None) -> Tensor:
        """Means of the mixtures, shape (B,), by the trapezoidal rule over the latents.

        Parameters
        ----------
        values : Tensor of shape (B, K, J) or None
            A function of the values at the nodes, whose mean is taken; None is the values.
        """
        # The nodes are even in asinh(z / _EVEN), whose derivative is 1 / hypot(z, _EVEN).
        mass = torch.exp(-0.5 * self.nodes.square()) * torch.sqrt(self.nodes.square() + _EVEN**2)
        values = self.values if values is None else values
        return (values @ (mass / mass.sum())) @ self.weights

    def error(self) -> Tensor:
        """Estimated error of the distribution functions between the nodes, shape (B,).

        Every second node is interpolated from the others; the error of a cubic is a sixteenth on
        half of the step.
        """
        coarse = MonotoneMixture(self.values[..., ::2], self.weights)
        between = coarse.push(self.nodes[1::2]) - self.values[..., 1::2]
        latent = between.abs() / self.slopes[..., 1::2] / 16.0
        density = torch.exp(-0.5 * self.nodes[1::2].square()) / math.sqrt(2.0 * math.pi)
        error = (latent * density).amax(dim=-1)
        return (error * self.weights).sum(dim=-1)


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Logarithm of ``Phi(high) - Phi(low)`` for ``low < high``, accurate in both tails.

    Parameters
    ----------
    low, high : Tensors of the same shape; infinite for an open side

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.monotone import log_normal_mass
    >>> mass = log_normal_mass(torch.tensor(20.0), torch.tensor(torch.inf))
    >>> round(float(mass), 3)
    -203.917
    """
    # In the upper half, the mirrored interval has the same mass, without cancellation.
    above = low + high > 0
    a, b = torch.where(above, -high, low), torch.where(above, -low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    ratio = torch.where(a < b, log_a - log_b, 0.0).clamp(max=0.0)
    return log_b + torch.log(-torch.expm1(ratio))


def _central_differences(values: Tensor) -> Tensor:
    """Of fourth order, at all but the first and the last of the values along the last axis."""
    first, last = values.diff(dim=-1)[..., :1], values.diff(dim=-1)[..., -1:]
    # One value more on each side, on a straight line, for the stencil.
    padded = torch.cat([values[..., :1] - first, values, values[..., -1:] + last], dim=-1)
    n = padded.shape[-1]
    return torch.stack([w * padded[..., k : n - 4 + k] for k, w in enumerate(_STENCIL)]).sum(0)


def _cubic(s: Tensor, left: Tensor, right: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
    """Cubic of Hermite on the unit interval, with slopes at both ends; straight lines outside."""
    inner = s.clamp(0.0, 1.0)
    d = right - left
    cubic = left + inner * (m0 + inner * (3.0 * d - 2.0 * m0 - m1 + inner * (m0 + m1 - 2.0 * d)))
    return cubic + (s - inner) * torch.where(s < 0.0, m0, m1)


def _cubic_rate(s: Tensor, left: Tensor, right: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
    """Derivative of :func:`_cubic`."""
    s, d = s.clamp(0.0, 1.0), right - left
    return m0 + s * (2.0 * (3.0 * d - 2.0 * m0 - m1) + 3.0 * s * (m0 + m1 - 2.0 * d))
