"""The adapter to PyOD: its conventions, and scores of the opposite sign."""

import importlib
import sys

import numpy as np
import pytest

from skinterflow import InterpolantFlowOutlierDetector

TINY = {"hidden_layer_sizes": (8,), "max_iter": 20, "n_folds": 2, "random_state": 0}
X = np.concatenate([np.random.default_rng(0).normal(size=(95, 2)), np.full((5, 2), 8.0)])


def test_without_pyod(monkeypatch):
    monkeypatch.delitem(sys.modules, "skinterflow.contrib.pyod", raising=False)
    monkeypatch.setitem(sys.modules, "pyod", None)
    monkeypatch.setitem(sys.modules, "pyod.models.base", None)
    with pytest.raises(
        ImportError,
        match=r"skinterflow\.contrib\.pyod requires PyOD\. You can install it with `pip install "
        r"skinterflow\[pyod\]`",
    ):
        importlib.import_module("skinterflow.contrib.pyod")


@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("pyod", reason="the extra pyod is not installed")
    from skinterflow.contrib.pyod import InterpolantFlowOD

    return InterpolantFlowOD(InterpolantFlowOutlierDetector(**TINY), contamination=0.05).fit(X)


def test_scores_have_the_opposite_sign(fitted):
    np.testing.assert_array_equal(fitted.decision_function(X), -fitted.detector_.score_samples(X))
    np.testing.assert_array_equal(fitted.decision_scores_, -fitted.detector_.held_out_scores_)


def test_labels_of_pyod(fitted):
    assert fitted.labels_.sum() == 5
    assert fitted.predict([[0.0, 0.0], [-8.0, 8.0]]).tolist() == [0, 1]
    assert fitted.predict_proba(X).shape == (100, 2)
    assert not hasattr(fitted.detector, "offset_")
