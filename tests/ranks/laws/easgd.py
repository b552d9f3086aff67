"""EASGD in the Jacobi form, and what all methods with a center share."""

import logging

import numpy as np
from descent import RATE, Descent, assert_equal_on_all, assert_path, gradients, starts
from harness import assert_close, assert_same_bits, case_without_groups, start_of

from laws.optimizers import Heard
from laws.starting import agreed_refusal


def jacobi(size, steps, tau, alpha, beta, *, equal=False):
    """All workers, shape (size, 18), and the center after each step of thesis, Equation 2.4."""
    x = starts(size, equal=equal)
    center = x.mean(axis=0)
    path = []
    for step in range(steps):
        force, mean = x - center, x.mean(axis=0)
        x = x - RATE * gradients(x, step)
        if step % tau == 0:
            x = x - alpha * force
            center = (1 - beta) * center + beta * mean
        path.append((x, center))
    return path


@case_without_groups
def easgd_is_its_plain_loop(ranks):
    for tau in (1, 3):
        for equal in (True, False):
            worker = Descent(ranks, "easgd", equal_start=equal, local_period=tau, moving_rate=0.6)
            for x, center in jacobi(ranks.size, 12, tau, 0.6 / ranks.size, 0.6, equal=equal):
                worker.run(1)
                assert_path(worker.values, x[ranks.rank])
                assert_path(worker.evaluated(), center)


@case_without_groups
def easgd_takes_the_rates_of_the_thesis(ranks):
    by_default = Descent(ranks, "easgd", local_period=2)
    assert by_default.optimizer.options.moving_rate == 0.9
    assert by_default.optimizer.options.worker_moving_rate == 0.9 / ranks.size
    by_default.run(5)
    x, center = jacobi(ranks.size, 5, 2, 0.9 / ranks.size, 0.9)[-1]
    assert_path(by_default.values, x[ranks.rank])
    assert_path(by_default.evaluated(), center)
    options = Descent(ranks, "easgd", worker_moving_rate=0.2).optimizer.options
    assert (options.worker_moving_rate, options.moving_rate) == (0.2, ranks.size * 0.2)
    assert Descent(ranks, "easgd").optimizer.options.local_period == 16


@case_without_groups
def an_elastic_exchange_happens_at_zero_and_at_every_period(ranks):
    worker = Descent(ranks, "easgd", local_period=3)
    moved = []
    for step in range(8):
        before, center = worker.values, worker.evaluated()
        worker.run(1, still=True)
        # The worker in the middle of three, and the center while it is the mean of all, need not move.
        if any(ranks.gather(not worker.values.equal(before))):
            moved.append(step)
        else:
            assert_same_bits(worker.evaluated(), center)
    # A worker alone stands at its center: no force moves it.
    assert moved == ([0, 3, 6] if ranks.size > 1 else [])


@case_without_groups
def an_elastic_exchange_keeps_the_sum_of_workers_and_center(ranks):
    # β = p α: what the workers lose the center gains.
    for algorithm in ("easgd", "eamsgd"):
        worker = Descent(ranks, algorithm, local_period=1, moving_rate=0.7)
        worker.run(1)
        for _ in range(3):
            total = sum(ranks.gather(worker.values)) + worker.evaluated()
            assert ranks.size > 1 or not worker.values.equal(worker.evaluated())
            worker.run(1, still=True)
            assert_close(sum(ranks.gather(worker.values)) + worker.evaluated(), total)


@case_without_groups
def without_elastic_force_workers_are_alone_and_the_center_rests(ranks):
    for algorithm in ("easgd", "eamsgd", "easgd-gauss-seidel"):
        worker = Descent(ranks, algorithm, local_period=1, moving_rate=0.0)
        center = worker.evaluated()
        assert_close(center, sum(start_of(rank) for rank in range(ranks.size)) / ranks.size)
        alone = Descent(ranks, "lsgd", local_period=1000)
        assert_same_bits(worker.values, alone.values)
        assert np.array_equal(worker.run(6), alone.run(6))
        assert_same_bits(worker.evaluated(), center)


@case_without_groups
def the_center_has_the_same_bits_on_all_ranks(ranks):
    for algorithm in ("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        for equal in (True, False):
            worker = Descent(ranks, algorithm, equal_start=equal, local_period=2)
            for _ in range(5):
                assert_equal_on_all(ranks, worker.evaluated())
                worker.run(1)


@case_without_groups
def the_center_starts_at_rank_zero_or_at_the_mean_of_the_workers(ranks):
    for algorithm in ("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        equal = Descent(ranks, algorithm, equal_start=True, shift=2)
        assert_same_bits(equal.evaluated(), start_of(2))
        unequal = Descent(ranks, algorithm, shift=2)
        assert_close(unequal.evaluated(), sum(start_of(rank + 2) for rank in range(ranks.size)) / ranks.size)


@case_without_groups
def double_averaging_is_the_mean_of_all_centers(ranks):
    for algorithm in ("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        center = Descent(ranks, algorithm, local_period=2)
        averaged = Descent(ranks, algorithm, local_period=2, evaluated="center-average")
        assert (center.optimizer.evaluated, averaged.optimizer.evaluated) == ("center", "center-average")
        seen = [center.evaluated()]
        assert_same_bits(averaged.evaluated(), seen[0])
        for _ in range(9):
            rounds = center.optimizer.traffic.rounds
            center.run(1)
            if center.optimizer.traffic.rounds > rounds:
                seen.append(center.evaluated())
            averaged.run(1)
            assert_same_bits(averaged.values, center.values)
            assert_close(averaged.evaluated(), sum(seen) / len(seen))
        assert len(seen) == (6 if algorithm in ("easgd", "eamsgd") else 5)


@case_without_groups
def rates_that_disagree_are_refused_on_all_ranks(ranks):
    if ranks.size == 1:
        Descent(ranks, "easgd", moving_rate=0.5, worker_moving_rate=0.5)
        return
    told = agreed_refusal(lambda: Descent(ranks, "easgd", moving_rate=0.5, worker_moving_rate=0.5))
    assert told.startswith("--moving-rate 0.5 and --worker-moving-rate 0.5 disagree")
    assert ranks.gather(told) == [told] * ranks.size
    Descent(ranks, "easgd", moving_rate=0.5, worker_moving_rate=0.5 / ranks.size)
    Descent(ranks, "easgd-gauss-seidel", moving_rate=0.5, worker_moving_rate=0.5)


@case_without_groups
def unstable_rates_are_warned_of_on_rank_zero(ranks):
    heard, log = Heard(), logging.getLogger("lsgd_mpi")
    log.addHandler(heard)
    try:
        for algorithm in ("easgd", "eamsgd", "easgd-gauss-seidel"):
            Descent(ranks, algorithm)
            Descent(ranks, algorithm, moving_rate=2.0, worker_moving_rate=2.0 / ranks.size)
    finally:
        log.removeHandler(heard)
    # |(1 − α)(1 − β)| of the Gauss-Seidel form is 1 − 2/p, but 1 for a worker alone.
    expected = ["EASGD is", "EASGD is", *(["EASGD in the Gauss-Seidel form is"] if ranks.size == 1 else [])]
    told = [message.split(" unstable at ")[0] for message in heard.messages]
    assert told == (expected if ranks.rank == 0 else [])
