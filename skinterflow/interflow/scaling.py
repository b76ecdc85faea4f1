r"""Scalings: invertible maps between data units and flow units, with their log-determinant.

``log p(x) = log p_u(u(x)) + log |det du/dx|``: the scaling is part of the density.  Maps take rows
of shape (B, D) and keep their dtype.  The constants are float64 buffers, which the estimators
compute from the data.  :class:`LearnedGaussian` is the learned base of paper 1 [1]_.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


class Scaling(nn.Module, ABC):
    """An invertible map ``u(x)`` of D-dimensional space onto itself.

    Attributes
    ----------
    is_identity : bool, whether the map is known to be the identity

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Scaling
    >>> class Asinh(Scaling):
    ...     def forward(self, x):
    ...         return torch.asinh(x)
    ...
    ...     def inverse(self, u):
    ...         return torch.sinh(u)
    ...
    ...     def log_abs_det(self, x):
    ...         return -0.5 * torch.log1p(x.square()).sum(-1)
    >>> x = torch.tensor([[0.0, 3.0]])
    >>> torch.allclose(Asinh().inverse(Asinh()(x)), x)
    True
    """

    is_identity = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Data units to flow units, shape (B, D)."""

    @abstractmethod
    def inverse(self, u: Tensor) -> Tensor:
        """Flow units to data units, shape (B, D)."""

    @abstractmethod
    def log_abs_det(self, x: Tensor) -> Tensor:
        """``log |det du/dx|`` at `x`, shape (B,)."""


class Identity(Scaling):
    """The identity, ``u = x``.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Identity
    >>> Identity()(torch.ones(1, 2)), Identity().is_identity
    (tensor([[1., 1.]]), True)
    """

    is_identity = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, u: Tensor) -> Tensor:
        return u

    def log_abs_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class Standardize(Scaling):
    """``u = (x - shift) / scale`` per column.

    Parameters
    ----------
    shift, scale : Tensors of shape (D,), in the units of the data, the scale positive

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Standardize
    >>> scaling, x = (
    ...     Standardize(shift=torch.tensor([1.0, 2.0]), scale=torch.tensor([0.5, 4.0])),
    ...     torch.tensor([[2.0, 2.0]]),
    ... )
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
    """``u = W x`` with a square matrix, for data of mean zero and covariance ``(W^T W)^-1``.

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
    r"""A learned affine map, ``u = mean + L x`` with a lower triangular `L`.

    It maps a standard normal base to N(mean, L L^T), as in paper 1, appendix H.  Before training it
    equals the identity.

    Parameters
    ----------
    n_features : int, dimension D

    Attributes
    ----------
    mean : Parameter of shape (D,)
    root : Parameter of shape (D, D)
        `L` below the diagonal, and the logarithm of its diagonal; entries above it are not used.

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


class Compose(Scaling):
    """A sequence of scalings, of which the first is applied to the data.

    Parameters
    ----------
    parts : iterable of Scaling; an empty one is the identity

    Examples
    --------
    Log-determinants add up: ``-log 3 - log 2``.

    >>> import torch
    >>> from skinterflow.interflow import Compose, Standardize
    >>> scaling = Compose(
    ...     [Standardize(torch.zeros(1), torch.tensor([scale])) for scale in (3.0, 2.0)]
    ... )
    >>> x = torch.tensor([[6.0]])
    >>> scaling(x), round(float(scaling.log_abs_det(x)), 2)
    (tensor([[1.]]), -1.79)
    """

    def __init__(self, parts: Iterable[Scaling]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.is_identity = all(cast(Scaling, part).is_identity for part in self.parts)

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
