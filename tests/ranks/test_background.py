"""Horovod's thread leaves the cores to the training if it is told to."""

import os
from pathlib import Path

import launching
import pytest

from lsgd_mpi.background import NICENESS

HERE = Path(__file__).resolve().parent

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have a niceness on Linux"),
]


def nicenesses(*words):
    """Of the threads of each of two ranks, the main one's first."""
    # Beside a GPU all keep theirs.
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    program = [HERE / "job_priorities.py", *words]
    job = launching.run_ranks(2, program, timeout_s=50, environment=environment)
    assert job.returncode == 0, job.printed
    return [[int(word) for word in job.stdout_of(rank).split()] for rank in (0, 1)]


def test_one_thread_gives_way_to_the_training():
    for main, *others in nicenesses("1"):
        assert main == os.nice(0)
        assert others.count(min(main + NICENESS, 19)) == 1
        assert others.count(main) == len(others) - 1


@pytest.mark.skipif(os.nice(0) > 0, reason="runs with a niceness of its own")
def test_the_nicest_of_jobs_stays_as_it_is():
    for main, *others in nicenesses("1", "15"):
        assert main == 15
        # No thread may become less nice than it was.
        assert max(others) == 19
        assert others.count(15) + 1 == len(others)


def test_no_thread_gives_way_unasked():
    for threads in nicenesses("0"):
        assert len(threads) > 1
        assert len(set(threads)) == 1
