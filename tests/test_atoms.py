"""A density with atoms: masses at single values, and a density elsewhere, from fit to file."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate

from skinterflow import DegenerateDataWarning, DensityDisplay, InterpolantFlowDensity
from skinterflow.exceptions import SavedModelError
from skinterflow.interflow import Identity, ResidualMLP, Standardize
from skinterflow.interflow.couplings import OptimalTransport
from tests.helpers import QUICK

COLUMNS = ["rain", "height", "clipped"]


def quick(**parameters):
    return InterpolantFlowDensity(**(QUICK | {"early_stopping": False} | parameters))


def rows(n=400, seed=0):
    """Zeros in the first column, two clipped ends in the third, where it rains less often."""
    rng = np.random.default_rng(seed)
    rain, height = rng.lognormal(size=n), rng.normal(size=n)
    rain[rng.random(n) < 0.4] = 0.0
    return np.column_stack([rain, height, np.clip(height + rng.normal(size=n) + (rain > 0), -2, 2)])


@pytest.fixture(scope="module")
def X():
    return rows()


@pytest.fixture(scope="module")
def density(X):
    """Tests must not change it."""
    return quick().fit(pd.DataFrame(X, columns=COLUMNS))


@pytest.fixture(scope="module")
def cross_fitted(X):
    """Tests must not change it."""
    return quick(early_stopping="auto", warm_start=True, max_iter=15).fit(X)


def test_atoms_are_found_named_and_reported(density, X):
    assert {name: values.tolist() for name, values in density.atoms_.items()} == {
        "rain": [0.0],
        "clipped": [-2.0, 2.0],
    }
    for name, values in density.atoms_.items():
        shares = (X[:, [COLUMNS.index(name)]] == values).mean(axis=0)
        np.testing.assert_allclose(density.atom_masses_[name], shares, atol=0.002)


def test_data_without_atoms_are_fitted_as_before(iris):
    models = [quick(max_iter=5, atoms=atoms).fit(iris) for atoms in ("auto", None)]
    assert models[0].atoms_ == models[0].atom_masses_ == {}
    np.testing.assert_array_equal(*(model.score_samples(iris) for model in models))
    np.testing.assert_array_equal(*(model.sample(5, random_state=0) for model in models))
    np.testing.assert_array_equal(models[0].atom_log_mass(iris), np.zeros(len(iris)))


def test_the_total_mass_of_one_column_is_one():
    column = rows()[:, [2]]
    for parameters in ({}, {"bounds": {0: (-2, 2)}}):
        density = quick(atol=1e-4, **parameters).fit(column)
        points = np.linspace(-9.0, 9.0, 1_502)[:, None]
        continuum = integrate.trapezoid(np.exp(density.score_samples(points)), points[:, 0])
        masses = np.exp(density.score_samples([[-2.0], [2.0]]))
        np.testing.assert_allclose(masses, density.atom_masses_[0], rtol=1e-6)
        assert abs(continuum + masses.sum() - 1.0) < 1e-3


def test_the_total_mass_of_two_columns_is_one(X):
    density = quick(atol=1e-3).fit(X[:, [1, 2]])
    one, two = np.linspace(-6.0, 6.0, 61), np.linspace(-6.0, 6.0, 62)
    grid = np.stack(np.meshgrid(one, two, indexing="ij"), axis=-1).reshape(-1, 2)
    plane = np.exp(density.score_samples(grid)).reshape(61, 62)
    total = integrate.trapezoid(integrate.trapezoid(plane, two), one)
    for atom in density.atoms_[1]:
        line = np.exp(density.score_samples(np.column_stack([one, np.full(61, atom)])))
        total += integrate.trapezoid(line, one)
    assert abs(total - 1.0) < 1e-3


def test_a_score_is_a_mass_and_a_density(density, X):
    frame = pd.DataFrame(X[:50], columns=COLUMNS)
    log_mass = density.atom_log_mass(frame)
    value, error = density.score_samples(frame, return_error=True)
    dry, clipped = X[:50, 0] == 0, np.abs(X[:50, 2]) == 2
    for pattern in ((False, False), (True, False)):
        same = log_mass[(dry == pattern[0]) & (clipped == pattern[1])]
        share = ((X[:, 0] == 0) == pattern[0]) & ((np.abs(X[:, 2]) == 2) == pattern[1])
        np.testing.assert_allclose(np.exp(same), share.mean(), atol=0.01)
    assert np.isfinite(value).all()
    assert (error < 0.1).all()
    assert density.score(frame) == pytest.approx(value.mean())


def test_patterns_and_repeated_values_that_were_never_seen_are_scored(density):
    unseen = pd.DataFrame([[0.0, 0.1, -2.0], [0.7, 0.1, 0.1], [0.7, 0.1, 0.1]], columns=COLUMNS)
    value = density.score_samples(unseen)
    assert np.isfinite(value).all()
    assert value[1] == value[2]
    assert density.atom_log_mass(unseen)[1] > np.log(0.4)


def test_a_row_that_is_only_masses_has_the_probability_of_its_pattern():
    X = rows()[:, [0, 2]]
    X[:80] = 0.0, 2.0
    density = quick(early_stopping=True).fit(X)
    value, error = density.score_samples(X[:1], return_error=True)
    assert value == pytest.approx(density.atom_log_mass(X[:1]), abs=1e-12)
    assert np.exp(value[0]) == pytest.approx((X[0] == X).all(axis=1).mean(), abs=0.03)
    assert error[0] < 1e-3


def test_samples_are_at_atoms_as_often_as_the_rows(density, X):
    samples = density.sample(2_000, random_state=0)
    for column, atom in ((0, 0.0), (2, -2.0), (2, 2.0)):
        share = (X[:, column] == atom).mean()
        assert abs((samples[:, column] == atom).mean() - share) < 4 * np.sqrt(share / 2_000)
    assert len(np.unique(samples[:, 1])) == 2_000
    np.testing.assert_array_equal(samples, density.sample(2_000, random_state=0))


def test_a_row_does_not_depend_on_the_others(density, X):
    frame = pd.DataFrame(X[:30], columns=COLUMNS)
    together = density.score_samples(frame)
    alone = [density.score_samples(frame[k : k + 1])[0] for k in range(30)]
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-12)


def test_float32_rows_are_at_the_same_atoms():
    X = rows()
    X[X[:, 0] == 0, 0] = 0.1  # which float32 rounds
    density = quick().fit(X)
    assert density.atoms_[0].tolist() == [0.1]
    single = density.score_samples(X[:20].astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, density.score_samples(X[:20]), atol=1e-3)


def test_the_gradient_is_that_of_the_entries_that_are_at_no_atom(density, X):
    row, step = np.array([[0.0, 0.3, 0.5]]), 1e-4
    gradient = density.score_gradient(pd.DataFrame(row, columns=COLUMNS))
    precise = copy.deepcopy(density).set_params(atol=1e-8)
    for j in (1, 2):
        pair = np.repeat(row, 2, axis=0)
        pair[:, j] += [step, -step]
        plus, minus = precise.score_samples(pd.DataFrame(pair, columns=COLUMNS))
        assert gradient[0, j] == pytest.approx((plus - minus) / (2 * step), abs=0.05)
    assert gradient[0, 0] == 0.0


def test_entries_at_an_atom_stay_there(density, X):
    frame = pd.DataFrame(X[:20], columns=COLUMNS)
    at = (X[:20] == [0.0, np.nan, -2.0]) | (X[:20] == [0.0, np.nan, 2.0])
    path = density.trajectory(frame, [density.end_time_, 0.5, 0.0])
    assert path.shape == (3, 20, 3)
    assert (path[:, at] == X[:20][at]).all()
    assert (path[2][~at] != X[:20][~at]).all()
    velocity = density.velocity(frame, 0.5)
    assert not velocity[at].any()
    assert velocity[~at].all()
    assert np.isfinite(density.score_samples(frame, t=0.0)).all()
    assert np.isfinite(density.score_gradient(frame, t=0.5, method="path")).all()


def test_rows_at_no_atom_have_a_latent(density, X):
    inside = X[(X[:, 0] > 0) & (np.abs(X[:, 2]) < 2)][:20]
    latents = density.transform(pd.DataFrame(inside, columns=COLUMNS))
    assert latents.shape == (20, 3)
    np.testing.assert_allclose(density.inverse_transform(latents), inside, atol=0.05)
    with pytest.raises(ValueError, match=r"rows are at an atom of rain, clipped.*drop those rows"):
        density.transform(pd.DataFrame(X, columns=COLUMNS))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda d, X: d.diagnose(X), r"diagnose needs a density in all columns.*rain, clipped"),
        (lambda d, X: d.sample(3, method="sde"), r"sample\(method='sde'\) needs.*use method='ode'"),
        (lambda d, X: d.diffusion_log_density(X), "diffusion_log_density needs.*use score_samples"),
        (lambda d, X: d.diagnose_likelihood(X), "diagnose_likelihood needs a density in all"),
    ],
    ids=["diagnose", "sde", "diffusion_log_density", "diagnose_likelihood"],
)
def test_what_needs_a_density_in_all_columns_is_refused(density, X, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(density, pd.DataFrame(X, columns=COLUMNS))


def test_regions_and_displays_show_samples(density):
    threshold = density.density_threshold(0.5, n_samples=200, random_state=0)
    assert np.isfinite(threshold)
    display = DensityDisplay.from_estimator(density, n_samples=100, random_state=0)
    assert display.figure_ is not None
    column = quick().fit(rows()[:, [0]])
    # A curve would not show the mass.
    assert DensityDisplay.from_estimator(column, n_samples=100).log_density is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"base": "learned"}, r"base='learned'"),
        ({"coupling": "optimal_transport"}, r"coupling='optimal_transport'"),
        ({"coupling": OptimalTransport(8)}, r"coupling=OptimalTransport"),
        ({"scaling": "an object"}, r"scaling=Standardize"),
        ({"student_layer_sizes": (8,)}, r"student_layer_sizes=\(8,\)"),
        ({"targets": ("b", "eta")}, r"targets=\('b', 'eta'\)"),
        ({"field": "network"}, r"field=ResidualMLP"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_parameters_that_cannot_be_combined_with_atoms(X, parameters, message):
    if "scaling" in parameters:
        parameters = {"scaling": standardized(X)}
    if "field" in parameters:
        parameters = {"field": zero_field()}
    with pytest.raises(ValueError, match=rf"atoms=.*cannot be fitted with {message}.*atoms=None"):
        quick(atoms={0: [0.0]}, **parameters).fit(X)
    with pytest.warns(DegenerateDataWarning, match=rf"repeat single values.*{message}.*atoms=None"):
        density = quick(max_iter=2, **parameters).fit(X)
    assert density.atoms_ == {}


def zero_field():
    return ResidualMLP(3, (4,), generator=torch.Generator().manual_seed(0))


def standardized(X):
    return Standardize(*map(torch.from_numpy, (X.mean(axis=0), X.std(axis=0))))


def test_columns_with_bounds_whole_numbers_weights_and_noise(X):
    visits = np.random.default_rng(0).poisson(3.0, size=len(X))
    data = np.column_stack([X, visits])
    density = quick(
        bounds={0: (0, None), 3: (0, None)}, integer_features=[3], gamma="brownian", max_iter=10
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateDataWarning)
        density.fit(data, sample_weight=1.0 + (X[:, 0] == 0))
    share = np.average(X[:, 0] == 0, weights=1.0 + (X[:, 0] == 0))
    assert density.atom_masses_[0][0] == pytest.approx(share, abs=0.005)
    samples = density.sample(100, random_state=0)
    assert (samples[:, 0] >= 0).all()
    assert (samples[:, 3] % 1 == 0).all()
    value, error = density.score_samples(data[:10], return_error=True)
    assert np.isfinite(value).all()
    assert np.isfinite(error).all()


def test_held_out_scores_include_the_masses(X):
    validation = rows(seed=1)
    model = quick(early_stopping=True, max_iter=1, learning_rate_init=1e-9)
    model.fit(X, X_val=validation)
    # The flow is untrained and the same at all end times.
    assert model.best_validation_score_ == pytest.approx(model.score(validation), abs=0.01)


def test_cross_fitting_learns_from_each_fold(cross_fitted, X):
    assert cross_fitted.validation_scores_[-1] > cross_fitted.validation_scores_[0] - 0.05
    assert cross_fitted.best_validation_score_ == pytest.approx(
        cross_fitted.score(rows(seed=1)), abs=0.3
    )


def test_groups_and_validation_rows(X):
    grouped = quick(early_stopping=True, max_iter=5).fit(X, groups=np.arange(len(X)) // 4)
    given = quick(early_stopping=True, max_iter=5).fit(X, X_val=rows(50, seed=1))
    assert set(grouped.atoms_) == set(given.atoms_) == {0, 2}
    assert np.isfinite([grouped.best_validation_score_, given.best_validation_score_]).all()


def test_a_warm_start_keeps_the_atoms(cross_fitted, X):
    model = copy.deepcopy(cross_fitted).set_params(max_iter=20, atoms=None).fit(X)
    assert model.n_iter_ == 20
    assert model.atoms_.keys() == cross_fitted.atoms_.keys()
    np.testing.assert_array_equal(model.atom_log_mass(X), cross_fitted.atom_log_mass(X))


def test_streams_have_the_atoms_of_their_first_rows(X):
    model = quick().partial_fit(X).partial_fit(rows(seed=2))
    assert set(model.atoms_) == {0, 2}
    assert np.isfinite(model.score(X))


def test_a_fit_that_was_interrupted_is_resumed(X, tmp_path, monkeypatch):
    model = quick(early_stopping=True, max_iter=4, checkpoint=tmp_path / "checkpoint")
    expected = copy.deepcopy(model).fit(X).score_samples(X[:20])

    def stop(self, *rest):
        raise RuntimeError("stopped")

    monkeypatch.setattr(InterpolantFlowDensity, "_set_model", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        model.fit(X)
    monkeypatch.undo()
    np.testing.assert_array_equal(model.fit(X).score_samples(X[:20]), expected)


def test_models_with_atoms_are_pickled_and_saved(density, cross_fitted, X, tmp_path):
    frame = pd.DataFrame(X[:20], columns=COLUMNS)
    for model, data in ((density, frame), (cross_fitted, X[:20])):
        model.save(tmp_path / "model")
        loaded = InterpolantFlowDensity.load(tmp_path / "model")
        for other in (loaded, pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(other.score_samples(data), model.score_samples(data))
            np.testing.assert_array_equal(
                other.sample(9, random_state=0), model.sample(9, random_state=0)
            )
            assert other.atoms_.keys() == model.atoms_.keys()


def with_masses(**changes):
    """A change of the masses in the scaling of a model."""

    def change(model):
        for name, value in changes.items():
            setattr(model._target.masses, name, value(getattr(model._target.masses, name)))

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "atoms_", {}),
        lambda model: setattr(model, "atoms_", {"snow": np.array([0.0])}),
        lambda model: model.atoms_["rain"].__setitem__(0, 1.0),
        lambda model: setattr(model, "atom_masses_", {}),
        lambda model: setattr(model, "_source", Identity()),
        lambda model: model._target.columns.__setitem__(0, model._target.columns[1]),
        lambda model: setattr(model, "_target", Identity()),
        with_masses(mixing=lambda mixing: 1.5),
        with_masses(shares=lambda shares: 9.0 * shares),
        with_masses(frequencies=lambda frequencies: 0.5 * frequencies),
        with_masses(patterns=lambda patterns: 0.5 * patterns),
        with_masses(patterns=lambda patterns: 0.0 * patterns),
    ],
)
def test_masses_that_no_fit_gives_are_not_loaded(density, tmp_path, change):
    model = copy.deepcopy(density)
    change(model)
    model.save(tmp_path / "model")
    with pytest.raises(SavedModelError, match="are not those of a fitted InterpolantFlowDensity"):
        InterpolantFlowDensity.load(tmp_path / "model")


def test_threads_give_the_same_results(density, X):
    frame = pd.DataFrame(np.tile(X, (42, 1)), columns=COLUMNS)
    density = copy.deepcopy(density)
    np.testing.assert_array_equal(
        density.set_params(n_jobs=2).velocity(frame, 0.5)[:400],
        density.set_params(n_jobs=None).velocity(frame, 0.5)[:400],
    )


def test_wide_estimates_of_the_divergence(density, X):
    frame = pd.DataFrame(X[:10], columns=COLUMNS)
    exact = density.score_samples(frame)
    estimated, error = (
        copy.deepcopy(density).set_params(divergence=64).score_samples(frame, return_error=True)
    )
    assert (np.abs(estimated - exact) < 5.0 * error + 0.05).all()
