r"""Integration of stochastic differential equations: diffusions with the marginals of a flow.

For any ``epsilon(t) >= 0``, chosen after training, ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW``
has the marginal law of ``dX/dt = b`` at every time, where `s` is the score ``grad log rho_t`` and
the drift `b` equals the velocity `v` if there is no noise term (paper 1 [1]_, section 1 and
equation 29; paper 2 [2]_, equations 2.33 and 2.35).  The noise removes the memory of a particle,
and the score keeps it where the density is high.  Backward in time the equation is
``dX = (b - epsilon s) dt + sqrt(2 epsilon) dW``.

References
----------
.. [1] Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skinterflow.interflow.ode import time_grid

Drift = Callable[[Tensor, Tensor], Tensor]
NoiseLevel = Callable[[float], float]

STOCHASTIC_METHODS = ("heun", "euler")

NOISE_LEVELS: dict[str, NoiseLevel] = {
    "decreasing": lambda t: 1.0 - t,
    "sine": lambda t: math.sin(math.pi * t) ** 2,
}
"""Noise levels by name.  Both are zero at the data, where a learned score is least accurate; "sine"
is also zero at the base."""


@dataclass(frozen=True)
class StochasticSolver:
    """Fixed-step solver, dense near the data like :class:`~skinterflow.interflow.ode.Solver`.

    Parameters
    ----------
    method : {"heun", "euler"}
        Heun's method averages the drift at both ends of a step, and the law of the samples is
        accurate to second order; with Euler-Maruyama it is accurate to first order.
    n_steps : int, at least 1

    Raises
    ------
    ValueError
        If the method is unknown, or `n_steps` is less than 1.

    Examples
    --------
    Without a drift, noise of level 1/2 is Brownian motion, with variance 1 at ``t = 1``.

    >>> import torch
    >>> from skinterflow.interflow import StochasticSolver
    >>> generator = torch.Generator().manual_seed(0)
    >>> y = StochasticSolver(n_steps=20).solve(
    ...     lambda t, y: 0.0 * y, lambda t: 0.5, torch.zeros(2_000, 1), 0.0, 1.0, generator
    ... )
    >>> abs(float(y.var()) - 1.0) < 0.1
    True
    """

    method: str = "heun"
    n_steps: int = 200

    def __post_init__(self) -> None:
        if self.method not in STOCHASTIC_METHODS:
            raise ValueError(
                f"Unknown stochastic solver {self.method!r}; choose one of "
                f"{', '.join(map(repr, STOCHASTIC_METHODS))}."
            )
        if self.n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {self.n_steps!r}.")

    @torch.no_grad()
    def solve(
        self,
        drift: Drift,
        epsilon: NoiseLevel,
        y0: Tensor,
        t0: float,
        t1: float,
        generator: torch.Generator,
        n_noisy: int | None = None,
    ) -> Tensor:
        """Draw one path for each row, forward or backward in time.

        Parameters
        ----------
        drift : callable
            ``drift(t, y)`` with scalar `t` and `y` of shape (B, D), including the term of the
            score, whose sign is that of the direction of time.
        epsilon : callable, noise level at a time, not negative
        y0 : Tensor of shape (B, D)
        t0, t1 : float, times in [0, 1]
        generator : torch.Generator on the device of `y0`
        n_noisy : int or None
            Number of leading columns of `y` to which noise is added; the others are integrals along
            the path.  None is all columns.

        Returns
        -------
        Tensor of shape (B, D), the states at `t1`

        Raises
        ------
        ValueError
            If the noise level is negative or not finite at a step.
        FloatingPointError
            If a state is not finite; the message has the time and the number of rows.
        """
        grid = time_grid(t0, t1, self.n_steps).to(y0)
        levels = check_noise_levels(epsilon, grid.tolist())
        y = y0
        for k in range(self.n_steps):
            t, dt = grid[k], grid[k + 1] - grid[k]
            mean_level = 0.5 * (levels[k] + levels[k + 1]) if self.method == "heun" else levels[k]
            noise = torch.randn(
                y[:, :n_noisy].shape, generator=generator, device=y.device, dtype=y.dtype
            )
            noise = nn.functional.pad(
                noise * (2.0 * mean_level * dt.abs()).sqrt(), (0, y.shape[1] - noise.shape[1])
            )
            slope = drift(t, y)
            if self.method == "heun":
                slope = 0.5 * (slope + drift(grid[k + 1], y + slope * dt + noise))
            y = y + slope * dt + noise
            lost = ~torch.isfinite(y).all(-1)
            if lost.any():
                raise FloatingPointError(
                    f"The diffusion is not finite for {int(lost.sum())} of {len(y)} rows at "
                    f"t={float(grid[k + 1]):.4g}; raise n_steps above {self.n_steps}, or lower "
                    "epsilon."
                )
        return y


def check_noise_levels(epsilon: NoiseLevel, times: list[float]) -> list[float]:
    """Evaluate and validate the noise levels at the times.

    Parameters
    ----------
    epsilon : callable, noise level at a time
    times : list of float, in [0, 1]

    Returns
    -------
    list of float

    Raises
    ------
    ValueError
        If a level is not a single number, or is negative or not finite.

    Examples
    --------
    >>> from skinterflow.interflow import NOISE_LEVELS
    >>> from skinterflow.interflow.sde import check_noise_levels
    >>> check_noise_levels(NOISE_LEVELS["decreasing"], [0.0, 0.5, 1.0])
    [1.0, 0.5, 0.0]
    """
    levels = []
    for t in times:
        given = torch.as_tensor(epsilon(t), dtype=torch.float64)
        if given.ndim:
            raise ValueError(
                f"epsilon must return a single number for a time, but returned an array of shape "
                f"{tuple(given.shape)} at t={t:.4g}."
            )
        levels.append(float(given))
    for t, level in zip(times, levels, strict=True):
        if not 0.0 <= level < math.inf:
            raise ValueError(
                f"epsilon must be finite and not negative on [0, 1], but is {level:g} at t={t:.4g}."
            )
    return levels
