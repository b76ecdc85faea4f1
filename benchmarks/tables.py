"""Write the tables of README and docs from the result files in ``benchmarks/published/``.

    python benchmarks/tables.py            # write them
    python benchmarks/tables.py --check    # only say which documents differ, with exit status 1

A table stands between two markers, ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in
Markdown, ``.. table: NAME`` and ``.. end of table`` in reStructuredText.  Whatever is between them
is replaced.  NAME is a key of ``TABLES``.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from _published import FOLDER, Record, rows, runs

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "docs/which_estimator.rst",
    "docs/quality.rst",
    "docs/outliers.rst",
    "docs/images.rst",
    "docs/larger_than_memory.rst",
    "docs/processes.rst",
    "docs/speed.rst",
)
OURS = "InterpolantFlowDensity"
STUDENT = f"{OURS}, student (128, 128), atol 0.1"
REJECTED = ("galaxies",)
"""Sets of the equal-time run whose student lost too much: there, the row of the student is the
trained field at ``atol=0.1``."""
CLASSICAL = ("Gaussian (Ledoit-Wolf)", "KernelDensity", "GaussianMixture")
PEERS = ("KernelDensity", "GaussianMixture", "zuko NSF", "zuko MAF", "nflows RQ-NSF", "zuko CNF")
TITLES = {
    "breast_cancer": "breast cancer",
    "KernelDensity": "KernelDensity, tuned",
    "GaussianMixture": "GaussianMixture, tuned",
    "CNF, unbiased trace": "CNF, unbiased trace (one Hutchinson probe)",
}

Cells = list[list[str]]
"""A table, its header first."""


class Results:
    """The result files of a folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def rows(self, name: str, **conditions: Any) -> list[Record]:
        """Rows of a file with these values in these columns."""
        found = rows(name, self.folder)
        return [
            row
            for row in found
            if all(row.get(column) == value for column, value in conditions.items())
        ]

    def row(self, name: str, **conditions: Any) -> Record:
        """The only such row."""
        (found,) = self.rows(name, **conditions)
        return found

    def values(self, name: str, column: str) -> list[Any]:
        """Different values of a column, in the order of the file."""
        return list(dict.fromkeys(row[column] for row in self.rows(name) if column in row))

    def source(self, name: str) -> str:
        """A sentence for each different run: its command, commit, date and machine."""
        sentences = []
        for run in runs(name, self.folder):
            note = f"  {run['note']}" if "note" in run else ""
            made = f"commit {run['commit']}, {run['date']}, {run['machine']}"
            sentences.append(f"``{run['command']}``: {made}.{note}")
        return "\n\n".join(dict.fromkeys(sentences))


def shown(value: Any) -> str:
    """A value as it is in the file; missing ones are empty."""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return "" if value is None else str(value)


def with_error(row: Record, digits: int = 2) -> str:
    """Log-likelihood with its standard error, if there is one."""
    error = row.get("standard error")
    return f"{row['log-likelihood']:.{digits}f}" + (
        f" ± {error:.{digits}f}" if error is not None else ""
    )


def plain(row: Record) -> str:
    return f"{row['log-likelihood']:.2f}"


def titled(name: str) -> str:
    return TITLES.get(name, name).replace("breast_cancer", "breast cancer")


def best_in_bold(found: Sequence[Record], cell: Callable[[Record], str]) -> list[str]:
    """Cells of rows of one data set, the highest log-likelihood in bold."""
    best = max(row["log-likelihood"] for row in found)
    return [f"**{cell(row)}**" if row["log-likelihood"] == best else cell(row) for row in found]


def defaults(results: Results, name: str, cell: Callable[[Record], str]) -> Cells:
    """Data sets by methods."""
    cells = [["data", *map(titled, (*CLASSICAL, OURS))]]
    for data in results.values(name, "data"):
        found = [results.row(name, data=data, method=method) for method in (*CLASSICAL, OURS)]
        cells.append([titled(data), *best_in_bold(found, cell)])
    return cells


