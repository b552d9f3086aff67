"""What the tests of the command line share: words of a small training, and readers of what it leaves."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import launching

HERE = Path(__file__).resolve().parent
LSGD_MPI = ("-m", "lsgd_mpi")

#: A training that takes less than a second beside the start of its processes.
SMALL = ("--dataset", "digits", "--model", "mlp", "--batch-size", 32, "--lr", 0.1, "--threads", 1)

#: The same numbers everywhere, also where there are GPUs.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def run_ranks(size, command, timeout_s=100):
    """`launching.run_ranks`, on the CPU; it may take long where others compute too."""
    return launching.run_ranks(size, command, timeout_s=timeout_s, environment=NO_GPU)


def environment():
    """For a process without a launcher."""
    launchers = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM_", "HOROVOD_", "LSGD_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    return {
        **inherited,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
        **NO_GPU,
        "PYTHONPATH": str(launching.ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def rows(path):
    """The rows of a CSV file as dictionaries of text; every line must be whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n"), f"the last line of {path} is not whole"
    lines = list(csv.reader(content.decode().splitlines()))
    assert {len(line) for line in lines} == {len(lines[0])}, f"{path} has lines of different lengths"
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def columns(path):
    return path.read_text(encoding="utf-8").split("\n", 1)[0]


def column(table, name, kind=float):
    return [kind(row[name]) for row in table]


def losses(run_dir):
    """All that a run measured and that does not depend on time."""
    metrics = rows(run_dir / "metrics.csv")
    # Another group's rounds reach rank 0 a little later or earlier.
    leaders = sorted(rows(run_dir / "leaders.csv"), key=lambda row: [row[name] for name in ROUND])
    return (
        [[row[name] for name in ("step", "train_loss", "test_loss", "test_error_pct")] for row in metrics],
        [[row[name] for name in (*ROUND, "leader_world_rank", "leader_loss")] for row in leaders],
    )


ROUND = ("scope", "group", "round", "step")


@dataclass(frozen=True)
class Case:
    """What one command line of `drive` came to on one rank."""

    code: int
    out: str
    err: str


def drive(cases, folder, ranks=None, timeout_s=100):
    """Run ``cases`` ({name: words}) after another in one process, or on ``ranks``: {name: [Case a rank]}."""
    results = folder / "results"
    results.mkdir()
    written = folder / "cases.json"
    written.write_text(json.dumps({name: list(map(str, words)) for name, words in cases.items()}))
    command = [HERE / "drive.py", written, results]
    if ranks is None:
        done = alone(command, folder, timeout_s)
    else:
        done = run_ranks(ranks, command, timeout_s=timeout_s)
        assert done.left_behind == []
    printed = "".join(path.read_text(encoding="utf-8") for path in sorted(results.glob("*.err")))
    assert (done.returncode, done.stderr) == (0, ""), f"{printed}\n{done.stderr}"
    return {name: [_case(results / f"{name}.{rank}") for rank in range(ranks or 1)] for name in cases}


def alone(command, folder, timeout_s=60):
    """Run ``command`` (arguments for python) without a launcher, with ``folder`` as working directory."""
    words = [sys.executable, *map(str, command)]
    return subprocess.run(
        words, env=environment(), cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def _case(results):
    code, out, err = (
        Path(f"{results}.{kind}").read_text(encoding="utf-8") for kind in ("code", "out", "err")
    )
    return Case(int(code), out, err)


def only_sentence(lines):
    """The one sentence on stderr, which is all that a user gets to read."""
    assert "Traceback" not in lines, lines
    assert re.fullmatch(r"lsgd-mpi: [^\n]+\n?", lines), lines
    return lines.strip()


def sentence_of_job(finished):
    """The one sentence that any rank printed on stderr, whatever Open MPI said besides."""
    assert "Traceback" not in finished.stderr, finished.printed
    lines = re.findall(r"^\[\d+,\d+\]<stderr>: ?(.+)$", finished.stderr, re.MULTILINE)
    # Open MPI's notice of an abort, which it prints between two rules in the name of the rank.
    notice = [place for place, line in enumerate(lines) if line.startswith("-----")]
    if notice:
        del lines[notice[0] : notice[-1] + 1]
    said = [line for line in lines if line.strip(" \0")]
    assert len(said) == 1, finished.printed
    return only_sentence(said[0])
