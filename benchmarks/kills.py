"""Kill one of two processes at random moments of a fit, ten times; resume on one, two and three.

    python benchmarks/kills.py [--kills 10]

A row says how many seconds the other process took to raise its error, at which step its checkpoint
was, on how many processes the fit was resumed, and how far its weights are from those of a fit
that was not interrupted, relative to their size.
"""

import datetime
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from _common import Record, parser, report, rounded, write_table

from skinterflow import InterpolantFlowDensity, ProcessGroupError
from skinterflow._persistence import checkpoint

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["skinterflow"])
SECONDS = 600.0
"""Timeout of the groups."""
X = np.random.default_rng(0).normal(size=(301, 2)) ** 3


def density(path: Path | None) -> InterpolantFlowDensity:
    return InterpolantFlowDensity(
        hidden_layer_sizes=(16, 16),
        max_iter=300,
        batch_size=64,
        early_stopping=False,
        random_state=0,
        checkpoint=path,
    )


def fit(rank: int, size: int, folder: str, path: Path | None, number: int) -> None:
    """Fit on a rank; leave the weights, or the error and its time."""
    torch.set_num_threads(1)
    checkpoint._SECONDS = 0.0
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(os.path.join(folder, f"store{number}"), size),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    try:
        fitted = density(path).fit(X)
        found: Any = weights(fitted)
    except ProcessGroupError as error:
        found = str(error), time.monotonic()
    torch.save(found, os.path.join(folder, f"result{number}-{rank}"))


def weights(fitted: InterpolantFlowDensity) -> torch.Tensor:
    return torch.cat([part.flatten() for part in fitted._trained.state_dict().values()])


def start(size: int, folder: str, path: Path | None, number: int) -> list[Any]:
    processes = [
        CONTEXT.Process(target=fit, args=(rank, size, folder, path, number)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def result(folder: str, number: int, rank: int) -> Any:
    return torch.load(os.path.join(folder, f"result{number}-{rank}"), weights_only=False)


def kill_one(folder: str, number: int, whole: torch.Tensor) -> Record:
    """Kill a rank after its first checkpoint, at a random moment; resume on another number."""
    path = Path(folder) / f"checkpoint{number}"
    processes, victim, size = start(2, folder, path, number), random.randrange(2), 1 + number % 3
    while not path.exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 3.0))
    os.kill(processes[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    for process in processes:
        process.join()
    row: Record = {"killed rank": victim, "resumed on": size}
    finished = Path(folder, f"result{number}-{1 - victim}").is_file() and not path.exists()
    if not finished:
        message, raised = result(folder, number, 1 - victim)
        row["s"] = rounded(raised - killed)
        row["error"] = message.split(";")[0]
    again = start(size, folder, path, 100 + number)
    for process in again:
        process.join()
    resumed = [result(folder, 100 + number, rank) for rank in range(size)]
    row["ranks equal"] = all(torch.equal(resumed[0], one) for one in resumed)
    row["distance"] = rounded(float((resumed[0] - whole).norm() / whole.norm()))
    report(row)
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=10)
    random.seed(0)
    torch.set_num_threads(1)
    whole = weights(density(None).fit(X))
    with tempfile.TemporaryDirectory() as folder:
        n = arguments.parse_args().kills
        table = [kill_one(folder, number, whole) for number in range(n)]
    write_table(table, "kills", arguments)


if __name__ == "__main__":
    main()
