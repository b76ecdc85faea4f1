"""FlowModel: a fitted model on one device and in one precision, which computes all predictions.

Rows enter and leave as float64, in data units; the flow between the two scalings has its own
precision.  Rows are processed in blocks, so that memory is bounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.columns import Columns
from skinterflow._data.degenerate import row_blocks
from skinterflow._data.ranks import check_rows
from skinterflow.interflow import processes
from skinterflow.interflow.combined import CombinedDensity
from skinterflow.interflow.derivatives import directional_derivative
from skinterflow.interflow.flows import (
    Diffusion,
    Estimate,
    Flow,
    Pushforward,
    base_log_prob,
    denoise,
    warn_unresolved,
)
from skinterflow.interflow.likelihoods import LikelihoodErrors, likelihood_errors
from skinterflow.interflow.mixtures import NormalMixture
from skinterflow.interflow.ode import Solution
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.sde import NoiseLevel, StochasticSolver

Question = Callable[..., Estimate]
"""A method of :class:`FlowModel` that takes rows and further arguments such as a time."""

_BLOCK_ROWS, _BLOCK_NUMBERS = 2**14, 2**20
"""Largest numbers of rows and of entries of a block, the bound on memory.  Large, because all rows
of a block wait for the few that need many steps."""

_FARTHEST = {torch.float64: 1e100, torch.float32: 1e12}
"""Distance from the centre, in flow units, beyond which a flow of that precision may overflow."""


@dataclass(frozen=True)
class FlowModel:
    """A flow from the source, at time 0, to the target, with scalings to data units at both ends.

    Parameters
    ----------
    columns : Columns of the target
    flow : Flow
    quantities : LearnedQuantities
        Quantities of the path that the field was trained on; the base is None if the source is not
        Gaussian.
    source : Scaling, float64
        From rows of the source, or from standard normal latents, to flow units.
    target : Scaling, float64
        From rows of the target to flow units.
    device : torch.device
    dtype : torch.dtype of the flow
    n_jobs : int or None
        Number of threads that process blocks of rows.
    mixture : CombinedDensity or None
        Density of the model; None is that of the flow at its end time.
    """

    columns: Columns
    flow: Flow
    quantities: LearnedQuantities
    source: Scaling
    target: Scaling
    device: torch.device
    dtype: torch.dtype
    n_jobs: int | None = None
    mixture: CombinedDensity | None = None

    def ask(
        self,
        question: Question,
        X: NDArray[Any],
        *arguments: Any,
        side: str = "target",
        refuse_far: bool = True,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Evaluate a method of this class for each row, and return values and errors.

        Both have the dtype of the rows.  One warning counts all rows whose error is above the
        tolerance.  Within :func:`skinterflow.all_ranks`, each rank evaluates its share.

        Parameters
        ----------
        question : method of this class
        X : array of shape (n, D)
        *arguments : further arguments of the question
        side : {"source", "target"}
            Whose units the rows are in.
        refuse_far : bool
            Whether to raise for rows so far outside that the arithmetic overflows.  Otherwise their
            value is minus infinity, with an infinite error.

        Raises
        ------
        ValueError
            If there are such rows and `refuse_far` is true.
        """
        check_rows([X])
        own = processes.own_rows(len(X))
        n_rows = _block_rows(X)
        blocks = row_blocks(X, n_rows, own)
        n_blocks = -(-(own.stop - own.start) // n_rows)
        n_threads = min(effective_n_jobs(self.n_jobs), max(1, n_blocks))
        if n_threads == 1:
            parts = []
            for block in blocks:
                parts.append(self._answer(question, block, arguments, side))
        else:
            answer = delayed(_with_one_thread)
            tasks = (answer(self._answer, question, block, arguments, side) for block in blocks)
            parts = Parallel(n_jobs=n_threads, backend="threading")(tasks)
        columns = zip(*parts, strict=True)
        value, error, unresolved = (
            processes.gathered(torch.cat(column), len(X)).cpu().numpy() for column in columns
        )
        with np.errstate(over="ignore"):  # in float32
            value, error = value.astype(X.dtype), error.astype(X.dtype)
        if refuse_far:
            _refuse_far(np.isfinite(value))
        warn_unresolved(int(unresolved.sum()), len(X), self.flow.solver)
        return value, error

    def diffused(
        self,
        question: Callable[..., Tensor],
        X: NDArray[Any],
        *arguments: Any,
        side: str = "source",
        n_copies: int = 1,
        refuse_infinite: bool = True,
    ) -> NDArray[np.float64]:
        """Evaluate a method that carries rows by a diffusion, such as :meth:`diffuse`.

        Parameters
        ----------
        question : method of this class
        X : array of shape (n, D)
        *arguments : time, noise level, solver, generator
            The generator draws for one block after the other.
        side : {"source", "target"}
            Whose units the rows are in.
        n_copies : int
            Number of rows that the question makes of each one, for the bound on memory.
        refuse_infinite : bool
            Whether to raise for answers that are not finite.

        Raises
        ------
        ValueError
            If the score is not known, or rows are so far outside that the arithmetic overflows.
        """
        self.quantities.check_score()
        n_rows = max(1, _block_rows(X) // n_copies)
        with torch.no_grad():
            blocks = [self._tensor(block) for block in row_blocks(X, n_rows)]
            far = torch.cat([self._are_far(block, side) for block in blocks])
            _refuse_far(~far.cpu().numpy())
            parts = [question(self, block, *arguments) for block in blocks]
        carried: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
        if refuse_infinite:
            _refuse_far(np.isfinite(carried))
        return carried

    def _answer(
        self, question: Question, X: NDArray[Any], arguments: Sequence[Any], side: str
    ) -> Estimate:
        """Evaluate one block; rows that are too far outside get minus infinity."""
        with torch.no_grad():  # gradient mode is local to a thread, so each one sets it
            x = self._tensor(X)
            far = self._are_far(x, side)
            if not far.any():
                return question(self, x, *arguments)
            # Replaced by a point in the middle of the data, because one row that overflows would
            # make the adaptive steps of its whole block useless.
            scaling = self._scaling(side)
            middle = scaling.inverse(torch.zeros_like(scaling(x)))
            near = torch.where(far[:, None], middle, x)
            value, error, unresolved = question(self, near, *arguments)
            value[far], error[far] = -torch.inf, torch.inf
            return Estimate(value, error, unresolved | far)

    def _tensor(self, X: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(X, dtype=np.float64)).to(self.device)

    def _scaling(self, side: str) -> Scaling:
        return self.target if side == "target" else self.source

    def _are_far(self, x: Tensor, side: str) -> Tensor:
        """Rows that are too far outside for this precision, or not finite in flow units."""
        # "Not below" instead of "above": NaN must count as far.
        return are_far(self._scaling(side)(x), self.dtype)

    def push(self, z: Tensor, t: float) -> Estimate:
        """Carry rows of the source to time `t`, in target units; errors are in flow units."""
        u, error, unresolved = self.flow.transport(self.source(z).to(self.dtype), 0.0, t)
        return Estimate(self.target.inverse(u.double()), error, unresolved)

    def pull(self, x: Tensor, t: float) -> Estimate:
        """Carry rows at time `t`, in target units, to the source."""
        u, error, unresolved = self.flow.transport(self.target(x).to(self.dtype), t, 0.0)
        return Estimate(self.source.inverse(u.double()), error, unresolved)

    def push_log_det(self, z: Tensor, t: float) -> Estimate:
        """Return ``log |det|`` of the map from the source to time `t`, at rows of the source."""
        u, log_det = self._split(
            self.flow.transport_with_logdet(self.source(z).to(self.dtype), 0.0, t)
        )
        x = self.target.inverse(u.double())
        return log_det._replace(
            value=self.source.log_abs_det(z) + log_det.value - self.target.log_abs_det(x)
        )

    def pull_log_det(self, x: Tensor, t: float) -> Estimate:
        """Return ``log |det|`` of the map from time `t` to the source, at rows at time `t`."""
        u, log_det = self._split(
            self.flow.transport_with_logdet(self.target(x).to(self.dtype), t, 0.0)
        )
        z = self.source.inverse(u.double())
        return log_det._replace(
            value=self.target.log_abs_det(x) + log_det.value - self.source.log_abs_det(z)
        )

    def log_mass(self, x: Tensor, t: float | None) -> Estimate:
        """Return :meth:`log_prob` integrated over the cells of columns of whole numbers."""
        return self.columns.log_mass(lambda x: self.log_prob(x, t), x, self.flow.solver.tolerance)

    def log_prob(self, x: Tensor, t: float | None) -> Estimate:
        """Return the log-density at time `t`, in target units, for a Gaussian source.

        None is the density of the model.
        """
        measured = self._density(t).measured_log_prob(self.target(x).to(self.dtype))
        return measured._replace(value=measured.value + self.target.log_abs_det(x))

    def score(self, x: Tensor, t: float | None) -> Estimate:
        """Return the gradient of :meth:`log_prob` at time `t`, carried along the flow."""
        return self._in_units(x, self._density(t).score(self.target(x).to(self.dtype)))

    def from_normal(self, z: Tensor, component: int) -> Estimate:
        """Map standard normal points to a component of the Gaussian mixture, in target units."""
        normals = cast(NormalMixture, cast(CombinedDensity, self.mixture).normals)
        root = torch.linalg.cholesky(normals.covariances[component])
        return without_error(self.target.inverse(normals.means[component] + z @ root.T))

    def path_score(self, x: Tensor, t: float) -> Estimate:
        """Return the score of the path at time `t`: learned, or computed from the drift."""
        self.quantities.check_score()
        self.quantities.check_gain(t)
        u = self.target(x).to(self.dtype)
        return self._in_units(
            x,
            without_error(
                self.quantities.score(torch.tensor(t, dtype=self.dtype, device=u.device), u)
            ),
        )

    def _in_units(self, x: Tensor, measured: Estimate) -> Estimate:
        """Convert scores at rows `x` from flow units to target units.

        The chain rule: the gradient of ``target(x) @ score + log_abs_det(x)`` with fixed score.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            total = (self.target(x) * measured.value.double()).sum() + self.target.log_abs_det(
                x
            ).sum()
            return measured._replace(value=torch.autograd.grad(total, x)[0])

    def velocity(self, x: Tensor, t: float) -> Estimate:
        """Return the velocity at time `t`, in target units per unit of time."""
        u = self.target(x)
        v = self.flow.field(torch.tensor(t, dtype=self.dtype, device=u.device), u.to(self.dtype))
        return without_error(directional_derivative(self.target.inverse, u, v.double())[1])

    def trajectory(self, x: Tensor, times: Sequence[float]) -> Estimate:
        """Return the positions of rows at all times, in target units, shape (B, len(times), D).

        The rows are at `x` at ``times[0]``; the error is the sum over the intervals.
        """
        u, error = self.target(x).to(self.dtype), x.new_zeros(len(x))
        unresolved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        positions = [x]
        for t0, t1 in itertools.pairwise(times):
            step = self.flow.transport(u, t0, t1)
            u, error, unresolved = step.y, error + step.error, unresolved | step.unresolved
            positions.append(self.target.inverse(u.double()))
        return Estimate(torch.stack(positions, dim=1), error, unresolved)

    def source_trajectory(self, z: Tensor, times: Sequence[float]) -> Estimate:
        """Return the positions of rows of the source, as :meth:`trajectory` at any first time."""
        x = self.target.inverse(self.source(z))
        steps = times if times[0] == 0.0 else [0.0, *times]
        measured = self.trajectory(x, steps)
        return measured._replace(value=measured.value[:, len(steps) - len(times) :])

    def diffuse(
        self,
        z: Tensor,
        t: float,
        epsilon: NoiseLevel,
        solver: StochasticSolver,
        generator: torch.Generator,
        denoise_from: float | None = None,
    ) -> Tensor:
        """Carry rows of the source to time `t` by a diffusion, in target units.

        If `denoise_from` is given, it stops there, and the last step to time 1 is ``E[x1 | x_t]``.
        """
        u = Diffusion(self.quantities, epsilon).push(
            self.source(z).to(self.dtype), 0.0, t, solver, generator, denoise_from
        )
        return self.target.inverse(u.double())

    def denoise(self, z: Tensor, t: float, n_steps: int) -> Estimate:
        """Carry rows of the source to time `t` by the denoising integrator, in target units."""
        u = denoise(self.quantities, self.source(z).to(self.dtype), 0.0, t, n_steps)
        return without_error(self.target.inverse(u.double()))

    def diffuse_back(
        self,
        x: Tensor,
        t: float,
        epsilon: NoiseLevel,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> Tensor:
        """Carry rows at time `t`, in target units, to the source by the backward diffusion."""
        u = Diffusion(self.quantities, epsilon).push(
            self.target(x).to(self.dtype), t, 0.0, solver, generator
        )
        return self.source.inverse(u.double())

    def diffusion_log_prob(
        self,
        x: Tensor,
        t: float,
        start: float,
        epsilon: NoiseLevel,
        solver: StochasticSolver,
        generator: torch.Generator,
        n_paths: int,
        log_density: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return log-densities of a diffusion, their errors and lower bounds, shape (B, 3).

        From `start` 0, the source, the diffusion runs forward, and rows are in target units; from
        1, the target, it runs backward, and rows are in source units.  `log_density` is the
        log-density of rows at the start; None is that of the base.
        """
        here, there = (self.source, self.target) if start else (self.target, self.source)

        def at_start(u: Tensor) -> Tensor:
            if log_density is None:
                return base_log_prob(cast(Scaling, self.quantities.base), u)
            rows = there.inverse(u.double())
            return (log_density(rows) - there.log_abs_det(rows)).to(u)

        estimate = Diffusion(self.quantities, epsilon).path_estimate(
            here(x).to(self.dtype), t, start, at_start, n_paths, solver, generator
        )
        log_det = here.log_abs_det(x)
        columns = estimate.value + log_det, estimate.standard_error, estimate.lower_bound + log_det
        return torch.stack(columns, dim=1)

    def likelihood_errors(self, x0: Tensor, x1: Tensor, z: Tensor, t: float) -> LikelihoodErrors:
        """Return the terms of lemma 2.4 until time `t`, at pairs in flow units."""
        noise = None if self.quantities.path.gamma is None else z
        return likelihood_errors(
            self.quantities,
            Pushforward(self.flow, self.quantities.base),
            *(x0, x1, noise),
            end_time=t,
        )

    def _density(self, t: float | None) -> Pushforward | CombinedDensity:
        if t is None and self.mixture is not None:
            return self.mixture
        end_time = self.flow.end_time if t is None else t
        return Pushforward(Flow(self.flow.field, self.flow.solver, end_time), self.quantities.base)

    def _split(self, solution: Solution) -> tuple[Tensor, Estimate]:
        u, log_det, standard_error = self.flow.split(solution.y)
        return u, Estimate(log_det, solution.error + standard_error, solution.unresolved)


def are_far(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in flow units that are too far outside for a flow of this precision, shape (B,)."""
    return ~(u.norm(dim=1) < _FARTHEST[dtype])


def without_error(value: Tensor) -> Estimate:
    """Wrap values of shape (B, ...) that need no ODE solve, with an error of zero."""
    return Estimate(
        value,
        value.new_zeros(len(value)),
        torch.zeros(len(value), dtype=torch.bool, device=value.device),
    )


def _block_rows(X: NDArray[Any]) -> int:
    """Number of rows of a block."""
    return max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // max(1, X.shape[1])))


def _with_one_thread(work: Callable[..., Estimate], *arguments: Any) -> Estimate:
    """Run `work` with one torch thread in this worker thread, which ends with the call."""
    torch.set_num_threads(1)
    return work(*arguments)


def _refuse_far(finite: NDArray[np.bool_]) -> None:
    """Raise a ValueError with the number of rows, of shape (n, ...), that are not finite."""
    n_far = int((~finite.reshape(len(finite), -1).all(axis=1)).sum())
    if n_far:
        raise ValueError(
            f"{n_far} of {len(finite)} rows are so far outside the fitted data that the arithmetic "
            "of the flow overflows; drop those rows."
        )
