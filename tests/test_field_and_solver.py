"""A field and a solver of the user, in both estimators."""

import copy
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skinterflow import InterpolantFlowDensity, InterpolantTransport
from skinterflow.interflow import (
    AveragedField,
    Brownian,
    CustomField,
    Flow,
    HeadedDrift,
    PathObjective,
    ResidualMLP,
    SeparateHeads,
    Solver,
    StochasticInterpolant,
    VelocityField,
)
from skinterflow.interflow.custom import EXACT_COLUMNS, check_function
from skinterflow.interflow.interpolants import Linear
from skinterflow.interflow.times import Beta
from tests.helpers import ONE_FIELD, points, trace_of_jacobian

PLAIN = {"max_iter": 30, "batch_size": 32, "random_state": 0}


class Network(nn.Module):
    """A plain network that knows nothing of divergences or of batch axes."""

    def __init__(self, n_features=4, width=16):
        super().__init__()
        self.inner = nn.Linear(n_features + 1, width)
        self.outer = nn.Linear(width, n_features)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, t, x):
        assert t.shape == (len(x),)
        assert x.ndim == 2
        return self.outer(torch.tanh(self.inner(torch.cat([x, t[:, None]], dim=1))))


class Turn(VelocityField):
    """A field of rows alone, whose divergence is its own."""

    n_features = 2

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(()))

    def forward(self, t, x):
        return self.rate * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    def value_and_divergence(self, t, x):
        return self(t, x), torch.zeros_like(x[:, 0])


def network(n_features=4):
    with torch.random.fork_rng():
        module = Network(n_features)
        nn.init.normal_(module.outer.weight, std=0.1)
    return module


@pytest.mark.parametrize("n_features", [1, 3])
def test_divergence_is_the_trace_of_the_jacobian(n_features):
    field = CustomField(network(n_features), n_features).double()
    t, x = torch.tensor(0.3, dtype=torch.float64), points(5, n_features)
    value, divergence = field.value_and_divergence(t, x)
    torch.testing.assert_close(value, field(t, x))
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, x))
    assert CustomField(network(1), 1).n_estimates is None
    assert CustomField(network(EXACT_COLUMNS + 1), EXACT_COLUMNS + 1).n_estimates == 16


def test_divergence_of_wide_fields_is_estimated():
    n = EXACT_COLUMNS + 1
    field = CustomField(lambda t, x: torch.sin(x), n).double()
    x = points(3, n)
    estimates = field.value_and_divergence(torch.tensor(0.5), x)[1]
    assert estimates.shape == (3, 16)
    torch.testing.assert_close(estimates.mean(1), x.cos().sum(1))  # the Jacobian is diagonal


@pytest.mark.parametrize("early_stopping", ["auto", True, False])
def test_a_density_trains_a_copy_of_a_module(iris, early_stopping):
    module = network()
    before = copy.deepcopy(module.state_dict())
    density = InterpolantFlowDensity(
        **PLAIN | {"max_iter": 4}, field=module, early_stopping=early_stopping, end_time=1.0
    ).fit(iris)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    log_density, error = density.score_samples(iris, return_error=True)
    assert np.isfinite(log_density).all()
    assert (error < 0.1).all()
    np.testing.assert_allclose(density.inverse_transform(density.transform(iris)), iris, atol=0.05)
    assert density.score_gradient(iris[:3]).shape == (3, 4)
    alone = np.concatenate([density.score_samples(row[None]) for row in iris[:5]])
    np.testing.assert_allclose(alone, log_density[:5], atol=1e-7)


