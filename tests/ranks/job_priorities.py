"""Under mpirun: the name and priority of each thread of this rank, of a job ``in-step`` or ``one-sided``."""

import os
import sys
from pathlib import Path

import lsgd_mpi

lsgd_mpi.init(one_sided=sys.argv[1] == "one-sided")
for task in Path("/proc/self/task").iterdir():
    number = int(task.name)
    kind = "main" if number == os.getpid() else "other"
    print(kind, os.getpriority(os.PRIO_PROCESS, number), flush=True)
lsgd_mpi.shutdown()
