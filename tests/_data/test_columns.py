"""Columns with bounds and columns of whole numbers, from the parameters to the mass of a row."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.model_selection import GridSearchCV

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity
from skinterflow._data.batches import Reader, training_rows
from skinterflow._data.columns import cell_rules, resolve_columns
from skinterflow._runtime import seeded_generators
from skinterflow.interflow.flows import Estimate
from skinterflow.interflow.marginals import Bounds
from skinterflow.interflow.scaling import Compose, Standardize
from tests.helpers import QUICK

INF = np.inf


def quick(**parameters):
    """One field on all rows, which a bounded column needs no longer, because it is nearly normal
    after its map."""
    return InterpolantFlowDensity(**(QUICK | {"early_stopping": False} | parameters))


def tiny(**parameters):
    """For what holds however good the fit."""
    return quick(**({"max_iter": 3, "hidden_layer_sizes": (8,)} | parameters))


def drawn(law, n=300, seed=0):
    return law.rvs(n, random_state=np.random.default_rng(seed))[:, None].astype(float)


def kl(law, density, n=400):
    """KL divergence of the density from the law of a single column, over its quantiles."""
    x = law.ppf((np.arange(n) + 0.5) / n)[:, None]
    return (law.logpdf(x[:, 0]) - density.score_samples(x)).mean()


@pytest.fixture(scope="module")
def mixed():
    """Three columns: within [0, 1], a count that grows with it, and one without bounds."""
    rng = np.random.default_rng(0)
    share = rng.beta(2.0, 5.0, size=200)
    return np.column_stack([share, rng.poisson(4.0 * share), rng.normal(size=200)])


@pytest.fixture(scope="module")
def mixed_density(mixed):
    """Tests must not change it."""
    return quick(bounds={0: (0, 1), 1: (0, None)}, integer_features=[1]).fit(mixed)


@pytest.mark.parametrize(
    ("law", "pair"),
    [
        (stats.beta(2, 5), (0, 1)),
        (stats.uniform(-1, 4), (-1.0, 3)),
        (stats.expon(), (0, None)),
        (stats.expon(), (0, INF)),
    ],
    ids=["beta", "uniform", "exponential", "exponential, open by infinity"],
)
def test_nothing_leaks_out_of_the_bounds(law, pair):
    density = quick(bounds=[pair], max_iter=100).fit(drawn(law, 600))
    low, high = law.support()
    n, end = 1000, min(high, 15.0)
    inside = low + (np.arange(n) + 0.5) / n * (end - low)
    assert np.exp(density.score_samples(inside[:, None])).mean() * (end - low) == pytest.approx(
        1.0, abs=2e-3
    )
    assert kl(law, density) < 0.02
    outside = np.array([[low - 1e-9], [high + 1.0]])[: 1 + np.isfinite(high)]
    value, error = density.score_samples(outside, return_error=True)
    assert (value == -INF).all()
    assert (error == 0).all()
    samples = density.sample(2000, random_state=0)
    assert samples.min() >= low
    assert samples.max() <= high
    assert stats.kstest(samples[:, 0], law.cdf).statistic < 0.1


def test_rows_outside_do_not_disturb_the_others(mixed, mixed_density):
    rows = np.vstack([mixed[:2], [[1.5, 0.0, 0.0], [0.5, -1.0, 0.0], [0.5, 1.5, 0.0]], mixed[2:4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = mixed_density.score_samples(rows)
    assert (scores[2:5] == -INF).all()
    np.testing.assert_allclose(
        scores[[0, 1, 5, 6]], mixed_density.score_samples(mixed[:4]), rtol=1e-12
    )
    assert (mixed_density.score_samples(rows[2:5]) == -INF).all()
    assert mixed_density.score(rows) == -INF
    weight = [1, 1, 0, 0, 0, 1, 1]
    assert mixed_density.score(rows, sample_weight=weight) == pytest.approx(
        mixed_density.score(mixed[:4])
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda d, x: d.transform(x),
        lambda d, x: d.score_gradient(x),
        lambda d, x: d.velocity(x, 0.5),
        lambda d, x: d.trajectory(x, [1.0, 0.0]),
        lambda d, x: d.diagnose(x),
        lambda d, x: d.diffusion_log_density(x),
        lambda d, x: d.diagnose_likelihood(x),
    ],
    ids=[
        "transform",
        "score_gradient",
        "velocity",
        "trajectory",
        "diagnose",
        "diffusion_log_density",
        "diagnose_likelihood",
    ],
)
def test_what_needs_a_latent_names_the_columns_of_rows_outside(mixed, mixed_density, use):
    rows = mixed[:10].copy()
    rows[:3, 0], rows[4, 1] = 2.0, -1.0
    message = (
        r"bounds does not allow in column 0 \(3 of 10 rows outside \[0, 1\]\), "
        r"column 1 \(1 of 10 rows outside \[-0.5, inf\]\); drop"
    )
    with pytest.raises(ValueError, match=message):
        use(mixed_density, rows)


def test_derivatives_are_finite_up_to_the_bounds(mixed, mixed_density):
    rows = mixed[:6].copy()
    rows[:, 0] = [0.0, 1.0, 1e-12, 1e-300, 1.0 - 1e-12, 0.5]
    rows[:, 1] = [0, 1, 2, 30, -0.5, 0]
    for t in (None, 0.5):
        assert np.isfinite(mixed_density.score_gradient(rows, t=t)).all()
    assert np.isfinite(mixed_density.velocity(rows, 0.5)).all()
    assert np.isfinite(mixed_density.trajectory(rows, [1.0, 0.5, 0.0])).all()


def test_score_is_the_gradient_of_the_log_density():
    x = drawn(stats.beta(2, 5))
    density = tiny(bounds=[(0, 1)]).fit(x)
    rows, step = np.array([[0.05], [0.3], [0.9]]), 1e-5
    slope = (density.score_samples(rows + step) - density.score_samples(rows - step)) / (2 * step)
    np.testing.assert_allclose(density.score_gradient(rows)[:, 0], slope, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_come_back_within_their_bounds(mixed, mixed_density, dtype):
    """However far out the latent is, whatever the rounding."""
    density = tiny(bounds=[(0.7, 1.1)], end_time=0.5).fit(
        np.random.default_rng(0).uniform(0.7, 1.1, size=(100, 1)).astype(dtype)
    )
    latent = np.linspace(-50, 50, 101)[:, None].astype(dtype)
    back = density.inverse_transform(latent)
    assert back.dtype == dtype
    assert (back.astype(np.float64) >= 0.7).all()
    assert (back.astype(np.float64) <= 1.1).all()
    assert np.isfinite(density.score_samples(back)).all()
    assert np.isfinite(
        density.score_samples(np.array([[0.7], [1.1]], dtype=dtype))
    ).all()  # float32 rounds both to the outside
    rows = mixed_density.inverse_transform(mixed_density.transform(mixed.astype(dtype)))
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows, mixed, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "t"), [("ode", None), ("ode", 0.5), ("ode", 0.0), ("sde", None)]
)
def test_samples_are_whole_and_inside_at_every_time(mixed_density, method, t):
    samples = mixed_density.sample(300, random_state=0, method=method, t=t, n_steps=20)
    assert ((samples[:, 0] >= 0) & (samples[:, 0] <= 1)).all()
    assert (samples[:, 1] >= 0).all()
    np.testing.assert_array_equal(samples[:, 1], np.rint(samples[:, 1]))
    assert np.isfinite(mixed_density.score_samples(samples[:20], t=t)).all()


@pytest.mark.parametrize("bounds", [None, [(0, None)]], ids=["no bounds", "from zero"])
def test_masses_of_a_count_sum_to_one(bounds):
    law = stats.poisson(3.0)
    density = quick(integer_features=[0], bounds=bounds).fit(drawn(law, 400))
    k = np.arange(-5, 30)
    log_mass, error = density.score_samples(k[:, None], return_error=True)
    assert np.exp(log_mass).sum() == pytest.approx(1.0, abs=0.01)
    likely = law.pmf(k) > 0.01
    assert np.abs(np.exp(log_mass) - law.pmf(k))[likely].max() < 0.05
    assert (error[likely] > 0).all()
    assert (error[likely] < 0.2).all()
    if bounds:
        assert (log_mass[:5] == -INF).all()
    assert (density.score_samples([[0.5], [3.1]]) == -INF).all()
    frequency = (density.sample(2000, random_state=0) == k).mean(axis=0)
    assert np.abs(frequency - np.exp(log_mass)).max() < 0.03


def test_masses_of_a_table_sum_to_one():
    rng = np.random.default_rng(0)
    x = rng.binomial(3, 0.4, size=300)
    table = np.column_stack([x, rng.binomial(1, 0.2 + 0.2 * x)])
    density = quick(integer_features=[True, True], bounds=[(0, 3), (-0.5, 1.5)]).fit(table)
    cells = np.array([(a, b) for a in range(4) for b in range(2)], dtype=float)
    mass = np.exp(density.score_samples(cells))
    assert mass.sum() == pytest.approx(1.0, abs=0.01)
    frequency = (table == cells[:, None]).all(axis=2).mean(axis=1)
    assert np.abs(mass - frequency).max() < 0.1
    assert set(np.unique(density.sample(500, random_state=0)[:, 1])) == {0.0, 1.0}


def test_density_times_mass_adds_up_to_one():
    rng = np.random.default_rng(0)
    x = rng.beta(2.0, 2.0, size=300)
    density = tiny(integer_features=[1], bounds=[(0, 1), (0, None)]).fit(
        np.column_stack([x, rng.poisson(1.0 + 3.0 * x)])
    )
    n, counts = 50, 20
    grid = np.stack(
        np.meshgrid((np.arange(n) + 0.5) / n, np.arange(counts), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    assert np.exp(density.score_samples(grid)).sum() / n == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("n_columns", [1, 2, 3, 12])
def test_rules_integrate_over_the_cell(n_columns, level):
    rules = cell_rules(n_columns, level)
    assert (np.abs(rules.offsets) < 0.5).all()
    slopes = np.array([1.0, -2.0, 0.5])[: min(n_columns, 3)]
    integral = np.prod(2.0 * np.sinh(slopes / 2.0) / slopes)
    values = np.exp(rules.offsets[:, : len(slopes)] @ slopes)
    for log_weights, error in ((rules.fine, 0.01), (rules.coarse, 0.02)):
        assert np.exp(log_weights).sum() == pytest.approx(1.0)
        assert np.exp(log_weights) @ values == pytest.approx(integral, rel=error / 2**level)


@pytest.mark.parametrize("n_rows", [6, 6000])
def test_training_hardly_sees_the_same_noise_twice(n_rows):
    X = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    reader = Reader(
        X, np.ones(n_rows), np.zeros(2), Compose([]), torch.device("cpu"), np.array([False, True])
    )
    generators = seeded_generators(0, torch.device("cpu"))
    source = training_rows(reader, torch.tensor([3]), generators.cpu)
    u = torch.cat([source.batch(number, 500, generators)[0] for number in range(40)]).numpy()
    rows = (u[:, 0] / 2).astype(int)
    noise = u[:, 1] - X[rows, 1]
    assert 3 not in rows
    assert len(np.unique(rows)) > 0.8 * n_rows
    assert stats.kstest(noise[rows < 100], stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3
    assert len(np.unique(u, axis=0)) > 0.5 * len(u)


def test_latents_are_of_the_middle_of_the_cells_and_points_in_them(mixed, mixed_density):
    rows = mixed[:5].copy()
    centre = mixed_density.transform(rows)
    rows[:, 1] += 0.3
    np.testing.assert_array_less(0.0, np.abs(mixed_density.transform(rows) - centre).max(axis=1))
    np.testing.assert_allclose(
        mixed_density.inverse_transform(mixed_density.transform(rows))[:, 1], mixed[:5, 1]
    )


def test_diagnosis_spreads_whole_numbers():
    """On the numbers themselves, two of them, the latents would be at two points."""
    X = np.random.default_rng(0).integers(2, size=(200, 1)).astype(float)
    diagnosis = tiny(integer_features=[0], bounds=[(0, 1)]).fit(X).diagnose(X, random_state=0)
    assert diagnosis.latent_ks.max() < 0.1


def wave(x):
    """Smooth for cells of the second column around 2, and steep in those around 7."""
    steep = -80.0 * (x[:, 1] - 7.0) * ((x[:, 1] - 7.0).abs() < 1.0)
    return Estimate(
        torch.sin(2.0 * x[:, 1]) + x[:, 0] + steep, 0.1 * torch.ones(len(x)), x[:, 1] > 20.0
    )


def test_mass_is_an_integral_and_its_error_that_of_a_coarser_rule():
    columns = resolve_columns(None, [1], ["a", "b"])
    x = torch.tensor([[0.5, 2.0], [1.0, 7.0], [0.0, 21.0]], dtype=torch.float64)
    n_seen = []

    def log_density(rows):
        n_seen.append(len(rows))
        return wave(rows)

    value, error, unresolved = columns.log_mass(
        log_density, x, lambda value: torch.full_like(value[:, 0], 1e-3)
    )
    offsets = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 - 0.5
    cells = torch.stack(
        [row + torch.stack([torch.zeros_like(offsets), offsets], dim=1) for row in x]
    )
    expected = torch.stack([wave(cell).value.logsumexp(0) for cell in cells]) - np.log(20_000)
    assert ((value - expected).abs() <= error - 0.1 + 1e-6).all()
    assert (error - 0.1 < 1e-3).all()
    assert unresolved.tolist() == [False, False, True]
    assert n_seen[0] == 9 * 3
    assert sum(n_seen) < 9 * 3 + 200  # one row alone needed more nodes


def test_cell_that_no_rule_resolves_is_counted():
    columns = resolve_columns(None, [0], ["a"])
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def jumping(rows):
        return Estimate(
            torch.where(rows[:, 0] < 0.313, 5e3 * rows[:, 0], 0.0),
            torch.zeros(len(rows)),
            torch.zeros(len(rows), dtype=bool),
        )

    _, error, unresolved = columns.log_mass(
        jumping, x, lambda value: torch.full_like(value[:, 0], 1e-3)
    )
    assert unresolved.tolist() == [True, False]
    assert error[0] > 0.1


@pytest.mark.slow
def test_masses_beside_a_continuous_column():
    """Levels 0, 1, 2: outer cells hold the edges of the noise, which nine midpoints missed by up to
    3.2 nats."""
    rng = np.random.default_rng(0)
    level = rng.choice(3, 1_000, p=[0.3, 0.5, 0.2]).astype(float)
    X = np.column_stack([level, level + rng.standard_normal(1_000)])
    density = quick(
        integer_features=[0], max_iter=500, batch_size=128, learning_rate_init=0.01, alpha=1.0
    ).fit(X)
    axis = np.linspace(-5, 8, 66)
    grid = np.stack(np.meshgrid(np.arange(-1.0, 4.0), axis, indexing="ij"), axis=-1).reshape(-1, 2)
    value, error = density.score_samples(grid, return_error=True)
    assert np.exp(value).sum() * (axis[1] - axis[0]) == pytest.approx(1.0, abs=2e-3)
    places = np.array([[k, k] for k in (-1.0, 0.0, 1.0, 2.0, 3.0)])
    within = copy.deepcopy(density).set_params(atol=1e-4)
    within.integer_features_ = np.zeros(2, dtype=bool)
    nodes = (np.arange(400) + 0.5) / 400 - 0.5
    truth = [
        np.log(np.exp(within.score_samples(place + nodes[:, None] * [1.0, 0.0])).mean())
        for place in places
    ]
    value, error = density.score_samples(places, return_error=True)
    assert (np.abs(value - truth) <= error + 1e-3).all()
    assert (error < 0.05).all()


@pytest.mark.slow
def test_masses_of_cells_where_the_density_ends():
    """A training that is long enough to learn the edges of the noise, at -0.5 and 2.5, without
    bounds to tell of them."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.choice(3, 1_000).astype(float), rng.standard_normal(1_000)])
    learned = {"max_iter": 500, "batch_size": 128, "learning_rate_init": 0.01, "alpha": 1.0}
    density = quick(integer_features=[0], **learned).fit(X)
    places = np.array([[k, x] for k in (-1.0, 0.0, 2.0, 3.0) for x in (-2.0, 1.0)])
    within = copy.deepcopy(density).set_params(atol=1e-4)
    within.integer_features_ = np.zeros(2, dtype=bool)
    nodes = (np.arange(400) + 0.5) / 400 - 0.5
    truth = [
        np.log(np.exp(within.score_samples(place + nodes[:, None] * [1.0, 0.0])).mean())
        for place in places
    ]
    density.set_params(atol=0.02)
    value, error = density.score_samples(places, return_error=True)
    np.testing.assert_allclose(value, truth, atol=0.02)  # nine midpoints were 1.6 nats off
    assert (error < 0.05).all()  # of the solver and of the rule, each within the tolerance


