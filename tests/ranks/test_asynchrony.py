"""Workers of different speed, and many more of them than cores: nobody waits, nothing is lost, all end."""

import functools
import json
from pathlib import Path

import launching
import pytest

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.timeout(110)

#: Trainings of four ranks, one of them slow: (algorithm, clock, period), least and most share of waiting.
WAITING = {
    ("lsgd", "step", 64): (0.5, 1.0),
    ("lsgd", "shared", 64): (0.0, 0.05),
    ("pr-sgd", "shared", 64): (0.0, 0.05),
    ("easgd", "own", 16): (0.0, 0.05),
    ("downpour", "own", 16): (0.0, 0.05),
}
EQUAL = [("lsgd", clock, 16) for clock in ("step", "shared")]
CONTENTION = ["contend", 1250, 2000]
#: For every number of ranks.
ENDS = [("lsgd", "shared", 4), ("easgd", "own", 4), ("downpour", "own", 4), ("easgd-tree", "own", 4)]
ENDS += [("mdownpour", "own", None), ("pr-sgd-timed", "wall", None)]


def training(size, each, iterations, slowness):
    """Words for job_asynchrony.py."""
    algorithm, clock, period = each
    options = {
        "easgd-tree": {"degree": max(1, size - 1), "leaf_period": period},
        "mdownpour": {},
        "pr-sgd-timed": {"epoch_seconds": 0.05},
    }.get(algorithm, {"local_period": period})
    return ["train", algorithm, clock, options, iterations, slowness]


@functools.cache
def on_ranks(size):
    """{what: what became of it}, all in one job."""
    todo = {each: training(size, each, 24, 2) for each in ENDS}
    if size == 4:
        todo |= {(*each, "slow"): training(4, each, 256, 3) for each in WAITING}
        todo |= {(*each, "equal"): training(4, each, 256, 1) for each in EQUAL}
    if size == 8:
        todo["contention"] = CONTENTION
    words = [HERE / "job_asynchrony.py", json.dumps(list(todo.values()))]
    finished = launching.run_ranks(size, words, timeout_s=100)
    assert finished.returncode == 0, finished.printed
    assert finished.left_behind == []
    return dict(zip(todo, json.loads(finished.stdout_of(0).splitlines()[-1]), strict=True))


def test_eight_ranks_on_one_center_lose_and_double_nothing():
    told = on_ranks(8)["contention"]
    assert told["visits"] == 10_000
    assert told["each_number_once"]
    assert told["moved"] > 1
    # Rounding of float64, of ten thousand sums in two different orders.
    assert told["relative_error"] < 1e-9


@pytest.mark.parametrize("trained", WAITING, ids=lambda each: "-".join(map(str, each)))
def test_fast_ranks_wait_for_a_slow_one_in_step_alone(trained):
    told = on_ranks(4)[(*trained, "slow")]
    least, most = WAITING[trained]
    assert least <= sorted(each["waiting"] for each in told[:3])[1] <= most, told
    steps = [each["steps"] for each in told]
    if trained[1] == "step":
        assert steps == [256] * 4
    else:
        # Three do as much as they can, and all together what was asked for.
        assert sum(steps) == 4 * 256
        assert min(steps[:3]) > 2 * steps[3]


def test_with_equal_speeds_the_shared_clock_makes_the_rounds_of_the_step_clock():
    in_step, shared = (on_ranks(4)[(*each, "equal")] for each in EQUAL)
    assert [each["rounds"] for each in shared] == [each["rounds"] for each in in_step] == [16] * 4
    assert sum(each["steps"] for each in shared) == 4 * 256


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_number_of_ranks_ends_in_order(size):
    for each in ENDS:
        told = on_ranks(size)[each]
        total = sum(rank["steps"] for rank in told)
        assert {rank["total_steps"] for rank in told} == {total}
        workers = max(1, size - 1) if each[0] == "easgd-tree" else size
        # Epochs of wall-clock time end when they end.
        assert total >= 24 * size if each[0] == "pr-sgd-timed" else total == 24 * workers
