"""``lsgd-mpi presets [NAME]``: the papers' experiments that ``lsgd-mpi train --preset`` can run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lsgd_mpi.cli.words import print_for_reader
from lsgd_mpi.presets import describe_preset, preset_names, preset_text

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``presets``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "presets",
        help="list the papers' experiments",
        description="List the presets of the papers' experiments, which 'lsgd-mpi train --preset NAME' runs, "
        "or print the file of one: its source, what it takes, what to expect, and its options.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the preset whose file to print")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print all presets, or the one of ``arguments.name``; return the exit code 0.

    Raises:
        UsageError: there is no preset of that name.

    """
    print_for_reader(_listed() if arguments.name is None else preset_text(arguments.name), end="")
    return 0


def _listed() -> str:
    names = preset_names()
    width = max(map(len, names))
    return "".join(f"{name:<{width}}  {describe_preset(name)}\n" for name in names)
