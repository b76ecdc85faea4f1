r"""The flow ``X_t`` of a velocity field and the density that it pushes forward.

``dX_t/dt = v_t(X_t)`` carries ``rho_0`` to ``rho_t`` (paper 1, equation 2), and along it (appendix
A)

.. math::

    \log\rho_t(x) = \log\rho_0(X_{t\to 0}(x))
        - \int_0^t \nabla\cdot v_\tau(X_{t\to\tau}(x))\, d\tau .

A flow may stop before ``t = 1``: its end time plays the part of a bandwidth, from the base at 0 to
the full flow at 1.

The score ``grad log rho_t`` belongs to both.  Along the flow it is carried by
``dS/dt = -(grad v)^T S - grad div v``, exactly and at every time (:meth:`Pushforward.score`).
Where it was learned, or follows from the drift, it costs one evaluation
(:class:`~skinterflow.interflow.quantities.LearnedQuantities`), and turns the flow into a diffusion:
forward or backward, with a noise level that is chosen after training, and with a density of its
own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from skinterflow.interflow.derivatives import directional_slopes
from skinterflow.interflow.fields import VelocityField
from skinterflow.interflow.grading import GradedSolver, Grading, grade
from skinterflow.interflow.interpolants import AffineInterpolant
from skinterflow.interflow.nested import Carried, Carrier
from skinterflow.interflow.ode import Calibration, Solution, Solver, calibrate
from skinterflow.interflow.quantities import Quantities
from skinterflow.interflow.scaling import Compose, Identity, Scaling
from skinterflow.interflow.sde import NoiseLevel, StochasticSolver
from skinterflow.interflow.trajectories import Clock
from skinterflow.interflow.warn import warn


class AccuracyWarning(UserWarning):
    """Some rows were left with an estimated error above the tolerance.

    Examples
    --------
    Six steps of Euler's method do not reach 1e-6.  A filter with "error" in place of "always" makes
    an error of it.

    >>> import warnings, torch
    >>> from skinterflow.interflow import AccuracyWarning, Flow, MixtureField, NormalMixture, Solver
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None])
    ... )
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always", AccuracyWarning)
    ...     x1 = Flow(field, Solver("euler", atol=1e-6, n_steps=3, max_refinements=1)).push(
    ...         torch.ones(5, 2)
    ...     )
    >>> print(caught[0].message)  # doctest: +ELLIPSIS
    5 of 5 rows were left with an estimated error above atol=1e-06, ...
    """


class Estimate(NamedTuple):
    """A number or vector per row, and how accurate it is.

    Attributes
    ----------
    value : Tensor of shape (B,) or (B, D)
    error : Tensor of shape (B,), estimated absolute error, in the units of the value
    unresolved : bool Tensor of shape (B,)
        Rows for which the solver's estimate stayed above the tolerance.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Flow, MixtureField, NormalMixture, Pushforward
    >>> target = NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None])
    >>> x = torch.tensor([[1.0, 1.0], [3.0, -1.0]])
    >>> measured = Pushforward(Flow(MixtureField(target))).measured_log_prob(x)
    >>> bool(((measured.value - target.log_prob(x)).abs() <= measured.error).all())
    True
    >>> measured.unresolved
    tensor([False, False])
    """

    value: Tensor
    error: Tensor
    unresolved: Tensor


def warn_unresolved(n_unresolved: int, n_rows: int, solver: Solver) -> None:
    """Warn, once and with the count, if rows were left above the tolerance.

    Parameters
    ----------
    n_unresolved, n_rows : int, rows left above the tolerance, of how many
    solver : Solver, for its tolerances and its number of steps

    Warns
    -----
    AccuracyWarning
        If there are any such rows.

    Examples
    --------
    >>> import warnings
    >>> from skinterflow.interflow import Solver
    >>> from skinterflow.interflow.flows import warn_unresolved
    >>> warn_unresolved(0, 10, Solver())
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_unresolved(1, 10, Solver(n_steps=8, max_refinements=6))
    >>> print(caught[0].message)  # doctest: +ELLIPSIS
    1 of 10 rows were left with an estimated error above atol=0.001, rtol=1e-05 after 768 steps; ...
    """
    if n_unresolved:
        warn(
            f"{n_unresolved} of {n_rows} rows were left with an estimated error above "
            f"atol={solver.atol:g}, rtol={solver.rtol:g} after "
            f"{GradedSolver.of(solver).finest_steps} steps; they may be far outside the data. "
            "Raise atol to accept them.",
            AccuracyWarning,
        )


NESTED = "rk4"
"""The method whose trajectories take the log-determinant from nested quadrature rules; others solve
for it together with the positions."""
_STRETCH, _BOX = 2.5, 1.5


def points_outside(x: Tensor) -> list[Tensor]:
    """Points unlike those of a sample: stretched about their mean, and uniform in their box, which
    is widened by half.

    Parameters
    ----------
    x : Tensor of shape (B, D)

    Returns
    -------
    list of two Tensors of shape (B, D), always the same for the same points

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow.flows import points_outside
    >>> points_outside(torch.tensor([[-1.0], [1.0]]))[0]
    tensor([[-2.5000],
            [ 2.5000]])
    """
    mean, low, high = x.mean(dim=0), x.amin(dim=0), x.amax(dim=0)
    uniform = (
        torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x) - 0.5
    )
    return [mean + _STRETCH * (x - mean), 0.5 * (low + high) + _BOX * (high - low) * uniform]


class Flow:
    """The map ``X_t`` from base points to points at time `t`, and its inverse.

    Parameters
    ----------
    field : VelocityField
    solver : Solver
    end_time : float in [0, 1], where the flow stops

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, equation 2 and appendix A.

    Examples
    --------
    From N(0, I) to N(1, 4 I) the flow is ``1 + 2 x0``, and its inverse has the log-determinant
    ``-2 log 2`` in the plane.

    >>> import torch
    >>> from skinterflow.interflow import Flow, MixtureField, NormalMixture
    >>> flow = Flow(
    ...     MixtureField(NormalMixture(torch.ones(1), torch.ones(1, 2), 4.0 * torch.eye(2)[None]))
    ... )
    >>> x0 = torch.tensor([[0.0, -1.0]])
    >>> torch.allclose(flow.push(x0), 1.0 + 2.0 * x0, atol=1e-2)
    True
    >>> round(float(flow.pull_and_logdet(1.0 + 2.0 * x0)[1]), 2)
    -1.39
    """

    def __init__(
        self, field: VelocityField, solver: Solver = Solver(), end_time: float = 1.0
    ) -> None:
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
        """Positions, shape (len(times), B, D), at the given times of points
        `x` that are at ``times[0]``."""
        points = [x]
        for t0, t1 in itertools.pairwise(times):
            points.append(self._warned(self.transport(points[-1], t0, t1)).y)
        return torch.stack(points)

    @torch.no_grad()
    def transport(self, x: Tensor, t0: float, t1: float) -> Solution:
        """Carry points, shape (B, D), from time `t0` to `t1`; the error is that of the
        coordinates."""
        if self.solver.method != NESTED:
            return self.solver.solve(self.field, x, t0, t1)
        carried = self._carried(x, t0, t1, "points")
        return Solution(carried.end.to(x), carried.error.to(x), carried.unresolved)

    @torch.no_grad()
    def transport_with_logdet(self, x: Tensor, t0: float, t1: float) -> Solution:
        """As :meth:`transport`, with ``log |det dX_t1/dX_t0|`` next to the points, which is part of
        the error: see :meth:`split`."""
        if self.solver.method != NESTED:
            return self.solver.solve(self._velocity_and_divergence, self._with_logdet(x), t0, t1)
        carried = self._carried(x, t0, t1, "log_det")
        return Solution(
            torch.cat([carried.end, carried.log_det], dim=1).to(x),
            carried.error.to(x),
            carried.unresolved,
        )

    @torch.no_grad()
    def transport_to_base(self, x: Tensor, t: float, base: Scaling) -> Solution:
        """As :meth:`transport_with_logdet` from time `t` to the base, but the error is that of the
        log-density."""
        if self.solver.method != NESTED:
            return self.transport_with_logdet(x, t, 0.0)
        carried = self._carried(x, t, 0.0, "density", lambda end: _weight(base, end.to(x)).double())
        return Solution(
            torch.cat([carried.end, carried.log_det], dim=1).to(x),
            carried.error.to(x),
            carried.unresolved,
        )

    def split(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, shape (B, D), log-determinants, shape (B,), and the standard error of the latter.

        It is zero where the divergence is exact, and NaN where there is one estimate only.
        """
        x, estimates = y.tensor_split([self.field.n_features], dim=1)
        log_det, n = estimates.mean(dim=1), self.field.n_estimates
        if n is None:
            return x, log_det, torch.zeros_like(log_det)
        deviation = (
            (estimates - log_det[:, None]).square().sum(dim=1) / (n - 1)
            if n > 1
            else torch.full_like(log_det, torch.nan)
        )
        return x, log_det, (deviation / n).sqrt()

    def calibrate(
        self,
        x1: Tensor,
        method: str = "rk4",
        outside: Sequence[Tensor] | None = None,
        base: Scaling | None = None,
    ) -> Calibration | Grading:
        """Learn from representative points at the end time how to solve for others: see
        :func:`grade`, and :func:`calibrate`.

        Parameters
        ----------
        x1 : Tensor of shape (B, D)
        method : key of `FIXED_GRID_ORDERS`; "rk4" is graded, others are calibrated
        outside : sequence of Tensors of shape (C, D)
            Points that are unlike those, for the estimates to hold there.
            None is points that are stretched about the mean, and uniform ones in a box around all.
        base : Scaling, see `Pushforward`
        """
        if method != NESTED:
            return calibrate(
                self._velocity_and_divergence, self._with_logdet(x1), self.end_time, 0.0, method
            )
        base = base or Compose([])
        outside = points_outside(x1) if outside is None else outside
        return grade(
            self.field,
            x1,
            outside,
            Clock(self.end_time, 0.0),
            lambda end: base_log_prob(base, end),
            lambda end: _weight(base, end),
        )

    def _carried(
        self,
        x: Tensor,
        t0: float,
        t1: float,
        kind: str,
        weights: Callable[[Tensor], Tensor] | None = None,
    ) -> Carried:
        return Carrier(
            self.field, Clock(t0, t1), GradedSolver.of(self.solver).of_kind(kind), kind, weights
        ).carry(x)

    def _velocity_and_divergence(self, t: Tensor, y: Tensor) -> Tensor:
        v, divergence = self.field.value_and_divergence(t, y[:, : self.field.n_features])
        return torch.cat([v, divergence.reshape(len(v), -1)], dim=1)

    def _with_logdet(self, x: Tensor) -> Tensor:
        """Points with their log-determinants, which start at zero: one column, or one for each
        estimate."""
        return torch.cat([x, x.new_zeros(len(x), self.field.n_estimates or 1)], dim=1)

    def _warned(self, solution: Solution) -> Solution:
        warn_unresolved(int(solution.unresolved.sum()), len(solution.y), self.solver)
        return solution


