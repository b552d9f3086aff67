import random

import pytest

from lsgd_mpi.budget import Budget
from lsgd_mpi.clock import Agenda, Clock, OwnClock, SharedClock, Timeline


def passed(agenda, position):
    """(time, names) of all that a worker at ``position`` passes, one after the other."""
    found = []
    while due := agenda.timeline.reached(position):
        found.append((agenda.passed, set(due[agenda])))
    return found


def test_what_recurs_falls_due_at_its_period_and_together_with_what_else_does():
    agenda = Agenda(Timeline())
    agenda.every("local", 3)
    agenda.every("global", 4)
    agenda.every("first", 3, first=1)
    assert passed(agenda, 13) == [
        (1, {"first"}),
        (3, {"local"}),
        (4, {"global", "first"}),
        (6, {"local"}),
        (7, {"first"}),
        (8, {"global"}),
        (9, {"local"}),
        (10, {"first"}),
        (12, {"local", "global"}),
        (13, {"first"}),
    ]


def test_an_agenda_with_nothing_in_it_and_one_not_reached_yield_nothing():
    agenda = Agenda(Timeline())
    assert agenda.timeline.reached(1_000_000) == {}
    agenda.every("round", 5)
    assert agenda.timeline.reached(4) == {}
    assert agenda.passed == 0


def test_what_comes_once_can_be_put_off_and_comes_once():
    agenda = Agenda(Timeline())
    agenda.at("end", 4)
    agenda.at("end", 6)
    agenda.every("round", 4)
    assert passed(agenda, 20) == [
        (4, {"round"}),
        (6, {"end"}),
        *[(when, {"round"}) for when in (8, 12, 16, 20)],
    ]
    agenda.at("end", 22)
    assert passed(agenda, 25) == [(22, {"end"}), (24, {"round"})]


def test_what_would_never_come_is_an_error():
    clock = Clock(1)
    for _ in range(10):
        clock.meetings.every("evaluation", 1)
        clock.tick()
    with pytest.raises(ValueError, match="'end' at 10: the clock has passed 10"):
        clock.meetings.at("end", 10)
    later = Clock(1)
    later.meetings.at("end", 10)
    # A method sets its rounds again from its own state.
    later.rounds.at("round", 3)
    with pytest.raises(ValueError, match="has passed 10: set end later"):
        later.load_state_dict(clock.state_dict())
    later.meetings.at("end", 11)
    later.load_state_dict(clock.state_dict())
    later.tick()
    assert later.due == {"end"}


def test_passing_to_a_time_leaves_what_lies_before_behind():
    agenda = Agenda(Timeline())
    agenda.every("round", 4)
    agenda.at("once", 5)
    agenda.timeline.pass_to(9)
    assert passed(agenda, 16) == [(12, {"round"}), (16, {"round"})]


class Workers:
    """Workers of different speeds on one shared count, played through event by event.

    At a round each waits until all have come: `seconds[rank](iteration)` is how long an iteration takes.
    """

    def __init__(self, seconds, make, agenda):
        self.count = 0
        self.seconds = seconds
        self.clocks = [make(len(seconds), self._add) for _ in seconds]
        for clock in self.clocks:
            agenda(clock)
        self.rounds = []
        self.waited = [0.0] * len(seconds)

    def _add(self, amount):
        self.count += amount
        return self.count

    def run(self, until):
        """Play until so many rounds were held; returns the steps of all workers at each."""
        p = len(self.seconds)
        ready = [self.seconds[rank](1) for rank in range(p)]
        at_round = {}
        while len(self.rounds) < until:
            rank = min((each for each in range(p) if each not in at_round), key=lambda each: ready[each])
            clock = self.clocks[rank]
            clock.tick()
            if "round" in clock.due_rounds:
                at_round[rank] = (ready[rank], clock.rounds.passed, clock.total_steps)
                if len(at_round) == p:
                    begun = max(when for when, _, _ in at_round.values())
                    assert len({each[1:] for each in at_round.values()}) == 1
                    self.rounds.append(([each.step for each in self.clocks], self.count, clock.total_steps))
                    for each, (when, _, _) in at_round.items():
                        self.waited[each] += begun - when
                        ready[each] = begun + self.seconds[each](self.clocks[each].step + 1)
                    at_round = {}
                continue
            ready[rank] += self.seconds[rank](clock.step + 1)
        return self.rounds


def every(period):
    return lambda clock: clock.rounds.every("round", period)


