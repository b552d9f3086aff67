"""``lsgd-mpi study NAME``: a numerical study of the papers, in one process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lsgd_mpi.cli.words import whole_number
from lsgd_mpi.errors import UsageError
from lsgd_mpi.launcher import promise
from lsgd_mpi.studies import SCALES, STUDIES, Settings, find_study
from lsgd_mpi.studies.output import Output

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``study``; its ``arguments.run`` is `run`."""
    width = max(map(len, STUDIES))
    parser = subparsers.add_parser(
        "study",
        help="repeat a numerical study of the papers",
        description="Repeat a numerical study of the papers, whose answer is known, with the algorithms of "
        "lsgd-mpi train on threads of one process. Writes CSV files and a figure.",
        epilog="studies:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in STUDIES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the study, one of those below")
    parser.add_argument("--scale", choices=SCALES, help="seconds, or the paper's sizes (default: small)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (default: runs/study-NAME)")
    parser.add_argument("--seed", type=whole_number, metavar="N", help="of the random problems (default: 0)")
    parser.add_argument("--trials", type=_counts, metavar="N", help="random problems (matrix-completion)")
    parser.add_argument(
        "--ranks", type=_counts, metavar="R,R,...", help="ranks of the matrices (matrix-completion)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the study, print how it compares with the paper, and return 0.

    Raises:
        UsageError: there is no such study, an option cannot be, or a launcher started many of these.
        RunDirectoryError: the folder is not empty, or cannot be written.

    """
    chosen = find_study(arguments.name)
    promised = promise()
    if promised is not None and promised.size > 1:
        raise UsageError(f"a study runs all its workers in one process: start it without {promised.launcher}")
    if arguments.trials is not None and len(arguments.trials) != 1:
        raise UsageError("--trials takes one number")
    given = {
        "scale": arguments.scale,
        "seed": arguments.seed,
        "trials": arguments.trials and arguments.trials[0],
        "ranks": arguments.ranks,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in chosen.uses:
            print(f"lsgd-mpi: --{name} has no effect on the study {chosen.name}", file=sys.stderr)
    output = Output(arguments.out or Path("runs") / f"study-{chosen.name}")
    sentence = chosen.run(Settings(**given), output)
    print(f"results: {output.folder}")
    print(sentence, flush=True)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(whole_number(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"whole numbers of at least 1, not {text!r}")
    return counts
