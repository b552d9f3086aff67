"""``lsgd-mpi launch``: the command it shows, what it refuses, and real runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from launching import processes_of
from runs import LSGD_MPI, SMALL, alone, environment, losses, only_sentence

from lsgd_mpi import launch_command
from lsgd_mpi.cli import launch
from lsgd_mpi.cli.main import main

TRAIN = ("train", *map(str, SMALL), "--epochs", "1")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PRTE_", "PMIX_")):
            monkeypatch.delenv(name)


def refused(capsys, *words):
    """The exit code and the sentence with which ``lsgd-mpi launch`` ends before it starts anything."""
    code = main(["launch", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, only_sentence(captured.err)


def test_print_shows_the_command_and_starts_nothing(capsys, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=3\nnode2 slots=1\n")
    words = ["launch", "--hostfile", str(hostfile), "--launcher-option", "--report-bindings -q", "--print"]
    assert main([*words, "--", "train", "--groups", "0-1;2-3"]) == 0
    line = capsys.readouterr().out
    assert "mpirun -np 4 --host node1:3,node2:1 " in line
    assert line.endswith(f"--report-bindings -q {sys.executable} -m lsgd_mpi train --groups '0-1;2-3'\n")


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["python", "x.py"], f"{sys.executable} x.py"),
        (["doctor"], f"{sys.executable} -m lsgd_mpi doctor"),
        (["./a.out", "-v"], "./a.out -v"),
    ],
)
def test_programs_of_ones_own_can_be_started_too(capsys, words, program):
    assert main(["launch", "-np", "2", "--print", "--", *words]) == 0
    assert capsys.readouterr().out.endswith(f" {program}\n")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--", "train"], 2, "say how many ranks, with -np N"),
        (["-np", "2"], 2, "say what each rank is to run"),
        (["-np", "0", "--", "train"], 2, "at least one rank"),
        (["-np", "x", "--", "train"], 2, "a whole number"),
        (["-np", "2", "--nonsense", "--", "train"], 2, "--nonsense"),
        (["-np", "3", "--hosts", "a:1,b:1", "--", "train"], 3, "the hosts have 2 slots (a:1,b:1)"),
        (["--hosts", "a:1,b:zwei", "--", "train"], 3, "--hosts"),
        (["-np", "2", "--hostfile", "/nowhere", "--", "train"], 3, "/nowhere"),
        (["-np", "2", "--launcher", "srun", "--", "train"], 3, "this is no allocation of SLURM"),
    ],
)
def test_bad_usage_is_one_sentence(capsys, words, code, why):
    ended, sentence = refused(capsys, *words)
    assert (ended, why in sentence) == (code, True), sentence


def test_a_broken_line_of_a_hostfile_is_told_by_its_number(capsys, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=2\n\nnode2 slots=two\n")
    code, sentence = refused(capsys, "--hostfile", hostfile, "--", "train")
    assert code == 3
    assert "line 3" in sentence


def test_a_host_without_slots_is_named(capsys, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=2\nnode2\n")
    code, sentence = refused(capsys, "--hostfile", hostfile, "--", "train")
    assert (code, "'node2' has no number of slots" in sentence) == (3, True)


def test_a_launcher_that_is_not_installed_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, sentence = refused(capsys, "-np", 2, "--", "train")
    assert (code, "mpirun is not installed" in sentence) == (3, True)
    broken = tmp_path / "mpirun"
    broken.write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    broken.chmod(0o755)
    code, sentence = refused(capsys, "-np", 2, "--", "train")
    assert (code, "ended with 127: no library" in sentence) == (3, True)
    broken.write_bytes(b"of another machine")
    code, sentence = refused(capsys, "-np", 2, "--", "train")
    assert (code, "mpirun cannot be started: Exec format error" in sentence) == (3, True)
    broken.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(launch_command, "_ASKED_S", 0.2)
    code, sentence = refused(capsys, "-np", 2, "--", "train")
    assert (code, "did not end within 0.2 s" in sentence) == (3, True)


def agent(tmp_path, script):
    path = tmp_path / "agent"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_host_that_cannot_be_reached_is_named(capsys, tmp_path):
    told = agent(tmp_path, '[ "$1" = node1 ] && exit 0; echo "no route to $1" >&2; exit 255')
    code, sentence = refused(capsys, "--hosts", "node1:1,node2:1", "--ssh-agent", told, "--", "train")
    assert code == 3
    assert "node2 cannot be reached (no route to node2)" in sentence
    assert "node1 cannot" not in sentence


def test_a_host_that_does_not_answer_is_not_waited_for(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_ANSWER_S", 0.3)
    begun = time.monotonic()
    code, sentence = refused(
        capsys, "--hosts", "node1:1", "--ssh-agent", agent(tmp_path, "sleep 60"), "--", "train"
    )
    assert (code, "node1 does not answer within 0.3 s" in sentence) == (3, True)
    assert time.monotonic() - begun < 10


def test_srun_without_pmix_is_refused_with_the_reason(capsys, tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho 'MPI plugin types are none cray_shasta' >&2\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    code, sentence = refused(capsys, "-np", 2, "--launcher", "srun", "--", "train")
    assert (code, "this SLURM has no PMIx" in sentence) == (3, True)


def test_more_ranks_than_an_allocation_has_tasks(capsys, tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho 'MPI plugin types are none pmix' >&2\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    allocation = {"JOB_ID": "1", "JOB_NODELIST": "node[1-2]", "TASKS_PER_NODE": "2,1"}
    for name, value in allocation.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    code, sentence = refused(capsys, "-np", 4, "--print", "--", "train")
    assert (code, "the allocation has 3 tasks" in sentence) == (3, True)
    for words in (["-np", "3"], ["-np", "4", "--launcher-option=--overcommit"]):
        assert main(["launch", *words, "--print", "--", "train"]) == 0
        assert "/srun --mpi=pmix" in capsys.readouterr().out


class TestWatch:
    """What runs the launcher where there are other hosts."""

    def start(self, folder, script):
        program = "import sys; from lsgd_mpi.cli.launch import _watch; import os; " + (
            "sys.exit(_watch(['sh', '-c', sys.argv[1]], dict(os.environ)))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program, script],
            env=environment(),
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Where the tests run in the background, a shell has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ("exit 5", 5),
            ("kill -9 $$", 128 + 9),
            # A rank of this host has left the exit code, and mpirun was ended.
            ("echo 7 > $LSGD_WILL.1; mv $LSGD_WILL.1 $LSGD_WILL; kill -9 $$", 7),
        ],
    )
    def test_the_exit_code_is_the_launchers_or_the_one_left_behind(self, tmp_path, script, code):
        assert self.start(tmp_path, script).wait(30) == code

    @pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
    def test_signals_are_passed_on(self, tmp_path, sent):
        script = "trap 'exit 40' TERM; trap 'exit 41' INT; echo ready; while :; do sleep 0.1; done"
        process = self.start(tmp_path, script)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        assert process.wait(30) == (40 if sent == signal.SIGTERM else 41)


def test_this_machine_is_known_by_all_its_names():
    assert launch._is_here("localhost")
    assert launch._is_here(socket.gethostname())
    assert launch._is_here("127.0.0.1")
    assert not launch._is_here("192.0.2.1")
    assert not launch._is_here("no-such-host.invalid")


class TestRealRuns:
    def test_trains_as_mpirun_by_hand_does_and_shows_the_command(self, pair, tmp_path):
        _, folder = pair
        done = alone(
            [*LSGD_MPI, "launch", "-np", 2, "--", *TRAIN, "--run-dir", tmp_path / "run"], tmp_path, 100
        )
        assert done.returncode == 0, done.stderr
        assert losses(tmp_path / "run") == losses(folder / "seed 0")
        assert done.stderr.splitlines()[0].startswith("+ ")
        assert "mpirun -np 2 " in done.stderr.splitlines()[0]

    def test_one_rank_is_a_process_without_a_launcher(self, tmp_path):
        for name, words in (("launched", ["launch", "-np", 1, "--", *TRAIN]), ("alone", TRAIN)):
            done = alone([*LSGD_MPI, *words, "--run-dir", tmp_path / name], tmp_path, 100)
            assert done.returncode == 0, done.stderr
        assert losses(tmp_path / "launched") == losses(tmp_path / "alone")

    def test_the_exit_code_is_that_of_the_ranks(self, tmp_path):
        done = alone([*LSGD_MPI, "launch", "-np", 2, "--", "train", "--lr", "fast"], tmp_path, 100)
        assert done.returncode == 2
        assert "argument --lr: invalid float value: 'fast'" in done.stderr

    def test_it_ends_its_ranks_when_it_is_told_to_end(self, tmp_path):
        run, mark = tmp_path / "run", f"launch-{os.getpid()}"
        words = [
            *LSGD_MPI,
            "launch",
            "-np",
            "2",
            "--",
            *TRAIN[:-2],
            "--steps",
            "1000000",
            "--run-dir",
            str(run),
        ]
        process = subprocess.Popen(
            [sys.executable, *words],
            env={**environment(), "LSGD_TEST_JOB": mark},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not (run / "leaders.csv").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(processes_of(mark)) >= 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) != 0
            deadline = time.monotonic() + 10
            while processes_of(mark) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert processes_of(mark) == {}
        finally:
            for pid in processes_of(mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(10)


def test_horovodrun_with_gloo_is_refused_with_the_reason(tmp_path):
    horovodrun = Path(sys.executable).parent / "horovodrun"
    if not horovodrun.exists():
        pytest.skip("there is no horovodrun beside this python")
    words = [
        horovodrun,
        "-np",
        "2",
        "--gloo",
        sys.executable,
        *LSGD_MPI,
        *TRAIN,
        "--run-dir",
        tmp_path / "run",
    ]
    path = os.pathsep.join([str(horovodrun.parent), os.environ["PATH"]])
    done = subprocess.run(
        list(map(str, words)),
        env={**environment(), "PATH": path},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "horovodrun --gloo started 2 processes but MPI sees 1" in done.stdout + done.stderr
    assert "start with horovodrun --mpi" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
