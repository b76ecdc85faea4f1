"""Shared fixtures: small data, a quick fitted estimator, and a watch over global state."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_iris

from skinterflow import InterpolantFlowDensity
from tests.helpers import QUICK

os.environ.setdefault("MPLBACKEND", "Agg")  # no windows

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # there is a worker for every core

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def iris():
    """Rows in random order: those of scikit-learn are sorted by species, which no fold survives."""
    return np.random.default_rng(0).permutation(load_iris().data)


@pytest.fixture(scope="session")
def fitted(iris):
    """A fitted estimator that tests must not change; its flow goes all the way."""
    return InterpolantFlowDensity(**QUICK, end_time=1.0).fit(iris)


@pytest.fixture(autouse=True)
def global_state_is_untouched(request):
    """After every test: global random states, default dtype and thread count are those before
    it."""
    if (
        request.function.__name__ == "test_common_checks"
    ):  # scikit-learn's checks draw from NumPy's global state themselves
        yield
        return
    numpy_state, torch_state = np.random.get_state(), torch.random.get_rng_state()
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert torch.get_default_dtype() == dtype
    assert torch.get_num_threads() == n_threads
