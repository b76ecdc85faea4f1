"""Rows with entries at atoms: the field of coded rows is, for each pattern, a field of fewer
dimensions."""

import itertools
import math

import pytest
import torch

from skinterflow.interflow import (
    AtomBase,
    AtomField,
    AtomMasses,
    AtomPath,
    AtomScaling,
    Beta,
    Brownian,
    Compose,
    Ensemble,
    Flow,
    PathObjective,
    Pushforward,
    ResidualMLP,
    Solver,
    Standardize,
    Trigonometric,
    VelocityField,
    YeoJohnson,
)
from skinterflow.interflow.atoms import at_atoms, moving
from tests.helpers import perturbed, points, trace_of_jacobian, vector

INCIDENCE = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
"""Three columns, of which the first has two atoms, the second none and the third one."""
PATTERNS = torch.tensor(
    [[*first, third] for first in ((0, 0), (1, 0), (0, 1)) for third in (0, 1)],
    dtype=torch.float64,
)


def network(n_features, *widths, seed=0):
    return ResidualMLP(n_features, widths, generator=torch.Generator().manual_seed(seed))


def atom_field(*widths):
    return perturbed(AtomField(network(6, *widths), INCIDENCE))


def coded(indicators, seed=0):
    moves = moving(indicators, INCIDENCE)
    return torch.cat([points(len(indicators), 3, seed) * moves, indicators], dim=1)


class OfPattern(VelocityField):
    """What an AtomField is for one pattern: a field of the entries that move."""

    def __init__(self, field, indicators):
        super().__init__()
        self.field, self.indicators = field, indicators
        self.columns = moving(indicators, INCIDENCE).nonzero()[:, 0]
        self.n_features = len(self.columns)

    def coded(self, x):
        rows = x.new_zeros(len(x), 3).index_copy(1, self.columns, x)
        return torch.cat([rows, self.indicators.to(x).expand(len(x), -1)], dim=1)

    def forward(self, t, x):
        return self.field(t, self.coded(x))[:, self.columns]

    def value_and_divergence(self, t, x):
        return self(t, x), trace_of_jacobian(self, t, x)


@pytest.mark.parametrize("widths", [(7,), (7, 7), (5, 7, 7)], ids=str)
def test_the_divergence_is_the_trace_over_the_entries_that_move(widths):
    field, x, t = atom_field(*widths), coded(PATTERNS), vector(0.3)[0]
    v, divergence = field.value_and_divergence(t, x)
    expected = torch.cat(
        [
            trace_of_jacobian(OfPattern(field, m), t, row[None, :3][:, moving(m, INCIDENCE) > 0])
            for m, row in zip(PATTERNS, x, strict=True)
        ]
    )
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(v, field(t, x))
    snapshot = field.at(t, torch.float64)
    torch.testing.assert_close(snapshot.velocity(x), v)
    for value, other in zip(snapshot.with_divergence(x), (v, divergence), strict=True):
        torch.testing.assert_close(value, other)


def test_what_is_at_an_atom_neither_moves_nor_counts():
    field, x = atom_field(5, 7), coded(PATTERNS)
    still = moving(PATTERNS, INCIDENCE) == 0
    moved = torch.cat([torch.where(still, 9.0, x[:, :3]), PATTERNS], dim=1)
    v = field(vector(0.3)[0], x)
    torch.testing.assert_close(field(vector(0.3)[0], moved), v, rtol=0, atol=0)
    assert not v[:, :3][still].any()
    assert not v[:, 3:].any()
    assert v[:, :3][~still].all()


@pytest.mark.parametrize("pattern", PATTERNS[:5], ids=lambda m: str(m.int().tolist()))
def test_the_density_of_a_pattern_is_that_of_the_field_of_its_entries(pattern):
    field = atom_field(5, 7)
    lower = OfPattern(field, pattern)
    x = points(4, lower.n_features)
    steps = Solver("midpoint", atol=1e9, n_steps=3)  # the same for both, and not refined
    expected = Pushforward(Flow(lower, steps)).log_prob(x)
    value = Pushforward(Flow(field, steps), AtomBase(INCIDENCE)).log_prob(lower.coded(x))
    torch.testing.assert_close(value, expected)


def test_the_base_is_a_standard_normal_of_the_entries_that_move():
    x = coded(PATTERNS)
    density = Pushforward(Flow(atom_field(5), end_time=0.0), AtomBase(INCIDENCE))
    n = moving(PATTERNS, INCIDENCE).sum(dim=1)
    expected = -0.5 * (x[:, :3].square().sum(dim=1) + n * math.log(2 * math.pi))
    torch.testing.assert_close(density.log_prob(x), expected)


@pytest.mark.parametrize("gamma", [None, Brownian()], ids=["no noise", "noise"])
def test_the_path_moves_only_what_is_at_no_atom(gamma):
    x0, x1, z = points(6, 6, 1), coded(PATTERNS), points(6, 6, 2)
    path = AtomPath(Trigonometric(), gamma, INCIDENCE)
    xt, targets = path.regression(("b",), vector(0.3)[0], x0, x1, None if gamma is None else z)
    moves = moving(PATTERNS, INCIDENCE) > 0
    torch.testing.assert_close(xt[:, 3:], PATTERNS, rtol=0, atol=0)
    assert not xt[:, :3][~moves].any()
    assert not targets["b"][:, :3][~moves].any()
    assert not targets["b"][:, 3:].any()
    free = super(AtomPath, path).regression(("b",), vector(0.3)[0], x0, x1, z)
    torch.testing.assert_close(xt[:, :3][moves], free[0][:, :3][moves])
    torch.testing.assert_close(targets["b"][:, :3][moves], free[1]["b"][:, :3][moves])


