r"""Objectives: quadratic losses whose minimisers are the quantities of a path.

The velocity ``v_t(x) = E[d/dt I_t | x_t = x]`` is the unique minimiser of

.. math:: G(\hat v) = E\left[ |\hat v_t(x_t)|^2 - 2\, \partial_t I_t \cdot \hat v_t(x_t) \right],

with minimum ``-E|v_t(x_t)|^2`` (paper 1 [1]_, proposition 1); no trajectory is simulated.  The
other quantities of paper 2 [2]_ are also conditional expectations, and have losses of the same form
(section 2.3, where the losses have a factor one half).  Losses are per row; their mean estimates
the expectation.

The variance of a target that is divided by the scale of the noise diverges at the ends.  The mean
over the antithetic points ``I_t + gamma z`` and ``I_t - gamma z`` has a finite variance (paper 2,
section 6.1).

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.flows import Flow, Pushforward
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.scaling import Identity, Scaling
from skinterflow.interflow.times import TimeLaw, stratified_uniform

_MAX_ROWS_PER_TIME = 16


def path_loss(
    field: VelocityField,
    path: StochasticInterpolant,
    t: Tensor,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Loss per row, the ``G`` of paper 1 without its expectation, summed over learned quantities.

    The loss of a quantity ``f = E[y | x_t]`` is ``|f|^2 - 2 f . y`` (paper 1, equations 8 to 11;
    paper 2, section 2.3).  If ``path.divides``, it is the mean over two antithetic points (paper 2,
    section 6.1).  The function is deterministic.

    Parameters
    ----------
    field : VelocityField
        The losses of a `HeadedDrift` are those of its heads, of any other field that of the drift.
    path : StochasticInterpolant
    t : Tensor of shape (B,), or (K, 1) for K times, each shared by a group of rows
    x0, x1 : Tensors of shape ``(B, *event)``, or ``(K, B / K, *event)``
    z : Tensor of their shape, or None for a path without a noise term

    Returns
    -------
    Tensor of the batch shape, (B,) or (K, B / K)

    Examples
    --------
    On the straight path between the means of N(0, 1) and N(3, 1), the velocity equals the rate, 3,
    and the loss is ``-|v|^2``.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Linear,
    ...     MixtureField,
    ...     NormalMixture,
    ...     StochasticInterpolant,
    ...     path_loss,
    ... )
    >>> path = StochasticInterpolant(Linear())
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.full((1, 1), 3.0), torch.ones(1, 1, 1)), path
    ... )
    >>> path_loss(field, path, torch.tensor([0.5]), torch.zeros(1, 1), torch.full((1, 1), 3.0))
    tensor([-9.])
    """
    quantities = field.targets
    if not path.divides(quantities):
        return _regression_loss(field, path, quantities, t, x0, x1, z)
    t = t.clamp(*path.interior)
    antithetic = path.antithetic(x0, z)
    both = (
        _regression_loss(field, path, quantities, t, start, x1, noise)
        for start, noise in ((x0, z), antithetic)
    )
    return 0.5 * sum(both, start=torch.zeros((), dtype=x1.dtype, device=x1.device))


def _regression_loss(
    field: VelocityField,
    path: StochasticInterpolant,
    quantities: tuple[str, ...],
    t: Tensor,
    x0: Tensor,
    x1: Tensor,
    z: Tensor | None,
) -> Tensor:
    xt, targets = path.regression(quantities, t, x0, x1, z)
    values = field.learned(t, xt)
    losses = [
        (f * (f - 2.0 * targets[name])).flatten(t.ndim).sum(-1)
        for name, f in zip(quantities, values, strict=True)
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)


