"""Workers that visit a center alone: what an exchange does, under contention, to rounding; and its end."""

import copy
import gc
import logging
import time

import numpy as np
import pytest
import torch
from contention import contend
from descent import FLAT_BYTES, RATE, Bowl, Descent, assert_equal_on_all, assert_path, sgd, starts
from harness import assert_close, assert_same_bits, case_without_groups, start_of, write

import lsgd_mpi
from laws.optimizers import Heard
from laws.shared_clock import COUNT_BYTES, train
from laws.starting import agreed_refusal

#: Methods with a center on each worker's own clock: name, optimizer, options, bytes of an exchange.
VISITING = {
    "easgd": ("easgd", sgd(), {"local_period": 3}, 2),
    "easgd, overlapped": ("easgd", sgd(), {"local_period": 3, "exchange": "overlapped"}, 2),
    "eamsgd": ("eamsgd", sgd(momentum=0.9, nesterov=True, lr=0.02), {"local_period": 3}, 2),
    "downpour": ("downpour", sgd(lr=0.03), {"local_period": 3}, 2),
    "adownpour": ("adownpour", sgd(lr=0.03), {"local_period": 3}, 2),
    "mvadownpour": ("mvadownpour", sgd(lr=0.03), {"local_period": 3, "averaging_rate": 0.2}, 2),
    "mdownpour": ("mdownpour", sgd(momentum=0.9, nesterov=True, lr=0.02), {}, 4),
}


def visiting(ranks, description, **more):
    name, make, options, _ = VISITING[description]
    return Descent(ranks, name, make, clock="own", equal_start=True, **{**options, **more})


def in_turn(ranks, *workers, steps=1):
    """Let the workers of one rank after the other make steps."""
    for rank in range(ranks.size):
        if rank == ranks.rank:
            for worker in workers:
                worker.run(steps)
                # Waits for what goes on in the background.
                worker.optimizer.state_dict()
        ranks.world.barrier()


class Center:
    """The center and all workers of asynchronous methods, played through in the order of the ranks."""

    def __init__(self, size):
        self.x = starts(size, equal=True)
        self.center = self.x[0].copy()
        self.centers = [self.center.copy()]
        self.velocity = np.zeros_like(self.x)

    def gradient(self, rank, step, at):
        return Bowl(rank).gradient(at, step)

    def visited(self):
        self.centers.append(self.center.copy())


def easgd(size, steps, tau, delta=0.0, rate=RATE):
    """Thesis, Algorithms 1 and 2, the workers one after the other in each iteration; yields (x, center)."""
    state, alpha = Center(size), 0.9 / size
    for step in range(steps):
        for i in range(size):
            x, v = state.x[i], state.velocity[i]
            gradient = state.gradient(i, step, x + delta * v)
            if step % tau == 0:
                d = alpha * (x - state.center)
                state.x[i] = x - d
                state.center = state.center + d
                state.visited()
            state.velocity[i] = delta * v - rate * gradient
            state.x[i] = state.x[i] + state.velocity[i]
        yield state


def downpour(size, steps, tau, rate):
    """Thesis, Algorithm 3."""
    state = Center(size)
    for step in range(steps):
        for i in range(size):
            change = -rate * state.gradient(i, step, state.x[i])
            state.x[i] = state.x[i] + change
            state.velocity[i] = state.velocity[i] + change
            if (step + 1) % tau == 0:
                state.center = state.center + state.velocity[i]
                state.x[i] = state.center
                state.velocity[i] = 0
                state.visited()
        yield state


def mdownpour(size, steps, delta, rate):
    """Thesis, Algorithms 4 and 5."""
    state = Center(size)
    v = np.zeros_like(state.center)
    for step in range(steps):
        for i in range(size):
            v = delta * v - rate * state.gradient(i, step, state.x[i])
            state.center = state.center + v
            state.x[i] = state.center + delta * v
            state.visited()
        yield state


@case_without_groups
def each_asynchronous_method_is_its_plain_loop_when_workers_take_turns(ranks):
    loops = {
        "easgd": easgd(ranks.size, 9, 3),
        "eamsgd": easgd(ranks.size, 9, 3, delta=0.9, rate=0.02),
        "downpour": downpour(ranks.size, 9, 3, 0.03),
        "adownpour": downpour(ranks.size, 9, 3, 0.03),
        "mvadownpour": downpour(ranks.size, 9, 3, 0.03),
        "mdownpour": mdownpour(ranks.size, 9, 0.9, 0.02),
    }
    for description, loop in loops.items():
        worker = visiting(ranks, description)
        for state in loop:
            in_turn(ranks, worker)
            lookahead = 0.9 * state.velocity[ranks.rank] if description == "eamsgd" else 0.0
            assert_path(worker.values, state.x[ranks.rank] + lookahead)
            evaluated = worker.evaluated()
            assert_equal_on_all(ranks, evaluated)
            assert_path(evaluated, average(description, state.centers), 1e-11)


