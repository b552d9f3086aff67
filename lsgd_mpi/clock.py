"""When it is time to communicate, and in what all workers agree: by each one's own count, or by their sum.

Times on a clock are counted in iterations of one worker; where workers differ in speed, of the average one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

#: "step": every worker's own count, all in step; "shared": the sum of all workers' iterations, rounds
#: together; "own": each worker's own count, each alone; "wall": epochs of wall-clock time.
CLOCKS = ("step", "shared", "own", "wall")

#: Adds to a count that all workers share, at once, and returns what it is then.
SharedCount = Callable[[int], int]


class Timeline:
    """What falls due when: entries of several agendas, in order.

    Each time is passed once. Workers that have written down the same see the same, whatever their own speed.
    """

    def __init__(self) -> None:
        self.passed = 0
        self._entries: dict[tuple[Agenda, str], tuple[int, int | None]] = {}
        self._soonest: float = math.inf

    def add(self, agenda: Agenda, name: str, first: int, period: int | None) -> None:
        """Let ``name`` of ``agenda`` fall due at ``first`` and each ``period`` after it, not as before."""
        self._entries[agenda, name] = (first, period)
        self._find_soonest()

    def reached(self, position: int) -> dict[Agenda, frozenset[str]]:
        """What is due at the first time not passed yet, if ``position`` has reached it; passes it."""
        if position < self._soonest:
            return {}
        due: dict[Agenda, frozenset[str]] = {}
        for (agenda, name), entry in self._entries.items():
            if self._next(*entry) == self._soonest:
                due[agenda] = due.get(agenda, frozenset()) | {name}
        self.pass_to(int(self._soonest))
        return due

    def pass_to(self, when: int) -> None:
        """Leave what lies at or before ``when`` behind."""
        self.passed = when
        self._entries = {
            key: entry for key, entry in self._entries.items() if math.isfinite(self._next(*entry))
        }
        self._find_soonest()

    def once_until(self, agenda: Agenda, when: int) -> list[str]:
        """What of ``agenda`` falls due once, and no later than ``when``."""
        entries = self._entries.items()
        return [
            name
            for (party, name), (first, period) in entries
            if party is agenda and period is None and first <= when
        ]

    def _find_soonest(self) -> None:
        self._soonest = min((self._next(*entry) for entry in self._entries.values()), default=math.inf)

    def _next(self, first: int, period: int | None) -> float:
        if first > self.passed:
            return first
        if period is None:
            return math.inf
        return first + period * ((self.passed - first) // period + 1)


class Agenda:
    """What one party wants to fall due, by name; a name given again replaces what it was given before."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    @property
    def passed(self) -> int:
        """The last time at which anything was due, of any party."""
        return self.timeline.passed

    def every(self, name: str, period: int, *, first: int | None = None) -> None:
        """Let ``name`` fall due at ``first`` (default: ``period``) and each ``period`` after it."""
        self.timeline.add(self, name, period if first is None else first, period)

    def at(self, name: str, when: int) -> None:
        """Let ``name`` fall due once. Raises `ValueError` for a time that has passed: it would never come."""
        if when <= self.passed:
            raise ValueError(f"{name!r} at {when}: the clock has passed {self.passed}")
        self.timeline.add(self, name, when, None)


