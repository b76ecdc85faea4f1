"""Laws of the velocity fields, over a registry: value, divergence, rows apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow.interflow import fields
from skinterflow.interflow.divergence import Hutchinson
from skinterflow.interflow.fields import ACTIVATIONS, AveragedField, ResidualMLP
from tests.helpers import perturbed, points, trace_of_jacobian
from tests.oracles import mixture

FIELDS = {
    "one hidden layer": lambda d: perturbed(ResidualMLP(d, (7,))),
    "two, residual": lambda d: perturbed(ResidualMLP(d, (6, 6))),
    "two, unequal": lambda d: perturbed(ResidualMLP(d, (6, 5))),
    "three, residual": lambda d: perturbed(ResidualMLP(d, (6, 6, 6))),
    "four, unequal": lambda d: perturbed(ResidualMLP(d, (6, 5, 5, 4))),
    "averaged": lambda d: AveragedField(
        [perturbed(ResidualMLP(d, (5, 5, 5)), k) for k in range(3)]
    ),
    "mixture": lambda d: mixture(d),
}
over_registry = pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS)


@over_registry
@given(
    n=st.integers(1, 4),
    d=st.integers(1, 4),
    time=st.sampled_from([0.0, 0.37, 1.0]),
    seed=st.integers(0, 9),
)
def test_divergence_is_the_trace_of_the_jacobian(make, n, d, time, seed):
    with torch.random.fork_rng():
        field = make(d)
    x, t = points(n, d, seed), torch.tensor(time, dtype=torch.float64)
    value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(value, field(t, x))
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_divergence_for_every_activation(activation):
    x, t = points(5, 3), torch.tensor(0.6, dtype=torch.float64)
    for sizes in ((4, 4), (4, 4, 4)):
        with torch.random.fork_rng():
            field = perturbed(ResidualMLP(3, sizes, activation))
        torch.testing.assert_close(
            field.value_and_divergence(t, x)[1], trace_of_jacobian(field, t, x)
        )


@pytest.mark.parametrize("sizes", [(5, 5), (5, 5, 5)])
def test_rows_may_have_their_own_times(sizes):
    """Also with as many rows as features, and across the chunks that bound the memory."""
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(4, sizes))
    x, t = points(4, 4), torch.linspace(0, 1, 4, dtype=torch.float64)
    value, divergence = field.value_and_divergence(t, x)
    for row in range(4):
        alone = field.value_and_divergence(t[row], x[row : row + 1])
        torch.testing.assert_close((value[row], divergence[row]), (alone[0][0], alone[1][0]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(5,), (5, 5), (5, 3)])
def test_rows_that_share_a_time_are_solved_alike_without_gradients(sizes, activation, monkeypatch):
    """The path that scoring takes, with premultiplied weights and rows in blocks, is the law's
    closed form."""
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(3, sizes, activation))
    x, t = points(7, 3), torch.tensor(0.4, dtype=torch.float64)
    monkeypatch.setattr(fields, "_HIDDEN_ELEMENTS", 2 * 5)
    with torch.no_grad():
        value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(value, field(t, x))
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, x))


def test_tangents_are_chunked(monkeypatch):
    """A small budget gives the same divergence, and no tangent array above it."""
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(3, (8, 8, 8)))
    x, t = points(10, 3), torch.tensor(0.5, dtype=torch.float64)
    whole = field.value_and_divergence(t, x)
    sizes = []
    deep = ResidualMLP._deep
    monkeypatch.setattr(fields, "_TANGENT_ELEMENTS", 3 * 8 * 4)
    monkeypatch.setattr(
        ResidualMLP,
        "_deep",
        lambda self, modulations, x: sizes.append(len(x)) or deep(self, modulations, x),
    )
    torch.testing.assert_close(field.value_and_divergence(t, x), whole)
    assert sizes == [4, 4, 2]


def test_untrained_field_is_zero():
    with torch.random.fork_rng():
        field = ResidualMLP(3, (8, 8))
    value, divergence = field.value_and_divergence(torch.tensor(0.3), torch.ones(2, 3))
    assert torch.equal(value, torch.zeros(2, 3))
    assert torch.equal(divergence, torch.zeros(2))


def test_average_of_one_field_is_that_field():
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(2, (5, 5)))
    x, t = points(4, 2), torch.tensor(0.2, dtype=torch.float64)
    torch.testing.assert_close(
        AveragedField([field]).value_and_divergence(t, x), field.value_and_divergence(t, x)
    )


def test_hutchinson_is_unbiased():
    """The mean over many probes is within four standard errors of the exact divergence, and the
    value is the field's."""
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(6, (8, 8)))
    x, t, n_probes = points(3, 6), torch.tensor(0.5, dtype=torch.float64), 2000
    value, estimate = Hutchinson(field, n_probes).value_and_divergence(t, x)
    exact = trace_of_jacobian(field, t, x)
    jacobian = torch.stack(
        [torch.func.jacrev(lambda row: field(t, row[None])[0])(row) for row in x]
    )
    symmetric = (jacobian + jacobian.mT) / 2
    variance = 2 * (
        symmetric.square().sum((1, 2)) - symmetric.diagonal(dim1=1, dim2=2).square().sum(-1)
    )
    torch.testing.assert_close(value, field(t, x))
    assert estimate.shape == (3, n_probes)
    assert ((estimate.mean(1) - exact).abs() < 4 * (variance / n_probes).sqrt()).all()


def test_hutchinson_probes_are_the_same_every_time():
    with torch.random.fork_rng():
        field = perturbed(ResidualMLP(3, (4,)))
    assert torch.equal(Hutchinson(field, 2).probes, Hutchinson(field, 2).probes)


def test_unknown_activations_are_refused():
    with pytest.raises(
        ValueError, match="activation must be one of 'silu', 'tanh', 'softplus', 'elu', got 'relu'"
    ):
        ResidualMLP(2, (3,), "relu")
