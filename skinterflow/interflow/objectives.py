r"""Objectives: quadratic losses whose minimiser is the velocity.

Paper 1, proposition 1: ``v_t(x) = E[d/dt I_t | x_t = x]`` is the unique minimiser of

.. math:: G(\hat v) = E\left[ |\hat v_t(x_t)|^2 - 2\, \partial_t I_t \cdot \hat v_t(x_t) \right],

with minimum ``-E|v_t(x_t)|^2``; nothing is simulated.  Losses here are per row; whoever wants the expectation takes the mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.scaling import Compose, Scaling
from skinterflow.interflow.times import TimeLaw, stratified_uniform

_MAX_ROWS_PER_TIME = 16


def velocity_loss(field: VelocityField, interpolant: Interpolant, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Velocity loss per row, the ``G`` of paper 1 before its expectation (equations 8 to 11); draws nothing.

    It is ``|v|^2 - 2 v dI/dt`` with the rate ``dI/dt`` of the path and an inner product.

    Parameters
    ----------
    field : VelocityField
    interpolant : Interpolant
    t : Tensor of shape (B,), or (K, 1) for K times shared by rows in K groups
    x0, x1 : Tensors of shape ``(B, *event)``, or ``(K, B / K, *event)``

    Returns
    -------
    Tensor of the batch shape, (B,) or (K, B / K)
    """
    xt, rate = interpolant.path(t, x0, x1)
    v = field(t, xt)
    return (v * (v - 2.0 * rate)).flatten(t.ndim).sum(-1)


class VelocityObjective(nn.Module):
    """The module that is trained: draws times and returns :func:`velocity_loss` per row.

    Times are stratified over the batch and shared by small groups of rows, so that the time network runs on few inputs.
    A path or a base with parameters is a module of the objective, too; see :func:`train` for who minimises and who maximises.

    Parameters
    ----------
    field : VelocityField
    interpolant : Interpolant
    time_law : TimeLaw
    base : Scaling
        What carries the points `x0` that it is given to base points, such as `LearnedGaussian`; the identity by default.
    """

    def __init__(self, field: VelocityField, interpolant: Interpolant, time_law: TimeLaw, base: Scaling | None = None) -> None:
        super().__init__()
        self.field = field
        self.interpolant = interpolant
        self.time_law = time_law
        self.base = base or Compose([])

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Loss of each pair at a random time.

        Parameters
        ----------
        x0, x1 : Tensors of shape (B, D); their rows must be in random order, because times are sorted over the batch

        Returns
        -------
        Tensor of shape (B,)
        """
        n_rows = len(x1)
        per_time = math.gcd(n_rows, _MAX_ROWS_PER_TIME)
        n_times = n_rows // per_time
        t = self.time_law.quantile(stratified_uniform(n_times, x1.device)).to(x1.dtype)
        groups = (n_times, per_time, *x1.shape[1:])
        x0 = self.base(x0)
        return velocity_loss(self.field, self.interpolant, t[:, None], x0.reshape(groups), x1.reshape(groups)).flatten()


class DistillationObjective(nn.Module):
    r"""The module that is trained to follow a given field in value and divergence.

    .. math:: |\hat v_t(x) - v_t(x)|^2 + w\, (\nabla\cdot\hat v_t(x) - \nabla\cdot v_t(x))^2

    The targets carry no noise.  The divergence is what the log-density integrates, and a small error of the values does not bound
    that of their derivatives.

    Parameters
    ----------
    field : VelocityField, the student, of one or two hidden layers
    divergence_weight : float, the `w` above
    """

    def __init__(self, field: VelocityField, divergence_weight: float) -> None:
        super().__init__()
        self.field = field
        self.divergence_weight = divergence_weight

    def forward(self, t: Tensor, x: Tensor, v: Tensor, divergence: Tensor) -> Tensor:
        """Loss of each point.

        Parameters
        ----------
        t : Tensor of shape (B,), or (K, 1) for K times shared by rows in K groups
        x, v : Tensors of shape (B, D), or (K, B / K, D): points and the teacher's velocity there
        divergence : Tensor of shape (B,), or (K, B / K): the teacher's

        Returns
        -------
        Tensor of the shape of `divergence`
        """
        value, trace = self.field.value_and_divergence(t, x)
        return (value - v).square().sum(-1) + self.divergence_weight * (trace - divergence).square()


class Ensemble(nn.Module):
    """Objectives of equal shape trained side by side as one module, at little more than the cost of one when they are small.

    Their parameters are stacked along a leading axis and the forward pass is mapped over it.

    Parameters
    ----------
    objectives : sequence of nn.Module with ``forward(x0, x1) -> loss per row``, alike but for their parameters
    """

    def __init__(self, objectives: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = torch.func.stack_module_state(list(objectives))
        self.names = tuple(stacked)
        self.stacked = nn.ParameterList(stacked.values())
        self._skeleton = (copy.deepcopy(objectives[0]),)  # in a tuple, so that its parameters are not this module's

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Loss of each pair: `x0` and `x1` of shape (K, B, D) give shape (K, B)."""

        def loss(parameters: tuple[Tensor, ...], x0: Tensor, x1: Tensor) -> Tensor:
            return torch.func.functional_call(self._skeleton[0], dict(zip(self.names, parameters, strict=True)), (x0, x1))

        return torch.func.vmap(loss, randomness="different")(tuple(self.stacked), x0, x1)

    def objectives(self) -> list[nn.Module]:
        """Independent copies of the objectives with their present parameters."""
        members = [copy.deepcopy(self._skeleton[0]) for _ in range(len(self.stacked[0]))]
        for k, member in enumerate(members):
            member.load_state_dict({name: stack[k].detach() for name, stack in zip(self.names, self.stacked, strict=True)})
        return members
