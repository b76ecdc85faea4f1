"""InterpolantFlowDensity: what it promises of the density it fits."""

import copy
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import trapezoid
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skinterflow import AccuracyWarning, InterpolantFlowDensity
from skinterflow._predict import model as engine
from skinterflow.interflow.interpolants import Linear
from skinterflow.interflow.marginals import Gaussianize
from skinterflow.interflow.scaling import Standardize
from tests.helpers import ONE_FIELD, QUICK, moons

CROSSED = QUICK | {"max_iter": 2}
"""Cross-fitted, and checked twice."""


@pytest.fixture(scope="module")
def moon_density():
    """A flow: held-out rows would choose a mixture of Gaussians for these."""
    return InterpolantFlowDensity(
        random_state=0, max_iter=300, hidden_layer_sizes=(48, 48), early_stopping=False
    ).fit(moons())


@pytest.fixture(scope="module")
def crossed(iris):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return InterpolantFlowDensity(**CROSSED).fit(iris)


@pytest.fixture(scope="module")
def exact_scores(fitted, iris):
    """Log-densities of the rows by a solver that is as accurate as it can be."""
    return copy.deepcopy(fitted).set_params(atol=1e-9, rtol=0.0).score_samples(iris)


@pytest.mark.slow
def test_density_integrates_to_one_in_two_dimensions(moon_density):
    x, y = np.linspace(-3, 4, 71), np.linspace(-2.5, 3, 56)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", AccuracyWarning
        )  # grid corners are far outside the data, where nothing counts
        density = copy.deepcopy(moon_density).set_params(atol=2e-2)
        total = np.exp(density.score_samples(grid)).sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert total == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("scaling", ["power", "whiten", "standardize", None])
def test_density_integrates_to_one_in_one_dimension(scaling):
    X = np.random.default_rng(0).gamma(2.0, size=(200, 1))
    density = InterpolantFlowDensity(**ONE_FIELD, scaling=scaling).fit(X)
    grid = np.linspace(-20, 60, 2001)[:, None]
    assert trapezoid(np.exp(density.score_samples(grid)), grid[:, 0]) == pytest.approx(
        1.0, abs=2e-3
    )


def test_density_of_a_gaussianized_column_integrates_to_one():
    """Two modes, which the column's own map makes one; samples have the masses of both."""
    rng = np.random.default_rng(0)
    X = rng.normal(np.where(rng.random(1000) < 0.4, -3.0, 2.0), 0.5)[:, None]
    density = InterpolantFlowDensity(**ONE_FIELD, atol=1e-4).fit(X)
    assert any(isinstance(part, Gaussianize) for part in density._target.modules())
    grid = np.linspace(-15, 15, 2001)[:, None]
    p = np.exp(density.score_samples(grid))
    assert trapezoid(p, grid[:, 0]) == pytest.approx(1.0, abs=2e-3)
    left = grid[:, 0] <= -0.5
    assert (density.sample(2000, random_state=0) < -0.5).mean() == pytest.approx(
        trapezoid(p[left], grid[left, 0]), abs=0.04
    )
    np.testing.assert_allclose(density.inverse_transform(density.transform(X)), X, atol=1e-3)


@pytest.mark.slow
def test_learns_what_a_gaussian_cannot(moon_density):
    gain = moon_density.score(moons(1000, seed=1)) - GaussianMixture(random_state=0).fit(
        moons()
    ).score(moons(1000, seed=1))
    assert gain > 0.5


def test_gaussian_data_get_the_gaussian_density():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + [10.0, -3.0]
    density = InterpolantFlowDensity(**(QUICK | {"max_iter": 100})).fit(X)
    covariance = np.array([[4.0, 2.0], [2.0, 1.25]])
    truth = stats.multivariate_normal([10.0, -3.0], covariance)
    fresh = truth.rvs(500, random_state=1)
    assert np.mean(truth.logpdf(fresh) - density.score_samples(fresh)) < 0.05


