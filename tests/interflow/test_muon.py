"""The orthogonalised momentum, and that it learns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow.muon import Muon, orthogonalized


@given(m=st.integers(1, 20), n=st.integers(1, 20), seed=st.integers(0, 50))
def test_singular_values_come_near_one_and_directions_stay(m, n, seed):
    x = torch.randn(3, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    result = orthogonalized(x)
    rotated = u.mT @ result @ vh.mT
    values = rotated.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(rotated, torch.diag_embed(values), rtol=1e-9, atol=1e-9)
    assert (values < 2.0).all()
    assert (values[s > 0.02 * s.norm(dim=-1, keepdim=True)] > 0.15).all()


def test_no_gradient_is_no_direction():
    assert torch.equal(orthogonalized(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_matrices_of_one_shape_do_not_mix():
    """Two parameters trained together or apart end at the same place."""
    gradients = [
        torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(2)
    ]
    together = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    apart = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    optimizers = [
        Muon(together, lr=0.1, weight_decay=0.5),
        *(Muon([p], lr=0.1, weight_decay=0.5) for p in apart),
    ]
    for _ in range(3):
        for parameter, other, gradient in zip(together, apart, gradients, strict=True):
            parameter.grad, other.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for parameter, other in zip(together, apart, strict=True):
        torch.testing.assert_close(parameter, other)
        assert not torch.equal(parameter, torch.ones(4, 3))


@pytest.mark.parametrize("shape", [(6, 6), (6, 2), (2, 6)])
def test_least_squares_is_solved(shape):
    generator = torch.Generator().manual_seed(0)
    truth, w = torch.randn(shape, generator=generator), torch.nn.Parameter(torch.zeros(shape))
    optimizer = Muon([w], lr=0.1)
    for k in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - k / 300)
        x = torch.randn(64, shape[1], generator=generator)
        optimizer.zero_grad()
        (x @ (w - truth).mT).square().sum(-1).mean().backward()
        optimizer.step()
    torch.testing.assert_close(w.detach(), truth, rtol=0.05, atol=0.05)
