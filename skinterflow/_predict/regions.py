r"""Regions of highest density: the smallest regions that hold a given fraction of the probability.

The region of level ``p`` is where the density is at least ``f_p``, and ``f_p`` is the ``1 - p``
quantile of ``f(X)`` for ``X`` drawn from ``f`` ([1]_, section 2).  In any dimension it is therefore
estimated by a quantile of the log-densities of samples, with the Monte Carlo error of a quantile.

References
----------
.. [1] Hyndman, "Computing and Graphing Highest Density Regions", The American Statistician 50,
    1996.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_RAREST = 1e-9
"""Probability below which drawing enough samples is not feasible."""


def checked_levels(level: ArrayLike) -> Array:
    """Validate the probabilities of regions, and return them in the shape of `level`.

    Raises
    ------
    ValueError
        If there is none, or one is not a number strictly between 0 and 1.
    """
    try:
        levels = np.asarray(level)
    except ValueError:  # rows of different lengths
        levels = np.empty(0)
    if levels.dtype.kind not in "iuf" or not levels.size or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            "level must be one or more numbers in (0, 1), the fraction of the probability in the "
            f"region, got {reprlib.repr(level)}."
        )
    return levels.astype(np.float64)


def density_thresholds(log_density: NDArray[Any], levels: Array) -> tuple[Array, Array]:
    r"""Return log-densities on the boundaries of the regions, and their standard errors.

    The threshold is the ``q = 1 - level`` quantile of the log-densities of ``n`` samples.  The
    number of samples below the true one is binomial, with mean ``n q`` and deviation
    ``sqrt(n q (1 - q))``; the error is half the distance between the order statistics at one
    deviation to either side, which avoids estimating the density of the log-densities.

    Parameters
    ----------
    log_density : array of shape (n,)
        Log-densities, in nats, of samples drawn from the density itself.
    levels : array of any shape, in (0, 1)

    Returns
    -------
    thresholds, errors : arrays of the shape of `levels`, in nats

    Raises
    ------
    ValueError
        If less than one sample is expected outside of a region, or inside.
    """
    n = len(log_density)
    rarest = float(np.minimum(levels, 1 - levels).min())
    if round(n * rarest, 9) < 1:  # rounded, because 1 - 0.9 is less than 0.1 in floating point
        raise ValueError(
            f"n_samples={n} is too few for a level at {rarest:.3g} from 0 or 1, because less than "
            "one sample is expected there; "
            + (
                f"use at least {math.ceil(10 / rarest)}."
                if rarest > _RAREST
                else "take a level nearer to one half."
            )
        )
    q = 1 - levels.ravel()  # np.quantile accepts at most one axis
    deviation = np.sqrt(q * (1 - q) / n)
    # With one sample or more expected on either side, the deviation is less than q and 1 - q.
    below, threshold, above = np.quantile(
        log_density.astype(np.float64), [q - deviation, q, q + deviation]
    )
    return threshold.reshape(levels.shape), ((above - below) / 2).reshape(levels.shape)
