"""What a log-density costs: its one expensive part, and how accuracy trades against work.

    python benchmarks/cost.py field                         # value and divergence by dimension,
    depth, width, precision python benchmarks/cost.py solver --data-dir DIR         # log-density
    error against work, by solver and tolerance

``field``: seconds of `ResidualMLP.value_and_divergence`, exact, at one time and `--rows` rows,
against a plain forward pass, and against a floor: the multiply-adds that the matrix products need
over the rate at which this machine multiplies large matrices in that precision, measured in the
same run.  A forward pass needs
``D H + (L-1) H^2 + H D`` a row for L hidden layers of width H; its divergence ``H^2`` more for two
layers (the closed form; almost nothing for one), and ``D (L-1) H^2`` more for deeper ones, the D
tangents through the hidden layers.  Elementwise work is not in the floor.

``solver``: a fit on white wine (first fold), then the log-densities of test rows by every solver
and absolute tolerance, the relative one zero, against rk4 at 1e-9 in float64.  Work is counted:
rows that pass through value_and_divergence, per row of input.  "Above atol" is the share of rows
whose true error exceeds the tolerance, and "reported" the share that the solver itself reported as
such.
"""

import argparse
import copy
import time
import warnings
from pathlib import Path

import torch
from _common import (
    Record,
    environment,
    fold,
    load,
    median_seconds,
    parser,
    report,
    rounded,
    save_table,
    some_rows,
    synchronize,
    write_table,
)
from torch import Tensor

from skinterflow import InterpolantFlowDensity
from skinterflow.interflow import Flow, Pushforward, ResidualMLP, Solver, VelocityField

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_REFERENCE = Solver("rk4", atol=1e-9, rtol=0.0, max_refinements=9)


