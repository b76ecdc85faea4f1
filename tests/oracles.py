"""Closed forms: Gaussian mixtures under an affine interpolant (paper 2, appendix A)."""

import torch

from skinterflow.interflow.interpolants import Trigonometric
from skinterflow.interflow.mixtures import MixtureField, NormalMixture
from skinterflow.interflow.noise import StochasticInterpolant


def normal_mixture(n_features=2, seed=3):
    """Three unequal, correlated components."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(3, n_features, generator=generator, dtype=torch.float64)
    roots = 0.4 * torch.randn(3, n_features, n_features, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.2 * torch.eye(n_features, dtype=torch.float64)
    return NormalMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)


def mixture(n_features=2, interpolant=None, gamma=None, source=None):
    """The field that carries a standard normal, or another source, to such a mixture."""
    return MixtureField(
        normal_mixture(n_features),
        StochasticInterpolant(interpolant or Trigonometric(), gamma),
        source,
    )


def gaussian(mean, covariance, interpolant=None):
    """A single Gaussian, whose flow is affine."""
    target = NormalMixture(torch.ones(1, dtype=torch.float64), mean[None], covariance[None])
    return MixtureField(target, StochasticInterpolant(interpolant or Trigonometric()))


def pairs_on_a_grid(target, n=160):
    """Quadrature in place of independent draws: nodes of a standard normal and of a mixture in one
    dimension, in all pairs, each of shape (n^2, 1), and their weights, which add up to one."""
    axis = torch.linspace(-8.0, 8.0, n, dtype=torch.float64)
    z, x1 = (part.reshape(-1, 1) for part in torch.meshgrid(axis, axis, indexing="ij"))
    logs = NormalMixture.standard(1).log_prob(z) + target.log_prob(x1)
    return z, x1, logs.exp() * (axis[1] - axis[0]) ** 2
