"""Time laws against SciPy."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skinterflow.interflow.times import Beta, stratified_uniform

PARAMETERS = st.sampled_from([0.3, 0.5, 1.0, 2.0, 3.5])


@given(
    a=PARAMETERS,
    b=PARAMETERS,
    u=st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=5),
)
def test_quantiles_match_scipy(a, b, u):
    u = torch.tensor(u, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # its root finding gives up on tiny probabilities, older releases sooner
        expected = stats.beta(a, b).ppf(u)
    np.testing.assert_allclose(Beta(a, b).quantile(u), expected, rtol=1e-9, atol=1e-12)


def test_uniform_is_beta_one_one():
    u = torch.linspace(0, 1, 7)
    torch.testing.assert_close(Beta().quantile(u), u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantile_keeps_dtype(dtype):
    assert Beta(2.0, 3.0).quantile(torch.tensor([0.5], dtype=dtype)).dtype == dtype


def test_strata_hold_one_draw_each():
    with torch.random.fork_rng():
        u = stratified_uniform(50)
    assert torch.equal((u * 50).floor(), torch.arange(50.0))


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, -2.0)])
def test_parameters_must_be_positive(a, b):
    with pytest.raises(ValueError, match=f"two positive parameters, got a={a} and b={b}"):
        Beta(a, b)
