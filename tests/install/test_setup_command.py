"""bin/setup and bin/demo as a person meets them: what they say when something is wrong."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(60)


def start(command, **environment):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {name: str(value) for name, value in environment.items()},
    )


def assert_one_sentence(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def fresh_tree(tmp_path):
    """A copy of what set-up needs, without .venv, in a folder with a blank in its name."""
    tree = tmp_path / "a fresh tree"
    for folder in ("bin", "install"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "setup.py", tree)
    return tree


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--nonsense"], "--nonsense"),
        (["--nccl", "perhaps"], "perhaps"),
        (["--nccl"], "--nccl"),
        (["extra"], "extra"),
        (["--system"], "--system"),
    ],
)
def test_unknown_option_is_one_sentence(fresh_tree, arguments, word):
    assert_one_sentence(start([fresh_tree / "bin/setup", *arguments]), 2, word, "--help")
    assert not (fresh_tree / ".venv").exists()


def test_help_names_every_option(fresh_tree):
    done = start([fresh_tree / "bin/setup", "--help"])
    assert done.returncode == 0
    for option in ("--system-mpi", "--nccl", "--rebuild", "--no-dev", "--again", "PYTHON", "XDG_CACHE_HOME"):
        assert option in done.stdout


def test_missing_python(fresh_tree):
    assert_one_sentence(start([fresh_tree / "bin/setup"], PYTHON="no-such-python"), 3, "no-such-python")


def test_old_python(fresh_tree, tmp_path):
    old = script(tmp_path / "python-old", "exit 1")
    assert_one_sentence(start([fresh_tree / "bin/setup"], PYTHON=old), 3, "too old", "3.10")


def test_missing_compiler(fresh_tree, tmp_path):
    """A PATH with all that bin/setup itself uses, and no compiler."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    python = Path(sys.executable).resolve()
    done = start([fresh_tree / "bin/setup"], PATH=tools, CXX="", PYTHON=python)
    assert_one_sentence(done, 3, "C++ compiler", "build-essential")
    assert not (fresh_tree / ".venv").exists()


def test_compiler_without_cxx20(fresh_tree, tmp_path):
    old = script(tmp_path / "old-c++", "echo \"error: unrecognized option '-std=c++20'\" >&2; exit 1")
    done = start([fresh_tree / "bin/setup"], CXX=old)
    assert_one_sentence(done, 3, str(old), "C++20", "unrecognized option", "CXX=")
    assert not (fresh_tree / ".venv").exists()


def test_system_mpi_without_mpicxx(fresh_tree, tmp_path):
    """Every program but the MPI's, so that only that is missing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "c++", "make", "as", "ld"):
        (tools / name).symlink_to(shutil.which(name))
    python = Path(sys.executable).resolve()
    done = start([fresh_tree / "bin/setup", "--system-mpi"], PATH=tools, CXX="", PYTHON=python)
    assert_one_sentence(done, 3, "mpicxx", "module")


def test_nccl_without_toolkit(fresh_tree, tmp_path):
    if Path("/usr/local/cuda/include/cuda.h").exists():
        pytest.skip("a CUDA toolkit is installed in the usual place")
    done = start([fresh_tree / "bin/setup", "--nccl", "yes"], CUDA_HOME=tmp_path)
    assert_one_sentence(done, 3, "CUDA_HOME")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--ranks", "many"], 2, "many"),
        (["--ranks=0"], 2, "0"),
        (["--data-dir"], 2, "--data-dir"),
        (["--data-dir", "/no/such/folder"], 4, "/no/such/folder"),
    ],
)
def test_demo_says_what_is_wrong_before_it_sets_up(fresh_tree, arguments, code, word):
    assert_one_sentence(start([fresh_tree / "bin/demo", *arguments]), code, word)
    assert not (fresh_tree / ".venv").exists()


@pytest.mark.skipif(
    not (ROOT / ".venv/setup.json").exists(), reason="bin/setup has not finished in this folder"
)
def test_second_run_takes_a_moment(tmp_path):
    first = start([ROOT / "bin/setup", "--again"])
    assert first.returncode == 0, first.stderr
    started = time.monotonic()
    # From another folder, with another environment's variables set.
    second = subprocess.run(
        [ROOT / "bin/setup", "--again"],
        cwd=tmp_path,
        env=os.environ | {"VIRTUAL_ENV": "/elsewhere", "PYTHONPATH": "/elsewhere"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.stdout.splitlines() == ["setup: .venv is up to date"]
    assert time.monotonic() - started < 10


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_are_clean():
    scripts = [path for path in (ROOT / "bin").iterdir() if path.is_file()] + [ROOT / ".ci/run"]
    done = start(["shellcheck", "-x", *scripts])
    assert done.returncode == 0, done.stdout
    for path in scripts:
        assert os.access(path, os.X_OK) == (path.suffix != ".sh"), f"{path} has the wrong mode"
