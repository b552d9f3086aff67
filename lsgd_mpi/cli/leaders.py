"""``lsgd-mpi leaders RUN``: who led when, from a run directory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsgd_mpi.cli.words import print_for_reader, whole_number
from lsgd_mpi.report.leaders import ScopeStatistics, leader_statistics, read_groups, read_leaders

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``leaders``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "leaders",
        help="tell who led when in a run",
        description="Tell how often each rank led, how often the leader changed, and who led last, "
        "for each group and globally. The run may still be going on.",
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--last",
        metavar="N",
        type=whole_number,
        default=10,
        help="list the last N leaders (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics of ``arguments.run_dir``; return the exit code 0.

    Raises:
        RunDirectoryError: it is not a run directory, or a file in it is broken.

    """
    rows = read_leaders(arguments.run_dir)
    scopes = leader_statistics(rows, read_groups(arguments.run_dir), arguments.last)
    if arguments.json:
        document = {"run": str(arguments.run_dir), "scopes": [scope.as_dict() for scope in scopes]}
        print_for_reader(json.dumps(document, indent=2))
    elif not scopes:
        print_for_reader("No rounds yet: nobody has led.")
    else:
        print_for_reader("\n\n".join(_table(scope) for scope in scopes))
    return 0


def _table(scope: ScopeStatistics) -> str:
    name = "Global" if scope.group is None else f"Local, group {scope.group}"
    reign = scope.longest_reign
    held = f"round {reign.first_round}"
    if reign.last_round != reign.first_round:
        held = f"rounds {reign.first_round} to {reign.last_round}"
    facts = [
        ("rounds", f"{scope.rounds}"),
        ("switches", f"{scope.switches}"),
        ("mean reign", f"{_rounds(round(scope.mean_reign_rounds, 1))}"),
        ("longest reign", f"{_rounds(reign.rounds)}, by rank {reign.leader_world_rank}, {held}"),
    ]
    if scope.last_leaders:
        ranks = " ".join(str(world_rank) for world_rank in scope.last_leaders)
        facts.append(("last leaders", f"{ranks} (newest last)"))
    shares = [(f"{rank.world_rank}", f"{rank.rounds_led}", f"{rank.share_pct:.1f} %") for rank in scope.ranks]
    lines = [f"  {label:<15}{value}" for label, value in facts]
    return "\n".join([name, *lines, "", *_aligned([("world rank", "rounds led", "share"), *shares])])


def _rounds(number: float) -> str:
    return f"{number:g} round" if number == 1 else f"{number:g} rounds"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table
    ]
