"""``lsgd-mpi hosts``: hostfiles listed, written for another launcher, and refused."""

import subprocess
import sys

import launching
import pytest
from runs import environment, only_sentence

from lsgd_mpi.cli.main import main

OPEN_MPI = "node1 slots=4\n# the other\nnode2\n"


@pytest.fixture(autouse=True)
def no_allocation(monkeypatch):
    for name in ("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_TASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text(OPEN_MPI, encoding="utf-8")
    return path


def hosts(capsys, *words):
    """The exit code, standard output and standard error of ``lsgd-mpi hosts``."""
    code = main(["hosts", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, code, *words):
    """The sentence with which ``lsgd-mpi hosts`` ends."""
    ended, out, err = hosts(capsys, *words)
    assert (ended, out) == (code, "")
    return only_sentence(err)


def test_a_table_without_another_syntax(capsys, hostfile):
    table = "host     slots\nnode1        4\nnode2        2\n2 hosts      6\n"
    assert hosts(capsys, hostfile, "--slots", 2) == (0, table, "")


def test_the_table_says_what_is_unknown(capsys, hostfile):
    code, out, err = hosts(capsys, hostfile)
    assert (code, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()] == ["slots", "4", "unknown", "unknown"]


def test_another_syntax_on_standard_output_and_into_a_new_file(capsys, hostfile, tmp_path):
    written = "node1 slots=4\nnode2 slots=2\n"
    words = (hostfile, "--slots", 2, "--to", "horovodrun")
    assert hosts(capsys, *words) == (0, written, "")
    output = tmp_path / "new"
    assert hosts(capsys, *words, "--output", output) == (0, "", "")
    assert output.read_text(encoding="utf-8") == written


def test_an_output_that_exists_is_left_alone(capsys, hostfile):
    sentence = refused(capsys, 2, hostfile, "--to", "openmpi", "--output", hostfile)
    assert "exists already" in sentence
    assert hostfile.read_text(encoding="utf-8") == OPEN_MPI


def test_a_refusal_leaves_no_output(capsys, hostfile, tmp_path):
    output = tmp_path / "new"
    assert "'node2' has no number" in refused(capsys, 2, hostfile, "--to", "mpich", "--output", output)
    assert not output.exists()
    sentence = refused(capsys, 2, hostfile, "--to", "openmpi", "--output", tmp_path / "no" / "folder")
    assert "cannot write it: No such file or directory" in sentence


def test_a_broken_line_is_code_3(capsys, hostfile):
    hostfile.write_text("node1 slots=4\nnode2 slots=four\n", encoding="utf-8")
    assert f"{hostfile}, line 2: 'four' is no number of slots" in refused(capsys, 3, hostfile)


def test_a_missing_file_is_code_3(capsys, tmp_path):
    assert "cannot read the hostfile" in refused(capsys, 3, tmp_path / "nowhere")


def test_from_overrides_what_the_lines_tell(capsys, hostfile):
    hostfile.write_text("node1\nnode1\nnode2\n", encoding="utf-8")
    assert hosts(capsys, hostfile, "--from", "mpich", "--to", "list") == (0, "node1:2,node2:1\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "slurm"], "argument --to: invalid choice: 'slurm'"),
        (["--from", "openmp"], "argument --from: invalid choice: 'openmp'"),
        (["--slots", "0"], "--slots 0: a host has 1 slot or more"),
        (["--slots", "x"], "a whole number"),
        (["--output", "new"], "--output new without --to"),
    ],
)
def test_bad_options_are_code_2(capsys, hostfile, words, sentence):
    assert sentence in refused(capsys, 2, hostfile, *words)


def test_slots_for_nobody_are_warned_of(capsys, hostfile):
    hostfile.write_text("node1:4\n", encoding="utf-8")
    code, out, err = hosts(capsys, hostfile, "--slots", 8, "--to", "mpich")
    assert (code, out) == (0, "node1:4\n")
    assert only_sentence(err).endswith("--slots 8 has no effect: all hosts have theirs")


def test_slurms_variables_without_a_file(capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "4(x2)")
    assert hosts(capsys, "--to", "list") == (0, "node1:4,node2:4\n", "")
    assert "--from mpich without a FILE" in refused(capsys, 2, "--from", "mpich")


def test_without_a_file_and_slurm_it_says_what_to_do(capsys):
    assert "SLURM_JOB_NODELIST is not set: give a FILE" in refused(capsys, 3)


def test_standard_input_and_neither_torch_nor_mpi(tmp_path):
    program = "import sys; from lsgd_mpi.cli.main import main; code = main(['hosts', '-', '--to', 'list']); "
    program += "sys.exit('too much' if {'torch', 'mpi4py', 'horovod'} & set(sys.modules) else code)"
    for given, ended in (
        (b"node1 slots=4\nnode2 slots=4\n", (0, b"node1:4,node2:4\n", b"")),
        (b"node1:0\n", (3, b"", b"lsgd-mpi: standard input, line 1: 'node1' has 0 slots")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=given,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr.rpartition(b": give")[0]) == ended


def test_no_standard_input_is_code_3():
    command = f"{sys.executable} -m lsgd_mpi hosts - <&-"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=launching.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "cannot read standard input" in only_sentence(done.stderr)