@pytest.mark.parametrize("period", [1, 3, 16])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_workers_of_equal_speed_hold_the_rounds_of_the_step_clock(workers, period):
    # Equal, but never at exactly the same moment.
    played = Workers(
        [lambda _, rank=rank: 1 + rank * 1e-6 for rank in range(workers)], SharedClock, every(period)
    )
    for number, (steps, count, total) in enumerate(played.run(20), start=1):
        assert steps == [number * period] * workers
        assert count == total == workers * number * period


@pytest.mark.parametrize("period", [1, 2, 5, 64])
def test_rounds_are_held_at_multiples_of_the_period_of_all_iterations(period):
    chance = random.Random(7)
    speeds = (1.0, 1.3, 0.7, 3.1)
    played = Workers(
        [lambda _, speed=speed: speed * chance.uniform(0.8, 1.2) for speed in speeds],
        SharedClock,
        every(period),
    )
    previous = [0] * 4
    for number, (steps, count, total) in enumerate(played.run(50), start=1):
        assert sum(steps) == count == total == 4 * number * period
        # Each made at least one iteration in between.
        assert min(after - before for before, after in zip(previous, steps, strict=True)) >= 1
        previous = steps


def test_nobody_waits_for_longer_than_the_slowest_ones_iteration():
    played = Workers([lambda _: 1.0, lambda _: 1.0, lambda _: 1.0, lambda _: 3.0], SharedClock, every(16))
    rounds = played.run(100)
    assert max(played.waited) <= 3.0 * 100
    # Three fast ones do nine tenths of the work, instead of three quarters.
    assert rounds[-1][0][0] == pytest.approx(100 * 64 * 0.3, rel=0.03)


def due_of(clock):
    return clock.due | clock.due_rounds


def test_rounds_and_meetings_are_one_sequence_and_do_not_share_their_names():
    clock = SharedClock(1, _counting())
    clock.rounds.every("round", 4)
    clock.meetings.every("evaluation", 6)
    clock.meetings.at("round", 7)
    seen = []
    for _ in range(12):
        clock.tick()
        seen.append((set(clock.due_rounds), set(clock.due)))
    rounds, evaluation = {"round"}, {"evaluation"}
    due = {
        4: (rounds, set()),
        6: (set(), evaluation),
        7: (set(), {"round"}),
        8: (rounds, set()),
        12: (rounds, evaluation),
    }
    assert seen == [due.get(step, (set(), set())) for step in range(1, 13)]


def test_who_is_late_holds_all_rounds_at_once_but_stops_at_a_meeting():
    clock = SharedClock(1, _counting())
    clock.rounds.every("round", 4)
    clock.meetings.every("evaluation", 10)
    clock._count(20)
    held = []
    for _ in range(3):
        clock.tick()
        held.append([(set(due_of(clock)), clock.total_steps)])
        while clock.go_on():
            held[-1].append((set(due_of(clock)), clock.total_steps))
    assert held == [
        [({"round"}, 4), ({"round"}, 8), ({"evaluation"}, 10)],
        [({"round"}, 12), ({"round"}, 16), ({"round", "evaluation"}, 20)],
        [(set(), 23)],
    ]


def _counting():
    total = 0

    def add(amount):
        nonlocal total
        total += amount
        return total

    return add


def test_on_its_own_clock_a_worker_goes_by_its_own_count_and_meets_the_others_by_the_shared_one():
    count = _counting()
    fast, slow = OwnClock(2, count), OwnClock(2, count)
    for each in (fast, slow):
        each.rounds.every("round", 2, first=1)
        each.meetings.at("end", 6)
    ticks = [fast] * 3 + [slow] + [fast] * 3 + [slow] + [fast] * 3 + [slow]
    seen = []
    for clock in ticks:
        clock.tick()
        seen.append(("fast" if clock is fast else "slow", clock.step, set(due_of(clock))))
    assert [each[:2] for each in seen if "round" in each[2]] == [
        ("fast", 1),
        ("fast", 3),
        ("slow", 1),
        ("fast", 5),
        ("fast", 7),
        ("fast", 9),
        ("slow", 3),
    ]
    # The eleventh of all iterations is the first of the last period of two; then the other one's next.
    assert [each[:2] for each in seen if "end" in each[2]] == [("fast", 9), ("slow", 3)]


