r"""Integration of ``dX/dt = v_t(X)``: accurate row by row.

torchdiffeq does the stepping.  Its adaptive methods share one step size over the batch, so a row's result would depend on its
neighbours; its fixed-grid methods take the grid as given and keep rows apart.  Accuracy per row therefore comes from *refinement*:
every row is solved on a grid of ``n`` and of ``2 n`` steps, their difference estimates its error, and only the rows above tolerance go
on to ``4 n, 8 n, ...`` up to a bound.  Grids are uniform in ``u`` with ``t = 1 - u^2``: dense near the data, where the field is stiff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

FIXED_GRID_ORDERS = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}
"""Fixed-grid methods and their order of convergence: rows do not see each other."""

ADAPTIVE_METHODS = ("dopri5",)
"""Methods with an adaptive step, the same for all rows of a batch: paper 1 uses dopri5."""

_MAX_ADAPTIVE_STEPS = 10_000


class Solution(NamedTuple):
    """What a solve gives.

    Attributes
    ----------
    y : Tensor of shape (B, K), the final states
    error : Tensor of shape (B,), estimated absolute error of what is measured, per row; NaN for adaptive methods, which estimate none
    unresolved : bool Tensor of shape (B,), rows whose estimate stayed above the tolerance
    """

    y: Tensor
    error: Tensor
    unresolved: Tensor


@dataclass(frozen=True)
class Solver:
    """How an ODE is solved, and how accurately.

    Parameters
    ----------
    method : key of `FIXED_GRID_ORDERS` or one of `ADAPTIVE_METHODS`
    atol, rtol : float, not negative, not both zero
        A row is accepted when the estimated error of what is measured is at most ``atol + rtol * |value|``.
        Adaptive methods use them as the tolerances of their local error.
    n_steps : int, steps of the coarsest grid
    max_refinements : int, how often the number of steps may be doubled
    """

    method: str = "rk4"
    atol: float = 1e-3
    rtol: float = 1e-5
    n_steps: int = 8
    max_refinements: int = 6

    def __post_init__(self) -> None:
        if self.method not in FIXED_GRID_ORDERS and self.method not in ADAPTIVE_METHODS:
            known = ", ".join(map(repr, [*FIXED_GRID_ORDERS, *ADAPTIVE_METHODS]))
            raise ValueError(f"Unknown solver {self.method!r}; choose one of {known}.")
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise ValueError(
                f"The tolerances must not be negative and not both be zero, got atol={self.atol!r} and rtol={self.rtol!r}; "
                "try atol=1e-3, rtol=1e-5."
            )

    def solve(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        y0: Tensor,
        t0: float,
        t1: float,
        measure: Callable[[Tensor], Tensor] = lambda y: y,
    ) -> Solution:
        """Solve ``dy/dt = f(t, y)`` from `t0` to `t1`, forward or backward.

        Parameters
        ----------
        f : callable, ``f(t, y)`` with scalar `t` and `y` of shape (B, K), acting on each row alone
        y0 : Tensor of shape (B, K)
        t0, t1 : float, times in [0, 1]
        measure : callable, states (B, K) to the quantities (B, Q) whose error is to be below the tolerance; all of the state by default

        Returns
        -------
        Solution

        Raises
        ------
        FloatingPointError
            If the derivative is not finite, with the time and the number of rows.
        """
        if t0 == t1 or len(y0) == 0:
            return Solution(y0, y0.new_zeros(len(y0)), y0.new_zeros(len(y0), dtype=torch.bool))
        checked = _checked(f)
        if self.method in ADAPTIVE_METHODS:
            return self._adaptive(checked, y0, t0, t1)
        return self._refined(checked, y0, t0, t1, measure)

    def _refined(
        self, f: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t0: float, t1: float, measure: Callable[[Tensor], Tensor]
    ) -> Solution:
        gain = 2.0 ** FIXED_GRID_ORDERS[self.method] - 1.0
        rounding = 32.0 * torch.finfo(y0.dtype).eps  # no grid is fine enough to get below this
        rows = torch.arange(len(y0), device=y0.device)
        solution = Solution(torch.empty_like(y0), y0.new_empty(len(y0)), torch.ones_like(rows, dtype=torch.bool))
        coarse = self._on_grid(f, y0, t0, t1, self.n_steps)
        for level in range(1, self.max_refinements + 1):
            fine = self._on_grid(f, y0[rows], t0, t1, self.n_steps * 2**level)
            extrapolated = fine + (fine - coarse) / gain  # Richardson
            value = measure(fine)
            error = (value - measure(coarse)).abs() / gain
            above = (error > self.atol + (self.rtol + rounding) * value.abs()).any(-1)
            solution.y[rows], solution.error[rows], solution.unresolved[rows] = extrapolated, error.amax(-1), above
            if not above.any():
                break
            rows, coarse = rows[above], fine[above]
        return solution

    def _on_grid(self, f: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t0: float, t1: float, n_steps: int) -> Tensor:
        grid = time_grid(t0, t1, n_steps).to(y0)
        return odeint(f, y0, grid[[0, -1]], method=self.method, options={"grid_constructor": lambda *_: grid})[-1]

    def _adaptive(self, f: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t0: float, t1: float) -> Solution:
        times = torch.tensor([t0, t1], dtype=y0.dtype, device=y0.device)
        try:
            y = odeint(f, y0, times, method=self.method, atol=self.atol, rtol=self.rtol, options={"max_num_steps": _MAX_ADAPTIVE_STEPS})[-1]
        except AssertionError as error:  # torchdiffeq reports a failed step size control by assert
            raise FloatingPointError(
                f"solver={self.method!r} gave up on {len(y0)} rows between t={t0:g} and t={t1:g} ({error}); "
                "raise atol, or use solver='rk4', whose work is bounded row by row."
            ) from error
        return Solution(y, torch.full_like(y[:, 0], torch.nan), torch.zeros_like(y[:, 0], dtype=torch.bool))


def time_grid(t0: float, t1: float, n_steps: int) -> Tensor:
    """``n_steps + 1`` times from `t0` to `t1`, uniform in ``u`` with ``t = 1 - u^2``: float64."""
    u = torch.linspace(math.sqrt(1.0 - t0), math.sqrt(1.0 - t1), n_steps + 1, dtype=torch.float64)
    grid = 1.0 - u**2
    grid[0], grid[-1] = t0, t1
    return grid


def _checked(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """`f`, raising at the first derivative that is not finite."""

    def evaluate(t: Tensor, y: Tensor) -> Tensor:
        dy = f(t, y)
        finite = torch.isfinite(dy).all(-1)
        if not finite.all():
            raise FloatingPointError(f"The velocity is not finite for {int((~finite).sum())} of {len(y)} rows at t={float(t):.4g}.")
        return dy

    return evaluate
