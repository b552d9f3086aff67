"""Training on two hosts that are joined by a link of 1 Gbit/s: what crosses it, and what if it is cut."""

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import testbed
from launching import MARK, ROOT, processes_after, processes_of

HERE = Path(__file__).resolve().parent
PARAMETERS_BYTES = 4_000_000
ROUNDS = 5

REASON = testbed.why_not()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no hosts can be made: {REASON}"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with testbed.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def launched(hosts):
    """Starts ``lsgd-mpi launch`` on the first host, for ranks on all, and ends what is left of it."""
    job, processes = uuid.uuid4().hex, []

    def launch(slots, *words, hosts=hosts):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            MARK: job,
        }
        where = ",".join(f"{name}:{number}" for name, number in zip(hosts.names, slots, strict=True))
        command = [sys.executable, "-m", "lsgd_mpi", "launch", "--hosts", where, "--interface", hosts.subnet]
        command += ["--ssh-agent", hosts.agent, *words]
        processes.append(
            subprocess.Popen(
                hosts.words(hosts.names[0], command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    launch.job = job
    yield launch
    for process in processes:
        process.kill()
        process.wait(10)
    for pid in processes_of(job):
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


@pytest.mark.parametrize(("slots", "map_by"), [((2, 2), "node"), ((1, 2), "slot")])
def test_only_the_expected_bytes_cross_the_link(hosts, launched, slots, map_by):
    process = launched(slots, "--map-by", map_by, "--", "python", HERE / "job_bytes.py")
    printed, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    result = json.loads(printed.splitlines()[-1])
    first, second = hosts.names
    placed = {"node": [first, second] * 2, "slot": [first, second, second]}[map_by]
    assert result["hosts"] == placed
    # A group a node, whichever ranks it has.
    assert result["groups"] == {"node": [[0, 2], [1, 3]], "slot": [[0], [1, 2]]}[map_by]
    payload = ROUNDS * PARAMETERS_BYTES
    for measured in result["global"]:
        leader = measured["leader"]
        assert measured["stands"] == [leader] * len(placed)
        sent = dict(measured["sent"])
        from_leader = sent.pop(placed[leader])
        (from_other,) = sent.values()
        # Once to the other node, with some 0.1 % of headers; back only acknowledgements and elections.
        assert payload < from_leader < 1.05 * payload
        assert from_other < 0.05 * payload
    # Local rounds: what Horovod's threads and the elections among processes say to each other.
    assert max(result["local"]["sent"].values()) < 0.05 * payload
    # All offer the same loss but world rank 0, and of equal ones the lowest rank leads.
    assert result["local"]["stands"] == {"node": [0, 1, 0, 1], "slot": [0, 1, 1]}[map_by]
    # Whoever is not on the center's node gets it over the link, and sends it back; and as many bytes again go
    # with Open MPI's requests.
    visits = slots[1] * payload
    assert visits < result["visits"]["sent"][first] < 1.1 * visits
    assert 1.9 * visits < result["visits"]["sent"][second] < 2.2 * visits
    assert processes_after(launched.job, 2.0) == {}


def test_among_three_nodes_each_receives_a_global_pull_once(launched, tmp_path):
    with testbed.cluster(tmp_path, hosts=3) as three:
        process = launched((2, 1, 1), "--", "python", HERE / "job_bytes.py", hosts=three)
        printed, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    result = json.loads(printed.splitlines()[-1])
    assert len(result["global"]) == 4
    for measured in result["global"]:
        assert measured["stands"] == [measured["leader"]] * 4
        # Who passes it on to whom is MPI's choice.
        payload = 2 * ROUNDS * PARAMETERS_BYTES
        assert payload < sum(measured["sent"].values()) < 1.05 * payload


def test_a_link_that_is_cut_ends_the_job_with_7_and_leaves_nobody(hosts, launched, tmp_path):
    run, leaders = tmp_path / "run", tmp_path / "run" / "leaders.csv"
    small = ("--dataset", "digits", "--model", "mlp", "--batch-size", 16, "--threads", 1, "--local-period", 4)
    process = launched(
        (2, 2), "--", "train", *small, "--steps", 10_000_000, "--stall-timeout", 10, "--run-dir", run
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if leaders.exists() and "global" in leaders.read_text():
            break
        time.sleep(0.1)
    cut_at = time.monotonic()
    hosts.cut(hosts.names[1])
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 7, errors
    # 10 s until they notice, 2 to say so, and 10 that Open MPI gets to end by itself.
    assert 9 < time.monotonic() - cut_at < 50
    # The other host may have begun to wait later.
    assert processes_after(launched.job, 25.0) == {}
    # Nobody on the other host can be heard any more, but all have written down what they waited for.
    assert "lsgd-mpi: world rank 0: waited 10 s in " in errors
    for rank in range(4):
        assert "waited 10 s in " in (run / "ranks" / f"rank-{rank:04d}.log").read_text()
    # Whole lines, also of a run that was cut off.
    assert leaders.read_text().endswith("\n")


def test_a_host_that_is_cut_off_is_refused_before_anything_starts(hosts, launched):
    """With a stand-in for ssh that asks over the network, as ``ip netns`` does not."""
    agent = hosts.agent.with_name("asking")
    agent.write_text(
        f"#!{sys.executable}\nimport os, socket, sys\n"
        "try:\n    socket.create_connection((sys.argv[1], 22), 5)\n"
        f"except ConnectionRefusedError:\n    os.execv('{hosts.agent}', ['agent', *sys.argv[1:]])\n"
    )
    agent.chmod(0o755)
    hosts.cut(hosts.names[1])
    process = launched((1, 1), "--ssh-agent", agent, "--", "doctor")
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed) == (3, "")
    assert f"{hosts.names[1]} cannot be reached (" in errors
    assert "No route to host" in errors or "timed out" in errors
    # The host that is still there is no problem.
    assert f"{hosts.names[0]} cannot" not in errors
