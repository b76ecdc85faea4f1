"""One trained field, many uses: the estimator at any time on the path, its score, its diffusion,
its diagnosis, learned paths."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from skinterflow import InterpolantFlowDensity
from skinterflow.datasets import Checkerboard, EightGaussians
from skinterflow.interflow.interpolants import Fourier, Interpolant, Linear
from tests.helpers import QUICK

SMALL = QUICK | {"early_stopping": False, "end_time": 1.0}
LEARNED = SMALL | {
    "hidden_layer_sizes": (32, 32),
    "max_iter": 300,
    "batch_size": 128,
    "learning_rate_init": 0.01,
    "alpha": 1.0,
}


@pytest.fixture(scope="module")
def blobs():
    """A density of two columns in unequal units."""
    return EightGaussians(n_components=2, deviation=0.5).sample(400, random_state=0) * [1.0, 10.0]


@pytest.fixture(scope="module")
def flow(blobs):
    return InterpolantFlowDensity(**LEARNED, atol=1e-5).fit(blobs)


def differences(function, X, h=1e-4):
    """Central differences of a function of rows along each column, whose units are those of the
    column."""
    steps = h * np.diag([1.0, 10.0])
    return np.stack(
        [(function(X + step) - function(X - step)) / (2 * step.sum()) for step in steps], axis=-1
    )


def test_density_at_the_base_is_normal_in_flow_units(flow, blobs):
    jacobian = differences(
        lambda X: copy.deepcopy(flow).set_params(atol=1e-3)._target(torch.from_numpy(X)).numpy(),
        blobs[:5],
    )
    u = flow._target(torch.from_numpy(blobs[:5])).numpy()
    expected = stats.norm.logpdf(u).sum(axis=1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(flow.score_samples(blobs[:5], t=0.0), expected, rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_density_at_any_time_is_normalised(flow, t):
    x, y = np.linspace(-8, 8, 101), np.linspace(-80, 80, 101)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    log_density = copy.deepcopy(flow).set_params(atol=1e-2).score_samples(grid, t=t)
    assert np.exp(log_density).sum() * 0.16 * 1.6 == pytest.approx(1.0, abs=5e-3)


def test_default_time_is_the_end_time(flow, blobs):
    np.testing.assert_array_equal(
        flow.score_samples(blobs[:9]), flow.score_samples(blobs[:9], t=flow.end_time_)
    )
    value, error = flow.score_samples(blobs[:9], return_error=True, t=0.5)
    np.testing.assert_array_equal(value, flow.score_samples(blobs[:9], t=0.5))
    assert (error < 1e-4).all()


def test_trajectory_is_transform_and_samples_and_its_rate_the_velocity(flow, blobs):
    path = flow.trajectory(blobs[:6], [1.0, 0.3, 0.0])
    assert path.shape == (3, 6, 2)
    np.testing.assert_array_equal(path[0], blobs[:6])
    u = flow._target(torch.from_numpy(path[-1])).numpy()
    np.testing.assert_allclose(u, flow.transform(blobs[:6]), atol=1e-4)
    np.testing.assert_allclose(flow.trajectory(path[-1], [0.0, 1.0])[-1], blobs[:6], atol=1e-3)
    np.testing.assert_allclose(
        flow.sample(6, random_state=3, t=0.0),
        flow._target.inverse(torch.from_numpy(latent(6))).numpy(),
    )
    h = 1e-3
    around = flow.trajectory(blobs[:6], [0.5 - h, 0.5, 0.5 + h])
    np.testing.assert_allclose(
        (around[2] - around[0]) / (2 * h), flow.velocity(around[1], 0.5), rtol=1e-2, atol=1e-2
    )


def latent(n):
    return np.random.RandomState(3).standard_normal((n, 2))


def test_score_at_the_end_is_the_gradient_of_the_log_density(flow, blobs):
    """In data units, with the scaling's Jacobian."""
    expected = differences(
        lambda X: copy.deepcopy(flow).set_params(atol=1e-7).score_samples(X), blobs[:5]
    )
    np.testing.assert_allclose(flow.score_gradient(blobs[:5]), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        flow.score_gradient(blobs[:5], t=1.0), expected, rtol=1e-3, atol=1e-3
    )


