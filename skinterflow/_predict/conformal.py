"""Split-conformal correction of quantiles and intervals, by the ranks of held-out rows.

The latent of a row is ``z = Phi^-1(F(y | x))``, of which ``F(y | x)`` is the probability integral
transform.  If the rows of the calibration and a new row are exchangeable, the rank of the latent of
the new row among all is uniform, whatever the model ([1]_).

References
----------
.. [1] Chernozhukov, Wuethrich and Zhu, "Distributional conformal prediction", PNAS 118, 2021.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

Array = NDArray[np.float64]

_SHARE, _FEWEST, _MOST = 0.2, 100, 10_000
"""Share of the rows that calibrate, its minimum if that is at most half of the rows, and its
maximum, from which on the coverage varies by less than a percent."""
_ROUNDING = 1e-9


def n_calibration_rows(n_rows: int) -> int:
    """Number of the rows that are held out for the calibration.

    Raises
    ------
    ValueError
        If there are fewer than four rows.
    """
    if n_rows < 4:
        raise ValueError(
            f"conformal=True requires at least 4 rows, of which half are held out, got {n_rows}; "
            "give more rows, or set conformal=False."
        )
    return min(n_rows // 2, max(_FEWEST, round(_SHARE * n_rows)), _MOST)


def latent_of_coverage(latents: Array, coverage: float) -> float:
    """Latent `z` such that ``[-z, z]`` has at least the coverage for a new row.

    It is the one of rank ``ceil((n + 1) coverage)`` among the distances from the median.

    Parameters
    ----------
    latents : array of shape (n,), of the calibration rows
    coverage : float in (0, 1)

    Raises
    ------
    ValueError
        If there are too few rows for the coverage.
    """
    n = len(latents)
    rank = math.ceil((n + 1) * coverage - _ROUNDING)
    if rank > n:
        needed = math.ceil(coverage / (1.0 - coverage) - _ROUNDING)
        raise ValueError(
            f"coverage={coverage:g} requires at least {needed:,} calibration rows, but "
            f"conformal=True held out {n:,} rows in fit; fit with more rows, or choose a coverage "
            f"of at most {n / (n + 1):.4g}."
        )
    return float(np.sort(np.abs(latents))[rank - 1])


def latents_of_levels(latents: Array, levels: Array) -> Array:
    """Latents of which a new row is below with the probabilities `levels`, up to ``1 / (n + 1)``.

    The latent of rank `k` has the level ``k / (n + 1)``; between these levels latents are
    interpolated, and beyond them the tails are those of the model.

    Parameters
    ----------
    latents : array of shape (n,), of the calibration rows, sorted
    levels : array of shape (q,), in (0, 1)

    Returns
    -------
    array of shape (q,), increasing in the level
    """
    n = len(latents)
    inner: Array = np.interp(levels, np.arange(1, n + 1) / (n + 1), latents)
    with np.errstate(divide="ignore"):
        below = ndtri_exp(np.log(np.minimum((n + 1) * levels, 1.0)) + log_ndtr(latents[0]))
        above = -ndtri_exp(
            np.log(np.minimum((n + 1) * (1.0 - levels), 1.0)) + log_ndtr(-latents[-1])
        )
    inner = np.where(levels * (n + 1) < 1.0, below, inner)
    return np.where((1.0 - levels) * (n + 1) < 1.0, above, inner)
