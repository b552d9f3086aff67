"""Jobs that cannot start, and jobs that break: the exit code, what is said, how often, and that they end."""

import shutil
import subprocess
from pathlib import Path

import launching
import pytest

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.timeout(100)


def fail(failure, size=2, **environment):
    finished = launching.run_ranks(
        size, [HERE / "job_failing.py", failure], timeout_s=60, environment=environment
    )
    assert finished.left_behind == [], finished.printed
    return finished


def assert_ended_within(seconds, finished):
    """Seconds from the failure of world rank 1 to the end of mpirun; starting takes its own time."""
    failed_at = float(finished.stdout_of(1).partition("in step 5 at ")[2])
    assert finished.ended_at_s - failed_at < seconds, finished.printed


def assert_said_once(finished, code, *words):
    """The exit code of mpirun, one sentence from one rank, and no traceback."""
    assert finished.returncode == code, finished.printed
    sentences = [line for line in finished.stderr.splitlines() if "lsgd-mpi: " in line]
    assert len(sentences) == 1, finished.printed
    for word in words:
        assert word in sentences[0], finished.printed
    assert "Traceback" not in finished.stderr, finished.printed


def test_another_number_of_processes_than_the_launcher_promised():
    assert_said_once(fail("broken-promise"), 3, "started 7 processes but MPI sees 2")


def test_an_mpi_without_the_thread_level_that_horovod_needs():
    finished = fail("none", MPI4PY_RC_THREAD_LEVEL="serialized")
    assert_said_once(finished, 3, "MPI_THREAD_SERIALIZED", "MPI_THREAD_MULTIPLE")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes a small library with gcc")
def test_a_second_mpi_library_in_the_process(tmp_path):
    library = tmp_path / "libmpi.so.12"
    # It defines nothing: MPI's own functions are found in the real library.
    source = tmp_path / "nothing.c"
    source.write_text("int lsgd_test_nothing(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert_said_once(fail("none", LD_PRELOAD=str(library)), 3, "different MPI libraries", str(library))


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("different-groups", ["different groups", "[[0, 1]] on world rank 0", "[[0], [1]] on world rank 1"]),
        ("different-options", ["different options", "local_period is 1 on world rank 0, 5 on world rank 1"]),
        (
            "different-models",
            ["different parameters", "weight is ('float64', [2, 3])".replace("float64", "torch.float32")],
        ),
    ],
)
def test_ranks_that_disagree(failure, words):
    assert_said_once(fail(failure), 2, *words)


def test_no_worker_with_a_finite_loss():
    assert_said_once(fail("no-finite-loss"), 6, "no worker of group 0 has a finite training loss at step 5")


def test_a_usage_error_of_one_rank_alone():
    assert_said_once(fail("usage-error-of-one"), 2, "world rank 1", "optimizer.step(loss)")


@pytest.mark.parametrize("failure", ["left-early", "hangs"])
@pytest.mark.parametrize("method", ["lsgd", "allreduce"])
def test_a_rank_that_does_not_come_to_a_collective(failure, method):
    """The watch of those that wait for it ends the job: after 3 s here."""
    finished = fail(failure, size=3, LSGD_TEST_METHOD=method)
    assert finished.returncode == 7, finished.printed
    what = "an election in group 0" if method == "lsgd" else "the average of the gradients"
    for rank in (0, 2):
        assert f"world rank {rank}: waited 3 s in {what}" in finished.stderr_of(rank)
    assert finished.stderr_of(1).count("lsgd-mpi") == 0, finished.printed
    assert_ended_within(10, finished)


def test_a_rank_that_does_not_come_to_the_start():
    """Before there is a communicator, and with a limit of its own: 3 s here."""
    finished = fail("late", size=3)
    assert finished.returncode == 7, finished.printed
    for rank in (0, 2):
        sentence = finished.stderr_of(rank)
        assert f"world rank {rank}: waited 3 s in an agreement of all ranks" in sentence
        assert "--stall-timeout holds from the start of Horovod on" in sentence
    assert_ended_within(20, finished)


def test_a_slow_end_of_one_rank_is_not_a_stall():
    finished = launching.run_ranks(2, [HERE / "job_slow_to_leave.py"], timeout_s=60)
    assert finished.returncode == 0, finished.printed
    assert finished.left_behind == []


def test_a_group_that_is_done_first_does_not_end_the_rounds_of_the_others():
    finished = launching.run_ranks(4, [HERE / "job_first_group_done.py"], timeout_s=60)
    assert finished.returncode == 0, finished.printed
    assert finished.left_behind == []


@pytest.mark.parametrize("command", ["train", "doctor"])
def test_a_horovod_that_cannot_be_loaded(command, tmp_path):
    broken = tmp_path / "horovod"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libmpi.so.40 is not there')\n")
    finished = launching.run_ranks(
        2,
        ["-m", "lsgd_mpi", command],
        timeout_s=60,
        environment={"PYTHONPATH": f"{tmp_path}:{launching.ROOT}"},
    )
    assert_said_once(finished, 3, "libmpi.so.40 is not there", "bin/setup")


def test_an_exception_on_one_rank_ends_the_job_of_all():
    finished = fail("exception", size=3)
    assert finished.returncode == 1, finished.printed
    assert "RuntimeError: this worker broke" in finished.stderr_of(1)
    assert finished.stderr.count("Traceback") == 1, finished.printed
    assert "world rank 1: unexpected error" in finished.stderr
    assert_ended_within(10, finished)


def test_a_rank_that_is_killed_ends_the_job_of_all():
    finished = fail("killed", size=3)
    assert finished.returncode == 128 + 9, finished.printed
    assert_ended_within(10, finished)
