r"""Scalings: invertible maps between data units and the units of the flow, with their log-determinant.

``log p(x) = log p_u(u(x)) + log |det du/dx|``: the scaling is part of the density.  Maps work on rows of shape (B, D), in
the dtype of their input; their constants are float64 buffers, estimated on the upper floor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


class Scaling(nn.Module, ABC):
    """An invertible map ``u(x)`` of D-dimensional space onto itself.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Scaling
    >>> class Asinh(Scaling):
    ...     def forward(self, x):
    ...         return torch.asinh(x)
    ...     def inverse(self, u):
    ...         return torch.sinh(u)
    ...     def log_abs_det(self, x):
    ...         return -0.5 * torch.log1p(x.square()).sum(-1)
    >>> x = torch.tensor([[0.0, 3.0]])
    >>> torch.allclose(Asinh().inverse(Asinh()(x)), x)
    True
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Data units to flow units, shape (B, D)."""

    @abstractmethod
    def inverse(self, u: Tensor) -> Tensor:
        """Flow units to data units, shape (B, D)."""

    @abstractmethod
    def log_abs_det(self, x: Tensor) -> Tensor:
        """``log |det du/dx|`` at `x`, shape (B,)."""


class Standardize(Scaling):
    """``u = (x - shift) / scale`` per column.

    Parameters
    ----------
    shift, scale : Tensors of shape (D,), in the units of the data, the scale positive

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Standardize
    >>> scaling, x = Standardize(shift=torch.tensor([1.0, 2.0]), scale=torch.tensor([0.5, 4.0])), torch.tensor([[2.0, 2.0]])
    >>> scaling(x), round(float(scaling.log_abs_det(x)), 2)
    (tensor([[2., 0.]]), -0.69)
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale

    def inverse(self, u: Tensor) -> Tensor:
        return u * self.scale + self.shift

    def log_abs_det(self, x: Tensor) -> Tensor:
        return (-self.scale.log().sum()).expand(len(x))


