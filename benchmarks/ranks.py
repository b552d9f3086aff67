"""Start a benchmark's own file on many ranks and read what rank 0 measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

MPIRUN = ("mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "osc", "^ucx")
MPIRUN += ("--mca", "mpi_yield_when_idle", "1")


def on_ranks(ranks: int, *arguments: object, timeout_s: float = 300.0) -> Any:
    """Run this program again under mpirun with ``arguments``; returns what its rank 0 printed as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    program = [sys.executable, sys.argv[0], *map(str, arguments)]
    done = subprocess.run(
        [*MPIRUN, "-np", str(ranks), *program],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
