"""Process groups of a few ranks on this machine, for tests."""

import datetime
import os

import torch
import torch.distributed as dist
import torch.multiprocessing

TIMEOUT = 60


def run_ranks(work, n_ranks, folder, *arguments):
    """Run ``work(folder, *arguments)`` on each rank of a new group, and return the results."""
    torch.multiprocessing.spawn(_ranked, (n_ranks, str(folder), work, arguments), n_ranks)
    return [torch.load(os.path.join(folder, f"{k}.pt"), weights_only=False) for k in range(n_ranks)]


def _ranked(rank, n_ranks, folder, work, arguments):
    join_group(rank, n_ranks, os.path.join(folder, f"store{n_ranks}"))
    torch.save(work(folder, *arguments), os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def join_group(rank, n_ranks, path, seconds=TIMEOUT):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(path, n_ranks),
        rank=rank,
        world_size=n_ranks,
        timeout=datetime.timedelta(seconds=seconds),
    )