@pytest.fixture(scope="module")
def early(blobs):
    density = InterpolantFlowDensity(**LEARNED | {"max_iter": 60}, atol=1e-6).fit(blobs)
    density.end_time_ = 0.6
    return density


@pytest.mark.parametrize("t", [None, 0.3, 0.6, 0.9])
def test_score_is_the_gradient_of_the_log_density_at_every_time(early, blobs, t):
    """Where a fit stops early, the formula of the path is 0.6 to 0.7 off from the density that the
    model has."""
    expected = differences(
        lambda X: copy.deepcopy(early).set_params(atol=1e-8).score_samples(X, t=t), blobs[:5]
    )
    np.testing.assert_allclose(early.score_gradient(blobs[:5], t=t), expected, rtol=1e-3, atol=1e-3)
    by_formula = early.score_gradient(blobs[:5], t=t, method="path")
    assert not np.allclose(by_formula, expected, rtol=1e-2, atol=1e-2)


def test_score_of_the_path_is_refused_where_it_is_mostly_error(flow, blobs):
    assert np.isfinite(flow.score_gradient(blobs[:3], t=0.99, method="path")).all()
    with pytest.raises(
        ValueError,
        match=r"At t=0\.999 the score that follows .* multiplied by 405.*"
        r"use method='flow', or an earlier t",
    ):
        flow.score_gradient(blobs[:3], t=0.999, method="path")
    with pytest.raises(
        ValueError,
        match=r"At t=1 the score that follows from the drift has the errors of the drift "
        r"multiplied",
    ):
        flow.score_gradient(blobs[:3], method="path")


class TestCoupled:
    """Normal data, whose score is -x on the straight path, with base points that are paired by
    optimal transport."""

    X = np.random.default_rng(0).standard_normal((2_000, 1))
    PLACES = np.array([[-1.0], [1.0], [2.0]])

    @classmethod
    def fitted(cls, **choice):
        recipe = {
            "hidden_layer_sizes": (32, 32),
            "max_iter": 400,
            "random_state": 0,
            "end_time": 1.0,
            "scaling": None,
        }
        recipe |= {"early_stopping": False}
        return InterpolantFlowDensity(
            **{"interpolant": "linear", "coupling": "optimal_transport", **recipe, **choice}
        ).fit(cls.X)

    def test_score_is_carried_along_the_flow(self, coupled):
        density = copy.deepcopy(coupled)
        np.testing.assert_allclose(
            density.score_gradient(self.PLACES, t=0.9), -self.PLACES, atol=0.3
        )  # by the formula: 9.5, -10, -20
        expected = (
            "The score does not follow from the drift under OptimalTransport.*"
            "fit with coupling='independent'"
        )
        with pytest.raises(ValueError, match=expected):
            density.score_gradient(self.PLACES, t=0.9, method="path")
        with pytest.raises(ValueError, match=expected):
            density.sample(3, method="sde")
        density.set_params(coupling="independent")  # says nothing of the model that there is
        with pytest.raises(ValueError, match=expected):
            density.sample(3, method="sde")

    @pytest.mark.parametrize("targets", ["eta", "s", ("b", "eta"), ("b", "s")])
    def test_base_point_is_no_noise_to_learn_from(self, targets):
        with pytest.raises(
            ValueError,
            match=r"need noise that is independent of the data, but under OptimalTransport.* the "
            "base is not",
        ):
            self.fitted(targets=targets)

    def test_drift_with_a_latent_is_not_enough(self):
        density = self.fitted(gamma="brownian", max_iter=3)
        with pytest.raises(
            ValueError, match=r"or with gamma='brownian' and targets=\('b', 'eta'\)"
        ):
            density.sample(3, method="sde")

    def test_learned_latent_gives_the_law(self):
        density = self.fitted(gamma="brownian", targets=("b", "eta"))
        samples = density.sample(2_000, random_state=0, method="sde", epsilon=1.0)
        assert samples.std() == pytest.approx(
            1.0, abs=0.08
        )  # by the formula of independent ends: 0.34
        np.testing.assert_allclose(
            density.score_gradient(self.PLACES, t=0.9, method="path"), -self.PLACES, atol=0.5
        )

    def test_diagnosis_pairs_as_the_fit_did(self, coupled):
        shifted = coupled.diagnose(self.X, random_state=0)
        assert shifted.action == pytest.approx(coupled.action_, rel=0.3, abs=1e-3)
        recipe = LEARNED | {"max_iter": 200, "interpolant": "linear", "scaling": None}
        for coupling in ("independent", "optimal_transport"):
            density = InterpolantFlowDensity(**recipe, coupling=coupling).fit(self.X * 2 + 3)
            diagnosis = density.diagnose(self.X * 2 + 3, random_state=0)
            assert diagnosis.action == pytest.approx(density.action_, rel=0.05)
        assert diagnosis.wasserstein2_bound < 10.0


