r"""Muon: gradient steps with orthogonalised momentum, for the weight matrices of hidden layers.

The update of a matrix [1]_ is the polar factor ``U V^T`` of its momentum ``U S V^T``: all singular
directions change at the same rate, while Adam favours those with large singular values.  On
velocity fields this halves the number of steps (see "What we tried" in the documentation).  The
polar factor is computed by a few odd polynomials of the matrix [2]_, with matrix products only.

References
----------
.. [1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
.. [2] Amsel et al., "The Polar Express: optimal matrix sign methods and their application to the
    Muon algorithm", 2025.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
"""Coefficients of ``a X + b X X^T X + c (X X^T)^2 X`` in the first three steps of Polar Express."""

_SAFETY = 1.01
_RMS = 0.2
"""Root mean square of an update per unit of learning rate, similar to that of Adam, so that both
optimisers have learning rates on the same scale."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay (Jordan et al., 2024).

    Parameters
    ----------
    params : iterable of nn.Parameter with two axes
    lr : float, learning rate, on the scale of that of Adam
    weight_decay : float
    momentum : float in [0, 1)

    Examples
    --------
    Directions of small and large gradient change by about the same.

    >>> import torch
    >>> from skinterflow.interflow import Muon
    >>> weight = torch.nn.Parameter(torch.zeros(3, 3))
    >>> weight.grad = torch.diag(torch.tensor([1.0, 2.0, 10.0]))
    >>> Muon([weight], lr=0.1).step()
    >>> moved = -weight.detach().diagonal()
    >>> bool(moved.max() < 1.5 * moved.min())
    True
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(
            list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices; those of equal shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                moments = torch.stack(
                    [self._momentum(parameter, group["momentum"]) for parameter in parameters]
                )
                scale = group["lr"] * _RMS * max(shape) ** 0.5
                for parameter, direction in zip(parameters, orthogonalized(moments), strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(
                        direction, alpha=scale
                    )

    def _momentum(self, parameter: nn.Parameter, decay: float) -> Tensor:
        assert parameter.grad is not None  # for mypy: `train` gives every parameter a gradient
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1.0 - decay)
        return torch.lerp(parameter.grad, state["momentum"], decay)


def orthogonalized(x: Tensor) -> Tensor:
    """Approximate polar factors of matrices, with singular values near one (Amsel et al., 2025).

    Parameters
    ----------
    x : Tensor of shape (..., M, N)

    Returns
    -------
    Tensor of shape (..., M, N)

    Examples
    --------
    Singular values from 1 to 10 become values between 1/2 and 2.

    >>> import torch
    >>> from skinterflow.interflow.muon import orthogonalized
    >>> values = torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([1.0, 2.0, 10.0]))))
    >>> bool(((0.5 < values) & (values < 2.0)).all())
    True
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalized(x.mT).mT
    x = x / (_SAFETY * torch.linalg.matrix_norm(x, keepdim=True) + torch.finfo(x.dtype).tiny)
    for a, b, c in _POLYNOMIALS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
