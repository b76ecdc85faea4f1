"""Probabilistic regression: log-likelihood, CRPS and coverage on sets with published splits.

    python benchmarks/regression.py --data-dir DIR                       # five splits of each set
    python benchmarks/regression.py --data-dir DIR --sets concrete --splits 20
    python benchmarks/regression.py --data-dir DIR --methods "HistGradientBoosting, Gaussian"

Files ``DIR/<set>.npz`` hold ``X``, ``y`` and ``test``, the row numbers of the test splits.  All
methods are run with their defaults (`random_state` aside) on the rows that are not in the split.
Log-likelihoods are in nats per row, in units of the output; the CRPS, from 99 quantiles, is in
units of the output; "coverage" is the fraction of test rows within the central 90% interval.
Seconds are processor time.  The log-likelihood of a method that only predicts quantiles is not
given: a density that is made by smoothing samples cannot be compared.  NGBoost and quantile-forest
are run if they are installed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _common import Record, environment, parser, report, save_table
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from skinterflow import InterpolantFlowRegressor
from skinterflow.metrics import crps

Array = NDArray[np.float64]

SETS = ("concrete", "kin8nm", "power")
LEVELS = (np.arange(99) + 0.5) / 99
TAILS = np.array([0.05, 0.95])


class Prediction(NamedTuple):
    """Log-densities of the test rows, shape (n,), or None; quantiles at `LEVELS` and `TAILS`."""

    log_density: Array | None
    quantiles: Array
    interval: Array


def ours(X: Array, y: Array, X_test: Array, y_test: Array) -> Prediction:
    model = InterpolantFlowRegressor(random_state=0).fit(X, y)
    return Prediction(
        model.log_density(X_test, y_test),
        model.predict_quantiles(X_test, LEVELS),
        model.predict_quantiles(X_test, TAILS),
    )


def gaussian(mean: Array, deviation: Array, y_test: Array) -> Prediction:
    """Normal distributions with means and deviations of shape (n,)."""
    return Prediction(
        norm.logpdf(y_test, mean, deviation),
        mean[:, None] + deviation[:, None] * norm.ppf(LEVELS),
        mean[:, None] + deviation[:, None] * norm.ppf(TAILS),
    )


def gaussian_boosting(X: Array, y: Array, X_test: Array, y_test: Array) -> Prediction:
    """Boosted means, and one deviation: that of the cross-fitted residuals."""
    model = HistGradientBoostingRegressor(random_state=0)
    folds = KFold(5, shuffle=True, random_state=0)  # files may be sorted
    deviation = (y - cross_val_predict(model, X, y, cv=folds)).std()
    mean = model.fit(X, y).predict(X_test)
    return gaussian(mean, np.full(len(mean), deviation), y_test)


def ngboost(X: Array, y: Array, X_test: Array, y_test: Array) -> Prediction:
    from ngboost import NGBRegressor

    predicted = NGBRegressor(random_state=0, verbose=False).fit(X, y).pred_dist(X_test)
    return gaussian(predicted.loc, predicted.scale, y_test)


def quantile_forest(X: Array, y: Array, X_test: Array, y_test: Array) -> Prediction:
    from quantile_forest import RandomForestQuantileRegressor

    model = RandomForestQuantileRegressor(random_state=0).fit(X, y)
    both = [model.predict(X_test, quantiles=list(levels)) for levels in (LEVELS, TAILS)]
    return Prediction(None, *both)


METHODS: dict[str, Callable[[Array, Array, Array, Array], Prediction]] = {
    "InterpolantFlowRegressor": ours,
    "HistGradientBoosting, Gaussian": gaussian_boosting,
    "NGBoost": ngboost,
    "quantile-forest": quantile_forest,
}


def measured(method: str, X: Array, y: Array, test: NDArray[np.int64]) -> Record:
    """Scores of a method on one split, or its error."""
    train, started = np.setdiff1d(np.arange(len(X)), test), time.process_time()
    try:
        predicted = METHODS[method](X[train], y[train], X[test], y[test])
    except ImportError as error:
        return {"error": str(error)}
    low, high = predicted.interval.T
    log_density = predicted.log_density
    return {
        "log-likelihood": np.nan if log_density is None else float(log_density.mean()),
        "CRPS": crps(y[test], predicted.quantiles, LEVELS),
        "coverage": float(((low <= y[test]) & (y[test] <= high)).mean()),
        "seconds": time.process_time() - started,
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--splits", type=int, default=5, help="number of splits of each set")
    options = arguments.parse_args()
    print(environment())
    rows: list[dict[str, Any]] = []
    for name in options.sets:
        data = np.load(options.data_dir / f"{name}.npz")
        X, y = data["X"].astype(np.float64), data["y"].astype(np.float64)
        for split, test in enumerate(data["test"][: options.splits]):
            for method in options.methods:
                row = {"data": name, "split": split, "method": method}
                rows.append(row | dict(measured(method, X, y, test)))
                report(rows[-1])
                save_table(rows, "regression")
    scores = pd.DataFrame(rows).drop(columns="split").groupby(["data", "method"], sort=False)
    print(scores.mean(numeric_only=True).round(4).to_string())


if __name__ == "__main__":
    main()
