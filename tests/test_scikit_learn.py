"""The estimator among scikit-learn's own: the common checks, Pipeline, searches, routing, output
containers."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._set_output import ADAPTERS_MANAGER
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinterflow import InterpolantFlowDensity
from skinterflow._fit import validation
from tests.helpers import ONE_FIELD, expected_failures

TINY = {"hidden_layer_sizes": (8,), "max_iter": 2, "batch_size": 16}


@parametrize_with_checks(
    [
        InterpolantFlowDensity(**TINY, end_time=0.9),  # cross-fitted, and a flow
        # with as many held-out rows that clusters become a mixture
        InterpolantFlowDensity(**TINY, early_stopping=True, validation_fraction=0.2),
    ],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings(
    "ignore::skinterflow.DegenerateDataWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
)
def test_common_checks(estimator, check, monkeypatch):
    monkeypatch.setattr(validation, "_N_FOLDS", 2)  # as good as four here
    check(estimator)


def test_pipeline_scores_what_its_last_step_sees(iris):
    pipeline = make_pipeline(StandardScaler(), InterpolantFlowDensity(**ONE_FIELD)).fit(iris)
    standardized = StandardScaler().fit_transform(iris)
    np.testing.assert_allclose(
        pipeline.score_samples(iris), pipeline[-1].score_samples(standardized)
    )
    assert pipeline.score(iris) == pytest.approx(pipeline.score_samples(iris).mean())
    np.testing.assert_allclose(
        pipeline.inverse_transform(pipeline.transform(iris)), iris, atol=1e-2
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_takes_the_better_density(iris, n_jobs):
    search = GridSearchCV(
        InterpolantFlowDensity(**ONE_FIELD),
        {"scaling": [None, "power"], "end_time": [1.0]},
        cv=2,
        n_jobs=n_jobs,
    ).fit(iris)
    assert (
        search.best_params_["scaling"] == "power"
    )  # by far, in so few steps; 2 against 60 steps differ by less than the seed does
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert search.score(iris) == pytest.approx(search.best_estimator_.score_samples(iris).mean())


def test_randomized_search_in_a_pipeline(iris):
    pipeline = make_pipeline(StandardScaler(), InterpolantFlowDensity(**ONE_FIELD))
    name = "interpolantflowdensity__scaling"
    search = RandomizedSearchCV(
        pipeline, {name: ["power", "whiten"]}, n_iter=2, cv=2, random_state=0
    ).fit(iris)
    assert search.best_params_[name] in ("power", "whiten")


def test_cross_val_score_is_the_mean_per_row(iris):
    scores = cross_val_score(InterpolantFlowDensity(**ONE_FIELD), iris, cv=3)
    assert scores.shape == (3,)
    assert (np.abs(scores) < 20).all()


def test_clone_and_parameters():
    density = InterpolantFlowDensity(alpha=3.0, hidden_layer_sizes=(5,))
    assert clone(density).get_params() == density.get_params()
    assert repr(density) == "InterpolantFlowDensity(alpha=3.0, hidden_layer_sizes=(5,))"


def test_metadata_routing_of_weights(iris):
    weight = np.linspace(0.1, 1.0, 150)
    with sklearn.config_context(enable_metadata_routing=True):
        density = (
            InterpolantFlowDensity(**ONE_FIELD)
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        routed = cross_val_score(density, iris, cv=3, params={"sample_weight": weight})
    assert not np.allclose(routed, cross_val_score(InterpolantFlowDensity(**ONE_FIELD), iris, cv=3))


def test_output_containers_and_names(iris):
    frame = pd.DataFrame(
        iris, columns=["sepal length", "sepal width", "petal length", "petal width"]
    )
    density = InterpolantFlowDensity(**ONE_FIELD).fit(frame).set_output(transform="pandas")
    latent = density.transform(frame)
    expected = [f"latent{k}" for k in range(4)]
    assert list(latent.columns) == expected == list(density.get_feature_names_out())
    assert list(density.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(frame[frame.columns[::-1]])


def test_samples_are_frames_of_the_fitted_columns(iris):
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    frame = pd.DataFrame(iris, columns=names, index=np.arange(150) + 7)
    density = InterpolantFlowDensity(**ONE_FIELD).fit(frame)
    plain = density.sample(3, random_state=0)
    assert isinstance(plain, np.ndarray)
    density.set_output(transform="pandas")
    latent = density.transform(frame)
    for method in ("ode", "sde"):
        assert list(density.sample(3, random_state=0, method=method).columns) == names
    np.testing.assert_array_equal(density.sample(3, random_state=0), plain)
    back = density.inverse_transform(latent)
    assert list(back.columns) == names
    assert list(back.index) == list(frame.index)
    # They can be asked about as they are, and what the model asks of itself warns of nothing.
    assert density.score_samples(density.sample(3, random_state=0)).shape == (3,)
    assert density.contains(frame, 0.5, n_samples=50, random_state=0).shape == (150,)
    assert np.isfinite(density.diagnose(frame, random_state=0).latent_ks).all()
    unnamed = InterpolantFlowDensity(**ONE_FIELD).fit(iris)
    with sklearn.config_context(transform_output="pandas"):
        assert list(unnamed.sample(2, random_state=0).columns) == ["x0", "x1", "x2", "x3"]


class Recorder:
    """A container of scikit-learn's, as that of polars is one."""

    container_lib = "recorder"

    def create_container(self, X_output, X_original, columns, inplace=True):
        return {"rows": X_output, "columns": list(columns() if callable(columns) else columns)}

    def is_supported_container(self, X):
        return isinstance(X, dict)

    def rename_columns(self, X, columns):
        return X | {"columns": list(columns)}

    def hstack(self, Xs):
        raise NotImplementedError


def test_any_container_of_scikit_learn_is_given(iris, monkeypatch):
    monkeypatch.setitem(ADAPTERS_MANAGER.adapters, "recorder", Recorder())
    density = InterpolantFlowDensity(**ONE_FIELD).fit(pd.DataFrame(iris, columns=list("abcd")))
    density._sklearn_output_config = {"transform": "recorder"}
    assert density.sample(2, random_state=0)["columns"] == list("abcd")
    assert density.inverse_transform(iris[:2])["columns"] == list("abcd")


def test_html_representation(fitted):
    html = fitted._repr_html_()
    assert "InterpolantFlowDensity" in html
    assert "max_iter" in html


def test_tags(fitted):
    tags = sklearn.utils.get_tags(fitted)
    assert tags.estimator_type == "density_estimator"
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
    assert not tags.input_tags.allow_nan
    assert not tags.non_deterministic