def simple_peers(results: Results) -> Cells:
    """Data sets by methods, without errors: the sets are many, and the folds few."""
    methods = results.values("simple_peers", "method")
    cells = [["data", *map(titled, methods)]]
    for data in results.values("simple_peers", "data"):
        found = [results.row("simple_peers", data=data, method=method) for method in methods]
        cells.append([titled(data), *best_in_bold(found, plain)])
    return cells


def outliers(results: Results) -> Cells:
    """Protocols by methods: means over the sets, and the rank among the methods."""
    cells = [["protocol", "method", "AUROC", "average precision", "mean rank", "seeds"]]
    for protocol in results.values("outliers", "protocol"):
        found = pd.DataFrame(results.rows("outliers", protocol=protocol))
        figures = ["AUROC", "average precision"]
        means = found.groupby(["data", "method"], sort=False)[figures].mean()
        ranks = means["AUROC"].unstack().rank(axis=1, ascending=False).mean()
        seeds = found.groupby("method")["seed"].nunique()
        for method, row in means.groupby("method", sort=False).mean().iterrows():
            shown_figures = [f"{row[figure]:.1f}" for figure in figures]
            rank = f"{ranks[method]:.1f}"
            cells.append([protocol, str(method), *shown_figures, rank, str(seeds[method])])
    return cells


def outlier_alarms(results: Results) -> Cells:
    """Data sets, their alarms, and the binomial error of the fraction if the level holds."""
    cells = [["data", "normal test rows", "alarms", "0.05 ± its binomial error"]]
    found = results.rows("outliers", protocol="semi-supervised")
    measured = [row for row in found if row["alarms"] is not None]
    for data in dict.fromkeys(row["data"] for row in measured):
        of_set = [row for row in measured if row["data"] == data]
        n_rows = of_set[0]["normal test rows"]
        alarms = sum(row["alarms"] for row in of_set) / len(of_set)
        error = (0.05 * 0.95 / (n_rows * len(of_set))) ** 0.5
        cells.append([data, str(n_rows), f"{alarms:.3f}", f"0.05 ± {error:.3f}"])
    return cells


def defaults_with_worst(results: Results, name: str) -> Cells:
    """As `defaults`, with the worst rows of the best classical method and of ours."""
    head, *body = defaults(results, name, with_error)
    cells = [[*head, "worst row: best classical / ours"]]
    for data, row in zip(results.values(name, "data"), body, strict=True):
        ours = results.row(name, data=data, method=OURS)
        classical = max(
            (results.row(name, data=data, method=m) for m in CLASSICAL),
            key=lambda found: found["log-likelihood"],
        )
        cells.append([*row, f"{classical['worst row']:.0f} / {ours['worst row']:.0f}"])
    return cells


def speed_of_defaults(results: Results) -> Cells:
    columns = {"slowest fit, s": "fit, s", "rows scored per s": "rows scored per s"}
    found = results.rows("defaults-large", method=OURS)
    return [
        ["data", *columns.values()],
        *([row["data"], *(f"{row[column]:.0f}" for column in columns)] for row in found),
    ]


def equal_time_rows(results: Results) -> dict[str, dict[str, Record]]:
    """Data set to method to row, ours first; classical methods in float64, neural ones in
    float32."""
    chosen: dict[str, dict[str, Record]] = {}
    for row in sorted(
        results.rows("equal_time"), key=lambda row: not row["method"].startswith(OURS)
    ):
        if row["precision"] == ("float64" if row["method"] in CLASSICAL else "float32"):
            chosen.setdefault(row["data"], {})[row["method"]] = row
    return chosen


def equal_time(
    results: Results, methods: Sequence[str], cell: Callable[[Record], str] = plain
) -> Cells:
    """Log-likelihoods, data sets by methods."""
    cells = [["data", *(method.removeprefix(f"{OURS}, ") for method in methods)]]
    for data, found in equal_time_rows(results).items():
        cells.append([data, *best_in_bold([found[method] for method in methods], cell)])
    return cells


