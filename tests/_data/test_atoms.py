"""Which values are atoms, how probable their patterns are, and how the other entries are scaled."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from skinterflow import DegenerateDataWarning
from skinterflow._data.atoms import Atoms, estimate_masses, find_atoms
from skinterflow._data.columns import resolve_atoms, resolve_columns
from skinterflow._data.groups import copies
from skinterflow._data.scaling import gaussianized_columns
from skinterflow.interflow.marginals import Bounds
from skinterflow.interflow.scaling import Identity

NAMES = ["rain", "share", "height"]


def continuous(n=500, seed=0):
    return np.random.default_rng(seed).lognormal(size=n)


def with_copies(values, n=500, seed=0):
    """A continuum in which the given values are repeated: value to number of copies."""
    x = continuous(n, seed)
    order, start = np.random.default_rng(1).permutation(n), 0
    for value, count in values.items():
        x[order[start : start + count]] = value
        start += count
    return x


def found(x, whole=False):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_atoms(x[:, None], np.array([not whole]), ["x"]).values.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({0.0: 250}, [0.0]),
        ({0.0: 10}, [0.0]),
        ({0.0: 9}, []),
        ({0.0: 200, 2.5: 30}, [0.0, 2.5]),
        ({-1.0: 50, 0.0: 50, 9.0: 50}, [-1.0, 0.0, 9.0]),
    ],
    ids=str,
)
def test_values_that_are_repeated_among_others_are_atoms(values, expected):
    assert found(with_copies(values)) == expected


@pytest.mark.parametrize("n", [1, 2, 8, 10])
def test_few_rows_have_no_atoms(n):
    assert found(continuous(n)) == []


def test_one_percent_of_the_rows_is_needed():
    assert found(with_copies({0.0: 49}, 5_000)) == []
    assert found(with_copies({0.0: 50}, 5_000)) == [0.0]


def test_clipped_values_are_atoms():
    x = np.random.default_rng(0).normal(size=400)
    assert found(np.clip(x, -1.0, 1.5)) == [-1.0, 1.5]


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_rounded_values_are_no_atoms(decimals):
    x = np.round(np.random.default_rng(0).lognormal(sigma=1.0, size=3_000) * 2.0, decimals)
    assert found(x + 0.5) == []


def test_simple_fractions_among_finer_ones_are_no_atoms():
    x, rng = np.random.default_rng(0).lognormal(size=4_000), np.random.default_rng(1)
    fine = rng.random(4_000) < 0.5
    assert found(np.where(fine, np.round(x, 4), np.round(x, 1))) == []


def test_a_value_that_is_a_few_times_as_frequent_as_its_neighbours_is_no_atom():
    grid = 0.5 + np.arange(30.0) / 4
    assert found(np.concatenate([np.repeat(grid, 50), np.full(160, grid[9])])) == []


def test_points_are_held_at_the_atoms_of_rows():
    columns = resolve_columns(None, None, NAMES)
    x, points = torch.tensor([[0.0, 3.0, 0.0]]).double(), torch.full((1, 3), 7.0).double()
    assert columns.with_atoms_of(x, points) is points
    atoms = replace(columns, atoms=TWO)
    assert atoms.with_atoms_of(x, points).tolist() == [[0.0, 7.0, 7.0]]
    u = torch.zeros(2, 3).double()
    u[0, 2] = 1.0
    only = replace(columns, atoms=Atoms.of({0: [0.0], 1: [0.0], 2: [0.0]}, 3))
    assert only.with_density(u, Identity()).tolist() == u[:1].tolist()
    assert len(only.with_density(u[1:], Identity())) == 1  # better than none


def test_whole_numbers_have_no_atoms_though_not_declared():
    x = np.round(50.0 * continuous(2_000))
    assert found(np.where(np.arange(2_000) % 2, x, 0.0)) == []


def test_zeros_of_a_rounded_column_are_an_atom():
    x = np.round(10.0 + 20.0 * continuous(2_000), 1)
    assert found(np.where(np.arange(2_000) % 2, x, 0.0)) == [0.0]


def test_iris_has_no_atoms(iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_atoms(iris, np.ones(4, dtype=bool), NAMES)) == 0


def test_columns_that_are_no_candidates_have_none():
    assert found(with_copies({0.0: 250}), whole=True) == []


def test_a_column_of_a_few_values_is_named():
    x = np.random.default_rng(0).choice([0.0, 0.25, 0.5], size=(200, 1))
    X = np.column_stack([continuous(200), x, continuous(200, 1)])
    with pytest.warns(DegenerateDataWarning, match=r"at most 20 different values.*share"):
        assert len(find_atoms(X, np.ones(3, dtype=bool), NAMES)) == 0


def resolved(atoms, X=None, bounds=None, integer_features=None):
    X = np.column_stack([with_copies({0.0: 200}), *np.zeros((2, 500))]) if X is None else X
    X[:, 1], X[:, 2] = continuous(len(X), 3), np.arange(len(X)) % 7
    columns = resolve_columns(bounds, integer_features, NAMES)
    return resolve_atoms(atoms, columns, X).atoms


def test_atoms_are_given_by_name_or_number():
    for key in ("rain", 0, np.int64(0)):
        assert resolved({key: [0]}).by_column() == {0: np.array([0.0])}
    both = resolved({1: (2, 0.5), "rain": np.array([0.0])})
    assert both.values.tolist() == [0.0, 0.5, 2.0]
    assert both.columns.tolist() == [0, 1, 1]


def test_no_atoms_is_none():
    assert resolved(None) is None
    assert resolved({}) is None
    assert resolved("auto", integer_features=["height"]).by_column() == {0: np.array([0.0])}


@pytest.mark.parametrize(
    ("atoms", "parameters", "message"),
    [
        ({"snow": [0]}, {}, r"atoms names 'snow', but the columns of X are rain, share, height"),
        ({3: [0]}, {}, r"atoms names 3, but the columns of X are .* or 0 to 2 by number"),
        ({"rain": [0], 0: [0]}, {}, r"atoms name a column twice.*\['rain', 0\]; use one key"),
        ({"rain": [0, np.nan]}, {}, r"atoms of rain must be finite numbers, such as \[0\.0\]"),
        ({"rain": "zero"}, {}, r"atoms of rain must be finite numbers.*got 'zero'"),
        ({"rain": [None]}, {}, r"atoms of rain must be finite numbers.*got \[None\]"),
        ({"rain": [10**400]}, {}, r"atoms of rain must be finite numbers"),
        (
            {"height": [0]},
            {"integer_features": ["height"]},
            r"atoms name height, which is in integer_features.*remove it from one of them",
        ),
        (
            {"rain": [-1]},
            {"bounds": {"rain": (0, None)}},
            r"atoms of rain include -1, which is outside its bounds \[0, inf\]; change atoms or",
        ),
        ({"rain": [1.0, 1.0 + 1e-9]}, {}, r"atoms of rain must differ by more than rounding"),
        ({"height": range(6)}, {}, r"all or all but one of the values are atoms in height; drop"),
    ],
)
def test_atoms_that_make_no_sense_are_refused(atoms, parameters, message):
    with pytest.raises(ValueError, match=message):
        resolved(atoms, **parameters)


def rows_of_two(n=400, seed=0):
    """Two columns that are zero together more often than by chance, and one without atoms."""
    rng = np.random.default_rng(seed)
    dry = rng.random(n) < 0.3
    X = rng.lognormal(size=(n, 3))
    X[dry | (rng.random(n) < 0.1), 0] = 0.0
    X[dry | (rng.random(n) < 0.1), 1] = 0.0
    return X


TWO = Atoms.of({0: [0.0], 1: [0.0]}, 3)
PATTERNS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)


def test_masses_are_near_the_frequencies_and_add_up_to_one():
    X = rows_of_two()
    masses = estimate_masses(TWO, X, np.ones(len(X)))
    p = masses.log_prob(PATTERNS).exp().numpy()
    assert abs(p.sum() - 1.0) < 1e-12
    zero = X[:, :2] == 0
    frequencies = [(zero == pattern).all(axis=1).mean() for pattern in PATTERNS.numpy() > 0]
    np.testing.assert_allclose(p, frequencies, atol=0.005)
    np.testing.assert_allclose(masses.marginals().numpy(), zero.mean(axis=0), atol=0.002)


def test_independent_columns_are_told_by_the_likelihood():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((60, 8)) < 0.5, 0.0, rng.lognormal(size=(60, 8)))
    atoms = Atoms.of({j: [0.0] for j in range(8)}, 8)
    # Most of the 256 patterns occur at most once: the frequencies say little.
    assert estimate_masses(atoms, X, np.ones(60)).mixing < 0.2
    together = np.where(rng.random((60, 1)) < 0.5, 0.0, X + 1.0)
    assert estimate_masses(atoms, together, np.ones(60)).mixing > 0.9


def test_unseen_patterns_and_atoms_have_a_positive_mass():
    X = rows_of_two()
    atoms = Atoms.of({0: [0.0, 77.0], 1: [0.0]}, 3)
    masses = estimate_masses(atoms, X, np.ones(len(X)))
    log_mass = masses.log_prob(torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64))
    assert -12.0 < float(log_mass) < -5.0


def test_weights_count_as_copies_of_rows():
    X = rows_of_two()
    weight = 1.0 + (np.arange(len(X)) % 3 == 0)
    weighted = estimate_masses(TWO, X, weight)
    copies_of_rows = np.repeat(X, weight.astype(int), axis=0)
    copied = estimate_masses(TWO, copies_of_rows, np.ones(len(copies_of_rows)))
    np.testing.assert_allclose(
        weighted.log_prob(PATTERNS).numpy(), copied.log_prob(PATTERNS).numpy(), atol=0.03
    )


def scaled(X, name="gaussianize", **parameters):
    columns = resolve_columns(parameters.get("bounds"), None, NAMES)
    columns = resolve_atoms({0: [0.0], 1: [0.0]}, columns, X)
    generator = torch.Generator().manual_seed(0)
    return columns.estimate_scaling(
        name, X, np.ones(len(X)), np.zeros(3), generator, parameters.get("chosen")
    )


@pytest.mark.parametrize("name", ["standardize", "whiten", "power", "gaussianize", None])
def test_scaling_is_estimated_from_the_entries_that_are_at_no_atom(name):
    X = rows_of_two(1_500)
    scaling = scaled(X, name)
    u = scaling(torch.from_numpy(X)).numpy()
    for j in (0, 1, 2):
        inside = u[X[:, j] != 0, j]
        if name is not None:
            assert abs(inside.mean()) < 0.1
            assert abs(inside.std() - 1.0) < 0.1
    if name == "gaussianize":
        assert gaussianized_columns(scaling) <= {0, 1, 2}
    np.testing.assert_allclose(scaling.inverse(torch.from_numpy(u)).numpy(), X, rtol=1e-6)


def test_gaussianized_columns_are_numbered_as_those_of_the_rows():
    X = rows_of_two(2_000)
    X = np.log(X, out=np.zeros_like(X), where=X > 0)
    X[:, 1] = np.where(X[:, 1] == 0, 0.0, X[:, 1] + 8.0 * (np.arange(2_000) % 2))  # two modes
    assert gaussianized_columns(scaled(X)) == {1}
    assert gaussianized_columns(scaled(X, chosen=[])) == set()
    assert gaussianized_columns(scaled(X, chosen=[0, 1])) == {0, 1}


def test_each_part_has_the_bounds_of_its_columns():
    scaling = scaled(rows_of_two(), bounds={1: (0, None), 2: (0, 99)})
    uppers = [[p.upper for p in part.modules() if isinstance(p, Bounds)] for part in scaling.parts]
    assert [columns.tolist() for columns in scaling.columns] == [[2], [0], [1]]
    assert uppers == [[torch.tensor([99.0])], [], [torch.tensor([torch.inf])]]


def test_rows_that_are_only_masses_are_no_copies():
    X = rows_of_two()[:, :2]
    atoms = Atoms.of({0: [0.0], 1: [0.0]}, 2)
    assert copies(X)[0] > 0.2
    assert copies(X, lambda X: atoms.reached(X).all(axis=1)) == (0.0, None)
