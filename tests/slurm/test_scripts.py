"""The batch scripts, each run by a real SLURM on this machine."""

import json
import re
import shlex
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import launching
import pytest
import yaml
from runs import NO_GPU, SMALL, environment, losses, rows

pytestmark = pytest.mark.timeout(300)

#: What the tests ask for on sbatch's command line, which wins against the script's lines.
SBATCH = ("sbatch", "-W", "--cpus-per-task=1", "--time=5")
TWO_RANKS = (*SBATCH, "--ntasks-per-node=2")
#: This SLURM has no GPUs to give.
ONE_RANK_NO_GPU = (*SBATCH, "--ntasks-per-node=1", "--gres=none")
DIGITS = (*SMALL, "--epochs", 1, "--groups", "0;1")
TABLE = "slurm/sweeps/lsgd-table-2.tsv"
#: For all jobs; and for a job's processes to go after it.
JOBS_S, LEAVE_S = 240.0, 5.0


def launched(*options):
    """A batch script of one line, which leaves the ranks to `lsgd-mpi launch`."""
    train = ("train", *DIGITS, "--run-dir", "runs/launched")
    line = shlex.join(map(str, (".venv/bin/lsgd-mpi", "launch", *options, "--", *train)))
    return (*SBATCH, "--nodes=1", "--ntasks=2", "--output=launched.out", "--wrap", line)


#: {name: command}. All are started at once; SLURM has room for them.
JOBS = {
    "srun": (*TWO_RANKS, "slurm/cpu-srun.sbatch", *DIGITS),
    "mpirun": (*TWO_RANKS, "slurm/cpu-mpirun.sbatch", *DIGITS),
    "gpu": (*ONE_RANK_NO_GPU, "slurm/gpu-srun.sbatch", *SMALL, "--groups", 1),
    "launch": launched(),
    "launch mpirun": launched("--launcher", "mpirun"),
    # A row of leader SGD and one of EASGD, which has no pull.
    "sweep": (
        *(*ONE_RANK_NO_GPU, "--array=7,26", "slurm/sweep.sbatch", TABLE),
        *(*SMALL[:-4], "--threads", 1, "--groups", 1, "--steps", 8, "--local-period", 2),
    ),
    "row beyond": (*ONE_RANK_NO_GPU, "--array=36", "slurm/sweep.sbatch", TABLE),
    "bad option": (*TWO_RANKS, "slurm/cpu-srun.sbatch", *SMALL, "--lr", "much"),
    "no PMIx": ("srun", "--mpi=none", "-n2", "--time=5", ".venv/bin/lsgd-mpi", "train", *DIGITS),
}


@dataclass(frozen=True)
class Job:
    """What came of a command in a folder of its own, laid out as a checkout."""

    folder: Path
    code: int
    left_behind: dict[int, str]

    @property
    def printed(self):
        """By the command and, into the files that the script names, by the job."""
        files = [self.folder / "printed", *sorted(self.folder.glob("*.out"))]
        return "\n".join(
            f"--- {file.name}\n{file.read_text(encoding='utf-8', errors='replace')}" for file in files
        )

    @property
    def run_dir(self):
        """The one that the job made."""
        (found,) = (self.folder / "runs").iterdir()
        return found

    def ended_well(self):
        """Fail where the job did not, and return it."""
        assert (self.code, self.left_behind) == (0, {}), self.printed
        return self


def start(name, command, folder, slurm):
    """Start a command of SLURM, and return its process and the mark by which its processes are found."""
    folder.mkdir()
    (folder / "slurm").symlink_to(launching.ROOT / "slurm")
    (folder / ".venv").symlink_to(sys.prefix)
    mark = f"{name} {uuid.uuid4().hex}"
    words = [slurm.programs[command[0]], *map(str, command[1:])]
    with (folder / "printed").open("wb") as printed:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**environment(), **slurm.environment(mark), **NO_GPU},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=launching.end_with_pytest,
        )
    return process, mark


