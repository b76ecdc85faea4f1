"""The quadratic loss, its minimiser, and the training loop."""

import pytest
import torch

from skinterflow.interflow.fields import ResidualMLP, VelocityField
from skinterflow.interflow.interpolants import Linear, Trigonometric
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import Ensemble, PathObjective, path_loss
from skinterflow.interflow.times import Beta
from skinterflow.interflow.training import train
from tests.helpers import draws_of_mixture, points
from tests.oracles import mixture


class Scaled(VelocityField):
    """``scale`` times a field: the family in which the truth is ``scale = 1``."""

    def __init__(self, field):
        super().__init__()
        self.field, self.n_features = field, field.n_features
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, x):
        return self.scale * torch.func.vmap(lambda time, row: self.field(time, row[None])[0])(t, x)

    def value_and_divergence(self, t, x):
        raise NotImplementedError


@pytest.fixture
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("interpolant", [Trigonometric(), Linear()], ids=repr)
@pytest.mark.usefixtures("seeded")
def test_loss_is_stationary_at_the_true_velocity(interpolant):
    """Its derivative along the scale of the field is zero within four standard errors, and not so
    for a wrong field."""
    field = Scaled(mixture(2, interpolant))
    n = 2000
    x1 = draws_of_mixture(field.field, n)
    x0, t = torch.randn_like(x1), torch.rand(n, dtype=torch.float64)
    with torch.no_grad():
        xt, rate = interpolant.path(t, x0, x1)
        v = field(t, xt)
        slopes = 2 * (v * (v - rate)).sum(-1)  # d/dscale of |scale v|^2 - 2 scale v . rate at one
        wrong = 2 * (v * (1.5 * v - rate)).sum(-1)
    assert slopes.mean().abs() < 4 * slopes.std() / n**0.5
    assert wrong.mean().abs() > 4 * wrong.std() / n**0.5
    loss = path_loss(field, StochasticInterpolant(interpolant), t, x0, x1).mean()
    loss.backward()
    torch.testing.assert_close(field.scale.grad, slopes.mean())


def test_loss_is_that_of_the_formula():
    with torch.random.fork_rng():
        field = ResidualMLP(3, (4,)).double()
    x0, x1, t = points(4, 3, 1), points(4, 3, 2), torch.linspace(0, 1, 4, dtype=torch.float64)
    path = StochasticInterpolant(Trigonometric())
    xt, rate = Trigonometric().path(t, x0, x1)
    v = field(t, xt)
    expected = v.square().sum(-1) - 2 * (v * rate).sum(-1)
    torch.testing.assert_close(path_loss(field, path, t, x0, x1), expected)
    grouped = path_loss(field, path, t[:2, None], x0.reshape(2, 2, 3), x1.reshape(2, 2, 3))
    repeated = path_loss(field, path, t[:2].repeat_interleave(2), x0, x1)
    torch.testing.assert_close(grouped.flatten(), repeated)


@pytest.mark.parametrize("n_rows", [1, 5, 16, 48])
@pytest.mark.usefixtures("seeded")
def test_objective_gives_one_loss_per_row(n_rows):
    objective = PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta(1.0, 0.5))
    x = torch.randn(n_rows, 2)
    assert objective(x, x).shape == (n_rows,)


def batches(x, n):
    while True:
        x1 = x[torch.randint(len(x), (n,))]
        yield (torch.randn_like(x1), x1), None


@pytest.mark.usefixtures("seeded")
def test_training_lowers_the_loss_and_yields_every_step():
    objective = PathObjective(ResidualMLP(2, (16, 16)), Trigonometric(), Beta())
    x = torch.randn(200, 2) * 0.1 + torch.tensor([2.0, -1.0])
    steps = list(train(objective, batches(x, 64), max_iter=120, learning_rate=1e-2))
    assert [step.number for step in steps] == list(range(1, 121))
    losses = [float(step.loss) for step in steps]
    assert sum(losses[-20:]) < sum(losses[:20]) - 20.0


@pytest.mark.usefixtures("seeded")
def test_training_stops_with_its_caller():
    objective = PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta())
    steps = train(objective, batches(torch.randn(20, 2), 8), max_iter=100)
    assert next(steps).number == 1
    before = [p.clone() for p in objective.parameters()]
    steps.close()
    assert all(torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))


@pytest.mark.usefixtures("seeded")
def test_weights_scale_the_loss():
    """Rows of weight zero leave no trace: training equals that on the others alone."""
    x = torch.randn(16, 2)
    x0 = torch.randn(16, 2)
    weight = torch.tensor([2.0, 0.0]).repeat(8)
    objective = PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta())
    poisoned = torch.where(weight[:, None] > 0, x, 1e3)
    results = []
    for x1 in (x, poisoned):
        torch.manual_seed(1)
        fresh = PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta())
        fresh.load_state_dict(objective.state_dict())
        for _ in train(fresh, [((x0, x1), weight)] * 3, max_iter=3):
            pass
        results.append(torch.cat([p.detach().flatten() for p in fresh.parameters()]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.usefixtures("seeded")
def test_averaged_weights_lag_behind():
    objective = PathObjective(ResidualMLP(2, (4,)), Trigonometric(), Beta())
    for step in train(
        objective, batches(torch.randn(20, 2) + 3, 16), max_iter=50, learning_rate=0.05
    ):
        averaged = step.averaged
    live, mean = objective.field.out.bias.detach(), averaged.field.out.bias.detach()
    assert (mean.abs() < live.abs()).all()
    assert (mean != 0).all()


@pytest.mark.usefixtures("seeded")
def test_ensemble_computes_what_its_members_do():
    """Same loss and same gradient as the objectives one by one, for times that do not depend on the
    draw."""

    class AtHalf(Beta):
        def quantile(self, u):
            return torch.full_like(u, 0.5)

    members = [PathObjective(ResidualMLP(3, (5, 5)), Trigonometric(), AtHalf()) for _ in range(3)]
    for member in members:
        torch.nn.init.normal_(member.field.out.weight)
    together = Ensemble(members)
    x0, x1 = torch.randn(2, 3, 8, 3)
    losses = together(x0, x1)
    expected = torch.stack([member(a, b) for member, a, b in zip(members, x0, x1, strict=True)])
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    for name, stack in zip(together.names, together.stacked, strict=True):
        torch.testing.assert_close(
            stack.grad, torch.stack([member.get_parameter(name).grad for member in members])
        )
    for copy, member in zip(together.objectives(), members, strict=True):
        torch.testing.assert_close(copy.state_dict(), member.state_dict())
