"""Base regressors of conditional densities: cross-fitted, one for each output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.utils.validation import has_fit_parameter

from skinterflow._data.trees import boosted_trees

Array = NDArray[np.float64]

_N_FOLDS = 5


def cross_fitted(
    regressor: Any, features: Array, y: Array, weight: Array, seed: int
) -> tuple[list[Any], Array]:
    """Fit a regressor to each output, and predict every row by one that was not fitted to it.

    Parameters
    ----------
    regressor : "auto" or scikit-learn regressor, which is cloned
    features : array of shape (n, d)
    y : array of shape (n, k)
    weight : array of shape (n,)
    seed : int
        Seed of the folds, and of regressors without a `random_state`.

    Returns
    -------
    regressors : list of k fitted regressors, fitted to all rows
    prediction : array of shape (n, k)

    Raises
    ------
    ValueError
        If the regressor does not predict one finite number for each row.
    """
    folds = list(KFold(min(_N_FOLDS, len(y)), shuffle=True, random_state=seed).split(features))
    prediction, regressors = np.empty(y.shape), []
    for j in range(y.shape[1]):
        for train, held_out in folds:
            fitted = _fitted(regressor, features[train], y[train, j], weight[train], seed)
            prediction[held_out, j] = _predicted(fitted, features[held_out])
        regressors.append(_fitted(regressor, features, y[:, j], weight, seed))
    return regressors, prediction


def base_prediction(regressors: Sequence[Any], features: Array) -> Array:
    """Predictions of fitted regressors, shape (n, k)."""
    return np.stack([_predicted(regressor, features) for regressor in regressors], axis=1)


def _fitted(regressor: Any, features: Array, y: Array, weight: Array, seed: int) -> Any:
    if isinstance(regressor, str):
        model = HistGradientBoostingRegressor(random_state=seed)
        return boosted_trees(model.fit(features, y, sample_weight=weight))
    model = clone(regressor)
    unset = [
        name
        for name, value in model.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    model.set_params(**dict.fromkeys(unset, seed))
    if has_fit_parameter(model, "sample_weight"):
        return model.fit(features, y, sample_weight=weight)
    return model.fit(features, y)


def _predicted(regressor: Any, features: Array) -> Array:
    prediction = np.asarray(regressor.predict(features), dtype=np.float64)
    if prediction.shape != (len(features),) or not np.isfinite(prediction).all():
        name = type(regressor).__name__
        raise ValueError(
            f"regressor={name} must predict one finite number for each row, of the shape "
            f"{(len(features),)}, but predicted an array of the shape {prediction.shape} with "
            f"{int((~np.isfinite(prediction)).sum())} numbers that are not finite; use another."
        )
    return prediction