@pytest.fixture(scope="module")
def jobs(slurm, tmp_path_factory):
    """All of `JOBS`, run to their ends: {name: Job}."""
    base = tmp_path_factory.mktemp("jobs")
    deadline = time.monotonic() + JOBS_S
    started, done = {}, {}
    try:
        for name, command in JOBS.items():
            started[name] = start(name, command, base / name.replace(" ", "-"), slurm)
        for name, (process, mark) in started.items():
            folder = base / name.replace(" ", "-")
            try:
                code = process.wait(max(deadline - time.monotonic(), 1.0))
            except subprocess.TimeoutExpired:
                job = Job(folder, -1, launching.processes_of(mark))
                pytest.fail(f"{name} takes more than {JOBS_S:g} s\n{job.printed}\n{job}\n{slurm.logs()}")
            done[name] = Job(folder, code, launching.processes_after(mark, LEAVE_S))
        yield done
    finally:
        # What is still there after a failure: srun and sbatch, whose jobs end with the cluster.
        for process, _ in started.values():
            if process.poll() is None:
                process.terminate()
                process.wait(10)


def test_srun_and_mpirun_train_the_same_bit_for_bit(jobs):
    by_srun, by_mpirun = (jobs[name].ended_well().run_dir for name in ("srun", "mpirun"))
    assert losses(by_srun) == losses(by_mpirun)
    assert losses(by_srun)[0], "nothing was evaluated"
    for run_dir in (by_srun, by_mpirun):
        assert re.fullmatch(r"lsgd-cpu-\d+", run_dir.name)
        assert sorted(path.name for path in (run_dir / "ranks").glob("rank-*.csv")) == [
            "rank-0000.csv",
            "rank-0001.csv",
        ]
        assert json.loads((run_dir / "environment.json").read_text())["groups"] == [[0], [1]]


def test_launch_takes_srun_in_an_allocation_and_mpirun_if_asked(jobs):
    for name, program in (
        ("launch", "srun --mpi=pmix --ntasks=2 "),
        ("launch mpirun", "/mpirun -np 2 --host "),
    ):
        job = jobs[name].ended_well()
        assert losses(job.run_dir) == losses(jobs["srun"].run_dir)
        (shown,) = re.findall(r"^\+ (.*)$", job.printed, re.MULTILINE)
        assert program in shown


def test_messages_go_where_the_script_says(jobs):
    job = jobs["srun"].ended_well()
    (output,) = job.folder.glob("*.out")
    assert output.name == f"{job.run_dir.name}.out"
    assert "2 ranks in 2 groups" in output.read_text()


def test_each_task_of_an_array_trains_its_row(jobs):
    job = jobs["sweep"].ended_well()
    assert re.fullmatch(r"lsgd-sweep-\d+", job.run_dir.name)
    options = {run.name: yaml.safe_load((run / "config.yaml").read_text()) for run in job.run_dir.iterdir()}
    assert sorted(options) == ["26", "7"]
    names = ("algorithm", "lr", "local_pull", "local_period")
    assert [options["7"].get(name) for name in names] == ["lsgd", 0.05, 0.2, 2]
    assert [options["26"].get(name) for name in names] == ["easgd", 0.1, None, 2]
    for run in job.run_dir.iterdir():
        assert rows(run / "metrics.csv")[-1]["step"] == "8"
        assert (job.folder / f"{job.run_dir.name}_{run.name}.out").is_file()


def test_a_row_that_the_table_does_not_have(jobs):
    job = jobs["row beyond"]
    assert job.code == 2, job.printed
    assert f"row 36 of {TABLE} has 0 values for 3 options" in job.printed


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("gpu", 3, r"--device cuda: torch finds no GPU; or use --device cpu"),
        ("bad option", 2, r".*--lr.*much.*"),
        (
            "no PMIx",
            3,
            r"srun started 2 processes but MPI sees 1: the launcher and the MPI library do not belong "
            r"together; start with srun --mpi=pmix",
        ),
    ],
)
def test_what_cannot_run_ends_with_one_sentence_and_its_code(jobs, name, code, sentence):
    job = jobs[name]
    assert (job.code, job.left_behind) == (code, {}), job.printed
    assert "Traceback" not in job.printed
    (said,) = re.findall(r"^lsgd-mpi: (.*)$", job.printed, re.MULTILINE)
    assert re.fullmatch(sentence, said)
    assert not list(job.folder.glob("runs/*/*.csv")), "something was trained"
