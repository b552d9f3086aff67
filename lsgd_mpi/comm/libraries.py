"""MPI and Horovod themselves: loaded here, in the right order, and what they are."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from lsgd_mpi.background import given_way
from lsgd_mpi.errors import SetupError

_BROKEN = "MPI or Horovod cannot be loaded ({}): build them with bin/setup"

# The Open MPI of the PyPI wheel, whatever started it.
if any(Path(sys.prefix, "lib").glob("libmpi.so*")):
    # It prints an error of its UCX component for each window, and takes another one.
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    # Over one TCP connection to each rank, large messages do not go both ways at once: an average of 44 MB
    # over 1 Gbit/s takes 530 ms, over two 390.
    os.environ.setdefault("OMPI_MCA_btl_tcp_links", "2")

# mpi4py first: it initialises MPI with the thread level that Horovod's background thread needs.
try:
    from mpi4py import MPI
except (ImportError, OSError, RuntimeError) as error:
    raise SetupError(_BROKEN.format(error)) from error
try:
    import horovod.torch as hvd
    from horovod.common.exceptions import HorovodInternalError
except (ImportError, OSError, RuntimeError) as error:
    raise SetupError(_BROKEN.format(error)) from error

__all__ = ["MPI", "HorovodInternalError", "hvd"]

_THREAD_LEVELS = {
    MPI.THREAD_SINGLE: "MPI_THREAD_SINGLE",
    MPI.THREAD_FUNNELED: "MPI_THREAD_FUNNELED",
    MPI.THREAD_SERIALIZED: "MPI_THREAD_SERIALIZED",
    MPI.THREAD_MULTIPLE: "MPI_THREAD_MULTIPLE",
}


def thread_level() -> str:
    """MPI's name of the thread level that it runs with."""
    return _THREAD_LEVELS[MPI.Query_thread()]


def mpi_rank_and_size() -> tuple[int, int]:
    """World rank and size as MPI has them, before `start`."""
    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def abort(exit_code: int) -> None:
    """End the job on all ranks at once with ``exit_code``. Not collective."""
    MPI.COMM_WORLD.Abort(exit_code)


def mpi_libraries(memory_map: str) -> list[str]:
    """Files of the MPI libraries in the text of ``/proc/self/maps``."""
    pattern = r"(/\S.*/lib(?:mpi|mpich|mpi_\w+)\.so\S*)$"
    found = {Path(match).resolve() for match in re.findall(pattern, memory_map, re.MULTILINE)}
    return sorted(str(path) for path in found if not re.search(r"libmpi_(?:cxx|mpifh|usempi)", path.name))


def mpi_library_files() -> list[str]:
    """Files of the MPI libraries that this process has loaded: one, if all is well; none without /proc."""
    maps = Path("/proc/self/maps")
    return mpi_libraries(maps.read_text(encoding="utf-8")) if maps.exists() else []


def facts() -> dict[str, object]:
    """What MPI and Horovod are, for the run directory and `lsgd-mpi doctor`."""
    return {
        "mpi_library": MPI.Get_library_version().split("\x00")[0].splitlines()[0].split(",")[0].strip(),
        "mpi_files": mpi_library_files(),
        "mpi_thread_level": thread_level(),
        "horovod_mpi": bool(hvd.mpi_built()),
        "horovod_nccl": bool(hvd.nccl_built()),
        "horovod_gloo": bool(hvd.gloo_built()),
        "horovod_cycle_time_ms": os.environ.get("HOROVOD_CYCLE_TIME", ""),
        "horovod_gives_way": given_way(),
    }
