r"""Gradient fields: the gradient of a scalar function, with its exact divergence.

A score is a gradient, ``s = -grad E`` with the energy ``E = -log rho_t`` up to a constant (paper 2
[2]_, remark 2.13, equation 2.31).  A velocity that is learned among gradient fields only is the
gradient part of the velocity of the path, and its flow carries the same densities (paper 1 [1]_,
proposition B.4): the part that is left out moves points within a density that it does not change.

A :class:`GradientField` of a network is used like any other field, as the parameter `field` of the
estimators or in a :class:`~skinterflow.interflow.heads.HeadedDrift` for each learned quantity.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skinterflow.interflow.custom import CustomField
from skinterflow.interflow.fields import ModulatedMLP


class Potential(ModulatedMLP):
    r"""A scalar network ``phi_t(x)`` for a :class:`GradientField`.

    .. math:: \phi_t(x) = x \cdot f_t(x) + \tfrac12 g(t) |x|^2

    with the vector ``f_t(x)`` and the gain ``g(t)`` of a :class:`ModulatedMLP`.  All smooth
    functions that are zero at the origin have this form.  Untrained it is zero, and so is its
    gradient.

    Parameters
    ----------
    n_features : int, dimension D
    hidden_layer_sizes : sequence of positive int, one per hidden layer
    activation : str, see `ResidualMLP`
    generator : torch.Generator or None, see `ResidualMLP`

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Potential
    >>> with torch.random.fork_rng(devices=[]):
    ...     potential = Potential(2, hidden_layer_sizes=(8, 8))
    >>> potential(torch.full((5,), 0.5), torch.ones(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (128,) * 3,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_features, hidden_layer_sizes, activation, 1, generator)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Value at times of shape (B,) and points of shape (B, D): shape (B,)."""
        scales, shifts, gain = self._modulations(t)
        f = self.out(self._hidden(scales, shifts, x)) + 0.5 * gain * x
        return (x * f).sum(-1)


class GradientField(CustomField):
    """The gradient of a scalar function as a velocity field or a score.

    Its divergence is the Laplacian of the function, with one backward pass for each column; above
    128 columns it is Hutchinson's estimate.

    Parameters
    ----------
    function : nn.Module or callable
        ``phi(t, x)``, twice differentiable, with times of shape (B,), rows of shape (B, D) and
        values of shape (B,), such as a :class:`Potential`.  The value of a row must not depend on
        other rows.
    n_features : int, dimension D

    Examples
    --------
    The gradient of ``-|x|^2 / 2`` is the score of the standard normal.

    >>> import torch
    >>> from skinterflow.interflow import GradientField
    >>> field = GradientField(lambda t, x: -0.5 * x.square().sum(-1), n_features=2)
    >>> score, divergence = field.value_and_divergence(
    ...     torch.tensor(0.5), torch.tensor([[1.0, 3.0]])
    ... )
    >>> score.tolist(), divergence.tolist()
    ([[-1.0, -3.0]], [-2.0])
    """

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        # In reverse mode, which keeps its state per thread and works without recorded gradients.
        return torch.func.grad(lambda y: self.potential(t, y).sum())(x)

    def potential(self, t: Tensor, x: Tensor) -> Tensor:
        """Values of the function, shape (B,), up to a constant ``log rho_t`` if this is a score.

        Raises
        ------
        ValueError
            If the function does not give one number for each row.
        """
        rows = x.reshape(-1, self.n_features)
        times = t.to(x.dtype).expand(x.shape[:-1]).reshape(-1)
        value: Tensor = self.function(times, rows)
        if value.shape != times.shape:
            raise ValueError(
                "A potential must give one number for each row, shape "
                f"{tuple(times.shape)}, but gives {tuple(value.shape)}; sum over the columns."
            )
        return value.reshape(x.shape[:-1])
