"""Are the defaults ever behind a simple estimator?  Held-out log-likelihood on the data that suit
simple estimators best: few rows, many columns, factors, clusters, heavy tails.

    python benchmarks/simple_peers.py                      # all sets, two folds or seeds each
    python benchmarks/simple_peers.py --sets iris --folds 10

Folds, columns and units of the real sets are those of `defaults.py --small`.  A simulated set is
drawn anew for every fold, with as many training rows as its name says and 1,000 test rows, both
standardised with the training mean and deviation.  All peers are tuned by five-fold
cross-validation on the training rows, and fitted again on all of them.  Ours has nothing set but
`random_state`.  The simulated sets:

- factors n x d: 4, 6 and 5 factors in 30, 200 and 100 columns, with noise of different sizes
- two moons, with a noise of 0.1
- Student-t with 3 degrees of freedom, independent columns
- cluster in scatter: two thirds of the rows have a deviation of 0.05 in 5 of 20 directions and of 1
  in the others, and one third has a deviation of 2 in all
- Gaussian clusters: 12, with independent columns of different deviations
"""

import time
import warnings

import numpy as np
from _common import SMALL, fold, load, parser, report, write_table
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.datasets import make_moons
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity

N_TEST = 1_000


def factors(n_factors, n_columns):
    def drawn(n, random):
        loadings = random.normal(size=(n_columns, n_factors))
        noise = 0.7 * np.exp(0.3 * random.normal(size=n_columns))
        scores = random.normal(size=(n, n_factors))
        return scores @ loadings.T + noise * random.normal(size=(n, n_columns))

    return drawn


def two_moons(n, random):
    rows, _ = make_moons(n, noise=0.1, random_state=random.integers(2**31))
    return random.permutation(rows)


def student_t(n, random):
    return random.standard_t(3, size=(n, 5))


def cluster_in_scatter(n, random):
    directions = np.linalg.qr(random.normal(size=(20, 20)))[0]
    rows = random.normal(size=(n, 20))
    tight = np.arange(n) % 3 < 2
    rows[tight, :5] *= 0.05
    rows[~tight] *= 2.0
    return random.permutation(rows @ directions.T)


def clusters(n, random):
    means, deviations = random.normal(size=(12, 20)), random.normal(size=(12, 20))
    component = random.integers(12, size=n)
    rows = 0.7 * np.exp(0.4 * deviations[component]) * random.normal(size=(n, 20))
    return 1.5 * means[component] + rows


SIMULATED = {
    "factors 60x30": (60, factors(4, 30)),
    "factors 300x200": (300, factors(6, 200)),
    "factors 2000x100": (2_000, factors(5, 100)),
    "two moons 100x2": (100, two_moons),
    "two moons 300x2": (300, two_moons),
    "Student-t 500x5": (500, student_t),
    "cluster in scatter 300x20": (300, cluster_in_scatter),
    "Gaussian clusters 3000x20": (3_000, clusters),
}


def rows_of(name, k):
    """Name with the shape, and training and test rows of fold or seed `k`, standardised."""
    if name in SMALL:
        X = load(name, None)
        return f"{name} {X.shape[0]}x{X.shape[1]}", *fold(X, k)
    n, draw = SIMULATED[name]
    rows = draw(n + N_TEST, np.random.default_rng(k))
    mean, deviation = rows[:n].mean(axis=0), rows[:n].std(axis=0)
    return name, (rows[:n] - mean) / deviation, (rows[n:] - mean) / deviation


def tuned(estimator, grid, train):
    # A candidate that cannot be fitted to a fold is out.
    search = GridSearchCV(estimator, grid, cv=5, error_score=-np.inf)
    return search.fit(train).best_estimator_.score_samples


def gaussian(train):
    fitted = LedoitWolf().fit(train)
    return multivariate_normal(fitted.location_, fitted.covariance_).logpdf


def factor_analysis(train):
    ranks = [k for k in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24) if k < train.shape[1]]
    estimator = FactorAnalysis(svd_method="lapack", max_iter=300)
    return tuned(estimator, {"n_components": ranks}, train)


def kernel_density(train):
    return tuned(KernelDensity(), {"bandwidth": np.geomspace(0.03, 3.0, 15)}, train)


def gaussian_mixture(kind):
    def fitted(train):
        grid = {"n_components": [1, 2, 3, 4, 6, 8, 10, 12, 15, 20]}
        estimator = GaussianMixture(covariance_type=kind, reg_covar=1e-6, random_state=0)
        return tuned(estimator, grid, train)

    return fitted


def flow(train):
    return InterpolantFlowDensity(random_state=0).fit(train).score_samples


METHODS = {
    "Gaussian (Ledoit-Wolf)": gaussian,
    "FactorAnalysis": factor_analysis,
    "KernelDensity": kernel_density,
    "GaussianMixture, full": gaussian_mixture("full"),
    "GaussianMixture, diagonal": gaussian_mixture("diag"),
    "InterpolantFlowDensity": flow,
}


def measure(name, method, folds):
    """One row of the table: mean over the folds of the mean test log-likelihood."""
    means, fits = [], []
    for k in range(folds):
        shown, train, test = rows_of(name, k)
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mixtures that did not converge, flows of time 0
            score_samples = METHODS[method](train)
            fits.append(time.process_time() - started)
            means.append(score_samples(test).mean())
    error = np.std(means, ddof=1) / np.sqrt(folds) if folds > 1 else np.nan
    return {
        "data": shown,
        "method": method,
        "log-likelihood": round(float(np.mean(means)), 2),
        "standard error": round(float(error), 2),
        "slowest fit, s of CPU": round(float(np.max(fits)), 1),
    }


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--folds", type=int, default=2, help="folds or seeds of each set")
    arguments.add_argument("--sets", nargs="*", help="only these sets")
    arguments.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    options = arguments.parse_args()
    rows = []
    for name in options.sets or (*SMALL, *SIMULATED):
        for method in options.methods or METHODS:
            rows.append(measure(name, method, options.folds))
            report(rows[-1])
    write_table(rows, "simple_peers", arguments)


if __name__ == "__main__":
    main()
