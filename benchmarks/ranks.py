"""Start a benchmark's own file on many ranks and read what rank 0 measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MPIRUN = ("mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "osc", "^ucx")
MPIRUN += ("--mca", "mpi_yield_when_idle", "1")


def on_ranks(ranks: int, *arguments: object, timeout_s: float = 300.0) -> Any:
    """Run this program again under mpirun with ``arguments``; returns what its rank 0 printed as JSON."""
    with started(ranks, *arguments) as job:
        printed, _ = job.communicate(timeout=timeout_s)
    return json.loads(printed.splitlines()[-1])


@contextmanager
def started(ranks: int, *arguments: object, end_within_s: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """Start this program under mpirun with ``arguments``, with its output in a pipe, and see it end.

    Raises `subprocess.CalledProcessError` if it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [*MPIRUN, "-np", str(ranks), sys.executable, sys.argv[0], *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as job:
        try:
            yield job
            job.wait(timeout=end_within_s)
        except BaseException:
            job.terminate()
            raise
    if job.returncode:
        raise subprocess.CalledProcessError(job.returncode, command)
