"""Adapter of InterpolantFlowRegressor to skpro, whose regressors predict distribution objects.

It requires skpro (``pip install skinterflow[skpro]``).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import norm
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skinterflow.regressor import InterpolantFlowRegressor

try:
    import pandas as pd
    from skpro.distributions.base import BaseDistribution
    from skpro.regression.base import BaseProbaRegressor
except ImportError as error:
    raise ImportError(
        "skinterflow.contrib.skpro requires skpro. You can install it with `pip install "
        "skinterflow[skpro]`."
    ) from error

__all__ = ["InterpolantFlowDistribution", "InterpolantFlowProbaRegressor"]

Array = NDArray[Any]

_LATENTS = np.linspace(-6.0, 6.0, 121)
_MASSES = norm.pdf(_LATENTS) / norm.pdf(_LATENTS).sum()
"""Nodes and weights of the rule for moments, over the normal scores of the levels."""
_BLOCK_ROWS = 64
"""Rows whose levels differ are asked in blocks, each for all levels of its rows."""
_REFUSED = {
    "integer_target": "a density",
    "conformal": "quantiles that invert its distribution function",
}
"""Parameters that a distribution object excludes, and what it would lack."""
_TINY: dict[str, Any] = {
    "trunk_layer_sizes": (8,),
    "hidden_layer_sizes": (8,),
    "max_iter": 5,
    "regressor": None,
    "early_stopping": False,
    "random_state": 0,
}


class InterpolantFlowDistribution(BaseDistribution):
    """Predicted distributions of one output, as a distribution object of skpro.

    All methods call the fitted model.  Density and distribution function are exact up to the error
    of the ODE solver; mean, variance and energy are integrals over the quantiles.

    Parameters
    ----------
    estimator : fitted InterpolantFlowRegressor, or a FrozenEstimator of it
        A model of one output.  skpro clones the parameters of its objects; a FrozenEstimator keeps
        the fit.
    X : data frame of shape (n_rows, n_features)
        Features of the rows.
    index : Index of length n_rows or None, default=None
        None is a scalar distribution, of a single row.
    columns : Index of length 1 or None, default=None
        Name of the output; None for a scalar distribution.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ValueError
        If the model has several outputs, whole numbers or a conformal correction, or if a scalar
        distribution has several rows.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skinterflow.contrib.skpro import InterpolantFlowDistribution
    >>> from skinterflow import InterpolantFlowRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = InterpolantFlowRegressor(
    ...     trunk_layer_sizes=(8,), max_iter=5, regressor=None, early_stopping=False, random_state=0
    ... ).fit(X, y)
    >>> distribution = InterpolantFlowDistribution(model, X[:3], X.index[:3], ["target"])
    >>> distribution.ppf(0.9).shape
    (3, 1)
    """

    _tags: ClassVar[dict[str, Any]] = {
        "authors": ["the skinterflow developers"],
        "capabilities:approx": ["ppf", "mean", "var", "energy", "pdfnorm"],
        "capabilities:exact": ["pdf", "log_pdf", "cdf"],
        "distr:measuretype": "continuous",
        "distr:paramtype": "nonparametric",
    }

    def __init__(self, estimator: Any, X: Any, index: Any = None, columns: Any = None) -> None:
        self.estimator = estimator
        self.X = X
        super().__init__(index=index, columns=columns)
        check_is_fitted(estimator)
        if estimator.n_outputs_ != 1:
            raise ValueError(
                f"estimator must have one output, but it has {estimator.n_outputs_}; fit one "
                "regressor for each output."
            )
        for name, missing in _REFUSED.items():
            if getattr(estimator, name):
                raise ValueError(
                    f"estimator must have {name}=False, because a distribution object needs "
                    f"{missing}; fit it anew, or call the methods of the regressor itself."
                )
        if index is None and len(X) != 1:
            raise ValueError(
                f"A scalar distribution has one row, but X has {len(X)}; give index and columns."
            )

    def _iloc(self, rowidx: Any = None, colidx: Any = None) -> InterpolantFlowDistribution:
        if np.ndim(rowidx) == 0 and np.ndim(colidx) == 0 and not (rowidx is None or colidx is None):
            return self._iat(rowidx, colidx)
        rows = np.arange(self.shape[0]) if rowidx is None else np.atleast_1d(rowidx)
        columns = np.arange(self.shape[1]) if colidx is None else np.atleast_1d(colidx)
        return InterpolantFlowDistribution(
            self.estimator, self.X.iloc[rows], self.index[rows], self.columns[columns]
        )

    def _iat(self, rowidx: Any = None, colidx: Any = None) -> InterpolantFlowDistribution:
        if rowidx is None or colidx is None:
            raise ValueError("iat requires the number of a row and of a column.")
        return InterpolantFlowDistribution(self.estimator, self.X.iloc[[rowidx]])

    def _shaped(self, values: Array) -> Array:
        """One value per row, in the shape of the distribution."""
        return values.reshape(self.shape)

    def _log_pdf(self, x: Array) -> Array:
        return self._shaped(np.asarray(self.estimator.log_density(self.X, np.ravel(x))))

    def _pdf(self, x: Array) -> Array:
        return np.exp(self._log_pdf(x))

    def _cdf(self, x: Array) -> Array:
        return self._shaped(self.estimator.cdf(self.X, np.ravel(x)))

    def _ppf(self, p: Array) -> Array:
        levels, quantiles = np.ravel(np.asarray(p, dtype=np.float64)), np.empty(len(self.X))
        size = len(levels) if len(set(levels)) == 1 else _BLOCK_ROWS
        for start in range(0, len(levels), size):
            rows = slice(start, start + size)
            asked, place = np.unique(levels[rows], return_inverse=True)
            predicted = self.estimator.predict_quantiles(self.X.iloc[rows], asked)
            quantiles[rows] = predicted[np.arange(len(place)), place]
        return self._shaped(quantiles)

    def _mean(self) -> Array:
        return self._shaped(self._nodes() @ _MASSES)

    def _var(self) -> Array:
        nodes = self._nodes()
        deviation = nodes - (nodes @ _MASSES)[:, None]
        return self._shaped(deviation**2 @ _MASSES)

    def _energy_self(self) -> Array:
        # E|X - Y| of independent copies is twice the integral of (2 q - 1) Q(q).
        return self._shaped(2.0 * self._nodes() @ (_MASSES * (2.0 * ndtr(_LATENTS) - 1.0)))

    def _energy_x(self, x: Array) -> Array:
        return self._shaped(np.abs(self._nodes() - np.reshape(x, (-1, 1))) @ _MASSES)

    def pdfnorm(self, a: float = 2) -> Any:
        """Compute the integral of the density to a power.

        Parameters
        ----------
        a : float, default=2
            The power.

        Returns
        -------
        norm : data frame, or float of a scalar distribution
        """
        nodes = self._nodes()
        rows = self.X.iloc[np.repeat(np.arange(len(nodes)), nodes.shape[1])]
        log_density = np.asarray(self.estimator.log_density(rows, nodes.ravel()))
        norms = np.exp((a - 1) * log_density.reshape(nodes.shape)) @ _MASSES
        if self.ndim == 0:
            return float(norms[0])
        return pd.DataFrame(self._shaped(norms), index=self.index, columns=self.columns)

    def _nodes(self) -> Array:
        return self.estimator.predict_quantiles(self.X, ndtr(_LATENTS))

    def _sample(self, n_samples: int | None = None) -> Any:
        drawn = self.estimator.sample(self.X, 1 if n_samples is None else n_samples)
        if self.ndim == 0:
            return drawn[0, 0] if n_samples is None else pd.DataFrame(drawn[0])
        if n_samples is None:
            return pd.DataFrame(drawn, index=self.index, columns=self.columns)
        frames = [pd.DataFrame(s[:, None], self.index, self.columns) for s in drawn.T]
        return pd.concat(frames, keys=range(n_samples))

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return parameters for skpro's tests.

        Parameters
        ----------
        parameter_set : str, default="default"

        Returns
        -------
        parameters : list of dict
        """
        X = pd.DataFrame({"x": np.linspace(-1.0, 1.0, 20)})
        model = FrozenEstimator(InterpolantFlowRegressor(**_TINY).fit(X, X["x"] ** 3))
        table = {"estimator": model, "X": X[:3], "index": pd.RangeIndex(3), "columns": ["y"]}
        return [table, {"estimator": model, "X": X[:1]}]


