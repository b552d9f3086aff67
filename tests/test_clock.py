import random

import pytest

from lsgd_mpi.clock import Agenda, Clock, OwnClock, SharedClock


def passed(agenda, position):
    """(time, names) of all that a worker at ``position`` passes, one after the other."""
    found = []
    while names := agenda.reached(position):
        found.append((agenda.passed, set(names)))
    return found


def test_what_recurs_falls_due_at_its_period_and_together_with_what_else_does():
    agenda = Agenda()
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
    agenda = Agenda()
    assert agenda.reached(1_000_000) == frozenset()
    agenda.every("round", 5)
    assert agenda.reached(4) == frozenset()
    assert agenda.passed == 0


def test_what_comes_once_can_be_put_off_and_comes_once():
    agenda = Agenda()
    agenda.at("end", 4)
    agenda.at("end", 6)
    agenda.every("round", 4)
    assert passed(agenda, 20) == [
        (4, {"round"}),
        (6, {"end"}),
        *[(when, {"round"}) for when in (8, 12, 16, 20)],
    ]
    agenda.at("end", 20)
    assert agenda.reached(23) == frozenset()
    agenda.at("end", 22)
    assert passed(agenda, 25) == [(22, {"end"}), (24, {"round"})]


def test_passing_to_a_time_leaves_what_lies_before_behind():
    agenda = Agenda()
    agenda.every("round", 4)
    agenda.at("once", 5)
    agenda.pass_to(9)
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
            if "round" in clock.due:
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


def test_the_clocks_of_a_round_and_of_a_meeting_are_one_sequence():
    clock, other = SharedClock(1, _counting()), SharedClock(1, _counting())
    for each in (clock, other):
        each.rounds.every("round", 4)
        each.meetings.every("evaluation", 6)
    seen = []
    for _ in range(12):
        clock.tick()
        seen.append(set(clock.due))
    due = {4: {"round"}, 6: {"evaluation"}, 8: {"round"}, 12: {"round", "evaluation"}}
    assert seen == [due.get(step, set()) for step in range(1, 13)]
    # A worker who is late in looking passes the same times, one an iteration.
    other._count(20)
    late = []
    for _ in range(5):
        other.tick()
        late.append((set(other.due), other.total_steps))
    assert late == [
        ({"round"}, 4),
        ({"evaluation"}, 6),
        ({"round"}, 8),
        ({"round", "evaluation"}, 12),
        ({"round"}, 16),
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
        seen.append(("fast" if clock is fast else "slow", clock.step, set(clock.due)))
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
        assert (second.step, second.due, second.total_steps) == (first.step, first.due, first.total_steps)


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
            due.append(set(clock.due))
    assert due == [set(), set(), {"round"}, {"round"}]
