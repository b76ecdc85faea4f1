r"""The flow ``X_t`` of a velocity field and the density that it pushes forward.

``dX_t/dt = v_t(X_t)`` carries ``rho_0`` to ``rho_t`` (paper 1, equation 2), and along it (appendix A)

.. math:: \log\rho_t(x) = \log\rho_0(X_{t\to 0}(x)) - \int_0^t \nabla\cdot v_\tau(X_{t\to\tau}(x))\, d\tau .

A flow may stop before ``t = 1``: its end time plays the part of a bandwidth, from the base at 0 to the full flow at 1.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate


class AccuracyWarning(UserWarning):
    """Some rows were left with an estimated error above the tolerance."""


class Measured(NamedTuple):
    """A value per row with its estimated absolute error, shape (B,), and whether the solver's stayed above the tolerance, shape (B,)."""

    value: Tensor
    error: Tensor
    unresolved: Tensor


def warn_unresolved(n_unresolved: int, n_rows: int, solver: Solver) -> None:
    """Warn, once and with the count, if rows were left above the tolerance."""
    if n_unresolved:
        warnings.warn(
            f"{n_unresolved} of {n_rows} rows were left with an estimated error above atol={solver.atol:g}, rtol={solver.rtol:g} after "
            f"{solver.n_steps * 2**solver.max_refinements} steps; they may be far outside the data. Raise atol to accept them.",
            AccuracyWarning,
            stacklevel=3,
        )


class Flow:
    """The map ``X_t`` from base points to points at time `t`, and its inverse.

    Parameters
    ----------
    field : VelocityField
    solver : Solver
    end_time : float in [0, 1], where the flow stops
    """

    def __init__(self, field: VelocityField, solver: Solver = Solver(), end_time: float = 1.0) -> None:
        self.field = field
        self.solver = solver
        self.end_time = end_time

    def push(self, x0: Tensor) -> Tensor:
        """Carry base points, shape (B, D), to the end time."""
        return self._warned(self.transport(x0, 0.0, self.end_time)).y

    def pull(self, x1: Tensor) -> Tensor:
        """Carry points at the end time, shape (B, D), back to the base."""
        return self._warned(self.transport(x1, self.end_time, 0.0)).y

    def pull_and_logdet(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Base points, shape (B, D), and ``log |det dX_0/dX_1|``, shape (B,)."""
        return self.split(self._warned(self.transport_with_logdet(x1, self.end_time, 0.0)).y)[:2]

    def trajectory(self, x: Tensor, times: Sequence[float]) -> Tensor:
        """Positions, shape (len(times), B, D), at the given times of points `x` that are at ``times[0]``."""
        points = [x]
        for t0, t1 in itertools.pairwise(times):
            points.append(self._warned(self.transport(points[-1], t0, t1)).y)
        return torch.stack(points)

    @torch.no_grad()
    def transport(self, x: Tensor, t0: float, t1: float) -> Solution:
        """Carry points, shape (B, D), from time `t0` to `t1`; the error is that of the coordinates."""
        return self.solver.solve(self.field, x, t0, t1)

    @torch.no_grad()
    def transport_with_logdet(self, x: Tensor, t0: float, t1: float) -> Solution:
        """As :meth:`transport`, with ``log |det dX_t1/dX_t0|`` beside the points, which is part of the error: see :meth:`split`."""
        return self.solver.solve(self._velocity_and_divergence, self._with_logdet(x), t0, t1)

    def split(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, shape (B, D), log-determinants, shape (B,), and the standard error of the latter.

        It is zero where the divergence is exact, and NaN where there is one estimate only.
        """
        x, estimates = y.tensor_split([self.field.n_features], dim=1)
        log_det, n = estimates.mean(dim=1), self.field.n_estimates
        if n is None:
            return x, log_det, torch.zeros_like(log_det)
        deviation = (estimates - log_det[:, None]).square().sum(dim=1) / (n - 1) if n > 1 else torch.full_like(log_det, torch.nan)
        return x, log_det, (deviation / n).sqrt()

    def calibrate(self, x1: Tensor, method: str = "rk4") -> Calibration:
        """Learn from representative points at the end time, shape (B, D), how to solve for others: see :func:`ode.calibrate`."""
        return calibrate(self._velocity_and_divergence, self._with_logdet(x1), self.end_time, 0.0, method)

    def _velocity_and_divergence(self, t: Tensor, y: Tensor) -> Tensor:
        v, divergence = self.field.value_and_divergence(t, y[:, : self.field.n_features])
        return torch.cat([v, divergence.reshape(len(v), -1)], dim=1)

    def _with_logdet(self, x: Tensor) -> Tensor:
        """Points beside their log-determinants, which start at zero: one column, or one for each estimate."""
        return torch.cat([x, x.new_zeros(len(x), self.field.n_estimates or 1)], dim=1)

    def _warned(self, solution: Solution) -> Solution:
        warn_unresolved(int(solution.unresolved.sum()), len(solution.y), self.solver)
        return solution


class Pushforward:
    """The density of ``X_t`` when ``X_0`` is standard normal.

    Parameters
    ----------
    flow : Flow
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def log_prob(self, x: Tensor, t: float | None = None) -> Tensor:
        """Log-density of the flow at time `t` (its end time by default) at points `x`, shape (B, D): shape (B,), nats."""
        measured = self.measured_log_prob(x, t)
        warn_unresolved(int(measured.unresolved.sum()), len(x), self.flow.solver)
        return measured.value

    def measured_log_prob(self, x: Tensor, t: float | None = None) -> Measured:
        """As :meth:`log_prob`, with the estimated error of every row and no warning."""
        t = self.flow.end_time if t is None else t
        y, error, unresolved = self.flow.transport_with_logdet(x, t, 0.0)
        x0, log_det, standard_error = self.flow.split(y)
        return Measured(standard_normal_log_prob(x0) + log_det, error + standard_error, unresolved)

    @torch.no_grad()
    def log_prob_at(self, x: Tensor, t: Tensor) -> Tensor:
        """Log-density at points `x`, shape (B, D), each under the flow stopped at its own time `t`, shape (B,), in one solve."""

        def velocity_and_divergence(s: Tensor, y: Tensor) -> Tensor:
            end = y[:, -1:]  # a row carries its end time with it, and clock s = 1 is that time
            v, divergence = self.flow.field.value_and_divergence(end[:, 0] * s, y[:, :-2])
            return torch.cat([end * v, end * divergence[:, None], torch.zeros_like(end)], dim=1)

        y0 = torch.cat([x, x.new_zeros(len(x), 1), t[:, None].to(x)], dim=1)
        y = self.flow.solver.solve(velocity_and_divergence, y0, 1.0, 0.0).y
        return standard_normal_log_prob(y[:, :-2]) + y[:, -2]

    def sample(self, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw `n` points at the end time: shape (n, D)."""
        return self.flow.push(torch.randn(n, self.flow.field.n_features, device=device, dtype=dtype))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of N(0, I) at `z`, shape (B, D): shape (B,)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2.0 * math.pi))
