"""Horovod's thread leaves the cores to the training, but where other ranks' memory is served by it."""

from pathlib import Path

import launching
import pytest

from lsgd_mpi.background import NICENESS

HERE = Path(__file__).resolve().parent

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have priorities on Linux"),
]


def priorities(kind):
    """Of each thread of the two ranks: ("main" or "other", priority)."""
    # Beside a GPU all keep theirs.
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    program = [HERE / "job_priorities.py", kind]
    job = launching.run_ranks(2, program, timeout_s=50, environment=environment)
    assert job.returncode == 0, job.printed
    for rank in (0, 1):
        words = [line.split() for line in job.stdout_of(rank).splitlines()]
        yield [(name, int(priority)) for name, priority in words]


def test_in_step_one_thread_gives_way_to_the_training():
    for threads in priorities("in-step"):
        assert threads.count(("other", NICENESS)) == 1
        assert ("main", 0) in threads


def test_one_that_serves_memory_does_not():
    for threads in priorities("one-sided"):
        assert len(threads) > 1
        assert {priority for _, priority in threads} == {0}