class Pushforward:
    """The density of ``X_t`` when ``X_0`` is the base: standard normal, or what `base` makes of a
    standard normal.

    Parameters
    ----------
    flow : Flow
    base : Scaling, which carries standard normal points to base points; the identity by default

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, appendix A.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import Flow, MixtureField, NormalMixture, Pushforward
    >>> target = NormalMixture(
    ...     torch.full((2,), 0.5), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.1)
    ... )
    >>> density, x = Pushforward(Flow(MixtureField(target))), torch.tensor([[-1.0], [0.0], [2.0]])
    >>> torch.allclose(density.log_prob(x), target.log_prob(x), atol=1e-2)
    True
    """

    def __init__(self, flow: Flow, base: Scaling | None = None) -> None:
        self.flow = flow
        self.base = base or Identity()

    def log_prob(self, x: Tensor, t: float | None = None) -> Tensor:
        """Log-density of the flow at time `t` (its end time by default) at points `x`, shape (B,
        D): shape (B,), nats."""
        measured = self.measured_log_prob(x, t)
        warn_unresolved(int(measured.unresolved.sum()), len(x), self.flow.solver)
        return measured.value

    def measured_log_prob(self, x: Tensor, t: float | None = None) -> Estimate:
        """As :meth:`log_prob`, with the estimated error of every row and no warning."""
        t = self.flow.end_time if t is None else t
        y, error, unresolved = self.flow.transport_to_base(x, t, self.base)
        x0, log_det, standard_error = self.flow.split(y)
        return Estimate(base_log_prob(self.base, x0) + log_det, error + standard_error, unresolved)

    @torch.no_grad()
    def log_prob_at(self, x: Tensor, t: Tensor) -> Tensor:
        """Log-density at points `x`, shape (B, D), each under the flow stopped at its own time `t`,
        shape (B,)."""
        value = torch.empty_like(x[:, 0])
        for time in t.unique().tolist():
            rows = t == time
            value[rows] = self.measured_log_prob(x[rows], time).value
        return value

    def score(self, x: Tensor, t: float | None = None) -> Estimate:
        """Gradient of :meth:`log_prob` at points `x`, shape (B, D): shape (B, D), nats per unit; by
        two solves, there and back."""
        t = self.flow.end_time if t is None else t
        with (
            torch.no_grad()
        ):  # by the same solver there and back: the score magnifies errors of the start
            start, start_error, start_unresolved = self.flow.solver.solve(
                self.flow.field, x, t, 0.0
            )
        y0 = torch.cat([start, base_score(self.base, start)], dim=1)
        y, error, unresolved = self.flow.solver.solve(self._velocity_and_score_rate, y0, 0.0, t)
        return Estimate(
            y.tensor_split(2, dim=1)[1], start_error + error, start_unresolved | unresolved
        )

    def _velocity_and_score_rate(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x, score = y.detach().tensor_split(2, dim=1)
            x.requires_grad_()
            v, divergence = self.flow.field.value_and_divergence(t, x)
            total = (v * score).sum() + divergence.reshape(len(x), -1).mean(dim=1).sum()
            (gradient,) = torch.autograd.grad(total, x)
        return torch.cat([v.detach(), -gradient], dim=1)

    def sample(
        self, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Draw `n` points at the end time: shape (n, D)."""
        return self.flow.push(
            self.base(torch.randn(n, self.flow.field.n_features, device=device, dtype=dtype))
        )


@torch.no_grad()
def denoise(
    quantities: Quantities, x: Tensor, t0: float = 0.0, t1: float = 1.0, n_steps: int = 100
) -> Tensor:
    r"""Carry points along the flow by the denoising integrator (paper 2, section 5.2).

    A step from `t` to `u` keeps the expected parts of the path and moves their weights,

    .. math::

        X_u = \alpha(u) E[x_0 | X_t] + \beta(u) E[x_1 | X_t] + \gamma(u) E[z | X_t],

    for a Gaussian base without a noise term equation 5.14.  It is of first order in the size of the
    step, and evaluates no rate of a weight.  The last step to ``t = 1`` is ``E[x1 | x_t]``.

    Parameters
    ----------
    quantities : Quantities of an affine path
    x : Tensor of shape (B, D), points at `t0`
    t0, t1 : float, times in [0, 1], in either order
    n_steps : int, number of steps, of equal length in time

    Returns
    -------
    Tensor of shape (B, D), points at `t1`

    Raises
    ------
    ValueError
        If the path is not affine, or if an end is needed that has weight zero where a step starts.

    Examples
    --------
    From N(0, 1) to N(1, 4) the flow is ``1 + 2 x0``.

    >>> import torch
    >>> from skinterflow.interflow import MixtureField, NormalMixture, denoise
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 4.0))
    ... )
    >>> x0 = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> torch.allclose(denoise(field, x0, n_steps=500), 1.0 + 2.0 * x0, atol=0.02)
    True
    """
    times = torch.linspace(t0, t1, n_steps + 1, dtype=torch.float64, device=x.device).to(x)
    for t, u in itertools.pairwise(times):
        parts = quantities.expected_parts(t, x)
        interpolant = cast(AffineInterpolant, quantities.path.interpolant)
        x = torch.zeros_like(x)
        weights = interpolant.alpha(u), interpolant.beta(u), quantities.path.noise_term(u)
        for part, weight in zip(parts, weights, strict=True):
            if weight != 0 and part.isnan().all():
                raise ValueError(
                    f"At t={float(t):g} an end has weight zero on the path of {interpolant!r}, and "
                    "does not follow from the point; use the flow."
                )
            x = x if weight == 0 else x + weight * part
    return x


class PathEstimate(NamedTuple):
    """Log-density of a diffusion by a mean over random paths, in nats.

    Attributes
    ----------
    value : Tensor of shape (B,), logarithm of the mean over the paths
    standard_error : Tensor of shape (B,), of the value
    lower_bound : Tensor of shape (B,), mean of the logarithms, which is not larger (Jensen)

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, section 2.5.

    Examples
    --------
    >>> import torch
    >>> from skinterflow.interflow import (
    ...     Diffusion,
    ...     Identity,
    ...     MixtureField,
    ...     NormalMixture,
    ...     StochasticSolver,
    ... )
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 4.0))
    ... )
    >>> diffusion, solver = Diffusion(field, epsilon=lambda t: 0.1), StochasticSolver(n_steps=10)
    >>> estimate = diffusion.log_prob(
    ...     torch.zeros(5, 1), 1.0, Identity(), 16, solver, torch.Generator().manual_seed(0)
    ... )
    >>> estimate.value.shape, bool((estimate.lower_bound <= estimate.value).all())
    (torch.Size([5]), True)
    """

    value: Tensor
    standard_error: Tensor
    lower_bound: Tensor


class Diffusion:
    r"""``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW``: noise without a change of law.

    Backward in time it is ``dX = (b - epsilon s) dt + sqrt(2 epsilon) dW``.

    Parameters
    ----------
    quantities : Quantities, for drift and score
    epsilon : callable, noise level at a time, not negative

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, section 1.

    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, equations 2.33 and 2.35.

    Examples
    --------
    From a standard normal to N(1, 4), by random paths.

    >>> import torch
    >>> from skinterflow.interflow import Diffusion, MixtureField, NormalMixture, StochasticSolver
    >>> field = MixtureField(
    ...     NormalMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 4.0))
    ... )
    >>> generator = torch.Generator().manual_seed(0)
    >>> x0 = torch.randn(2_000, 1, generator=generator)
    >>> x1 = Diffusion(field, lambda t: 1.0 - t).push(
    ...     x0, 0.0, 1.0, StochasticSolver(n_steps=30), generator
    ... )
    >>> abs(float(x1.mean()) - 1.0) < 0.2, abs(float(x1.std()) - 2.0) < 0.2
    (True, True)
    """

    def __init__(self, quantities: Quantities, epsilon: NoiseLevel) -> None:
        self.quantities = quantities
        self.epsilon = epsilon

    def level(self, t: float) -> float:
        """Noise level at a time.

        Where the score's formula multiplies errors of what was learned by more than 5, the noise
        fades in proportion; the law is that of the flow for any noise level, and so for this one.
        """
        fraction = self.quantities.noise_fraction(t)
        return self.epsilon(t) * fraction if fraction > 0.0 else 0.0

    def push(
        self,
        x: Tensor,
        t0: float,
        t1: float,
        solver: StochasticSolver,
        generator: torch.Generator,
        denoise_from: float | None = None,
    ) -> Tensor:
        """Carry points at time `t0`, shape (B, D), to time `t1`, forward or backward, each on a
        random path of its own.

        If `denoise_from` is given, the diffusion from `t0` stops at this time, and the last step to
        ``t = 1`` is ``E[x1 | x_t]``, which needs no score at times at which it diverges (paper 2,
        section 5.2); `t1` must then be 1.  The samples are by as much too narrow as the data are
        uncertain at this time.
        """
        sign = 1.0 if t1 >= t0 else -1.0
        end = t1 if denoise_from is None else denoise_from

        def drift(t: Tensor, x: Tensor) -> Tensor:
            return self._drift(t, x, sign * self.level(float(t)))

        y = solver.solve(drift, self.level, x, t0, end, generator)
        if denoise_from is None:
            return y
        with torch.no_grad():
            return self.quantities.denoised(y.new_tensor(end), y)

    def log_prob(
        self,
        x: Tensor,
        t: float,
        base: Scaling,
        n_paths: int,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> PathEstimate:
        """Log-density, at time `t`, of this diffusion started from a Gaussian base (paper 2,
        section 2.5): :meth:`path_estimate` from time 0.

        Parameters
        ----------
        x : Tensor of shape (B, D)
        t : float in (0, 1]
        base : Scaling, which carries standard normal points to base points
        n_paths : int, at least 2, of each row
        solver : StochasticSolver
        generator : torch.Generator on the device of `x`
        """

        def log_density(x0: Tensor) -> Tensor:
            return base_log_prob(base, x0)

        return self.path_estimate(x, t, 0.0, log_density, n_paths, solver, generator)

    def path_estimate(
        self,
        x: Tensor,
        t: float,
        start: float,
        log_density: Callable[[Tensor], Tensor],
        n_paths: int,
        solver: StochasticSolver,
        generator: torch.Generator,
    ) -> PathEstimate:
        r"""Log-density, at time `t`, of this diffusion started from a known density (paper 2,
        section 2.5).

        From time 0 the diffusion runs forward, with the drift ``f = b + epsilon s``; from time 1 it
        runs backward, with ``f = b - epsilon s`` (equation 2.60).  Either is the logarithm of a
        mean over the paths of ``dY = f dt + sqrt(2 epsilon) dW`` with the *same* drift, which are
        run in the other direction, from ``Y_t = x`` to the start `a`:

        .. math::

            \rho_t(x) = E\left[\exp\left(\int_t^a \nabla\cdot f_\tau(Y_\tau)\, d\tau\right)
                \rho_a(Y_a)\right] .

        The mean of the logarithms is a lower bound of it (Jensen), and so bounds the cross-entropy
        from above.  For exact quantities it is the density of the flow, in both directions; for
        learned ones each direction has a density of its own.  The paths spread against the score,
        so that the variance grows fast with epsilon, and with the number of features.

        Parameters
        ----------
        x : Tensor of shape (B, D)
        t : float in [0, 1]
        start : float in [0, 1], before `t` for the forward diffusion, after it for the backward one
        log_density : callable
            Log-density at the start, of points of shape (B, D): shape (B,).
        n_paths : int, at least 2, of each row
        solver : StochasticSolver
        generator : torch.Generator on the device of `x`

        Examples
        --------
        Backward from N(1, 4) at time 1 to the standard normal at time 0.

        >>> import torch
        >>> from skinterflow.interflow import (
        ...     Diffusion,
        ...     MixtureField,
        ...     NormalMixture,
        ...     StochasticSolver,
        ... )
        >>> target = NormalMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 4.0))
        >>> diffusion = Diffusion(MixtureField(target), epsilon=lambda t: 0.1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> estimate = diffusion.path_estimate(
        ...     torch.zeros(1, 1), 0.0, 1.0, target.log_prob, 64, StochasticSolver(), generator
        ... )
        >>> abs(float(estimate.value) + 0.919) < 0.1
        True
        """
        n_features, sign = x.shape[1], 1.0 if start <= t else -1.0

        def drift_and_divergence(time: Tensor, y: Tensor) -> Tensor:
            # Outside the derivative, in which a function of the user could not read its tensors.
            noise = sign * self.level(float(time))
            return torch.cat(
                _with_divergence(lambda x: self._drift(time, x, noise), y[:, :n_features]), dim=1
            )

        first = nn.functional.pad(x.repeat_interleave(n_paths, dim=0), (0, 1))
        end = solver.solve(
            drift_and_divergence, self.level, first, t, start, generator, n_noisy=n_features
        )
        log_weights = (log_density(end[:, :n_features]) + end[:, n_features]).reshape(
            len(x), n_paths
        )
        value = log_weights.logsumexp(dim=1) - math.log(n_paths)
        # Where the density is zero on all paths, the difference of infinities would be NaN.
        relative = (log_weights - value.nan_to_num(neginf=0.0)[:, None]).exp()
        return PathEstimate(
            value, relative.std(dim=1) / math.sqrt(n_paths), log_weights.mean(dim=1)
        )

    def _drift(self, t: Tensor, x: Tensor, noise: float) -> Tensor:
        if noise == 0.0:
            return self.quantities.drift(t, x)
        drift, score = self.quantities.drift_and_score(t, x)
        return drift + noise * score


def _with_divergence(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values of any `f`, shape (B, D), and its divergence, shape (B, 1), by one derivative per
    column."""
    value, slopes = directional_slopes(f, x, torch.eye(x.shape[1], dtype=x.dtype, device=x.device))
    return value, slopes.sum(dim=1, keepdim=True)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of N(0, I).

    Parameters
    ----------
    z : Tensor of shape (B, D)

    Returns
    -------
    Tensor of shape (B,), nats

    Examples
    --------
    At the centre of the plane it is ``-log(2 pi)``.

    >>> import torch
    >>> from skinterflow.interflow.flows import standard_normal_log_prob
    >>> round(float(standard_normal_log_prob(torch.zeros(1, 2))), 2)
    -1.84
    """
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2.0 * math.pi))


def base_log_prob(base: Scaling, x0: Tensor) -> Tensor:
    """Log-density of base points that `base` makes of standard normal ones.

    Parameters
    ----------
    base : Scaling, which carries standard normal points to base points
    x0 : Tensor of shape (B, D), base points

    Returns
    -------
    Tensor of shape (B,), nats

    Examples
    --------
    A base of deviation 2: at its centre the density is half of the standard normal's.

    >>> import torch
    >>> from skinterflow.interflow import Standardize
    >>> from skinterflow.interflow.flows import base_log_prob
    >>> base = Standardize(shift=torch.zeros(1), scale=torch.tensor([0.5]))
    >>> round(float(base_log_prob(base, torch.zeros(1, 1))), 2)
    -1.61
    """
    z = base.inverse(x0)
    return standard_normal_log_prob(z) - base.log_abs_det(z)


def _weight(base: Scaling, x0: Tensor) -> Tensor:
    """How much an error of base points may change their log-density, and a little more:
    ``1 + |grad log rho_0|``, shape (B,)."""
    return 1.0 + base_score(base, x0).norm(dim=1)


def base_score(base: Scaling, x0: Tensor) -> Tensor:
    """Gradient of :func:`base_log_prob` at base points.

    Parameters
    ----------
    base : Scaling, which carries standard normal points to base points
    x0 : Tensor of shape (B, D), base points

    Returns
    -------
    Tensor of shape (B, D), nats per unit of the base

    Examples
    --------
    For a base of deviation 2 it is ``-x0 / 4``.

    >>> import torch
    >>> from skinterflow.interflow import Standardize
    >>> from skinterflow.interflow.flows import base_score
    >>> base_score(
    ...     Standardize(shift=torch.zeros(1), scale=torch.tensor([0.5])), torch.tensor([[2.0]])
    ... )
    tensor([[-0.5000]])
    """
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_()
        return torch.autograd.grad(base_log_prob(base, x0).sum(), x0)[0]