@pytest.fixture(scope="module")
def coupled():
    """A fit that tests must not change."""
    return TestCoupled.fitted()


def test_score_at_the_base_is_that_of_the_normal(flow, blobs):
    expected = differences(lambda X: flow.score_samples(X, t=0.0), blobs[:5])
    np.testing.assert_allclose(
        flow.score_gradient(blobs[:5], t=0.0), expected, rtol=1e-5, atol=1e-6
    )


class Curved(Interpolant):
    """Not affine in its ends; has a parameter."""

    def forward(self, t, x0, x1):
        t = t.reshape(t.shape + (1,) * (x0.ndim - t.ndim))
        return (1 - t) * x0 + t * x1 + 0.1 * torch.sin(torch.pi * t) * torch.tanh(x0)


def test_path_that_is_not_affine_has_a_score_by_the_flow_and_no_diffusion(blobs):
    density = InterpolantFlowDensity(**SMALL, interpolant=Curved(), atol=1e-6).fit(blobs)
    expected = differences(lambda X: density.score_samples(X, t=0.5), blobs[:3])
    np.testing.assert_allclose(
        density.score_gradient(blobs[:3], t=0.5), expected, rtol=1e-2, atol=1e-3
    )
    with pytest.raises(
        ValueError,
        match=r"The score of .*Curved.* does not follow from its drift.*use method='ode'",
    ):
        density.sample(3, method="sde")


def test_denoising_integrator_follows_the_flow(flow):
    """And a diffusion that denoises in its last step ends next to one that does not."""
    by_ode = flow.sample(40, random_state=0, t=1.0)
    by_denoising = flow.sample(40, random_state=0, t=1.0, method="denoising")
    assert np.abs(by_denoising - by_ode).mean() < 0.02 * by_ode.std()
    common = {"random_state": 0, "t": 1.0, "method": "sde", "epsilon": 0.0}
    drawn = flow.sample(40, **common, denoise_from=0.98)
    assert 0 < np.abs(drawn - by_ode).mean() < 0.1 * by_ode.std()


@pytest.mark.parametrize("epsilon", [0.0, 1.0, "decreasing", "sine", lambda t: t * (1 - t)])
def test_diffusion_samples(flow, epsilon):
    sample = flow.sample(60, random_state=0, method="sde", epsilon=epsilon, n_steps=50)
    assert sample.shape == (60, 2)
    assert np.isfinite(sample).all()
    np.testing.assert_array_equal(
        sample, flow.sample(60, random_state=0, method="sde", epsilon=epsilon, n_steps=50)
    )
    by_ode = flow.sample(60, random_state=0)
    assert np.allclose(sample, by_ode, atol=0.1) == (epsilon == 0.0)


def test_dtype_is_that_of_the_rows(flow, blobs):
    X, flow = blobs[:4].astype(np.float32), copy.deepcopy(flow).set_params(atol=1e-3)
    for result in (
        flow.score_gradient(X),
        flow.score_gradient(X, t=0.5),
        flow.velocity(X, 0.5),
        flow.trajectory(X, [0.0, 1.0]),
    ):
        assert result.dtype == np.float32
    np.testing.assert_allclose(
        flow.score_gradient(X), flow.score_gradient(blobs[:4]), rtol=1e-2, atol=1e-2
    )


