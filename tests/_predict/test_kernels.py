"""The kernel density of the outlier detector, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KernelDensity

from skinterflow._predict import kernels

RANDOM = np.random.default_rng(0)
ROWS, NEW = RANDOM.normal(size=(50, 3)), 2.0 * RANDOM.normal(size=(20, 3))


@pytest.mark.parametrize("bandwidth", [0.1, 1.0])
def test_log_density_is_that_of_scikit_learn(bandwidth, monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK_ROWS", 7)
    expected = KernelDensity(bandwidth=bandwidth).fit(ROWS).score_samples(NEW)
    np.testing.assert_allclose(kernels.kernel_log_density(NEW, ROWS, bandwidth), expected)


def test_score_is_the_gradient(monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK_ROWS", 7)
    step = 1e-5 * np.eye(3)
    finite = [
        (
            kernels.kernel_log_density(NEW + e, ROWS, 0.5)
            - kernels.kernel_log_density(NEW - e, ROWS, 0.5)
        )
        / 2e-5
        for e in step
    ]
    np.testing.assert_allclose(
        kernels.kernel_score(NEW, ROWS, 0.5), np.transpose(finite), rtol=1e-5
    )


def test_the_bandwidth_is_the_best_of_rows_that_are_left_out():
    chosen = kernels.select_bandwidth(ROWS, np.random.RandomState(0))
    scores = [
        cross_val_score(KernelDensity(bandwidth=h), ROWS, cv=LeaveOneOut()).mean()
        for h in kernels._BANDWIDTHS
    ]
    assert chosen == kernels._BANDWIDTHS[np.argmax(scores)]


def test_repeated_rows_have_a_smallest_bandwidth():
    repeated = np.repeat(ROWS[:10], 5, axis=0)
    assert kernels.select_bandwidth(repeated, np.random.RandomState(0)) == pytest.approx(0.1)
