r"""Divergence by Hutchinson's estimate: one derivative per probe, whatever the dimension.

``div v = E[e^T (dv/dx) e]`` over random signs ``e``.  The probes are drawn once, from a fixed seed,
and shared by all rows and times, so that the ODE stays smooth and a row's result depends neither on
its neighbours nor on the call.  The estimate is unbiased over probes, not for one draw of them: the
exact divergence is the default everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skinterflow.interflow.derivatives import directional_slopes
from skinterflow.interflow.fields import VelocityField

_PROBE_SEED = 0


class Hutchinson(VelocityField):
    """A field with the same values whose divergence is estimated.

    Parameters
    ----------
    field : VelocityField with attribute `n_features`
    n_probes : int, at least 1
    seed : int
        Seed of the probes; the estimates of different seeds are independent.
    averaged : bool
        Whether the divergence is the mean of the estimates, without its standard error.

    References
    ----------
    Grathwohl et al., "FFJORD: Free-form continuous dynamics for scalable reversible generative
    models", ICLR 2019.

    Examples
    --------
    The mean of the estimates comes near the exact divergence.

    >>> import torch
    >>> from skinterflow.interflow import Hutchinson, ResidualMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ResidualMLP(3, hidden_layer_sizes=(16, 16))
    ...     _ = torch.nn.init.normal_(field.out.weight, std=0.1)  # it starts at zero
    >>> t, x = torch.tensor(0.5), torch.ones(5, 3)
    >>> estimates = Hutchinson(field, n_probes=4_096).value_and_divergence(t, x)[1]
    >>> estimates.shape
    torch.Size([5, 4096])
    >>> torch.allclose(estimates.mean(dim=1), field.value_and_divergence(t, x)[1], atol=0.1)
    True
    """

    probes: Tensor

    def __init__(
        self,
        field: VelocityField,
        n_probes: int,
        seed: int = _PROBE_SEED,
        averaged: bool = False,
    ) -> None:
        super().__init__()
        self.field = field
        self.n_features, self.n_estimates = field.n_features, None if averaged else n_probes
        self.averaged = averaged
        signs = random_signs(n_probes, self.n_features, seed)
        self.register_buffer("probes", signs.to(next(field.parameters(), torch.empty(0))))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t, x)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        value, slopes = directional_slopes(lambda y: self.field(t, y), x, self.probes)
        return value, slopes.mean(dim=1) if self.averaged else slopes


def random_signs(n_probes: int, n_features: int, seed: int = _PROBE_SEED) -> Tensor:
    """The probes of a seed: numbers -1 and 1 with equal probability.

    Parameters
    ----------
    n_probes : int, K
    n_features : int, dimension D
    seed : int

    Returns
    -------
    Tensor of shape (K, D), in torch's default dtype

    Examples
    --------
    >>> from skinterflow.interflow.divergence import random_signs
    >>> random_signs(2, 3).abs()
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n_probes, n_features), generator=generator, device="cpu")
    return (2 * signs - 1).to(torch.get_default_dtype())
