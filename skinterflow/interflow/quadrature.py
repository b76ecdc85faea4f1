r"""Quadrature: weighted means of a function over an interval, by fixed nodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fejer(n: int) -> tuple[Tensor, Tensor]:
    r"""Fejer's second rule on ``[-1/2, 1/2]``, whose nodes are dense near both ends and leave the
    ends out.

    It integrates polynomials up to degree ``n - 2`` exactly, and converges fast for smooth
    functions, also for those that fall steeply towards an end.  The nodes of the rule of `n` are
    among those of the rules of its multiples.

    Parameters
    ----------
    n : int, at least 2

    Returns
    -------
    nodes : Tensor of shape (n - 1,), increasing, float64
    weights : Tensor of shape (n - 1,), positive and of sum one

    References
    ----------
    Waldvogel, "Fast construction of the Fejer and Clenshaw-Curtis quadrature rules", BIT Numerical
    Mathematics 46, 2006.

    Examples
    --------
    >>> from skinterflow.interflow.quadrature import fejer
    >>> nodes, weights = fejer(8)
    >>> round(float((weights * nodes**2).sum()), 6)  # one twelfth
    0.083333
    """
    angles = math.pi * torch.arange(1, n, dtype=torch.float64) / n
    odd = torch.arange(1, 2 * (n // 2), 2, dtype=torch.float64)
    weights = (2.0 / n) * angles.sin() * ((angles[:, None] * odd).sin() / odd).sum(dim=1)
    return -0.5 * angles.cos(), weights / weights.sum()
