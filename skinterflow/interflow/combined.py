r"""Mixtures of the density of a flow at several times, and of a Gaussian mixture.

.. math:: p(x) = \sum_k w_k\, \rho_{T_k}(x) + w_g\, g(x)

A flow that stops at `T` is smoother the earlier it stops, so that `T` plays the part of a
bandwidth.  One bandwidth has to suit all rows.  A mixture has several: late times are sharp where
rows are dense, and early times cover the rows that are scattered.  The weights are fitted to rows
that the flow was not trained on, by expectation maximisation [1]_.

References
----------
.. [1] Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
    Journal of the Royal Statistical Society B 39, 1977.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skinterflow.interflow.flows import Estimate, Pushforward
from skinterflow.interflow.mixtures import NormalMixture

_N_STEPS = 200
_CHUNK_ROWS, _CHUNK_NUMBERS = 2_048, 2**21
"""Rows for which all components of a Gaussian mixture are evaluated at once, and their numbers for
all components, bounds on memory."""
_NEGLIGIBLE = 0.01
"""Probability of a component at a row below which it does not matter whether its log-density was
resolved."""


class CombinedDensity:
    """A mixture of the density of a flow at several times, and of a Gaussian mixture.

    Parameters
    ----------
    density : Pushforward
    times : sequence of K floats in [0, 1]
    weights : sequence of K positive floats, or of K + 1 with a Gaussian mixture, whose weight is
        the last; their sum is one
    normals : NormalMixture or None

    Examples
    --------
    Half of a standard normal, and half of what the flow makes of it.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     CombinedDensity,
    ...     Flow,
    ...     MixtureField,
    ...     NormalMixture,
    ...     Pushforward,
    ... )
    >>> target = NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None])
    >>> density, x = Pushforward(Flow(MixtureField(target))), torch.tensor([[1.0, 2.0]])
    >>> combined = CombinedDensity(density, times=[0.0, 1.0], weights=[0.5, 0.5])
    >>> by_hand = 0.5 * (density.log_prob(x, 0.0).exp() + density.log_prob(x, 1.0).exp())
    >>> torch.allclose(combined.measured_log_prob(x).value.exp(), by_hand)
    True
    """

    def __init__(
        self,
        density: Pushforward,
        times: Sequence[float],
        weights: Sequence[float],
        normals: NormalMixture | None = None,
    ) -> None:
        self.density = density
        self.times = times
        self.weights = weights
        self.normals = normals

    def measured_log_prob(self, x: Tensor) -> Estimate:
        """Log-density at points `x`, shape (B, D), with the estimated error of each row."""
        return self._combined(self._components(x))[0]

    def score(self, x: Tensor) -> Estimate:
        """Gradient of the log-density at points `x`, shape (B, D)."""
        _, shares = self._combined(self._components(x))
        scores = [self.density.score(x, t) for t in self.times]
        if self.normals is not None:
            scores.append(_without_error(_normal_score(self.normals, x)))
        value, error = torch.zeros_like(x), x.new_zeros(len(x))
        unresolved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for share, part in zip(shares, scores, strict=True):
            value = value + torch.where(share[:, None] > 0, share[:, None] * part.value, 0.0)
            error = error + torch.where(share > 0, share * part.error, 0.0)
            unresolved = unresolved | (part.unresolved & (share > _NEGLIGIBLE))
        return Estimate(value, error, unresolved)

    def _components(self, x: Tensor) -> list[Estimate]:
        parts = [self.density.measured_log_prob(x, t) for t in self.times]
        if self.normals is not None:
            parts.append(_without_error(normal_log_prob(self.normals, x)))
        return parts

    def _combined(self, parts: Sequence[Estimate]) -> tuple[Estimate, Tensor]:
        """Estimate of the mixture, and probabilities of the components, shape (K, B)."""
        log_prob = torch.stack([part.value for part in parts])
        weights = torch.tensor(self.weights, dtype=log_prob.dtype, device=log_prob.device)
        joint = log_prob + weights.log()[:, None]
        # A row at which all components underflow has no probabilities: any will do.
        shares = joint.softmax(dim=0).nan_to_num(1.0 / len(parts))
        errors, unresolved = (
            torch.stack([getattr(part, name) for part in parts]) for name in ("error", "unresolved")
        )
        error = torch.where(shares > 0, shares * errors, 0.0).sum(dim=0)
        left = (unresolved & (shares > _NEGLIGIBLE)).any(dim=0)
        return Estimate(joint.logsumexp(dim=0), error, left), shares


def normal_log_prob(normals: NormalMixture, x: Tensor) -> Tensor:
    """Log-density of a Gaussian mixture, with bounded memory.

    Parameters
    ----------
    normals : NormalMixture, float64
    x : Tensor of shape (B, D)

    Returns
    -------
    Tensor of shape (B,), in the dtype of `x`, computed in float64

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import NormalMixture
    >>> from skinterflow.interflow.combined import normal_log_prob
    >>> round(float(normal_log_prob(NormalMixture.standard(2), torch.zeros(1, 2))), 2)
    -1.84
    """
    n_rows = min(_CHUNK_ROWS, max(1, _CHUNK_NUMBERS // normals.means.numel()))
    return torch.cat([normals.log_prob(part.double()) for part in x.split(n_rows)]).to(x)


def mixture_weights(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weights of fixed components that maximise the mean log-likelihood of rows.

    Parameters
    ----------
    log_prob : Tensor of shape (K, n), log-density of each row under each component
    weight : Tensor of shape (n,), weights of the rows

    Returns
    -------
    Tensor of shape (K,), not negative, with sum one

    Examples
    --------
    Three of four rows belong to the first component.

    >>> import torch
    >>> from skinterflow.interflow.combined import mixture_weights
    >>> log_prob = torch.tensor([[0.0, 0.0, 0.0, -99.0], [-99.0, -99.0, -99.0, 0.0]])
    >>> mixture_weights(log_prob, torch.ones(4))
    tensor([0.7500, 0.2500])
    """
    share = weight / weight.sum()
    weights = torch.full_like(log_prob[:, 0], 1.0 / len(log_prob))
    for _ in range(_N_STEPS):
        weights = (log_prob + weights.log()[:, None]).softmax(dim=0).nan_to_num(0.0) @ share
        weights = weights / weights.sum()
    return weights


def mixture_log_prob(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Log-density of rows under a mixture of components.

    Parameters
    ----------
    log_prob : Tensor of shape (K, n), log-density of each row under each component
    weights : Tensor of shape (K,)

    Returns
    -------
    Tensor of shape (n,)

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.combined import mixture_log_prob
    >>> round(float(mixture_log_prob(torch.ones(2, 1), torch.tensor([0.75, 0.25]))), 4)
    1.0
    """
    return (log_prob + weights.log()[:, None]).logsumexp(dim=0)


def _normal_score(normals: NormalMixture, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(normal_log_prob(normals, x).sum(), x)[0]


def _without_error(value: Tensor) -> Estimate:
    zeros = value.new_zeros(len(value))
    return Estimate(value, zeros, zeros.bool())