def test_estimated_divergence_has_scores_too(flow, blobs):
    estimated = copy.deepcopy(flow).set_params(divergence=64, atol=1e-3)
    np.testing.assert_allclose(
        estimated.score_gradient(blobs[:4]), flow.score_gradient(blobs[:4]), rtol=0.2, atol=0.5
    )


def test_diagnosis(flow, blobs):
    diagnosis = flow.diagnose(blobs, random_state=0)
    assert diagnosis.loss_plus_action == pytest.approx(diagnosis.loss + diagnosis.action)
    assert abs(diagnosis.loss_plus_action) < 0.3 * diagnosis.action
    assert 0 < diagnosis.path_length**2 <= diagnosis.action
    assert diagnosis.action == pytest.approx(flow.action_, rel=0.2)
    assert diagnosis.wasserstein2_bound > diagnosis.lipschitz > 0
    expected = [stats.kstest(z, "norm").statistic for z in flow.transform(blobs).T]
    np.testing.assert_allclose(diagnosis.latent_ks, expected)
    shifted = flow.diagnose(blobs + np.array([1.0, 0.0]), random_state=0)
    assert shifted.latent_energy_distance > 2 * diagnosis.latent_energy_distance


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {"interpolant": "fourier", "max_iter": 600},
        {"base": "learned", "max_iter": 1000},
        {"interpolant": Fourier(2), "base": "learned", "max_iter": 600},
    ],
    ids=["path", "base", "both"],
)
def test_learning_shortens_the_path(choice, blobs):
    """And the model stays a normalised density whose samples and latents belong together."""
    X = blobs / [1.0, 10.0] + 3.0
    density = InterpolantFlowDensity(**LEARNED | choice, time_beta=(1.0, 1.0), scaling=None).fit(X)
    assert density.action_ < 0.95 * density.initial_action_
    assert density.path_length_ < density.initial_path_length_
    if "base" in choice:
        assert (density._source.mean > 0.1).all()  # on its way to the data
    z = np.random.RandomState(5).standard_normal((20, 2))
    np.testing.assert_allclose(density.transform(density.sample(20, random_state=5)), z, atol=2e-2)
    axis = np.linspace(-3, 9, 61)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(density.score_samples(grid)).sum() * 0.2**2 == pytest.approx(1.0, abs=1e-2)
    copied = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(copied.score_samples(grid[:9]), density.score_samples(grid[:9]))


def test_fixed_path_has_no_action_before(flow):
    assert flow.initial_action_ is None
    assert flow.initial_path_length_ is None
    assert flow.action_ > 0


