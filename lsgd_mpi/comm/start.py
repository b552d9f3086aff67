"""From the processes that a launcher started to a communicator with groups."""

from __future__ import annotations

import os
from contextlib import nullcontext

import torch

from lsgd_mpi.background import CYCLE_TIME_MS, giving_way
from lsgd_mpi.comm.agreement import check_equal, raise_together, together
from lsgd_mpi.comm.communicator import Communicator
from lsgd_mpi.comm.libraries import MPI, hvd, mpi_library_files, thread_level
from lsgd_mpi.comm.route import process_sets
from lsgd_mpi.comm.watchdog import Watchdog
from lsgd_mpi.errors import SetupError
from lsgd_mpi.groups import GroupSpec, make_topology
from lsgd_mpi.launcher import broken_promise, promise


def start(spec: GroupSpec, watchdog: Watchdog, horovod_gives_way: bool = False) -> Communicator:
    """Check MPI, find the groups that ``spec`` asks for, and start Horovod with their process sets.

    ``watchdog`` then watches the collectives of the communicator, but its end. ``horovod_gives_way`` says
    whether Horovod's threads leave the cores to the training, if there is no GPU.

    Collective over the world. Raises, on all ranks alike, `UsageError` for impossible or differing groups
    and `SetupError` if the launcher, MPI and Horovod do not fit together.
    """
    raise_together(_mpi_problem())
    check_equal("groups", spec)
    with watchdog.waiting("an exchange of the hosts' names"):
        hosts = MPI.COMM_WORLD.allgather(MPI.Get_processor_name())
    topology = together(lambda: make_topology(spec, hosts))
    sets = {members: hvd.ProcessSet(list(members)) for members in process_sets(topology)}
    os.environ.setdefault("HOROVOD_CYCLE_TIME", str(CYCLE_TIME_MS))
    with (
        watchdog.waiting("the start of Horovod on all ranks"),
        giving_way() if horovod_gives_way and not torch.cuda.is_available() else nullcontext(),
    ):
        world = MPI.COMM_WORLD.Dup()
        hvd.init(comm=world, process_sets=list(sets.values()))
    raise_together(_horovod_problem())
    return Communicator(topology, world, sets, watchdog)


def _mpi_problem() -> SetupError | None:
    broken = broken_promise(promise(), MPI.COMM_WORLD.Get_size())
    if broken:
        return SetupError(broken)
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return SetupError(
            f"MPI runs with thread level {thread_level()}, Horovod's background thread "
            "needs MPI_THREAD_MULTIPLE: import lsgd_mpi before anything that starts MPI, do not set "
            "MPI4PY_RC_THREAD_LEVEL, and use an MPI library that was built with thread support"
        )
    if not hvd.mpi_built():
        return SetupError("Horovod was built without MPI: build it again with bin/setup --rebuild")
    files = mpi_library_files()
    if len(files) > 1:
        return SetupError(
            f"mpi4py and Horovod use different MPI libraries ({' and '.join(files)}): build Horovod again "
            "with bin/setup --rebuild, and let neither LD_PRELOAD nor MPI4PY_LIBMPI name another"
        )
    return None


def _horovod_problem() -> SetupError | None:
    if (hvd.size(), hvd.rank()) == (MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank()):
        return None
    return SetupError(
        f"Horovod has rank {hvd.rank()} of {hvd.size()} where MPI has rank {MPI.COMM_WORLD.Get_rank()} of "
        f"{MPI.COMM_WORLD.Get_size()}: start with mpirun, srun --mpi=pmix or horovodrun --mpi"
    )
