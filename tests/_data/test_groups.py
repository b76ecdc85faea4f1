"""Rows that are held out together, and from everything: the scaling of a fold never sees its
held-out rows."""

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, cross_val_score

from skinterflow import DegenerateDataWarning, InterpolantFlowDensity, density
from skinterflow import _base as flow_estimator
from skinterflow._data import groups
from skinterflow._data.groups import checked_groups, copies, grouped_folds, grouped_part
from tests.helpers import QUICK

BRIEF = QUICK | {"max_iter": 2, "end_time": 1.0}
"""Cross-fitted, and checked once or twice."""


def generator():
    return torch.Generator().manual_seed(0)


@given(
    labels=st.lists(st.integers(0, 6), min_size=4, max_size=40).filter(
        lambda labels: len(set(labels)) > 1
    )
)
def test_no_group_is_on_both_sides(labels):
    codes = checked_groups(labels, len(labels))
    folds = grouped_folds(codes, 4, generator())
    assert sorted(torch.cat(folds).tolist()) == list(range(len(labels)))
    assert all(len(fold) for fold in folds)
    for held_out in [*folds, grouped_part(codes, 3, generator())]:
        inside = set(codes[held_out.numpy()])
        assert 0 < len(held_out) < len(codes)
        assert not inside & set(np.delete(codes, held_out.numpy()))


def test_folds_of_groups_are_balanced():
    sizes = [len(fold) for fold in grouped_folds(np.repeat(np.arange(40), 5), 4, generator())]
    assert sizes == [50] * 4
    assert len(grouped_part(np.repeat(np.arange(40), 5), 20, generator())) == 20


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], r"one label for each of the 150 rows of X, got an array of shape \(2,\)"),
        (np.zeros((150, 1)), r"got an array of shape \(150, 1\)"),
        (np.r_[np.nan, np.arange(149.0)], "NaN for 1 of 150 rows"),
        (["one"] * 150, "one label for all rows, which leaves none to train on if they are held"),
    ],
)
def test_groups_that_cannot_be_used(iris, groups, message):
    with pytest.raises(ValueError, match=message):
        InterpolantFlowDensity(**QUICK).fit(iris, groups=groups)


@pytest.mark.parametrize("early_stopping", ["auto", True])
def test_fit_holds_groups_out(iris, monkeypatch, early_stopping):
    seen, choose = [], density.held_out_rows
    monkeypatch.setattr(
        density, "held_out_rows", lambda *args: seen.append(choose(*args)) or seen[-1]
    )
    labels, weight = np.array([f"patient {k % 12}" for k in range(150)]), np.r_[0.0, np.ones(149)]
    InterpolantFlowDensity(**BRIEF, early_stopping=early_stopping).fit(
        iris, sample_weight=weight, groups=labels
    )
    for rows in seen[0]:
        held_out = labels[1:][rows.numpy()]
        assert not set(held_out) & set(np.delete(labels[1:], rows.numpy()))


def test_routing_of_groups(iris):
    labels = np.arange(150) // 5
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = InterpolantFlowDensity(**BRIEF).set_fit_request(groups=True)
        scores = cross_val_score(estimator, iris, cv=GroupKFold(3), params={"groups": labels})
    assert np.isfinite(scores).all()


def test_copies_are_counted_and_numbered(monkeypatch):
    X = np.random.default_rng(0).normal(size=(200, 3))
    assert copies(X) == (0.0, None)
    doubled = np.r_[X, X[:100]]
    part, codes = copies(doubled)
    assert part == pytest.approx(1 / 3)
    np.testing.assert_array_equal(codes[:100], codes[200:])
    assert len(np.unique(codes)) == 200
    assert copies(np.array([[0.0], [-0.0]]))[0] == 0.5
    monkeypatch.setattr(groups, "_MOST_HASHED", 100)  # a third of the values, each with its copies
    part, codes = copies(doubled)
    assert codes is None
    assert part == pytest.approx(1 / 3, abs=0.1)


def test_many_copies_are_held_out_together_with_a_warning(monkeypatch):
    X = np.repeat(np.random.default_rng(0).normal(size=(60, 2)), 4, axis=0)
    seen, choose = [], density.held_out_rows
    monkeypatch.setattr(
        density, "held_out_rows", lambda *args: seen.append(choose(*args)) or seen[-1]
    )
    with pytest.warns(
        DegenerateDataWarning,
        match=r"75% of the rows are exact copies .* held out together.  Drop .* groups",
    ):
        InterpolantFlowDensity(**BRIEF).fit(X)
    for rows in seen[0]:
        assert (np.bincount(rows.numpy() // 4)[np.unique(rows.numpy() // 4)] == 4).all()


@pytest.mark.parametrize("early_stopping", ["auto", True])
def test_scaling_has_not_seen_the_held_out_rows(monkeypatch, early_stopping):
    """A held-out row that is moved far away leaves the scaling of its fold as it was, to the last
    bit."""
    X, folds = np.random.default_rng(0).normal(size=(100, 3)), []
    train = flow_estimator.FlowEstimator._train

    def noted(self, objectives, plan, context):
        folds.append(plan.folds)
        return train(self, objectives, plan, context)

    monkeypatch.setattr(flow_estimator.FlowEstimator, "_train", noted)
    choose, held_out = density.held_out_rows, []
    monkeypatch.setattr(
        density, "held_out_rows", lambda *args: held_out.append(choose(*args)) or held_out[-1]
    )
    parameters = BRIEF | {"early_stopping": early_stopping}
    InterpolantFlowDensity(**parameters).fit(X)
    moved = X.copy()
    moved[held_out[0][0][0]] += 50.0
    InterpolantFlowDensity(**parameters).fit(moved)
    first, second = (parts[0].scaling.state_dict() for parts in folds)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if early_stopping == "auto":
        others = [parts[1].scaling.state_dict() for parts in folds]
        assert not all(torch.equal(others[0][name], others[1][name]) for name in others[0])


@pytest.mark.slow
def test_held_out_log_likelihood_is_that_of_new_rows():
    """Few rows in many columns, where a scaling by all of them adds nats to their score."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 20))
    X, new = (rng.normal(size=(n, 3)) @ root + 0.5 * rng.normal(size=(n, 20)) for n in (60, 2000))
    estimator = InterpolantFlowDensity(
        hidden_layer_sizes=(32, 32), max_iter=300, random_state=0
    ).fit(X)
    assert estimator.best_validation_score_ < estimator.score(new) + 1.5
