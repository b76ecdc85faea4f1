"""Shared fixtures: small data, a quick fitted estimator, and a watch over global state."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_iris

from skinterflow import InterpolantFlowDensity

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")

QUICK = {"hidden_layer_sizes": (16, 16), "max_iter": 30, "batch_size": 32, "random_state": 0}
"""Parameters of a fit that takes a fraction of a second."""


@pytest.fixture(scope="session")
def iris():
    return load_iris().data


@pytest.fixture(scope="session")
def fitted(iris):
    """A fitted estimator that tests must not change."""
    return InterpolantFlowDensity(**QUICK).fit(iris)


@pytest.fixture(autouse=True)
def global_state_is_untouched():
    """After every test: global random states, default dtype and thread count are those before it."""
    numpy_state, torch_state = np.random.get_state(), torch.random.get_rng_state()
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert torch.get_default_dtype() == dtype
    assert torch.get_num_threads() == n_threads
