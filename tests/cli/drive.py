"""Runs several command lines one after the other in this process, for tests that need many of them.

Usage: drive.py CASES RESULTS. CASES is a JSON file with {name: [word, ...]}. Each rank writes what each case
printed to RESULTS/NAME.RANK.out and .err, and the exit code to .code. Every case is a call of the same `main`
that `lsgd-mpi` calls; together they need torch and Horovod to be loaded only once.
"""

import contextlib
import json
import logging
import sys
from pathlib import Path

from lsgd_mpi.cli.main import main
from lsgd_mpi.launcher import promise


def run(words, results):
    # Files keep what was printed also if the case aborts the process.
    with (
        Path(f"{results}.out").open("w", encoding="utf-8", buffering=1) as out,
        Path(f"{results}.err").open("w", encoding="utf-8", buffering=1) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    # In a process of its own each command line finds the logger bare.
    logging.getLogger("lsgd_mpi").handlers.clear()
    Path(f"{results}.code").write_text(f"{code}", encoding="utf-8")


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    promised = promise()
    rank = promised.rank if promised else 0
    for name, words in cases.items():
        run(words, Path(sys.argv[2], f"{name}.{rank}"))