def test_end_time_zero_is_the_gaussian():
    """Held-out rows may choose the base itself, which is the shrunk Gaussian fit."""
    X = np.random.default_rng(0).normal(size=(12, 3))
    density = InterpolantFlowDensity(**ONE_FIELD, scaling="standardize").fit(X)
    density.end_time_ = 0.0
    np.testing.assert_allclose(
        density.score_samples(X), stats.norm(X.mean(0), X.std(0)).logpdf(X).sum(1)
    )
    np.testing.assert_allclose(density.transform(X), (X - X.mean(0)) / X.std(0))


@pytest.mark.parametrize(
    "parameters",
    [
        {"early_stopping": "auto", "end_time": 1.0},
        {"interpolant": "linear"},
        {"interpolant": Linear()},
        {"end_time": 0.7},
        {"activation": "tanh"},
    ],
)
def test_inverse_transform_returns_the_rows(parameters, iris):
    density = InterpolantFlowDensity(**ONE_FIELD | parameters, atol=1e-6).fit(iris)
    np.testing.assert_allclose(density.inverse_transform(density.transform(iris)), iris, atol=1e-5)


def test_log_density_is_base_plus_log_determinant(fitted, iris):
    """The change of variables, with the Jacobian of `transform` by finite differences."""
    density = copy.deepcopy(fitted).set_params(atol=1e-7, rtol=0.0)
    x, h = iris[::40], 1e-3
    steps = h * np.eye(4)[:, None]
    latents = density.transform(np.concatenate([x[None], x + steps, x - steps]).reshape(-1, 4))
    z, above, below = np.split(latents.reshape(9, len(x), 4), [1, 5])
    columns = list((above - below) / (2 * h))
    log_det = np.linalg.slogdet(np.stack(columns, axis=-1))[1]
    expected = stats.norm.logpdf(z[0]).sum(1) + log_det
    np.testing.assert_allclose(density.score_samples(x), expected, atol=1e-5)


@settings(max_examples=6)
@given(seed=st.integers(0, 50), n=st.integers(1, 7))
def test_rows_do_not_see_each_other(fitted, iris, seed, n):
    rows = np.random.default_rng(seed).integers(len(iris), size=n)
    for method in (fitted.score_samples, fitted.transform):
        together = method(iris[rows])
        np.testing.assert_allclose(method(iris[rows[::-1]])[::-1], together, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            np.concatenate([method(iris[[row]]) for row in rows]), together, rtol=1e-9, atol=1e-9
        )


def test_accuracy_is_as_asked(fitted, iris, exact_scores):
    rough = copy.deepcopy(fitted).set_params(atol=1e-2)
    assert np.abs(rough.score_samples(iris) - exact_scores).max() < 1e-2


@pytest.mark.parametrize("solver", ["dopri5", "heun3", "midpoint"])
def test_other_solvers_agree(fitted, iris, solver, exact_scores):
    other = copy.deepcopy(fitted).set_params(solver=solver, atol=1e-6)
    np.testing.assert_allclose(other.score_samples(iris), exact_scores, atol=1e-3)


def test_float32_goes_through(fitted, iris):
    single = iris.astype(np.float32)
    for method in (fitted.score_samples, fitted.transform, fitted.inverse_transform):
        assert method(single).dtype == np.float32
        np.testing.assert_allclose(
            method(single), method(single.astype(np.float64)), atol=5e-3, rtol=1e-3
        )


def test_hutchinson_divergence_is_close_on_average(fitted, iris):
    estimate, rows = copy.deepcopy(fitted).set_params(divergence=16), iris[:20]
    assert estimate.score(rows) == pytest.approx(fitted.score(rows), abs=0.3)
    np.testing.assert_allclose(estimate.transform(rows), fitted.transform(rows))


