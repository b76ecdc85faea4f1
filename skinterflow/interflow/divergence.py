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

    def __init__(self, field: VelocityField, n_probes: int) -> None:
        super().__init__()
        self.field = field
        self.n_features, self.n_estimates = field.n_features, n_probes
        signs = torch.randint(
            2, (n_probes, self.n_features), generator=torch.Generator().manual_seed(_PROBE_SEED)
        )
        self.register_buffer("probes", (2 * signs - 1).to(next(field.parameters(), torch.empty(0))))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t, x)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return directional_slopes(lambda y: self.field(t, y), x, self.probes)
