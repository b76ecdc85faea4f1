"""Laws of the scalings, over a registry, and their estimation from data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import PowerTransformer

from skinterflow._data.covariance import best_covariance
from skinterflow._data.scaling import _powers, estimate_scaling
from skinterflow.interflow import marginals
from skinterflow.interflow.derivatives import directional_derivative
from skinterflow.interflow.marginals import Bounds, Gaussianize, YeoJohnson
from skinterflow.interflow.scaling import Compose, Standardize, Whiten
from tests.helpers import learned_gaussian, vector

NONE_CONSTANT = np.zeros(1)


def whiten(matrix):
    return Whiten(matrix, torch.linalg.inv(matrix))


INF = float("inf")
_TWO_MIXTURES = ([[0.5, 0.5], [1.0, 0.0]], [[-5.0, 5.0], [1.0, 900.0]], [[2.0, 1.0], [1.0, 1e-3]])
"""Weights, means and deviations of a mixture for each of two columns; 50 deviations away its mass
is too small for a number."""
SCALINGS = {
    "learned Gaussian": lambda gaussian=learned_gaussian(): gaussian,
    "standardize": lambda: Standardize(vector(1.0, -2.0), vector(3.0, 0.1)),
    "whiten": lambda: whiten(torch.tensor([[2.0, 0.5], [0.3, -1.0]], dtype=torch.float64)),
    "power": lambda: YeoJohnson(vector(0.3, 1.7)),
    "power at its limits": lambda: YeoJohnson(vector(0.0, 2.0)),
    "gaussianize": lambda: Gaussianize(
        torch.tensor([1]),
        *(vector(*part)[None] for part in ([0.2, 0.5, 0.3], [-30.0, 0.0, 20.0], [5.0, 0.3, 10.0])),
    ),
    "gaussianize, a component without weight": lambda: Gaussianize(
        torch.tensor([0, 1]),
        *(torch.stack([vector(*row) for row in part]) for part in _TWO_MIXTURES),
    ),
    "bounds, two and lower": lambda: Bounds(
        vector(-51.0, -50.5), vector(60.0, INF), vector(1.0, 20.0)
    ),
    "bounds, upper and none": lambda: Bounds(
        vector(-INF, -INF), vector(50.5, INF), vector(3.0, 1.0)
    ),
    "identity": lambda: Compose([]),
    "all": lambda: Compose([SCALINGS["standardize"](), SCALINGS["power"](), SCALINGS["whiten"]()]),
}
over_registry = pytest.mark.parametrize("make", SCALINGS.values(), ids=SCALINGS)
ROWS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=4)


@over_registry
@given(rows=ROWS)
def test_inverse_undoes_the_map(make, rows):
    x = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(make().inverse(make()(x)), x, rtol=1e-8, atol=1e-8)


@over_registry
@given(rows=ROWS)
def test_log_det_equals_autodiff(make, rows):
    x = torch.tensor(rows, dtype=torch.float64)
    jacobians = torch.stack([torch.func.jacrev(lambda row: make()(row[None])[0])(row) for row in x])
    torch.testing.assert_close(make().log_abs_det(x), torch.linalg.slogdet(jacobians).logabsdet)


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0, 2.0])
def test_power_map_equals_scikit_learn(power):
    x = np.linspace(-4, 4, 33)[:, None]
    reference = PowerTransformer(standardize=False).fit(x)
    reference.lambdas_ = np.array([power])
    np.testing.assert_allclose(
        YeoJohnson(vector(power))(torch.from_numpy(x)), reference.transform(x), atol=1e-12
    )


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0, 2.0])
def test_power_map_has_its_derivatives_at_zero(power):
    """Where a row is the median of its column; by a sign that is zero there, scores and velocities
    were zero, too."""
    scaling, zero, one = (
        YeoJohnson(vector(power)),
        torch.zeros(1, 1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
    )
    assert directional_derivative(scaling, zero, one)[1].item() == pytest.approx(1.0)
    assert directional_derivative(scaling.inverse, zero, one)[1].item() == pytest.approx(1.0)
    assert directional_derivative(scaling.log_abs_det, zero, one)[1].item() == pytest.approx(
        power - 1.0
    )


def test_estimated_powers_equal_scikit_learn():
    x = np.random.default_rng(0).gamma(2.0, size=(300, 2)) - 1.0
    expected = PowerTransformer(standardize=False).fit(x).lambdas_
    np.testing.assert_allclose(_powers(x, np.ones(300)).lambdas, np.clip(expected, 0, 2), atol=1e-3)


def test_normal_columns_keep_the_power_one():
    x = np.random.default_rng(0).normal(size=(100, 30))
    powers = _powers(x, np.ones(100)).lambdas
    assert (powers == 1.0).all()
    assert (_powers(np.exp(x), np.ones(100)).lambdas < 0.9).all()


@pytest.mark.parametrize("kind", ["power", "whiten", "standardize"])
def test_weights_count_as_repetitions(kind):
    rng = np.random.default_rng(1)
    x, weight = np.exp(rng.normal(size=(60, 3))), rng.integers(1, 4, size=60)
    weighted = estimate_scaling(kind, x, weight.astype(float), NONE_CONSTANT, torch.Generator())
    repeated = estimate_scaling(
        kind, np.repeat(x, weight, axis=0), np.ones(weight.sum()), NONE_CONSTANT, torch.Generator()
    )
    u, v = weighted(torch.from_numpy(x)), repeated(torch.from_numpy(x))
    np.testing.assert_allclose(
        u, v, atol=0.05 if kind != "standardize" else 1e-12
    )  # the shrinkage looks at the rows alone


@pytest.mark.parametrize("mixed", [False, True])
def test_whitening_is_the_root_of_the_best_precision(mixed):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 3)) @ (rng.normal(size=(3, 3)) if mixed else np.eye(3)) + 5.0
    standardize, whiten = estimate_scaling(
        "whiten", x, np.ones(200), NONE_CONSTANT, torch.Generator()
    ).parts
    standardised = standardize(torch.from_numpy(x)).numpy()
    precision = np.linalg.inv(best_covariance(standardised, np.ones(200)))
    shrunk = LedoitWolf(assume_centered=True).fit(standardised).precision_
    assert np.allclose(precision, shrunk) == (not mixed)
    np.testing.assert_allclose(whiten.matrix.T @ whiten.matrix, precision, rtol=1e-9, atol=1e-9)


def peaked_columns(n_rows=4000):
    """Independent columns: a peak between heavy tails, a sharp edge, two modes; and a normal
    one."""
    rng = np.random.default_rng(4)
    peaked = rng.normal(size=n_rows) * rng.exponential(size=n_rows)
    sides = np.where(rng.random(n_rows) < 0.4, -3.0, 2.0)
    return np.column_stack(
        [peaked, rng.exponential(size=n_rows) ** 0.3, rng.normal(sides), rng.normal(size=n_rows)]
    )


def gaussianized(X, weight=None):
    """The numbers of the columns that "gaussianize" chose, and the rows in its units before the
    whitening."""
    weight = np.ones(len(X)) if weight is None else weight
    scaling = estimate_scaling("gaussianize", X, weight, np.zeros(X.shape[1]), torch.Generator())
    *before, whiten = scaling.parts
    assert isinstance(whiten, Whiten)
    return [
        j
        for part in scaling.modules()
        if isinstance(part, Gaussianize)
        for j in part.columns.tolist()
    ], Compose(before)


def test_columns_far_from_normal_become_normal():
    X = peaked_columns()
    chosen, scaling = gaussianized(X)
    assert chosen == [0, 2]  # of a power map the edge becomes normal enough
    u = np.sort(scaling(torch.from_numpy(X))[:, chosen].numpy(), axis=0)
    levels = (np.arange(len(X)) + 0.5) / len(X)
    assert np.abs(ndtr(u) - levels[:, None]).max() < 0.025
    _, power = gaussianized(X[:700])  # too few rows for it
    before = np.sort(power(torch.from_numpy(X))[:, chosen].numpy(), axis=0)
    assert np.abs(ndtr(before) - levels[:, None]).max(axis=0).min() > 0.04


def test_columns_of_few_values_and_of_linear_relations_are_left():
    """A copy with a little noise says more about its column than a map could gain."""
    X = peaked_columns()
    few = np.round(X[:, [2]], 0)
    related = X[:, [0]] + 0.02 * X[:, [3]]
    assert gaussianized(np.column_stack([few, X[:, 0], related]))[0] == []
    assert gaussianized(np.column_stack([few, X[:, 0], X[:, 3]]))[0] == [1]


def test_the_inverse_is_found_beside_edges_and_between_modes():
    """Slopes that differ by a factor of a hundred from one point to the next: Newton's steps alone
    go round in circles."""
    parts = ([0.3, 0.3, 0.3, 0.1], [0.0, 0.05, 3.0, 9.0], [0.02, 0.02, 1.5, 0.05])
    scaling = Gaussianize(torch.tensor([0]), *(vector(*part)[None] for part in parts))
    u = torch.linspace(-9.0, 9.0, 4001, dtype=torch.float64)[:, None]
    x = scaling.inverse(u)
    assert (x.diff(dim=0) > 0).all()
    torch.testing.assert_close(scaling(x), u, rtol=0, atol=1e-9)


def test_gaussianized_rows_do_not_depend_on_their_block(monkeypatch):
    scaling, x = (
        SCALINGS["gaussianize, a component without weight"](),
        torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    u, log_det = scaling(x), scaling.log_abs_det(x)
    monkeypatch.setattr(marginals, "_BLOCK_NUMBERS", 28)
    torch.testing.assert_close(scaling(x), u, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(scaling.log_abs_det(x), log_det, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(scaling.inverse(u), x, rtol=1e-10, atol=1e-10)
    assert scaling(x[:0]).shape == (0, 2)


def test_weights_of_gaussianized_columns_count_as_repetitions():
    X = peaked_columns(2000)[:, [0]]
    weight = np.random.default_rng(5).integers(1, 4, size=len(X))
    (chosen, weighted), (_, repeated) = (
        gaussianized(X, weight.astype(float)),
        gaussianized(np.repeat(X, weight, axis=0)),
    )
    assert chosen == [0]
    x = torch.linspace(-4.0, 4.0, 50, dtype=torch.float64)[:, None]
    torch.testing.assert_close(weighted(x), repeated(x), rtol=0, atol=0.1)


def test_heavy_outlier_does_not_decide_the_scale():
    x = np.random.default_rng(3).normal(size=(1000, 1))
    x[0] = 1e6
    u = estimate_scaling("power", x, np.ones(1000), NONE_CONSTANT, torch.Generator())(
        torch.from_numpy(x)
    ).numpy()
    assert np.std(u[1:]) > 0.5
    assert np.abs(u).max() < 50


def test_given_scaling_is_used_as_it_is():
    scaling = SCALINGS["all"]()
    assert (
        estimate_scaling(scaling, np.ones((3, 2)), np.ones(3), NONE_CONSTANT, torch.Generator())
        is scaling
    )


KINDS = {
    "two": Bounds(vector(-1.0), vector(3.0), vector(1.0)),
    "lower": Bounds(vector(-1.0), vector(INF), vector(2.0)),
    "upper": Bounds(vector(-INF), vector(3.0), vector(0.5)),
}
over_kinds = pytest.mark.parametrize("bounds", KINDS.values(), ids=KINDS)


def inside(bounds, distances):
    """Points at these distances from a bound, and from the other if there are two: shape (B, 1)."""
    d = torch.tensor(distances, dtype=torch.float64)[:, None]
    points = [bounds.lower + d, bounds.upper - d]
    return torch.cat([x for x in points if torch.isfinite(x).all()])


@over_kinds
@given(exponents=st.lists(st.floats(-12.0, 0.0), min_size=1, max_size=4))
def test_bounds_are_undone_as_close_to_them_as_numbers_go(bounds, exponents):
    x = inside(bounds, [10.0**e for e in exponents])
    torch.testing.assert_close(bounds.inverse(bounds(x)), x, rtol=0, atol=1e-15)


@over_kinds
def test_bounds_are_increasing_and_have_finite_slopes_everywhere(bounds):
    far = [10.0**e for e in range(1, 13)] if torch.isinf(bounds.upper - bounds.lower) else []
    x = inside(bounds, [10.0**e for e in range(-12, 0)] + [0.5, 1.0, 1.9] + far).sort(dim=0).values
    u = bounds(x)
    assert (u.diff(dim=0) > 0).all()
    torch.testing.assert_close(bounds.inverse(u), x, rtol=1e-12, atol=1e-15)
    slopes = torch.func.jvp(bounds, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(
        bounds.log_abs_det(x), slopes[:, 0].log(), rtol=1e-9, atol=1e-3
    )  # 1e12 away little is left of the digits
    near = (x[:, 0].abs() < 1e3).nonzero()[:, 0]
    torch.testing.assert_close(
        bounds.log_abs_det(x[near]), slopes[near, 0].log(), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        torch.func.jvp(bounds.inverse, (u,), (slopes,))[1], torch.ones_like(x), rtol=1e-3, atol=0
    )


def test_uniform_and_exponential_columns_become_normal():
    p = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    x = torch.stack([4.0 * p - 1.0, -1.0 - 3.0 * torch.log1p(-p)], dim=1)
    bounds = Bounds(vector(-1.0, -1.0), vector(3.0, INF), vector(1.0, 3.0 * np.log(2.0)))
    torch.testing.assert_close(bounds(x), torch.special.ndtri(p)[:, None].expand(-1, 2))


@over_kinds
def test_points_on_a_bound_are_moved_inside(bounds):
    unit = 4.0 if torch.isfinite(bounds.upper - bounds.lower) else bounds.scale
    for bound, inward in ((bounds.lower, 1.0), (bounds.upper, -1.0)):
        if torch.isfinite(bound):
            x, moved = (
                bound[None] - inward * torch.tensor([[0.0], [1e-9]]).double(),
                bound[None] + inward * 1e-6 * unit,
            )
            torch.testing.assert_close(bounds(x), bounds(moved).expand(2, 1))
            torch.testing.assert_close(bounds.log_abs_det(x), bounds.log_abs_det(moved).expand(2))
            assert torch.isfinite(bounds(x)).all()


@over_kinds
def test_no_point_leaves_the_bounds(bounds):
    x = bounds.inverse(torch.linspace(-60.0, 60.0, 241, dtype=torch.float64)[:, None])
    assert (x >= bounds.lower).all()
    assert (x <= bounds.upper).all()
    assert (x.diff(dim=0) >= 0).all()


def test_derivatives_hold_beside_columns_of_other_kinds():
    """The branches that are not taken leave no NaN."""
    bounds = Bounds(
        vector(0.0, 0.0, -INF, -INF), vector(1.0, INF, 0.0, INF), vector(1.0, 1.0, 1.0, 1.0)
    )
    x = torch.tensor(
        [[0.5, 1.0, -1.0, -5.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1e8, -1e8, 1e8]],
        dtype=torch.float64,
        requires_grad=True,
    )
    (gradient,) = torch.autograd.grad(bounds(x).sum() + bounds.log_abs_det(x).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient[0] != 0).all()