def test_samples_are_rows_of_the_density(fitted, iris):
    X = fitted.sample(2000, random_state=0)
    assert X.shape == (2000, 4)
    np.testing.assert_array_equal(X, fitted.sample(2000, random_state=0))
    assert not np.array_equal(fitted.sample(3), fitted.sample(3))
    np.testing.assert_allclose(X.mean(0), iris.mean(0), atol=0.2)
    assert fitted.sample().shape == (1, 4)


def test_latent_of_samples_is_the_normal_draw(fitted):
    z = np.random.RandomState(5).standard_normal((20, 4))
    np.testing.assert_allclose(fitted.transform(fitted.sample(20, random_state=5)), z, atol=5e-3)


def test_score_is_the_weighted_mean(fitted, iris):
    weight = np.linspace(0, 1, 150)
    assert fitted.score(iris) == pytest.approx(fitted.score_samples(iris).mean())
    assert fitted.score(iris, sample_weight=weight) == pytest.approx(
        np.average(fitted.score_samples(iris), weights=weight)
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_same_seed_same_density(iris, crossed):
    second = InterpolantFlowDensity(**CROSSED).fit(iris)
    np.testing.assert_array_equal(crossed.score_samples(iris), second.score_samples(iris))
    for mine, its in zip(crossed._field.parameters(), second._field.parameters(), strict=True):
        assert torch.equal(mine, its)  # the score may be that of a mixture, without the field
    one, other = (
        InterpolantFlowDensity(**CROSSED | {"random_state": seed, "end_time": 1.0}).fit(iris)
        for seed in (0, 1)
    )
    assert not np.array_equal(one.score_samples(iris), other.score_samples(iris))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_move_the_density(iris):
    """Rows of weight zero count as absent; heavy rows draw the density to them."""
    kept = iris[:, 2] < 5.0  # petal length: the longest third is left out
    without = InterpolantFlowDensity(**CROSSED).fit(iris[kept])
    zero = InterpolantFlowDensity(**CROSSED).fit(iris, sample_weight=kept.astype(float))
    np.testing.assert_array_equal(zero.score_samples(iris), without.score_samples(iris))
    even, heavy = (
        InterpolantFlowDensity(**ONE_FIELD).fit(iris, sample_weight=np.where(kept, 1.0, weight))
        for weight in (1.0, 20.0)
    )
    assert heavy.score(iris[~kept]) > even.score(iris[~kept]) + 1.0


@pytest.mark.parametrize(("early_stopping", "n_members"), [("auto", 4), (True, 1), (False, 1)])
def test_early_stopping_decides_who_judges(iris, crossed, early_stopping, n_members):
    parameters = CROSSED | {"early_stopping": early_stopping}
    density = crossed
    if early_stopping != density.early_stopping:
        density = InterpolantFlowDensity(**parameters).fit(iris)
    assert len(getattr(density._field, "members", [0])) == n_members
    assert (density.validation_scores_ is None) == (early_stopping is False)
    if early_stopping is False:
        assert density.n_iter_ == CROSSED["max_iter"]
        assert density.end_time_ == 1.0
        assert density.best_validation_score_ is None
    else:
        assert density.best_validation_score_ == max(density.validation_scores_)
    assert density.loss_ == density.loss_curve_[-1]


def test_validation_scores_are_log_likelihoods_of_data_units(iris):
    """Scaling a column by a hundred lowers every log-density by log(100)."""
    plain, scaled = (
        InterpolantFlowDensity(**CROSSED, end_time=1.0).fit(iris * [factor, 1, 1, 1])
        for factor in (1.0, 100.0)
    )
    np.testing.assert_allclose(
        np.array(plain.validation_scores_) - scaled.validation_scores_, np.log(100), atol=1e-2
    )


def test_best_weights_are_kept_and_training_stops(iris):
    """Overtrained on few rows, the score falls again; the kept weights are those of the best
    check."""
    parameters = QUICK | {
        "max_iter": 1_000,
        "alpha": 0.0,
        "learning_rate_init": 0.02,
        "end_time": 1.0,
        "n_iter_no_change": 2,
        "early_stopping": True,
        "validation_fraction": 0.5,
    }
    density = InterpolantFlowDensity(**parameters).fit(iris[::4])
    scores = density.validation_scores_
    assert density.n_iter_ < 1_000
    assert scores[-1] < max(scores)
    assert len(scores) == int(np.argmax(scores)) + 1 + density.n_iter_no_change


def test_warm_start_goes_on(iris):
    longer = QUICK | {"max_iter": 60, "early_stopping": False}
    density = InterpolantFlowDensity(**longer, warm_start=True).fit(iris)
    first = density.loss_
    assert density.set_params(max_iter=120).fit(iris).loss_ < first
    cold = InterpolantFlowDensity(**longer).fit(iris)
    assert cold.fit(iris).loss_ == pytest.approx(first)


def test_verbose_prints_progress(iris, capsys):
    InterpolantFlowDensity(**QUICK, early_stopping=True, verbose=True, n_iter_no_change=99).fit(
        iris
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("step 30/30: loss ")
    for words in ("held-out log-likelihood", "s elapsed", "s remaining"):
        assert words in lines[0]
    InterpolantFlowDensity(**ONE_FIELD).fit(iris)
    assert capsys.readouterr().out == ""


def test_given_scaling_is_part_of_the_density(iris):
    scaling = Standardize(
        torch.full((4,), 3.0, dtype=torch.float64), torch.full((4,), 2.0, dtype=torch.float64)
    )
    density = InterpolantFlowDensity(**ONE_FIELD, scaling=scaling).fit(iris)
    np.testing.assert_allclose(density.inverse_transform(density.transform(iris)), iris, atol=1e-2)
    density.end_time_ = 0.0
    np.testing.assert_allclose(
        density.score_samples(iris), stats.norm(3.0, 2.0).logpdf(iris).sum(1)
    )


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"]
)
def test_copies_score_the_same(fitted, iris, copied):
    np.testing.assert_array_equal(copied(fitted).score_samples(iris), fitted.score_samples(iris))


def test_joblib_file(fitted, iris, tmp_path):
    joblib.dump(fitted, tmp_path / "density.joblib")
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "density.joblib").score_samples(iris), fitted.score_samples(iris)
    )


