r"""Rectified flows: a new flow along straight lines between the ends of an earlier one.

The lines between independent points of both sides cross, so that the flow, which has one velocity
at each point, must bend.  The pairs of a point and its image under that flow cross less: a new fit
to them has straighter flows, which need fewer steps of a solver, and the same two ends ([1]_; paper
2 [2]_, section 5.3).  Each step adds the errors of the fit that it begins with.

References
----------
.. [1] Liu, Gong and Liu, "Flow straight and fast: learning to generate and transfer data with
    rectified flow", ICLR 2023.
.. [2] Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows
    and Diffusions", 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skinterflow._runtime import RandomStateLike, private_random_state
from skinterflow.density import InterpolantFlowDensity
from skinterflow.transport import InterpolantTransport


def reflow(
    estimator: InterpolantFlowDensity | InterpolantTransport,
    X: ArrayLike,
    *,
    transport: InterpolantTransport | None = None,
    random_state: RandomStateLike = None,
) -> InterpolantTransport:
    """Fit a map along straight lines between the ends of a fitted flow.

    Parameters
    ----------
    estimator : fitted InterpolantFlowDensity or InterpolantTransport
        The flow whose ends are paired.  The columns of a density must be real numbers, without
        `bounds`, `integer_features` and `atoms`.
    X : array-like of shape (n_samples, n_features)
        For a density, rows of its data: the pairs are the rows with their latents, and as many
        points of the standard normal base with their images.  For a map, rows of its source: the
        pairs are the rows and their images.
    transport : InterpolantTransport or None, default=None
        Unfitted estimator with the parameters of the new fit, of which a clone is fitted; None is
        the defaults.  Lines are straight only with ``interpolant="linear"``, the default.
    random_state : int, RandomState instance or None, default=None
        Seed of the points of the base; None gives other points at each call.

    Returns
    -------
    reflowed : InterpolantTransport
        Fitted to the pairs.  For a density it is the map from the standard normal distribution to
        the data; with a density of the latents, `target_log_density` is the log-density of the
        data.  The straightness before and after is that of `diagnose`.

    Raises
    ------
    TypeError
        If `estimator` or `transport` is another object.
    ValueError
        If the columns of a density are not real numbers, or the source of a map is the target
        itself (``interpolant="mirror"``).

    Examples
    --------
    Lines between independent points of two normal distributions cross; those to their images do
    not.

    >>> import numpy as np
    >>> from skinterflow import InterpolantTransport, reflow
    >>> X = np.random.default_rng(0).normal(size=(2, 500, 1))
    >>> transport = InterpolantTransport(hidden_layer_sizes=(32,), max_iter=200, random_state=0)
    >>> bent = transport.fit(X[0], 3.0 * X[1])
    >>> straight = reflow(bent, X[0], transport=transport)
    >>> straight.diagnose(X[0], straight.transform(X[0])).straightness < 0.1 * (
    ...     bent.diagnose(X[0], 3.0 * X[1]).straightness
    ... )
    True
    """
    start, end = _pairs(estimator, X, random_state)
    chosen = InterpolantTransport() if transport is None else transport
    if not isinstance(chosen, InterpolantTransport):
        raise TypeError(
            f"transport must be an InterpolantTransport or None, got {type(chosen).__name__}."
        )
    fitted: InterpolantTransport = clone(chosen).fit(start, end, paired=True)
    return fitted


def _pairs(
    estimator: InterpolantFlowDensity | InterpolantTransport,
    X: ArrayLike,
    random_state: RandomStateLike,
) -> tuple[Any, Any]:
    """Both ends of a fitted flow, as many rows of each."""
    if isinstance(estimator, InterpolantTransport):
        check_is_fitted(estimator)
        _check_moves(estimator)
        return X, estimator.transform(X)
    if not isinstance(estimator, InterpolantFlowDensity):
        raise TypeError(
            "reflow needs a fitted InterpolantFlowDensity or InterpolantTransport, got "
            f"{type(estimator).__name__}."
        )
    check_is_fitted(estimator)
    _check_real_columns(estimator)
    latents: NDArray[Any] = np.asarray(estimator.transform(X))
    drawn = private_random_state(random_state).standard_normal(latents.shape).astype(latents.dtype)
    images = np.asarray(estimator.inverse_transform(drawn))
    return np.concatenate([latents, drawn]), np.concatenate([np.asarray(X, latents.dtype), images])


def _check_moves(estimator: InterpolantTransport) -> None:
    if estimator._path.interpolant.resamples:
        raise ValueError(
            f"interpolant={estimator.interpolant!r} connects a data set to itself, by a diffusion; "
            "reflow needs a map from X0 to X1, such as that of interpolant='linear'."
        )


def _check_real_columns(estimator: InterpolantFlowDensity) -> None:
    others = {
        "bounds": estimator.bounds is not None,
        "integer_features": bool(estimator.integer_features_.any()),
        "atoms": bool(estimator.atoms_),
    }
    named = [name for name, flag in others.items() if flag]
    if named:
        raise ValueError(
            f"The density was fitted with {', '.join(named)}, which a map to the data does not "
            "keep; reflow needs columns of real numbers."
        )
