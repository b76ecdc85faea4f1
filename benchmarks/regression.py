"""Probabilistic regression: log-likelihood, CRPS and coverage on sets with published splits.

    python benchmarks/regression.py --data-dir DIR                 # 20 splits of concrete, else 5
    python benchmarks/regression.py --data-dir DIR --sets kin8nm --splits 20
    python benchmarks/regression.py --data-dir DIR --methods "HistGradientBoosting, Gaussian"

Files ``DIR/<set>.npz`` hold ``X``, ``y`` and ``test``, the row numbers of the test splits.  All
methods are run with their defaults (`random_state` aside) on the rows that are not in the split.
Log-likelihoods are in nats per row, in units of the output; the CRPS, from 99 quantiles, is in
units of the output; "coverage" is the fraction of test rows within the central 90% interval; "not
uniform" is the number of splits in which a Kolmogorov-Smirnov test at level 0.05 rejects that the
probability integral transforms (PIT) are uniform.  All are means over the splits.  Seconds are the
processor time of the slowest split, with prediction.  The log-likelihood of a method that only
gives quantiles or samples is missing: a density that is made by smoothing samples cannot be
compared.  NGBoost, quantile-forest and treeffuser are run if they are installed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import Record, parser, report, rounded, write_table
from numpy.typing import NDArray
from scipy.stats import kstest, norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from skinterflow import InterpolantFlowRegressor
from skinterflow.metrics import crps

Array = NDArray[np.float64]

SETS = {"concrete": 20, "kin8nm": 5, "power": 5}
"""Sets, and the number of splits that are averaged."""
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


def treeffuser(X: Array, y: Array, X_test: Array, y_test: Array) -> Prediction:
    from treeffuser import Treeffuser

    model = Treeffuser(seed=0, n_jobs=1).fit(X, y)
    samples = model.sample(X_test, n_samples=100, seed=0)
    both = [np.quantile(samples, levels, axis=0).T for levels in (LEVELS, TAILS)]
    return Prediction(None, *both)


METHODS: dict[str, Callable[[Array, Array, Array, Array], Prediction]] = {
    "InterpolantFlowRegressor": ours,
    "HistGradientBoosting, Gaussian": gaussian_boosting,
    "NGBoost": ngboost,
    "quantile-forest": quantile_forest,
    "treeffuser": treeffuser,
}


def scores(method: str, X: Array, y: Array, test: NDArray[np.int64]) -> Record:
    """Scores of a method on one split."""
    train, started = np.setdiff1d(np.arange(len(X)), test), time.process_time()
    predicted = METHODS[method](X[train], y[train], X[test], y[test])
    seconds = time.process_time() - started
    low, high = predicted.interval.T
    transforms = (predicted.quantiles < y[test][:, None]).mean(axis=1)
    log_density = predicted.log_density
    return {
        "log-likelihood": np.nan if log_density is None else float(log_density.mean()),
        "CRPS": crps(y[test], predicted.quantiles, LEVELS),
        "coverage": float(((low <= y[test]) & (y[test] <= high)).mean()),
        "not uniform": bool(kstest(transforms, "uniform").pvalue < 0.05),
        "seconds": seconds,
    }


def measured(name: str, method: str, data: Any, splits: int) -> Record:
    """One row of the table: means over the splits, or the error of a peer that is missing."""
    X, y = data["X"].astype(np.float64), data["y"].astype(np.float64)
    row: Record = {"data": name, "method": method, "splits": splits}
    found: list[Record] = []
    try:
        for test in data["test"][:splits]:
            found.append(scores(method, X, y, test))
            report(row | found[-1])
    except ImportError as error:
        return row | {"error": str(error)}
    values = {column: np.array([each[column] for each in found]) for column in found[0]}
    log_likelihood = values["log-likelihood"]
    return row | {
        "log-likelihood": round(float(log_likelihood.mean()), 3),
        "standard error": round(float(log_likelihood.std(ddof=1) / np.sqrt(splits)), 3),
        "CRPS": rounded(float(values["CRPS"].mean()), 4),
        "coverage": round(float(values["coverage"].mean()), 3),
        "not uniform": int(values["not uniform"].sum()),
        "slowest split, s of CPU": rounded(float(values["seconds"].max())),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--splits", type=int, help="number of splits, two or more, of each set")
    options = arguments.parse_args()
    rows: list[Record] = []
    for name in options.sets:
        data = np.load(options.data_dir / f"{name}.npz")
        for method in options.methods:
            rows.append(measured(name, method, data, options.splits or SETS[name]))
            report(rows[-1])
    write_table(rows, "regression", arguments)


if __name__ == "__main__":
    main()
