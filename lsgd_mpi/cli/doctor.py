"""``lsgd-mpi doctor``: is this environment fit to train, on the ranks it is started with?"""

from __future__ import annotations

import argparse
import time
from importlib import metadata
from typing import TYPE_CHECKING

from lsgd_mpi.errors import SetupError
from lsgd_mpi.launcher import promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from lsgd_mpi.comm import Communicator

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_PACKAGES = ("torch", "torchvision", "mpi4py", "horovod", "openmpi")
_FLOATS = 1_000_000


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``doctor``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check MPI, Horovod and torch",
        description="Tell what MPI, Horovod and torch are, and try an election, a broadcast and a shared "
        "count on the ranks it is started with (mpirun -np 4 lsgd-mpi doctor). The exit code is 3 when "
        "something is wrong.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Print one line a fact and return 0; raise `SetupError` when something is wrong."""
    # In the order in which things build on each other: what fails is the first line that is missing.
    _show("packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    promised = promise()
    _show("launcher", "none" if promised is None else f"{promised.launcher}, {promised.size} ranks")
    from lsgd_mpi import comm, runtime

    runtime.watch_start()
    _show("torch", comm.together(_torch_facts))
    facts = comm.facts()
    _show("MPI", str(facts["mpi_library"]))
    _show("MPI library files", ", ".join(comm.mpi_library_files()) or "none in /proc/self/maps")
    _show("MPI thread level", str(facts["mpi_thread_level"]))
    built = [name for name in ("mpi", "gloo", "nccl") if facts[f"horovod_{name}"]]
    _show(
        "Horovod was built with",
        ", ".join(built) + ("" if "nccl" in built else " (no NCCL: GPUs exchange through host memory)"),
    )

    import lsgd_mpi

    lsgd_mpi.init()
    _try_collectives()
    lsgd_mpi.shutdown()
    _show("verdict", "fit to train")
    return 0


def _try_collectives() -> None:
    from lsgd_mpi import comm, runtime
    from lsgd_mpi.placement import choose_device

    communicator = runtime.communicator()
    hosts = dict.fromkeys(communicator.topology.hosts)
    _show("ranks", f"{communicator.topology.describe()}, on {', '.join(hosts)}")
    device = choose_device("auto", communicator)
    communicator.prepare(device)
    devices = communicator.gather(str(device))
    _show("devices", ", ".join(f"rank {rank} {name}" for rank, name in enumerate(devices)))
    if device.type == "cuda" and communicator.world_size > 1:
        _show(
            "GPUs exchange",
            f"through host memory: {communicator.staged}" if communicator.staged else "by NCCL",
        )
    for name, check in _CHECKS.items():
        check(communicator)  # the first of its kind sets up connections
        start = time.perf_counter()
        works = check(communicator)
        elapsed_ms = 1e3 * (time.perf_counter() - start)
        wrong = SetupError(f"the {name} gave a wrong result: build Horovod again with bin/setup --rebuild")
        comm.raise_together(None if works else wrong)
        _show(name, f"works, {elapsed_ms:.2f} ms")


def _elects_the_best(communicator: Communicator) -> bool:
    # The last rank has the lowest loss, in each group and among all.
    leader = communicator.elect(-float(communicator.world_rank))
    best = communicator.elect_among_leaders(leader)
    members = communicator.topology.members_of(communicator.world_rank)
    return leader.world_rank == members[-1] and best.world_rank == communicator.world_size - 1


def _broadcasts(communicator: Communicator) -> bool:
    import torch

    from lsgd_mpi.placement import choose_device

    root = communicator.world_size - 1
    flat = torch.full((_FLOATS,), float(communicator.world_rank), device=choose_device("auto", communicator))
    communicator.broadcast(flat, root, "global")
    return bool((flat == root).all())


def _counts_together(communicator: Communicator) -> bool:
    add = communicator.shared_count()
    add(1)
    communicator.barrier()
    return add(0) == communicator.world_size


#: What methods need of MPI and Horovod; the last for clocks other than step.
_CHECKS: dict[str, Callable[[Communicator], bool]] = {
    "election": _elects_the_best,
    "broadcast": _broadcasts,
    "one-sided count": _counts_together,
}


def _torch_facts() -> str:
    try:
        import torch
        import torchvision  # noqa: F401 -- that it loads is the test
    except (ImportError, OSError, RuntimeError) as error:
        raise SetupError(
            f"torch or torchvision cannot be loaded ({error}): install a matching pair with bin/setup"
        ) from error
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.__version__}, {cuda}, {', '.join(gpus) or 'no GPU'}, torchvision loads"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _show(name: str, value: str) -> None:
    promised = promise()
    if promised is None or promised.rank == 0:
        print(f"{name + ':':<24}{value}", flush=True)
