r"""Integration of ``dX/dt = v_t(X)``: accurate row by row.

torchdiffeq does the stepping. Its adaptive methods share one step size over the batch, so a row's
result would depend on its neighbours; its fixed-grid methods take the grid as given and keep rows
apart. Accuracy per row therefore comes from *refinement*: every row is solved on a grid of ``n``
and of ``2 n`` steps, their distance estimates its error, and only the rows above tolerance continue
to ``4 n, 8 n, ...`` up to a bound. For adaptive methods a tolerance and a tenth of it take the
place of ``n`` and ``2 n`` steps. Where the steps lie and how many a tolerance needs is measured
once, on representative rows (:func:`calibrate`); before that, grids are uniform in ``u`` with
``t = 1 - u^2``, dense near the data, where the field is stiff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

Derivative = Callable[[Tensor, Tensor], Tensor]

FIXED_GRID_ORDERS = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}
"""Fixed-grid methods and their order of convergence: rows do not see each other."""

ADAPTIVE_METHODS = ("dopri5",)
"""Methods with an adaptive step, the same for all rows of a batch: paper 1 uses dopri5."""

_FEWEST_ADAPTIVE_STEPS, _MAX_ADAPTIVE_STEPS = 8, 10_000
_TIGHTENING = 0.1
"""Tolerance of a step of an adaptive method, relative to that of the solve before."""
_MAX_TIGHTENINGS = 4
_UNCALIBRATED_STEPS = 8
_STEP_COUNTS = (2, 4, 8)
_N_STRETCHES = 8
_COVERAGE = 0.95
_FINEST_STEPS = 512
"""Steps of the finest grid that a calibrated solver uses."""
_LEAST_TOLERANCE = torch.finfo(torch.float64).eps
"""Below it no number of float64 near one differs from the next."""


class Solution(NamedTuple):
    """What a solve gives.

    Attributes
    ----------
    y : Tensor of shape (B, K), the final states
    error : Tensor of shape (B,), estimated Euclidean error of the state, per row
    unresolved : bool Tensor of shape (B,), rows whose estimate stayed above the tolerance

    Examples
    --------
    The estimated error is no smaller than the true one.

    >>> import math, torch
    >>> from skinterflow.interflow import Solver
    >>> solution = Solver().solve(lambda t, y: -y, torch.ones(1, 1), 0.0, 1.0)
    >>> abs(float(solution.y) - math.exp(-1.0)) <= float(solution.error) <= 1e-3
    True
    >>> solution.unresolved
    tensor([False])
    """

    y: Tensor
    error: Tensor
    unresolved: Tensor


@dataclass(frozen=True)
class Solver:
    r"""How an ODE is solved, and how accurately.

    The error of a row, on the finer of two grids, is estimated by ``|y_2n - y_n| / sqrt(2)`` (by
    twice that for Euler's method).  Where the steps are small this is cautious by the order of the
    method; on coarse grids :func:`calibrate` finds how cautious one has to be.

    An adaptive method takes steps whose local error is within the tolerance *for every row* that is
    solved together, so that the rows share the steps of the most difficult one, and then again with
    a tenth of the tolerance; half of the distance of both solutions estimates the error of the
    second.  Rows above the tolerance are solved with a tenth of that, up to four times in all.

    Parameters
    ----------
    method : key of `FIXED_GRID_ORDERS` or one of `ADAPTIVE_METHODS`
    atol, rtol : float, not negative, not both zero
        A row is accepted when the estimated error of its state
        `y` is at most ``atol + rtol * |y|``.
    n_steps : int, steps of the coarsest grid
    max_refinements : int, how often the number of steps may be doubled
    nodes : tuple of increasing float from 0 to 1, or None
        Times that cut [0, 1] into stretches which get equally many steps.  None is dense near 1, as
        ``t = 1 - u^2``.
    caution : tuple of float
        Factors on the estimated errors of the first comparisons, that of the grids of `n_steps` and
        twice as many steps, and so on; 1 from there.

    Raises
    ------
    ValueError
        If the method is unknown, a tolerance is negative or both are zero, or the nodes do not
        increase from 0 to 1.

    Examples
    --------
    A row's result does not depend on the other rows, which may take more steps.

    >>> import torch
    >>> from skinterflow.interflow import Solver
    >>> solver, y0 = Solver(atol=1e-6), torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    >>> both, alone = (
    ...     solver.solve(lambda t, y: -(y**2), start, 0.0, 1.0).y for start in (y0, y0[:1])
    ... )
    >>> torch.allclose(both, y0 / (1.0 + y0), atol=1e-6), torch.equal(both[:1], alone)
    (True, True)
    """

    method: str = "rk4"
    atol: float = 1e-3
    rtol: float = 1e-5
    n_steps: int = _UNCALIBRATED_STEPS
    max_refinements: int = 6
    nodes: tuple[float, ...] | None = None
    caution: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in FIXED_GRID_ORDERS and self.method not in ADAPTIVE_METHODS:
            known = ", ".join(map(repr, [*FIXED_GRID_ORDERS, *ADAPTIVE_METHODS]))
            raise ValueError(f"Unknown solver {self.method!r}; choose one of {known}.")
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise ValueError(
                f"The tolerances must not be negative and not both be zero, got atol={self.atol!r} "
                f"and rtol={self.rtol!r}; try atol=1e-2, rtol=1e-5."
            )
        if self.atol + self.rtol < _LEAST_TOLERANCE:
            raise ValueError(
                f"atol={self.atol!r} with rtol={self.rtol!r} is below the precision of float64 "
                f"({_LEAST_TOLERANCE:.1e}); no step is that accurate.  Set atol to 1e-10 or more."
            )
        if self.nodes is not None:
            increasing = all(a < b for a, b in zip(self.nodes, self.nodes[1:], strict=False))
            if not (
                increasing and len(self.nodes) >= 2 and self.nodes[0] == 0 and self.nodes[-1] == 1
            ):
                raise ValueError(
                    f"The nodes of a time grid must increase from 0 to 1, got {self.nodes!r}; sort "
                    "them and add the ends."
                )

    def solve(self, f: Derivative, y0: Tensor, t0: float, t1: float) -> Solution:
        """Solve ``dy/dt = f(t, y)`` from `t0` to `t1`, forward or backward.

        Parameters
        ----------
        f : callable, ``f(t, y)`` with scalar `t` and `y` of shape (B, K), acting on each row alone
        y0 : Tensor of shape (B, K)
        t0, t1 : float, times in [0, 1]

        Returns
        -------
        Solution

        Raises
        ------
        FloatingPointError
            If the derivative is not finite, with the time and the number of rows.
        """
        if t0 == t1 or len(y0) == 0:
            return Solution(y0, _rounding_error(y0), y0.new_zeros(len(y0), dtype=torch.bool))
        return self._refined(_checked(f), y0, t0, t1)

    def on_grid(self, f: Derivative, y0: Tensor, t0: float, t1: float, n_steps: int) -> Tensor:
        """Final states on one grid of `n_steps` steps: shape (B, K)."""
        grid = time_grid(t0, t1, n_steps, self.nodes).to(y0)
        return odeint(
            f, y0, grid[[0, -1]], method=self.method, options={"grid_constructor": lambda *_: grid}
        )[-1]

    def tolerance(self, y: Tensor) -> Tensor:
        """Error that is accepted of states `y`, shape (B, K): shape (B,)."""
        return self.atol + self.rtol * y.norm(dim=-1)

    def truncation_error(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Estimated error of states on the finer of two grids of `n` and `2 n` steps, or by two
        tolerances: shape (B,)."""
        if self.method in ADAPTIVE_METHODS:
            return 0.5 * (fine - coarse).norm(dim=-1)
        asymptotic = 1.0 / (2.0 ** FIXED_GRID_ORDERS[self.method] - 1.0)
        return max(0.5, asymptotic) * math.sqrt(2.0) * (fine - coarse).norm(dim=-1)

    def _refined(self, f: Derivative, y0: Tensor, t0: float, t1: float) -> Solution:
        rows = torch.arange(len(y0), device=y0.device)
        coarse = self._at_level(f, y0, t0, t1, 0)
        solution = Solution(
            coarse.clone(),
            torch.full_like(coarse[:, 0], math.inf),
            torch.ones_like(rows, dtype=torch.bool),
        )
        for level in range(1, self._max_level() + 1):
            try:
                fine = self._at_level(f, y0[rows], t0, t1, level)
            except _TooManySteps:
                break  # these rows are left unresolved
            caution = self.caution[level - 1] if level <= len(self.caution) else 1.0
            truncation, rounding = (
                caution * self.truncation_error(coarse, fine),
                _rounding_error(fine),
            )
            tolerance = self.tolerance(fine)
            solution.y[rows], solution.error[rows] = fine, truncation + rounding
            solution.unresolved[rows] = truncation + rounding > tolerance
            above = truncation > torch.maximum(
                tolerance - rounding, rounding
            )  # no grid is fine enough to get below the rounding
            if not above.any():
                break
            rows, coarse = rows[above], fine[above]
        return solution

    def _max_level(self) -> int:
        return (
            min(self.max_refinements, _MAX_TIGHTENINGS)
            if self.method in ADAPTIVE_METHODS
            else self.max_refinements
        )

    def _at_level(self, f: Derivative, y0: Tensor, t0: float, t1: float, level: int) -> Tensor:
        """Final states after so many refinements."""
        if self.method in ADAPTIVE_METHODS:
            return self._adaptive(f, y0, t0, t1, level)
        return self.on_grid(f, y0, t0, t1, self.n_steps * 2**level)

    def _adaptive(self, f: Derivative, y0: Tensor, t0: float, t1: float, level: int) -> Tensor:
        """Final states by steps whose local error is within the tolerances of this level, for every
        row.

        Steps are also bounded, by half as much at each level: two solves with the same steps would
        have the same error, and their difference would not show it.
        """
        times = torch.tensor([t0, t1], dtype=y0.dtype, device=y0.device)
        scale, largest = _TIGHTENING**level, abs(t1 - t0) / (_FEWEST_ADAPTIVE_STEPS * 2**level)
        options = {
            "max_num_steps": _MAX_ADAPTIVE_STEPS,
            "max_step": largest,
            "norm": _largest_norm_of_a_row,
        }
        try:
            return odeint(
                f,
                y0,
                times,
                method=self.method,
                atol=scale * self.atol,
                rtol=scale * self.rtol,
                options=options,
            )[-1]
        except AssertionError as error:  # torchdiffeq reports a failed step size control by assert
            raise _TooManySteps(
                f"solver={self.method!r} gave up on {len(y0)} rows between t={t0:g} and t={t1:g} "
                f"({error}); raise atol, or use solver='rk4', whose work is bounded row by row."
            ) from error


class _TooManySteps(FloatingPointError):
    """An adaptive method needs more steps than are allowed, or steps smaller than the dtype has."""


def _largest_norm_of_a_row(errors: Tensor) -> Tensor:
    """What steps are controlled by: torchdiffeq's mean over all rows hides the error of one among
    many."""
    return errors.norm(dim=-1).max()


@dataclass(frozen=True)
class Calibration:
    """What solving representative rows taught about a field: where the steps belong, and how many a
    tolerance needs.

    Attributes
    ----------
    method : key of `FIXED_GRID_ORDERS`
    nodes : tuple of float, see `Solver`
    caution : tuple of N float
        Factors by which the estimates of `_STEP_COUNTS` must grow to bound the error for 95 rows in
        100.
    errors : Tensor of shape (N, B)
        Estimated error on the grids of twice `_STEP_COUNTS` steps, per row, with that factor.
    sizes : Tensor of shape (B,), Euclidean norm of the final states

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import calibrate
    >>> calibration = calibrate(
    ...     lambda t, y: -2.0 * y, torch.ones(10, 1, dtype=torch.float64), 1.0, 0.0
    ... )
    >>> calibration.nodes[0], calibration.nodes[-1]
    (0.0, 1.0)
    >>> calibration.errors.shape, calibration.sizes.shape
    (torch.Size([3, 10]), torch.Size([10]))
    """

    method: str
    nodes: tuple[float, ...]
    caution: tuple[float, ...]
    errors: Tensor
    sizes: Tensor

    def solver(self, atol: float, rtol: float) -> Solver:
        """The solver that does the least work for these tolerances on rows like those of the
        calibration."""
        above = self.errors > atol + rtol * self.sizes
        fraction = dict(zip(_STEP_COUNTS, above.double().mean(dim=1).tolist(), strict=True))

        def work(n_steps: int) -> float:
            """Expected steps per row, from this coarsest grid through its refinements."""
            total, reached, steps = float(n_steps), 1.0, n_steps
            while steps in fraction and reached > 0:
                total += 2 * steps * reached
                reached = min(reached, fraction[steps])
                steps *= 2
            return total + 2 * steps * reached

        n_steps = min(_STEP_COUNTS, key=work)
        caution = self.caution[_STEP_COUNTS.index(n_steps) :]
        return Solver(
            self.method,
            atol,
            rtol,
            n_steps,
            round(math.log2(_FINEST_STEPS / n_steps)),
            self.nodes,
            caution,
        )


@torch.no_grad()
def calibrate(f: Derivative, y0: Tensor, t0: float, t1: float, method: str = "rk4") -> Calibration:
    """Solve rows on many grids, to learn where the steps belong and how many a tolerance needs.

    Steps are spread so that each carries the same error: their density goes with the local error
    per unit of ``u`` to the power of ``1 / (order + 1)``, averaged over the rows.

    Parameters
    ----------
    f, y0, t0, t1 : as for :meth:`Solver.solve`
    method : key of `FIXED_GRID_ORDERS`

    Returns
    -------
    Calibration

    Examples
    --------
    A tighter tolerance takes more steps.

    >>> import torch
    >>> from skinterflow.interflow import calibrate
    >>> calibration = calibrate(
    ...     lambda t, y: -2.0 * y, torch.ones(10, 1, dtype=torch.float64), 1.0, 0.0
    ... )
    >>> [calibration.solver(atol=atol, rtol=0.0).n_steps for atol in (1e-1, 1e-6)]
    [2, 8]
    """
    nodes = _equal_error_nodes(f, y0, t0, t1, method)
    solver = Solver(method, nodes=nodes)
    solutions = {
        n: solver.on_grid(f, y0, t0, t1, n)
        for n in sorted({*_STEP_COUNTS, *(2 * n for n in _STEP_COUNTS)})
    }
    finest = solutions[2 * _STEP_COUNTS[-1]]
    errors = torch.stack(
        [solver.truncation_error(solutions[n], solutions[2 * n]) for n in _STEP_COUNTS]
    )
    true_errors = torch.stack([(finest - solutions[2 * n]).norm(dim=-1) for n in _STEP_COUNTS])
    ratios = true_errors / errors.clamp(min=torch.finfo(errors.dtype).tiny)
    caution = ratios.double().quantile(_COVERAGE, dim=1).clamp(min=1.0)
    errors = caution[:, None].to(errors) * errors
    return Calibration(
        method, nodes, tuple(caution.tolist()), errors.cpu(), finest.norm(dim=-1).cpu()
    )


def _equal_error_nodes(
    f: Derivative, y0: Tensor, t0: float, t1: float, method: str
) -> tuple[float, ...]:
    grid, solver, local = time_grid(t0, t1, _N_STRETCHES), Solver(method), []
    y = y0
    for start, end in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        coarse = solver.on_grid(f, y, start, end, 1)
        y = solver.on_grid(f, y, start, end, 2)
        local.append(solver.truncation_error(coarse, y).double().mean().cpu())
    density = torch.stack(local).clamp(min=torch.finfo(y0.dtype).eps) ** (
        1.0 / (FIXED_GRID_ORDERS[method] + 1)
    )
    cumulated = torch.cat([density.new_zeros(1), density.cumsum(0)]) / density.sum()
    u = _interpolate(
        torch.linspace(0.0, 1.0, _N_STRETCHES + 1, dtype=torch.float64),
        cumulated,
        (1.0 - grid).sqrt(),
    )
    # The ends exactly; what lies outside of [t0, t1] is never solved, and is one more stretch.
    return tuple(sorted({0.0, 1.0, t0, t1, *(1.0 - u[1:-1] ** 2).tolist()}))


def time_grid(t0: float, t1: float, n_steps: int, nodes: tuple[float, ...] | None = None) -> Tensor:
    """Times of the steps from `t0` to `t1`, equally many steps between one of the nodes and the
    next.

    Parameters
    ----------
    t0, t1 : float, times in [0, 1], in either order
    n_steps : int, at least 1
    nodes : tuple of increasing float from 0 to 1, or None, see `Solver`

    Returns
    -------
    Tensor of shape (n_steps + 1,), float64

    Examples
    --------
    Without nodes ``t = 1 - u^2``, dense near the data.

    >>> from skinterflow.interflow.ode import time_grid
    >>> time_grid(0.0, 1.0, n_steps=4).tolist()
    [0.0, 0.4375, 0.75, 0.9375, 1.0]
    >>> time_grid(0.0, 1.0, n_steps=4, nodes=(0.0, 0.75, 1.0)).tolist()
    [0.0, 0.4375, 0.75, 0.9375, 1.0]
    """
    u_nodes = (1.0 - torch.tensor(nodes or (0.0, 1.0), dtype=torch.float64)).sqrt().flip(0)
    clock = torch.linspace(0.0, 1.0, len(u_nodes), dtype=torch.float64)
    ends = _interpolate((1.0 - torch.tensor([t0, t1], dtype=torch.float64)).sqrt(), u_nodes, clock)
    u = _interpolate(
        torch.linspace(float(ends[0]), float(ends[1]), n_steps + 1, dtype=torch.float64),
        clock,
        u_nodes,
    )
    grid = 1.0 - u**2
    grid[0], grid[-1] = t0, t1
    return grid


def _interpolate(x: Tensor, xp: Tensor, fp: Tensor) -> Tensor:
    """Piecewise linear function through the points `(xp, fp)`, `xp` increasing, at `x`."""
    right = torch.searchsorted(xp, x.contiguous()).clamp(1, len(xp) - 1)
    x0, x1, f0, f1 = xp[right - 1], xp[right], fp[right - 1], fp[right]
    return f0 + (f1 - f0) * (x - x0) / (x1 - x0)


def _rounding_error(y: Tensor) -> Tensor:
    """What the dtype itself may cost states `y`: shape (B,)."""
    return 32.0 * torch.finfo(y.dtype).eps * y.norm(dim=-1)


def _checked(f: Derivative) -> Derivative:
    """`f`, raising at the first derivative that is not finite."""

    def evaluate(t: Tensor, y: Tensor) -> Tensor:
        dy = f(t, y)
        if not math.isfinite(
            float(dy.sum())
        ):  # one pass; the rows are looked at only when there is something to say
            finite = torch.isfinite(dy).all(-1)
            if not finite.all():
                raise FloatingPointError(
                    f"The velocity is not finite for {int((~finite).sum())} of {len(y)} rows at "
                    f"t={float(t):.4g}."
                )
        return dy

    return evaluate
