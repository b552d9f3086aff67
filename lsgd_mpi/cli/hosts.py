"""``lsgd-mpi hosts``: check a hostfile, or SLURM's nodes, and write it for another launcher."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsgd_mpi.cli.words import print_for_reader, whole_number
from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts import (
    SYNTAXES,
    Host,
    decode_hosts,
    fill_slots,
    format_hosts,
    hosts_of_slurm,
    parse_hosts,
    read_hosts,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_STANDARD_INPUT = 0


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``hosts``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "hosts",
        help="check a hostfile, and write it for another launcher",
        description="Check a hostfile of Open MPI, MPICH or horovodrun, a list such as 'node1:4,node2:4', or "
        "the nodes of a SLURM allocation, and list them, or write them for another launcher.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="the hostfile, '-' for standard input (default: SLURM's variables)",
    )
    parser.add_argument(
        "--from",
        metavar="SYNTAX",
        dest="from_syntax",
        choices=SYNTAXES,
        help=f"how FILE is written: {', '.join(SYNTAXES)} (default: as its lines tell)",
    )
    parser.add_argument(
        "--to", metavar="SYNTAX", dest="to_syntax", choices=SYNTAXES, help="write the hosts in this syntax"
    )
    parser.add_argument(
        "--slots", metavar="N", type=whole_number, help="the slots of each host that has no number of its own"
    )
    parser.add_argument(
        "--output", metavar="F", type=Path, help="write to this new file instead of standard output"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the hosts as a table, or write them as ``arguments.to_syntax``; return the exit code 0.

    Raises:
        SetupError: the hostfile, or SLURM's variables, are missing or broken.
        UsageError: options contradict one another, or the hosts, or the output exists.

    """
    if arguments.output is not None and arguments.to_syntax is None:
        raise UsageError(
            f"--output {arguments.output} without --to: say in which syntax, {', '.join(SYNTAXES)}"
        )
    if arguments.slots == 0:
        raise UsageError("--slots 0: a host has 1 slot or more")
    hosts = _hosts(arguments.file, arguments.from_syntax)
    if arguments.slots is not None:
        if all(host.slots is not None for host in hosts):
            print(
                f"lsgd-mpi: --slots {arguments.slots} has no effect: all hosts have theirs", file=sys.stderr
            )
        hosts = fill_slots(hosts, arguments.slots)
    text = _table(hosts) if arguments.to_syntax is None else format_hosts(hosts, arguments.to_syntax)
    if arguments.output is None:
        print_for_reader(text, end="")
    else:
        _write_new(arguments.output, text)
    return 0


def _hosts(file: str | None, syntax: str | None) -> tuple[Host, ...]:
    if file is None:
        if syntax is not None:
            raise UsageError(
                f"--from {syntax} without a FILE: give one, or leave --from out for SLURM's variables"
            )
        return hosts_of_slurm()
    if file != "-":
        return read_hosts(file, syntax)
    name = "standard input"
    try:
        with open(_STANDARD_INPUT, "rb", closefd=False) as stream:
            raw = stream.read()
    except OSError as error:
        raise SetupError(f"cannot read {name}: {error.strerror}") from None
    return parse_hosts(decode_hosts(raw, name), syntax, name)


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"--output {path}: it exists already; give another name, or delete it") from None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot write it: {error.strerror}") from None


def _table(hosts: Sequence[Host]) -> str:
    rows = [(host.name, "unknown" if host.slots is None else f"{host.slots}") for host in hosts]
    slots = [host.slots for host in hosts if host.slots is not None]
    total = f"{sum(slots)}" if len(slots) == len(hosts) else "unknown"
    number = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
    table = [("host", "slots"), *rows, (number, total)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "".join(f"{name:<{widths[0]}}  {slots:>{widths[1]}}\n" for name, slots in table)
