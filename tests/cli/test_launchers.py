import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from launching import mpirun_command
from runs import LSGD_MPI, SMALL, environment, losses, rows

WORDS = [*LSGD_MPI, "train", *map(str, SMALL), "--epochs", "1"]


@pytest.mark.parametrize("options", [["--mpi"], None], ids=["by hand", "by launch"])
def test_horovodrun_trains_as_mpirun_does(pair, tmp_path, options):
    _, folder = pair
    beside_python = Path(sys.executable).parent
    horovodrun = shutil.which("horovodrun", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")
    if horovodrun is None:
        pytest.skip("there is no horovodrun beside this python or on the path")
    words = [*WORDS, "--run-dir", str(tmp_path / "run")]
    if options is None:
        launch = [sys.executable, *LSGD_MPI, "launch", "-np", "2", "--launcher", "horovodrun", "--"]
        command = [*launch, "python", *words]
    else:
        command = [horovodrun, "-np", "2", *options, sys.executable, *words]
    path = f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        command,
        env={**environment(), "PATH": path},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            # horovodrun watches over its mpirun and ends it when it is told to end.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)
    assert process.returncode == 0, printed
    assert losses(tmp_path / "run") == losses(folder / "seed 0")


def read_until(terminal, found, seconds):
    """What a process writes to its terminal, until ``found`` is true of it or it is gone."""
    seen, deadline = b"", time.monotonic() + seconds
    while not found(seen) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                break  # Linux's way to say that nobody has the terminal open any more
            if not piece:
                break
            seen += piece
    return seen


def take_terminal():
    """In a new session: let Ctrl-C on the terminal that is stdin reach this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Where the tests run in the background, a shell has them ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(params=[0, 2], ids=["no launcher", "mpirun -np 2"])
def on_terminal(request, tmp_path):
    """A job on a terminal: its process, the other end of the terminal, its exit code after Ctrl-C."""
    words = [sys.executable, *WORDS[:-2], "--steps", "1000000", "--run-dir", str(tmp_path / "run")]
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    process = subprocess.Popen(
        mpirun_command(request.param, words) if request.param else words,
        env={**environment(), "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(inside)
    # Open MPI's mpirun ends with 1 after Ctrl-C, a process of its own with 128 and the signal's number.
    yield process, terminal, 1 if request.param else 130
    process.kill()
    process.wait(10)
    os.close(terminal)


def test_a_terminal_has_a_bar_that_ctrl_c_ends(on_terminal, tmp_path):
    process, terminal, code = on_terminal
    bar = re.compile(rb"\r[^\r\n]*%\|[^\r\n]*\| [1-9]\d*/1000000 \[[^\r\n]*loss=[\d.]+")
    seen = read_until(terminal, lambda seen: bar.search(seen) and b"test error" in seen, 60)
    assert bar.search(seen), seen.decode(errors="replace")
    # Lines above the bar begin at the left edge.
    assert re.search(rb"[\r\n]step \d+, epoch 1\.00", seen), seen.decode(errors="replace")
    os.write(terminal, b"\x03")
    seen += read_until(terminal, lambda _: process.poll() is not None, 20)
    assert process.wait(10) == code, seen.decode(errors="replace")
    assert b"Traceback" not in seen
    assert rows(tmp_path / "run" / "metrics.csv")