def test_members_of_an_ensemble_are_trained_as_they_are():
    objectives = [
        PathObjective(
            AtomField(network(6, 4, seed=k), INCIDENCE),
            AtomPath(Trigonometric(), None, INCIDENCE),
            Beta(),
            AtomBase(INCIDENCE),
        ).double()
        for k in range(2)
    ]
    ensemble = Ensemble(objectives)
    x0, x1 = points(6, 6, 1), coded(PATTERNS)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    both = ensemble(torch.stack([x0, x0]), torch.stack([x1, x1]), torch.stack([t, t]))
    for k, member in enumerate(ensemble.objectives()):
        torch.testing.assert_close(both[k], objectives[k](x0, x1, t))
        torch.testing.assert_close(both[k], member(x0, x1, t))


def masses(mixing=0.6):
    return AtomMasses(
        INCIDENCE, vector(0.2, 0.3, 0.4), PATTERNS[[0, 3, 5]], vector(0.5, 0.2, 0.3), mixing
    )


@pytest.mark.parametrize("mixing", [0.0, 0.6])
def test_probabilities_of_all_patterns_add_up_to_one(mixing):
    log_prob = masses(mixing).log_prob(PATTERNS)
    assert math.isclose(float(log_prob.exp().sum()), 1.0, rel_tol=1e-12)
    assert log_prob.isfinite().all()


def test_a_pattern_has_its_share_and_its_frequency():
    value = masses().log_prob(PATTERNS[[5, 4]]).exp()
    torch.testing.assert_close(value, vector(0.6 * 0.3 + 0.4 * 0.3 * 0.4, 0.4 * 0.3 * 0.6))


def test_marginals_are_sums_over_patterns():
    expected = masses().log_prob(PATTERNS).exp() @ PATTERNS
    torch.testing.assert_close(masses().marginals(), expected)


def test_drawn_patterns_have_their_probabilities():
    n, law = 20_000, masses()
    u = torch.rand(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = law.draw(u)
    expected = law.log_prob(PATTERNS).exp()
    for pattern, p in zip(PATTERNS, expected, strict=True):
        share = float((drawn == pattern).all(dim=1).double().mean())
        assert abs(share - float(p)) < 4.0 * math.sqrt(float(p) / n)


def scaling():
    return AtomScaling(
        vector(0.0, 5.0, -1.0),
        masses(),
        [torch.tensor([1]), torch.tensor([2]), torch.tensor([0])],
        [
            Standardize(vector(1.0), vector(2.0)),
            Standardize(vector(3.0), vector(0.5)),
            Compose([YeoJohnson(vector(0.5)), Standardize(vector(0.1), vector(3.0))]),
        ],
    )


def rows_of_all_patterns():
    first, third = (0.7, 0.0, 5.0), (2.0, -1.0)
    return torch.tensor([[a, 4.0, b] for a, b in itertools.product(first, third)]).double()


def test_rows_are_coded_and_decoded():
    x = rows_of_all_patterns()
    code = scaling()(x)
    torch.testing.assert_close(code[:, 3:], PATTERNS, rtol=0, atol=0)
    torch.testing.assert_close(code[:, 1], torch.full((6,), 1.5, dtype=torch.float64))
    assert not code[:, :3][moving(PATTERNS, INCIDENCE) == 0].any()
    torch.testing.assert_close(scaling().inverse(code), x)
    assert torch.equal(scaling().inverse(code)[:, 0][[2, 4]], vector(0.0, 5.0))
    torch.testing.assert_close(scaling().inverse(code[:1, :3]), x[:1])


def test_the_log_determinant_is_that_of_the_entries_that_move_and_the_mass():
    x, scale = rows_of_all_patterns(), scaling()
    values = scale.log_abs_det(x)
    for row, pattern, value in zip(x, PATTERNS, values, strict=True):
        moves = moving(pattern, INCIDENCE) > 0
        jacobian = torch.func.jacrev(lambda x: scale(x[None])[0, :3])(row)[moves][:, moves]
        expected = torch.linalg.slogdet(jacobian).logabsdet + masses().log_prob(pattern[None])[0]
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(scale.log_mass(x), masses().log_prob(PATTERNS))


def test_an_entry_is_at_an_atom_up_to_rounding_to_float32():
    atom = 0.1
    x = torch.tensor([atom, float(torch.tensor(atom, dtype=torch.float32)), 0.1 + 1e-6]).double()
    found = at_atoms(x[:, None], vector(atom), torch.ones(1, 1).double())
    assert found[:, 0].tolist() == [True, True, False]
    near_zero = at_atoms(vector(0.0, 1e-300)[:, None], vector(0.0), torch.ones(1, 1).double())
    assert near_zero[:, 0].tolist() == [True, False]


def test_slopes_add_up_to_the_divergence():
    field, x, t = perturbed(network(3, 5, 7, 7)), points(4, 3), vector(0.3)[0]
    v, divergence = field.value_and_divergence(t, x)
    for value, slopes in (
        field.value_and_slopes(t, x),
        field.network_at(t, torch.float64).with_slopes(x, 3),
    ):
        torch.testing.assert_close(value, v)
        torch.testing.assert_close(slopes.sum(dim=1), divergence)
