"""What a training step costs: ours, which simulates nothing, against maximum likelihood through an
ODE (zuko's CNF, which is FFJORD).

    python benchmarks/training_step.py
    python benchmarks/training_step.py --widths 64 64 64 --seconds 30

Both see the same batches, of the same size, with hidden layers of the same widths, and take whole
steps: loss, gradient, optimiser.  Ours is `train` with `PathObjective` and `ResidualMLP`, as the
estimator trains a single field; the CNF has zuko's tolerances (1e-6 absolute, 1e-5 relative) and
Adam at 1e-3, with the exact trace and with the unbiased one (Hutchinson, one probe).  An untrained
CNF is nearly the identity and cheap to integrate, so that steps are measured twice: the first ones,
and those after `--seconds` of training, which is a short training still.  The data are drawn from a
mixture of ten Gaussians with random covariances in 43 dimensions, as many as MINIBOONE has, and
standardised.  "Evaluations" counts the forward passes of the field in a step.  Times are medians
over the steps; the ratio is to our later steps.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from _common import (
    Record,
    environment,
    parser,
    report,
    rounded,
    save_table,
    shuffled_batches,
    synchronize,
    write_table,
)
from torch import Tensor, nn

from skinterflow.interflow import Beta, PathObjective, ResidualMLP, Trigonometric, train

_WIDTHS = ((64, 64, 64), (512, 512), (128, 128, 128, 128))
_N_ROWS = 20_000
_N_COMPONENTS = 10
_MIN_SECONDS = 1.0


def data(n_features: int) -> Tensor:
    """Standardised rows of a Gaussian mixture, float32."""
    random = np.random.default_rng(0)
    means = 2.0 * random.standard_normal((_N_COMPONENTS, n_features))
    factors = random.standard_normal((_N_COMPONENTS, n_features, n_features)) / np.sqrt(n_features)
    component = random.integers(_N_COMPONENTS, size=_N_ROWS)
    noise = random.standard_normal((_N_ROWS, n_features))
    X = means[component] + np.einsum("nij,nj->ni", factors[component], noise)
    return torch.from_numpy((X - X.mean(axis=0)) / X.std(axis=0)).float()


def batches(options: argparse.Namespace) -> Iterator[Tensor]:
    x = data(options.dimension).to(options.device)
    return (x[rows] for rows in shuffled_batches(len(x), options.batch_size))


def our_steps(
    widths: Sequence[int], options: argparse.Namespace
) -> tuple[nn.Module, Iterator[object]]:
    """The field and a stream of its training steps."""
    field = ResidualMLP(options.dimension, widths)
    objective = PathObjective(field, Trigonometric(), Beta(1.0, 0.5)).to(options.device)
    pairs = (((torch.randn_like(x1), x1), None) for x1 in batches(options))
    return field, train(objective, pairs, max_iter=10**9, hidden_weights=field.hidden_weights())


def cnf_steps(
    widths: Sequence[int], exact: bool, options: argparse.Namespace
) -> tuple[nn.Module, Iterator[object]]:
    """The same of a CNF."""
    from zuko.flows import CNF

    flow = CNF(options.dimension, hidden_features=tuple(widths), exact=exact).to(options.device)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)

    def steps() -> Iterator[Tensor]:
        for x in batches(options):
            loss = -flow().log_prob(x).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.detach()

    return flow.transform.ode, steps()


def timed(
    steps: Iterator[object],
    device: str,
    *,
    n_steps: int,
    seconds: float = 0.0,
    max_seconds: float = math.inf,
) -> list[float]:
    """Times of the next steps: so many, and for so many seconds, but one suffices once
    `max_seconds` have passed."""
    times: list[float] = []
    while (len(times) < n_steps or sum(times) < seconds) and sum(times) < max_seconds:
        synchronize(device)
        started = time.perf_counter()
        next(steps)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return times


def measure(method: str, widths: Sequence[int], options: argparse.Namespace) -> list[Record]:
    """Rows of the table: the first steps, and those after some training."""
    torch.manual_seed(0)
    field, steps = (
        our_steps(widths, options)
        if method == "ours"
        else cnf_steps(widths, method == "CNF, exact trace", options)
    )
    n_calls = 0

    def count(*_: object) -> None:
        nonlocal n_calls
        n_calls += 1

    field.register_forward_hook(count)
    n_done = len(timed(steps, options.device, n_steps=1))  # the very first also allocates
    rows: list[Record] = []
    for _ in range(2):
        n_calls = 0
        times = timed(
            steps,
            options.device,
            n_steps=options.steps,
            seconds=_MIN_SECONDS,
            max_seconds=options.max_seconds,
        )
        rows.append(
            {
                "hidden layers": "x".join(map(str, widths)),
                "method": method,
                "steps before": n_done,
                "steps": len(times),
                "evaluations": round(n_calls / len(times), 1),
                "ms a step": rounded(1e3 * statistics.median(times)),
            }
        )
        n_done += len(times)
        if len(rows) == 1:
            n_done += len(timed(steps, options.device, n_steps=0, seconds=options.seconds))
    return rows


def main() -> None:
    methods = ("ours", "CNF, unbiased trace", "CNF, exact trace")
    arguments = parser(__doc__)
    arguments.add_argument(
        "--widths", nargs="+", type=int, action="append", help="hidden layers; may be repeated"
    )
    arguments.add_argument(
        "--methods",
        nargs="+",
        default=methods,
        choices=methods,
        help="only these methods, ours first",
    )
    arguments.add_argument(
        "--seconds", type=float, default=60.0, help="training between the two measurements"
    )
    arguments.add_argument(
        "--steps", type=int, default=5, help="least number of steps in each measurement"
    )
    arguments.add_argument(
        "--max-seconds",
        type=float,
        default=60.0,
        help="longest measurement, though of one step at least",
    )
    arguments.add_argument("--batch-size", type=int, default=1_000)
    arguments.add_argument("--dimension", type=int, default=43)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    table: list[Record] = []
    for widths in options.widths or _WIDTHS:
        ours = None
        for method in options.methods:
            try:
                rows = measure(method, widths, options)
            except Exception as error:  # whatever a peer raises is its result
                rows = [
                    {
                        "hidden layers": "x".join(map(str, widths)),
                        "method": method,
                        "error": f"{type(error).__name__}: {error}",
                    }
                ]
            for row in rows:
                milliseconds = row.get("ms a step")
                ours = milliseconds if method == "ours" else ours
                if ours and milliseconds:
                    row["times ours"] = rounded(milliseconds / ours)
                table.append(row)
                report(row)
                save_table(table, "training_step")
    print(
        f"{options.dimension} dimensions, batches of {options.batch_size} rows; "
        f"{environment(options.device)}\n"
    )
    write_table(table, "training_step", arguments, options.device)


if __name__ == "__main__":
    main()
