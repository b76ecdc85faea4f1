"""Time laws: the distribution of training times on [0, 1].

The minimiser of the quadratic loss is the same for any positive law of ``t``, so the law may
concentrate on times at which the velocity is hard to learn: near the data, ``t = 1``.  Paper 1 [1]_
uses Beta laws (tables 3 and 4), mostly Beta(1, 0.5).  A law is defined by its quantile function, so
that stratified uniform draws give stratified times.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from scipy.special import betaincinv
from torch import Tensor


class TimeLaw(ABC):
    """A probability law on [0, 1].

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import TimeLaw
    >>> class LogitNormal(TimeLaw):
    ...     def quantile(self, u):
    ...         return torch.sigmoid(torch.special.ndtri(u))
    >>> LogitNormal().quantile(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Inverse of the cumulative distribution function.

        Parameters
        ----------
        u : Tensor of any shape, probabilities in [0, 1]

        Returns
        -------
        Tensor of the shape, dtype and device of `u`, times in [0, 1]
        """


@dataclass(frozen=True)
class Beta(TimeLaw):
    """Beta law with density proportional to ``t^(a-1) (1-t)^(b-1)``; ``Beta(1, 1)`` is uniform.

    Parameters
    ----------
    a, b : float, positive

    Raises
    ------
    ValueError
        If a parameter is not positive.

    Examples
    --------
    The law that paper 1 mostly uses has its median nearer to the data.

    >>> import torch
    >>> from skinterflow.interflow import Beta
    >>> Beta(1.0, 0.5).quantile(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.7500, 1.0000])
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ValueError(
                f"A Beta law needs two positive parameters, got a={self.a!r} and b={self.b!r}; try "
                "Beta(1.0, 0.5)."
            )

    def quantile(self, u: Tensor) -> Tensor:
        if self.a == 1:
            return 1.0 - (1.0 - u) ** (1.0 / self.b)
        if self.b == 1:
            return u ** (1.0 / self.a)
        return cast(Tensor, _BetaQuantile.apply(u, self.a, self.b))


class _BetaQuantile(torch.autograd.Function):
    """SciPy's quantile function of the Beta law, which also works under ``torch.func.vmap``."""

    @staticmethod
    def forward(u: Tensor, a: float, b: float) -> Tensor:
        return torch.as_tensor(betaincinv(a, b, u.double().cpu().numpy())).to(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], u: Tensor, a: float, b: float
    ) -> tuple[Tensor, int | None]:
        return cast(Tensor, _BetaQuantile.apply(u, a, b)), in_dims[0]


def stratified_uniform(
    n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Draw a uniform number in each of `n` equal strata of [0, 1], in increasing order.

    Parameters
    ----------
    n : int
    device : torch.device or str
    generator : torch.Generator on the device, or None for torch's global random state

    Returns
    -------
    Tensor of shape (n,), float32

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.times import stratified_uniform
    >>> u = stratified_uniform(4, generator=torch.Generator().manual_seed(0))
    >>> bool(((torch.arange(4) <= 4 * u) & (4 * u <= torch.arange(1, 5))).all())
    True
    """
    return (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