def matrix_rate(dtype: torch.dtype, device: str, size: int = 2_048) -> float:
    """Multiply-adds per second in a product of large square matrices."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return size**3 / median_seconds(lambda: a @ b, min_seconds=1.0, device=device)


def multiply_adds(n_features: int, depth: int, width: int) -> tuple[int, int]:
    """Of the matrix products, per row: a forward pass, and value and divergence together."""
    forward = 2 * n_features * width + (depth - 1) * width**2
    tangents = {1: 0, 2: 1}.get(depth, n_features * (depth - 1))
    return forward, forward + tangents * width**2


def field_cost(
    n_features: int, depth: int, width: int, dtype: str, rate: float, options: argparse.Namespace
) -> Record:
    """One row of the table ``field``."""
    field = ResidualMLP(n_features, (width,) * depth).to(options.device, _DTYPES[dtype])
    torch.nn.init.normal_(field.out.weight, std=width**-0.5)  # zero at first
    x = torch.randn(options.rows, n_features, dtype=_DTYPES[dtype], device=options.device)
    t = torch.tensor(0.5, dtype=_DTYPES[dtype], device=options.device)
    with torch.no_grad():
        forward = median_seconds(lambda: field(t, x), device=options.device)
        both = median_seconds(lambda: field.value_and_divergence(t, x), device=options.device)
    floors = [options.rows * count / rate for count in multiply_adds(n_features, depth, width)]
    return {
        "dimension": n_features,
        "hidden layers": depth,
        "width": width,
        "precision": dtype,
        "forward, ms": rounded(1e3 * forward),
        "with divergence, ms": rounded(1e3 * both),
        "times forward": rounded(both / forward),
        "forward, times floor": rounded(forward / floors[0]),
        "with divergence, times floor": rounded(both / floors[1]),
        "rows per s": rounded(options.rows / both),
    }


def field_table(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    rates = {dtype: matrix_rate(_DTYPES[dtype], options.device) for dtype in options.dtypes}
    for dtype, rate in rates.items():
        print(f"{dtype}: {rate / 1e9:.0f} G multiply-adds per s in a large matrix product")
    table: list[Record] = []
    for dtype, rate in rates.items():
        for n_features in options.dimensions:
            for depth in options.depths:
                for width in options.widths:
                    table.append(field_cost(n_features, depth, width, dtype, rate, options))
                    report(table[-1])
                    save_table(table, "cost-field")
    print(f"{options.rows} rows at a time; {environment(options.device)}\n")
    write_table(table, "cost-field", arguments, options.device)


class Counted(VelocityField):
    """A field that counts the rows which pass through it."""

    def __init__(self, field: VelocityField) -> None:
        super().__init__()
        self.field = field
        self.n_features = field.n_features
        self.n_rows = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.n_rows += len(x)
        return self.field(t, x)

    def value_and_divergence(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        self.n_rows += len(x)
        return self.field.value_and_divergence(t, x)


def solve(
    field: VelocityField, end_time: float, solver: Solver, u: Tensor
) -> tuple[Record, Tensor]:
    """Work and time of the log-densities of `u`, in flow units, and the log-densities."""
    counted = Counted(field)
    density = Pushforward(Flow(counted, solver, end_time))
    synchronize(u.device)
    started = time.perf_counter()
    measured = density.measured_log_prob(u)
    synchronize(u.device)
    seconds = time.perf_counter() - started
    row = {
        "evaluations per row": round(counted.n_rows / len(u), 1),
        "rows per s": rounded(len(u) / seconds),
        "reported": rounded(float(measured.unresolved.double().mean())),
    }
    return row, measured.value.double()


def field_as(estimator: InterpolantFlowDensity, dtype: str, device: str) -> VelocityField:
    """Copy of the fitted field."""
    return copy.deepcopy(estimator._field).to(device, _DTYPES[dtype])


def errors(log_prob: Tensor, reference: Tensor, atol: float) -> Record:
    error = (log_prob - reference).abs()
    return {
        "mean error": rounded(float(error.mean())),
        "99th percentile": rounded(float(error.quantile(0.99))),
        "largest error": rounded(float(error.max())),
        "error of the mean": rounded(float((log_prob - reference).mean().abs())),
        "above atol": rounded(float((error > atol).double().mean())),
    }


def solver_table(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    train, test = fold(load("white wine", options.data_dir), 0)
    max_iter = "auto" if options.max_iter is None else options.max_iter
    estimator = InterpolantFlowDensity(random_state=0, max_iter=max_iter, device=options.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # integer-valued columns
        estimator.fit(train)
    # The scaling's log-determinant is the same for every solver and cancels in the error.
    u = estimator._target(torch.from_numpy(some_rows(test, options.rows))).to(options.device)
    end_time = estimator.end_time_
    reference_row, reference = solve(
        field_as(estimator, "float64", options.device), end_time, _REFERENCE, u
    )
    print(f"reference: {reference_row}")
    table: list[Record] = []
    for dtype in options.dtypes:
        field = field_as(estimator, dtype, options.device)
        for method in options.solvers:
            for atol in options.atols:
                row, log_prob = solve(
                    field, end_time, Solver(method, atol=atol, rtol=0.0), u.to(_DTYPES[dtype])
                )
                table.append(
                    {
                        "solver": method,
                        "precision": dtype,
                        "atol": atol,
                        **errors(log_prob, reference, atol),
                        **row,
                    }
                )
                report(table[-1])
                save_table(table, "cost-solver")
    print(
        f"{len(u)} rows of white wine, {estimator!r}, end time {end_time:g}; "
        f"{environment(options.device)}\n"
    )
    write_table(table, "cost-solver", arguments, options.device)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("table", choices=("field", "solver"))
    arguments.add_argument("--dtypes", nargs="+", default=list(_DTYPES), choices=_DTYPES)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument(
        "--rows", type=int, help="rows at a time (1,024) for field, test rows (490) for solver"
    )
    arguments.add_argument("--dimensions", nargs="+", type=int, default=[2, 8, 32, 64, 128, 256])
    arguments.add_argument("--depths", nargs="+", type=int, default=[1, 2, 4])
    arguments.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256, 512])
    arguments.add_argument("--data-dir", type=Path, help="folder with the data sets, for solver")
    arguments.add_argument(
        "--max-iter", type=int, help="steps of the fit, for a quick look instead of the defaults"
    )
    arguments.add_argument(
        "--solvers", nargs="+", default=["rk4", "heun3", "midpoint", "euler", "dopri5"]
    )
    arguments.add_argument(
        "--atols", nargs="+", type=float, default=[1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    )
    options = arguments.parse_args()
    if options.table == "field":
        options.rows = options.rows or 1_024
        field_table(arguments, options)
    else:
        solver_table(arguments, options)


if __name__ == "__main__":
    main()
