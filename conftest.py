"""A watch over global state, for the tests and the examples in docstrings alike."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch

# For the workers of pytest-xdist, which start later: there is one for every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_EXTRAS = {
    "distributed": "skinterflow/dask.py",
    "pyod": "skinterflow/contrib/pyod.py",
    "skpro": "skinterflow/contrib/skpro.py",
}
collect_ignore = [path for extra, path in _EXTRAS.items() if not find_spec(extra)]
"""Modules whose examples need an extra that is not installed."""


@pytest.fixture(autouse=True)
def global_state_is_untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: global random states, default dtype and thread count are those before
    it."""
    if request.node.name.startswith("test_common_checks["):
        # scikit-learn's checks draw from NumPy's global state themselves
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