class Clock:
    """A worker's count of its iterations, and what is due in the one that ends: the clock ``step``.

    All workers are in step. ``rounds`` is the agenda of a method's communication, ``due_rounds`` what of it
    is due in the present iteration; ``meetings`` is that of all else that the workers do together, such as
    evaluations and the end, and ``due`` what of it is due.
    """

    name: ClassVar[str] = "step"
    #: Whether all workers make the same number of iterations, at the pace of the slowest.
    in_step: ClassVar[bool] = True

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.step = 0
        self.due: frozenset[str] = frozenset()
        self.due_rounds: frozenset[str] = frozenset()
        self._shared_timeline = Timeline()
        self.meetings = Agenda(self._shared_timeline)
        self.rounds = Agenda(self._shared_timeline)

    @property
    def position(self) -> int:
        """Iterations of one worker, or of the average one."""
        return self.step

    @property
    def total_steps(self) -> int:
        """The sum of all workers' iterations."""
        return self.workers * self.step

    def tick(self) -> None:
        """Count one more iteration of this worker and find what is due in it."""
        self.step += 1
        self._look()

    def go_on(self) -> bool:
        """Find what else is due in this iteration, after rounds were held, but not beyond a meeting."""
        held = self.due_rounds
        if self.due:
            return False
        self._look()
        if self.due or self.due_rounds:
            return True
        self.due_rounds = held
        return False

    def leave_out(self, seconds: float) -> None:
        """Let time that was spent on an evaluation not count, on a clock that counts time."""

    def state_dict(self) -> dict[str, Any]:
        """The count, and what is behind."""
        return {"step": self.step, "passed": (self.rounds.passed, self.meetings.passed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises `ValueError` if a meeting that is set would never come."""
        rounds_passed, passed = state["passed"]
        lost = self.meetings.timeline.once_until(self.meetings, passed)
        if lost:
            raise ValueError(
                f"the saved clock has passed {passed}: set {' and '.join(lost)} later, or after loading"
            )
        self.step = state["step"]
        self.rounds.timeline.pass_to(rounds_passed)
        self.meetings.timeline.pass_to(passed)

    def _look(self) -> None:
        due = self._shared_timeline.reached(self.position)
        self.due = due.get(self.meetings, frozenset())
        self.due_rounds = due.get(self.rounds, frozenset())


class SharedClock(Clock):
    """The clock that counts all workers' iterations (LSGD paper, Algorithm 1).

    A round of all workers at time T is held at the sum ``p T``, for p workers: the first to come is the one
    whose iteration brings the sum to ``p (T − 1) + 1``; each of the others comes when the iteration that it
    is in has ended, which adds p − 1. Workers of equal speed hold it in the iteration in which the clock
    ``step`` does. Whoever is late, because a slower group held its own rounds later or a meeting that nobody
    waits at lay between, holds all that is due one after the other: no round is lost or held twice.
    *Communication*: 8 bytes an iteration.
    """

    name = "shared"
    in_step = False

    def __init__(self, workers: int, count: SharedCount) -> None:
        super().__init__(workers)
        self._count = count
        self._counted = 0
        self._seen = 0

    @property
    def position(self) -> int:
        """Iterations of the average worker, as last seen, the present one of the slowest included."""
        return -(-self._seen // self.workers)

    @property
    def total_steps(self) -> int:
        """The sum of all workers' iterations: in a round or meeting the agreed one, else as last seen."""
        return self.workers * self.meetings.passed if self.due or self.due_rounds else self._seen

    def tick(self) -> None:
        """Count one more iteration of this worker and find what is due in it."""
        self._counted += 1
        self._seen = self._count(1)
        super().tick()

    def state_dict(self) -> dict[str, Any]:
        """The counts, and what is behind."""
        return {**super().state_dict(), "counted": self._counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; adds this worker's iterations to the count of all."""
        super().load_state_dict(state)
        self._seen = self._count(state["counted"] - self._counted)
        self._counted = state["counted"]


class OwnClock(SharedClock):
    """Rounds on each worker's own count, alone; what all do together on the shared one."""

    name = "own"

    def __init__(self, workers: int, count: SharedCount) -> None:
        super().__init__(workers, count)
        self.rounds = Agenda(Timeline())

    @property
    def total_steps(self) -> int:
        """The sum of all workers' iterations: in a meeting the agreed one, else as last seen."""
        return self.workers * self.meetings.passed if self.due else self._seen

    def look(self) -> None:
        """Find what is due on a rank that does not train: it goes by the average worker's count."""
        self._seen = self._count(0)
        self.step = self._seen // self.workers
        self._look()

    def _look(self) -> None:
        super()._look()
        self.due_rounds = self.rounds.timeline.reached(self.step).get(self.rounds, frozenset())


class WallClock(Clock):
    """Epochs of a fixed duration, in which each worker makes as many iterations as it can, but at least one.

    When a worker's epoch is over it waits for the others and adds up with them what all have done, so
    everything else that they do together, such as evaluations, falls on the end of an epoch, at or after its
    time.
    *Communication*: 8 bytes an epoch. `begin_epoch` is called on all workers when a round has been held.
    """

    name = "wall"
    in_step = False

    def __init__(self, workers: int, seconds: float, add_up: Callable[[int], int]) -> None:
        super().__init__(workers)
        self._seconds = seconds
        self._add_up = add_up
        self._total_steps = 0
        self.begin_epoch()

    def state_dict(self) -> dict[str, Any]:
        """The counts, and what is behind."""
        return {**super().state_dict(), "total_steps": self._total_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._total_steps = state["total_steps"]

    def begin_epoch(self) -> None:
        """Start the next epoch now."""
        self._ends_at = time.perf_counter() + self._seconds

    def leave_out(self, seconds: float) -> None:
        """Let the epoch end that much later."""
        self._ends_at += seconds

    @property
    def position(self) -> int:
        """Iterations of the average worker at the end of the last epoch."""
        return self._total_steps // self.workers

    @property
    def total_steps(self) -> int:
        """The sum of all workers' iterations at the end of the last epoch."""
        return self._total_steps

    def tick(self) -> None:
        """Count one more iteration; collective if this worker's epoch is over."""
        self.step += 1
        self.due = self.due_rounds = frozenset()
        if time.perf_counter() >= self._ends_at:
            self._total_steps = self._add_up(self.step)
            self.due_rounds = frozenset({"round"})
            while due := self.meetings.timeline.reached(self.position):
                self.due |= due[self.meetings]

    def go_on(self) -> bool:
        """Nothing else is due in this iteration."""
        return False
