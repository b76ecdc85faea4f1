"""Densities that mix the flow at several times, and a Gaussian mixture."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.datasets import make_moons
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity
from skinterflow._data.batches import NormalRows, Reader, training_rows
from skinterflow._fit.components import (
    FoldKernels,
    fitted_normals,
    fold_kernels,
    fold_normals,
    refitted,
)
from skinterflow._fit.mixture import choose_mixture
from skinterflow._fit.validation import Fold, HeldOut
from skinterflow._runtime import seeded_generators
from skinterflow.exceptions import SavedModelError
from skinterflow.interflow.combined import normal_log_prob
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.scaling import Identity, Whiten
from tests.helpers import QUICK, TIGHT, cluster_in_scatter


@pytest.fixture(scope="module")
def mixed():
    return InterpolantFlowDensity(**QUICK).fit(cluster_in_scatter(240)[0])


def test_a_mixture_is_found_and_better(mixed):
    X = cluster_in_scatter(400, seed=1)[0]
    single = InterpolantFlowDensity(**QUICK, mixture=None, early_stopping=True).fit(
        cluster_in_scatter(240)[0]
    )
    assert len(mixed.mixture_weights_) > 1
    assert mixed.mixture_weights_.sum() == pytest.approx(1.0)
    assert len(mixed.mixture_weights_) == len(mixed.mixture_end_times_) + 1
    assert mixed.end_time_ in mixed.mixture_end_times_
    assert mixed.score(X) > single.score(X) + 1.0
    assert single.mixture_end_times_.tolist() == [single.end_time_]
    assert single.mixture_weights_.tolist() == [1.0]


def test_the_end_time_is_the_heaviest(mixed):
    weights = mixed.mixture_weights_[: len(mixed.mixture_end_times_)]
    assert mixed.end_time_ == mixed.mixture_end_times_[weights.argmax()]


def test_it_is_the_sum_of_its_components(mixed):
    X = cluster_in_scatter(50, seed=2)[0]
    densities = [np.exp(mixed.score_samples(X, t=t)) for t in mixed.mixture_end_times_]
    u = mixed._target(torch.from_numpy(X))
    log_normal = mixed._normals.log_prob(u) + mixed._target.log_abs_det(torch.from_numpy(X))
    densities.append(log_normal.exp().numpy())
    np.testing.assert_allclose(
        mixed.score_samples(X), np.log(mixed.mixture_weights_ @ densities), rtol=1e-5, atol=1e-5
    )


def test_it_integrates_to_one(mixed):
    def axis(scale):  # dense where the density is tall
        s = np.linspace(-1, 1, 61)
        return scale * np.sinh(6.0 * s) / np.sinh(6.0)

    x = axis(6.0)
    log_density = mixed.set_params(atol=0.5).score_samples(
        np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    )
    mixed.set_params(atol="auto")
    total = np.trapezoid(np.trapezoid(np.exp(log_density).reshape(61, 61), x), x)
    assert total == pytest.approx(1.0, abs=0.05)


def test_samples_have_the_frequencies_of_the_weights(mixed):
    n = 4_000
    samples = mixed.sample(n, random_state=0)
    assert np.isfinite(samples).all()
    radius = TIGHT * np.sqrt(chi2(2).ppf(0.99))
    inside = (np.linalg.norm(samples, axis=1) < radius).mean()
    assert inside == pytest.approx(2 / 3, abs=0.1)
    assert np.array_equal(samples, mixed.sample(n, random_state=0))
    assert not np.array_equal(samples, mixed.sample(n, random_state=1))


def test_each_component_is_drawn_as_often_as_its_weight(mixed, monkeypatch):
    drawn = {}

    def pushed(self, rows, time):
        drawn[time] = len(rows)
        return np.zeros_like(rows)

    monkeypatch.setattr(InterpolantFlowDensity, "_pushed", pushed)
    n = 10_000
    mixed.sample(n, random_state=0)
    for t, weight in zip(mixed.mixture_end_times_, mixed.mixture_weights_, strict=False):
        assert abs(drawn.get(t, 0) / n - weight) < 5 * np.sqrt(weight * (1 - weight) / n)


def test_a_diffusion_draws_from_the_mixture(mixed):
    ode, sde = mixed.sample(600, 0), mixed.sample(600, 0, method="sde", n_steps=50)
    assert np.linalg.norm(ode, axis=1).mean() == pytest.approx(
        np.linalg.norm(sde, axis=1).mean(), rel=0.3
    )


def test_the_score_is_the_gradient_of_the_log_density(mixed):
    X, tight = cluster_in_scatter(12, seed=3)
    step = np.where(tight, 1e-4, 1e-2)[:, None]
    precise = mixed.set_params(atol=1e-6)
    expected = np.stack(
        [
            (precise.score_samples(X + step * shift) - precise.score_samples(X - step * shift))
            / (2 * step[:, 0])
            for shift in np.eye(2)
        ],
        axis=1,
    )
    score = precise.score_gradient(X)
    mixed.set_params(atol="auto")
    size = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(score / size, expected / size, atol=0.02)


def test_errors_regions_and_latents(mixed):
    X = cluster_in_scatter(100, seed=4)[0]
    log_density, error = mixed.score_samples(X, return_error=True)
    assert (error >= 0).all()
    assert mixed.score(X) == pytest.approx(log_density.mean())
    inside = mixed.contains(X, 0.9, n_samples=500, random_state=0)
    assert 0.8 <= inside.mean() <= 0.98
    np.testing.assert_allclose(mixed.inverse_transform(mixed.transform(X)), X, atol=0.02)


def test_a_saved_mixture_is_bitwise_the_same(mixed, tmp_path):
    X = cluster_in_scatter(20, seed=5)[0]
    mixed.save(tmp_path / "model")
    loaded = InterpolantFlowDensity.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(X), mixed.score_samples(X))
    np.testing.assert_array_equal(loaded.sample(9, 0), mixed.sample(9, 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mixture_weights_", np.array([0.5, 0.2])),
        ("mixture_weights_", np.array([2.0, -1.0])),
        ("mixture_end_times_", np.array([0.123])),
        ("mixture_end_times_", None),
        ("_normals", NormalMixture.standard(3)),
        ("_normals", NormalMixture(*(-part for part in vars(NormalMixture.standard(2)).values()))),
    ],
)  # fmt: skip
def test_an_altered_mixture_is_not_loaded(mixed, tmp_path, name, value):
    other = InterpolantFlowDensity.load(_saved(mixed, tmp_path))
    setattr(other, name, value)
    other.save(tmp_path / "altered")
    with pytest.raises(SavedModelError, match=name.rstrip("_")):
        InterpolantFlowDensity.load(tmp_path / "altered")


def _saved(density, folder):
    density.save(folder / "model")
    return folder / "model"


@pytest.mark.parametrize(
    "parameters",
    [
        {"end_time": 0.8},
        {"early_stopping": False},
        {"student_layer_sizes": (4,)},
    ],
    ids=str,
)
def test_no_mixture(parameters):
    density = InterpolantFlowDensity(**{**QUICK, "max_iter": 5, **parameters})
    density.fit(cluster_in_scatter(60)[0])
    assert density.mixture_weights_.tolist() == [1.0]
    assert density._normals is None


class Table(HeldOut):
    """Held-out rows with given log-densities."""

    def __init__(self, columns):
        self.weight = torch.ones(len(next(iter(columns.values()))), dtype=torch.float64)
        self._known = columns


def column(value):
    return torch.full((100,), float(value), dtype=torch.float64)


def test_one_end_time_stays_unless_a_mixture_is_better():
    same = {0.0: column(-2.0), 1.0: column(0.0)}
    assert choose_mixture(Table(same), (0.0, 1.0), 1.0, []) is None
    # Each time is right for half of the rows: log 0.5 for all, and -2.5 for a single one.
    half = torch.arange(100) % 4 < 2
    split = {0.0: torch.where(half, 0.0, -5.0).double(), 1.0: torch.where(half, -5.0, 0.0).double()}
    weights, times = choose_mixture(Table(split), (0.0, 1.0), 1.0, [])
    assert times == [0.0, 1.0]
    torch.testing.assert_close(
        weights, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("n_rows", [1, 3])
def test_few_held_out_rows_choose_no_mixture(n_rows):
    """Weights from one or two rows say little."""
    columns = {0.0: column(-9.0)[:n_rows], 1.0: column(-8.0)[:n_rows]}
    assert choose_mixture(Table(columns), (0.0, 1.0), 1.0, [column(0.0)[:n_rows]]) is None


@pytest.mark.parametrize("n_rows", [4, 100])
def test_a_row_is_scored_with_the_weights_that_others_give(n_rows):
    """A component that suits one row only helps if this row takes part in its weight."""
    table = Table({0.0: column(-1.0)[:n_rows]})
    of_one_row = torch.where(torch.arange(n_rows) == 0, 300.0, -300.0).double()
    assert choose_mixture(table, (0.0,), 0.0, [of_one_row], n_errors=0.0) is None
    assert choose_mixture(table, (0.0,), 0.0, [column(0.0)[:n_rows]], n_errors=0.0) is not None


def test_the_gain_has_to_exceed_its_standard_errors():
    """Gains of 5 in one of 10 rows: 0.5 with an error of 0.15, which is more than 3 errors."""
    gain = torch.where(torch.arange(100) % 10 == 0, 5.0, 0.0).double()
    table = Table({0.0: column(-9.0)})
    assert choose_mixture(table, (0.0,), 0.0, [gain - 9.0], n_errors=3.0) is not None
    assert choose_mixture(table, (0.0,), 0.0, [gain - 9.0], n_errors=4.0) is None


def test_components_without_weight_are_dropped_but_one_time_stays():
    columns = {0.0: column(-9.0), 1.0: column(-8.0)}
    weights, times = choose_mixture(Table(columns), (0.0, 1.0), 1.0, [column(0.0), column(-99.0)])
    assert times == [1.0]
    assert len(weights) == 3
    assert weights[0] == pytest.approx(1e-3, rel=0.01)
    assert weights[2] == 0.0


def fold_of(X, n_held_out=40):
    reader = Reader(X, np.ones(len(X)), np.zeros(X.shape[1]), Identity(), torch.device("cpu"))
    generator, held_out = torch.Generator().manual_seed(0), torch.arange(n_held_out)
    train = training_rows(reader, held_out, generator)
    return Fold(NormalRows(X.shape[1], reader.device), train, reader.read(held_out, generator))


def test_the_gaussian_mixture_has_the_right_size():
    random = np.random.default_rng(0)
    X = random.choice([-3.0, 0.0, 3.0], 300)[:, None] + 0.2 * random.normal(size=(300, 1))
    generators = seeded_generators(0, torch.device("cpu"))
    found = fold_normals([fold_of(X)], generators, lambda: False)
    assert found.n_components == 3
    assert found.models[0].means.flatten().sort().values.numpy() == pytest.approx(
        [-3, 0, 3], abs=0.1
    )
    assert fold_normals([fold_of(X)], generators, lambda: True).n_components == 1
    assert fold_normals([fold_of(X[:50])], generators, lambda: False) is None


def moons(n, seed=0):
    return make_moons(n, noise=0.1, random_state=seed)[0]


def test_kernels_are_as_good_as_scikit_learns_and_stop_at_their_limits():
    generators, new = seeded_generators(0, torch.device("cpu")), moons(500, seed=1)
    found = fold_kernels([fold_of(moons(100))], generators, lambda: False)
    # Training rows are kept in float32; the kernels at them are evaluated in float64.
    peer = KernelDensity(bandwidth=found.bandwidth).fit(moons(100)[40:].astype(np.float32))
    log_prob = normal_log_prob(found.models[0], torch.from_numpy(new))
    assert log_prob.numpy() == pytest.approx(peer.score_samples(new), rel=1e-9, abs=1e-9)
    scores = [
        KernelDensity(bandwidth=b).fit(moons(100)[40:]).score(moons(100)[:40])
        for b in (0.7 * found.bandwidth, found.bandwidth, 1.4 * found.bandwidth)
    ]
    assert max(scores) == scores[1]
    assert fold_kernels([fold_of(moons(50))], generators, lambda: False) is None
    assert fold_kernels([fold_of(moons(1_100))], generators, lambda: False) is None
    assert fold_kernels([fold_of(moons(100))], generators, lambda: True) is None
    wide = np.random.default_rng(0).normal(size=(100, 70))
    assert fold_kernels([fold_of(wide)], generators, lambda: False) is None


def test_mixtures_of_all_rows_have_the_weights_of_those_of_the_folds():
    fold, x = fold_of(moons(100)), torch.from_numpy(moons(20, seed=1))
    generators = seeded_generators(0, torch.device("cpu"))
    found = [fold_normals([fold], generators, lambda: False), FoldKernels(0.2, [])]
    parts = [each.fitted(fold.train.batch(0, 60, generators)[0].double().numpy(), None)
             for each in found]  # fmt: skip
    expected = 0.25 * parts[0].log_prob(x).exp() + 0.75 * parts[1].log_prob(x).exp()
    both = refitted(found, [0.1, 0.3], fold, None, generators)
    torch.testing.assert_close(both.log_prob(x).exp(), expected)
    assert len(refitted(found, [0.0, 0.3], fold, None, generators).weights) == 60


def test_kernels_at_few_rows_along_a_curve_are_components_of_the_model():
    density = InterpolantFlowDensity(**{**QUICK, "max_iter": 1}).fit(moons(48))
    assert len(density._normals.weights) >= 48


def test_a_tight_cluster_that_one_start_misses_is_found():
    """Two thirds of the rows are narrow in 5 of 20 directions; seed 0 ends at a local maximum."""
    random = np.random.default_rng(0)
    tight = np.arange(300) % 3 < 2
    X = np.where(tight[:, None], [0.05] * 5 + [1.0] * 15, 2.0) * random.normal(size=(300, 20))
    X = random.permutation(X @ np.linalg.qr(random.normal(size=(20, 20)))[0])
    folds = [fold_of(np.roll(X, 75 * k, axis=0), 75) for k in range(4)]
    generators = seeded_generators(0, torch.device("cpu"))
    found = fold_normals(folds, generators, lambda: False)
    held_out = HeldOut([], folds, 300)
    rows = [fold.train.batch(0, 225, generators)[0].double().numpy() for fold in folds]
    once = [fitted_normals(x, found.n_components, "full", None) for x in rows]
    one_start = held_out.log_prob_by(lambda k, u: normal_log_prob(once[k], u))
    assert found.n_starts > 1
    assert held_out.mean(found.held_out(held_out)) > held_out.mean(one_start) + 2.0


def test_gaussian_mixtures_are_fitted_before_the_whitening_and_stored_after_it():
    """Independent columns before the whitening have diagonal covariances there, not after it."""
    rows = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 0.3]
    matrix = torch.tensor([[2.0, 1.0], [0.5, 1.5]], dtype=torch.float64)
    whiten = Whiten(matrix, torch.linalg.inv(matrix))
    normals = fitted_normals(rows @ matrix.numpy().T, 1, "diag", whiten)
    expected = matrix.numpy() @ np.diag(rows.var(axis=0)) @ matrix.numpy().T
    np.testing.assert_allclose(normals.covariances[0], expected, atol=1e-4)
    np.testing.assert_allclose(normals.means[0], matrix.numpy() @ rows.mean(axis=0), atol=1e-6)
