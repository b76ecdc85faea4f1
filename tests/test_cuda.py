"""The same promises on a GPU; one code path serves every device."""

import pickle

import numpy as np
import pytest
import torch

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from tests.helpers import QUICK

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, which this machine lacks"
)


def test_scores_agree_with_the_cpu(fitted, iris):
    on_gpu = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda")
    np.testing.assert_allclose(on_gpu.score_samples(iris), fitted.score_samples(iris), atol=1e-6)
    np.testing.assert_allclose(
        on_gpu.sample(10, random_state=0), fitted.sample(10, random_state=0), atol=1e-6
    )


@pytest.mark.parametrize("early_stopping", ["auto", True, False])
def test_fits_and_goes_on_without_the_gpu(iris, early_stopping):
    density = InterpolantFlowDensity(**QUICK, device="cuda", early_stopping=early_stopping).fit(
        iris
    )
    elsewhere = pickle.loads(pickle.dumps(density)).set_params(device="cpu")
    np.testing.assert_allclose(
        elsewhere.score_samples(iris), density.score_samples(iris), atol=1e-6
    )


def test_global_state_of_the_gpu_is_untouched(iris):
    before = torch.cuda.get_rng_state()
    InterpolantFlowDensity(**QUICK, device="auto").fit(iris)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_uses_of_the_path_agree_with_the_cpu(iris):
    density = InterpolantFlowDensity(
        **QUICK, device="cuda", interpolant="fourier", base="learned", end_time=1.0
    ).fit(iris)
    elsewhere = pickle.loads(pickle.dumps(density)).set_params(device="cpu")
    for use in (
        lambda d: d.score_samples(iris, t=0.5),
        lambda d: d.score_gradient(iris[:5]),
        lambda d: d.score_gradient(iris[:5], t=0.5),
        lambda d: d.velocity(iris[:5], 0.5),
        lambda d: d.trajectory(iris[:5], [1.0, 0.0]),
        lambda d: d.sample(5, random_state=0, method="sde", epsilon=0.0),
        lambda d: d.diagnose(iris, random_state=0).latent_ks,
    ):
        np.testing.assert_allclose(use(density), use(elsewhere), rtol=1e-5, atol=1e-6)
    assert density.sample(5, random_state=0, method="sde").shape == (5, 4)


def test_transport_agrees_with_the_cpu(iris):
    transport = InterpolantTransport(**QUICK, device="cuda", coupling="optimal_transport").fit(
        iris[:80], iris[80:]
    )
    elsewhere = pickle.loads(pickle.dumps(transport)).set_params(device="cpu")
    np.testing.assert_allclose(transport.transform(iris), elsewhere.transform(iris), atol=1e-6)
    np.testing.assert_allclose(
        transport.log_abs_det_jacobian(iris), elsewhere.log_abs_det_jacobian(iris), atol=1e-6
    )


@pytest.mark.parametrize("targets", [("b", "eta"), ("v", "s")])
def test_latents_agree_with_the_cpu(iris, targets):
    transport = InterpolantTransport(
        **QUICK, device="cuda", interpolant="fourier", gamma="brownian", targets=targets
    )
    transport.fit(iris[:80], iris[80:])
    elsewhere = pickle.loads(pickle.dumps(transport)).set_params(device="cpu")
    for use in (
        lambda t: t.transform(iris),
        lambda t: t.score_gradient(iris, t=0.5),
        lambda t: t.sample(iris, random_state=0, epsilon=0.0, n_steps=20),
        lambda t: t.inverse_sample(iris, random_state=0, epsilon=0.0, n_steps=20),
    ):
        np.testing.assert_allclose(use(transport), use(elsewhere), rtol=1e-5, atol=1e-6)
    assert np.isfinite(transport.sample(iris, random_state=0, n_steps=20)).all()


def test_files_go_from_one_device_to_the_other(fitted, iris, tmp_path):
    """The weights of a file are the same wherever they were learned."""
    on_gpu = InterpolantFlowDensity(
        **QUICK, device="cuda", interpolant="fourier", gamma="brownian", targets=("b", "eta")
    ).fit(iris)
    on_gpu.save(tmp_path / "model")
    elsewhere = InterpolantFlowDensity.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(elsewhere.score_samples(iris), on_gpu.score_samples(iris), atol=1e-6)
    np.testing.assert_array_equal(
        InterpolantFlowDensity.load(tmp_path / "model").score_samples(iris),
        on_gpu.score_samples(iris),
    )
    fitted.save(tmp_path / "model")
    there = InterpolantFlowDensity.load(tmp_path / "model", device="cuda")
    np.testing.assert_allclose(there.score_samples(iris), fitted.score_samples(iris), atol=1e-6)
