"""Rounds on the shared count of iterations: when they are held, among workers of equal and unequal speed."""

import time

import numpy as np
import pytest
from descent import FLAT_BYTES, Descent, assert_equal_on_all, methods
from harness import assert_same_bits, case, case_without_groups

from lsgd_mpi.algorithms import find_algorithm
from lsgd_mpi.errors import UsageError

COUNT_BYTES = 8


def train(worker, until, seconds=0.0):
    """Iterate, each time for ``seconds`` at least, until the average rank has made ``until`` iterations."""
    clock = worker.optimizer.clock
    clock.meetings.at("end", until)
    while True:
        time.sleep(seconds)
        worker.run(1)
        yield clock
        if "end" in clock.due:
            return


@case
def workers_in_step_hold_the_rounds_of_the_step_clock_bit_for_bit(ranks):
    for name, make, options in methods(ranks).values():
        if "shared" not in find_algorithm(name).clocks:
            continue
        in_step, shared = (
            Descent(ranks, name, make, equal_start=True, clock=clock, **options)
            for clock in ("step", "shared")
        )
        for _ in range(14):
            in_step.run(1)
            ranks.world.barrier()
            shared.run(1)
            assert_same_bits(shared.values, in_step.values)
        assert_same_bits(shared.evaluated(), in_step.evaluated())
        # Rounds of other groups reach rank 0 by way of whichever optimizer makes a step.
        held = [
            [(each.scope, each.step) for each in worker.optimizer.rounds if each.group in (ranks.group, None)]
            for worker in (shared, in_step)
        ]
        assert held[0] == held[1]


@case
def rounds_are_held_by_all_at_multiples_of_the_period_whatever_their_speed(ranks):
    worker = Descent(
        ranks, "lsgd", clock="shared", local_period=5, local_pull=1.0, global_period=10, global_pull=1.0
    )
    steps = []
    for clock in train(worker, 40, seconds=0.001 * (1 + ranks.rank)):
        if {"local round", "global round"} & clock.due_rounds:
            steps.append((clock.total_steps, clock.step))
            # A pull of 1: all that were in the round are equal after it.
            together = ranks.world if clock.total_steps % (10 * ranks.size) == 0 else None
            if together is not None or len(ranks.groups) == 1:
                assert_equal_on_all(ranks, worker.values)
    everyone = ranks.gather(steps)
    assert [total for total, _ in steps] == [5 * ranks.size * number for number in range(1, 9)]
    for number, at_round in enumerate(zip(*everyone, strict=True), start=1):
        # None waits on a round that others are not in, and the sum is just what was agreed.
        assert sum(step for _, step in at_round) == 5 * ranks.size * number
    own = [each for each in worker.optimizer.rounds if each.group == ranks.group]
    assert [(each.step, each.total_steps) for each in own] == [(step, total) for total, step in steps]
    if ranks.size > 1:
        # The slowest makes the fewest.
        counts = [each[-1][1] for each in everyone]
        assert counts[0] > counts[-1]


@case_without_groups
def averages_and_centers_on_the_shared_clock_are_those_of_the_workers_that_came(ranks):
    for name in ("pr-sgd", "easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        make = methods(ranks)[name][1]
        worker = Descent(ranks, name, make, clock="shared", local_period=4)
        rounds, sent = worker.optimizer.traffic.rounds, worker.optimizer.traffic.sent_bytes
        for _ in train(worker, 12, seconds=0.0005 * (1 + ranks.rank)):
            pass
        assert worker.optimizer.clock.total_steps == 12 * ranks.size
        held = worker.optimizer.traffic.rounds - rounds
        # At 0, 4 and 8, or at 4, 8 and 12.
        assert held == 3
        moved = FLAT_BYTES * held if ranks.size > 1 else 0
        counted = COUNT_BYTES * worker.optimizer.clock.step
        assert worker.optimizer.traffic.sent_bytes - sent == moved + counted
        if name in ("pr-sgd", "downpour"):
            assert_equal_on_all(ranks, worker.values)
        assert_equal_on_all(ranks, worker.evaluated())
        assert np.isfinite(worker.values.numpy()).all()


@case_without_groups
def nobody_waits_longer_in_a_round_than_the_slowest_ones_iteration(ranks):
    seconds = 0.03 if ranks.rank == ranks.size - 1 else 0.01
    worker = Descent(ranks, "lsgd", clock="shared", local_period=8, global_period=1000)
    longest, last = 0.0, worker.optimizer.traffic.wait_s
    for _ in train(worker, 40, seconds=seconds):
        waited = worker.optimizer.traffic.wait_s
        longest, last = max(longest, waited - last), waited
    # The machine itself may hold a rank back for a moment.
    assert sorted(ranks.gather(longest))[ranks.size // 2] < 0.03 + 0.02


@case_without_groups
def a_saved_state_on_the_shared_clock_goes_on_counting(ranks):
    first = Descent(ranks, "pr-sgd", clock="shared", local_period=4)
    for _ in train(first, 6):
        pass
    state = first.optimizer.state_dict()
    second = Descent(ranks, "pr-sgd", clock="shared", local_period=4)
    second.optimizer.load_state_dict(state)
    held = []
    for clock in train(second, 16):
        if "round" in clock.due_rounds:
            held.append(clock.total_steps)
    assert held == [8 * ranks.size, 12 * ranks.size, 16 * ranks.size]
    other = Descent(ranks, "pr-sgd", local_period=4)
    with pytest.raises(UsageError, match="the saved state is of clock shared, not of step"):
        other.optimizer.load_state_dict(state)


@case_without_groups
def a_clock_that_a_method_has_no_paper_for_is_refused(ranks):
    for name, clock, why in (
        ("lsgd", "own", "lsgd elects a leader among workers that meet"),
        ("allreduce", "shared", "averages the gradients of one and the same iteration"),
        ("pr-sgd-varying", "shared", "its periods are iterations that all workers make"),
        ("easgd", "wall", "easgd has no such clock; its clocks are step, shared, own"),
    ):
        with pytest.raises(UsageError, match=why) as refused:
            Descent(ranks, name, clock=clock, equal_start=True)
        assert refused.value.agreed
        assert str(refused.value).startswith(f"--clock {clock}: {name} ")


@case
def a_slow_group_does_not_fall_behind_in_its_own_rounds(ranks):
    # Groups hold their local rounds by themselves; the global one must not wait for all that a slow one owes.
    slow = ranks.group == len(ranks.groups) - 1
    worker = Descent(ranks, "lsgd", clock="shared", local_period=1, global_period=30)
    for clock in train(worker, 30, seconds=0.012 if slow else 0.004):
        last = clock
    local = [each.total_steps for each in worker.optimizer.rounds if each.group == ranks.group]
    assert local == [ranks.size * number for number in range(1, 31)]
    # Nobody made more iterations to catch up.
    assert sum(ranks.gather(last.step)) == 30 * ranks.size