class PathObjective(nn.Module):
    """The module that is trained: a loss per row (paper 1, proposition 1).

    Times are stratified over the batch and shared by small groups of rows, so that the time network
    has few inputs.  ``objective(x0, x1)`` draws times and `z` from torch's global random state;
    :meth:`draw` takes a generator.  Each row has one partner and one time: base points, rows and
    times are not crossed as in the paper (equation I.1), which has the same expectation.  A path or
    base with parameters is a submodule; see :func:`train` for which parameters maximise the loss.

    Parameters
    ----------
    field : VelocityField, see :func:`path_loss`
    path : StochasticInterpolant, or Interpolant for a path without a noise term
    time_law : TimeLaw
    base : Scaling or None
        Map from the given points `x0` to base points, such as `LearnedGaussian`; None is the
        identity.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Beta, PathObjective, ResidualMLP, Trigonometric
    >>> with torch.random.fork_rng(devices=[]):
    ...     objective = PathObjective(
    ...         ResidualMLP(2, hidden_layer_sizes=(8, 8)), Trigonometric(), Beta(1.0, 0.5)
    ...     )
    ...     loss = objective(torch.zeros(64, 2), torch.ones(64, 2))
    >>> loss.shape
    torch.Size([64])
    """

    def __init__(
        self,
        field: VelocityField,
        path: StochasticInterpolant | Interpolant,
        time_law: TimeLaw,
        base: Scaling | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.path = path if isinstance(path, StochasticInterpolant) else StochasticInterpolant(path)
        self.time_law = time_law
        self.base = base or Identity()

    def density(self, solver: Solver, end_time: float = 1.0) -> Pushforward:
        """Density of the flow of the field, from the base to the end time."""
        return Pushforward(Flow(self.field, solver, end_time), self.base)

    def draw(self, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw times and noise for a batch.

        Parameters
        ----------
        x1 : Tensor of shape (B, D)
        generator : torch.Generator on the device of `x1`, or None for torch's global random state

        Returns
        -------
        t : Tensor of shape (K,)
            In increasing order.  K divides B, and B / K consecutive rows share a time.
        z : Tensor of the shape of `x1`, only if the path has a noise term
        """
        n_times = len(x1) // math.gcd(len(x1), _MAX_ROWS_PER_TIME)
        t = self.time_law.quantile(stratified_uniform(n_times, x1.device, generator)).to(x1.dtype)
        z = self.path.draw(x1, generator)
        return (t,) if z is None else (t, z)

    def forward(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """Loss of each pair.

        Parameters
        ----------
        x0, x1 : Tensors of shape (B, D)
            The rows must be in random order, because times are sorted.
        t, z : Tensors, see :meth:`draw`; drawn from torch's global random state if `t` is None

        Returns
        -------
        Tensor of shape (B,)

        Raises
        ------
        ValueError
            If the rows are not of the same shape (B, D).
        """
        if x0.ndim != 2 or x0.shape != x1.shape:
            raise ValueError(
                "Rows must be of shape (B, D) on both sides, got "
                f"{tuple(x0.shape)} and {tuple(x1.shape)}; a field of images must reshape rows "
                "internally."
            )
        if t is None:
            return self(x0, x1, *self.draw(x1))
        groups = (len(t), len(x1) // len(t), *x1.shape[1:])
        x0, x1 = self.base(x0).reshape(groups), x1.reshape(groups)
        return self.loss(t[:, None], x0, x1, None if z is None else z.reshape(groups)).flatten()

    def loss(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        """:func:`path_loss` of the field on the path."""
        return path_loss(self.field, self.path, t, x0, x1, z)


class BridgeObjective(PathObjective):
    r"""The max-min problem whose solution is a Schroedinger bridge.

    .. math::
        \max_{I, \gamma} \min_u E\left[ |u|^2
        - 2\, u \cdot (\partial_t I_t + (\dot\gamma - \epsilon / \gamma)\, z) \right]

    For a given path the minimiser `u` is the forward drift ``b + epsilon s``.  Minus the minimum is
    ``E|u|^2``, which is ``4 epsilon`` times the relative entropy of the diffusion
    ``dX = u dt + sqrt(2 epsilon) dW`` with respect to Brownian motion from the same start.  The
    path that maximises the minimum therefore gives the bridge (paper 2, theorem 3.10), and for
    ``epsilon -> 0`` the optimal transport.

    Parameters
    ----------
    field : VelocityField, for the forward drift `u`
    path : StochasticInterpolant with a noise term
        Pass its parameters to :func:`train` as `maximized`.
    time_law : TimeLaw, which should be uniform
    epsilon : float, positive

    Raises
    ------
    ValueError
        If the path has no noise term, or if `epsilon` is not positive and finite.

    Examples
    --------
    The path has three parameters, which maximise the loss.

    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Beta,
    ...     BridgeObjective,
    ...     Fourier,
    ...     LearnedGamma,
    ...     ResidualMLP,
    ...     StochasticInterpolant,
    ... )
    >>> with torch.random.fork_rng(devices=[]):
    ...     path = StochasticInterpolant(Fourier(n_modes=7), LearnedGamma(n_modes=3))
    ...     objective = BridgeObjective(
    ...         ResidualMLP(2, hidden_layer_sizes=(8, 8)), path, Beta(), epsilon=0.5
    ...     )
    ...     loss = objective(torch.zeros(64, 2), torch.ones(64, 2))
    >>> loss.shape, len(list(path.parameters()))
    (torch.Size([64]), 3)
    """

    def __init__(
        self, field: VelocityField, path: StochasticInterpolant, time_law: TimeLaw, epsilon: float
    ) -> None:
        super().__init__(field, path, time_law)
        if path.gamma is None:
            raise ValueError(
                "A Schroedinger bridge needs a path with a noise term; set the gamma of its "
                "StochasticInterpolant."
            )
        if not 0.0 < epsilon < math.inf:
            raise ValueError(
                f"epsilon must be positive and finite, got {epsilon!r}; the limit of 0 is optimal "
                "transport."
            )
        self.epsilon = epsilon

    def loss(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None) -> Tensor:
        t = t.clamp(*self.path.interior)
        losses = []
        for start, noise in ((x0, z), self.path.antithetic(x0, z)):
            xt, targets = self.path.regression(("b", "s"), t, start, x1, noise)
            u = self.field(t, xt)
            losses.append(
                (u * (u - 2.0 * (targets["b"] + self.epsilon * targets["s"])))
                .flatten(t.ndim)
                .sum(-1)
            )
        return 0.5 * torch.stack(losses).sum(0)


class DistillationObjective(nn.Module):
    r"""The loss of a student that learns the value and the divergence of a teacher.

    .. math:: |\hat v_t(x) - v_t(x)|^2 + w\, (\nabla\cdot\hat v_t(x) - \nabla\cdot v_t(x))^2

    The targets have no noise.  The log-density integrates the divergence, whose error is not
    bounded by that of the value.

    Parameters
    ----------
    field : VelocityField, the student, of one or two hidden layers
    divergence_weight : float, the `w` above

    Examples
    --------
    An untrained student is zero, and its loss is ``|v|^2 = 2`` plus ``0.1 * 3^2``.

    >>> import torch
    >>> from skinterflow.interflow import DistillationObjective, ResidualMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     objective = DistillationObjective(
    ...         ResidualMLP(2, hidden_layer_sizes=(8,)), divergence_weight=0.1
    ...     )
    >>> loss = objective(
    ...     torch.tensor([0.5]),
    ...     torch.zeros(1, 2),
    ...     v=torch.ones(1, 2),
    ...     divergence=torch.tensor([3.0]),
    ... )
    >>> round(float(loss.detach()), 2)
    2.9
    """

    def __init__(self, field: VelocityField, divergence_weight: float) -> None:
        super().__init__()
        self.field = field
        self.divergence_weight = divergence_weight

    def forward(self, t: Tensor, x: Tensor, v: Tensor, divergence: Tensor) -> Tensor:
        """Loss of each point.

        Parameters
        ----------
        t : Tensor of shape (B,), or (K, 1) for K times, each shared by a group of rows
        x, v : Tensors of shape (B, D), or (K, B / K, D), points and velocities of the teacher
        divergence : Tensor of shape (B,), or (K, B / K), of the teacher

        Returns
        -------
        Tensor of the shape of `divergence`
        """
        value, trace = self.field.value_and_divergence(t, x)
        return (value - v).square().sum(-1) + self.divergence_weight * (trace - divergence).square()


class Ensemble(nn.Module):
    """Objectives of equal shape, trained in parallel as one module.

    Parameters are stacked along a leading axis, over which the forward pass is mapped.  For small
    networks this costs little more than training one.

    Parameters
    ----------
    objectives : sequence of PathObjective, which differ only in the values of their parameters

    Examples
    --------
    Four fields, each with a batch of 32 rows.

    >>> import torch
    >>> from skinterflow.interflow import Beta, Ensemble, PathObjective, ResidualMLP, Trigonometric
    >>> with torch.random.fork_rng(devices=[]):
    ...     ensemble = Ensemble(
    ...         [PathObjective(ResidualMLP(2, (8, 8)), Trigonometric(), Beta()) for _ in range(4)]
    ...     )
    ...     loss = ensemble(torch.zeros(4, 32, 2), torch.ones(4, 32, 2))
    >>> loss.shape, len(ensemble.objectives())
    (torch.Size([4, 32]), 4)
    """

    def __init__(self, objectives: Sequence[PathObjective]) -> None:
        super().__init__()
        stacked, _ = torch.func.stack_module_state(list(objectives))
        self.names = tuple(stacked)
        self.stacked = nn.ParameterList(stacked.values())
        # In a tuple, so that its parameters are not registered in this module.
        self._skeleton = (copy.deepcopy(objectives[0]),)

    def draw(self, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Times and noise for `x1` of shape (K, B, D), see :meth:`PathObjective.draw`."""
        draws = (self._skeleton[0].draw(rows, generator) for rows in x1)
        return tuple(torch.stack(parts) for parts in zip(*draws, strict=True))

    def forward(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """Loss of each pair, shape (K, B).

        Parameters
        ----------
        x0, x1 : Tensors of shape (K, B, D)
        t, z : Tensors, see :meth:`draw`; drawn from torch's global random state if `t` is None
        """
        if t is None:
            return self(x0, x1, *self.draw(x1))

        def loss(parameters: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
            given = dict(zip(self.names, parameters, strict=True))
            return torch.func.functional_call(self._skeleton[0], given, inputs)

        drawn = (t,) if z is None else (t, z)
        return torch.func.vmap(loss)(tuple(self.stacked), x0, x1, *drawn)

    def objectives(self) -> list[PathObjective]:
        """Independent copies of the objectives with the current parameters."""
        members = [copy.deepcopy(self._skeleton[0]) for _ in range(len(self.stacked[0]))]
        for k, member in enumerate(members):
            member.load_state_dict(
                {
                    name: stack[k].detach()
                    for name, stack in zip(self.names, self.stacked, strict=True)
                }
            )
        return members
