r"""The four quantities of a path: drift ``b``, velocity ``v``, score ``s``, denoiser ``eta``.

Drift and score determine the others: ``v = b + gamma gamma' s`` and ``eta = -gamma s`` (paper 2
[2]_, section 2.3).  They are known in closed form between Gaussian mixtures
(:mod:`~skinterflow.interflow.mixtures`), or learned (:class:`LearnedQuantities`).

If the base is Gaussian and the path affine, the score follows from the drift alone.  With noise
``alpha x0 + gamma z`` of mean ``alpha m`` and covariance ``S = alpha^2 C + gamma^2 I``,

.. math::
    (\dot\beta S - \tfrac12 \beta \dot S)\, s
    = \beta b - \dot\beta (x - \alpha m) - \beta \dot\alpha m ,

which for the standard normal base and the trigonometric path is
``s = -x + (2 / pi) tan(pi t / 2) v`` (paper 1 [1]_, proposition 4, where the sign is a misprint).
The formula requires base points that are independent of the data points: under another coupling
neither it nor ``s = -E[x0 | x_t] / alpha`` holds.  It multiplies errors of the drift by its *gain*,
the norm of ``beta (beta' S - beta S' / 2)^-1``, which diverges at ``t = 1``.  The noise level of a
diffusion that uses such a score is therefore reduced where the gain is large.

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
from typing import cast

import torch
from torch import Tensor

from skinterflow.interflow.couplings import Coupling, Independent
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.heads import HeadedDrift
from skinterflow.interflow.interpolants import AffineInterpolant, Weights, expand_as_leading
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.scaling import Scaling

_FADING_GAIN = 5.0
"""Above this gain, the noise level of a diffusion is reduced in inverse proportion to the gain."""
_LARGEST_GAIN = 100.0
"""Above this gain, a score that follows from the drift raises an error."""
_LEAST_FRACTION = 1e-6
"""Below this fraction the divisor is zero up to rounding, and the score is not finite."""
_OTHER_WAYS = (
    "use method='flow' for gradients, use method='ode' for samples, or fit with {}, or with "
    "gamma='brownian' and targets=('b', 'eta')."
)


class Quantities(ABC):
    """Drift, velocity, score and denoiser of a path (paper 2, section 2.3).

    All are functions of a scalar time `t` and points `x` of shape (B, D), with values of shape
    (B, D).

    Attributes
    ----------
    path : StochasticInterpolant

    Examples
    --------
    Standard normal data on the trigonometric path from a standard normal base: nothing moves, and
    the score is ``-x``.

    >>> import math, torch
    >>> from skinterflow.interflow import Quantities, StochasticInterpolant, Trigonometric
    >>> class Still(Quantities):
    ...     path = StochasticInterpolant(Trigonometric())
    ...
    ...     def drift(self, t, x):
    ...         return torch.zeros_like(x)
    ...
    ...     def drift_and_score(self, t, x):
    ...         return torch.zeros_like(x), -x
    ...
    ...     def noise_fraction(self, t):
    ...         return 1.0
    >>> t, x = torch.tensor(0.5), torch.ones(1, 2)
    >>> torch.allclose(Still().denoised(t, x), math.sin(math.pi / 4) * x)
    True
    """

    path: StochasticInterpolant

    @abstractmethod
    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """``b = E[dI_t/dt + gamma' z | x_t = x]``, the right-hand side of the probability flow."""

    @abstractmethod
    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and score, in one pass."""

    @abstractmethod
    def noise_fraction(self, t: float) -> float:
        """Fraction, in [0, 1], of a noise level that a diffusion may use at a time.

        It is below 1 where the formula of the score magnifies errors.
        """

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        """``s = grad log rho_t``."""
        return self.drift_and_score(t, x)[1]

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """``v = E[dI_t/dt | x_t = x]``, equal to the drift if there is no noise term."""
        if self.path.gamma is None:
            return self.drift(t, x)
        drift, score = self.drift_and_score(t, x)
        return drift + self.path.gamma.at(t).product * score

    def denoiser(self, t: Tensor, x: Tensor) -> Tensor:
        """``eta = E[z | x_t = x]``; ``E[x0 | x_t = x]`` of an affine path without a noise term."""
        if self.path.gamma is None and isinstance(self.path.interpolant, AffineInterpolant):
            return self.path.interpolant.expected_ends(t, x, self.drift(t, x))[0]
        return -self.path.noise_scale(t) * self.score(t, x)

    def expected_parts(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``E[x0 | x_t = x]``, ``E[x1 | x_t = x]`` and ``E[z | x_t = x]`` of an affine path.

        They add up to the point, ``x = alpha E[x0] + beta E[x1] + gamma E[z]``.  An end is NaN
        where its weight and the rate of its weight are zero, and ``E[z]`` is zero without a noise
        term.

        Raises
        ------
        ValueError
            If the path is not an AffineInterpolant.
        """
        interpolant = self._affine()
        if self.path.gamma is None:
            ends = interpolant.expected_ends(t, x, self.drift(t, x))
            return *ends, torch.zeros_like(x)
        gamma = self.path.gamma.at(t)
        drift, score = self.drift_and_score(t, x)
        without_noise = x + gamma.value.square() * score
        ends = interpolant.expected_ends(t, without_noise, drift + gamma.product * score)
        return *ends, -gamma.value * score

    def _affine(self) -> AffineInterpolant:
        interpolant = self.path.interpolant
        if not isinstance(interpolant, AffineInterpolant):
            raise ValueError(
                f"The ends of {interpolant!r} do not follow from its velocity, because it is not "
                "alpha(t) x0 + beta(t) x1."
            )
        return interpolant

    def denoised(self, t: Tensor, x: Tensor) -> Tensor:
        """``E[x1 | x_t = x]`` of an affine path.

        It is the last step of a diffusion that stops before ``t = 1``, where scores diverge
        (section 5.2).

        Raises
        ------
        ValueError
            If the path is not an AffineInterpolant, or the data have weight zero at the time.
        """
        interpolant = self._affine()
        weights = interpolant.weights(t)
        if weights.beta == 0 and weights.beta_rate == 0:
            raise ValueError(
                f"At t={float(t):g} the data have weight zero on the path of {interpolant!r}; use "
                "a later time."
            )
        return self.expected_parts(t, x)[1]


class LearnedQuantities(Quantities):
    """The learned quantities of a path, and those that follow from them.

    A score that was not learned follows from the drift (paper 1, proposition 4, with a plus sign).

    Parameters
    ----------
    field : VelocityField, the drift; a :class:`HeadedDrift` has other learned quantities
    path : StochasticInterpolant that the field was trained on
    base : Scaling or None
        Map from standard normal points to base points, if the base is Gaussian.  Without it, the
        score does not follow from the drift.
    coupling : Coupling
        How base points and data points were paired in training.  The score follows from the drift
        only if they are independent.

    Examples
    --------
    From a standard normal base, the score follows from the drift.

    >>> import torch
    >>> from skinterflow.interflow import Identity, LearnedQuantities, MixtureField, NormalMixture
    >>> exact = MixtureField(
    ...     NormalMixture(
    ...         torch.full((2,), 0.5), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.1)
    ...     )
    ... )
    >>> t, x = torch.tensor(0.5), torch.tensor([[-1.0], [0.0], [2.0]])
    >>> torch.allclose(
    ...     LearnedQuantities(exact, exact.path, base=Identity()).score(t, x),
    ...     exact.score(t, x),
    ...     atol=1e-4,
    ... )
    True
    """

    def __init__(
        self,
        field: VelocityField,
        path: StochasticInterpolant,
        base: Scaling | None = None,
        coupling: Coupling = Independent(),
    ) -> None:
        self.field = field
        self.path = path
        self.base = base
        self.coupling = coupling
        targets = set(field.targets)
        # Without a noise term, "s" and "eta" are about the base point, which is noise only if it is
        # independent of the data point.
        noise = path.gamma is not None or coupling.is_independent
        both_ends = path.gamma is not None and {"eta0", "eta1"} <= targets
        self._from_noise = noise and (bool(targets & {"s", "eta"}) or both_ends)
        self._divided = "s" not in targets

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t, x)

    def drift_and_score(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self._from_noise:
            drift = self.drift(t, x)
            return drift, self._score_from_drift(t, x, drift)
        return cast(HeadedDrift, self.field).drift_and_score(t, x)

    def noise_fraction(self, t: float) -> float:
        part = _FADING_GAIN * self._divisor(t)
        return min(1.0, part) if part > _LEAST_FRACTION else 0.0

    def check_score(self) -> None:
        """Raise unless the score is known.

        Raises
        ------
        ValueError
            If it is not; the message names the targets that would give it.
        """
        if self._from_noise:
            return
        if self.base is None:
            raise ValueError(
                "The score does not follow from the drift alone between two data sets; "
                "fit with gamma='brownian' and targets=('b', 'eta'), for example."
            )
        if not isinstance(self.path.interpolant, AffineInterpolant):
            raise ValueError(
                f"The score of {self.path.interpolant!r} does not follow from its drift, because "
                "the path is not alpha(t) x0 + beta(t) x1; "
                + _OTHER_WAYS.format(
                    "targets=('b', 'eta')"
                    if self.path.interpolant.has_base_scale
                    else "an AffineInterpolant"
                )
            )
        if not self.coupling.is_independent:
            raise ValueError(
                f"The score does not follow from the drift under {self.coupling!r}, because base "
                "points depend on the data points; " + _OTHER_WAYS.format("coupling='independent'")
            )

    def check_gain(self, t: float) -> None:
        """Raise if the score at a time is mostly error.

        A score that follows from the drift is divided by the scale of the remaining noise.

        Parameters
        ----------
        t : float in [0, 1]

        Raises
        ------
        ValueError
            If the gain is above 100; the message has the gain.
        """
        divisor = self._divisor(t)
        if not self._from_noise and divisor < 1.0 / _LARGEST_GAIN:
            factor = (
                f"multiplied by {1.0 / divisor:.3g}" if divisor > 0 else "multiplied without bound"
            )
            raise ValueError(
                f"At t={t:g} the score that follows from the drift has the errors of the drift "
                f"{factor}, because almost no noise is left on the path; use method='flow', or an "
                "earlier t."
            )

    def _divisor(self, t: float) -> float:
        """Inverse of the factor on errors in the score; infinite if there is no such factor."""
        time = torch.tensor(t, dtype=torch.float64, device=self.path.device)
        with torch.no_grad():
            if self._from_noise:
                return float(self.path.noise_scale(time)) if self._divided else math.inf
            weights, of_covariance, of_identity = self._terms(time)
            covariance = (
                time.new_ones(1)
                if self._is_standard()
                else torch.linalg.eigvalsh(self._moments()[1]).to(time)
            )
            return (
                float((of_covariance * covariance + of_identity).abs().min() / weights.beta.abs())
                if weights.beta
                else math.inf
            )

    def _terms(self, t: Tensor) -> tuple[Weights, Tensor, Tensor]:
        """Weights of the path, and the factors of `C` and `I` in ``beta' S - beta S' / 2``."""
        weights = cast(AffineInterpolant, self.path.interpolant).weights(t)
        # Where beta is zero, the formula holds for any beta'.
        weights = weights._replace(beta_rate=torch.where(weights.beta == 0, 1.0, weights.beta_rate))
        alpha, beta, alpha_rate, beta_rate = weights
        of_identity = torch.zeros_like(alpha)
        if self.path.gamma is not None:
            of_identity = (
                beta_rate * self.path.gamma.square(t) - beta * self.path.gamma.at(t).product
            )
        return weights, alpha * (beta_rate * alpha - beta * alpha_rate), of_identity

    def _is_standard(self) -> bool:
        return self.base is not None and self.base.is_identity

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the base, an affine map of standard normal points."""
        base = cast(Scaling, self.base)
        like = next(base.parameters(), next(self.field.parameters(), torch.empty(0)))
        identity = torch.eye(self.field.n_features, dtype=like.dtype, device=like.device)
        mean = base(torch.zeros_like(identity[:1]))[0]
        root = base(identity) - mean
        return mean, root.T @ root

    def _score_from_drift(self, t: Tensor, x: Tensor, drift: Tensor) -> Tensor:
        """The formula in the docstring of the module."""
        self.check_score()
        weights, of_covariance, of_identity = self._terms(t)
        alpha, beta, alpha_rate, beta_rate, of_covariance, of_identity = (
            expand_as_leading(part, x) for part in (*weights, of_covariance, of_identity)
        )
        if self._is_standard():
            return (beta * drift - beta_rate * x) / (of_covariance + of_identity)
        mean, covariance = self._moments()
        right = beta * drift - beta_rate * (x - alpha * mean) - beta * alpha_rate * mean
        matrix = of_covariance * covariance + of_identity * torch.eye(
            len(mean), dtype=x.dtype, device=x.device
        )
        return torch.linalg.solve(matrix, right.T).T
