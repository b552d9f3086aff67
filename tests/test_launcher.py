"""What launchers promise in the environment."""

import pytest

from lsgd_mpi.launcher import Promise, broken_promise, promise

MPIRUN = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (MPIRUN, Promise("mpirun (Open MPI)", 2, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "3"}, Promise("mpiexec (PMI)", 0, 3)),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, Promise("horovodrun --gloo", 1, 2)),
        (SRUN, Promise("srun", 1, 8)),
    ],
)
def test_each_launcher_is_known_by_its_variables(environment, found):
    assert promise({"HOME": "/home/someone", **environment}) == found


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OMPI_COMM_WORLD_RANK": "2"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"OMPI_COMM_WORLD_RANK": "two", "OMPI_COMM_WORLD_SIZE": "4"},
        {"OMPI_COMM_WORLD_RANK": "", "OMPI_COMM_WORLD_SIZE": ""},
        # A batch script itself, started by sbatch and not by srun, is one process.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
    ],
)
def test_without_both_numbers_nothing_was_promised(environment):
    assert promise(environment) is None


def test_mpirun_inside_an_srun_step_is_mpirun():
    found = promise({**SRUN, **MPIRUN})
    assert found is not None
    assert (found.launcher, found.size) == ("mpirun (Open MPI)", 4)


def test_a_kept_promise_is_no_news():
    assert broken_promise(None, 1) is None
    assert broken_promise(promise(MPIRUN), 4) is None


@pytest.mark.parametrize(
    ("launcher", "remedy"),
    [
        ("srun", "srun --mpi=pmix"),
        ("horovodrun --gloo", "horovodrun --mpi"),
        ("mpirun (Open MPI)", "mpirun of the MPI library"),
        ("mpiexec (PMI)", "mpirun of the MPI library"),
    ],
)
def test_a_broken_promise_names_both_numbers_and_the_remedy(launcher, remedy):
    sentence = broken_promise(Promise(launcher, rank=0, size=16), mpi_size=1)
    assert sentence is not None
    assert sentence.startswith(f"{launcher} started 16 processes but MPI sees 1:")
    assert remedy in sentence
