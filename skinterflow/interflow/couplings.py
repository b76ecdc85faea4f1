"""Couplings: how base points and data points are paired.

Any coupling with the right marginals gives a path from one density to the other (paper 2 [1]_,
definition 2.1).  The papers use independent pairs.  Straight lines between nearby points are
shorter, and their velocity changes less along the flow, so that the solver needs fewer steps
(minibatch optimal transport [2]_).  The trigonometric path does not profit, as it is curved even
between two equal points.

References
----------
.. [1] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
.. [2] Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
    transport", TMLR 2024.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Coupling(ABC):
    """A rule that pairs the rows of two batches.

    Attributes
    ----------
    is_independent : bool, whether the points of a pair are independent

    Examples
    --------
    In one dimension, pairing rows in sorted order minimises the total distance.

    >>> import torch
    >>> from skinterflow.interflow import Coupling
    >>> class Sorted(Coupling):
    ...     def partners(self, x0, x1):
    ...         return x0[:, 0].argsort()[x1[:, 0].argsort().argsort()]
    >>> x0, x1 = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[10.0], [30.0], [20.0]])
    >>> x0[Sorted().partners(x0, x1)].flatten()
    tensor([1., 3., 2.])
    """

    is_independent: ClassVar[bool] = False

    @abstractmethod
    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Permutation of the rows of `x0` that pairs them with the rows of `x1`.

        Parameters
        ----------
        x0, x1 : Tensors of shape (B, D)

        Returns
        -------
        Tensor of int64 of shape (B,)
        """


@dataclass(frozen=True)
class Independent(Coupling):
    """Independent pairs, as in paper 1: the rows in the order given.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Independent
    >>> Independent().partners(torch.zeros(3, 2), torch.ones(3, 2))
    tensor([0, 1, 2])
    """

    is_independent = True

    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.arange(len(x0), device=x0.device)


@dataclass(frozen=True)
class Given(Coupling):
    """Pairs that the data come in: the rows in the order given, which are not independent.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Given
    >>> Given().partners(torch.zeros(3, 2), torch.ones(3, 2))
    tensor([0, 1, 2])
    >>> Given().is_independent
    False
    """

    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.arange(len(x0), device=x0.device)


@dataclass(frozen=True)
class OptimalTransport(Coupling):
    """Pairs of least total squared distance within groups of a batch (Tong et al., 2024).

    The cost grows with the cube of the group size, so groups are small.  The coupling keeps the
    marginals, but is biased: it is not the optimal transport between the densities.

    Parameters
    ----------
    group_size : int, at least 2, number of rows in a group

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import OptimalTransport
    >>> x0, x1 = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]])
    >>> OptimalTransport().partners(x0, x1)
    tensor([2, 0, 1])
    """

    group_size: int = 128

    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        groups = zip(x0.split(self.group_size), x1.split(self.group_size), strict=True)
        assigned = [
            torch.from_numpy(linear_sum_assignment(_squared_distances(b, a).cpu().numpy())[1])
            for a, b in groups
        ]
        starts = range(0, len(x0), self.group_size)
        return torch.cat([start + rows for start, rows in zip(starts, assigned, strict=True)]).to(
            x0.device
        )


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return x.square().sum(-1)[:, None] + y.square().sum(-1) - 2.0 * x @ y.T
