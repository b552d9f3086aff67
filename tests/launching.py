"""Starts ranks with the real mpirun, never waits for ever, and leaves no process behind."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from lsgd_mpi import launch_command

ROOT = Path(__file__).resolve().parents[1]

#: In the environment of every process of a job, by which its processes are found again.
MARK = "LSGD_TEST_JOB"
#: Variables by which a launcher, if pytest itself runs under one, would claim our mpirun for its own job.
LAUNCHERS = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM_", "HOROVOD_", "MPI4PY_")
#: From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
#: What mpirun may need after a rank failed: to print, to kill the others, to tidy up.
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Finished:
    """What a job came to. Lines of ``stdout`` and ``stderr`` begin with the rank that printed them."""

    returncode: int
    stdout: str
    stderr: str
    #: On the clock of `time.monotonic`, which all processes of a machine share.
    ended_at_s: float
    left_behind: list[str]

    def stdout_of(self, world_rank):
        """What one rank printed on stdout."""
        return _of_rank(self.stdout, world_rank)

    def stderr_of(self, world_rank):
        """What one rank printed on stderr; not what mpirun itself said."""
        return _of_rank(self.stderr, world_rank)

    @property
    def printed(self):
        """Everything, for the message of a failed test."""
        return f"exit code {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class TookTooLongError(AssertionError):
    """The ranks were killed at the time limit; the message holds what each had printed."""


def run_ranks(size, command, *, timeout_s=60.0, environment=None):
    """Run ``command`` (arguments for python) on ``size`` ranks and wait at most ``timeout_s`` seconds."""
    job = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="lsgd-", ignore_cleanup_errors=True) as scratch:
        out, err = Path(scratch, "stdout"), Path(scratch, "stderr")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            # Files, not pipes: a rank that outlives mpirun would hold a pipe open.
            mpirun = subprocess.Popen(
                mpirun_command(size, [sys.executable, *map(str, command)]),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=scratch,
                env=_environment(job, scratch, environment or {}),
                start_new_session=True,
                preexec_fn=end_with_pytest,
            )
            in_time = True
            try:
                returncode = mpirun.wait(timeout_s)
            except subprocess.TimeoutExpired:
                in_time, returncode = False, -1
            finally:
                ended_at_s = time.monotonic()
                # After its ranks mpirun needs a moment; whoever is still there then was left behind.
                left_behind = processes_after(job, 1.0) if in_time else {}
                _end(job, mpirun)
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    left = [f"{pid}: {words}" for pid, words in left_behind.items()]
    finished = Finished(returncode, *texts, ended_at_s=ended_at_s, left_behind=left)
    if not in_time:
        raise TookTooLongError(f"{size} ranks ran for {timeout_s:g} s and were killed\n{finished.printed}")
    return finished


def processes_of(job):
    """Process ids and commands of a job, by the mark in their environment."""
    mark = f"{MARK}={job}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def _of_rank(text, world_rank):
    lines = re.findall(rf"^\[\d+,{world_rank}\]<std(?:out|err)>: ?(.*)$", text, re.MULTILINE)
    return "\n".join(lines)


def mpirun_command(size, program):
    """The command of `lsgd-mpi launch`, with the rank before each line that is printed."""
    return launch_command.mpirun_command(
        launch_command.Job(tuple(program), size, extra=("--output", "tag")), launch_command.this_machine(), {}
    )


def _environment(job, scratch, extra):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return {
        **inherited,
        # Open MPI asks root twice.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "ranks")]),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": scratch,
        MARK: job,
        **extra,
    }


def end_with_pytest():
    # Runs in the child: the job ends with pytest even where pytest is killed and cleans up nothing.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def processes_after(job, seconds):
    """`processes_of` a job that has ended, after the ``seconds`` that the last may take to go."""
    deadline = time.monotonic() + seconds
    while processes_of(job) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes_of(job)


def _end(job, mpirun):
    if mpirun.poll() is None:
        # mpirun ends its ranks and removes their shared memory, which SIGKILL would leave.
        mpirun.terminate()
        try:
            mpirun.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            mpirun.kill()
            mpirun.wait()
    # mpirun puts each rank into a process group of its own, so that one killpg would not reach them.
    while remaining := processes_of(job):
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
