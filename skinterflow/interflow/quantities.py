r"""One interface to the four quantities of a path: drift ``b``, velocity ``v``, score ``s`` and denoiser ``eta``.

Drift and score determine the others: ``v = b + gamma gamma' s`` and ``eta = -gamma s`` (paper 2, section 2.3).  They come from a
Gaussian mixture in closed form (:mod:`~skinterflow.interflow.mixtures`) or from what was learned (:class:`LearnedQuantities`).

Where the base is Gaussian and the path affine, the score follows from the drift alone.  With noise ``alpha x0 + gamma z`` of mean
``alpha m`` and covariance ``S = alpha^2 C + gamma^2 I``,

.. math:: (\dot\beta S - \tfrac12 \beta \dot S)\, s = \beta b - \dot\beta (x - \alpha m) - \beta \dot\alpha m ,

which for the standard normal base and the trigonometric path is ``s = -x + (2 / pi) tan(pi t / 2) v`` (paper 1, proposition 4, where the
sign is a misprint).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.heads import HeadedDrift
from skinterflow.interflow.interpolants import AffineInterpolant, expand_as_leading
from skinterflow.interflow.latent import StochasticInterpolant
from skinterflow.interflow.scaling import Compose, Scaling

_FADING_SCALE = 0.2
"""Scale of the noise below which the error of a score that was divided by it is not to be trusted."""
_LEAST_TRUST = 1e-6
"""Below this a scale is zero but for rounding, and the score no number."""


class Quantities(ABC):
    """Conditional expectations of a path at points `x`, shape (B, D), and a scalar time `t`; all of shape (B, D).

    Attributes
    ----------
    path : StochasticInterpolant

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023, section 2.3.

    Examples
    --------
    Standard normal data on the trigonometric path from a standard normal base: nothing moves, and the score is ``-x``.

    >>> import math, torch
    >>> from skinterflow.interflow import Quantities, StochasticInterpolant, Trigonometric
    >>> class Still(Quantities):
    ...     path = StochasticInterpolant(Trigonometric())
    ...     def drift(self, t, x):
    ...         return torch.zeros_like(x)
    ...     def drift_and_score(self, t, x):
    ...         return torch.zeros_like(x), -x
    ...     def trust(self, t):
    ...         return 1.0
    >>> t, x = torch.tensor(0.5), torch.ones(1, 2)
    >>> torch.allclose(Still().denoised(t, x), math.sin(math.pi / 4) * x)
    True
    """

    path: StochasticInterpolant

    @abstractmethod
    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """``b = E[dI_t/dt + gamma' z | x_t = x]``, the velocity of the probability flow."""

    @abstractmethod
    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in one pass."""

    @abstractmethod
    def trust(self, t: float) -> float:
        """Part, in [0, 1], of a noise level that the score bears at a time: less where its formula divides by little."""

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """``s = grad log rho_t``."""
        return self.drift_and_score(t, x)[1]

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """``v = E[dI_t/dt | x_t = x]``; without a latent it is the drift."""
        if self.path.gamma is None:
            return self.drift(t, x)
        drift, score = self.drift_and_score(t, x)
        return drift + self.path.gamma.at(t).product * score

    def denoiser(self, t: Tensor, x: Tensor) -> Tensor:
        """``eta``, the expected latent; of a path without one, the expected base point of a standard normal base."""
        return -self.path.noise_scale(t) * self.score(t, x)

    def denoised(self, t: Tensor, x: Tensor) -> Tensor:
        """``E[x1 | x_t = x]`` of an affine path: the step to the end from a time near it, where scores diverge (section 5.2).

        Raises
        ------
        ValueError
            If the path is no AffineInterpolant.
        """
        if not isinstance(self.path.interpolant, AffineInterpolant):
            raise ValueError(f"{self.path.interpolant!r} does not tell its ends, because it is not alpha(t) x0 + beta(t) x1.")
        if self.path.gamma is None:
            return self.path.interpolant.expected_ends(t, x, self.drift(t, x))[1]
        gamma = self.path.gamma.at(t)
        drift, score = self.drift_and_score(t, x)
        without_latent = x + gamma.value.square() * score
        return self.path.interpolant.expected_ends(t, without_latent, drift + gamma.product * score)[1]


class LearnedQuantities(Quantities):
    """What was learned, and what follows from it.

    Parameters
    ----------
    field : VelocityField, the drift; a :class:`HeadedDrift` brings what else was learned
    path : StochasticInterpolant that it was learned on
    base : Scaling or None
        What carries standard normal points to base points, where the base is Gaussian; a score that was not learned follows from it.

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023, proposition 4, with a plus sign.

    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023, section 2.3.

    Examples
    --------
    From a standard normal base the drift alone tells the score.

    >>> import torch
    >>> from skinterflow.interflow import Compose, LearnedQuantities, MixtureField, NormalMixture
    >>> exact = MixtureField(NormalMixture(torch.full((2,), 0.5), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.1)))
    >>> t, x = torch.tensor(0.5), torch.tensor([[-1.0], [0.0], [2.0]])
    >>> torch.allclose(LearnedQuantities(exact, exact.path, base=Compose([])).score(t, x), exact.score(t, x), atol=1e-4)
    True
    """

    def __init__(self, field: VelocityField, path: StochasticInterpolant, base: Scaling | None = None) -> None:
        self.field = field
        self.path = path
        self.base = base
        targets = set(field.targets) if isinstance(field, HeadedDrift) else set()
        self._from_noise = bool(targets & {"s", "eta"})
        self._divided = "s" not in targets

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t, x)

    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self._from_noise:
            drift = self.drift(t, x)
            return drift, self._score_from_drift(t, x, drift)
        return cast(HeadedDrift, self.field).drift_and_score(t, x)

    def trust(self, t: float) -> float:
        if not self._divided:
            return 1.0
        time = torch.tensor(t, dtype=torch.float64, device=self.path.device)
        scale = self.path.noise_scale(time)
        if self.path.gamma is not None and not self._from_noise:  # base point and latent are both noise then
            scale = torch.hypot(scale, cast(AffineInterpolant, self.path.interpolant).alpha(time))
        part = float(scale.detach()) / _FADING_SCALE
        return min(1.0, part) if part > _LEAST_TRUST else 0.0

    def knows_score(self, t: float) -> bool:
        """Whether the score at a time was learned, or follows from the drift."""
        if self._from_noise:
            return True
        return t < 1.0 and self.base is not None and isinstance(self.path.interpolant, AffineInterpolant)

    def check_score(self) -> None:
        """Raise unless the score is known.

        Raises
        ------
        ValueError
            With the target that would give it.
        """
        if self._from_noise:
            return
        if self.base is None:
            raise ValueError(
                "The score does not follow from the drift alone between two sets of rows; "
                "fit with gamma='brownian' and targets=('b', 'eta'), for example."
            )
        if not isinstance(self.path.interpolant, AffineInterpolant):
            raise ValueError(
                f"The score of {self.path.interpolant!r} does not follow from its drift, because the path is not alpha(t) x0 + beta(t) x1; "
                "use method='ode', fit with an AffineInterpolant, or with gamma='brownian' and targets=('b', 'eta')."
            )

    def _score_from_drift(self, t: Tensor, x: Tensor, drift: Tensor) -> Tensor:
        """The formula above."""
        self.check_score()
        interpolant, gamma, base = cast(AffineInterpolant, self.path.interpolant), self.path.gamma, cast(Scaling, self.base)
        alpha, beta, alpha_rate, beta_rate = (expand_as_leading(part, x) for part in interpolant.weights(t))
        beta_rate = torch.where(beta == 0, 1.0, beta_rate)  # nothing of the data is there, and the formula holds for any
        square, product = (0.0, 0.0) if gamma is None else (gamma.square(t), gamma.at(t).product)
        # The two terms of the matrix are multiples of the base's covariance and of the identity.
        of_base, of_latent = alpha * (beta_rate * alpha - beta * alpha_rate), beta_rate * square - beta * product
        if isinstance(base, Compose) and not len(base.parts):
            return (beta * drift - beta_rate * x) / (of_base + of_latent)
        mean, covariance = _moments(base, x)
        right = beta * drift - beta_rate * (x - alpha * mean) - beta * alpha_rate * mean
        matrix = of_base * covariance + of_latent * torch.eye(len(mean), dtype=x.dtype, device=x.device)
        return torch.linalg.solve(matrix, right.T).T


def _moments(base: Scaling, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the Gaussian that an affine map makes of a standard normal one."""
    n_features = like.shape[1]
    mean = base(like.new_zeros(1, n_features))[0]
    root = base(torch.eye(n_features, dtype=like.dtype, device=like.device)) - mean
    return mean, root.T @ root
