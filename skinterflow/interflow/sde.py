r"""Integration of ``dX = d_t(X) dt + sqrt(2 epsilon(t)) dW``: diffusions with the marginals of a
flow.

For any ``epsilon(t) >= 0``, chosen after training, ``dX = (v + epsilon s) dt + sqrt(2 epsilon) dW``
has the law of ``dX/dt = v`` at every time, with `s` the score ``grad log rho_t`` (paper 1, section
1 and equation 29; paper 2, equation 2.33): noise forgets the past of a particle, and the score
brings it back to where the density is.  Backward in time it is
``dX = (v - epsilon s) dt + sqrt(2 epsilon) dW``.
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
"""Noise levels by name: both vanish at the data, where a learned score is least certain, and "sine"
at the base, too."""


@dataclass(frozen=True)
class StochasticSolver:
    """Fixed steps, dense near the data as those of :class:`~skinterflow.interflow.ode.Solver`.

    Parameters
    ----------
    method : {"heun", "euler"}
        Heun's method averages the drift at both ends of a step, which makes the law of the samples
        accurate to second order; that of Euler-Maruyama is to first.
    n_steps : int, at least 1

    Raises
    ------
    ValueError
        If the method is unknown, or there is no step.

    References
    ----------
    Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", ICLR
    2023, equation 29.

    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions", 2023, equations 2.33 and 2.35.

    Examples
    --------
    Noise of level 1/2 without a drift is Brownian motion, of variance 1 at ``t = 1``.

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
        """One path for each row, forward or backward in time.

        Parameters
        ----------
        drift : callable
            ``drift(t, y)`` with scalar `t` and `y` of shape (B, D): with the term of the score,
            whose sign is that of. the direction
        epsilon : callable, noise level at a time, not negative
        y0 : Tensor of shape (B, D)
        t0, t1 : float, times in [0, 1]
        generator : torch.Generator on the device of `y0`
        n_noisy : int or None
            Number of leading columns of `y` that noise moves; the others are integrals along the
            path.  None is all.

        Returns
        -------
        Tensor of shape (B, D), the states at `t1`

        Raises
        ------
        ValueError
            If the noise level is negative or not finite at a step.
        FloatingPointError
            If states are not finite, with the time and the number of rows.
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
                    f"The diffusion left the finite numbers for {int(lost.sum())} of {len(y)} rows "
                    f"at t={float(grid[k + 1]):.4g}; raise n_steps above {self.n_steps}, or lower "
                    "epsilon."
                )
        return y


def check_noise_levels(epsilon: NoiseLevel, times: list[float]) -> list[float]:
    """Noise levels at the times.

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
        If one is not a single number, negative or not finite.

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
                f"epsilon must give a single number for a time, but gives {tuple(given.shape)} of "
                f"them at t={t:.4g}."
            )
        levels.append(float(given))
    for t, level in zip(times, levels, strict=True):
        if not 0.0 <= level < math.inf:
            raise ValueError(
                f"epsilon must be finite and not negative on the whole of [0, 1], but is {level:g} "
                f"at t={t:.4g}."
            )
    return levels
