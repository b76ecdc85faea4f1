"""Couplings: which base point meets which data point.

Any coupling with the right marginals gives a path from one density to the other.  Independent pairs
are the papers' choice.  Straight lines between points that lie near each other are shorter, and a
field of them changes less on the way, which spares the solver work.  (The trigonometric path
between two equal points is not a point: its curves gain nothing.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Coupling(ABC):
    """Pairs the rows of two batches.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, definition 2.1: any coupling with the right marginals will do.

    Examples
    --------
    In one dimension, sorted rows are at the least total distance.

    >>> import torch
    >>> from skinterflow.interflow import Coupling
    >>> class Sorted(Coupling):
    ...     def partners(self, x0, x1):
    ...         return x0[:, 0].argsort()[x1[:, 0].argsort().argsort()]
    >>> x0, x1 = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[10.0], [30.0], [20.0]])
    >>> x0[Sorted().partners(x0, x1)].flatten()
    tensor([1., 3., 2.])
    """

    @abstractmethod
    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Row numbers of `x0`, each once, in the order in which they meet the rows of `x1`.

        Parameters
        ----------
        x0, x1 : Tensors of shape (B, D)

        Returns
        -------
        Tensor of int64 of shape (B,)
        """


@dataclass(frozen=True)
class Independent(Coupling):
    """Pairs as they come: the product of both densities.

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, equations 2 to 6.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Independent
    >>> Independent().partners(torch.zeros(3, 2), torch.ones(3, 2))
    tensor([0, 1, 2])
    """

    def partners(self, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.arange(len(x0), device=x0.device)


@dataclass(frozen=True)
class OptimalTransport(Coupling):
    """Pairs of least total squared distance within groups of a batch.

    The cost grows with the third power of the group.  Groups are small, so that the coupling is
    biased: it keeps the marginals, and is no optimal transport of the whole.

    Parameters
    ----------
    group_size : int, at least 2; rows that are assigned to each other

    References
    ----------
    Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
    transport", TMLR 2024.

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