def speed_at_equal_time(results: Results) -> Cells:
    columns = (
        "fit, s",
        "rows scored per s",
        "rows sampled per s",
        "log-density error",
        "peak memory, MB",
    )
    cells = [["data", "method", *columns]]
    for data, found in equal_time_rows(results).items():
        for method, row in found.items():
            values = [f"{row['fit, s']:.0f}", *(shown(row.get(column)) for column in columns[1:])]
            cells.append([data, method.replace(OURS, "ours"), *values])
    return cells


def speed(results: Results) -> Cells:
    methods = ("KernelDensity", "GaussianMixture", "zuko NSF", "nflows RQ-NSF", OURS, STUDENT)
    cells = [["data", "rows per second", *(method.removeprefix(f"{OURS}, ") for method in methods)]]
    for data, found in equal_time_rows(results).items():
        for verb in ("scored", "sampled"):
            rates = [f"{found[method][f'rows {verb} per s']:,.0f}" for method in methods]
            cells.append([data if verb == "scored" else "", verb, *rates])
    return cells


def span(values: Sequence[float], form: str = ",.0f") -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


def of_all_sets(results: Results, method: str, column: str) -> list[float]:
    return [found[method][column] for found in equal_time_rows(results).values()]


def seconds_of_ours(results: Results) -> str:
    return span(of_all_sets(results, OURS, "fit, s"))


def listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def gains(results: Results) -> str:
    """How far ours is above the best peer, for each set."""
    parts = []
    for data, found in equal_time_rows(results).items():
        peer = max(
            row["log-likelihood"] for method, row in found.items() if not method.startswith(OURS)
        )
        parts.append(f"{found[OURS]['log-likelihood'] - peer:.2f} nats ({data})")
    gained = listed(parts)
    return f"The log-likelihood of the defaults is above that of the best competitor by {gained}."


def students(results: Results) -> str:
    """The trained field and its student against zuko's NSF."""

    def ratios(
        method: str, other: str, column: str, sets: Sequence[str], form: str = ".2g"
    ) -> list[str]:
        return [
            f"{rows[data][method][column] / rows[data][other][column]:{form}} ({data})"
            for data in sets
        ]

    rows = equal_time_rows(results)
    kept = [data for data in rows if data not in REJECTED]
    slower = [
        found["zuko NSF"]["rows scored per s"] / found[OURS]["rows scored per s"]
        for found in rows.values()
    ]
    lost = [
        f"{rows[data][OURS]['log-likelihood'] - rows[data][STUDENT]['log-likelihood']:.2f} ({data})"
        for data in kept
    ]
    (faster,) = ratios(STUDENT, OURS, "rows scored per s", REJECTED, ".1f")
    error = rows[REJECTED[0]][STUDENT]["log-density error"]
    scored = ratios(STUDENT, "zuko NSF", "rows scored per s", kept)
    sampled = ratios(STUDENT, "zuko NSF", "rows sampled per s", kept)
    return "\n".join(
        [
            f"* zuko's NSF scores {span(slower)} times as many rows per second as the trained "
            "field.",
            "* A student of widths (128, 128) scores at the following multiples of the rate of "
            f"NSF: {listed(scored)}.",
            f"* It samples at these multiples: {listed(sampled)}.",
            f"* It loses these nats of the held-out log-likelihood: {listed(lost)}.",
            "* The default `atol` is more accurate than most uses need: at ``atol=0.1`` the rate "
            f"of the trained field is multiplied by {faster}, with a mean error of {error:g} nats.",
        ]
    )


