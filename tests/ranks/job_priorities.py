"""Under mpirun: the niceness of each thread of this rank, the main one's first.

Usage: job_priorities.py 0|1 [NICENESS]: whether Horovod's gives way, and that of the rank itself.
"""

import os
import sys
from pathlib import Path

import lsgd_mpi

if len(sys.argv) > 2:
    os.nice(int(sys.argv[2]))
lsgd_mpi.init(horovod_gives_way=sys.argv[1] == "1")
numbers = sorted(int(task.name) for task in Path("/proc/self/task").iterdir())
print(*(os.getpriority(os.PRIO_PROCESS, number) for number in numbers), flush=True)
lsgd_mpi.shutdown()
