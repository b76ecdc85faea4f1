"""Latents and targets on the estimators: what was learned is used, on the way there and back, and
impossible wishes are refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.datasets import Moons
from skinterflow.interflow.heads import HeadedDrift
from skinterflow.interflow.interpolants import Interpolant, Linear
from skinterflow.interflow.noise import Brownian, Gamma, Normalized
from tests.helpers import ONE_FIELD, QUICK, ToItself, energy_distance, expected_failures
from tests.oracles import mixture, normal_mixture

TINY = {**QUICK, "scaling": None}


def sides(n=2_000):
    """Rows of two mixtures whose path has a closed form."""
    generator = torch.Generator().manual_seed(0)
    return normal_mixture(seed=5).sample(n, generator).numpy(), normal_mixture().sample(
        n, generator
    ).numpy()


@pytest.fixture(scope="module")
def learned():
    """Drift and denoiser, well enough."""
    recipe = {"hidden_layer_sizes": (64, 64), "max_iter": 600, "batch_size": 256, "random_state": 0}
    return InterpolantTransport(gamma="brownian", scaling=None, **recipe).fit(*sides(20_000))


@pytest.fixture(scope="module")
def mirror():
    recipe = {"hidden_layer_sizes": (64, 64), "max_iter": 600, "batch_size": 256, "random_state": 0}
    return InterpolantTransport(interpolant="mirror", gamma="brownian", **recipe).fit(
        Moons().sample(5_000, random_state=0)
    )


@pytest.mark.slow
def test_samples_are_like_rows_of_the_other_side(learned):
    X0, X1 = sides(1_000)
    fresh = torch.from_numpy(sides(4_000)[1][2_000:])
    for carried in (
        learned.transform(X0),
        learned.sample(X0, random_state=1, epsilon=2.0, n_steps=100),
    ):
        assert energy_distance(torch.from_numpy(carried), fresh) < 0.02
    back = learned.inverse_sample(X1, random_state=1, n_steps=100)
    assert energy_distance(torch.from_numpy(back), torch.from_numpy(sides(4_000)[0][2_000:])) < 0.02
    assert np.linalg.norm(back - learned.inverse_transform(X1), axis=1).mean() > 0.3


@pytest.mark.slow
def test_learned_score_is_that_of_the_path(learned):
    field = mixture(2, Linear(), Brownian(), normal_mixture(seed=5))
    generator = torch.Generator().manual_seed(3)
    for t in (0.1, 0.5, 0.9):
        ends = [end.sample(500, generator) for end in (field.source, field.target)]
        time = torch.tensor(t, dtype=torch.float64)
        x = field.path(time, *ends, torch.randn(500, 2, generator=generator, dtype=torch.float64))
        exact, got = field.score(time, x), torch.from_numpy(learned.score_gradient(x.numpy(), t=t))
        assert torch.nn.functional.cosine_similarity(got.flatten(), exact.flatten(), dim=0) > 0.95


@pytest.mark.slow
def test_mirror_resamples_a_data_set(mirror):
    X, fresh = (
        Moons().sample(1_000, random_state=1),
        torch.from_numpy(Moons().sample(1_000, random_state=2)),
    )
    again = mirror.sample(X, random_state=0, n_steps=100)
    assert energy_distance(torch.from_numpy(again), fresh) < 0.01
    moved = [
        np.linalg.norm(
            mirror.sample(X[:200], random_state=0, epsilon=e, n_steps=100) - X[:200], axis=1
        ).mean()
        for e in (0.05, 1.0)
    ]
    assert 0.0 < moved[0] < moved[1]
    assert moved[1] > 0.3
    np.testing.assert_allclose(mirror.transform(X), X, atol=0.3)  # the ODE comes back


def test_same_seed_same_samples():
    X0, X1 = sides(200)
    transport = InterpolantTransport(gamma="quadratic", **TINY).fit(X0, X1)
    first = transport.sample(X0, random_state=3, n_steps=5)
    assert first.shape == X0.shape
    np.testing.assert_array_equal(first, transport.sample(X0, random_state=3, n_steps=5))
    assert not np.array_equal(first, transport.sample(X0, random_state=4, n_steps=5))
    np.testing.assert_array_equal(
        first, pickle.loads(pickle.dumps(transport)).sample(X0, random_state=3, n_steps=5)
    )
    np.testing.assert_array_equal(
        transport.inverse_sample(X1, random_state=3, n_steps=5),
        transport.inverse_sample(X1, random_state=3, n_steps=5),
    )


@pytest.mark.parametrize("targets", ["b", ("b", "s"), ("v", "s"), ("v", "eta")])
def test_targets_of_a_transport(targets):
    X0, X1 = sides(20)
    transport = InterpolantTransport(gamma="brownian", targets=targets, **TINY).fit(X0, X1)
    assert transport.transform(X0).shape == X0.shape
    np.testing.assert_allclose(
        transport.inverse_transform(transport.transform(X0[:20])), X0[:20], atol=0.05
    )
    if targets == "b":
        with pytest.raises(
            ValueError, match=r"does not follow from the drift alone .* targets=\('b', 'eta'\)"
        ):
            transport.sample(X0)
        with pytest.raises(ValueError, match=r"does not follow from the drift alone"):
            transport.score_gradient(X0, t=0.5)
    else:
        assert transport.score_gradient(X0, t=0.5).shape == X0.shape
        assert np.isfinite(transport.score_gradient(X0, t=1.0)).all()


@pytest.mark.parametrize(
    "choice",
    [
        {"gamma": "brownian", "early_stopping": "auto"},
        {"gamma": "quadratic", "targets": ("b", "s")},
        {
            "gamma": Brownian(0.5),
            "interpolant": Normalized(Linear(), Brownian(0.5)),
            "targets": ("v", "eta"),
        },
        {"interpolant": "encoding_decoding", "gamma": "sine_squared"},
        {"targets": ("eta",), "interpolant": "linear"},
        {"targets": ("b", "s")},
        {"gamma": "sigmoid", "base": "learned", "interpolant": "fourier"},
        {"gamma": "brownian", "student_layer_sizes": (8,), "early_stopping": True},
    ],
    ids=str,
)
def test_density_with_latents_and_targets(choice, iris):
    """Everything that an estimator does works, and the density integrates: the latents of samples
    are where they came from."""
    density = InterpolantFlowDensity(**{**ONE_FIELD, "end_time": 0.9, **choice}).fit(iris)
    assert np.isfinite(density.score_samples(iris)).all()
    assert np.isfinite(density.score_gradient(iris, t=0.5)).all()
    assert density.sample(5, random_state=0, method="sde", n_steps=5).shape == (5, 4)
    X = density.sample(5, random_state=0)
    np.testing.assert_allclose(
        density.transform(X), np.random.RandomState(0).standard_normal((5, 4)), atol=0.02
    )
    assert np.isfinite(density.diagnose(iris, random_state=0).loss)


def test_score_that_was_learned_is_used(iris):
    """Heads of a trained model are changed: the score follows them, the density does not."""
    density = InterpolantFlowDensity(**ONE_FIELD, targets=("b", "s")).fit(iris)
    changed = copy.deepcopy(density)
    assert isinstance(changed._field, HeadedDrift)
    with torch.no_grad():
        changed._field.heads.out.bias[4:] += 1.0
    np.testing.assert_array_equal(changed.score_samples(iris), density.score_samples(iris))
    learned, before = (model.score_gradient(iris, method="path") for model in (changed, density))
    assert not np.allclose(learned, before, atol=0.1)
    np.testing.assert_array_equal(changed.score_gradient(iris), density.score_gradient(iris))


def test_warm_start_goes_on_with_the_heads(iris):
    heads = {"gamma": "brownian", "targets": ("v", "eta")}
    density = InterpolantFlowDensity(**ONE_FIELD, **heads, warm_start=True).fit(iris)
    before = copy.deepcopy(density._field)
    density.set_params(max_iter=60).fit(iris)
    assert density._field.targets == ("v", "eta")
    assert density._field.path is density._path
    assert density._path.gamma == Brownian()
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.parameters(), density._field.parameters(), strict=True)
    )


class NotZero(Gamma):
    def __repr__(self):
        return "NotZero()"

    def square(self, t):
        return 1.0 + t


class Curved(Interpolant):
    def __repr__(self):
        return "Curved()"

    def forward(self, t, x0, x1):
        t = t.reshape(t.shape + (1,) * (x0.ndim - t.ndim))
        return (1 - t) * x0 + t * x1 + t * (1 - t) * x0 * x1


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"gamma": NotZero()}, "gamma must be zero at t=0, but the square of"),
        ({"gamma": "square"}, "'gamma' parameter .* Got 'square'"),
        ({"targets": "w"}, "'targets' parameter .* Got 'w'"),
        (
            {"targets": ("w",)},
            r"targets must be some of .*'eta', 'eta0', 'eta1', each once, got \('w',\)",
        ),
        (
            {"targets": ("v",)},
            r"targets=\('v',\) are too few or too many .*; learn one of \('b',\)",
        ),
        ({"targets": ("v", "s")}, "are too few or too many"),
        (
            {"interpolant": "encoding_decoding"},
            "needs a noise term, without which all paths meet in one point; set "
            "gamma='sine_squared'",
        ),
        ({"interpolant": "mirror"}, "needs a noise term, without which nothing moves"),
        (
            {"interpolant": "mirror", "gamma": "brownian"},
            "has no normal base; use InterpolantTransport",
        ),
        (
            {"base": "learned", "targets": ("b", "s")},
            "need noise of a known distribution on the path: the standard normal base or a noise "
            "term",
        ),
        ({"interpolant": Curved(), "targets": ("b", "eta")}, "has no noise to learn 'eta' from"),
    ],
    ids=str,
)
def test_impossible_densities_are_refused_before_training(choice, message, iris, monkeypatch):
    monkeypatch.setattr("skinterflow._base.fit_field", lambda *_: pytest.fail("training began"))
    with pytest.raises(ValueError, match=message):
        InterpolantFlowDensity(**QUICK, **choice).fit(iris)


@pytest.mark.parametrize(
    ("choice", "n_sets", "message"),
    [
        (
            {"interpolant": "mirror", "gamma": "brownian"},
            2,
            r"A mirror path resamples one data set: call fit\(X0\), without X1, its weights",
        ),
        ({}, 1, "X1, the rows of the target, is missing; only interpolant='mirror' "),
        (
            {"targets": ("b", "eta")},
            2,
            "need noise of a known distribution on the path.*set gamma='brownian'",
        ),
        ({"gamma": "brownian", "targets": ("eta",)}, 2, "are too few or too many"),
    ],
    ids=str,
)
def test_impossible_transports_are_refused_before_training(choice, n_sets, message, monkeypatch):
    monkeypatch.setattr("skinterflow._base.fit_field", lambda *_: pytest.fail("training began"))
    with pytest.raises(ValueError, match=message):
        InterpolantTransport(**TINY, **choice).fit(*sides(50)[:n_sets])


@pytest.fixture(scope="module")
def noisy():
    return InterpolantTransport(gamma="brownian", **TINY).fit(*sides(50))


@pytest.mark.parametrize(
    "epsilon", [-1.0, float("nan"), "loud", lambda t: np.ones(2), lambda t: t - 0.5]
)
def test_impossible_noise_is_refused(noisy, epsilon):
    (X0, X1), transport = sides(50), noisy
    with pytest.raises(ValueError, match="epsilon must"):
        transport.sample(X0, epsilon=epsilon)
    with pytest.raises(ValueError, match="epsilon must"):
        transport.inverse_sample(X1, epsilon=epsilon)


@parametrize_with_checks(
    [ToItself(hidden_layer_sizes=(8,), max_iter=2, batch_size=16, gamma="brownian")],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings("ignore::skinterflow.DegenerateDataWarning")
def test_common_checks(estimator, check):
    check(estimator)
