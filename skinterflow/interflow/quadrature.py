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


def clenshaw_curtis(n: int) -> tuple[Tensor, Tensor]:
    r"""Clenshaw and Curtis's rule on ``[-1/2, 1/2]``, whose nodes
    ``sin(pi (2 j - n + 1) / (2 n - 2)) / 2`` include both ends.

    It integrates polynomials up to degree ``n - 1`` exactly, and smooth functions about as well as
    Gauss's rule of as many nodes.  Every second node of the rule of ``2 n - 1`` is one of the rule
    of `n`.

    Parameters
    ----------
    n : int, odd, at least 3

    Returns
    -------
    nodes : Tensor of shape (n,), increasing, float64
    weights : Tensor of shape (n,), positive and of sum one

    References
    ----------
    Waldvogel, "Fast construction of the Fejer and Clenshaw-Curtis quadrature rules", BIT Numerical
    Mathematics 46, 2006.

    Examples
    --------
    >>> from skinterflow.interflow.quadrature import clenshaw_curtis
    >>> nodes, weights = clenshaw_curtis(5)
    >>> round(float((weights * nodes**4).sum()), 6)  # one eightieth
    0.0125
    """
    j = torch.arange(n, dtype=torch.float64)
    nodes = 0.5 * torch.sin(math.pi * (2.0 * j - (n - 1)) / (2.0 * (n - 1)))
    even = torch.arange(0, n, 2, dtype=torch.float64)
    # The Chebyshev polynomial of even degree k has the mean 1 / (1 - k^2), and those of odd degree
    # have none.
    return nodes, (chebyshev(n)[::2] / (1.0 - even**2)[:, None]).sum(dim=0)


def chebyshev(n: int) -> Tensor:
    """The matrix that turns values at the nodes of :func:`clenshaw_curtis` into Chebyshev
    coefficients of the polynomial through them.

    Parameters
    ----------
    n : int, at least 2

    Returns
    -------
    Tensor of shape (n, n), float64; the coefficient of degree k is in row k

    Examples
    --------
    The square has the coefficients 1/8, 0 and 1/8 on ``[-1/2, 1/2]``.

    >>> from skinterflow.interflow.quadrature import chebyshev, clenshaw_curtis
    >>> (chebyshev(5) @ clenshaw_curtis(5)[0] ** 2).round(decimals=6).abs().tolist()
    [0.125, 0.0, 0.125, 0.0, 0.0]
    """
    k = torch.arange(n, dtype=torch.float64)
    matrix = (2.0 / (n - 1)) * torch.cos(math.pi / (n - 1) * torch.outer(k, k.flip(0)))
    matrix[:, [0, -1]] *= 0.5
    matrix[[0, -1]] *= 0.5
    return matrix
