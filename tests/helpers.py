"""What tests of several files share."""

import dataclasses
import math

import numpy as np
import pytest
import sklearn
import torch
from sklearn.utils.fixes import parse_version

from skinterflow import InterpolantTransport
from skinterflow._data.encoding import FeatureEncoding
from skinterflow._data.trees import BoostedTrees
from skinterflow._persistence.codec import encode
from skinterflow._persistence.registry import component_of
from skinterflow.interflow import (
    AtomBase,
    AtomField,
    AtomMasses,
    AtomPath,
    AtomScaling,
    AveragedField,
    Beta,
    Bounds,
    Brownian,
    Calibration,
    Compose,
    ConditionalMLP,
    CustomField,
    EncodingDecoding,
    Fourier,
    Gaussianize,
    Given,
    GradientField,
    HeadedDrift,
    Identity,
    Independent,
    Interpolant,
    LearnedGamma,
    LearnedGaussian,
    Linear,
    Mirror,
    Normalized,
    NormalMixture,
    OptimalTransport,
    Potential,
    Quadratic,
    ResidualMLP,
    SeparateHeads,
    SharedTrunk,
    Sigmoid,
    SineSquared,
    Solver,
    Standardize,
    StochasticInterpolant,
    Trigonometric,
    UNet,
    VariancePreserving,
    VelocityField,
    Whiten,
    YeoJohnson,
)
from skinterflow.interflow.grading import UNGRADED

QUICK = {"hidden_layer_sizes": (16, 16), "max_iter": 30, "batch_size": 32, "random_state": 0}
"""Parameters of a small fit.  By default a density is cross-fitted: four fields, each scored on its
held-out rows ten times, which takes several seconds."""
ONE_FIELD = QUICK | {"early_stopping": False}
"""The same for one field on all rows, in a tenth of the time: for tests of a density that do not
concern held-out rows."""


def true_score(field, t, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(field.log_prob(torch.as_tensor(t, dtype=x.dtype), x).sum(), x)[0]


def energy_distance(x, y):
    def within(a):
        return torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))

    return 2 * torch.cdist(x, y).mean() - within(x) - within(y)


TIGHT = 0.02


def cluster_in_scatter(n, seed=0, d=2):
    """Rows of which two thirds are within `TIGHT` of the centre, and which of them these are."""
    random = np.random.default_rng(seed)
    tight = random.random(n) < 2 / 3
    return np.where(tight[:, None], TIGHT, 1.0) * random.normal(size=(n, d)), tight


class ToItself(InterpolantTransport):
    """scikit-learn's checks hand over rows and labels; here rows are carried to the same rows in
    reverse order."""

    def fit(self, X, y=None, sample_weight=None):
        reverse = X[::-1] if isinstance(X, np.ndarray) else X
        return super().fit(X, reverse, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags


def expected_failures(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "stochastic training: a row of weight two is not drawn into batches as two rows are; "
            "scikit-learn grants this to its own stochastic estimators"
        )
    }


