import math

import pytest

from lsgd_mpi.budget import Budget, step_limit
from lsgd_mpi.clock import Clock, WallClock


class Ranks:
    """The non-blocking maximum over ranks that run in one process, one step of each after the other."""

    def __init__(self, size):
        self.size = size
        self.started = []
        self.finished = 0

    def of(self, world_rank):
        return _Rank(self, world_rank)


class _Rank:
    def __init__(self, ranks, world_rank):
        self._ranks = ranks
        self._world_rank = world_rank
        self.collectives = 0

    def start_maximum(self, values):
        ranks, number = self._ranks, self.collectives
        self.collectives += 1
        if number == len(ranks.started):
            ranks.started.append({})
        ranks.started[number][self._world_rank] = list(values)

        def finish():
            offers = ranks.started[number]
            assert len(offers) == ranks.size, "a rank waits for another that has not started this check"
            ranks.finished += 1
            return [max(column) for column in zip(*offers.values(), strict=True)]

        return finish


def stops(step_seconds, steps=math.inf, seconds=None):
    """Steps at which the ranks stop and the time there; ``step_seconds[rank](step)`` is a step's length."""
    ranks, p = Ranks(len(step_seconds)), len(step_seconds)
    ticking = [Clock(p) for _ in step_seconds]
    budgets = [Budget(ranks.of(rank), ticking[rank], steps, seconds) for rank in range(p)]
    clocks, stopped = [0.0] * len(budgets), [None] * len(budgets)
    for step in range(1, 1_000_000):
        for rank, budget in enumerate(budgets):
            clocks[rank] += step_seconds[rank](step)
            ticking[rank].tick()
            if budget.is_over(clocks[rank]):
                stopped[rank] = step
        if any(stopped):
            break
    for budget in budgets:
        budget.close()
    started = sum(len(offers) for offers in ranks.started)
    assert ranks.finished == started, f"{started} collectives were started, {ranks.finished} finished"
    return stopped, max(clocks), ranks


@pytest.mark.parametrize("seconds", [3.0, 10.0, 60.0])
@pytest.mark.parametrize(
    "step_seconds",
    [(0.1, 0.13), (0.5, 0.02), (0.0001, 0.0002), (0.4, 0.4)],
    ids=["near", "apart", "fast", "slow"],
)
def test_ranks_with_different_clocks_stop_at_the_same_step_in_time(step_seconds, seconds):
    lengths = [lambda _, length=length: length for length in step_seconds]
    stopped, elapsed_s, _ = stops(lengths, seconds=seconds)
    assert stopped[0] is not None
    assert stopped[0] == stopped[1]
    assert seconds - 1.5 <= elapsed_s <= seconds + 2.0


def test_a_slow_first_step_does_not_make_the_others_count_for_more():
    stopped, elapsed_s, _ = stops([lambda step: 2.0 if step == 1 else 0.05] * 2, seconds=8.0)
    assert stopped[0] == stopped[1]
    assert 6.5 <= elapsed_s <= 10.0


@pytest.mark.parametrize("seconds", [30.0, 20.0])
def test_steps_longer_than_a_check_do_not_run_over_the_time(seconds):
    stopped, elapsed_s, _ = stops([lambda _: 5.0, lambda _: 4.0], seconds=seconds)
    assert stopped[0] == stopped[1]
    assert seconds - 5.0 <= elapsed_s <= seconds


@pytest.mark.parametrize(("seconds", "end_s"), [(600.0, 600.0), (60.0, 60.0), (30.0, 60.0), (601.5, 660.0)])
def test_epochs_of_wall_clock_time_end_with_the_first_that_has_used_the_time_up(monkeypatch, seconds, end_s):
    now = 0.0
    monkeypatch.setattr("lsgd_mpi.clock.time.perf_counter", lambda: now)
    clock = WallClock(1, 60.0, lambda steps: steps)
    budget = Budget(Ranks(1).of(0), clock, math.inf, seconds)
    over = False
    while not over:
        now += 1.0
        clock.tick()
        over = budget.is_over(now)
        if clock.due_rounds:
            clock.begin_epoch()
    assert now == end_s


def test_a_check_costs_one_collective_a_second_at_most():
    _, elapsed_s, ranks = stops([lambda _: 0.01, lambda _: 0.01], seconds=30.0)
    assert len(ranks.started) <= elapsed_s + 2
    assert len(ranks.started) >= elapsed_s / 2


def test_the_number_of_steps_is_kept_exactly_with_and_without_a_time():
    for seconds in (None, 1000.0):
        for steps in (1, 7, 101):
            stopped, _, ranks = stops([lambda _: 0.01, lambda _: 0.02], steps=steps, seconds=seconds)
            assert stopped == [steps, steps]
            assert bool(ranks.started) == (seconds is not None)


def test_the_first_limit_reached_counts():
    stopped, elapsed_s, _ = stops([lambda _: 0.1, lambda _: 0.1], steps=1000, seconds=5.0)
    assert stopped[0] == stopped[1]
    assert stopped[0] < 1000
    assert elapsed_s <= 7.0


def test_close_takes_a_check_under_way_once():
    ranks = Ranks(1)
    clock = Clock(1)
    budget = Budget(ranks.of(0), clock, 100, 50.0)
    clock.tick()
    assert not budget.is_over(0.1)
    assert (len(ranks.started), ranks.finished) == (1, 0)
    budget.close()
    budget.close()
    assert ranks.finished == 1


@pytest.mark.parametrize(
    ("steps", "epochs", "minutes", "expected"),
    [
        (None, None, None, 110),
        (7, None, None, 7),
        (None, 3.0, None, 33),
        (None, 0.5, None, 6),
        (None, 0.01, None, 1),
        (20, 3.0, None, 20),
        (50, 3.0, None, 33),
        (None, None, 1.0, math.inf),
        (7, None, 1.0, 7),
        (None, 2.0, 1.0, 22),
        (None, 1e308, None, math.inf),
    ],
)
def test_step_limit_is_the_fewer_of_steps_and_epochs(steps, epochs, minutes, expected):
    assert step_limit(steps, epochs, minutes, epoch_steps=11) == expected
