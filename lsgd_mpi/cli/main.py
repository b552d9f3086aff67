"""``lsgd-mpi``: parse, check, call. One file a subcommand."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lsgd_mpi import __version__
from lsgd_mpi.errors import INTERRUPTED, LsgdError, SetupError, UsageError
from lsgd_mpi.launcher import promise

#: Subcommands and whether they run on many ranks; each is a module of this package with `add_parser`.
COMMANDS = {
    "train": True,
    "launch": False,
    "leaders": False,
    "doctor": True,
    "cost": False,
    "hosts": False,
    "presets": False,
    "study": False,
}

_DESCRIPTION = """Train PyTorch models on many MPI ranks that talk rarely.

  lsgd-mpi train     train a network (start it with mpirun, horovodrun or srun)
  lsgd-mpi launch    start a command on many ranks, with the flags that mpirun, horovodrun or srun need
  lsgd-mpi leaders   tell who led when in a run
  lsgd-mpi doctor    check MPI, Horovod and torch on the ranks it is started with
  lsgd-mpi hosts     check a hostfile, or SLURM's nodes, and write it for another launcher
  lsgd-mpi cost      predict what communication costs a run
  lsgd-mpi presets   list the papers' experiments, for train --preset
  lsgd-mpi study     repeat a numerical study of the papers
"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and prints help once among all ranks of a job."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        promised = promise()
        if promised is None or promised.rank == 0:
            super()._print_message(message, file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``lsgd_mpi.errors``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    on_ranks = bool(arguments) and COMMANDS.get(arguments[0], False)
    try:
        parsed = _parse_together(arguments) if on_ranks else _parse(arguments)
        return int(parsed.run(parsed))
    except KeyboardInterrupt as interrupt:
        return _fail_everywhere(interrupt) if on_ranks else INTERRUPTED
    except LsgdError as error:
        return _fail_everywhere(error) if on_ranks else _fail(error)
    except Exception as error:
        if not on_ranks:
            raise
        return _fail_everywhere(error)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="lsgd-mpi",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lsgd-mpi {__version__}")
    subparsers = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=_Parser, help=", ".join(COMMANDS)
    )
    # Only the chosen command is imported: reading a run needs no torch.
    chosen = [arguments[0]] if arguments and arguments[0] in COMMANDS else []
    for name in chosen:
        importlib.import_module(f"lsgd_mpi.cli.{name}").add_parser(subparsers)
    if not chosen and arguments and not arguments[0].startswith("-"):
        raise UsageError(f"unknown command {arguments[0]!r}: choose from {', '.join(COMMANDS)}")
    return parser.parse_args(arguments)


def _parse_together(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return _parse(arguments)
    except UsageError as error:
        promised = promise()
        if promised is not None and promised.size > 1:
            # The other ranks, whose arguments may be good, meet this in the command's own first check.
            from lsgd_mpi import comm

            comm.raise_together(error)
        raise


def _fail(error: LsgdError) -> int:
    promised = promise()
    if promised is None or promised.rank == 0:
        print(f"lsgd-mpi: {error}", file=sys.stderr)
    return error.exit_code


def _fail_everywhere(error: BaseException) -> int:
    promised = promise()
    if isinstance(error, LsgdError) and not error.agreed and (promised is None or promised.size == 1):
        return _fail(error)
    try:
        from lsgd_mpi import runtime
    except SetupError as unloadable:
        # Every process may meet this by itself, and none can tell the others: one a node speaks.
        if promised is not None and promised.rank != 0 and promised.local_rank == 0:
            print(f"lsgd-mpi: {platform.node()}: {unloadable}", file=sys.stderr)
        return _fail(unloadable)
    exit_code = runtime.end_job(error)
    runtime.shutdown()
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
