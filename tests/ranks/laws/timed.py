"""PR-SGD in epochs of wall-clock time, replayed in NumPy from the iterations that each worker made."""

import time

import numpy as np
from descent import FLAT_BYTES, RATE, Bowl, Descent, assert_equal_on_all, assert_path, starts
from harness import case_without_groups

from laws.starting import agreed_refusal


@case_without_groups
def pr_sgd_timed_is_the_average_of_what_each_worker_made_of_its_epochs(ranks):
    worker = Descent(ranks, "pr-sgd-timed", epoch_seconds=0.02)
    clock, traffic = worker.optimizer.clock, worker.optimizer.traffic
    rounds, sent = traffic.rounds, traffic.sent_bytes
    clock.meetings.at("end", 20)
    ends = []
    while "end" not in clock.due:
        time.sleep(0.001 * (1 + 2 * ranks.rank))
        worker.run(1)
        if "round" in clock.due_rounds:
            ends.append(clock.step)
            assert_equal_on_all(ranks, worker.values)
    everyone = ranks.gather(ends)
    assert len({len(each) for each in everyone}) == 1
    assert clock.total_steps == sum(each[-1] for each in everyone) >= 20 * ranks.size
    assert traffic.rounds - rounds == len(ends)
    expected = len(ends) * (8 + (FLAT_BYTES if ranks.size > 1 else 0))
    assert traffic.sent_bytes - sent == expected
    x, done = starts(ranks.size), [0] * ranks.size
    for number in range(len(ends)):
        for rank, each in enumerate(everyone):
            for step in range(done[rank], each[number]):
                x[rank] = x[rank] - RATE * Bowl(rank).gradient(x[rank], step)
            assert each[number] > done[rank]
            done[rank] = each[number]
        x = np.tile(x.mean(axis=0), (ranks.size, 1))
    assert_path(worker.values, x[ranks.rank])
    assert worker.optimizer.evaluated == "average"
    # Somebody made more than one in an epoch.
    assert clock.total_steps > len(ends) * ranks.size


@case_without_groups
def epochs_shorter_than_any_step_are_refused_on_all_ranks(ranks):
    worker = Descent(ranks, "pr-sgd-timed", epoch_seconds=0.001)

    def train():
        for _ in range(10):
            time.sleep(0.005)
            worker.run(1)

    told = agreed_refusal(train)
    assert told.startswith("--epoch-seconds 0.001: no worker makes more than one step in it")
    assert worker.steps == 2
