"""The fit's own mechanism: who judges whom, what a batch holds, where the flow ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinterflow._data.batches import FlowRows, NormalRows, Reader, ShuffledRows, training_rows
from skinterflow._fit import run as fitting
from skinterflow._fit import validation
from skinterflow._fit.limits import TimeBudget
from skinterflow._fit.recipe import resolve_recipe
from skinterflow._fit.validation import (
    CROSS_FIT_BELOW,
    VALIDATION_ROW_TIMES,
    HeldOut,
    held_out_rows,
)
from skinterflow._runtime import seeded_generators
from skinterflow.interflow.couplings import OptimalTransport
from skinterflow.interflow.scaling import Compose

RECIPE_PARAMETERS = {
    "n_rows": 100,
    "cross_fitted": True,
    "coupling": "independent",
    "end_time": "auto",
    "alpha": 1.0,
    "batch_size": "auto",
    "learning_rate_init": "auto",
    "max_iter": "auto",
    "n_iter_no_change": 3,
    "tol": 0.0,
    "verbose": False,
}
RECIPE = resolve_recipe(**RECIPE_PARAMETERS)
UNLIMITED = TimeBudget(None)


def folds_of(n_rows, **choice):
    reader = Reader(
        np.arange(float(n_rows))[:, None].repeat(2, 1),
        np.ones(n_rows),
        np.zeros(2),
        Compose([]),
        torch.device("cpu"),
    )
    source, generator = NormalRows(2, torch.device("cpu")), torch.Generator().manual_seed(0)
    parts = held_out_rows(
        n_rows,
        **({"early_stopping": "auto", "validation_fraction": 0.1} | choice),
        generator=generator,
    )
    return [
        fitting.Fold(source, training_rows(reader, part, generator), reader.read(part, generator))
        for part in parts
    ]


@pytest.mark.parametrize(
    ("n_rows", "max_iter"), [(120, 600), (121, 605), (499, 2_495), (500, 2_500), (1_900, 2_500)]
)
def test_a_cross_fit_takes_five_steps_for_each_row_within_limits(n_rows, max_iter):
    parameters = RECIPE_PARAMETERS | {"n_rows": n_rows}
    assert resolve_recipe(**parameters).max_iter == max_iter
    assert resolve_recipe(**(parameters | {"cross_fitted": False})).max_iter == 4_000


@pytest.mark.parametrize(("n_rows", "n_times", "n_checked"), [(255, 2, 255), (256, 4, 128)])
def test_checks_of_few_rows_evaluate_two_end_times(n_rows, n_times, n_checked):
    folds = folds_of(n_rows)
    end_times = validation.end_times_at_check(folds, RECIPE)
    assert len(end_times) == n_times
    assert HeldOut([], folds, VALIDATION_ROW_TIMES // n_times).n_rows == n_checked
    assert validation.end_times_at_check(folds[:1], RECIPE) == (1.0,)
    assert validation.end_times_at_check(folds, replace(RECIPE, end_time=0.7)) == (0.7,)


@given(n_rows=st.integers(2, 60))
def test_cross_fitting_judges_every_row_once_by_a_field_that_did_not_see_it(n_rows):
    folds = folds_of(n_rows)
    judged = torch.cat([fold.validation.u[:, 0] for fold in folds])
    assert torch.equal(judged.sort().values, torch.arange(float(n_rows)))
    for fold in folds:
        assert len(fold.train) + len(fold.validation.u) == n_rows
        assert len(fold.train) > 0
        assert not torch.isin(fold.validation.u[:, 0], fold.train.rows.u[:, 0]).any()


@pytest.mark.parametrize(
    ("n_rows", "choice", "sizes"),
    [
        (CROSS_FIT_BELOW, {}, [200]),
        (CROSS_FIT_BELOW - 1, {}, [500, 500, 500, 499]),
        (50, {"early_stopping": True}, [5]),
        (50, {"one_member": True}, [5]),
        (2, {"early_stopping": True, "validation_fraction": 0.99}, [1]),
        (50, {"early_stopping": False}, [0]),
    ],
)
def test_size_of_the_held_out_parts(n_rows, choice, sizes):
    assert [len(fold.validation.u) for fold in folds_of(n_rows, **choice)] == sizes


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        (
            {1.0: -3.0, 0.97: -2.0, 0.93: -1.0, 0.88: -1.5, 0.8: 9.0, 0.0: -4.0},
            0.93,
        ),  # the first maximum on the way
        ({1.0: -3.0, 0.97: -3.5, 0.0: -2.0}, 0.0),  # but never worse than the Gaussian
        ({1.0: -1.0, 0.97: -2.0, 0.0: -4.0}, 1.0),
    ],
)
def test_end_time_is_chosen_by_held_out_log_likelihood(scores, chosen):
    def end_time(recipe, n_rows=20):
        return validation.choose_end_time(Table(scores, n_rows), recipe, UNLIMITED)

    assert end_time(RECIPE) == chosen
    assert end_time(replace(RECIPE, end_time=0.4)) == 0.4
    assert end_time(RECIPE, n_rows=0) == 1.0


class Table(validation.HeldOut):
    """Held-out rows whose mean log-density is known for each end time."""

    def __init__(self, scores, n_rows, spread=0.0):
        self.weight = torch.ones(n_rows, dtype=torch.float64)
        noise = spread * (-1.0) ** torch.arange(n_rows, dtype=torch.float64)
        self._known = {time: score + time * noise for time, score in scores.items()}


def test_the_gaussian_stays_unless_the_flow_is_clearly_better():
    scores = {1.0: -1.9, 0.97: -2.5, 0.0: -2.0}
    # The standard error of the gain is the spread over the root of 100.
    for spread, chosen in ((0.2, 1.0), (2.0, 0.0)):
        table = Table(scores, 100, spread)
        assert validation.choose_end_time(table, RECIPE, UNLIMITED) == chosen


def test_pairs_carry_the_product_of_their_weights():
    """Row k of either side has value and weight k + 1: the weight of a pair tells who was
    paired."""
    numbers = torch.arange(1.0, 9.0)
    rows = [
        ShuffledRows(FlowRows(numbers[:, None].repeat(1, 2), numbers, torch.zeros(8)), seed)
        for seed in (0, 1)
    ]
    fold = fitting.Fold(*rows, FlowRows(torch.empty(0, 2), torch.empty(0), torch.empty(0)))
    x0, x1, weight, context = fitting._pairs(
        fold,
        0,
        replace(RECIPE, coupling=OptimalTransport(), batch_size=8),
        seeded_generators(0, torch.device("cpu")),
    )
    torch.testing.assert_close(weight, x0[:, 0] * x1[:, 0])
    torch.testing.assert_close(x0, x1)  # of two equal sets, each row meets itself
    assert context is None
