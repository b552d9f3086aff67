"""Under mpirun: ranks that say who they are, start a process of their own, and never end."""

import os
import signal
import subprocess
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
# mpirun would wait for the end of its rank's output, which the child would keep open.
subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(1000)"],
    start_new_session=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
print(f"rank {os.environ['OMPI_COMM_WORLD_RANK']} of {os.environ['OMPI_COMM_WORLD_SIZE']}", flush=True)
print("about to hang", file=sys.stderr, flush=True)
if len(sys.argv) > 1:
    os._exit(int(sys.argv[1]))
time.sleep(1000)
