"""Process groups of a few ranks on this machine, for tests."""

import datetime
import multiprocessing
import os
import signal

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
"""A server that imports the package once for all processes."""
CONTEXT.set_forkserver_preload(["skinterflow", "tests.helpers"])
SECONDS, MOST_SECONDS = 100.0, 600.0
"""Timeouts of the groups, and of the processes: a busy machine is no failure."""


def run_ranks(work, n_ranks, folder, *arguments):
    """Run ``work(folder, *arguments)`` on each rank of a new group, and return the results.

    The result of a rank that was killed is None.
    """
    paths = [os.path.join(folder, f"{k} of {n_ranks}.pt") for k in range(n_ranks)]
    processes = [
        CONTEXT.Process(target=_ranked, args=(rank, n_ranks, str(folder), work, arguments))
        for rank in range(n_ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(MOST_SECONDS)
        process.kill()
    return [
        torch.load(path, weights_only=False) if os.path.isfile(path) else None for path in paths
    ]


def _ranked(rank, n_ranks, folder, work, arguments):
    # Ignored in what a shell starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(os.path.join(folder, f"store{n_ranks}"), n_ranks),
        rank=rank,
        world_size=n_ranks,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    result = work(folder, *arguments)
    torch.save(result, os.path.join(folder, f"{rank} of {n_ranks}.pt"))
    if dist.is_initialized():
        dist.destroy_process_group()
