"""What a rank leaves behind on a host that lost the others."""

import shutil
import subprocess
import time

import pytest

from lsgd_mpi.aftermath import WILL_VARIABLE, end_daemon_after, leave_will, read_will


@pytest.fixture
def daemon(tmp_path):
    """Starts a process whose name is that of a daemon."""
    processes = []

    def start(name):
        program = tmp_path / name
        shutil.copy("/bin/sleep", program)
        processes.append(subprocess.Popen([program, "60"]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


def test_a_daemon_that_stays_is_ended(daemon):
    process = daemon("prted")
    assert end_daemon_after(0.3, process.pid)
    assert process.poll() is None
    process.wait(10)


def test_a_daemon_that_serves_others_too_is_left_alone(daemon, monkeypatch):
    process = daemon("prted")
    monkeypatch.setenv("PMIX_NAMESPACE", "prte-node1-17@1")
    assert not end_daemon_after(0.0, process.pid)
    monkeypatch.setenv("PMIX_NAMESPACE", "prterun-node1-17@1")
    assert end_daemon_after(0.0, process.pid)
    process.wait(10)


def test_what_is_no_daemon_is_left_alone(daemon):
    process = daemon("slurmstepd")
    assert not end_daemon_after(0.0, process.pid)
    time.sleep(0.3)
    assert process.poll() is None
    assert not end_daemon_after(0.0, 2**22 + 1)


def test_the_will_is_left_where_launch_runs_and_nowhere_else(tmp_path):
    will = tmp_path / "exit-code"
    assert read_will(will) is None
    leave_will(7, {})
    leave_will(7, {WILL_VARIABLE: str(tmp_path / "of another host" / "exit-code")})
    assert list(tmp_path.iterdir()) == []
    leave_will(7, {WILL_VARIABLE: str(will)})
    assert read_will(will) == 7