def test_names_and_numbers_and_masks_mean_the_same(mixed):
    frame = pd.DataFrame(mixed, columns=["share", "count", "rest"])
    by_name = tiny(bounds={"share": (0, 1), "count": (0, None)}, integer_features=["count"]).fit(
        frame
    )
    by_number = tiny(
        bounds=[(0, 1), (0, INF), None], integer_features=np.array([False, True, False])
    ).fit(mixed)
    np.testing.assert_array_equal(
        by_name.score_samples(frame[:9]), by_number.score_samples(mixed[:9])
    )
    np.testing.assert_array_equal(by_name.bounds_, [[0, 1], [0, INF], [-INF, INF]])
    np.testing.assert_array_equal(by_number.integer_features_, [False, True, False])
    by_array = tiny(bounds=by_name.bounds_, integer_features=(1,)).fit(mixed)
    np.testing.assert_array_equal(
        by_array.score_samples(mixed[:9]), by_number.score_samples(mixed[:9])
    )
    with pytest.raises(ValueError, match=r"share \(1 of 1 rows outside \[0, 1\]\)"):
        by_name.transform(frame.iloc[:1].assign(share=2.0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"bounds": {"price": (0, 1)}},
            "bounds names 'price', but the columns of X are column 0, column 1, column 2, or 0 to "
            "2 by number",
        ),
        ({"bounds": {3: (0, 1)}}, "bounds names 3, but"),
        ({"bounds": {-1: (0, 1)}}, "bounds names -1, but"),
        (
            {"bounds": {0: (0, 1), "column 0": (0, 2)}},
            r"bounds name a column twice, by name and by number, got keys \[0, 'column 0'\]",
        ),
        (
            {"bounds": [(0, 1)]},
            "bounds has 1 entries, but X has 3 columns; give a pair or None for each, or a dict",
        ),
        (
            {"bounds": {1: (1, 1)}},
            r"bounds of column 1 must be \(low, high\) with low < high, got \(1, 1\)",
        ),
        ({"bounds": {1: (2, 1)}}, "with low < high"),
        ({"bounds": {1: (np.nan, 1)}}, "with low < high"),
        (
            {"bounds": {1: (0, 1, 2)}},
            r"bounds of column 1 must be a pair \(low, high\) of numbers, with None .* got \(0, 1, "
            r"2\)",
        ),
        ({"bounds": {1: 7}}, "must be a pair .* got 7"),
        ({"bounds": {1: "ab"}}, "must be a pair .* got 'ab'"),
        (
            {"bounds": {1: (0.2, 0.8)}, "integer_features": [1]},
            r"bounds of column 1 contain no whole number, got \(0.2, 0.8\); widen",
        ),
        ({"bounds": "unit"}, "'bounds' parameter.*Got 'unit'"),
        ({"integer_features": ["n"]}, "integer_features names 'n', but the columns"),
        ({"integer_features": [True]}, "integer_features is a mask of 1 columns, but X has 3"),
        ({"integer_features": "n"}, "'integer_features' parameter.*Got 'n'"),
        (
            {"integer_features": [0, 2]},
            r"integer_features does not allow in column 0 \(200 of 200 rows not whole\), column 2 "
            r"\(200 of",
        ),
        (
            {"bounds": {0: (0, 1), 2: (0, None)}},
            r"bounds does not allow in column 2 \(\d+ of 200 rows outside \[0, inf\]\); drop",
        ),
    ],
)
def test_parameters_that_do_not_fit_the_columns(mixed, parameters, message):
    with pytest.raises(ValueError, match=message):
        tiny(**parameters).fit(mixed)


