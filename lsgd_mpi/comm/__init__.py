"""The one room that talks: MPI communicators for small decisions, Horovod for large tensors.

Nothing outside it imports mpi4py or Horovod.
"""

from __future__ import annotations

from lsgd_mpi.comm.agreement import check_equal, on_rank_zero, raise_together, together, watch_agreements
from lsgd_mpi.comm.communicator import Communicator, Traffic
from lsgd_mpi.comm.libraries import (
    abort,
    facts,
    mpi_libraries,
    mpi_library_files,
    mpi_rank_and_size,
)
from lsgd_mpi.comm.start import start
from lsgd_mpi.comm.watchdog import Watchdog

__all__ = [
    "Communicator",
    "Traffic",
    "Watchdog",
    "abort",
    "check_equal",
    "facts",
    "mpi_libraries",
    "mpi_library_files",
    "mpi_rank_and_size",
    "on_rank_zero",
    "raise_together",
    "start",
    "together",
    "watch_agreements",
]
