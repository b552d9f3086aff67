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
    """The device of this rank, the same kind on all; ``auto`` takes a GPU a rank where it can. Collective.

    Raises `SetupError` on all ranks if ``cuda`` was asked for and one of them cannot have it.
    """
    local_rank = communicator.topology.local_rank(communicator.world_rank)
    reason = None
    if not torch.cuda.is_available():
        reason = "torch finds no GPU"
    elif communicator.world_size > 1 and not comm.horovod_has_nccl():
        reason = "Horovod was built without NCCL (build it again with bin/setup --nccl yes)"
    elif local_rank >= torch.cuda.device_count():
        reason = f"there are {torch.cuda.device_count()} GPUs for more ranks, and NCCL takes one rank a GPU"
    if asked == "cuda":
        comm.raise_together(SetupError(f"--device cuda: {reason}; or use --device cpu") if reason else None)
    if asked == "cpu" or any(communicator.gather(reason)):
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
