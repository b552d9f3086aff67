"""Where a rank computes: its device and its share of the node's cores."""

from __future__ import annotations

import os

import torch

from lsgd_mpi import comm
from lsgd_mpi.errors import SetupError, UsageError


def use_threads(asked: int | None, communicator: comm.Communicator) -> int:
    """Set and return the number of threads this rank computes with. Collective.

    ``asked``, or what ``OMP_NUM_THREADS`` says, or else this rank's part of the cores it may run on: by
    default every process would take them all. Raises `UsageError` for more than there are.
    """
    cores = tuple(sorted(os.sched_getaffinity(0)))
    host = communicator.topology.hosts[communicator.world_rank]
    sharing = communicator.gather((host, cores)).count((host, cores))
    if asked is None and os.environ.get("OMP_NUM_THREADS", "").isdigit():
        asked = min(int(os.environ["OMP_NUM_THREADS"]), len(cores))
    too_many = asked is not None and asked > len(cores)
    comm.raise_together(
        UsageError(f"--threads {asked}: a rank can use {len(cores)} cores here") if too_many else None
    )
    threads = asked or max(1, len(cores) // sharing)
    torch.set_num_threads(threads)
    return threads


def choose_device(asked: str, communicator: comm.Communicator) -> torch.device:
    """The device of this rank, the same kind on all; ``auto`` takes GPUs where every rank sees one.

    Ranks take the GPUs of their node in turn. A rank that is shown one GPU alone, as by SLURM's
    --gpus-per-task, takes that one. Collective. Raises `SetupError` on all ranks if ``cuda`` was asked for
    and one of them has none.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_none = any(communicator.gather(seen == 0))
    if asked == "cuda" and has_none:
        lacking = None if seen else SetupError("--device cuda: torch finds no GPU; or use --device cpu")
        comm.raise_together(lacking)
    if asked == "cpu" or has_none:
        return torch.device("cpu")
    device = torch.device("cuda", communicator.topology.local_rank(communicator.world_rank) % seen)
    torch.cuda.set_device(device)
    return device
