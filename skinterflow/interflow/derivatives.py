r"""Derivatives of functions by reverse-mode automatic differentiation.

Reverse mode keeps its state per thread, so that several threads may differentiate at once.  Forward
mode (``torch.func.jvp``) keeps its level in a global variable, and gives wrong results when two
threads use it at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor


def values_and_rates(
    functions: Sequence[Callable[[Tensor], Tensor]], t: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Functions of time and their derivatives, in one pass.

    Parameters
    ----------
    functions : sequence of callables, elementwise, from a tensor to one of the same shape
    t : Tensor of any shape

    Returns
    -------
    values, rates : tuples of tensors of the shape of `t`, one for each function

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.derivatives import values_and_rates
    >>> values_and_rates([torch.square, torch.exp], torch.tensor(0.0))
    ((tensor(0.), tensor(1.)), (tensor(0.), tensor(1.)))
    """

    def total(copies: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = tuple(function(copy) for function, copy in zip(functions, copies, strict=True))
        return torch.stack([value.sum() for value in values]).sum(), values

    # A copy of the times for each function keeps their derivatives apart.
    rates, values = torch.func.grad(total, has_aux=True)(t.expand(len(functions), *t.shape))
    return values, rates.unbind()


def directional_derivative(
    f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """A function and its directional derivative ``J(x) v``.

    The product with the transposed Jacobian, ``u -> J(x)^T u``, is linear in `u`, and its transpose
    is the product with the Jacobian.

    Parameters
    ----------
    f : callable
    x : Tensor
    direction : Tensor of the shape of `x`

    Returns
    -------
    value, derivative : Tensors of the shape of ``f(x)``

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.derivatives import directional_derivative
    >>> directional_derivative(
    ...     lambda x: x.prod(), torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0])
    ... )
    (tensor(10.), tensor(5.))
    """
    value, pull_back = vector_jacobian_product(f, x)
    push_forward = vector_jacobian_product(lambda u: pull_back(u)[0], torch.zeros_like(value))[1]
    return value, push_forward(direction)[0]


def directional_slopes(
    f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """A field and its slopes ``e . J(x) e`` along directions `e` shared by all rows.

    Parameters
    ----------
    f : callable, row by row, from shape (B, D) to shape (B, D)
    x : Tensor of shape (B, D)
    directions : Tensor of shape (K, D)

    Returns
    -------
    value : Tensor of shape (B, D)
    slopes : Tensor of shape (B, K); over the D unit vectors they add up to the divergence

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.derivatives import directional_slopes
    >>> directional_slopes(torch.square, torch.tensor([[1.0, 3.0]]), torch.eye(2))
    (tensor([[1., 9.]]), tensor([[2., 6.]]))
    """
    value, pull_back = vector_jacobian_product(f, x)

    def slope(direction: Tensor) -> Tensor:
        return pull_back(direction.expand_as(value))[0] @ direction

    try:
        return value, torch.func.vmap(slope, out_dims=1)(directions)
    except RuntimeError:  # of operations whose derivative takes one direction at a time
        return value, torch.stack([slope(direction) for direction in directions], dim=1)


def vector_jacobian_product(
    f: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """A function and its products with the transposed Jacobian, ``u -> J(x)^T u``.

    Parameters
    ----------
    f : callable
    x : Tensor

    Returns
    -------
    value : Tensor
    pull_back : callable, from a tensor of the shape of the value to a tuple of one of that of `x`

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.derivatives import vector_jacobian_product
    >>> value, pull_back = vector_jacobian_product(torch.square, torch.tensor([1.0, 3.0]))
    >>> pull_back(torch.tensor([1.0, 0.0]))
    (tensor([2., 0.]),)
    """
    return cast(tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], torch.func.vjp(f, x))
