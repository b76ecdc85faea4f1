"""RNADE protocol: mean test log-likelihood over ten folds of white wine and parkinsons, beside the
published numbers.

    python benchmarks/rnade.py --data-dir DIR

Ours has nothing set but its random state.  Every fold is appended to
``benchmarks/results/rnade-folds.csv`` when it is done; a rerun goes on with the folds that are
missing there for the same settings (``--fresh`` starts over, as a changed package should: each fold
has its commit beside it).  In nats per row of data standardised with the training mean and
deviation; mean ± standard error over folds.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    RESULTS,
    Record,
    append_row,
    commit,
    environment,
    fold,
    load,
    parser,
    report,
    write_table,
)

from skinterflow import InterpolantFlowDensity

PUBLISHED = {
    "white wine": {"Gaussian": -13.20, "MFA": -10.73, "FVBN": -10.52, "RNADE-MoG": -10.23},
    "parkinsons": {"Gaussian": -10.85, "MFA": -1.99, "FVBN": -0.71, "RNADE-MoG": -0.90},
}
"""Test log-likelihood, as published by Uria, Murray and Larochelle, "RNADE: The real-valued neural
autoregressive density-estimator",
NIPS 2013, on their own ten folds."""
FOLDS = RESULTS / "rnade-folds.csv"
N_FOLDS = 10


def finished_folds() -> pd.DataFrame:
    return (
        pd.read_csv(FOLDS) if FOLDS.exists() else pd.DataFrame(columns=["data", "fold", "settings"])
    )


def measure(name: str, k: int, options: argparse.Namespace) -> Record:
    """Log-likelihood and times of one fold."""
    train, test = fold(load(name, options.data_dir), k)
    estimator = ours(options)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integer-valued columns
        estimator.fit(train)
        fitted = time.perf_counter()
        log_density = estimator.score_samples(test)
    return {
        "data": name,
        "fold": k,
        "settings": settings(options),
        "commit": commit(),
        "log-likelihood": float(log_density.mean()),
        "worst row": float(log_density.min()),
        "steps": estimator.n_iter_,
        "fit, s": round(fitted - started, 1),
        "score, s": round(time.perf_counter() - fitted, 1),
    }


def ours(options: argparse.Namespace) -> InterpolantFlowDensity:
    max_iter = "auto" if options.max_iter is None else options.max_iter
    return InterpolantFlowDensity(random_state=0, device=options.device, max_iter=max_iter)


def settings(options: argparse.Namespace) -> str:
    return " ".join(repr(ours(options)).split())


def summary(folds: pd.DataFrame) -> list[Record]:
    """Rows of the table: ours and the published methods for each data set."""
    rows: list[Record] = []
    for name, group in folds.groupby("data", sort=False):
        values = group["log-likelihood"]
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        rows += [
            {"data": name, "method": f"{method} (published)", "log-likelihood": value}
            for method, value in PUBLISHED[name].items()
        ]
        rows.append(
            {
                "data": name,
                "method": "InterpolantFlowDensity",
                "log-likelihood": round(values.mean(), 2),
                "standard error": round(error, 2),
                "folds": len(values),
                "worst row": round(group["worst row"].min(), 1),
                "mean fit, s": round(group["fit, s"].mean(), 1),
            }
        )
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with the data sets")
    arguments.add_argument(
        "--sets", nargs="+", default=list(PUBLISHED), choices=PUBLISHED, help="only these sets"
    )
    arguments.add_argument(
        "--folds", nargs="+", type=int, default=range(N_FOLDS), help="only these folds"
    )
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument(
        "--max-iter", type=int, help="steps, for a quick look instead of the defaults"
    )
    arguments.add_argument("--fresh", action="store_true", help="forget all finished folds")
    options = arguments.parse_args()
    if options.fresh:
        FOLDS.unlink(missing_ok=True)
    for name in options.sets:
        for k in options.folds:
            done = finished_folds()
            if not (
                (done["data"] == name)
                & (done["fold"] == k)
                & (done["settings"] == settings(options))
            ).any():
                row = measure(name, k, options)
                append_row(row, FOLDS)
                report(row)
    done = finished_folds()
    chosen = done[
        (done["settings"] == settings(options))
        & done["data"].isin(options.sets)
        & done["fold"].isin(options.folds)
    ]
    print(
        f"{settings(options)}; folds of commit {', '.join(chosen['commit'].unique())}; "
        f"{environment(options.device)}\n"
    )
    write_table(summary(chosen), "rnade", arguments, options.device)


if __name__ == "__main__":
    main()
