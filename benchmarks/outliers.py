"""Outlier detection with default settings against simple detectors, on twelve sets of ADBench.

    python benchmarks/outliers.py --data-dir DIR
    python benchmarks/outliers.py --data-dir DIR --sets glass Pima --seeds 0

DIR/outliers/NAME.npz has the rows `X` and the labels `y`, 1 for anomalies.  Exact copies of rows
are dropped first, and at most 10,000 rows are drawn.  There are two protocols:

- semi-supervised: detectors are fitted to a random half of the normal rows, and rank the other half
  and all anomalies
- unsupervised: detectors are fitted to all rows without labels, and rank the same rows; ours by
  `held_out_scores_`, and the neighbors and kernels without the row itself

All columns are standardised by the training rows.  The bandwidth of KernelDensity and the number of
components of GaussianMixture are selected by five-fold and two-fold cross-validation.  Nothing is
set for ours but `random_state`.  "alarms" is the fraction of the normal test rows with a p-value of
at most 0.05.
"""

import time
import warnings
from pathlib import Path

import numpy as np
from _common import parser, report, write_table
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skinterflow import InterpolantFlowDensity, InterpolantFlowOutlierDetector

SETS = (
    "PageBlocks", "Pima", "Stamps", "WDBC", "Wilt", "breastw", "cardio", "glass", "letter",
    "pendigits", "thyroid", "vowels",
)  # fmt: skip
SEMI, UNSUPERVISED = "semi-supervised", "unsupervised"
MOST_ROWS = 10_000


def load(name, directory, random):
    """Rows without copies, and labels."""
    with np.load(Path(directory) / "outliers" / f"{name}.npz") as data:
        X, y = data["X"].astype(np.float64), data["y"]
    first = np.sort(np.unique(X, axis=0, return_index=True)[1])
    first = random.permutation(first)[:MOST_ROWS]
    return X[first], y[first]


def split(X, y, protocol, random):
    """Training rows, test rows and their labels."""
    if protocol == UNSUPERVISED:
        return X, None, y
    normal = random.permutation(np.flatnonzero(y == 0))
    half = len(normal) // 2
    test = np.concatenate([normal[half:], np.flatnonzero(y == 1)])
    return X[normal[:half]], X[test], y[test]


def neighbors(reduce):
    def scores(train, test, random):
        return -reduce(NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0])

    return scores


def local_outlier_factor(train, test, random):
    if test is None:
        return LocalOutlierFactor().fit(train).negative_outlier_factor_
    return LocalOutlierFactor(novelty=True).fit(train).score_samples(test)


def isolation_forest(train, test, random):
    rows = train if test is None else test
    return IsolationForest(random_state=random).fit(train).score_samples(rows)


def kernel_density(train, test, random):
    grid = {"bandwidth": np.geomspace(0.05, 2.0, 12)}
    density = GridSearchCV(KernelDensity(), grid, cv=5).fit(train).best_estimator_
    if test is not None:
        return density.score_samples(test)
    one = np.zeros((1, train.shape[1]))
    own = KernelDensity(bandwidth=density.bandwidth).fit(one).score_samples(one)
    others = len(train) * np.exp(density.score_samples(train) - own) - 1.0
    return np.log(np.maximum(others, 1e-12))


def gaussian_mixture(train, test, random):
    # A candidate that cannot be fitted to a fold is out.
    grid = {"n_components": [1, 2, 3, 5, 8, 12, 20]}
    estimator = GaussianMixture(reg_covar=1e-4, random_state=random)
    search = GridSearchCV(estimator, grid, cv=2, error_score=-np.inf).fit(train)
    return search.best_estimator_.score_samples(train if test is None else test)


def density(train, test, random):
    fitted = InterpolantFlowDensity(random_state=random).fit(train)
    return fitted.score_samples(train if test is None else test)


def detector(train, test, random):
    fitted = InterpolantFlowOutlierDetector(random_state=random).fit(train)
    return fitted.held_out_scores_ if test is None else fitted.score_samples(test), fitted


OURS = "InterpolantFlowOutlierDetector"
DENSITY = "InterpolantFlowDensity"
METHODS = {
    "5 neighbors, mean distance": neighbors(lambda distances: distances.mean(axis=1)),
    "5 neighbors, largest distance": neighbors(lambda distances: distances[:, -1]),
    "LocalOutlierFactor": local_outlier_factor,
    "IsolationForest": isolation_forest,
    "KernelDensity": kernel_density,
    "GaussianMixture": gaussian_mixture,
    DENSITY: density,
    OURS: detector,
}


def measure(name, protocol, method, seed, directory):
    """One row: the figures of one method on one split of one set."""
    random = np.random.RandomState(seed)
    train, test, y = split(*load(name, directory, random), protocol, random)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), None if test is None else scaler.transform(test)
    alarms, started = np.nan, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mixtures that did not converge, flows of time 0
        scores = METHODS[method](train, test, seed)
        seconds = time.process_time() - started
        if method == OURS:
            scores, fitted = scores
            if test is not None:
                alarms = (fitted.p_values(test[y == 0]) <= 0.05).mean()
    return {
        "protocol": protocol,
        "data": name,
        "method": method,
        "seed": seed,
        "normal test rows": int((y == 0).sum()),
        "AUROC": round(100 * roc_auc_score(y == 0, scores), 2),
        "average precision": round(100 * average_precision_score(y, -scores), 2),
        "alarms": round(float(alarms), 4),
        "fit and scores, s of CPU": round(seconds, 1),
    }


def summary(rows):
    """Mean figures and mean rank of each method, by protocol."""
    table = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        of = [row for row in rows if row["protocol"] == protocol]
        methods = list(dict.fromkeys(row["method"] for row in of))
        cells = {}
        for row in of:
            cells.setdefault(row["data"], {}).setdefault(row["method"], []).append(row["AUROC"])
        ranks = [rankdata([-np.mean(of_set[m]) for m in methods]) for of_set in cells.values()]
        for method, rank in zip(methods, np.mean(ranks, axis=0), strict=True):
            figures = [row for row in of if row["method"] == method]
            table.append(
                {
                    "protocol": protocol,
                    "method": method,
                    "AUROC": round(float(np.mean([row["AUROC"] for row in figures])), 2),
                    "average precision": round(
                        float(np.mean([row["average precision"] for row in figures])), 2
                    ),
                    "mean rank": round(float(rank), 2),
                }
            )
    return table


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", required=True, help="folder that contains outliers/")
    arguments.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the splits")
    arguments.add_argument("--sets", nargs="*", choices=SETS, help="only these sets")
    arguments.add_argument(
        "--protocols", nargs="*", choices=[SEMI, UNSUPERVISED], help="only these protocols"
    )
    arguments.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    options = arguments.parse_args()
    rows = []
    for protocol in options.protocols or (SEMI, UNSUPERVISED):
        for name in options.sets or SETS:
            for method in options.methods or METHODS:
                if method == DENSITY and protocol == UNSUPERVISED:
                    continue  # it has no scores of held-out rows
                for seed in options.seeds:
                    rows.append(measure(name, protocol, method, seed, options.data_dir))
                    report(rows[-1])
    for row in summary(rows):
        report(row)
    write_table(rows, "outliers", arguments)


if __name__ == "__main__":
    main()
