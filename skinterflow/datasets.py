"""Two-dimensional benchmark distributions with exact samples, most with an exact log-density.

The checkerboard, spirals and rings are common benchmarks of normalizing flows; see Albergo and
Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023, figures 1 and
2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.utils import check_array

from skinterflow._runtime import RandomStateLike, private_random_state

Array = NDArray[np.float64]


class Distribution(ABC):
    """Base class of distributions in the plane.

    Examples
    --------
    A subclass draws `n` rows from the given RandomState.

    >>> from skinterflow.datasets import Distribution
    >>> class Square(Distribution):
    ...     def _draw(self, n, random):
    ...         return random.uniform(size=(n, 2))
    >>> Square().sample(3, random_state=0).shape
    (3, 2)
    """

    def sample(self, n_samples: int = 1, random_state: RandomStateLike = None) -> Array:
        """Draw rows.

        Parameters
        ----------
        n_samples : int, at least 1
        random_state : int, RandomState instance or None
            Seed of the samples; None gives different samples at every call.

        Returns
        -------
        ndarray of shape (n_samples, 2)

        Raises
        ------
        ValueError
            If `n_samples` is below 1.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples!r}.")
        return self._draw(n_samples, private_random_state(random_state))

    @abstractmethod
    def _draw(self, n: int, random: np.random.RandomState) -> Array: ...


class Density(Distribution):
    """Base class of distributions with a log-density in closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from skinterflow.datasets import Density
    >>> class Square(Density):
    ...     def _draw(self, n, random):
    ...         return random.uniform(size=(n, 2))
    ...
    ...     def _log_density(self, X):
    ...         return np.where(((X >= 0) & (X < 1)).all(axis=1), 0.0, -np.inf)
    >>> Square().score_samples([[0.5, 0.5], [0.5, 1.5]])
    array([  0., -inf])
    """

    def score_samples(self, X: ArrayLike) -> Array:
        """Return the log-density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)

        Returns
        -------
        ndarray of shape (n_samples,), nats

        Raises
        ------
        ValueError
            If `X` is not a finite array of two columns.
        """
        rows: Array = check_array(X, dtype=np.float64, input_name="X")
        if rows.shape[1] != 2:
            raise ValueError(
                f"X has {rows.shape[1]} columns, but the density is defined on the plane; give 2."
            )
        return self._log_density(rows)

    @abstractmethod
    def _log_density(self, X: Array) -> Array: ...


