"""Shared fixtures: small data and a quick fitted estimator."""

import os

import numpy as np
import pytest
from hypothesis import settings
from sklearn.datasets import load_iris

from skinterflow import InterpolantFlowDensity
from tests.helpers import QUICK

os.environ.setdefault("MPLBACKEND", "Agg")  # no windows

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