def test_fitted_on_a_gpu_used_without(fitted, iris):
    """The parameter still asks for the GPU; the weights are kept on the CPU."""
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    moved = copy.deepcopy(fitted).set_params(device="cuda")
    assert all(parameter.device.type == "cpu" for parameter in moved._field.parameters())
    with pytest.warns(
        UserWarning,
        match=r"device='cuda' is not available, .* This fitted model is used on the CPU",
    ):
        np.testing.assert_array_equal(moved.score_samples(iris), fitted.score_samples(iris))


@pytest.mark.parametrize(("name", "limit"), [("_BLOCK_ROWS", 1024), ("_BLOCK_NUMBERS", 4099)])
def test_memory_does_not_grow_with_the_rows(fitted, iris, monkeypatch, name, limit):
    """Rows are solved a block at a time, however many there are, and few if they are wide."""
    monkeypatch.setattr(engine, name, limit)
    sizes, answer = [], engine.FlowModel._answer
    monkeypatch.setattr(
        engine.FlowModel,
        "_answer",
        lambda self, question, X, *rest: sizes.append(len(X)) or answer(self, question, X, *rest),
    )
    fitted.score_samples(np.tile(iris, (20, 1)))
    assert sizes == [1024, 1024, 952]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_wide_data_with_few_rows():
    X = np.random.default_rng(0).normal(size=(8, 20))
    density = InterpolantFlowDensity(**CROSSED).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    assert density.sample(3, random_state=0).shape == (3, 20)