def average(description, centers):
    """What a method evaluates, from the center after each visit."""
    if description == "adownpour":
        return np.mean(centers, axis=0)
    z = centers[0]
    if description == "mvadownpour":
        for center in centers[1:]:
            z = 0.8 * z + 0.2 * center
        return z
    return centers[-1]


@case_without_groups
def double_averaging_of_a_visited_center_is_the_mean_over_all_visits(ranks):
    worker = visiting(ranks, "easgd", evaluated="center-average")
    assert worker.optimizer.evaluated == "center-average"
    for state in easgd(ranks.size, 9, 3):
        in_turn(ranks, worker)
        assert_path(worker.evaluated(), np.mean(state.centers, axis=0), 1e-11)


@case_without_groups
def an_overlapped_exchange_is_applied_a_period_later(ranks):
    worker = visiting(ranks, "easgd, overlapped", moving_rate=0.5)
    write(worker.model, start_of(ranks.rank + 1))
    first = worker.values
    worker.run(3, still=True)
    # Sent at 0; nothing has come back yet.
    assert_same_bits(worker.values, first)
    center = worker.evaluated()
    worker.run(1, still=True)
    moved = first - worker.values
    # What the workers lost is what the center gained.
    assert_close(sum(ranks.gather(moved)), center - start_of(0))
    worker.optimizer.finish()
    assert_close(sum(ranks.gather(first - worker.values)), worker.evaluated() - start_of(0))


@case_without_groups
def double_averaging_of_an_overlapped_exchange_is_the_mean_over_all_visits(ranks):
    worker = visiting(ranks, "easgd, overlapped", evaluated="center-average")
    state, alpha = Center(ranks.size), 0.9 / ranks.size
    under_way = np.zeros_like(state.x)
    for step in range(10):
        in_turn(ranks, worker)
        for i in range(ranks.size):
            gradient = state.gradient(i, step, state.x[i])
            if step % 3 == 0:
                state.x[i] = state.x[i] - under_way[i]
                under_way[i] = alpha * (state.x[i] - state.center)
                state.center = state.center + under_way[i]
                state.visited()
            state.x[i] = state.x[i] - RATE * gradient
        assert_path(worker.values, state.x[ranks.rank])
        assert_path(worker.evaluated(), np.mean(state.centers, axis=0), 1e-11)


@case_without_groups
def nobodys_loading_changes_what_another_still_trains_with(ranks):
    worker = visiting(ranks, "easgd, overlapped")
    state = copy.deepcopy(worker.optimizer.state_dict())
    ranks.world.barrier()
    worker.run(4)
    ranks.world.barrier()
    if ranks.rank == ranks.size - 1:
        # The others are about to load.
        time.sleep(0.05)
        worker.run(1)
        assert worker.optimizer.clock.total_steps == 4 * ranks.size + 1
    worker.optimizer.load_state_dict(state)
    assert_same_bits(worker.evaluated(), start_of(0))
    worker.run(1)
    ranks.world.barrier()
    assert sum(ranks.gather(worker.optimizer.clock.step)) == ranks.size


@case_without_groups
def an_exchange_that_fails_lets_the_next_one_in(ranks):
    start = torch.zeros(5)
    center = lsgd_mpi.runtime.communicator().center(start)

    def fail(*_):
        raise MemoryError("of a GPU, perhaps")

    with pytest.raises(MemoryError):
        center.exchange(fail)
    center.exchange(lambda *given: given[2].add_(1))
    ranks.world.barrier()
    end = torch.empty(5)
    assert center.read([end]) == 2 * ranks.size
    assert_same_bits(end, torch.full((5,), float(ranks.size)))
    ranks.world.barrier()


@case_without_groups
def an_optimizer_whose_model_was_taken_over_is_of_no_use(ranks):
    worker = visiting(ranks, "easgd")
    lsgd_mpi.DistributedOptimizer(worker.inner, worker.model, "easgd", clock="own")
    for use in (worker.optimizer.state_dict, lambda: worker.optimizer.load_state_dict({}), worker.evaluated):
        with pytest.raises(lsgd_mpi.errors.UsageError, match="was made for this model"):
            use()


@case_without_groups
def nothing_is_lost_or_doubled_under_contention(ranks):
    # Of a center that is moved in one part, and in three.
    for exchanges, length in ((500, 3000), (50, 300_000)):
        told = contend(lsgd_mpi.runtime.communicator(), exchanges, length)
        assert told["visits"] == exchanges * ranks.size
        assert told["each_number_once"]
        assert told["moved"] > 0.1
        assert told["relative_error"] < 1e-11