def test_point_mass_on_a_bound_is_named():
    X = np.random.default_rng(0).uniform(size=(100, 3))
    X[:10, 1], X[:3, 2] = 1.0, 0.0
    with pytest.warns(
        DegenerateDataWarning,
        match=r"1 column\(s\) have more than 5% of their rows on a bound, .*: column 1\.$",
    ):
        density = tiny(bounds=[(0, 1)] * 3, atoms=None).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = tiny(bounds=[(0, 1)] * 3).fit(X)
    assert density.atoms_[1] == [1.0]


@pytest.mark.parametrize("pair", [(0, None), (None, 0), (0, 1)])
@pytest.mark.filterwarnings("ignore::skinterflow.DegenerateDataWarning")
def test_constant_on_its_bound_is_fitted(pair):
    X = np.random.default_rng(0).normal(size=(60, 2))
    X[:, 0] = 0.0
    density = tiny(bounds={0: pair}).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    assert np.abs(density.sample(50, random_state=0)[:, 0]).max() < 0.1


def test_declared_columns_are_not_degenerate():
    """Neither for being whole, nor constant, nor the same as another: their noise spreads them."""
    count = np.random.default_rng(0).poisson(3, size=(100, 1)).astype(float)
    X = np.hstack([count, count, np.full((100, 1), 4.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = tiny(integer_features=[0, 1, 2]).fit(X)
    assert (density.sample(100, random_state=0)[:, 2] == 4).mean() > 0.8
    with pytest.warns(DegenerateDataWarning, match="integer-valued.*name them in integer_features"):
        tiny().fit(count)


@pytest.mark.parametrize(
    "scaling",
    ["whiten", "standardize", None, Standardize(torch.zeros(2).double(), torch.ones(2).double())],
)
def test_bounds_come_before_any_scaling(scaling):
    X = np.random.default_rng(0).exponential(size=(100, 2))
    density = tiny(scaling=scaling, bounds={1: (0, None)}).fit(X)
    first, second = density._target.parts
    assert isinstance(first, Bounds)
    np.testing.assert_allclose(first.scale[1], np.median(X[:, 1]), rtol=0.02)
    assert scaling is None or isinstance(second, Compose | Standardize)
    assert density.sample(100, random_state=0)[:, 1].min() >= 0
    assert np.isfinite(density.score(X))


def test_search_over_bounds():
    X = drawn(stats.uniform(), 200)
    grid = {"bounds": [None, {0: (0, 1)}]}
    search = GridSearchCV(tiny(scaling="standardize"), grid, cv=2).fit(X)
    assert search.best_params_ == {"bounds": {0: (0, 1)}}


def test_pickled_model_knows_its_columns(mixed, mixed_density):
    again = pickle.loads(pickle.dumps(mixed_density))
    rows = np.vstack([mixed[:3], [[2.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(again.score_samples(rows), mixed_density.score_samples(rows))
    np.testing.assert_array_equal(
        again.sample(5, random_state=0), mixed_density.sample(5, random_state=0)
    )


def test_warm_start_keeps_the_bounds_of_the_scaling():
    X = np.random.default_rng(0).uniform(size=(60, 1))
    density = tiny(warm_start=True, bounds=[(0, 1)]).fit(X)
    density.set_params(bounds=[(0, 2)], max_iter=6).fit(X)
    np.testing.assert_array_equal(density.bounds_, [[0, 1]])
    with pytest.raises(ValueError, match=r"column 0 \(60 of 60 rows outside \[0, 1\]\)"):
        density.fit(X + 1.0)


def test_student_of_bounded_and_whole_columns(mixed):
    density = tiny(bounds={0: (0, 1)}, integer_features=[1], student_layer_sizes=(8,)).fit(mixed)
    assert np.isfinite(density.score_samples(mixed[:9])).all()
