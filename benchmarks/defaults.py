"""How good are the defaults?  Held-out log-likelihood with nothing set but `random_state`, beside
scikit-learn's own estimators.

    python benchmarks/defaults.py --data-dir DIR     # four larger sets, first fold of ten
    python benchmarks/defaults.py --small            # four sets that scikit-learn ships, ten folds

Folds, columns and units are those of the RNADE protocol: ``p = default_rng(0).permutation(n)``;
fold k tests on ``p[k::10]`` and trains on the rest; both are standardised with the training mean
and deviation.  The classics are tuned by cross-validation on the training rows: bandwidth for
KernelDensity, number of components for GaussianMixture, and fitted again on all of them.  Of the
small sets, columns that are mostly whole numbers are left out, because they have no density that
methods could be compared by: magnesium and proline of wine; age, sex, blood pressure, s1, s3, s4
and s6 of diabetes (of `load_diabetes(scaled=False)`).  The table is printed and written as CSV to
``benchmarks/results/``; its published form is in ``benchmarks/published/``.
"""

import time
import warnings
from pathlib import Path

import numpy as np
from _common import LARGE, SMALL, check_density_exists, fold, load, parser, report, write_table
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skinterflow import InterpolantFlowDensity

MAX_TUNING_ROWS = 2_000


def tuned(estimator, grid, train):
    """The estimator with the best cross-validated log-likelihood on a part of the rows, fitted on
    all of them."""
    part = np.random.default_rng(0).permutation(len(train))[:MAX_TUNING_ROWS]
    search = GridSearchCV(estimator, grid, cv=5).fit(train[part])
    return search.best_estimator_.fit(train)


def gaussian(train):
    fitted = LedoitWolf().fit(train)
    return multivariate_normal(fitted.location_, fitted.covariance_).logpdf


def kernel_density(train):
    return tuned(KernelDensity(), {"bandwidth": np.geomspace(0.03, 3.0, 15)}, train).score_samples


def gaussian_mixture(train):
    grid = {"n_components": [1, 2, 3, 4, 6, 8, 10, 15, 20, 30]}
    return tuned(GaussianMixture(reg_covar=1e-6, random_state=0), grid, train).score_samples


def flow(train):
    return InterpolantFlowDensity(random_state=0).fit(train).score_samples


def flow_with_student(train):
    return (
        InterpolantFlowDensity(random_state=0, student_layer_sizes=(384, 192))
        .fit(train)
        .score_samples
    )


METHODS = {
    "Gaussian (Ledoit-Wolf)": gaussian,
    "KernelDensity": kernel_density,
    "GaussianMixture": gaussian_mixture,
    "InterpolantFlowDensity": flow,
    "InterpolantFlowDensity, student": flow_with_student,
}
SHOWN_BY_DEFAULT = list(METHODS)[:-1]


def measure(name, method, X, folds):
    """One row of the table: mean over folds of the mean test log-likelihood, the worst row of all,
    the slowest fit and the scoring rate."""
    means, worst, fits, rates = [], [], [], []
    for k in folds:
        train, test = fold(X, k)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classics on few rows, integer-valued columns
            score_samples = METHODS[method](train)
            fitted = time.perf_counter()
            log_density = score_samples(test)
        fits.append(fitted - started)
        rates.append(len(test) / (time.perf_counter() - fitted))
        means.append(log_density.mean())
        worst.append(log_density.min())
    error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return {
        "data": f"{name} {X.shape[0]}x{X.shape[1]}",
        "method": method,
        "log-likelihood": round(float(np.mean(means)), 2),
        "standard error": round(float(error), 2),
        "worst row": round(float(np.min(worst)), 1),
        "slowest fit, s": round(float(np.max(fits)), 1),
        "rows scored per s": round(float(np.median(rates))),
    }


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, help="folder with the larger data sets")
    arguments.add_argument(
        "--small", action="store_true", help="the sets that scikit-learn ships, ten folds"
    )
    arguments.add_argument("--sets", nargs="*", help="only these sets")
    arguments.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    options = arguments.parse_args()
    if not options.small and options.data_dir is None:
        arguments.error("give --data-dir for the larger sets, or --small")
    names, folds = (SMALL, range(10)) if options.small else (LARGE, [0])
    rows = []
    for name in options.sets or names:
        X = load(name, options.data_dir)
        check_density_exists(name, X)
        for method in options.methods or SHOWN_BY_DEFAULT:
            rows.append(measure(name, method, X, folds))
            report(rows[-1])
    write_table(rows, f"defaults-{'small' if options.small else 'large'}", arguments)


if __name__ == "__main__":
    main()
