"""``lsgd-mpi`` with an accident on one rank, once the run has a few rounds behind it.

Usage: accident.py WORLD_RANK {kill | interrupt} RUN_DIR WORD ...: that rank kills itself with SIGKILL, or
sends SIGINT to mpirun as Ctrl-C on a terminal does. The file RUN_DIR/../accident has the time of it.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from lsgd_mpi.cli.main import main

ROUNDS = 3


def accident(kind, run_dir):
    leaders = run_dir / "leaders.csv"
    while not leaders.exists() or leaders.read_bytes().count(b"\n") <= ROUNDS:
        time.sleep(0.02)
    (run_dir.parent / "accident").touch()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.kill(os.getppid(), signal.SIGINT)


if __name__ == "__main__":
    victim, kind, run_dir, *words = sys.argv[1:]
    if victim == os.environ["OMPI_COMM_WORLD_RANK"]:
        threading.Thread(target=accident, args=(kind, Path(run_dir)), daemon=True).start()
    sys.exit(main([*words, "--run-dir", run_dir]))