@case_without_groups
def rounds_bytes_and_staleness_are_told(ranks):
    for description, (_, _, _, ways) in VISITING.items():
        worker = visiting(ranks, description)
        traffic = worker.optimizer.traffic
        rounds, sent = traffic.rounds, traffic.sent_bytes
        assert worker.optimizer.staleness is None
        for _ in range(7):
            in_turn(ranks, worker)
        worker.evaluated()
        expected = {"mdownpour": 7, "downpour": 2, "adownpour": 2, "mvadownpour": 2}.get(description, 3)
        assert traffic.rounds - rounds == expected, description
        evaluation = 0
        if ranks.size > 1:
            evaluation = FLAT_BYTES * (2 if "adownpour" in description else 1)
        moved = traffic.sent_bytes - sent - evaluation - 7 * COUNT_BYTES
        assert moved == ways * FLAT_BYTES * expected, description
        # One visit of each other worker between two of this one.
        assert worker.optimizer.staleness == ranks.size - 1, description


@case_without_groups
def with_one_worker_the_center_of_mdownpour_is_nesterovs_sgd(ranks):
    if ranks.size > 1:
        return
    settings = {"momentum": 0.9, "nesterov": True, "lr": 0.02, "weight_decay": 0.01}
    one = Descent(ranks, "mdownpour", sgd(**settings), equal_start=True)
    msgd = Descent(ranks, "msgd", sgd(**settings), equal_start=True)
    assert_path(one.run(100), msgd.run(100))


@case_without_groups
def without_momentum_eamsgd_is_easgd_and_mdownpour_downpour(ranks):
    for first, second, make in (("eamsgd", "easgd", sgd()), ("mdownpour", "downpour", sgd())):
        workers = [
            Descent(
                ranks,
                name,
                make,
                clock="own",
                equal_start=True,
                **({} if name == "mdownpour" else {"local_period": 1}),
            )
            for name in (first, second)
        ]
        for _ in range(6):
            in_turn(ranks, *workers)
        assert_close(workers[0].values, workers[1].values, 1e-12)
        assert_close(workers[0].evaluated(), workers[1].evaluated(), 1e-12)


@case_without_groups
def all_end_together_and_no_exchange_is_lost(ranks):
    for description in VISITING:
        worker = visiting(ranks, description)
        start = worker.evaluated()
        for _ in train(worker, 9, seconds=0.001 * (1 + ranks.rank)):
            pass
        worker.optimizer.finish()
        steps = ranks.gather(worker.steps)
        assert sum(steps) == 9 * ranks.size
        end = worker.evaluated()
        assert_equal_on_all(ranks, end)
        assert np.isfinite(end.numpy()).all()
        assert not torch.equal(start, end) or ranks.size == 1
        if description == "downpour":
            # All that any worker has learnt is in the center: the last visitor stands on it.
            assert any(torch.equal(each, end) for each in ranks.gather(worker.values))


@case_without_groups
def a_saved_state_of_an_asynchronous_method_continues_bit_for_bit(ranks):
    for description in VISITING:
        whole = visiting(ranks, description)
        for _ in range(7):
            in_turn(ranks, whole)
        state, values = copy.deepcopy(whole.optimizer.state_dict()), whole.values
        ranks.world.barrier()
        second = visiting(ranks, description)
        in_turn(ranks, second, steps=2)
        write(second.model, values)
        second.optimizer.load_state_dict(state)
        second.steps = 7
        for _ in range(6):
            in_turn(ranks, whole, second)
        assert np.array_equal(second.path[2:], whole.path[7:]), description
        assert_same_bits(second.evaluated(), whole.evaluated())


@case_without_groups
def evaluation_changes_nothing_that_asynchronous_training_uses(ranks):
    for description in VISITING:
        plain, evaluating = visiting(ranks, description), visiting(ranks, description)
        for _ in range(5):
            evaluating.evaluated()
            in_turn(ranks, plain, evaluating)
        assert_same_bits(evaluating.values, plain.values)
        assert_same_bits(evaluating.evaluated(), plain.evaluated())


