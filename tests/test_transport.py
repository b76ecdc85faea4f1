"""The map between two data sets."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow._data import batches
from skinterflow._data.stored import StoredRows
from skinterflow._fit import run
from skinterflow.datasets import EightGaussians, Moons
from skinterflow.interflow import (
    Identity,
    Linear,
    PathObjective,
    Standardize,
    VelocityField,
    couplings,
)
from skinterflow.transport import _common_scaling
from tests.helpers import ToItself, expected_failures

QUICK = {"hidden_layer_sizes": (16, 16), "max_iter": 60, "batch_size": 64, "random_state": 0}
SOURCE, TARGET = (
    EightGaussians(radius=1.5, deviation=0.4, n_components=3),
    EightGaussians(radius=2.0, deviation=0.3, n_components=5),
)


@pytest.fixture(scope="module")
def sides():
    return SOURCE.sample(400, random_state=0), TARGET.sample(300, random_state=1) * [5.0, 1.0]


@pytest.fixture(scope="module")
def transport(sides):
    return InterpolantTransport(**QUICK, atol=1e-5).fit(*sides)


@parametrize_with_checks(
    [ToItself(hidden_layer_sizes=(8,), max_iter=2, batch_size=16)],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings("ignore::skinterflow.DegenerateDataWarning")
def test_common_checks(estimator, check):
    check(estimator)


def test_inverse_undoes_the_map(transport, sides):
    there = transport.transform(sides[0])
    assert there.shape == sides[0].shape
    np.testing.assert_allclose(transport.inverse_transform(there), sides[0], atol=1e-3)


def test_log_det_equals_finite_differences(transport, sides):
    X, h = sides[0][:5], 1e-4
    columns = [
        (transport.transform(X + step) - transport.transform(X - step)) / (2 * h)
        for step in h * np.eye(2)
    ]
    expected = np.linalg.slogdet(np.stack(columns, axis=-1))[1]
    np.testing.assert_allclose(transport.log_abs_det_jacobian(X), expected, rtol=1e-3, atol=1e-3)


def test_density_of_either_side_gives_the_other(transport, sides):
    """Carried there and back, a density is itself; and it integrates to one."""
    mixture = GaussianMixture(3, random_state=0).fit(sides[0])
    x, y = np.linspace(-20, 20, 81), np.linspace(-5, 5, 81)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    carried = copy.deepcopy(transport).set_params(atol=1e-2).target_log_density(grid, mixture)
    assert np.exp(carried).sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=2e-2)

    class Carried:
        def score_samples(self, X):
            return transport.target_log_density(X, mixture)

    back = transport.source_log_density(sides[0][:20], Carried())
    np.testing.assert_allclose(back, mixture.score_samples(sides[0][:20]), atol=1e-2)


def test_our_density_serves_too(transport, sides):
    density = InterpolantFlowDensity(
        hidden_layer_sizes=(8,), max_iter=3, early_stopping=False, random_state=0
    ).fit(sides[1])
    assert np.isfinite(transport.source_log_density(sides[0][:5], density)).all()


@pytest.mark.slow
def test_transported_rows_are_like_rows_of_the_target():
    """Energy distance to a fresh sample at most 1.5 times that of two fresh samples, and the
    log-density within 0.05 nats on average."""
    n = 4000
    transport = InterpolantTransport(hidden_layer_sizes=(64, 64, 64), max_iter=1500, random_state=0)
    transport.fit(SOURCE.sample(20_000, random_state=0), TARGET.sample(20_000, random_state=1))
    carried = transport.transform(SOURCE.sample(n, random_state=2))
    fresh = [TARGET.sample(n, random_state=seed) for seed in (3, 4)]

    def energy_distance(x, y):
        return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()

    assert energy_distance(carried, fresh[0]) < 1.5 * energy_distance(fresh[1], fresh[0])
    log_density = transport.target_log_density(fresh[0][:1000], SOURCE)
    assert abs(log_density.mean() - TARGET.score_samples(fresh[0][:1000]).mean()) < 0.05


def test_weights_choose_the_rows(transport, sides):
    X0, X1 = sides
    right = X1[:, 0] > 0
    chosen = InterpolantTransport(**QUICK).fit(X0, X1, target_sample_weight=right.astype(float))
    alone = InterpolantTransport(**QUICK).fit(X0, X1[right])
    np.testing.assert_array_equal(chosen.transform(X0[:5]), alone.transform(X0[:5]))
    heavy = InterpolantTransport(**QUICK, atol=1e-5).fit(
        X0, X1, sample_weight=np.where(X0[:, 0] > 0, 5.0, 1.0)
    )
    assert not np.allclose(heavy.transform(X0[:5]), transport.transform(X0[:5]))


@pytest.mark.parametrize(
    "choice",
    [
        {"interpolant": "fourier"},
        {"coupling": "optimal_transport"},
        {"interpolant": "trigonometric"},
        {"divergence": 4},
    ],
)
def test_choices(choice, sides):
    transport = InterpolantTransport(**QUICK, **choice).fit(*sides)
    there = transport.transform(sides[0][:5].astype(np.float32))
    assert there.dtype == np.float32
    assert np.isfinite(transport.log_abs_det_jacobian(sides[0][:5])).all()
    assert (transport.initial_action_ is not None) == (choice == {"interpolant": "fourier"})


def test_copies_and_repeats(transport, sides):
    X = sides[0][:5]
    again = InterpolantTransport(**QUICK, atol=1e-5).fit(*sides)
    for other in (again, pickle.loads(pickle.dumps(transport)), copy.deepcopy(transport)):
        np.testing.assert_array_equal(other.transform(X), transport.transform(X))
    assert clone(transport).get_params() == transport.get_params()


def test_in_a_pipeline_and_with_routed_weights(sides):
    """The rows of both sides are no metadata, and the weights are."""
    X0, X1 = sides
    carried = (
        make_pipeline(StandardScaler(), InterpolantTransport(**QUICK)).fit(X0, X1).transform(X0)
    )
    alone = InterpolantTransport(**QUICK).fit(StandardScaler().fit_transform(X0), X1)
    np.testing.assert_array_equal(carried, alone.transform(StandardScaler().fit_transform(X0)))
    requests = InterpolantTransport().get_metadata_routing()
    assert set(requests.fit.requests) == {"sample_weight", "target_sample_weight", "paired"}
    assert not requests.transform.requests


def test_warm_start_goes_on(sides):
    transport = InterpolantTransport(**QUICK, warm_start=True).fit(*sides)
    first = transport.loss_
    assert transport.set_params(max_iter=120).fit(*sides).loss_ < first


def test_verbose(sides, capsys):
    InterpolantTransport(**QUICK, verbose=True).fit(*sides)
    assert capsys.readouterr().out.splitlines()[-1].startswith("step 60/60: loss ")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda t, X: t.fit(X, X[:, :1]),
            ValueError,
            r"X0 has 2 columns and X1 has 1; an invertible map requires the same",
        ),
        (lambda t, X: t.fit(X, X[:1]), ValueError, r"minimum of 2 is required"),
        (lambda t, X: t.fit(X, X * np.nan), ValueError, r"Input X1 contains NaN"),
        (
            lambda t, X: t.fit(X, X, target_sample_weight=np.full(len(X), -1.0)),
            ValueError,
            r"sample_weight must not be negative",
        ),
        (
            lambda t, X: t.inverse_transform(X[:, :1]),
            ValueError,
            r"X1 has 1 columns, but the target has 2",
        ),
        (
            lambda t, X: t.target_log_density(X, Moons()),
            TypeError,
            r"source_density must be a fitted density estimator with score_samples, got Moons",
        ),
        (
            lambda t, X: t.source_log_density(X, None),
            TypeError,
            r"target_density must be a fitted density estimator .*got None",
        ),
    ],
)
def test_impossible_arguments_are_refused_and_nothing_is_lost(
    transport, sides, call, error, message
):
    before = copy.deepcopy(transport)
    with pytest.raises(error, match=message):
        call(before, sides[0])
    np.testing.assert_array_equal(before.transform(sides[0][:3]), transport.transform(sides[0][:3]))


class Given:
    """A density that returns what it is told to."""

    def __init__(self, result):
        self.result = result

    def score_samples(self, X):
        return self.result(len(X))


@pytest.mark.parametrize("name", ["source_density", "target_density"])
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda n: np.zeros((n, 1)),
            r"score_samples must return one log-density for each row, of the shape \(5,\).*shape "
            r"\(5, 1\)",
        ),
        (lambda n: np.zeros(n + 1), r"of the shape \(5,\).*shape \(6,\)"),
        (lambda n: 0.0, r"of the shape \(5,\).*shape \(\)"),
        (lambda n: ["a"] * n, r"dtype <U1"),
        (lambda n: np.full(n, np.nan), r"score_samples returned NaN or infinity for 5 of 5 rows"),
        (lambda n: np.full(n, np.inf), r"score_samples returned NaN or infinity for 5 of 5 rows"),
    ],
)
def test_given_densities_must_give_a_number_for_each_row(transport, sides, name, result, message):
    ask = transport.target_log_density if name == "source_density" else transport.source_log_density
    with pytest.raises(
        ValueError, match=rf"{name}\.{message}" if "score_samples" in message else message
    ):
        ask(sides[0][:5], Given(result))


def test_a_given_density_may_be_zero(transport, sides):
    outside = Given(lambda n: np.full(n, -np.inf))
    np.testing.assert_array_equal(
        transport.target_log_density(sides[1][:5], outside), np.full(5, -np.inf)
    )
    assert transport.target_log_density(sides[1][:5], Given(lambda n: [0] * n)).shape == (5,)


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "log_abs_det_jacobian"])
def test_rows_that_overflow_are_counted(transport, sides, method):
    X = sides[0][:4].copy()
    X[2, 0] = 1e155
    with pytest.raises(ValueError, match="1 of 4 rows are so far outside the fitted data"):
        getattr(transport, method)(X)


def test_weights_of_the_target_are_named(sides):
    with pytest.raises(ValueError, match="Input target_sample_weight contains NaN"):
        InterpolantTransport(**QUICK).fit(*sides, target_sample_weight=np.nan)


def test_frames_have_the_names_of_the_side_that_they_are_on(sides):
    X0, X1 = (
        pd.DataFrame(sides[0][:50], columns=["a", "b"]),
        pd.DataFrame(sides[1][:50], columns=["u", "v"]),
    )
    transport = (
        InterpolantTransport(**QUICK | {"max_iter": 3}, gamma="brownian")
        .fit(X0, X1)
        .set_output(transform="pandas")
    )
    assert (
        list(transport.transform(X0).columns)
        == ["u", "v"]
        == list(transport.get_feature_names_out())
    )
    assert list(transport.inverse_transform(X1).columns) == ["a", "b"]
    assert list(transport.sample(X0, random_state=0, n_steps=2).columns) == ["u", "v"]
    assert list(
        transport.inverse_sample(X1.set_index(X1.index + 7), random_state=0, n_steps=2).columns
    ) == ["a", "b"]
    assert list(transport.inverse_transform(X1.set_index(X1.index + 7)).index[:2]) == [7, 8]
    density = InterpolantFlowDensity(hidden_layer_sizes=(8,), max_iter=3, early_stopping=False).fit(
        X0
    )
    assert transport.target_log_density(X1, density).shape == (
        50,
    )  # rows of our own making have no names, and nobody is warned
    unnamed = transport.fit(X0, sides[1])
    assert list(unnamed.get_feature_names_out()) == ["a", "b"]
    assert list(
        InterpolantTransport(**QUICK | {"max_iter": 1}).fit(*sides).get_feature_names_out()
    ) == ["x0", "x1"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("paired", [False, True])
def test_rows_of_the_two_sets_are_paired_on_request_only(monkeypatch, paired, streamed):
    """Otherwise, row i of X1 has nothing to do with row i of X0, though the two have as many
    rows."""
    seen, forward = [], PathObjective.forward

    def watched(self, x0, x1, *drawn):
        seen.append(torch.cat([x0, x1], dim=1).detach().clone())
        return forward(self, x0, x1, *drawn)

    monkeypatch.setattr(PathObjective, "forward", watched)
    if streamed:
        monkeypatch.setattr(batches, "_IN_MEMORY_ELEMENTS", 0)
    X0 = np.random.default_rng(0).standard_normal((500, 1))
    InterpolantTransport(
        hidden_layer_sizes=(4,), max_iter=20, batch_size=128, scaling=None, random_state=0
    ).fit(X0, 3 * X0 + 1, paired=paired)
    x0, x1 = torch.cat(seen).T
    assert len(x0) >= 20 * 128
    assert len(x0.unique()) > 400
    together = torch.isclose(x1, 3 * x0 + 1, atol=1e-4).double().mean()
    assert together == 1.0 if paired else together < 0.01
    assert (abs(np.corrcoef(x0, x1)[0, 1]) < 0.1) != paired


@pytest.fixture(scope="module")
def turned():
    """Pairs of a row and the same row, turned by a right angle: both sides are standard normal."""
    X0 = np.random.default_rng(0).standard_normal((600, 2))
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    recipe = QUICK | {"max_iter": 150, "batch_size": 128, "scaling": None}
    return InterpolantTransport(**recipe).fit(X0, X0 @ turn.T, paired=True), X0[:200], turn


def test_given_pairs_turn_the_map(turned):
    """Closed form: ``x_t = ((1 - t) I + t R) x0`` is invertible, so that the map is the turn R;
    without pairs it is the identity."""
    transport, X, turn = turned
    assert np.abs(transport.transform(X) - X @ turn.T).mean() < 0.05
    assert np.abs(transport.inverse_transform(X @ turn.T) - X).mean() < 0.05
    assert transport._fitted_coupling() == couplings.Given()


def test_weights_of_pairs(turned):
    """A weight of zero drops both rows, and weights of two count once."""
    _, X, turn = turned
    recipe = QUICK | {"max_iter": 5, "scaling": None}
    weight = np.repeat([0.0, 1.0], 100)
    fits = [
        InterpolantTransport(**recipe).fit(X[rows], X[rows] @ turn.T, w, paired=True)
        for rows, w in ((slice(None), weight), (slice(100, None), None))
    ]
    np.testing.assert_array_equal(*(fit.transform(X[:5]) for fit in fits))
    seen, heavy = [], np.where(X[:, 0] > 0, 3.0, 1.0)
    forward = run._pairs

    def watched(*arguments):
        seen.append(forward(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_pairs", watched)
        InterpolantTransport(**recipe).fit(X, X @ turn.T, heavy, paired=True)
    pairs = seen[0]
    expected = torch.where(pairs.x0[:, 0] > 0, 3.0, 1.0) / heavy.mean()
    torch.testing.assert_close(pairs.weight, expected.float(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("rows", "parameters", "arguments", "message"),
    [
        (9, {}, {}, r"X0 has 10 rows and X1 has 9; with paired=True, row i of X0 belongs to row i"),
        (10, {}, {"target_sample_weight": np.ones(10)}, r"with paired=True a pair has one weight"),
        (
            10,
            {"coupling": "optimal_transport"},
            {},
            r"coupling='optimal_transport' would pair the rows anew; with paired=True, set",
        ),
    ],
)
def test_impossible_pairs_are_refused(sides, rows, parameters, arguments, message):
    with pytest.raises(ValueError, match=message):
        InterpolantTransport(**QUICK, **parameters).fit(
            sides[0][:10], sides[1][:rows], paired=True, **arguments
        )


@pytest.mark.parametrize("paired", [False, True])
def test_the_coupling_of_given_pairs_is_no_parameter(sides, paired):
    """Both sides would be shuffled, and the pairs would be those of chance."""
    transport = InterpolantTransport(**QUICK, coupling=couplings.Given())
    with pytest.raises(ValueError, match=r"paired=True\), where rows keep their order; set coup"):
        transport.fit(sides[0][:10], sides[1][:10], paired=paired)


def test_a_mirror_has_no_pairs(sides):
    with pytest.raises(ValueError, match="without X1, its weights and paired=True"):
        InterpolantTransport(interpolant="mirror", gamma="brownian").fit(sides[0], paired=True)


def test_noise_levels_are_in_flow_units(sides):
    """Columns in other units, the same noise level: the same samples in these units; for the
    density as for the map."""
    X0, X1 = sides
    common = {
        "hidden_layer_sizes": (8,),
        "max_iter": 20,
        "random_state": 0,
        "scaling": "standardize",
    }
    drawn = [
        [
            InterpolantFlowDensity(**common, early_stopping=False)
            .fit(k * X1)
            .sample(5, 0, method="sde", epsilon=0.5)
            / k,
            InterpolantTransport(**common, gamma="brownian")
            .fit(k * X0, k * X1)
            .sample(k * X0[:5], 0, epsilon=0.5)
            / k,
        ]
        for k in (1.0, 1024.0)
    ]
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-4)


class Widening(VelocityField):
    """The exact velocity from N(0, I) to N(0, 4 I) on straight lines."""

    n_features = 2

    def forward(self, t, x):
        return self.value_and_divergence(t, x)[0]

    def value_and_divergence(self, t, x):
        slope = ((5 * t - 1) / ((1 - t) ** 2 + 4 * t**2)).to(x).reshape(-1, 1)
        return slope * x, (2 * slope[:, 0]).expand(len(x))


@pytest.fixture(scope="module")
def widened():
    """N(0, 1) in each column, mapped to N(0, 4) by the closed form, without training.

    On straight lines the flow is ``x0 sqrt((1 - t)^2 + 4 t^2)``.
    """
    X = np.random.default_rng(0).standard_normal((500, 2))
    transport = InterpolantTransport(**QUICK | {"max_iter": 1}, scaling=None, atol=1e-6)
    transport.fit(X, 2.0 * X)
    transport._field = transport._trained = Widening()
    # Units of the source that the target does not have: rows are doubled before the flow.
    transport._source = Standardize(torch.zeros(2), torch.full((2,), 0.5))
    transport._calibration = None
    return transport, 0.5 * X


def width(t):
    return np.sqrt((1 - t) ** 2 + 4 * t**2)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_velocity_is_the_closed_form(widened, t):
    transport, X0 = widened
    expected = (-(1 - t) + 4 * t) / width(t) ** 2 * X0
    np.testing.assert_allclose(transport.velocity(X0, t), expected, rtol=1e-4, atol=1e-6)


def test_trajectory_is_the_closed_form(widened):
    """Rows are in units of the source, and positions in units of the target at all times."""
    transport, X0 = widened
    times = [0.2, 0.6, 1.0]
    expected = np.array([width(t) * 2.0 * X0 for t in times])
    np.testing.assert_allclose(transport.trajectory(X0, times), expected, atol=1e-3)
    np.testing.assert_allclose(transport.trajectory(X0, times[::-1]), expected[::-1], atol=1e-3)
    from_start = transport.trajectory(X0, [0.0, 1.0])
    np.testing.assert_allclose(from_start[0], 2.0 * X0)
    np.testing.assert_allclose(from_start[1], transport.transform(X0), atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_density_at_any_time_is_the_closed_form(widened, t):
    transport, X0 = widened
    given = Given(lambda n: np.zeros(n))
    given.score_samples = lambda X: stats.norm(scale=0.5).logpdf(X).sum(axis=1)
    X = width(t) * 2.0 * X0
    expected = stats.norm(scale=width(t)).logpdf(X).sum(axis=1)
    np.testing.assert_allclose(transport.log_density(X, given, t=t), expected, atol=2e-3)
    if t == 1.0:
        np.testing.assert_array_equal(
            transport.log_density(X, given, t=t), transport.target_log_density(X, given)
        )


def test_diagnosis_of_the_closed_form(widened):
    """``E|v|^2`` is the mean of ``2 (5 t - 1)^2 / width^2``, and the loss its negative."""
    transport, X0 = widened
    diagnosis = transport.diagnose(X0, 4.0 * X0[:400], random_state=0)
    t = (np.arange(2000) + 0.5) / 2000
    action = float((2 * (5 * t - 1) ** 2 / width(t) ** 2).mean())
    assert diagnosis.action == pytest.approx(action, rel=0.15)
    assert abs(diagnosis.loss_plus_action) < 0.3 * action
    assert 0 < diagnosis.path_length**2 <= diagnosis.action
    assert diagnosis.lipschitz == pytest.approx(
        float(((5 * t - 1) / width(t) ** 2).max()), rel=0.01
    )
    assert diagnosis.wasserstein2_bound > diagnosis.lipschitz
    assert diagnosis.energy_distance < 0.02
    assert transport.diagnose(X0, 4.0 * X0 + 2.0, random_state=0).energy_distance > 0.5
    assert transport.diagnose(X0, 4.0 * X0, random_state=1) != diagnosis


def test_diagnosis_keeps_given_pairs(turned):
    transport, X, turn = turned
    diagnosis = transport.diagnose(X, X @ turn.T, random_state=0)
    assert diagnosis.action == pytest.approx(transport.action_, rel=0.15)
    assert abs(diagnosis.loss_plus_action) < 0.1 * diagnosis.action
    with pytest.raises(ValueError, match="X0 has 200 rows and X1 has 9, but the map was fitted to"):
        transport.diagnose(X, X[:9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, X: t.velocity(X, 1.5), r"t must be a number in \[0, 1\]"),
        (lambda t, X: t.trajectory(X, [0.5, 0.2, 0.3]), "times must be one or more numbers in"),
        (lambda t, X: t.log_density(X, KernelDensity().fit(X), t=-1), r"t must be a number in"),
        (lambda t, X: t.diagnose(X), "X1, the rows of the target, is missing"),
    ],
)
def test_impossible_times_are_refused(transport, sides, call, message):
    with pytest.raises(ValueError, match=message):
        call(transport, sides[0][:5])


BRIDGE = QUICK | {"max_iter": 500, "batch_size": 128, "bridge": 0.5}


@pytest.fixture(scope="module")
def bridge():
    """From N(0, diag(4, 1)) to N(0, diag(1, 4)); the noise level is in units of the rows."""
    X = np.random.default_rng(0).standard_normal((2, 1_000, 2))
    return InterpolantTransport(**BRIDGE).fit(X[0] * [2.0, 1.0], X[1] * [1.0, 2.0])


class TestBridge:
    def test_variances_are_the_closed_form(self, bridge):
        """Each column is a bridge between N(0, 4) and N(0, 1): halfway it has the variance
        ``(4 + 1 + sqrt(4 * 4 * 1 + (2 epsilon)^2)) / 4``."""
        X0 = np.random.default_rng(1).standard_normal((4_000, 2)) * [2.0, 1.0]
        end = bridge.sample(X0, random_state=0, n_steps=60)
        np.testing.assert_allclose(end.var(axis=0), [1.0, 4.0], rtol=0.15)
        correlations = [np.corrcoef(X0[:, k], end[:, k])[0, 1] for k in range(2)]
        covariance = 0.5 * (np.sqrt(4.0 * 4.0 + 1.0) - 1.0)
        np.testing.assert_allclose(correlations, covariance / 2.0, atol=0.06)

    def test_both_sides_have_one_unit(self, bridge):
        assert np.ptp(bridge._source.scale.numpy()) == 0.0
        unit = float(bridge._target.scale[0])
        assert bridge.bridge_epsilon_ == pytest.approx(0.5 / unit**2, rel=1e-6)
        assert bridge.bridge_defect_ < 0.15
        assert bridge._level(None) == bridge.bridge_epsilon_
        assert bridge._level("sine") == "sine"

    @pytest.mark.parametrize(
        ("parameters", "paired", "message"),
        [
            ({"interpolant": "trigonometric"}, False, r"combined with interpolant='trigonometric'"),
            ({"gamma": "brownian"}, False, r"cannot be combined with gamma='brownian'"),
            ({"coupling": "optimal_transport"}, False, r"with coupling='optimal_transport'"),
            ({}, True, r"cannot be combined with paired=True; use the defaults"),
            ({"targets": "b"}, False, r"needs the score as well as the drift, but only 'b'"),
            ({"bridge": 1e-9}, False, r"bridge=1e-09 is .* times the mean variance of the columns"),
        ],
    )
    def test_impossible_bridges_are_refused(self, sides, parameters, paired, message):
        with pytest.raises(ValueError, match=message):
            InterpolantTransport(**BRIDGE | parameters).fit(
                sides[0][:50], sides[1][:50], paired=paired
            )

    @pytest.mark.parametrize("level", [0, 0.0, -1.0, np.nan, np.inf, "much", [0.5]])
    def test_levels_that_are_none(self, sides, level):
        with pytest.raises(ValueError, match="The 'bridge' parameter of InterpolantTransport must"):
            InterpolantTransport(**QUICK, bridge=level).fit(*sides)

    @pytest.mark.parametrize(
        ("fitted", "level"), [(None, 0.5), (0.5, None), (0.5, 0.4)], ids=["on", "off", "changed"]
    )
    def test_a_warm_start_keeps_its_level(self, transport, bridge, sides, tmp_path, fitted, level):
        model = transport if fitted is None else bridge
        model.save(tmp_path / "model")
        loaded = InterpolantTransport.load(tmp_path / "model")
        loaded.set_params(bridge=level, warm_start=True)
        with pytest.raises(
            ValueError, match=f"bridge={level!r} was set after a fit with bridge={fitted!r}"
        ):
            loaded.fit(*sides)

    def test_a_loaded_bridge_is_the_same(self, bridge, sides, tmp_path):
        bridge.save(tmp_path / "model")
        loaded = InterpolantTransport.load(tmp_path / "model")
        assert loaded.bridge_epsilon_ == bridge.bridge_epsilon_
        assert loaded.bridge_defect_ == bridge.bridge_defect_
        samples = [model.sample(sides[0][:5], random_state=0) for model in (bridge, loaded)]
        np.testing.assert_array_equal(*samples)

    def test_diagnosis_draws_the_pairs_of_a_bridge(self, bridge):
        """With the correlation of the closed form, from sides with different numbers of rows."""
        X0, X1 = np.random.default_rng(2).standard_normal((2, 600, 2)) * [
            [[2.0, 1.0]],
            [[1.0, 2.0]],
        ]
        start, end = bridge._test_pairs(X0, X1[:500], np.random.RandomState(0))
        assert len(start) == len(end) == 500
        correlations = [np.corrcoef(start[:, k], end[:, k])[0, 1] for k in range(2)]
        np.testing.assert_allclose(correlations, 0.25 * (np.sqrt(17.0) - 1.0), atol=0.1)
        assert bridge.diagnose(X0, X1[:500], random_state=0).energy_distance < 0.05

    def test_equivalents_of_the_defaults_are_no_conflict(self):
        same = {"interpolant": Linear(), "coupling": couplings.Independent()}
        InterpolantTransport(bridge=0.5, **same)._check_bridge(paired=False, warm=False)

    def test_rows_on_disk_have_the_unit_of_rows_in_memory(self):
        X = np.random.default_rng(0).standard_normal((50, 2)) * [3.0, 1.0]
        scales = [
            _common_scaling(
                [batches.Reader(rows, np.ones(50), np.zeros(2), Identity(), torch.device("cpu"))]
                * 2
            ).scale
            for rows in (X, StoredRows(X, X[:0]))
        ]
        np.testing.assert_allclose(scales[0], np.sqrt(X.var(axis=0).mean()))
        np.testing.assert_array_equal(*scales)

    def test_rows_without_weight_do_not_change_the_unit(self, sides):
        X0 = np.vstack([sides[0][:50], 1e3 * sides[0][:50]])
        weight = np.repeat([1.0, 0.0], 50)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = [
                InterpolantTransport(**QUICK | {"max_iter": 1}, bridge=0.5).fit(
                    rows, sides[1][:50], sample_weight=w
                )
                for rows, w in ((X0, weight), (X0[:50], None))
            ]
        assert fits[0].bridge_epsilon_ == fits[1].bridge_epsilon_

    def test_an_untrained_bridge_warns(self, sides):
        with pytest.warns(UserWarning, match="this is not a bridge"):
            InterpolantTransport(**QUICK | {"max_iter": 1}, bridge=0.5).fit(*sides)

    def test_weights_choose_the_rows_of_a_bridge(self):
        X = np.random.default_rng(0).standard_normal((300, 1))
        readers = [
            batches.Reader(rows, weight, np.zeros(1), Identity(), torch.device("cpu"))
            for rows, weight in ((X, np.ones(300)), (X, (X[:, 0] > 0) + 1e-9))
        ]
        pairs = batches.drawn_pairs(*readers, 0.5, torch.Generator().manual_seed(0), 2)
        assert [len(side) for side in pairs] == [600, 600]
        assert (pairs[1].rows.u > 0).all()
        assert (pairs[1].rows.weight == 1).all()