class Whiten(Scaling):
    """``u = W x`` with a square matrix, for data whose mean is zero and whose covariance is ``(W^T W)^-1``.

    Parameters
    ----------
    matrix, inverse_matrix : Tensors of shape (D, D)

    Examples
    --------
    The inverse of the Cholesky factor whitens.

    >>> import torch
    >>> from skinterflow.interflow import Whiten
    >>> covariance = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    >>> root = torch.linalg.cholesky(covariance)
    >>> whiten = Whiten(matrix=torch.linalg.inv(root), inverse_matrix=root)
    >>> torch.allclose(whiten(whiten(covariance).T), torch.eye(2), atol=1e-5)
    True
    """

    matrix: Tensor
    inverse_matrix: Tensor

    def __init__(self, matrix: Tensor, inverse_matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("inverse_matrix", inverse_matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def inverse(self, u: Tensor) -> Tensor:
        return u @ self.inverse_matrix.T

    def log_abs_det(self, x: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.matrix).logabsdet.expand(len(x))


class LearnedGaussian(Scaling):
    r"""``u = mean + L x`` with a lower triangular `L`: the base N(mean, L L^T) when `x` is standard normal, to be learned (appendix H).

    Untrained it is the identity.

    Parameters
    ----------
    n_features : int, dimension D

    Attributes
    ----------
    mean : Parameter of shape (D,)
    root : Parameter of shape (D, D): `L` below the diagonal, and the logarithm of its diagonal; what is above it is not used

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR 2023, appendix H.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import LearnedGaussian
    >>> base, x = LearnedGaussian(n_features=2), torch.tensor([[1.0, -1.0]])
    >>> torch.equal(base(x), x)
    True
    >>> _ = torch.nn.init.ones_(base.mean)
    >>> base(x).detach()
    tensor([[2., 0.]])
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.mean = nn.Parameter(torch.zeros(n_features))
        self.root = nn.Parameter(torch.zeros(n_features, n_features))

    def _factor(self) -> Tensor:
        return self.root.tril(-1) + self.root.diagonal().exp().diag()

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + x @ self._factor().T

    def inverse(self, u: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor(), (u - self.mean).T, upper=False).T

    def log_abs_det(self, x: Tensor) -> Tensor:
        return self.root.diagonal().sum().expand(len(x))


class YeoJohnson(Scaling):
    r"""Yeo-Johnson power map per column: ``sign(x) ((1 + |x|)^m - 1) / m`` with ``m = lambda`` for ``x >= 0``, else ``2 - lambda``.

    Parameters
    ----------
    lambdas : Tensor of shape (D,), in [0, 2], the range in which the map is onto the whole line

    References
    ----------
    Yeo and Johnson, "A new family of power transformations to improve normality or symmetry", Biometrika 87, 2000.

    Examples
    --------
    A power of 1 changes nothing, and 0 is the logarithm of ``1 + x`` for positive `x`.

    >>> import math, torch
    >>> from skinterflow.interflow import YeoJohnson
    >>> scaling, x = YeoJohnson(torch.tensor([1.0, 0.0])), torch.tensor([[3.0, math.e - 1.0]])
    >>> torch.allclose(scaling(x), torch.tensor([[3.0, 1.0]])), torch.allclose(scaling.inverse(scaling(x)), x)
    (True, True)
    """

    lambdas: Tensor

    def __init__(self, lambdas: Tensor) -> None:
        super().__init__()
        self.register_buffer("lambdas", lambdas)

    def forward(self, x: Tensor) -> Tensor:
        m = self._exponent(x)
        log = x.abs().log1p()
        return x.sign() * torch.where(m == 0, log, torch.expm1(m * log) / _nonzero(m))

    def inverse(self, u: Tensor) -> Tensor:
        m = self._exponent(u)
        size = u.abs()
        return u.sign() * torch.expm1(torch.where(m == 0, size, torch.log1p(m * size) / _nonzero(m)))

    def log_abs_det(self, x: Tensor) -> Tensor:
        return ((self._exponent(x) - 1.0) * x.abs().log1p()).sum(-1)

    def _exponent(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, self.lambdas, 2.0 - self.lambdas)


def _nonzero(m: Tensor) -> Tensor:
    """`m` with zeros replaced, so that the branch which is not taken leaves no NaN in derivatives."""
    return torch.where(m == 0, 1.0, m)


class Bounds(Scaling):
    r"""Columns with bounds to the whole line, by the quantile function of the normal law: ``u = Phi^-1(U(x))`` per column.

    ``U(x) = (x - lower) / (upper - lower)`` between two bounds, ``1 - 2^(-(x - lower) / scale)`` above a lower one, and
    ``2^(-(upper - x) / scale)`` below an upper one.  A uniform and an exponential column, with their bounds, become normal, and
    a density that is smooth and positive up to its bound has a tail there as light as the normal.  Both tails of `U` are computed as
    logarithms of their own, so that no digits are lost at either end.

    Columns without bounds are left as they are.  A point on a bound, or beyond it, is moved inside by a millionth of the width between
    two bounds, or of `scale`: its density is finite, and that of its neighbour.  All others are mapped exactly.

    Parameters
    ----------
    lower, upper : Tensors of shape (D,), infinite where there is no bound
    scale : Tensor of shape (D,), positive: the distance from a single bound that is mapped to zero, such as the median

    Examples
    --------
    A column of shares, between 0 and 1, and one of waiting times, above 0.

    >>> import math, torch
    >>> from skinterflow.interflow import Bounds
    >>> scaling = Bounds(torch.zeros(2), torch.tensor([1.0, math.inf]), torch.tensor([1.0, 5.0]))
    >>> torch.allclose(scaling(torch.tensor([[0.5, 5.0]])), torch.zeros(1, 2), atol=1e-6)
    True
    >>> x = scaling.inverse(torch.tensor([[-3.0, 2.0]]))
    >>> bool(((x > 0) & (x < torch.tensor([1.0, math.inf]))).all())
    True
    """

    lower: Tensor
    upper: Tensor
    scale: Tensor

    def __init__(self, lower: Tensor, upper: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self._is_free(), x, self._mapped(*self._distances(x)))

    def inverse(self, u: Tensor) -> Tensor:
        below, above = torch.special.log_ndtr(u), torch.special.log_ndtr(-u)
        width, lower, upper = self._width(), _finite(self.lower), _finite(self.upper)
        between = torch.where(u < 0, lower + width * below.exp(), upper - width * above.exp())
        step = self.scale / math.log(2.0)
        beyond = torch.where(torch.isfinite(self.lower), lower - step * above, upper + step * below)
        return torch.where(self._is_free(), u, torch.where(self._has_two(), between, beyond))

    def log_abs_det(self, x: Tensor) -> Tensor:
        distances = self._distances(x)
        distance = torch.where(torch.isfinite(self.lower), *distances) / self.scale
        log_slope = torch.where(
            self._has_two(), -self._width().log(), math.log(math.log(2.0)) - math.log(2.0) * distance - self.scale.log()
        )
        log_normal = -0.5 * (self._mapped(*distances).square() + math.log(2.0 * math.pi))
        return torch.where(self._is_free(), 0.0, log_slope - log_normal).sum(-1)

    def _is_free(self) -> Tensor:
        return ~(torch.isfinite(self.lower) | torch.isfinite(self.upper))

    def _has_two(self) -> Tensor:
        return torch.isfinite(self.lower) & torch.isfinite(self.upper)

    def _width(self) -> Tensor:
        return torch.where(self._has_two(), self.upper - self.lower, 1.0)

    def _distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positive distances from the lower and the upper bound; where there is none, any positive number."""
        unit = torch.where(self._has_two(), self._width(), self.scale)
        below = torch.where(torch.isfinite(self.lower), x - _finite(self.lower), unit)
        above = torch.where(torch.isfinite(self.upper), _finite(self.upper) - x, unit)
        on_lower, on_upper, inside = below <= 0, above <= 0, _INSIDE * unit
        return (
            torch.where(on_lower, inside, torch.where(on_upper, unit - inside, below)),
            torch.where(on_upper, inside, torch.where(on_lower, unit - inside, above)),
        )

    def _mapped(self, below: Tensor, above: Tensor) -> Tensor:
        """Normal quantile of `U`, from the logarithm of the smaller of its tails."""
        two, has_lower, width = self._has_two(), torch.isfinite(self.lower), self._width()
        half_lives = math.log(2.0) * torch.where(has_lower, below, above) / self.scale
        log_near, log_far = torch.log(-torch.expm1(-half_lives)), -half_lives
        log_below = torch.where(two, (torch.where(two, below, 0.5) / width).log(), torch.where(has_lower, log_near, log_far))
        log_above = torch.where(two, (torch.where(two, above, 0.5) / width).log(), torch.where(has_lower, log_far, log_near))
        is_below = log_below < log_above
        # Not the minimum, whose derivative at a tie, the median, is the mean of two that cancel.
        return torch.where(is_below, -1.0, 1.0) * _normal_quantile(torch.where(is_below, log_below, log_above))


_INSIDE = 1e-6
"""How far a point on a bound is moved inside, relative to the width or the scale."""
_FAR = -600.0
"""Logarithm of the smallest tail that is looked at as a number."""


def _finite(bound: Tensor) -> Tensor:
    """`bound`, and zero where there is none, so that the branch which is not taken leaves no NaN in derivatives."""
    return torch.where(torch.isfinite(bound), bound, 0.0)


def _normal_quantile(log_tail: Tensor) -> Tensor:
    """The `u >= 0` above which the standard normal law has a mass of ``exp(log_tail)``, at most one half."""
    near = -torch.special.ndtri(log_tail.clamp(min=_FAR).exp())
    y = -log_tail.clamp(max=_FAR)
    u = (2.0 * y - (4.0 * math.pi * y).log()).sqrt()
    for _ in range(2):  # Newton, whose error here is squared and divided by u
        mills = math.sqrt(0.5 * math.pi) * torch.special.erfcx(u / math.sqrt(2.0))
        u = u + mills * (torch.special.log_ndtr(-u) + y)
    return torch.where(log_tail > _FAR, near, u)


class Compose(Scaling):
    """Scalings one after the other, the first in the list nearest to the data.

    Parameters
    ----------
    parts : iterable of Scaling; without any it is the identity

    Examples
    --------
    Halves of thirds: log-determinants add up to ``-log 6``.

    >>> import torch
    >>> from skinterflow.interflow import Compose, Standardize
    >>> scaling = Compose([Standardize(torch.zeros(1), torch.tensor([scale])) for scale in (3.0, 2.0)])
    >>> x = torch.tensor([[6.0]])
    >>> scaling(x), round(float(scaling.log_abs_det(x)), 2)
    (tensor([[1.]]), -1.79)
    """

    def __init__(self, parts: Iterable[Scaling]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def inverse(self, u: Tensor) -> Tensor:
        for part in reversed(self.parts):
            u = cast(Scaling, part).inverse(u)
        return u

    def log_abs_det(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for part in self.parts:
            total = total + cast(Scaling, part).log_abs_det(x)
            x = part(x)
        return total
