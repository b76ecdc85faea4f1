"""Closed forms: Gaussian mixtures under an affine interpolant (paper 2, appendix A)."""

import math

import torch

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import AffineInterpolant, Trigonometric


class MixtureField(VelocityField):
    """Exact velocity that carries N(0, I) to a Gaussian mixture, with its exact divergence.

    Parameters
    ----------
    weights (K,), means (K, D), covariances (K, D, D)
    """

    def __init__(self, weights, means, covariances, interpolant: AffineInterpolant | None = None):
        super().__init__()
        self.weights, self.means, self.covariances = weights, means, covariances
        self.interpolant = interpolant or Trigonometric()
        self.n_features = means.shape[1]

    def _marginal(self, t):
        """Means and covariances of the mixture at a scalar time, and their rates."""
        (a, b), (a_rate, b_rate) = torch.func.jvp(
            lambda s: (self.interpolant.alpha(s), self.interpolant.beta(s)), (t,), (torch.ones_like(t),)
        )
        identity = torch.eye(self.n_features, dtype=self.means.dtype)
        covariances = a**2 * identity + b**2 * self.covariances
        covariance_rates = 2 * a * a_rate * identity + 2 * b * b_rate * self.covariances
        return b * self.means, covariances, b_rate * self.means, covariance_rates

    def _component_log_prob(self, t, x):
        means, covariances, _, _ = self._marginal(t)
        cholesky = torch.linalg.cholesky(covariances)
        offsets = torch.linalg.solve_triangular(cholesky, (x[None] - means[:, None]).mT, upper=False)
        log_det = cholesky.diagonal(dim1=1, dim2=2).log().sum(-1)
        return (
            self.weights.log()[:, None] - 0.5 * offsets.square().sum(1) - log_det[:, None] - 0.5 * self.n_features * math.log(2 * math.pi)
        )

    def log_prob(self, t, x):
        """log rho_t(x): shape (B,)."""
        return self._component_log_prob(torch.as_tensor(t, dtype=x.dtype), x).logsumexp(0)

    def forward(self, t, x):
        return self.value_and_divergence(t, x)[0]

    def value_and_divergence(self, t, x):
        t = torch.as_tensor(t, dtype=x.dtype)
        means, covariances, mean_rates, covariance_rates = self._marginal(t)
        weights = self._component_log_prob(t, x).softmax(0)[:, :, None]  # (K, B, 1)
        precisions = torch.linalg.inv(covariances)
        offsets = x[None] - means[:, None]
        slopes = 0.5 * covariance_rates @ precisions  # (K, D, D)
        velocities = mean_rates[:, None] + offsets @ slopes.mT
        scores = -offsets @ precisions
        weight_gradients = weights * (scores - (weights * scores).sum(0))
        traces = slopes.diagonal(dim1=1, dim2=2).sum(-1)[:, None]
        divergence = (weights[:, :, 0] * traces + (weight_gradients * velocities).sum(-1)).sum(0)
        return (weights * velocities).sum(0), divergence


def mixture(n_features=2, interpolant=None):
    """A mixture of three unequal, correlated components."""
    generator = torch.Generator().manual_seed(3)
    means = 1.5 * torch.randn(3, n_features, generator=generator, dtype=torch.float64)
    roots = 0.4 * torch.randn(3, n_features, n_features, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.2 * torch.eye(n_features, dtype=torch.float64)
    return MixtureField(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances, interpolant)


def gaussian(mean, covariance, interpolant=None):
    """A single Gaussian, whose flow is affine."""
    return MixtureField(torch.ones(1, dtype=torch.float64), mean[None], covariance[None], interpolant)