def test_the_same_network_gives_the_same_density(iris):
    """By automatic differentiation or by its own divergence."""
    with torch.random.fork_rng():
        field = ResidualMLP(4, (8, 8))
        nn.init.normal_(field.out.weight, std=0.1)
    own, automatic = CustomField(field, 4), CustomField(lambda t, x: field(t, x), 4)
    t, x = torch.tensor(0.4), points(6, 4).float()
    with torch.no_grad():
        results = [each.value_and_divergence(t, x) for each in (own, automatic)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_velocity_field_of_rows_is_trained():
    X = np.random.default_rng(0).normal(size=(80, 2))
    density = InterpolantFlowDensity(**PLAIN, field=Turn(), early_stopping=False).fit(X)
    transport = InterpolantTransport(**PLAIN, field=Turn()).fit(X, X[::-1].copy())
    assert np.isfinite(density.score(X))
    assert transport.transform(X).shape == X.shape
    assert transport.log_abs_det_jacobian(X) == pytest.approx(0.0, abs=1e-6)


def test_a_function_without_parameters_is_a_given_field():
    """Nothing is trained: the density is that of the field."""
    X = np.random.default_rng(0).normal(size=(50, 2))
    density = InterpolantFlowDensity(
        **PLAIN, field=lambda t, x: 0.0 * x, scaling=None, early_stopping=False
    ).fit(X)
    expected = -0.5 * (X**2).sum(axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(density.score_samples(X), expected, atol=1e-6)


def test_estimators_with_a_field_are_cloned_and_pickled(iris, tmp_path):
    density = InterpolantFlowDensity(**PLAIN, field=network(), early_stopping=False)
    fitted = clone(density).fit(iris)
    joblib.dump(fitted, tmp_path / "density")
    loaded = joblib.load(tmp_path / "density")
    np.testing.assert_array_equal(loaded.score_samples(iris), fitted.score_samples(iris))
    with pytest.raises(TypeError, match=r"(?s)Network.*joblib.dump"):
        fitted.save(tmp_path / "model")


def test_a_field_of_ours_is_saved(iris, tmp_path):
    with torch.random.fork_rng():
        field = ResidualMLP(4, (8,))
    density = InterpolantFlowDensity(
        **PLAIN, field=field, solver=Solver("heun3"), early_stopping=False
    ).fit(iris)
    density.save(tmp_path / "model")
    loaded = InterpolantFlowDensity.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(iris), density.score_samples(iris))
    assert loaded.solver == Solver("heun3")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, x: x[:, :1], r"shape of the rows, \(4, 4\), but gives \(4, 1\)"),
        (lambda t, x: x.detach().numpy(), "but gives ndarray"),
        (lambda t, x: x / 0.0, "not finite"),
        (lambda t, x: x.detach() ** 2, "cannot be differentiated .* without detach"),
        (
            lambda t, x: x - x.mean(dim=0),
            "velocity that field gives for a row depends on the other rows",
        ),
        (lambda x: x, r"field failed for times of shape \(4,\).*must be v\(t, x\)"),
        (lambda t, x: x @ torch.zeros(3, 3), "field failed"),
        (Turn(), "field has 2 columns, but the rows have 4"),
    ],
)
@pytest.mark.parametrize("model", [InterpolantFlowDensity, InterpolantTransport])
def test_what_is_no_field_is_refused_before_the_training(iris, monkeypatch, model, field, message):
    monkeypatch.setattr("skinterflow._base.fit_field", lambda *_: pytest.fail("training began"))
    estimator = model(**PLAIN, field=field)
    with pytest.raises(ValueError, match=message):
        estimator.fit(iris, *([iris] if model is InterpolantTransport else []))
    assert not hasattr(estimator, "end_time_")


class Layered(nn.Module):
    """A small network with a given layer in the middle."""

    def __init__(self, layer):
        super().__init__()
        with torch.random.fork_rng():
            self.inner, self.layer, self.outer = nn.Linear(4, 6), layer, nn.Linear(6, 4)

    def forward(self, t, x):
        return self.outer(self.layer(self.inner(x)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(6), r"batch normalisation in training mode, layer \(BatchNorm1d\)"),
        (nn.Dropout(0.01), r"dropout in training mode, layer \(Dropout\), .* is random"),
    ],
)
def test_layers_that_differ_in_training_are_refused_by_name(layer, message):
    with pytest.raises(ValueError, match=message):
        check_function(Layered(layer), 4)
    check_function(Layered(copy.deepcopy(layer).eval()), 4)


class KinkedInTime(Layered):
    def forward(self, t, x):
        return super().forward(t, x) + self.outer(torch.relu(t[:, None].expand(-1, 6)))