@dataclass(frozen=True)
class Checkerboard(Density):
    """Uniform distribution on every other unit square of a board centred at the origin.

    With four squares along each side, there are eight such squares in [-2, 2] x [-2, 2].

    Parameters
    ----------
    n_squares : int, number of squares along each side

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, figure 1.

    Examples
    --------
    >>> from skinterflow.datasets import Checkerboard
    >>> Checkerboard().score_samples([[0.5, 0.5], [0.5, 1.5]])
    array([-2.07944154,        -inf])
    """

    n_squares: int = 4

    def _draw(self, n: int, random: np.random.RandomState) -> Array:
        side = np.arange(self.n_squares)
        filled = np.argwhere((side[:, None] + side) % 2 == 0)
        return (
            filled[random.randint(len(filled), size=n)]
            + random.uniform(size=(n, 2))
            - self.n_squares / 2
        )

    def _log_density(self, X: Array) -> Array:
        square = np.floor(X + self.n_squares / 2)
        inside = ((square >= 0) & (square < self.n_squares)).all(axis=1) & (
            square.sum(axis=1) % 2 == 0
        )
        return np.where(inside, -np.log((self.n_squares**2 + 1) // 2), -np.inf)


@dataclass(frozen=True)
class EightGaussians(Density):
    """Mixture of equal isotropic Gaussians on a circle around the origin.

    Parameters
    ----------
    radius : float, radius of the circle
    deviation : float, positive, standard deviation of each Gaussian
    n_components : int, number of Gaussians

    Examples
    --------
    At its centre a Gaussian has density ``1 / (2 pi deviation^2)``, and each has an eighth of the
    mass.

    >>> from skinterflow.datasets import EightGaussians
    >>> EightGaussians().sample(3, random_state=0).shape
    (3, 2)
    >>> EightGaussians().score_samples([[2.0, 0.0], [0.0, 2.0]]).round(2)
    array([-0.7, -0.7])
    """

    radius: float = 2.0
    deviation: float = 0.2
    n_components: int = 8

    def _centres(self) -> Array:
        angles = 2.0 * np.pi * np.arange(self.n_components) / self.n_components
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def _draw(self, n: int, random: np.random.RandomState) -> Array:
        return self._centres()[
            random.randint(self.n_components, size=n)
        ] + self.deviation * random.standard_normal((n, 2))

    def _log_density(self, X: Array) -> Array:
        offsets = X[:, None, :] - self._centres()
        return logsumexp(norm.logpdf(offsets, scale=self.deviation).sum(axis=2), axis=1) - np.log(
            self.n_components
        )


@dataclass(frozen=True)
class Rings(Density):
    """Equally likely concentric rings with Gaussian radii; negative radii are reflected at zero.

    Parameters
    ----------
    radii : tuple of float, mean radius of each ring
    deviation : float, positive, standard deviation of the radii

    Examples
    --------
    The density is the same all around a ring.

    >>> from skinterflow.datasets import Rings
    >>> Rings().score_samples([[1.4, 0.0], [0.0, -1.4]]).round(2)
    array([-1.67, -1.67])
    """

    radii: tuple[float, ...] = (0.7, 1.4, 2.1)
    deviation: float = 0.08

    def _draw(self, n: int, random: np.random.RandomState) -> Array:
        radius = np.abs(
            np.array(self.radii)[random.randint(len(self.radii), size=n)]
            + self.deviation * random.standard_normal(n)
        )
        angle = random.uniform(0.0, 2.0 * np.pi, size=n)
        return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def _log_density(self, X: Array) -> Array:
        radius = np.hypot(*X.T)[:, None]
        of_radius = np.logaddexp(
            norm.logpdf(radius, self.radii, self.deviation),
            norm.logpdf(-radius, self.radii, self.deviation),
        )
        with np.errstate(divide="ignore"):
            return (
                logsumexp(of_radius, axis=1)
                - np.log(len(self.radii))
                - np.log(2.0 * np.pi * radius[:, 0])
            )


@dataclass(frozen=True)
class Spirals(Distribution):
    """Two intertwined spirals with Gaussian noise, without a density in closed form.

    Parameters
    ----------
    deviation : float, positive, standard deviation of the noise
    turns : float, number of turns of each arm

    Examples
    --------
    Without noise the arms end at radius 2.2.

    >>> import numpy as np
    >>> from skinterflow.datasets import Spirals
    >>> X = Spirals(deviation=0.0).sample(1_000, random_state=0)
    >>> X.shape, round(float(np.linalg.norm(X, axis=1).max()), 1)
    ((1000, 2), 2.2)
    """

    deviation: float = 0.08
    turns: float = 1.5

    def _draw(self, n: int, random: np.random.RandomState) -> Array:
        part = np.sqrt(random.uniform(size=n))
        angle = 2.0 * np.pi * self.turns * part
        arm = np.where(random.uniform(size=n) < 0.5, -1.0, 1.0)
        curve = (2.2 * arm * part)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return curve + self.deviation * random.standard_normal((n, 2))


@dataclass(frozen=True)
class Moons(Distribution):
    """Two interleaving half circles with Gaussian noise, as scikit-learn's `make_moons`.

    Parameters
    ----------
    deviation : float, positive, standard deviation of the noise

    Examples
    --------
    >>> from skinterflow.datasets import Moons
    >>> X = Moons(deviation=0.0).sample(1_000, random_state=0)
    >>> X.min(axis=0).round(1), X.max(axis=0).round(1)
    (array([-1. , -0.5]), array([2., 1.]))
    """

    deviation: float = 0.1

    def _draw(self, n: int, random: np.random.RandomState) -> Array:
        angle = random.uniform(0.0, np.pi, size=n)
        upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        lower = np.stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
        curve = np.where((random.uniform(size=n) < 0.5)[:, None], upper, lower)
        return curve + self.deviation * random.standard_normal((n, 2))
