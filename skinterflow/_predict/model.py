"""FlowModel: a fitted model on one device and in one precision, which answers every prediction.

Rows enter and leave as float64, in the units of the user; the flow between the two scalings works
in its own precision.  Many rows are answered in blocks, so that memory is bounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor

from skinterflow._data.columns import Columns
from skinterflow.interflow.derivatives import directional_derivative
from skinterflow.interflow.flows import Diffusion, Flow, Measured, Pushforward, warn_unresolved
from skinterflow.interflow.ode import Solution
from skinterflow.interflow.quantities import LearnedQuantities
from skinterflow.interflow.scaling import Scaling
from skinterflow.interflow.sde import NoiseLevel, StochasticSolver

Question = Callable[..., Measured]
"""A method of :class:`FlowModel` that takes rows, and maybe a time."""

_BLOCK_ROWS = 2**14
"""Rows that are answered together: the bound on memory.  Many, because the few rows that need many
steps hold up the others of their block."""

_FARTHEST = {torch.float64: 1e100, torch.float32: 1e12}
"""Distance from the centre, in units of the flow, beyond which the arithmetic of a flow of that
precision may overflow."""


@dataclass(frozen=True)
class FlowModel:
    """A flow between the units of its source, at time 0, and those of its target.

    Parameters
    ----------
    columns : Columns of the target
    flow : Flow
    quantities : LearnedQuantities of the path that the field was trained on
        Its base is None where the source is no Gaussian.
    source : Scaling, float64, from rows of the source, or standard normal latents, to flow units
    target : Scaling, float64, from rows of the target to flow units
    device : torch.device
    dtype : torch.dtype of the flow
    n_jobs : int or None, number of threads that answer blocks of rows
    """

    columns: Columns
    flow: Flow
    quantities: LearnedQuantities
    source: Scaling
    target: Scaling
    device: torch.device
    dtype: torch.dtype
    n_jobs: int | None = None

    def ask(
        self,
        question: Question,
        X: NDArray[Any],
        *arguments: Any,
        side: str = "target",
        refuse_far: bool = True,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Answers to a question about each row, and their errors, in the dtype of the rows.

        One warning counts all rows whose error is above the tolerance.

        Parameters
        ----------
        question : method of this class
        X : array of shape (n, D)
        *arguments : further arguments of the question
        side : {"source", "target"}, whose units the rows are in
        refuse_far : bool
            Raise for rows that are so far outside that the arithmetic overflows.  Otherwise their
            value is minus infinity, with an infinite error.

        Raises
        ------
        ValueError
            With the number of such rows.
        """
        blocks = [X[start : start + _BLOCK_ROWS] for start in range(0, len(X), _BLOCK_ROWS)]
        n_threads = min(effective_n_jobs(self.n_jobs), len(blocks))
        if n_threads == 1:
            parts = []
            for block in blocks:
                parts.append(self._answer(question, block, arguments, side))
        else:
            answer = delayed(_with_one_thread)
            tasks = (answer(self._answer, question, block, arguments, side) for block in blocks)
            parts = Parallel(n_jobs=n_threads, backend="threading")(tasks)
        columns = zip(*parts, strict=True)
        value, error, unresolved = (torch.cat(column).cpu().numpy() for column in columns)
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
    ) -> NDArray[np.float64]:
        """Rows that a diffusion carries: :meth:`diffuse` or :meth:`diffuse_back`.

        Parameters
        ----------
        question : method of this class
        X : array of shape (n, D)
        *arguments : time, noise level, solver and generator, which draws for one block after another
        side : {"source", "target"}, whose units the rows are in

        Raises
        ------
        ValueError
            If the score is not known, or rows are so far outside that the arithmetic overflows.
        """
        self.quantities.check_score()
        starts = range(0, len(X), _BLOCK_ROWS)
        with torch.no_grad():
            blocks = [self._tensor(X[start : start + _BLOCK_ROWS]) for start in starts]
            far = torch.cat([self._are_far(block, side) for block in blocks])
            _refuse_far(~far.cpu().numpy())
            parts = [question(self, block, *arguments) for block in blocks]
        carried: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
        _refuse_far(np.isfinite(carried))
        return carried

    def _answer(
        self, question: Question, X: NDArray[Any], arguments: Sequence[Any], side: str
    ) -> Measured:
        """Answers for one block; rows that are too far outside are not asked about."""
        with torch.no_grad():  # which each thread sets for itself
            x = self._tensor(X)
            far = self._are_far(x, side)
            if not far.any():
                return question(self, x, *arguments)
            # A point in the middle of the data takes their place, with numbers that can be used.
            middle = self._scaling(side).inverse(torch.zeros_like(x))
            near = torch.where(far[:, None], middle, x)
            value, error, unresolved = question(self, near, *arguments)
            value[far], error[far] = -torch.inf, torch.inf
            return Measured(value, error, unresolved | far)

    def _tensor(self, X: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(X, dtype=np.float64)).to(self.device)

    def _scaling(self, side: str) -> Scaling:
        return self.target if side == "target" else self.source

    def _are_far(self, x: Tensor, side: str) -> Tensor:
        """Rows too far outside for a flow of this precision, or without a place in its units."""
        return ~(self._scaling(side)(x).norm(dim=1) < _FARTHEST[self.dtype])

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

    def log_mass(self, x: Tensor, t: float) -> Measured:
        """:meth:`log_prob`, integrated over the cells of columns of whole numbers."""
        return self.columns.log_mass(lambda x: self.log_prob(x, t), x, self.flow.solver.tolerance)

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

    def velocity(self, x: Tensor, t: float) -> Measured:
        """Velocity of the flow, the drift, at time `t`, in units of the target per unit of time."""
        u = self.target(x)
        v = self.flow.field(torch.tensor(t, dtype=self.dtype, device=u.device), u.to(self.dtype))
        return without_error(directional_derivative(self.target.inverse, u, v.double())[1])

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


def _with_one_thread(work: Callable[..., Measured], *arguments: Any) -> Measured:
    """Run `work` with one thread of torch in this worker thread, which ends with the call."""
    torch.set_num_threads(1)
    return work(*arguments)


def _refuse_far(finite: NDArray[np.bool_]) -> None:
    """Raise a ValueError with the count of rows, of shape (n, ...), that are not all finite."""
    n_far = int((~finite.reshape(len(finite), -1).all(axis=1)).sum())
    if n_far:
        raise ValueError(
            f"{n_far} of {len(finite)} rows are so far outside the fitted data that the arithmetic "
            "of the flow overflows; drop those rows."
        )