class Tilted(Linear, torch.nn.Module):
    """A user's own path with a parameter."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.tilt = torch.nn.Parameter(torch.zeros(()))

    __hash__ = torch.nn.Module.__hash__

    def beta(self, t):
        return t + self.tilt.to(t.dtype) * t * (1 - t)


def test_path_of_a_user_learns_and_the_object_given_stays(blobs):
    given = Tilted()
    density = InterpolantFlowDensity(**SMALL, interpolant=given, warm_start=True).fit(blobs)
    learned = density._path.interpolant.tilt.item()
    assert learned != 0.0
    assert given.tilt.item() == 0.0
    before = copy.deepcopy(density)
    density.set_params(max_iter=2 * density.n_iter_).fit(blobs)
    assert density._path.interpolant.tilt.item() != learned
    assert before._path.interpolant.tilt.item() == learned


def test_optimal_transport_coupling_shortens_straight_paths(blobs):
    recipe = LEARNED | {"max_iter": 200, "interpolant": "linear"}
    fits = [
        InterpolantFlowDensity(**recipe, coupling=c).fit(blobs)
        for c in ("independent", "optimal_transport")
    ]
    assert fits[1].action_ < 0.8 * fits[0].action_


def test_coupled_fit_is_repeatable(blobs):
    first, second = (
        InterpolantFlowDensity(**SMALL, coupling="optimal_transport").fit(blobs) for _ in range(2)
    )
    np.testing.assert_array_equal(first.score_samples(blobs[:5]), second.score_samples(blobs[:5]))


@pytest.mark.slow
def test_trained_score_points_where_the_true_one_does():
    """Cosine above 0.98 on a mixture at three times; the path of a mixture is a mixture."""
    target = EightGaussians(radius=1.5, deviation=0.5, n_components=3)
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(64, 64, 64),
        max_iter=1000,
        scaling=None,
        early_stopping=False,
        random_state=0,
    ).fit(target.sample(20_000, random_state=0))
    random = np.random.RandomState(1)
    for t in (0.3, 0.6, 0.9):
        a, b = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
        at_time = EightGaussians(radius=1.5 * b, deviation=np.hypot(a, 0.5 * b), n_components=3)
        X = a * random.standard_normal((500, 2)) + b * target.sample(500, random_state=2)
        truth, learned = differences(at_time.score_samples, X), density.score_gradient(X, t=t)
        cosine = (truth * learned).sum() / np.sqrt((truth**2).sum() * (learned**2).sum())
        assert cosine > 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d, X: d.score_samples(X, t=1.5),
            r"t must be a number in \[0, 1\], from the base to the data, got 1\.5",
        ),
        (lambda d, X: d.score_gradient(X, t=-0.1), r"t must be a number in \[0, 1\].*got -0\.1"),
        (lambda d, X: d.velocity(X, "end"), r"t must be a number .*got 'end'"),
        (lambda d, X: d.sample(2, t=float("nan")), r"t must be a number .*got nan"),
        (
            lambda d, X: d.trajectory(X, [0.0, 0.5, 0.2]),
            r"times must be one or more numbers in increasing or decreasing order, got \[0\.0, "
            r"0\.5, "
            r"0\.2\]",
        ),
        (lambda d, X: d.trajectory(X, []), r"times must be one or more numbers .*got \[\]"),
        (lambda d, X: d.trajectory(X, [0.0, 2.0]), r"t must be a number in \[0, 1\].*got 2\.0"),
        (
            lambda d, X: d.sample(2, method="langevin"),
            r"method must be 'ode', 'sde' or 'denoising', got 'langevin'",
        ),
        (
            lambda d, X: d.sample(2, method="sde", denoise_from=1.0),
            r"denoise_from must be None or a time in \(0, 1\), such as 0\.98, got 1\.0",
        ),
        (
            lambda d, X: d.sample(2, method="sde", t=0.9, denoise_from=0.8),
            r"predicts rows at t=1, but the samples end at t=0\.9; set t=1\.0",
        ),
        (
            lambda d, X: d.sample(2, method="sde", epsilon=-1.0),
            r"epsilon must be finite and not negative .* but is -1 at t=0",
        ),
        (
            lambda d, X: d.sample(2, method="sde", epsilon=lambda t: 1 / t if t else np.inf),
            r"epsilon must be finite .* is inf at t=0",
        ),
        (
            lambda d, X: d.sample(2, method="sde", epsilon="loud"),
            r"epsilon must be a number of at least 0, a function .*'decreasing', 'sine', got "
            r"'loud'",
        ),
        (
            lambda d, X: d.sample(2, method="sde", n_steps=0),
            r"n_steps must be an integer of at least 1, or None, got 0",
        ),
    ],
)
def test_impossible_arguments_are_refused(flow, blobs, call, message):
    with pytest.raises(ValueError, match=message):
        call(flow, blobs[:3])


def test_student_knows_no_times_after_its_end():
    density = InterpolantFlowDensity(**SMALL | {"end_time": 0.7}, student_layer_sizes=(8, 8)).fit(
        Checkerboard().sample(300, random_state=0)
    )
    X = np.zeros((1, 2))
    assert density._field is not density._trained  # the student became the model
    assert np.isfinite(density.score_samples(X, t=0.7)).all()
    with pytest.raises(
        ValueError, match=r"t=0\.9 is after end_time_=0\.7, up to which the student was trained"
    ):
        density.score_samples(X, t=0.9)
    density._field = density._trained
    assert np.isfinite(density.score_samples(X, t=0.9)).all()