def with_weights(module, seed=0):
    """The module, with other weights than its constructor gives it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def two_fields():
    return [with_weights(ResidualMLP(3, (4, 5), "tanh"), seed) for seed in range(2)]


def noisy_path():
    return StochasticInterpolant(with_weights(Fourier(2)), with_weights(LearnedGamma(2)))


ONE_ATOM = torch.tensor([[0.0, 1.0]])
"""Of two columns the second has an atom."""


def atom_masses():
    return AtomMasses(
        ONE_ATOM, torch.tensor([0.3]), torch.tensor([[1.0], [0.0]]), torch.tensor([0.4, 0.6]), 0.5
    )


EXAMPLES = {
    "AtomBase": lambda: AtomBase(ONE_ATOM),
    "AtomField": lambda: AtomField(two_fields()[0], ONE_ATOM),
    "AtomMasses": atom_masses,
    "AtomPath": lambda: AtomPath(with_weights(Fourier(2)), Brownian(2.0), ONE_ATOM),
    "AtomScaling": lambda: AtomScaling(
        torch.tensor([5.0]),
        atom_masses(),
        [torch.tensor([0]), torch.tensor([1])],
        [Identity(), Standardize(torch.zeros(1), torch.tensor([2.0]))],
    ),
    "AveragedField": lambda: AveragedField(two_fields()),
    "Beta": lambda: Beta(2.0, 0.5),
    "BoostedTrees": lambda: BoostedTrees(
        0.5, *(np.arange(2) for _ in range(4)), np.zeros(2), np.ones(2)
    ),
    "Bounds": lambda: Bounds(
        torch.tensor([0.0, -torch.inf]), torch.tensor([torch.inf, torch.inf]), torch.ones(2)
    ),
    "Brownian": lambda: Brownian(2.0),
    "Calibration": lambda: Calibration(
        "rk4", (0.0, 0.25, 1.0), (1.0, 2.0, 3.0), torch.ones(3, 2), torch.ones(2)
    ),
    "Compose": lambda: Compose(
        [YeoJohnson(torch.ones(2)), Compose([]), Standardize(torch.zeros(2), torch.ones(2))]
    ),
    "ConditionalMLP": lambda: with_weights(ConditionalMLP(1, 2, (4,), (3,), 0.2, "tanh")),
    "CustomField": lambda: CustomField(two_fields()[0], 3),
    "EncodingDecoding": EncodingDecoding,
    "FeatureEncoding": lambda: FeatureEncoding(
        {1: ["a", "b"]}, np.array([True, False]), np.zeros(2), np.ones(2)
    ),
    "Fourier": lambda: with_weights(Fourier(3)),
    "Gaussianize": lambda: Gaussianize(
        torch.tensor([1]), torch.full((1, 2), 0.5), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2)
    ),
    "Grading": lambda: dataclasses.replace(
        UNGRADED,
        reach=3.0,
        rule_errors=torch.ones(3, 2, dtype=torch.float64),
        state_errors=torch.ones(3, 3, 2, dtype=torch.float64),
    ),
    "GradientField": lambda: GradientField(with_weights(Potential(2, (4,))), 2),
    "HeadedDrift": lambda: HeadedDrift(
        with_weights(SharedTrunk(2, 2, (4, 4))), ("b", "eta"), noisy_path()
    ),
    "Identity": Identity,
    "Given": Given,
    "Independent": Independent,
    "LearnedGamma": lambda: with_weights(LearnedGamma(4)),
    "LearnedGaussian": lambda: with_weights(LearnedGaussian(3)),
    "Linear": Linear,
    "Mirror": Mirror,
    "NormalMixture": lambda: NormalMixture.standard(2),
    "Normalized": lambda: Normalized(Linear(), Sigmoid(4.0)),
    "OptimalTransport": lambda: OptimalTransport(64),
    "Potential": lambda: with_weights(Potential(3, (4,), "tanh")),
    "Quadratic": Quadratic,
    "ResidualMLP": lambda: two_fields()[0].double(),
    "SeparateHeads": lambda: SeparateHeads(two_fields()),
    "SharedTrunk": lambda: with_weights(SharedTrunk(3, 2, (4,), "elu")),
    "Sigmoid": lambda: Sigmoid(7.0),
    "SineSquared": SineSquared,
    "Solver": lambda: Solver("heun3", 1e-2, 0.0, 4, 5, (0.0, 0.5, 1.0), (2.0,)),
    "Standardize": lambda: Standardize(
        torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 2.0])
    ),
    "StochasticInterpolant": noisy_path,
    "Trigonometric": Trigonometric,
    "UNet": lambda: with_weights(UNet((2, 3), (2, 3), 1, 1, 2)),
    "VariancePreserving": VariancePreserving,
    "Whiten": lambda: Whiten(torch.eye(2), torch.eye(2)),
    "YeoJohnson": lambda: YeoJohnson(torch.tensor([0.5, 1.0])),
}


def same(a, b):
    """Equal in type, value and dtype, at every depth; objects by what their data are."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and same(a.detach().numpy(), b.detach().numpy())
    if isinstance(a, np.ndarray | np.generic):
        equal_nan = a.dtype.kind == "f"
        return (
            a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=equal_nan)
        )
    if isinstance(a, np.random.RandomState):
        return same(a.get_state(), b.get_state())
    return a == b if component_of(type(a)) is None else same(encode(a), encode(b))


def moons(n=400, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, n)
    upper = rng.random(n) < 0.5
    points = np.stack(
        [
            np.where(upper, np.cos(angle), 1 - np.cos(angle)),
            np.where(upper, np.sin(angle), 0.5 - np.sin(angle)),
        ],
        axis=1,
    )
    return points + 0.1 * rng.normal(size=(n, 2))


def perturbed(field, seed=0, size=0.4):
    """Replace the zeros of a new field by random weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    field = field.double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(
                size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return field


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trace_of_jacobian(field, t, x):
    """The divergence by reverse-mode autodiff, row by row."""
    return torch.stack(
        [torch.func.jacrev(lambda row: field(t, row[None])[0])(row).trace() for row in x]
    )


HAS_CALLBACKS = parse_version(sklearn.__version__) >= parse_version("1.9")
needs_callbacks = pytest.mark.skipif(
    not HAS_CALLBACKS,
    reason="scikit-learn has callbacks from 1.9 on",
)


class Recorder:
    """A callback that notes what it hears, and stops the fit after some step."""

    def __init__(self, stop_after=np.inf):
        self.stop_after = stop_after
        self.heard, self.models, self.data = [], [], []

    def setup(self, estimator, context):
        self.heard.append("setup")

    def teardown(self, estimator, context):
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.heard.append(f"end {context.task_name}")
        self.models.append(fitted_estimator)
        self.data.append((X, y, metadata))
        return fitted_estimator is not None and fitted_estimator.n_iter_ >= self.stop_after


class Bent(Interpolant):
    """A user's own path, not affine in time nor linear in its ends."""

    def forward(self, t, x0, x1):
        t = t.reshape(t.shape + (1,) * (x0.ndim - t.ndim))
        return (1 - t) * x0 + t * x1 + torch.sin(math.pi * t) * x0 * x1


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def learned_gaussian():
    gaussian = LearnedGaussian(2).double().requires_grad_(False)
    gaussian.mean.copy_(vector(1.0, -2.0))
    gaussian.root.copy_(
        torch.tensor([[0.5, 99.0], [0.7, -0.3]], dtype=torch.float64)
    )  # what is above the diagonal counts for nothing
    return gaussian


def draws_of_mixture(field, n):
    return field.target.sample(n, torch.default_generator)


class Counted(VelocityField):
    """A field that counts velocities and divergences, of each row."""

    def __init__(self, field):
        super().__init__()
        self.field, self.n_features = field, field.n_features
        self.velocities, self.divergences = 0, 0

    def forward(self, t, x):
        self.velocities += len(x)
        return self.field(t, x)

    def value_and_divergence(self, t, x):
        self.divergences += len(x)
        return self.field.value_and_divergence(t, x)
