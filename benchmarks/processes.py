"""Training steps and scoring on one, two and three processes, and what the cost model says.

    python benchmarks/processes.py

All processes are on this machine, with one thread each.  Milliseconds are medians of the time that
passes, and of the processor time of the busiest process; they differ if other programs run, or if
there are more processes than cores.  The model of a step is

    max(n, cores) / cores * (fixed + rows * batch_size / n) + send

with `fixed` and `rows` from steps of two sizes on one process, and `send` the time of one sum of as
many numbers over the n processes, which is measured alone.  The last rows extrapolate to GPUs, with
assumed rates.
"""

import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from _common import Record, parser, report, rounded, write_table

from skinterflow import InterpolantFlowDensity, all_ranks
from skinterflow.interflow import Beta, PathObjective, ResidualMLP, Training, Trigonometric
from skinterflow.interflow.processes import share, total

N_FEATURES, WIDTHS = 10, (128,) * 4
BATCH, SMALL_BATCH = 8_192, 1_024
STEPS, SUMS = 12, 20
SCORED_ROWS = 8_192
SIZES = (1, 2, 3)
EXTRAPOLATED_BATCH = 2**17
GPU_RATE, NETWORK = 10e12, 10e9
"""Assumed operations a second of a GPU in training, and bytes a second between two of them."""


def timed(work: Callable[[], Any], n: int) -> list[tuple[float, float]]:
    """Milliseconds that pass, and of the processor, of each of `n` runs after a first one."""
    found = []
    for _ in range(n + 1):
        dist.barrier()
        passed, busy = time.perf_counter(), time.process_time()
        work()
        found.append((1e3 * (time.perf_counter() - passed), 1e3 * (time.process_time() - busy)))
    return found[1:]


def busiest(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Medians over the runs, and the largest over the processes."""
    medians = torch.tensor([statistics.median(part) for part in zip(*times, strict=True)])
    dist.all_reduce(medians, dist.ReduceOp.MAX)
    return tuple(medians.tolist())


def steps(batch_size: int) -> Callable[[], Any]:
    """One training step a call, as in a fit: every process draws the whole batch."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(100_000, N_FEATURES, generator=generator)
    field = ResidualMLP(N_FEATURES, WIDTHS, generator=generator)
    objective = PathObjective(field, Trigonometric(), Beta())
    training = Training(objective, max_iter=10_000, hidden_weights=field.hidden_weights())

    def batches() -> Any:
        while True:
            x1 = rows[torch.randint(len(rows), (batch_size,), generator=generator)]
            x0 = torch.randn(x1.shape, generator=generator)
            yield share([x0, x1, *objective.draw(x1, generator)]), None

    iterator = training.steps(batches())
    return lambda: next(iterator)


def measure(rank: int, folder: str) -> None:
    """Measure on groups of each size; processes that a group lacks wait for the next one."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(SCORED_ROWS, N_FEATURES, generator=generator).numpy()
    density = InterpolantFlowDensity(
        hidden_layer_sizes=WIDTHS, early_stopping=False, max_iter=20, random_state=0
    ).fit(X)
    for size in SIZES:
        if rank >= size:
            continue
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(os.path.join(folder, str(size)), size),
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(minutes=20),
        )
        with all_ranks():
            found = {
                name: busiest(timed(work, n))
                for name, work, n in (
                    ("small step", steps(SMALL_BATCH), STEPS),
                    ("step", steps(BATCH), STEPS),
                    ("sum", lambda flat=torch.zeros(n_parameters()): total(flat), SUMS),
                    ("scoring", lambda: density.score_samples(X), 3),
                )
            }
        if rank == 0:
            torch.save(found, os.path.join(folder, f"found{size}"))
        dist.destroy_process_group()


def n_parameters() -> int:
    return sum(p.numel() for p in ResidualMLP(N_FEATURES, WIDTHS).parameters())


def predicted(found: dict[int, Any], size: int) -> float:
    """Milliseconds of a step by the cost model."""
    small, large = found[1]["small step"][0], found[1]["step"][0]
    per_row = (large - small) / (BATCH - SMALL_BATCH)
    fixed = large - per_row * BATCH
    waits = max(size, os.cpu_count() or 1) / (os.cpu_count() or 1)
    send = found[size]["sum"][0] if size > 1 else 0.0
    return waits * (fixed + per_row * BATCH / size) + send


def extrapolated(batch_size: int, size: int) -> Record:
    """A step on GPUs: six operations a row and parameter, and a ring for the sum."""
    compute = 6.0 * n_parameters() * batch_size / size / GPU_RATE
    send = 2.0 * (size - 1) / size * 4.0 * n_parameters() / NETWORK
    return {
        "kind": "step on GPUs, extrapolated",
        "processes": size,
        "rows": batch_size,
        "predicted, ms": rounded(1e3 * (compute + send)),
    }


def epoch(size: int) -> Record:
    """The steps of 10^9 rows on GPUs."""
    step = extrapolated(EXTRAPOLATED_BATCH, size)["predicted, ms"]
    return {
        "kind": "10^9 rows on GPUs, extrapolated",
        "processes": size,
        "rows": 10**9,
        "predicted, ms": rounded(10**9 / EXTRAPOLATED_BATCH * step),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(measure, (folder,), max(SIZES))
        found = {size: torch.load(os.path.join(folder, f"found{size}")) for size in SIZES}
    table: list[Record] = []
    for kind, batch in (("small step", SMALL_BATCH), ("step", BATCH), ("scoring", SCORED_ROWS)):
        for size in SIZES:
            row: Record = {"kind": kind, "processes": size, "rows": batch}
            row["ms"], row["CPU, ms"] = map(rounded, found[size][kind])
            row["speed-up"] = rounded(found[1][kind][0] / found[size][kind][0])
            if kind == "step":
                row["sum, ms"] = rounded(found[size]["sum"][0])
                row["predicted, ms"] = rounded(predicted(found, size))
            table.append(row)
    table += [extrapolated(EXTRAPOLATED_BATCH, size) for size in (1, 8)] + [epoch(1), epoch(8)]
    for row in table:
        report(row)
    write_table(table, "processes", arguments)


if __name__ == "__main__":
    main()
