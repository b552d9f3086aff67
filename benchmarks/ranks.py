"""Start a benchmark's own file on many ranks and read what rank 0 measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lsgd_mpi.launch_command import Job, launcher_environment, mpirun_command, this_machine


def on_ranks(ranks: int, *arguments: object, timeout_s: float = 300.0) -> Any:
    """Run this program again under mpirun with ``arguments``; returns what its rank 0 printed as JSON."""
    with started(ranks, *arguments) as job:
        printed, _ = job.communicate(timeout=timeout_s)
    return json.loads(printed.splitlines()[-1])


def started(ranks: int, *arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start this program under mpirun with ``arguments``, as `seen_to_end` does."""
    machine = this_machine()
    environment = {**os.environ, **launcher_environment(machine), "OMP_NUM_THREADS": "1"}
    program = (sys.executable, sys.argv[0], *map(str, arguments))
    return seen_to_end(mpirun_command(Job(program, ranks), machine, environment), environment)


@contextmanager
def seen_to_end(
    command: Sequence[str], environment: Mapping[str, str], end_within_s: float = 60.0
) -> Iterator[subprocess.Popen[str]]:
    """Start a command with its output in a pipe, and see it end.

    Raises `subprocess.CalledProcessError` if it failed.
    """
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
