"""How a job ends on a host that has lost the others: the launcher's daemons would wait for each other.

After ``MPI_Abort`` Open MPI's mpirun and its daemons tell each other to leave, and wait until TCP gives up on
a dead link: a quarter of an hour. So a stalled rank leaves behind a small process of its own session, which
ends the daemon of its host if that is still there a little later, and a will with the job's exit code, which
``lsgd-mpi launch`` reads if that daemon was mpirun itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: Names the file of the will, if `lsgd-mpi launch` started the job; only ranks on its host find the folder.
WILL_VARIABLE = "LSGD_WILL"

#: Names of the processes that start ranks for Open MPI 4 and 5; SLURM ends its own.
_DAEMONS = ("prted", "prterun", "orted", "orterun", "mpirun")

#: Looks five times a second, so that it is gone as soon as the daemon is; arguments: its number, when it was
#: started, and how many looks to wait before each signal.
_END_IF_STILL_THERE = """
for signal in 0 TERM KILL; do
    kill -s "$signal" "$1" 2>/dev/null
    looks=$3
    while [ "$looks" -gt 0 ]; do
        [ "$(cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null)" = "$2" ] || exit 0
        sleep 0.2
        looks=$((looks - 1))
    done
done
"""


def leave_will(exit_code: int, environment: Mapping[str, str] = os.environ) -> None:
    """Write down the exit code for `lsgd-mpi launch`, where this host is the one that it runs on."""
    will = environment.get(WILL_VARIABLE)
    if will and Path(will).parent.is_dir():
        # Whole or not at all: launch may read it in this moment.
        mine = Path(f"{will}.{os.getpid()}")
        mine.write_text(str(exit_code), encoding="ascii")
        mine.replace(will)


def read_will(path: Path) -> int | None:
    """The exit code that a rank left behind, or None."""
    return int(path.read_text(encoding="ascii")) if path.exists() else None


def end_daemon_after(seconds: float, pid: int | None = None) -> bool:
    """End the launcher's daemon ``pid`` (None: this process's parent) if it is there ``seconds`` later.

    By SIGTERM, and as much later by SIGKILL. Returns at once, whether that process is such a daemon. Needs
    Linux's /proc.
    """
    pid = os.getppid() if pid is None else pid
    name, start = _name_and_start(pid)
    # A daemon of a lasting PRRTE (prte, prun) has other people's jobs too.
    is_lasting = not os.environ.get("PMIX_NAMESPACE", "prterun-").startswith("prterun-")
    if name not in _DAEMONS or (name == "prted" and is_lasting):
        return False
    # With its start time, so that another process of the same number is never hit.
    words = ["sh", "-c", _END_IF_STILL_THERE, "sh", str(pid), start, str(round(5 * seconds))]
    quiet = subprocess.DEVNULL
    try:
        subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError:
        # No memory for another process: the daemon is left to TCP.
        return False
    return True


def _name_and_start(pid: int) -> tuple[str, str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    name, _, rest = stat.partition("(")[2].rpartition(")")
    # The 22nd field of proc(5), of which two stand before the bracket's end.
    return name, rest.split()[19]
