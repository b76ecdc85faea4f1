"""Laws of the derivatives, alone and in many threads."""

import threading

import pytest
import torch

from skinterflow.interflow.derivatives import (
    directional_derivative,
    directional_slopes,
    values_and_rates,
)
from skinterflow.interflow.interpolants import Interpolant, Linear, Trigonometric
from skinterflow.interflow.noise import Brownian


def bent(x):
    return torch.sin(x @ torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=x.dtype)) * x.square().sum(
        -1, keepdim=True
    )


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1)])
def test_rates_are_those_of_each_function(shape):
    t = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, rates = values_and_rates([torch.cos, torch.square, torch.ones_like], t)
    expected = [(t.cos(), -t.sin()), (t.square(), 2 * t), (torch.ones_like(t), torch.zeros_like(t))]
    for value, rate, (true_value, true_rate) in zip(values, rates, expected, strict=True):
        torch.testing.assert_close(value, true_value)
        torch.testing.assert_close(rate, true_rate)


def test_directional_derivative_is_the_product_with_the_jacobian():
    x, v = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, derivative = directional_derivative(bent, x, v)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: bent(row[None])[0]))(x)
    torch.testing.assert_close(value, bent(x))
    torch.testing.assert_close(derivative, (jacobians @ v[:, :, None])[:, :, 0])


def test_slopes_along_the_axes_are_the_diagonal_of_the_jacobian():
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: bent(row[None])[0]))(x)
    torch.testing.assert_close(
        directional_slopes(bent, x, torch.eye(2, dtype=x.dtype))[1],
        jacobians.diagonal(dim1=1, dim2=2),
    )


class Sine(torch.autograd.Function):
    """An operation whose derivative asks for what torch cannot say of several directions."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        images = gradient.reshape(-1, 1, 1, 2)
        assert images.is_contiguous(memory_format=torch.channels_last)
        return images.view_as(gradient) * ctx.saved_tensors[0].cos()


def test_slopes_of_operations_that_take_one_direction_at_a_time():
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.0, 2.0]], dtype=x.dtype)
    one, other = (
        directional_slopes(lambda x, sine=sine: sine(x) * x.flip(1), x, directions)
        for sine in (Sine.apply, torch.sin)
    )
    torch.testing.assert_close(one, other)


def test_parameters_of_a_path_are_differentiated_through_its_rate():
    power = torch.tensor(2.0, requires_grad=True)
    (_,), (rate,) = values_and_rates(
        [lambda t: t**power], torch.tensor([0.5])
    )  # p t^(p - 1), by p: t + p t log t
    assert torch.autograd.grad(rate.sum(), power)[0].item() == pytest.approx(
        0.5 + 2 * 0.5 * torch.tensor(0.5).log().item()
    )


class Wavy(Interpolant):
    def forward(self, t, x0, x1):
        return (1 - t[:, None]) * x0 + torch.sin(0.5 * torch.pi * t[:, None]) * x1


def test_derivatives_of_many_threads_do_not_meet():
    """Forward mode gave numbers of other threads, or raised, and left the process unusable."""
    t, x0, x1 = (
        torch.rand(64, generator=torch.Generator().manual_seed(0)),
        torch.zeros(64, 3),
        torch.ones(64, 3),
    )
    works = [
        lambda: Linear().path(t, x0, x1)[1],
        lambda: Trigonometric().path(t, x0, x1)[1],
        lambda: Wavy().path(t, x0, x1)[1],
        lambda: Brownian().at(t).product,
        lambda: directional_derivative(bent, t.reshape(32, 2), t.reshape(32, 2))[1],
        lambda: directional_slopes(bent, t.reshape(32, 2), torch.eye(2))[1],
    ]
    alone = [work() for work in works]
    failures = []

    def repeat(start):
        try:
            for k in range(60):
                number = (start + k) % len(works)
                if not torch.equal(works[number](), alone[number]):
                    failures.append(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