@case_without_groups
def a_fast_worker_does_not_wait_for_a_slow_one(ranks):
    seconds = 0.03 if ranks.rank == ranks.size - 1 else 0.01
    worker = visiting(ranks, "easgd")
    traffic = worker.optimizer.traffic
    before, begun = traffic.wait_s, time.perf_counter()
    for _ in train(worker, 30, seconds=seconds):
        pass
    waited = (traffic.wait_s - before) / (time.perf_counter() - begun)
    assert sorted(ranks.gather(waited))[ranks.size // 2] < 0.05


@case_without_groups
def optimizers_that_the_papers_exclude_are_refused(ranks):
    for name, make, why in (
        ("downpour", sgd(momentum=0.9), "downpour has no momentum in its workers"),
        ("adownpour", sgd(momentum=0.9), "adownpour has no momentum in its workers"),
        ("mdownpour", sgd(momentum=0.9), "mdownpour's momentum is Nesterov's"),
        ("mdownpour", lambda each: torch.optim.Adam(each), "mdownpour knows the velocity of torch.optim.SGD"),
        ("mdownpour", lambda each: torch.optim.SGD(each, maximize=True), "mdownpour minimises"),
    ):
        told = agreed_refusal(lambda name=name, make=make: Descent(ranks, name, make, clock="own"))
        assert told.startswith(why)
    for name in ("adownpour", "mvadownpour", "mdownpour"):
        told = agreed_refusal(lambda name=name: Descent(ranks, name, clock="step"))
        assert told.startswith(f"--clock step: {name} is asynchronous")
    with pytest.raises(lsgd_mpi.errors.UsageError, match="--exchange is no option of easgd"):
        Descent(ranks, "easgd", exchange="overlapped")


@case_without_groups
def workers_that_start_apart_visit_the_mean_of_all(ranks):
    mean = sum(start_of(rank) for rank in range(ranks.size)) / ranks.size
    for description, (name, make, options, _) in VISITING.items():
        worker = Descent(ranks, name, make, clock="own", **options)
        assert_close(worker.evaluated(), mean), description
        if name == "mdownpour":
            assert_close(worker.values, mean)
        else:
            assert_same_bits(worker.values, start_of(ranks.rank))


@case_without_groups
def a_center_of_every_size_and_dtype_is_moved_whole(ranks):
    communicator = lsgd_mpi.runtime.communicator()
    for length, dtype in (
        (1, torch.float64),
        (262_144, torch.float32),
        (600_001, torch.bfloat16),
        (7, torch.float16),
    ):
        start = torch.arange(length).remainder(97).to(dtype)
        center = communicator.center(
            start if ranks.rank == 0 else torch.zeros_like(start), torch.ones_like(start)
        )

        def add(visit, part, first, second, length=length):  # noqa: ARG001
            first += 1
            second -= 1
            assert part.stop <= length

        center.exchange(add)
        ranks.world.barrier()
        first, second = torch.empty_like(start), torch.empty_like(start)
        assert center.read([first, second]) == ranks.size
        alone = torch.empty_like(start)
        center.read([alone])
        assert_same_bits(alone, first)
        assert_same_bits(first, start + ranks.size)
        assert_same_bits(second, torch.full_like(start, 1 - ranks.size))
        ranks.world.barrier()


@case_without_groups
def the_end_of_all_waits_for_an_exchange_in_the_background(ranks):
    worker = Descent(ranks, "easgd", clock="own", equal_start=True, local_period=1, exchange="overlapped")
    worker.run(3)
    lsgd_mpi.shutdown()
    lsgd_mpi.init(ranks.groups)


@case_without_groups
def windows_of_optimizers_that_are_gone_are_freed(ranks):
    communicator = lsgd_mpi.runtime.communicator()
    gc.collect()
    # This takes in what earlier cases left.
    Descent(ranks, "easgd", clock="own", equal_start=True)
    before = len(communicator._windows)
    for _ in range(5):
        Descent(ranks, "easgd", clock="own", equal_start=True)
        gc.collect()
    assert len(communicator._windows) <= before + 2
    ranks.world.barrier()


@case_without_groups
def the_end_of_downpour_gives_what_is_left_and_nothing_twice(ranks):
    worker = visiting(ranks, "downpour")
    in_turn(ranks, worker, steps=4)
    rounds = worker.optimizer.traffic.rounds
    for _ in range(2):
        worker.optimizer.finish()
        assert worker.optimizer.traffic.rounds == rounds + 1
    in_turn(ranks, worker, steps=2)
    rounds = worker.optimizer.traffic.rounds
    worker.optimizer.finish()
    # The sixth iteration has held its round.
    assert worker.optimizer.traffic.rounds == rounds


@case_without_groups
def a_rate_that_drives_a_lone_worker_and_the_center_apart_is_warned_of(ranks):
    heard, log = Heard(), logging.getLogger("lsgd_mpi")
    log.addHandler(heard)
    try:
        Descent(ranks, "easgd", clock="own", worker_moving_rate=1.0)
        Descent(ranks, "easgd", clock="own", worker_moving_rate=1.5)
    finally:
        log.removeHandler(heard)
    told = ["EASGD is unstable at α = 1.5: alone, a worker and the center need α ≤ 1"]
    assert heard.messages == (told if ranks.rank == 0 else [])
