r"""Gaussian mixtures at both ends, for which all quantities of the path have closed forms.

With components ``i`` of the source and ``j`` of the target, independent ends and an affine path,
the law of ``x_t`` is a mixture over ``(i, j)`` with

.. math:: m_{ij} = \alpha m_i + \beta m_j, \qquad C_{ij} = \alpha^2 C_i + \beta^2 C_j + \gamma^2 I,

so that ``b = sum_ij w_ij (m_ij' + C_ij' C_ij^{-1} (x - m_ij) / 2)`` and
``s = -sum_ij w_ij C_ij^{-1} (x - m_ij)``, where ``w_ij(x)`` are the probabilities of the components
at `x` (paper 1 [1]_, proposition C.1; paper 2 [2]_, appendix A).

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import AffineInterpolant, Trigonometric
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.quantities import Quantities


@dataclass(frozen=True)
class NormalMixture:
    """A mixture of K normal densities.

    Parameters
    ----------
    weights : Tensor of shape (K,), positive, with sum one
    means : Tensor of shape (K, D)
    covariances : Tensor of shape (K, D, D)

    Examples
    --------
    Two narrow modes, each with half of the mass.

    >>> import torch
    >>> from skinterflow.interflow import NormalMixture
    >>> mixture = NormalMixture(
    ...     torch.full((2,), 0.5), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.01)
    ... )
    >>> sample = mixture.sample(1_000, torch.Generator().manual_seed(0))
    >>> sample.shape, round(float((sample > 0).float().mean()), 1)
    (torch.Size([1000, 1]), 0.5)
    >>> round(float(mixture.log_prob(torch.tensor([[1.0]]))), 2)
    0.69
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def standard(cls, n_features: int, dtype: torch.dtype = torch.float64) -> NormalMixture:
        """Standard normal density, as a mixture of one component."""
        return cls(
            torch.ones(1, dtype=dtype),
            torch.zeros(1, n_features, dtype=dtype),
            torch.eye(n_features, dtype=dtype)[None],
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, shape (B,), at points of shape (B, D)."""
        return self.component_log_prob(x).logsumexp(0)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Logarithm of weight times density of each component, shape (K, B)."""
        cholesky = torch.linalg.cholesky(self.covariances)
        offsets = torch.linalg.solve_triangular(
            cholesky, (x[None] - self.means[:, None]).mT, upper=False
        )
        log_det = cholesky.diagonal(dim1=1, dim2=2).log().sum(-1)
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
        return (
            self.weights.log()[:, None]
            - 0.5 * offsets.square().sum(1)
            - log_det[:, None]
            - constant
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw points, shape (n, D)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(
            n,
            self.means.shape[1],
            generator=generator,
            dtype=self.means.dtype,
            device=self.means.device,
        )
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[component] + (roots[component] @ z[:, :, None])[:, :, 0]


class _Marginal(NamedTuple):
    """Mixture at a time, with the rates of its means and covariances."""

    mixture: NormalMixture
    mean_rates: Tensor
    covariance_rates: Tensor


class MixtureField(VelocityField, Quantities):
    """Exact drift, divergence and other quantities between two Gaussian mixtures.

    See proposition C.1 of paper 1 and appendix A of paper 2.

    Parameters
    ----------
    target : NormalMixture, at ``t = 1``
    path : StochasticInterpolant with an AffineInterpolant
        None is the trigonometric path without a noise term.
    source : NormalMixture, at ``t = 0``; None is standard normal

    Examples
    --------
    At ``t = 1`` the score is that of the target, here ``-(x - 1) / 4``.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Brownian,
    ...     Linear,
    ...     MixtureField,
    ...     NormalMixture,
    ...     StochasticInterpolant,
    ... )
    >>> target = NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None])
    >>> field = MixtureField(target, StochasticInterpolant(Linear(), Brownian()))
    >>> field.score(torch.tensor(1.0), torch.tensor([[1.0, 3.0]]))
    tensor([[ 0.0000, -0.5000]])
    """

    def __init__(
        self,
        target: NormalMixture,
        path: StochasticInterpolant | None = None,
        source: NormalMixture | None = None,
    ) -> None:
        super().__init__()
        self.target = target
        self.path = path or StochasticInterpolant(Trigonometric())
        self.n_features = target.means.shape[1]
        self.source = source or NormalMixture.standard(self.n_features, target.means.dtype)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.value_and_divergence(t, x)[0]

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        return self(t, x)

    def log_prob(self, t: Tensor, x: Tensor) -> Tensor:
        """``log rho_t``, shape (B,), at points of shape (B, D)."""
        return self._by_row(lambda t, x: (self._marginal(t).mixture.log_prob(x),), t, x)[0]

    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        drift, score = self._by_row(self._drift_and_score, t, x)
        return drift, score

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = self._by_row(self._value_and_divergence, t, x)
        return value, divergence

    def noise_fraction(self, t: float) -> float:
        return 1.0

    def _by_row(
        self, function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], t: Tensor, x: Tensor
    ) -> tuple[Tensor, ...]:
        """Evaluate a function of one time and rows at one time, or at a time for each row."""
        if t.ndim == 0:
            return function(t, x)
        return tuple(
            part[:, 0] for part in torch.func.vmap(lambda t, x: function(t, x[None]))(t, x)
        )

    def _drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        marginal = self._marginal(t)
        weights, drifts, scores = self._components(marginal, x)
        return (weights * drifts).sum(0), (weights * scores).sum(0)

    def _value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        marginal = self._marginal(t)
        weights, drifts, scores = self._components(marginal, x)
        weight_gradients = weights * (scores - (weights * scores).sum(0))
        slopes = 0.5 * marginal.covariance_rates @ torch.linalg.inv(marginal.mixture.covariances)
        traces = slopes.diagonal(dim1=1, dim2=2).sum(-1)
        divergence = (weights[:, :, 0] * traces[:, None] + (weight_gradients * drifts).sum(-1)).sum(
            0
        )
        return (weights * drifts).sum(0), divergence

    def _components(self, marginal: _Marginal, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, (K, B, 1), drifts and scores, (K, B, D), of the components at `x`."""
        weights = marginal.mixture.component_log_prob(x).softmax(0)[:, :, None]
        scores = (marginal.mixture.means[:, None] - x[None]) @ torch.linalg.inv(
            marginal.mixture.covariances
        )
        return (
            weights,
            marginal.mean_rates[:, None] - 0.5 * scores @ marginal.covariance_rates,
            scores,
        )

    def _marginal(self, t: Tensor) -> _Marginal:
        interpolant, gamma = self.path.interpolant, self.path.gamma
        if not isinstance(interpolant, AffineInterpolant):
            raise ValueError(
                f"The closed form needs alpha(t) x0 + beta(t) x1, which {interpolant!r} is not; "
                "use an AffineInterpolant."
            )
        source, target = self.source, self.target
        t = t.to(target.means)
        alpha, beta, alpha_rate, beta_rate = interpolant.weights(t)
        square, square_rate = (
            (0.0, 0.0) if gamma is None else (gamma.square(t), 2.0 * gamma.at(t).product)
        )

        def pairs(of_source: Tensor, a: Tensor, of_target: Tensor, b: Tensor) -> Tensor:
            return (a * of_source[:, None] + b * of_target).flatten(0, 1)

        identity = torch.eye(self.n_features, dtype=target.means.dtype, device=target.means.device)
        covariances = (
            pairs(source.covariances, alpha**2, target.covariances, beta**2) + square * identity
        )
        covariance_rates = pairs(
            source.covariances, 2 * alpha * alpha_rate, target.covariances, 2 * beta * beta_rate
        )
        return _Marginal(
            NormalMixture(
                (source.weights[:, None] * target.weights).flatten(),
                pairs(source.means, alpha, target.means, beta),
                covariances,
            ),
            pairs(source.means, alpha_rate, target.means, beta_rate),
            covariance_rates + square_rate * identity,
        )
