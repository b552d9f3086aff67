"""The helper that starts ranks: no test may hang because of it, or leave a process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launching
import pytest

HERE = Path(__file__).resolve().parent
JOB = HERE / "job_hanging.py"


@pytest.fixture
def job(monkeypatch):
    """The mark of the one job that the test starts."""

    class Known:
        hex = "lsgd-test-known-job"

    monkeypatch.setattr(launching.uuid, "uuid4", lambda: Known)
    return Known.hex


def test_what_each_rank_printed_is_known():
    finished = launching.run_ranks(2, ["-c", "import os; print('I am', os.environ['OMPI_COMM_WORLD_RANK'])"])
    assert finished.returncode == 0
    assert [finished.stdout_of(rank) for rank in (0, 1)] == ["I am 0", "I am 1"]
    assert finished.left_behind == []


def test_the_exit_code_is_that_of_the_rank_that_failed():
    command = "import os, sys; sys.exit(5 * int(os.environ['OMPI_COMM_WORLD_RANK']))"
    assert launching.run_ranks(2, ["-c", command]).returncode == 5


def test_a_job_that_hangs_is_killed_and_tells_what_each_rank_printed(job):
    start = time.monotonic()
    with pytest.raises(launching.TookTooLongError) as failed:
        launching.run_ranks(2, [JOB], timeout_s=3)
    assert time.monotonic() - start < 20
    for rank in (0, 1):
        assert f"{rank}]<stdout>: rank {rank} of 2" in str(failed.value)
        assert f"{rank}]<stderr>: about to hang" in str(failed.value)
    assert launching.processes_of(job) == {}


def test_a_process_that_outlives_its_rank_is_reported_and_killed(job):
    finished = launching.run_ranks(1, [JOB, "0"])
    assert len(finished.left_behind) == 1
    assert "time.sleep(1000)" in finished.left_behind[0]
    assert launching.processes_of(job) == {}


def test_a_job_ends_with_the_process_that_started_it(job):
    program = (
        f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); import launching\n"
        f"launching.uuid.uuid4 = lambda: type('Known', (), {{'hex': {job!r}}})\n"
        "launching.run_ranks(1, ['-c', 'import time; time.sleep(1000)'])"
    )
    starter = subprocess.Popen([sys.executable, "-c", program])
    assert wait_until(lambda: len(launching.processes_of(job)) >= 2, 20)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    assert wait_until(lambda: not launching.processes_of(job), 20)


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