class InterpolantFlowProbaRegressor(BaseProbaRegressor):
    """InterpolantFlowRegressor with the interface of skpro.

    Parameters
    ----------
    estimator : InterpolantFlowRegressor or None, default=None
        Regressor that is cloned and fitted; None is one with default parameters.

    Attributes
    ----------
    estimator_ : InterpolantFlowRegressor
        The fitted regressor.

    See Also
    --------
    InterpolantFlowDistribution : What ``predict_proba`` returns.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skinterflow import InterpolantFlowRegressor
    >>> from skinterflow.contrib.skpro import InterpolantFlowProbaRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> quick = {"trunk_layer_sizes": (8,), "max_iter": 5, "early_stopping": False}
    >>> model = InterpolantFlowProbaRegressor(
    ...     InterpolantFlowRegressor(**quick, regressor=None, random_state=0)
    ... ).fit(X, y)
    >>> model.predict_proba(X[:3]).mean().shape
    (3, 1)
    >>> model.predict_interval(X[:3], coverage=0.9).shape
    (3, 2)
    """

    _tags: ClassVar[dict[str, Any]] = {
        "authors": ["the skinterflow developers"],
        "capability:multioutput": False,
        "capability:missing": True,
    }

    def __init__(self, estimator: InterpolantFlowRegressor | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: Any) -> InterpolantFlowProbaRegressor:
        self._y_columns = y.columns
        estimator = InterpolantFlowRegressor() if self.estimator is None else self.estimator
        self.estimator_ = clone(estimator).fit(_named(X), y.iloc[:, 0])
        return self

    def _predict(self, X: Any) -> Any:
        predicted = self.estimator_.predict(_named(X))
        return pd.DataFrame(predicted, index=X.index, columns=self._y_columns)

    def _predict_quantiles(self, X: Any, alpha: list[float]) -> Any:
        columns = pd.MultiIndex.from_product([self._y_columns, alpha])
        quantiles = self.estimator_.predict_quantiles(_named(X), alpha)
        return pd.DataFrame(quantiles, index=X.index, columns=columns)

    def _predict_proba(self, X: Any) -> InterpolantFlowDistribution:
        model = FrozenEstimator(self.estimator_)
        return InterpolantFlowDistribution(model, _named(X), X.index, self._y_columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return parameters for skpro's tests.

        Parameters
        ----------
        parameter_set : str, default="default"

        Returns
        -------
        parameters : list of dict
        """
        point = {"point": "median"}
        return [{"estimator": InterpolantFlowRegressor(**_TINY | more)} for more in ({}, point)]


def _named(X: Any) -> Any:
    """A data frame whose columns have names that scikit-learn accepts."""
    return X.set_axis(X.columns.astype(str), axis=1)