def floor_of_fields(results: Results) -> str:
    """Deep fields against the multiply-adds of their matrix products."""
    deep = results.rows("cost-field", precision="float32", **{"hidden layers": 4})
    wide, narrow = (
        span(
            [
                row["with divergence, times floor"]
                for row in deep
                if row["dimension"] >= 8 and (row["width"] > 128) is chosen
            ],
            ".1f",
        )
        for chosen in (True, False)
    )
    return (
        "With four hidden layers and at least 8 dimensions, value and divergence take "
        f"{wide} times their floor from width 256 on, and {narrow} times at width 128.  The goal "
        "was a factor of two."
    )


def rnade(results: Results) -> Cells:
    methods = ("Gaussian", "MFA", "FVBN", "RNADE-MoG")
    cells = [["data", *(f"{method} (published)" for method in methods), OURS]]
    for data in results.values("rnade", "data"):
        found = [
            results.row("rnade", data=data, method=f"{method} (published)") for method in methods
        ]
        cells.append(
            [
                data,
                *best_in_bold([*found, results.row("rnade", data=data, method=OURS)], with_error),
            ]
        )
    return cells


def columns_of(name: str, columns: Sequence[str], **conditions: Any) -> Callable[[Results], Cells]:
    """A table with these columns of the rows of a file."""

    def table(results: Results) -> Cells:
        found = results.rows(name, **conditions)
        return [
            list(columns),
            *([titled(shown(row.get(column))) for column in columns] for row in found),
        ]

    return table


def cost_of_fields(results: Results) -> Cells:
    """An extract: no single layer, no narrow nets."""
    columns = ("dimension", "hidden layers", "width", "forward, ms", "with divergence, ms")
    columns += ("times forward", "with divergence, times floor", "rows per s")
    found = results.rows("cost-field", precision="float32")
    found = [
        row
        for row in found
        if row["hidden layers"] > 1 and row["width"] > 64 and row["dimension"] != 64
    ]
    return [list(columns), *([shown(row[column]) for column in columns] for row in found)]


def training_steps(results: Results) -> Cells:
    """The measurement after the training where there are two."""
    last = {row["method"]: row for row in results.rows("training_step")}
    cells = [["method", "steps before", "evaluations a step", "ms a step", "times ours"]]
    for method, row in last.items():
        values = [row["steps before"], row["evaluations"], row["ms a step"], row["times ours"]]
        cells.append([titled(method), *map(shown, values)])
    return cells


def atoms(results: Results) -> Cells:
    """Settings by distance to the truth and errors of the masses."""
    cells = [["parameters", "nats below the truth", "error of a mass", "error of samples"]]
    for row in results.rows("atoms"):
        cells.append(
            [
                row["method"],
                f"{row['nats below']:.3f} ± {row['error']:.3f}",
                shown(row["largest error of a mass"]),
                shown(row["largest error of samples"]),
            ]
        )
    return cells


def error_bars(results: Results) -> Cells:
    """Data and factor by the share of rows whose error is larger than estimated."""
    factors = results.values("error_bars", "factor")
    cells = [
        [
            "data",
            *(
                "rows of the data" if factor == 1 else f"stretched {factor:g} times"
                for factor in factors
            ),
        ]
    ]
    for data in results.values("error_bars", "data"):
        found = [results.row("error_bars", data=data, factor=factor) for factor in factors]
        cells.append(
            [
                data,
                *(
                    f"{row['rows that exceed it']:.1%} "
                    f"(largest error {row['largest error, nats']:g})"
                    for row in found
                ),
            ]
        )
    return cells


def paths(results: Results) -> Cells:
    columns = (
        "action before",
        "action",
        "length before",
        "length",
        "evaluations per row",
        "ms per step",
    )
    cells = [["choice", "below the truth, nats", *columns]]
    for row in results.rows("paths", target="checkerboard"):
        below = f"{row['below the truth, nats']} ± {row['standard error']}"
        cells.append([row["choice"], below, *(shown(row.get(column)) for column in columns)])
    return cells


def noise_level(epsilon: float) -> str:
    return "0 (ODE)" if epsilon == 0 else shown(epsilon)