def test_kinks_between_rows_and_velocities_are_warned_of():
    for layer, name in ((nn.ReLU(), "Relu"), (nn.LeakyReLU(), "LeakyRelu"), (nn.PReLU(), "Prelu")):
        with pytest.warns(UserWarning, match=f"kinks .{name}.*its divergence jumps.*SiLU"):
            check_function(Layered(layer), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_function(Layered(nn.SiLU()), 4)
        check_function(KinkedInTime(nn.Tanh()), 4)
        check_function(lambda t, x: torch.zeros_like(x), 4)


def test_averaged_fields_of_many_columns_estimate_their_divergence():
    n = EXACT_COLUMNS + 1
    members = [CustomField(lambda t, x, k=k: torch.sin(k * x), n) for k in (1.0, 3.0)]
    field, x = AveragedField(members), points(2, n)
    log_det = Flow(field).pull_and_logdet(x)[1]
    assert field.n_estimates == 16
    exact = CustomField(lambda t, x: 0.5 * (torch.sin(x) + torch.sin(3.0 * x)), n)
    torch.testing.assert_close(log_det, Flow(exact).pull_and_logdet(x)[1])


def test_a_field_of_other_types_is_refused(iris):
    with pytest.raises(ValueError, match="'field' parameter"):
        InterpolantFlowDensity(**PLAIN, field="network").fit(iris)


def test_each_target_has_a_copy_of_the_field(iris):
    """A noisy path whose drift follows from two copies, and the score from one of them."""
    transport = InterpolantTransport(
        **PLAIN | {"max_iter": 4}, field=network(), gamma="brownian", targets=("v", "eta")
    ).fit(iris, iris[::-1].copy())
    one, other = transport._field.heads.fields
    assert not torch.equal(one.function.outer.weight, other.function.outer.weight)
    t, x = torch.tensor(0.4), points(3, 4).float()
    with torch.no_grad():
        gamma = transport._path.gamma.at(t)
        expected = one(t, x) + gamma.rate * other(t, x)
        torch.testing.assert_close(transport._field(t, x), expected)
        score = transport._field.drift_and_score(t, x)[1]
        torch.testing.assert_close(score, -other(t, x) / gamma.value)


def test_images_are_resampled_by_a_field_of_the_mirror_path(iris):
    mirror = InterpolantTransport(
        **PLAIN | {"max_iter": 2}, field=network(), interpolant="mirror", gamma="brownian"
    ).fit(iris)
    assert mirror._field.targets == ("eta",)
    assert mirror.sample(iris[:3], epsilon=0.1, n_steps=4, random_state=0).shape == (3, 4)


@pytest.mark.parametrize("time", [torch.tensor(0.4), torch.linspace(0.3, 0.6, 3)])
def test_targets_of_many_columns_estimate_the_divergence(time):
    """The Jacobians of both heads are diagonal, so that each estimate is exact."""
    n, time = EXACT_COLUMNS + 1, time.double()
    members = [CustomField(lambda t, x, k=k: torch.sin(k * x), n) for k in (1.0, 3.0)]
    path = StochasticInterpolant(Linear(), Brownian())
    field, x = HeadedDrift(SeparateHeads(members), ("v", "eta"), path), points(3, n)
    assert field.n_estimates == 16
    value, divergence = field.value_and_divergence(time, x)
    torch.testing.assert_close(value, field(time, x))
    rate = path.gamma.at(time).rate.expand(3)[:, None]
    exact = (x.cos() + 3.0 * rate * (3.0 * x).cos()).sum(dim=1, keepdim=True)
    torch.testing.assert_close(divergence, exact.expand(3, 16))
    one_sided = HeadedDrift(SeparateHeads(members[:1]), ("eta",), StochasticInterpolant(Linear()))
    value, divergence = one_sided.value_and_divergence(time, x)
    growth, denoiser = 1.0 / time.expand(3), -1.0 - (1.0 - time.expand(3)) / time.expand(3)
    exact = n * growth + denoiser * x.cos().sum(dim=1)
    torch.testing.assert_close(divergence, exact[:, None].expand(3, 16))


def test_a_checkpoint_refuses_a_module_before_the_training(iris, tmp_path):
    density = InterpolantFlowDensity(**PLAIN, field=network(), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(TypeError, match=r"(?s)field=.*set checkpoint=None"):
        density.fit(iris)


def test_rows_of_another_shape_are_refused_by_the_objective():
    with torch.random.fork_rng():
        objective = PathObjective(ResidualMLP(4, (8,)), Linear(), Beta())
        images = torch.zeros(16, 1, 2, 2)
        with pytest.raises(ValueError, match=r"shape \(B, D\).*must reshape rows internally"):
            objective(images, images)


def test_a_solver_object_is_used_as_it_is(fitted, iris):
    named = copy.deepcopy(fitted).set_params(atol=1e-6, rtol=0.0)
    given = copy.deepcopy(fitted).set_params(solver=Solver("rk4", atol=1e-6, rtol=0.0), atol=10.0)
    expected = named.score_samples(iris)
    np.testing.assert_allclose(given.score_samples(iris), expected, atol=1e-5)
    coarse = copy.deepcopy(fitted).set_params(
        solver=Solver("euler", atol=np.inf, n_steps=1, max_refinements=1)
    )
    assert np.abs(coarse.score_samples(iris) - expected).max() > 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InterpolantFlowDensity(**ONE_FIELD, solver=Solver()).fit(iris).score_samples(iris)


@pytest.mark.parametrize("solver", ["rk5", 3, None, nn.Identity()])
def test_a_solver_of_another_type_is_refused(iris, solver):
    with pytest.raises(ValueError, match="'solver' parameter"):
        InterpolantFlowDensity(**ONE_FIELD, solver=solver).fit(iris)
