r"""Conditional flows: a velocity field ``v_t(y | x)`` of outputs `y`, given a context `x`.

A *trunk* on the context is computed once for each row.  It modulates a small *head* on the time and
the outputs, which the solver evaluates many times:

.. math::
    h \leftarrow h + a\big(s_l(t, x) \circ (W_l h + b_l) + c_l(t, x)\big), \qquad
    v_t(y | x) = W_{out} h + b_{out} + g(t, x)\, y

with scales, shifts and a gain that are sums of a part from the trunk and a part from a network on
the time.  The context is bound before the integration, so that the solver knows only ``f(t, y)``.

The conditional velocity is the minimiser of the same quadratic loss as the joint one, with the
context as a further argument (:class:`ConditionalObjective`).  Rows of a conditional objective hold
the outputs, followed by the context.

For one output the flow is monotone, and ``P(Y <= y | x) = Phi(z)`` with the latent `z` of `y`:
density, distribution function and quantiles all follow from single solves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from skinterflow.interflow.fields import ACTIVATIONS, VelocityField, linear, time_features
from skinterflow.interflow.flows import standard_normal_log_prob
from skinterflow.interflow.interpolants import Interpolant
from skinterflow.interflow.noise import StochasticInterpolant
from skinterflow.interflow.objectives import PathObjective
from skinterflow.interflow.ode import Solver
from skinterflow.interflow.times import TimeLaw, stratified_uniform

_TIME_WIDTH = 64
_TIMES_PER_ROW = 8
"""Times at which the head is trained for each row of a step: the trunk is computed once for all."""
_MAX_ROWS_PER_GROUP = 16
"""Consecutive rows that share their times, so that the time network has few inputs."""
_COARSEST_STEPS = 6
_STEPS_WITHOUT_ESTIMATE = 9
_MAX_REFINEMENTS = 5
_N_PROBES, _COARSEST_TABLE_STEPS, _MAX_TABLE_REFINEMENTS = 8, 4, 8
"""Cells between the points that set the steps of a table, the smallest number of steps, and how
often it is doubled at most."""
_ROUNDING_ERRORS = 4.0
"""Rounding errors of one unit that the steps of a solver amount to."""
_LEAST_WEIGHT = 0.002
"""Weight of the errors of the rarest base points that are carried."""
_BLOCK_POINTS = 2**12
"""Points that are carried at a time, the bound on memory."""


class ConditionalMLP(VelocityField):
    """A field on rows of outputs and context that moves the outputs and keeps the context.

    Parameters
    ----------
    n_outputs : int, number k of outputs, the first columns of a row
    n_context : int, number d of columns of the context, which follow
    trunk_layer_sizes : sequence of positive int, widths of the network on the context
    hidden_layer_sizes : sequence of positive int, widths of the head
    dropout : float in [0, 1), fraction of the trunk's activations that training drops
    activation : key of `ACTIVATIONS`
    generator : torch.Generator or None
        Draws the initial weights, on the CPU; None is torch's global random state.

    Examples
    --------
    The untrained field is zero.  Bound to a context, it is a field of the outputs alone.

    >>> import torch
    >>> from skinterflow.interflow import ConditionalMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ConditionalMLP(1, 3, trunk_layer_sizes=(8, 8), hidden_layer_sizes=(4,))
    >>> bound = field.bind(torch.ones(5, 3))
    >>> bound(torch.tensor(0.5), torch.ones(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        n_outputs: int,
        n_context: int,
        trunk_layer_sizes: Sequence[int] = (128,) * 5,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        dropout: float = 0.1,
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.n_context = n_context
        self.n_features = n_outputs + n_context
        self.trunk_layer_sizes = tuple(trunk_layer_sizes)
        self.hidden_layer_sizes = tuple(hidden_layer_sizes)
        self.dropout = dropout
        self.activation = activation
        trunk, head = (n_context, *trunk_layer_sizes), (n_outputs, *hidden_layer_sizes)
        n_modulations = 2 * sum(hidden_layer_sizes) + 1
        self.trunk = nn.ModuleList(linear(a, b, generator) for a, b in itertools.pairwise(trunk))
        self.modulation = linear(trunk[-1], n_modulations, generator)
        self.time = nn.Sequential(
            linear(time_features(torch.zeros(())).shape[-1], _TIME_WIDTH, generator),
            nn.SiLU(),
            linear(_TIME_WIDTH, n_modulations, generator),
        )
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in itertools.pairwise(head))
        self.out = linear(head[-1], n_outputs, generator)
        for layer in (self.out, self.modulation, cast(nn.Linear, self.time[-1])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.modulation.bias[: sum(hidden_layer_sizes)])  # the scales

    def modulations(self, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """Part of the modulations that follows from the context.

        Parameters
        ----------
        context : Tensor of shape (..., d)
        keep : Tensor of shape (..., sum of the trunk's widths), or None
            Factors on the activations of the trunk: see :meth:`draw_keep`.

        Returns
        -------
        Tensor of shape (..., M)
        """
        activate, h = ACTIVATIONS[self.activation].value, context
        factors = (
            [None] * len(self.trunk) if keep is None else keep.split(self.trunk_layer_sizes, -1)
        )
        for layer, factor in zip(self.trunk, factors, strict=True):
            a = activate(layer(h))
            residual = a.shape[-1] == h.shape[-1] and layer is not self.trunk[0]
            if residual:
                a = h + (a if factor is None else a * factor)
            h = a
        return cast(Tensor, self.modulation(h))

    def draw_keep(
        self, n_rows: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Tensor:
        """Factors of a dropout: zero, or ``1 / (1 - dropout)``.

        Parameters
        ----------
        n_rows : int, number B of rows
        device : torch.device
        generator : torch.Generator on the device, or None for torch's global random state

        Returns
        -------
        Tensor of shape (B, sum of the trunk's widths)
        """
        shape = n_rows, sum(self.trunk_layer_sizes)
        kept = torch.rand(shape, generator=generator, device=device) >= self.dropout
        return kept / (1.0 - self.dropout)

    def bind(self, context: Tensor) -> BoundField:
        """The field of the outputs, given the context of each row, shape (B, d)."""
        return BoundField(self, self.modulations(context))

    def time_modulations(self, t: Tensor) -> Tensor:
        """Part of the modulations that follows from times of any shape: ``t.shape + (M,)``."""
        return cast(Tensor, self.time(time_features(t.to(self.out.weight.dtype))))

    def velocity(self, y: Tensor, modulations: Tensor) -> Tensor:
        """Velocity of the outputs.

        Parameters
        ----------
        y : Tensor of shape (..., k)
        modulations : Tensor of shape (..., M)
            Sum of the parts of context and time; the leading axes broadcast with those of `y`.

        Returns
        -------
        Tensor of the shape of `y`
        """
        scales, shifts, gain = self._split(modulations)
        activate, h = ACTIVATIONS[self.activation].value, y
        for index, (layer, scale, shift) in enumerate(
            zip(self.layers, scales, shifts, strict=True)
        ):
            a = activate(torch.addcmul(shift, layer(h), scale))
            h = h + a if self._is_residual(index) else a
        return torch.addcmul(self.out(h), gain, y)

    def velocity_and_divergence(self, y: Tensor, modulations: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`velocity`, with the exact divergence, of the leading shape of `y`."""
        scales, shifts, gain = self._split(modulations)
        with_slope, h = ACTIVATIONS[self.activation].with_slope, y
        tangents: list[Tensor] = []
        for index, (layer, scale, shift) in enumerate(
            zip(self.layers, scales, shifts, strict=True)
        ):
            a, slope = with_slope(torch.addcmul(shift, layer(h), scale))
            weight, slope = cast(nn.Linear, layer).weight, slope * scale
            residual = self._is_residual(index)
            if not index:
                tangents = [slope * weight[:, j] for j in range(self.n_outputs)]
            elif residual:
                tangents = [torch.addcmul(v, v @ weight.T, slope) for v in tangents]
            else:
                tangents = [(v @ weight.T) * slope for v in tangents]
            h = h + a if residual else a
        parts = [v @ self.out.weight[j] for j, v in enumerate(tangents)]
        divergence = torch.stack(parts).sum(0) + self.n_outputs * gain[..., 0]
        return torch.addcmul(self.out(h), gain, y), divergence

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        y, context = self._parts(x)
        modulations = self.modulations(context) + self.time_modulations(t)
        return torch.cat([self.velocity(y, modulations), torch.zeros_like(context)], dim=-1)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        y, context = self._parts(x)
        modulations = self.modulations(context) + self.time_modulations(t)
        velocity, divergence = self.velocity_and_divergence(y, modulations)
        return torch.cat([velocity, torch.zeros_like(context)], dim=-1), divergence

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and context of rows."""
        return x[..., : self.n_outputs], x[..., self.n_outputs :]

    def _is_residual(self, index: int) -> bool:
        return index > 0 and self.hidden_layer_sizes[index] == self.hidden_layer_sizes[index - 1]

    def _split(self, modulations: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor]:
        """Scale and shift of every layer of the head, and the gain."""
        *parts, gain = modulations.split([*self.hidden_layer_sizes * 2, 1], dim=-1)
        n_layers = len(self.layers)
        return parts[:n_layers], parts[n_layers:], gain


class BoundField(VelocityField):
    """A conditional field whose context is fixed: a field of the outputs alone.

    Row `i` of the points belongs to row `i` of the context.

    Parameters
    ----------
    field : ConditionalMLP
    modulations : Tensor of shape (B, M), of the context, see :meth:`ConditionalMLP.modulations`

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import ConditionalMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ConditionalMLP(2, 3, trunk_layer_sizes=(8,), hidden_layer_sizes=(4,))
    >>> bound = field.bind(torch.zeros(5, 3))
    >>> bound.n_features, bound.value_and_divergence(torch.tensor(0.5), torch.ones(5, 2))[1].shape
    (2, torch.Size([5]))
    """

    def __init__(self, field: ConditionalMLP, modulations: Tensor) -> None:
        super().__init__()
        self.field = field
        self.modulations = modulations
        self.n_features = field.n_outputs

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field.velocity(x, self._modulations(t))

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.field.velocity_and_divergence(x, self._modulations(t))

    def _modulations(self, t: Tensor) -> Tensor:
        return self.modulations + self.field.time_modulations(t)


class ConditionalObjective(PathObjective):
    """:class:`PathObjective` of the outputs, given the context.

    Each row is trained at several times, because the trunk is computed once for all of them.

    Parameters
    ----------
    field : ConditionalMLP
    path : StochasticInterpolant, or Interpolant, without a noise term
    time_law : TimeLaw

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Beta, ConditionalMLP, ConditionalObjective, Trigonometric
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ConditionalMLP(1, 3, trunk_layer_sizes=(8,), hidden_layer_sizes=(4,))
    ...     objective = ConditionalObjective(field, Trigonometric(), Beta(1.0, 0.5))
    ...     x0 = torch.randn(64, objective.n_source_columns)
    ...     loss = objective(x0, torch.ones(64, 4))
    >>> loss.shape
    torch.Size([64])
    """

    n_times = _TIMES_PER_ROW
    field: ConditionalMLP

    def __init__(
        self,
        field: ConditionalMLP,
        path: StochasticInterpolant | Interpolant,
        time_law: TimeLaw,
    ) -> None:
        super().__init__(field, path, time_law)

    @property
    def n_source_columns(self) -> int:
        """Normal numbers that each row of a batch takes: a base point for each of its times."""
        return self.n_times * self.field.n_outputs

    def draw(self, x1: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Draw times and a dropout for a batch.

        Parameters
        ----------
        x1 : Tensor of shape (B, k + d)
        generator : torch.Generator on the device of `x1`, or None for torch's global random state

        Returns
        -------
        t : Tensor of shape (G, R), for R times of G groups of rows; G divides B
        keep : Tensor of shape (B, sum of the trunk's widths)
        """
        n_groups = len(x1) // math.gcd(len(x1), _MAX_ROWS_PER_GROUP)
        u = stratified_uniform(_TIMES_PER_ROW * n_groups, x1.device, generator)
        t = self.time_law.quantile(u).to(x1.dtype).reshape(_TIMES_PER_ROW, n_groups).T
        return t, self.field.draw_keep(len(x1), x1.device, generator)

    def forward(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """Loss of each row, the mean over its times.

        Parameters
        ----------
        x0 : Tensor of shape (B, R k), R standard normal base points for each row
        x1 : Tensor of shape (B, k + d), outputs and context, in random order
        t, z : Tensors, times and dropout of :meth:`draw`, which draws them if `t` is None

        Returns
        -------
        Tensor of shape (B,)
        """
        if t is None:
            return self(x0, x1, *self.draw(x1))
        k, groups = self.field.n_outputs, (len(t), len(x1) // len(t))
        modulations = self.field.modulations(x1[:, k:], z).reshape(*groups, 1, -1)
        x0 = x0.reshape(*groups, -1, k)
        y = x1[:, :k].reshape(*groups, 1, k).expand_as(x0)
        yt, targets = self.path.regression(("b",), t[:, None], x0, y, None)
        v = self.field.velocity(yt, modulations + self.field.time_modulations(t[:, None]))
        return (v * (v - 2.0 * targets["b"])).sum(-1).mean(-1).flatten()

    def density(  # type: ignore[override]
        self, solver: Solver | None = None, end_time: float = 1.0
    ) -> ConditionalFlow:
        """Conditional density of the flow of the field, from the base to the end time."""
        return ConditionalFlow(self.field, end_time, math.inf)


class FlowTable(NamedTuple):
    """Points of one output that a conditional flow has carried, of many rows.

    Attributes
    ----------
    y : Tensor of shape (B, R)
    n_steps : Tensor of shape (B,), steps of the solver for each row
    error : Tensor of shape (B,)
        Estimated error of the distribution function, the largest of the points of a row.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import ConditionalFlow, ConditionalMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ConditionalMLP(1, 2, trunk_layer_sizes=(8,), hidden_layer_sizes=(4,))
    >>> table = ConditionalFlow(field).table(torch.ones(5, 2), torch.linspace(-4.0, 4.0, 17))
    >>> table.y.shape
    torch.Size([5, 17])
    """

    y: Tensor
    n_steps: Tensor
    error: Tensor

    def rows(self, index: Tensor) -> FlowTable:
        """The rows with these numbers, or where this mask is true."""
        return FlowTable(*(part[index] for part in self))


class Carried(NamedTuple):
    """Points that a conditional flow has carried.

    Attributes
    ----------
    y : Tensor of shape (B, R, k)
    log_det : Tensor of shape (B, R), logarithm of the determinant of the map
    error : Tensor of shape (B,)
        Estimated error, the largest of the points of a row: of the log-density and the points or,
        without log-determinants, of the points, weighted by the density of their base points.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import ConditionalFlow, ConditionalMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     field = ConditionalMLP(1, 2, trunk_layer_sizes=(8,), hidden_layer_sizes=(4,))
    >>> carried = ConditionalFlow(field).pull(torch.zeros(3, 2), torch.ones(3, 4, 1))
    >>> carried.y.shape, carried.log_det.shape, carried.error.shape
    (torch.Size([3, 4, 1]), torch.Size([3, 4]), torch.Size([3]))
    """

    y: Tensor
    log_det: Tensor
    error: Tensor


class ConditionalFlow:
    """The flow of a conditional field, and the density that it pushes forward.

    Every row has its own context and any number of points.  Rows are solved by Runge and Kutta's
    fourth-order method on grids of `n` and ``2 n`` steps, whose distance estimates the error; only
    rows above the tolerance continue to ``4 n, 8 n, ...`` steps, so that no row depends on others.

    Parameters
    ----------
    field : ConditionalMLP
    end_time : float in [0, 1]
    atol : float
        Accepted error of a row; if infinite, rows are solved in nine steps, without an estimate.

    Examples
    --------
    The flow of an untrained field is the identity, and its density is the standard normal.

    >>> import torch
    >>> from skinterflow.interflow import ConditionalFlow, ConditionalMLP
    >>> with torch.random.fork_rng(devices=[]):
    ...     flow = ConditionalFlow(ConditionalMLP(1, 2, (8,), (4,)))
    >>> rows = torch.tensor([[1.0, 0.3, 0.7]])  # an output and two columns of context
    >>> round(float(flow.log_prob(rows)), 4)
    -1.4189
    """

    def __init__(self, field: ConditionalMLP, end_time: float = 1.0, atol: float = 1e-3) -> None:
        self.field = field
        self.end_time = end_time
        self.atol = atol

    def push(self, context: Tensor, z: Tensor) -> Carried:
        """Carry base points to the end time.

        Parameters
        ----------
        context : Tensor of shape (B, d)
        z : Tensor of shape (B, R, k)

        Returns
        -------
        Carried, without log-determinants, which are zero
        """
        return self._carried(context, z, 0.0, self.end_time, with_log_det=False)

    @torch.no_grad()
    def table(self, context: Tensor, z: Tensor, coarse: FlowTable | None = None) -> FlowTable:
        """Carry many points of one output, of which some set the steps of their row.

        Here `atol` is the accepted error of the distribution function, a probability.

        Parameters
        ----------
        context : Tensor of shape (B, d)
        z : Tensor of shape (R,)
            Base points of all rows, in order; R is 1 more than a multiple of 8.
        coarse : FlowTable or None
            The table of every second point; only those between are then carried.

        Returns
        -------
        FlowTable of `z`
        """
        modulations = self.field.modulations(context)
        stride = 2 if coarse else (len(z) - 1) // _N_PROBES
        known = coarse or self._probes(modulations, z[::stride])
        y = z.expand(len(context), -1).clone()
        y[:, ::stride] = known.y
        between = torch.arange(len(z), device=z.device) % stride > 0
        for n_steps in known.n_steps.unique().tolist():
            rows = (known.n_steps == n_steps).nonzero()[:, 0]
            for part in rows.split(max(1, _BLOCK_POINTS // len(z))):
                points = z[between].expand(len(part), -1)[..., None]
                carried, _ = self._on_grid(
                    modulations[part], points, 0.0, self.end_time, n_steps, False
                )
                y[part[:, None], between.nonzero()[:, 0]] = carried[..., 0]
        return known._replace(y=y)

    def _probes(self, modulations: Tensor, z: Tensor) -> FlowTable:
        """Table of few points, with as many steps as each row needs."""
        parts = [
            self._refined_probes(part, z.expand(len(part), -1)[..., None])
            for part in modulations.split(_BLOCK_POINTS // len(z))
        ]
        y, n_steps, error = (torch.cat(part) for part in zip(*parts, strict=True))
        return FlowTable(y[..., 0], n_steps, error)

    def _refined_probes(self, modulations: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Carry points with as many steps as each row needs for an accurate distribution function.

        Returns the points, and the number of steps and the error of each row, both of shape (B,).
        """
        rows, n_steps = torch.arange(len(z), device=z.device), _COARSEST_TABLE_STEPS
        end, _ = self._on_grid(modulations, z, 0.0, self.end_time, n_steps, False)
        steps, error = torch.full_like(rows, n_steps), torch.full_like(z[:, 0, 0], math.inf)
        for _ in range(_MAX_TABLE_REFINEMENTS):
            n_steps *= 2
            fine, _ = self._on_grid(modulations[rows], z[rows], 0.0, self.end_time, n_steps, False)
            # A tenth instead of the asymptotic 1/15: the grids are coarse.
            error[rows] = 0.1 * _probability_distance(z[rows], end[rows], fine)
            end[rows], steps[rows] = fine, n_steps
            rows = rows[~(error[rows] <= self.atol)]
            if not len(rows):
                break
        return end, steps, error

    def pull(self, context: Tensor, y: Tensor) -> Carried:
        """Carry points at the end time back to the base.

        Parameters
        ----------
        context : Tensor of shape (B, d)
        y : Tensor of shape (B, R, k)

        Returns
        -------
        Carried
        """
        return self._carried(context, y, self.end_time, 0.0, with_log_det=True)

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density of the outputs given the context, for rows of both, (B, k + d): (B,)."""
        k = self.field.n_outputs
        carried = self.pull(rows[:, k:], rows[:, None, :k])
        return (standard_normal_log_prob(carried.y) + carried.log_det)[:, 0]

    @torch.no_grad()
    def log_prob_at(self, rows: Tensor, t: Tensor) -> Tensor:
        """:meth:`log_prob` of rows, each under the flow that ends at its own time, shape (B,)."""
        value = torch.empty_like(rows[:, 0])
        for time in t.unique().tolist():
            stopped = ConditionalFlow(self.field, time, self.atol)
            value[t == time] = stopped.log_prob(rows[t == time])
        return value

    @torch.no_grad()
    def _carried(
        self, context: Tensor, y: Tensor, t0: float, t1: float, with_log_det: bool
    ) -> Carried:
        n_rows = max(1, _BLOCK_POINTS // y.shape[1])
        parts = [
            self._refined(self.field.modulations(c), points, t0, t1, with_log_det)[0]
            for c, points in zip(context.split(n_rows), y.split(n_rows), strict=True)
        ]
        return Carried(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _refined(
        self, modulations: Tensor, y: Tensor, t0: float, t1: float, with_log_det: bool
    ) -> tuple[Carried, Tensor]:
        """Carry points on finer and finer grids, until the error of each row is accepted.

        Also returns the number of steps of each row, shape (B,).
        """
        n_steps = _COARSEST_STEPS if math.isfinite(self.atol) else _STEPS_WITHOUT_ESTIMATE
        end, log_det = self._on_grid(modulations, y, t0, t1, n_steps, with_log_det)
        error = torch.full_like(end[:, 0, 0], math.inf)
        if math.isinf(self.atol) or not len(y) or t0 == t1:
            error = error if t0 != t1 else torch.zeros_like(error)
            return Carried(end, log_det, error), torch.full_like(error, n_steps).long()
        rows = torch.arange(len(y), device=y.device)
        steps = torch.full_like(rows, n_steps)
        for _ in range(_MAX_REFINEMENTS):
            n_steps *= 2
            fine, fine_log_det = self._on_grid(
                modulations[rows], y[rows], t0, t1, n_steps, with_log_det
            )
            if with_log_det:
                distance = _density_distance(fine, end[rows], fine_log_det - log_det[rows])
            else:
                distance = _distance(y[rows], fine - end[rows])
            # Half instead of the asymptotic 1/15: the grids are coarse.
            error[rows] = 0.5 * distance
            end[rows], log_det[rows], steps[rows] = fine, fine_log_det, n_steps
            rows = rows[~(error[rows] <= self.atol)]
            if not len(rows):
                break
        return Carried(end, log_det, error), steps

    def _on_grid(
        self,
        modulations: Tensor,
        y: Tensor,
        t0: float,
        t1: float,
        n_steps: int,
        with_log_det: bool,
    ) -> tuple[Tensor, Tensor]:
        """Points and log-determinants after `n_steps` steps."""
        modulations, log_det = modulations[:, None], torch.zeros_like(y[..., 0])
        grid = _grid(t0, t1, n_steps)
        # All rows share the times, of the ends and the middles of steps.
        of_times = self.field.time_modulations(torch.tensor(grid, dtype=y.dtype, device=y.device))
        zero = torch.zeros_like(log_det)

        def f(place: int, y: Tensor) -> tuple[Tensor, Tensor]:
            given = modulations + of_times[place]
            if with_log_det:
                return self.field.velocity_and_divergence(y, given)
            return self.field.velocity(y, given), zero

        for step in range(n_steps):
            a = 2 * step
            h = grid[a + 2] - grid[a]
            k1, d1 = f(a, y)
            k2, d2 = f(a + 1, y + 0.5 * h * k1)
            k3, d3 = f(a + 1, y + 0.5 * h * k2)
            k4, d4 = f(a + 2, y + h * k3)
            y = y + h / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)
            log_det = log_det + h / 6.0 * (d1 + 2.0 * (d2 + d3) + d4)
        return y, log_det


def _grid(t0: float, t1: float, n_steps: int) -> list[float]:
    """Ends and middles of `n_steps` steps, which are short near t = 1, where the field is stiff."""
    u0, u1 = (1.0 - math.sqrt(1.0 - t) for t in (t0, t1))
    inner = [1.0 - (1.0 - (u0 + (u1 - u0) * j / n_steps)) ** 2 for j in range(1, n_steps)]
    nodes = [t0, *inner, t1]
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(nodes)]
    return [t for pair in zip(nodes, middles, strict=False) for t in pair] + [t1]


def _distance(z: Tensor, change: Tensor) -> Tensor:
    """Largest change of the points of each row, shape (B,): rare base points count less."""
    weight = torch.exp(-0.5 * z.square().sum(-1)).clamp(min=_LEAST_WEIGHT)
    return (weight * change.norm(dim=-1)).amax(dim=-1)


def _probability_distance(z: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Largest change of the distribution function at points of each row, with rounding: (B,).

    Infinite if the points of a row do not increase.  Rare base points count as if they were not
    quite as rare.

    Parameters
    ----------
    z, coarse, fine : Tensors of shape (B, R, 1), in the order of `z`
    """
    slopes = fine[..., 0].diff(dim=-1) / z[..., 0].diff(dim=-1)
    slope = torch.minimum(
        torch.cat([slopes[:, :1], slopes], dim=-1), torch.cat([slopes, slopes[:, -1:]], dim=-1)
    )
    rounding = _ROUNDING_ERRORS * torch.finfo(z.dtype).eps * fine.abs()
    change = ((fine - coarse).abs() + rounding)[..., 0] / slope
    density = torch.exp(-0.5 * z[..., 0].square()).clamp(min=_LEAST_WEIGHT)
    error = density / math.sqrt(2.0 * math.pi) * change
    return torch.where((slope > 0).all(dim=-1), error.amax(dim=-1), math.inf)


def _density_distance(fine: Tensor, coarse: Tensor, log_det_change: Tensor) -> Tensor:
    """Largest change of the points and log-densities of each row, shape (B,)."""
    change = standard_normal_log_prob(fine) - standard_normal_log_prob(coarse) + log_det_change
    return torch.maximum((fine - coarse).norm(dim=-1), change.abs()).amax(dim=-1)