def test_density_of_one_column_has_mass_one():
    """Errors of one sign would show; the default tolerance is tighter than for more columns."""
    random = np.random.default_rng(0)
    X = 3.0 * random.integers(0, 8, (300, 1)) + 0.2 * random.standard_normal((300, 1))
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(32, 32),
        max_iter=300,
        early_stopping=False,
        end_time=1.0,
        random_state=0,
    ).fit(X)
    x = np.linspace(-40.0, 60.0, 2_001)
    value, error = density.score_samples(x[:, None], return_error=True)
    np.testing.assert_allclose(np.trapezoid(np.exp(value), x), 1.0, atol=1e-3)
    assert np.trapezoid(np.exp(value) * error, x) < 2e-3


def test_error_bar_is_honest(fitted, iris, exact_scores):
    """Against a tight solve, the true error is above the estimate for one row in twenty at most;
    both dtypes."""
    for atol in (0.1, 1e-3):
        density = copy.deepcopy(fitted).set_params(atol=atol)
        for X in (iris, iris.astype(np.float32)):
            value, error = density.score_samples(X, return_error=True)
            np.testing.assert_array_equal(value, density.score_samples(X))
            assert value.dtype == error.dtype == X.dtype
            assert (np.abs(value - exact_scores) > error).mean() <= 0.05
            assert (error < atol + 1e-3).all()


def test_error_bar_holds_the_standard_error_of_an_estimated_divergence(fitted, iris):
    """The probes are shared by the rows, so their errors are one draw: near one standard error,
    below three."""
    exact, solver_error = (
        copy.deepcopy(fitted).set_params(atol=1e-6).score_samples(iris, return_error=True)
    )
    estimates = copy.deepcopy(fitted).set_params(divergence=8, atol=1e-6)
    value, error = estimates.score_samples(iris, return_error=True)
    assert 0.05 < np.sqrt(np.mean(((value - exact) / error) ** 2)) < 3.0
    assert (error > 10 * solver_error).all()
    assert np.isnan(
        estimates.set_params(divergence=1).score_samples(iris[:3], return_error=True)[1]
    ).all()


def test_adaptive_solver_estimates_the_error_of_each_row_among_many(fitted, iris):
    """With a step size for the mean over all rows, a row far outside was 1.2 nats off at a
    tolerance of 1e-3, and nothing was said."""
    rows = np.concatenate([np.repeat(iris, 5, axis=0), iris[:5] * 3.0 + 10.0])
    exact = copy.deepcopy(fitted).set_params(atol=1e-6, rtol=1e-7).score_samples(rows)
    value, error = (
        copy.deepcopy(fitted)
        .set_params(solver="dopri5", atol=1e-3)
        .score_samples(rows, return_error=True)
    )
    tolerance = 1e-3 + 1e-5 * np.linalg.norm(
        np.column_stack([fitted.transform(rows), exact]), axis=1
    )
    assert (np.abs(value - exact) <= np.maximum(error, 1e-6)).mean() > 0.95
    assert (np.abs(value - exact) <= 2 * tolerance).all()
    assert (error <= tolerance * 1.1).all()


def test_jobs_do_not_change_the_result(fitted, iris, monkeypatch):
    monkeypatch.setattr(engine, "_BLOCK_ROWS", 40)
    in_parallel = copy.deepcopy(fitted).set_params(n_jobs=2)
    np.testing.assert_allclose(
        in_parallel.score_samples(iris), fitted.score_samples(iris), rtol=1e-9
    )
    np.testing.assert_allclose(
        in_parallel.sample(100, random_state=0), fitted.sample(100, random_state=0), rtol=1e-9
    )


def test_diagnosis_of_a_frame_does_not_miss_its_names(iris):
    frame = pd.DataFrame(iris, columns=list("abcd"))
    diagnosis = InterpolantFlowDensity(**ONE_FIELD).fit(frame).diagnose(frame, random_state=0)
    assert diagnosis.latent_ks.shape == (4,)
