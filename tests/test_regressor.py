"""The regressor: what its predictions are, their agreement, its inputs and its errors."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, StackingRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinterflow import DegenerateDataWarning, InterpolantFlowRegressor, SavedModelError
from skinterflow._data.trees import boosted_trees
from skinterflow._fit.mixture import member_weights
from skinterflow.metrics import crps, log_likelihood_scorer, neg_crps_scorer

TINY = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 3,
    "batch_size": 16,
    "regressor": None,
    "end_time": 1.0,
    "random_state": 0,
}
SHORT = {**TINY, "trunk_layer_sizes": (16, 16), "max_iter": 60, "batch_size": 64}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = X[:, 0] + 0.3 * np.exp(0.5 * X[:, 1]) * RNG.normal(size=120)
LEVELS = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])


@pytest.fixture(scope="module")
def fitted():
    """A cross-fitted model with members of both kinds."""
    return InterpolantFlowRegressor(**{**SHORT, "regressor": "auto"}).fit(X, Y)


@pytest.fixture(scope="module")
def several():
    return InterpolantFlowRegressor(**SHORT, early_stopping=False).fit(X, np.c_[Y, X[:, 1] - Y])


def test_quantiles_do_not_cross_and_invert_the_distribution(fitted):
    quantiles = fitted.predict_quantiles(X, LEVELS)
    assert quantiles.shape == (120, 7)
    assert (np.diff(quantiles, axis=1) > 0).all()
    np.testing.assert_allclose(fitted.cdf(X, quantiles), np.tile(LEVELS, (120, 1)), atol=1e-3)
    unordered = fitted.predict_quantiles(X[:5], [0.75, 0.25])
    np.testing.assert_array_equal(unordered, quantiles[:5, [4, 2]])
    assert fitted.predict_quantiles(X[:5], 0.5).shape == (5, 1)


def test_the_density_has_mass_one_and_is_the_derivative_of_the_distribution(fitted):
    grid = np.linspace(-12.0, 12.0, 1201)
    rows = np.repeat(X[:2], len(grid), axis=0)
    density = np.exp(fitted.log_density(rows, np.tile(grid, 2))).reshape(2, -1)
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=1), 1.0, atol=1e-3)
    cdf = fitted.cdf(X[:2], np.tile(grid, (2, 1)))
    rate = (cdf[:, 2:] - cdf[:, :-2]) / (grid[2:] - grid[:-2])
    np.testing.assert_allclose(rate, density[:, 1:-1], atol=5e-3)


def test_intervals_mean_and_samples_are_those_of_the_quantiles(fitted):
    interval = fitted.predict_interval(X[:4], coverage=0.9)
    np.testing.assert_allclose(interval, fitted.predict_quantiles(X[:4], [0.05, 0.95]))
    levels = (np.arange(2000) + 0.5) / 2000
    quantiles = fitted.predict_quantiles(X[:4], levels)
    np.testing.assert_allclose(fitted.predict(X[:4]), quantiles.mean(axis=1), atol=5e-3)
    samples = fitted.sample(X[:4], 1500, random_state=0)
    assert samples.shape == (4, 1500)
    np.testing.assert_allclose(
        np.quantile(samples, [0.1, 0.5, 0.9], axis=1),
        np.quantile(quantiles, [0.1, 0.5, 0.9], axis=1),
        atol=0.25,
    )
    median = copy.deepcopy(fitted).set_params(point="median")
    np.testing.assert_array_equal(median.predict(X[:4]), fitted.predict_quantiles(X[:4], 0.5)[:, 0])


def test_shapes_of_samples_are_those_of_gaussian_processes(fitted, several):
    np.testing.assert_array_equal(fitted.sample_y(X[:3], 5), fitted.sample(X[:3], 5, 0))
    assert several.sample(X[:3], 5, random_state=0).shape == (3, 5, 2)
    assert several.sample_y(X[:3], 5).shape == (3, 2, 5)


def test_several_outputs_have_a_joint_density(several):
    assert several.predict(X).shape == (120, 2)
    log_density, error = several.log_density(X, np.c_[Y, X[:, 1] - Y], return_error=True)
    assert log_density.shape == error.shape == (120,)
    assert (error < 1e-3).all()
    grid = np.linspace(-8.0, 8.0, 65)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    density = np.exp(several.log_density(np.repeat(X[:1], len(points), axis=0), points))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=1e-2)
    for method in ("predict_quantiles", "cdf"):
        with pytest.raises(ValueError, match=r"requires one output.*use sample"):
            getattr(several, method)(X[:2], [0.5, 0.5])


def test_a_row_does_not_depend_on_the_others(fitted):
    for method in ("predict", "predict_interval"):
        together = getattr(fitted, method)(X)
        alone = np.concatenate([getattr(fitted, method)(X[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(alone, together[:3], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        fitted.log_density(X[:1], Y[:1]), fitted.log_density(X, Y)[:1], rtol=1e-9
    )


def test_it_learns_what_there_is_to_learn():
    rng = np.random.default_rng(1)
    features = rng.uniform(-1.0, 1.0, size=(400, 1))
    noise = 0.2 + 0.3 * (features[:, 0] > 0)
    y = 3.0 * features[:, 0] + noise * rng.normal(size=400)
    model = InterpolantFlowRegressor(
        **{**SHORT, "max_iter": 250, "trunk_layer_sizes": (32, 32), "learning_rate_init": 0.01}
    ).fit(features, y)
    widths = np.diff(model.predict_interval([[-0.5], [0.5]], coverage=0.6827))[:, 0] / 2.0
    assert 0.15 < widths[0] < 0.37 < 0.42 < widths[1] < 0.65
    np.testing.assert_allclose(model.predict([[-0.5], [0.5]]), [-1.5, 1.5], atol=0.2)


def test_same_random_state_same_result(fitted):
    again = clone(fitted).fit(X, Y)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_saved_and_pickled_models_predict_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = InterpolantFlowRegressor.load(tmp_path / "model")
    for other in (loaded, pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.predict(X), fitted.predict(X))
        np.testing.assert_array_equal(other.log_density(X, Y), fitted.log_density(X, Y))


def test_a_loaded_model_must_be_one_that_a_fit_can_have_made(fitted, tmp_path):
    spoiled = copy.deepcopy(fitted)
    spoiled.member_weights_ = -spoiled.member_weights_
    spoiled.save(tmp_path / "model")
    with pytest.raises(SavedModelError, match="member_weights_"):
        InterpolantFlowRegressor.load(tmp_path / "model")


def test_a_model_with_a_regressor_of_the_user_is_pickled_only(tmp_path):
    model = InterpolantFlowRegressor(**{**TINY, "regressor": Ridge()}).fit(X, Y)
    assert model.uses_regressor_.all()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    with pytest.raises(TypeError, match=r"Ridge.*joblib"):
        model.save(tmp_path / "model")


def test_a_base_regressor_shifts_the_density():
    y = 5.0 * X[:, 0] + 0.1 * Y
    model = InterpolantFlowRegressor(**{**TINY, "regressor": LinearRegression()}).fit(X, y)
    assert model.score(X, y) > 0.95
    assert InterpolantFlowRegressor(**TINY).fit(X, y).score(X, y) < 0.5


def test_the_unit_of_a_member_is_the_size_of_what_the_base_regressor_leaves():
    y = 5.0 * X[:, 0] + 0.1 * Y
    model = InterpolantFlowRegressor(**{**TINY, "regressor": LinearRegression()}).fit(X, y)
    features = model._encoding.encode(X, [""] * 3)
    left = (y - LinearRegression().fit(features, y).predict(features)).std() / y.std()
    np.testing.assert_allclose(model._sizes, left, rtol=0.2)


def test_samples_are_drawn_from_members_by_their_weights(fitted):
    model = copy.deepcopy(fitted)
    model.member_weights_ = np.array([0.55, 0.15, *[0.0375] * 8])
    drawn = model._model()._members(np.random.default_rng(0).uniform(size=20_000))
    shares = np.bincount(drawn, minlength=10) / 20_000
    np.testing.assert_allclose(shares, model.member_weights_, atol=0.015)


def test_boosted_trees_predict_as_the_model_that_they_are_from():
    for rows in (8, 120):
        model = HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(X[:rows], Y[:rows])
        np.testing.assert_allclose(boosted_trees(model).predict(X), model.predict(X), rtol=1e-12)


def test_weights_are_those_of_the_largest_likelihood():
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=4000) < 0.3, rng.normal(size=4000), 4.0 + rng.normal(size=4000))
    log_density = np.stack([-0.5 * x**2, -0.5 * (x - 4.0) ** 2, np.full(4000, -60.0)], axis=1)
    weights = member_weights(torch.from_numpy(log_density.T), torch.ones(4000).double())
    np.testing.assert_allclose(weights, [0.3, 0.7, 0.0], atol=0.02)
    assert weights[2] == 0.0
    rare = np.where(np.arange(4000) < 40, 0.0, -60.0)  # largest likelihood at a weight of 0.01
    both = torch.from_numpy(np.stack([rare, -60.0 - rare]))
    weights = member_weights(both, torch.ones(4000).double())
    assert weights.tolist() == [0.0, 1.0]


def test_large_data_keep_the_better_kind_of_members(monkeypatch):
    monkeypatch.setattr("skinterflow.regressor._CROSS_FIT_BELOW", 100)
    y = np.where(X[:, 0] > 0.2, 5.0, -5.0) + 0.1 * Y
    model = InterpolantFlowRegressor(**{**TINY, "regressor": "auto"}).fit(X, y)
    assert model.uses_regressor_.tolist() == [True, True]
    assert model.member_weights_.tolist() == [0.5, 0.5]


# Inputs.


def test_missing_values_and_categories(tmp_path):
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    frame.loc[::7, "a"] = np.nan
    frame["color"] = pd.Categorical(np.where(X[:, 2] > 0, "red", "blue"))
    y = Y + 4.0 * (X[:, 2] > 0)
    model = InterpolantFlowRegressor(**{**SHORT, "max_iter": 150}).fit(frame, y)
    assert list(model.feature_names_in_) == ["a", "b", "color"]
    red, blue = frame.head(2).copy(), frame.head(2).copy()
    red["color"], blue["color"] = "red", "blue"
    assert (model.predict(red) - model.predict(blue) > 1.0).all()
    model.save(tmp_path / "model")
    loaded = InterpolantFlowRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="color has the category 'green' in 2 of 2 rows"):
        model.predict(red.assign(color="green"))
    with pytest.raises(ValueError, match="1 of 2 values of b are missing, but none was in fit"):
        model.predict(red.assign(b=[np.nan, 0.0]))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(red[["b", "a", "color"]])


def test_categorical_columns_by_name_number_or_mask():
    frame = pd.DataFrame({"a": X[:, 0], "kind": np.where(X[:, 2] > 0, 3, 7)})
    array = frame.to_numpy()
    expected = (
        InterpolantFlowRegressor(**TINY, categorical_features=["kind"]).fit(frame, Y).predict(frame)
    )
    for categorical in ([1], [False, True]):
        model = InterpolantFlowRegressor(**TINY, categorical_features=categorical).fit(array, Y)
        np.testing.assert_array_equal(model.predict(array), expected)
    with pytest.raises(ValueError, match="categorical_features has 'no', which is not a column"):
        InterpolantFlowRegressor(**TINY, categorical_features=["no"]).fit(frame, Y)


def test_units_of_the_features_and_of_the_output_do_not_matter():
    plain = InterpolantFlowRegressor(**TINY).fit(X, Y)
    scaled = InterpolantFlowRegressor(**TINY).fit(1e3 * X + 5.0, 100.0 * Y - 7.0)
    np.testing.assert_allclose(
        scaled.predict(1e3 * X + 5.0), 100.0 * plain.predict(X) - 7.0, rtol=1e-3, atol=1e-2
    )
    np.testing.assert_allclose(
        scaled.log_density(1e3 * X + 5.0, 100.0 * Y - 7.0),
        plain.log_density(X, Y) - np.log(100.0),
        atol=1e-3,
    )


def test_held_out_rows_of_the_user_and_weights():
    weight = np.where(np.arange(120) < 60, 1.0, 0.0)
    half = InterpolantFlowRegressor(**TINY).fit(X[:60], Y[:60])
    model = InterpolantFlowRegressor(**TINY).fit(X, Y, weight)
    np.testing.assert_array_equal(model.predict(X), half.predict(X))
    model = InterpolantFlowRegressor(**TINY).fit(X, Y, X_val=X[:20], y_val=Y[:20])
    assert len(model.validation_scores_) == len(model.check_steps_)


def test_warm_start_continues():
    model = InterpolantFlowRegressor(**{**TINY, "regressor": "auto"}, warm_start=True).fit(X, Y)
    model.set_params(max_iter=5).fit(X, Y)
    assert model.n_iter_ == 5


def test_a_warm_start_keeps_the_units_of_the_members():
    """Members would otherwise see outputs of another size than they were trained on."""
    model = InterpolantFlowRegressor(**TINY, warm_start=True).fit(X, Y)
    size, density = model._sizes.copy(), model.log_density(X, Y)
    with pytest.warns(UserWarning, match="nothing left to train"):
        model.fit(X, 10.0 * Y)
    np.testing.assert_array_equal(model._sizes, size)
    np.testing.assert_allclose(model.log_density(X, Y), density, atol=1e-5)


@pytest.mark.parametrize("batch_size", [16, 100])
def test_dropout_depends_on_how_rows_are_held_out(batch_size):
    crossed = {**TINY, "batch_size": batch_size}
    for early_stopping, dropout in (("auto", 0.2), (True, 0.1), (False, 0.1)):
        model = InterpolantFlowRegressor(**crossed, early_stopping=early_stopping).fit(X, Y)
        assert {field.dropout for field in model._trained.fields()} == {dropout}


@pytest.mark.parametrize("choice", [{}, {"conformal": True}], ids=["plain", "conformal"])
def test_an_interrupted_fit_resumes(tmp_path, monkeypatch, choice):
    path, n_steps = tmp_path / "checkpoint", 0

    def interrupt(self, state):
        nonlocal n_steps
        n_steps += 1
        self.write(state())
        if n_steps == 2:
            raise OSError("power cut")

    model = InterpolantFlowRegressor(**TINY, **choice, checkpoint=path)
    with monkeypatch.context() as patched:
        patched.setattr("skinterflow._persistence.checkpoint.Checkpoint.write_if_due", interrupt)
        with pytest.raises(OSError, match="power cut"):
            model.fit(X, Y)
    assert path.exists()
    whole = InterpolantFlowRegressor(**TINY, **choice).fit(X, Y)
    resumed = model.fit(X, Y)
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))
    np.testing.assert_array_equal(resumed.predict_interval(X), whole.predict_interval(X))


# Among scikit-learn's own.


def expected_failures(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "stochastic training: a row of weight two is not drawn into batches as two rows are"
        )
    }


@parametrize_with_checks(
    [InterpolantFlowRegressor(**{**TINY, "max_iter": 2, "regressor": LinearRegression()})],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings(
    "ignore::skinterflow.DegenerateDataWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
)
def test_common_checks(estimator, check):
    check(estimator)


def test_searches_scorers_and_meta_estimators():
    model = InterpolantFlowRegressor(**TINY, early_stopping=False)
    scoring = {"likelihood": log_likelihood_scorer, "crps": neg_crps_scorer}
    scores = cross_validate(model, X, Y, cv=2, scoring=scoring)
    assert (scores["test_crps"] < 0).all()
    assert np.isfinite(scores["test_likelihood"]).all()
    search = GridSearchCV(model, {"max_iter": [1, 60]}, cv=2, scoring=log_likelihood_scorer).fit(
        X, Y
    )
    assert search.best_params_ == {"max_iter": 60}
    target = TransformedTargetRegressor(model, func=np.arcsinh, inverse_func=np.sinh).fit(X, Y)
    assert target.predict(X).shape == (120,)
    stack = StackingRegressor([("flow", model), ("ridge", Ridge())], cv=2).fit(X, Y)
    assert stack.predict(X).shape == (120,)
    importance = permutation_importance(search.best_estimator_, X, Y, n_repeats=1, random_state=0)
    assert importance.importances_mean.argmax() == 0


# Errors and warnings.

BAD = {
    "NaN in y": (lambda m: m.fit(X, np.where(Y > 1, np.nan, Y)), "y contains NaN"),
    "constant y": (lambda m: m.fit(X, np.ones(120)), "y is constant, 1 in all 120 rows"),
    "one row": (lambda m: m.fit(X[:1], Y[:1]), "minimum of 2 is required"),
    "X_val alone": (lambda m: m.fit(X, Y, X_val=X), "must be given together"),
    "infinity": (lambda m: m.fit(np.where(X > 2, np.inf, X), Y), "infinity"),
    "cube": (lambda m: m.fit(X, np.ones((120, 2, 2))), "Found array with dim 3"),
    "point": (lambda m: m.set_params(point="mode").fit(X, Y), "point"),
    "path": (lambda m: m.set_params(interpolant="fourier").fit(X, Y), "interpolant"),
}
BAD_CALLS = {
    "level 0": (lambda m: m.predict_quantiles(X, [0.0, 0.5]), r"levels in \(0, 1\)"),
    "level 1.2": (lambda m: m.predict_quantiles(X, 1.2), r"levels in \(0, 1\)"),
    "coverage": (lambda m: m.predict_interval(X, 1.0), r"coverage must be a number in \(0, 1\)"),
    "huge coverage": (lambda m: m.predict_interval(X, 10**400), "coverage must be .*, got 1000"),
    "no samples": (lambda m: m.sample(X, 0), "n_samples must be an integer of at least 1"),
    "columns": (lambda m: m.predict(X[:, :2]), "2 features"),
    "other length": (lambda m: m.log_density(X, Y[:5]), "inconsistent numbers of samples"),
    "two outputs": (lambda m: m.log_density(X, X[:, :2]), "y has 2 outputs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fits(name):
    call, match = BAD[name]
    model = InterpolantFlowRegressor(**TINY)
    with pytest.raises(ValueError, match=match):
        call(model)
    assert not hasattr(model, "n_iter_")


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(fitted, name):
    call, match = BAD_CALLS[name]
    with pytest.raises(ValueError, match=match):
        call(fitted)


def test_repeated_outputs_are_named():
    model = InterpolantFlowRegressor(**TINY)
    with pytest.warns(DegenerateDataWarning, match=r"100% of the rows in all.*neg_crps_scorer"):
        model.fit(X, np.clip(np.rint(Y), -1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, np.round(Y, 2))


# Metrics.


def test_crps_of_a_normal_is_the_closed_form():
    from scipy.stats import norm

    levels, y = (np.arange(999) + 0.5) / 999, np.array([-1.0, 0.0, 2.0])
    quantiles = np.tile(norm.ppf(levels), (3, 1))
    expected = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert crps(y, quantiles, levels) == pytest.approx(expected.mean(), abs=1e-3)
    assert crps(y, quantiles[:, ::-1]) == pytest.approx(expected.mean(), abs=1e-3)
    weight = [0.0, 0.0, 1.0]
    weighted = crps(y, quantiles, levels, sample_weight=weight)
    assert weighted == pytest.approx(expected[2], abs=1e-3)
    with pytest.raises(ValueError, match="3 increasing levels"):
        crps(y, np.zeros((3, 3)), [0.5, 0.4, 0.6])
    with pytest.raises(ValueError, match="y_true must be of shape"):
        crps(np.ones((3, 2)), np.zeros((3, 3)))