def checkerboard(results: Results) -> Cells:
    name, gammas = "latent-checkerboard", {"sqrt(t (1 - t))": "noise term", "none": "no noise term"}
    titles = [f"{what}, {title}" for what in ("KL", "outside") for title in gammas.values()]
    cells = [["noise level", *titles]]
    for epsilon in results.values(name, "epsilon"):
        found = [results.row(name, gamma=gamma, epsilon=epsilon) for gamma in gammas]
        outside = [f"{row['outside']:.1%}" for row in found]
        cells.append([noise_level(epsilon), *(f"{row['KL, nats']:.3f}" for row in found), *outside])
    return cells


def noise_scales(results: Results) -> Cells:
    """Scales of the noise term by noise levels: mean and variance of the absolute error."""
    name = "latent-scales"
    (truth,) = results.rows(name, gamma="true samples")
    found = [row for row in results.rows(name) if row["gamma"] != "true samples"]
    epsilons = list(dict.fromkeys(row["epsilon"] for row in found))
    cells = [["gamma", *(f"noise level {noise_level(epsilon)}" for epsilon in epsilons)]]
    for gamma in dict.fromkeys(row["gamma"] for row in found):
        rows = [results.row(name, gamma=gamma, epsilon=epsilon) for epsilon in epsilons]
        cells.append([gamma, *(f"{row['mean']:.3f} ({row['variance']:.3f})" for row in rows)])
    of_truth = f"{truth['mean']:.3f} ({truth['variance']:.3f})"
    return [*cells, ["true samples", of_truth, *[""] * (len(epsilons) - 1)]]


def mixture(results: Results) -> Cells:
    name, pairs = "latent-mixture", ("b, s", "b, eta", "v, s", "v, eta")
    cells = [["noise level", *(pair.replace(", ", " and ") for pair in pairs)]]
    for epsilon in results.values(name, "epsilon"):
        found = [results.row(name, learned=pair, epsilon=epsilon) for pair in pairs]
        cells.append([noise_level(epsilon), *(f"{row['KL, nats']:.3f}" for row in found)])
    return cells


def bsds300(results: Results) -> Cells:
    cells = [["method", "patches", "nats per patch", "above the Gaussian"]]
    for row in results.rows("bsds300"):
        above, error = row.get("above the Gaussian", 0.0), row.get("its error")
        patches = f"{row['patches']:,} of our 20 images" if "patches" in row else "test images"
        cells.append(
            [
                row["method"],
                patches,
                with_error(row),
                f"{above:.1f}" + (f" ± {error:.1f}" if error else ""),
            ]
        )
    return cells


