"""Base regressors of conditional densities: cross-fitted, one for each output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.utils.validation import has_fit_parameter

from skinterflow._data.trees import boosted_trees

Array = NDArray[np.float64]

_N_FOLDS = 5
_TREES = (25, 50, 100, 200, 500)
"""Numbers of trees that "auto" chooses from."""
_USUAL_TREES, _MOST_ROW_TREES = 100, 10_000_000
"""More trees than usual are tried up to this product of rows and trees, the bound on the time."""


def cross_fitted(
    regressor: Any, features: Array, y: Array, weight: Array, seed: int
) -> tuple[list[Any], Array]:
    """Fit a regressor to each output, and predict every row by one that was not fitted to it.

    Parameters
    ----------
    regressor : "auto" or scikit-learn regressor, which is cloned
        "auto" is gradient boosting, with the number of trees of the smallest cross-fitted error.
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
        rows = _Rows(features, y[:, j], weight)
        if isinstance(regressor, str):
            n_trees, prediction[:, j] = _boosted_out_of_fold(rows, folds, seed)
            regressors.append(boosted_trees(_boosting(rows, n_trees, seed)))
            continue
        for train, held_out in folds:
            fitted = _fitted(regressor, rows.part(train), seed)
            prediction[held_out, j] = _predicted(fitted, features[held_out])
        regressors.append(_fitted(regressor, rows, seed))
    return regressors, prediction


class _Rows(NamedTuple):
    """Features of shape (n, d), one output and weights of shape (n,)."""

    features: Array
    y: Array
    weight: Array

    def part(self, index: Any) -> _Rows:
        """The rows with these numbers."""
        return _Rows(*(array[index] for array in self))


def _boosted_out_of_fold(
    rows: _Rows, folds: Sequence[tuple[Any, Any]], seed: int
) -> tuple[int, Array]:
    """Number of trees with the smallest squared error on held-out rows, and their predictions.

    Trees are added in all folds, from each number to the next, as long as the error decreases.
    """
    models: list[Any] = [None] * len(folds)
    best, chosen, kept = np.inf, _TREES[0], np.empty(len(rows.y))
    for n_trees in _TREES:
        if n_trees > _USUAL_TREES and n_trees * len(rows.y) > _MOST_ROW_TREES:
            break
        prediction = np.empty(len(rows.y))
        for k, (train, held_out) in enumerate(folds):
            models[k] = _boosting(rows.part(train), n_trees, seed, models[k])
            prediction[held_out] = models[k].predict(rows.features[held_out])
        error = float(np.average((rows.y - prediction) ** 2, weights=rows.weight))
        if error >= best:
            break
        best, chosen, kept = error, n_trees, prediction
    return chosen, kept


def _boosting(rows: _Rows, n_trees: int, seed: int, before: Any = None) -> Any:
    """Gradient boosting of a number of trees, of which the first are those of a model, if given."""
    model = before or HistGradientBoostingRegressor(
        early_stopping=False, warm_start=True, random_state=seed
    )
    model.set_params(max_iter=n_trees)
    # Without weights a fit takes half of the time.
    equal = (rows.weight == rows.weight[0]).all()
    return model.fit(rows.features, rows.y, sample_weight=None if equal else rows.weight)


def base_prediction(regressors: Sequence[Any], features: Array) -> Array:
    """Predictions of fitted regressors, shape (n, k)."""
    return np.stack([_predicted(regressor, features) for regressor in regressors], axis=1)


def _fitted(regressor: Any, rows: _Rows, seed: int) -> Any:
    model = clone(regressor)
    unset = [
        name
        for name, value in model.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    model.set_params(**dict.fromkeys(unset, seed))
    if has_fit_parameter(model, "sample_weight"):
        return model.fit(rows.features, rows.y, sample_weight=rows.weight)
    return model.fit(rows.features, rows.y)


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
