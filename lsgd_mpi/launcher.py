"""What the launcher's environment promises, read before MPI starts, without MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

#: (launcher, variables with the rank, the size, and the rank on this node), the most specific first: a
#: process that mpirun started inside an srun step belongs to mpirun.
_VARIABLES = (
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("mpiexec (PMI)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("horovodrun --gloo", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Promise:
    """The place in the job that a launcher gave this process."""

    launcher: str
    rank: int
    size: int
    #: None where the launcher does not tell.
    local_rank: int | None = None


def promise(environment: Mapping[str, str] = os.environ) -> Promise | None:
    """What the launcher promised, or None for a process started without one."""
    for launcher, rank_name, size_name, local_name in _VARIABLES:
        local = environment.get(local_name, "")
        rank, size = environment.get(rank_name, ""), environment.get(size_name, "")
        if rank.isdigit() and size.isdigit():
            return Promise(launcher, int(rank), int(size), int(local) if local.isdigit() else None)
    return None


def broken_promise(promised: Promise | None, mpi_size: int) -> str | None:
    """One sentence if MPI found another number of ranks than the launcher promised, else None."""
    if promised is None or promised.size == mpi_size:
        return None
    remedies = {
        "horovodrun --gloo": "start with horovodrun --mpi",
        "srun": "start with srun --mpi=pmix",
    }
    remedy = remedies.get(
        promised.launcher,
        "use the mpirun of the MPI library that mpi4py and Horovod use (.venv/bin/mpirun after bin/setup)",
    )
    return (
        f"{promised.launcher} started {promised.size} processes but MPI sees {mpi_size}: the launcher and "
        f"the MPI library do not belong together; {remedy}"
    )
