"""A fitted model on one device and in one precision: what the estimators ask it, in the units of
their rows.

Rows come and go as float64; the flow between the two scalings works in its own precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor

from skinterflow.interflow.derivatives import directional_derivative
from skinterflow.interflow.flows import Diffusion, Flow, Measured, Pushforward
from skinterflow.interflow.ode import Solution
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.sde import NoiseLevel, StochasticSolver


@dataclass(frozen=True)
class FittedFlow:
    """A flow between the units of its source, at time 0, and those of its target.

    Parameters
    ----------
    flow : Flow
    quantities : LearnedQuantities of the path that the field was trained on
        Its base is None where the source is no Gaussian.
    source : Scaling, float64: rows of the source, or standard normal latents, to flow units
    target : Scaling, float64: rows of the target to flow units
    dtype : torch.dtype of the flow
    """

    flow: Flow
    quantities: LearnedQuantities
    source: Scaling
    target: Scaling
    dtype: torch.dtype

    def push(self, z: Tensor, t: float) -> Measured:
        """Rows of the source, carried to time `t`, in units of the target; the error is in flow
        units."""
        u, error, unresolved = self.flow.transport(self.source(z).to(self.dtype), 0.0, t)
        return Measured(self.target.inverse(u.double()), error, unresolved)

    def pull(self, x: Tensor, t: float) -> Measured:
        """Rows in units of the target at time `t`, carried to the source."""
        u, error, unresolved = self.flow.transport(self.target(x).to(self.dtype), t, 0.0)
        return Measured(self.source.inverse(u.double()), error, unresolved)

    def push_log_det(self, z: Tensor, t: float) -> Measured:
        """``log |det|`` of the map from rows of the source to those at time `t`."""
        u, log_det = self._split(
            self.flow.transport_with_logdet(self.source(z).to(self.dtype), 0.0, t)
        )
        x = self.target.inverse(u.double())
        return log_det._replace(
            value=self.source.log_abs_det(z) + log_det.value - self.target.log_abs_det(x)
        )

    def pull_log_det(self, x: Tensor, t: float) -> Measured:
        """``log |det|`` of the map from rows at time `t` to those of the source."""
        u, log_det = self._split(
            self.flow.transport_with_logdet(self.target(x).to(self.dtype), t, 0.0)
        )
        z = self.source.inverse(u.double())
        return log_det._replace(
            value=self.target.log_abs_det(x) + log_det.value - self.source.log_abs_det(z)
        )

    def log_prob(self, x: Tensor, t: float) -> Measured:
        """Log-density at time `t`, per unit of the target, where the source is standard normal."""
        measured = self._density().measured_log_prob(self.target(x).to(self.dtype), t)
        return measured._replace(value=measured.value + self.target.log_abs_det(x))

    def score(self, x: Tensor, t: float) -> Measured:
        """Gradient of :meth:`log_prob` at time `t`, per unit of the target, carried along the
        flow."""
        return self._in_units(x, self._density().score(self.target(x).to(self.dtype), t))

    def path_score(self, x: Tensor, t: float) -> Measured:
        """Score of the path at time `t`, per unit of the target: the learned one, or that which
        follows from the drift."""
        self.quantities.check_score()
        self.quantities.check_gain(t)
        u = self.target(x).to(self.dtype)
        return self._in_units(
            x,
            without_error(
                self.quantities.score(torch.tensor(t, dtype=self.dtype, device=u.device), u)
            ),
        )

    def _in_units(self, x: Tensor, measured: Measured) -> Measured:
        """Scores at rows `x` in units of the target, from those in flow units."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            total = (self.target(x) * measured.value.double()).sum() + self.target.log_abs_det(
                x
            ).sum()
            return measured._replace(value=torch.autograd.grad(total, x)[0])

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Velocity of the flow, the drift, at time `t`, in units of the target per unit of time."""
        u = self.target(x)
        v = self.flow.field(torch.tensor(t, dtype=self.dtype, device=u.device), u.to(self.dtype))
        return directional_derivative(self.target.inverse, u, v.double())[1]

    def trajectory(self, x: Tensor, times: Sequence[float]) -> Measured:
        """Positions, shape (B, len(times), D), of rows that are at `x` at ``times[0]``, in units of
        the target; errors add up."""
        u, error, unresolved = (
            self.target(x).to(self.dtype),
            x.new_zeros(len(x)),
            torch.zeros(len(x), dtype=torch.bool, device=x.device),
        )
        positions = [x]
        for t0, t1 in itertools.pairwise(times):
            step = self.flow.transport(u, t0, t1)
            u, error, unresolved = step.y, error + step.error, unresolved | step.unresolved
            positions.append(self.target.inverse(u.double()))
        return Measured(torch.stack(positions, dim=1), error, unresolved)

    def diffuse(
        self,
        z: Tensor,
        t: float,
        epsilon: NoiseLevel,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> Tensor:
        """Rows of the source, carried to time `t` by the diffusion of noise level `epsilon`, in
        units of the target."""
        u = Diffusion(self.quantities, epsilon).push(
            self.source(z).to(self.dtype), 0.0, t, solver, generator
        )
        return self.target.inverse(u.double())

    def diffuse_back(
        self,
        x: Tensor,
        t: float,
        epsilon: NoiseLevel,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> Tensor:
        """Rows in units of the target at time `t`, carried to the source by the backward
        diffusion."""
        u = Diffusion(self.quantities, epsilon).push(
            self.target(x).to(self.dtype), t, 0.0, solver, generator
        )
        return self.source.inverse(u.double())

    def _density(self) -> Pushforward:
        return Pushforward(self.flow, self.quantities.base)

    def _split(self, solution: Solution) -> tuple[Tensor, Measured]:
        u, log_det, standard_error = self.flow.split(solution.y)
        return u, Measured(log_det, solution.error + standard_error, solution.unresolved)


def without_error(value: Tensor) -> Measured:
    """What needs no solve, shape (B, ...)."""
    return Measured(
        value,
        value.new_zeros(len(value)),
        torch.zeros(len(value), dtype=torch.bool, device=value.device),
    )


_Result = TypeVar("_Result")


_BLOCK_ROWS = 2**14
"""Rows that are scored at a time: the bound on the memory of a prediction.  Many, because the few
that need many steps hold up all."""


def map_blocks(
    work: Callable[[torch.Tensor], _Result],
    X: NDArray[Any],
    device: torch.device,
    n_jobs: int | None,
) -> list[_Result]:
    """Results of `work` on the rows of `X`, a block at a time as float64 tensors on the device,
    without gradients.

    With several jobs, blocks are worked on side by side, by one thread each; thread counts outside
    stay as they are.
    """

    def run(start: int, n_threads: int | None) -> _Result:
        if n_threads is not None:
            torch.set_num_threads(n_threads)  # of this worker thread, which ends with the call
        with torch.no_grad():  # which is a thread's own, too
            return work(
                torch.from_numpy(np.array(X[start : start + _BLOCK_ROWS], dtype=np.float64)).to(
                    device
                )
            )

    starts = range(0, len(X), _BLOCK_ROWS)
    if effective_n_jobs(n_jobs) == 1 or len(starts) == 1:
        return [run(start, None) for start in starts]
    n_threads = min(effective_n_jobs(n_jobs), len(starts))
    return Parallel(n_jobs=n_threads, backend="threading")(
        delayed(run)(start, 1) for start in starts
    )