def markdown(cells: Cells) -> str:
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def restructured(cells: Cells) -> str:
    lines = [".. list-table::", "    :header-rows: 1", ""]
    for row in cells:
        lines += [f"    {'*' if i == 0 else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines)


def quick_start(results: Results) -> str:
    run = runs("quickstart", results.folder)[0]
    found = sorted(run["rows"], key=lambda row: row["log-likelihood"])
    first = found[0]
    shape = f"{first['held-out rows']} held-out rows x {first['columns']} columns"
    score = f"log-likelihood of {shape}, nats per row"
    cells = [["method (tuned by cross-validation, ours not)", score]]
    cells += map(
        list, zip([row["method"] for row in found], best_in_bold(found, plain), strict=True)
    )
    minutes = max(1, round(first["processor minutes"]))
    took = (
        f"It took {minutes} minute{'s' if minutes > 1 else ''} of processor time on one core "
        f"({run['machine']}), {first['minutes']} minutes of wall time."
    )
    then = "Progress goes to standard error; at the end, the example prints:"
    return f"{took} {then}\n\n{markdown(cells)}"


def readme_defaults(results: Results) -> str:
    small, large = (defaults(results, name, plain) for name in ("defaults-small", "defaults-large"))
    return markdown([*small, *large[1:]])


def readme_equal_time(results: Results) -> str:
    methods = (*PEERS, OURS)
    ours, nsf, times = (
        span(results.values("rates", column))
        for column in ("scored per s", "NSF, scored per s", "times")
    )
    before = (
        "Against other methods given 60 s each on the same two cores (first fold, nats per row; "
        f"ours ran with defaults, {seconds_of_ours(results)} s):"
    )
    after = (
        "`python benchmarks/equal_time.py --data-dir DIR`. The price is speed: the trained field "
        f"scores {ours} rows per second on one thread, {times} times as many as at commit f51299d, "
        f"and zuko's NSF {nsf}: `python benchmarks/rates.py --data-dir DIR --old DIR`."
    )
    return f"{before}\n\n{markdown(equal_time(results, methods))}\n\n{after}"


def with_source(name: str, table: Callable[[Results], Cells]) -> Callable[[Results], str]:
    """A table below the commands that measured it."""
    return lambda results: f"{results.source(name)}\n\n{restructured(table(results))}"


def which_equal_time(results: Results) -> str:
    methods = ("KernelDensity", "GaussianMixture", "zuko NSF", "nflows RQ-NSF", OURS, STUDENT)
    return (
        f"Ours took {seconds_of_ours(results)} s.\n\n{restructured(equal_time(results, methods))}"
    )


_GROWTH = ("fit, s", "rows scored per s")
_SOLVER = (
    "solver",
    "atol",
    "mean error",
    "99th percentile",
    "largest error",
    "error of the mean",
    "above atol",
    "reported",
)
_RATES = (
    "data",
    "scored per s",
    "f51299d, scored per s",
    "times",
    "NSF, scored per s",
    "sampled per s",
    "f51299d, sampled per s",
    "NSF, sampled per s",
)
_RATE_ERRORS = (
    "data",
    "log-likelihood",
    "log-likelihood, exact",
    *(
        f"{what}, {kind}"
        for kind in ("data", "tail", "uniform")
        for what in ("mean error", "exceed")
    ),
)
_STUDENTS = (
    "data",
    "widths",
    "distillation, s",
    "nats lost",
    "scored per s",
    "trained field, scored per s",
    "NSF, scored per s",
)
_BRIDGES = (
    "epsilon",
    "rows",
    "steps",
    "fit, CPU s",
    "variance, %",
    "drift, %",
    "defect",
    "drift of the sample, %",
)
_REFLOW = (
    "flow",
    "fit, CPU s",
    "straightness",
    "evaluations per row",
    "below the truth, nats",
    "standard error",
    "solved",
    "one step",
)
_LATENCY = ("data", "fit", "one row", "contains, first call", "contains, one row", "map")
_REGRESSION = (
    "data",
    "method",
    "splits",
    "log-likelihood",
    "standard error",
    "CRPS",
    "coverage",
    "not uniform",
    "slowest split, s of CPU",
)
_IMAGES = (
    "method",
    "bits per dimension",
    "Monte Carlo",
    "solver",
    "rows",
    "test images",
    "steps",
    "fit to samples, s",
    "fit, s of CPU",
    "peak, MB",
)
TABLES: dict[str, Callable[[Results], str]] = {
    "README quick start": quick_start,
    "README defaults": readme_defaults,
    "README equal time": readme_equal_time,
    "which: defaults on small data": lambda results: restructured(
        defaults(results, "defaults-small", with_error)
    ),
    "which: simple peers": with_source("simple_peers", simple_peers),
    "outliers": with_source("outliers", outliers),
    "outlier alarms": lambda results: restructured(outlier_alarms(results)),
    "which: equal time": which_equal_time,
    "which: speed": lambda results: restructured(speed(results)),
    "defaults on small data": with_source(
        "defaults-small", lambda results: defaults_with_worst(results, "defaults-small")
    ),
    "defaults on large data": with_source(
        "defaults-large", lambda results: defaults_with_worst(results, "defaults-large")
    ),
    "equal time": with_source(
        "equal_time", lambda results: equal_time(results, (*PEERS, OURS, STUDENT), with_error)
    ),
    "gains at equal time": gains,
    "speed at equal time": with_source("equal_time", speed_at_equal_time),
    "student at equal time": students,
    "students": with_source("students", columns_of("students", _STUDENTS)),
    "rates": with_source("rates", columns_of("rates", _RATES)),
    "errors of scores": with_source("rates", columns_of("rates", _RATE_ERRORS)),
    "latency": with_source("latency", columns_of("latency", _LATENCY)),
    "speed of the defaults": lambda results: restructured(speed_of_defaults(results)),
    "RNADE protocol": with_source("rnade", rnade),
    "growth with rows": with_source(
        "growth-rows",
        columns_of(
            "growth-rows",
            ("rows", "data, MB", *_GROWTH, "before, MB", "peak of fit, MB", "peak of score, MB"),
        ),
    ),
    "growth with dimensions": with_source(
        "growth-dimensions",
        columns_of(
            "growth-dimensions", ("dimension", *_GROWTH, "peak of fit, MB", "peak of score, MB")
        ),
    ),
    "larger than memory": with_source(
        "larger_than_memory",
        columns_of(
            "larger_than_memory",
            ("what", "rows", "s", "rows per s", "before, MB", "own, MB", "peak, MB"),
        ),
    ),
    "processes": with_source(
        "processes",
        columns_of(
            "processes",
            ("kind", "processes", "rows", "ms", "CPU, ms", "speed-up", "sum, ms", "predicted, ms"),
        ),
    ),
    "kills": with_source(
        "kills",
        columns_of("kills", ("killed rank", "s", "resumed on", "ranks equal", "distance")),
    ),
    "training steps": with_source("training_step", training_steps),
    "cost of fields": with_source("cost-field", cost_of_fields),
    "floor of fields": floor_of_fields,
    "cost of solvers": with_source(
        "cost-solver",
        columns_of("cost-solver", (*_SOLVER, "evaluations per row"), precision="float64"),
    ),
    "atoms": with_source("atoms", atoms),
    "regression": with_source("regression", columns_of("regression", _REGRESSION)),
    "images of digits": with_source("images-digits", columns_of("images-digits", _IMAGES)),
    "error bars": with_source("error_bars", error_bars),
    "masses": with_source(
        "masses",
        columns_of(
            "masses",
            (
                "data",
                "mass minus one",
                "estimated error of the mass",
                "points of the grid",
                "points per s",
            ),
        ),
    ),
    "bridges": with_source("bridges", columns_of("bridges", _BRIDGES)),
    "reflow": with_source("reflow", columns_of("reflow", _REFLOW)),
    "paths": with_source("paths", paths),
    "checkerboard": with_source("latent-checkerboard", checkerboard),
    "noise scales": with_source("latent-scales", noise_scales),
    "mixture": with_source("latent-mixture", mixture),
    "BSDS300": with_source("bsds300", bsds300),
}
_MARKED = re.compile(
    r"^(?P<begin><!-- table: (?P<md>[^\n]+?) -->|\.\. table: (?P<rst>[^\n]+))\n"
    r".*?"
    r"^(?P<end><!-- end of table -->|\.\. end of table)$",
    re.M | re.S,
)


def marked(text: str) -> list[str]:
    """Names of the tables of a document."""
    return [found["md"] or found["rst"] for found in _MARKED.finditer(text)]


def updated(text: str, results: Results) -> str:
    """The document with its tables written anew.

    Raises
    ------
    KeyError
        If a marker names no table.
    """
    return _MARKED.sub(
        lambda found: (
            f"{found['begin']}\n\n{TABLES[found['md'] or found['rst']](results)}\n\n{found['end']}"
        ),
        text,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a document differs"
    )
    options = arguments.parse_args()
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        new = updated(text, Results())
        if new != text:
            stale.append(name)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    if stale:
        outcome = "Differ from their result files" if options.check else "Written"
        print(f"{outcome}: {', '.join(stale)}", file=sys.stderr)
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
