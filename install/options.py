"""The command line of bin/setup."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from console import EXIT_USAGE

NCCL_CHOICES = ("auto", "yes", "no")


@dataclass(frozen=True)
class Options:
    """What kind of environment is asked for; a set-up is repeated where one of these changes."""

    system_mpi: bool = False
    nccl: str = "auto"
    dev: bool = True


@dataclass(frozen=True)
class Request:
    """The command line: the kind of environment, where it is said, and what to do with an older one."""

    system_mpi: bool | None
    nccl: str | None
    dev: bool | None
    again: bool
    rebuild: bool

    def options(self, last: Options | None) -> Options:
        """What was said; what was not is as in the last set-up with ``--again``, else the default."""
        base = last if self.again and last is not None else Options()
        return Options(
            system_mpi=base.system_mpi if self.system_mpi is None else self.system_mpi,
            nccl=base.nccl if self.nccl is None else self.nccl,
            dev=base.dev if self.dev is None else self.dev,
        )


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        """End with the code for bad usage."""
        self.exit(EXIT_USAGE, f"setup: {message} (bin/setup --help lists the options)\n")


def parse(arguments: Sequence[str]) -> Request:
    """Read the command line."""
    parser = OneLineParser(
        prog="bin/setup",
        description="Make .venv with PyTorch, MPI, Horovod (built here, once) and this package.",
        epilog="Environment: PYTHON (which Python, 3.10 or later), CXX (which C++ compiler), CUDA_HOME and "
        "HOROVOD_NCCL_HOME (for --nccl), XDG_CACHE_HOME (where the built Horovod is kept, else ~/.cache).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--system-mpi",
        action=argparse.BooleanOptionalAction,
        help="use the MPI whose mpicxx and mpirun are on the PATH (a cluster's), not Open MPI as a wheel",
    )
    parser.add_argument(
        "--nccl",
        choices=NCCL_CHOICES,
        help="build Horovod with NCCL; auto, the default: where a GPU and a CUDA toolkit are found",
    )
    parser.add_argument(
        "--dev", action=argparse.BooleanOptionalAction, help="install what bin/test needs (the default)"
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="make .venv and Horovod anew, whatever is there"
    )
    parser.add_argument(
        "--again", action="store_true", help="take the options of the last set-up where none are given"
    )
    told = parser.parse_args(arguments)
    return Request(told.system_mpi, told.nccl, told.dev, told.again, told.rebuild)