def test_a_saved_clock_continues_where_it_was():
    first = Clock(3)
    first.rounds.every("round", 4)
    for _ in range(9):
        first.tick()
    second = Clock(3)
    second.rounds.every("round", 4)
    second.load_state_dict(first.state_dict())
    for _ in range(8):
        first.tick()
        second.tick()
        told = [(each.step, due_of(each), each.total_steps) for each in (first, second)]
        assert told[0] == told[1]


def test_a_saved_shared_clock_brings_its_iterations_into_the_count():
    count = _counting()
    saved = []
    clocks = [SharedClock(2, count) for _ in range(2)]
    for clock in clocks:
        clock.rounds.every("round", 3)
    for _ in range(4):
        for clock in clocks:
            clock.tick()
    saved = [clock.state_dict() for clock in clocks]
    fresh = _counting()
    loaded = [SharedClock(2, fresh) for _ in range(2)]
    for clock, state in zip(loaded, saved, strict=True):
        clock.rounds.every("round", 3)
        clock.load_state_dict(state)
    assert fresh(0) == 8
    due = []
    for _ in range(2):
        for clock in loaded:
            clock.tick()
            due.append(set(clock.due_rounds))
    assert due == [set(), set(), {"round"}, {"round"}]


def test_a_rank_that_does_not_train_goes_by_the_average_and_counts_for_nothing():
    count = _counting()
    leaf, root = OwnClock(1, count), OwnClock(1, count)
    for clock in (leaf, root):
        clock.rounds.every("down", 3)
        clock.meetings.at("end", 5)
    for _ in range(3):
        leaf.tick()
    root.look()
    assert (root.step, root.due_rounds, root.due) == (3, {"down"}, frozenset())
    saved = [leaf.state_dict(), root.state_dict()]
    again = _counting()
    loaded = [OwnClock(1, again) for _ in saved]
    for clock, state in zip(loaded, saved, strict=True):
        clock.load_state_dict(state)
    assert again(0) == 3


class Slices:
    """Workers on clocks of their own, in virtual time, that keep a budget of seconds."""

    def __init__(self, seconds, limit):
        self.now, self.done = [0.0] * len(seconds), [False] * len(seconds)
        self.seconds = seconds
        self.offers = []
        count = _counting()
        self.clocks = [OwnClock(len(seconds), count) for _ in seconds]
        self.budgets = [
            Budget(_Offering(self, rank), clock, float("inf"), limit)
            for rank, clock in enumerate(self.clocks)
        ]
        self.waiting = {}
        self.waited = [0.0] * len(seconds)

    def run(self):
        while not all(self.done):
            at_work = [rank for rank, done in enumerate(self.done) if not done and rank not in self.waiting]
            rank = min(at_work, key=lambda each: self.now[each] + self.seconds[each])
            self.now[rank] += self.seconds[rank]
            self.clocks[rank].tick()
            try:
                self.done[rank] = self.budgets[rank].is_over(self.now[rank], self.waited[rank])
            except _MustWaitError as wait:
                self.waiting[rank] = wait.number
            for late, number in list(self.waiting.items()):
                if len(self.offers[number]) == len(self.seconds):
                    del self.waiting[late]
                    come = max(self.now[late], *(when for when, _ in self.offers[number].values()))
                    self.waited[late] += come - self.now[late]
                    self.now[late] = come
                    self.done[late] = self.budgets[late].is_over(come, self.waited[late])
        return [clock.step for clock in self.clocks]


class _MustWaitError(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.number = number


class _Offering:
    def __init__(self, slices, rank):
        self.slices, self.rank, self.number = slices, rank, 0

    def start_maximum(self, values):
        offers, number = self.slices.offers, self.number
        self.number += 1
        if number == len(offers):
            offers.append({})
        offers[number][self.rank] = (self.slices.now[self.rank], list(values))

        def finish():
            if len(offers[number]) < len(self.slices.seconds):
                raise _MustWaitError(number)
            columns = zip(*(each for _, each in offers[number].values()), strict=True)
            return [max(column) for column in columns]

        return finish


@pytest.mark.parametrize(
    "seconds", [(0.3, 0.3, 0.3, 0.9), (0.1, 0.1, 0.1, 5.0), (0.1, 0.1, 0.1, 0.3), (0.01, 0.02, 0.03, 0.04)]
)
def test_a_limit_of_time_does_not_let_fast_workers_wait_for_slow_ones(seconds):
    steps = Slices(seconds, 300.0).run()
    for own, step_s in zip(steps, seconds, strict=True):
        assert own == pytest.approx(300.0 / step_s, rel=0.1, abs=3)
