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


class Agenda:
    """What falls due when, by name.

    Each time is passed once, in order. Workers that have written down the same see the same, whatever their
    own speed.
    """

    def __init__(self) -> None:
        self.passed = 0
        self._entries: list[tuple[str, int, int | None]] = []
        self._soonest: float = math.inf

    def every(self, name: str, period: int, *, first: int | None = None) -> None:
        """Let ``name`` fall due at ``first`` (default: ``period``) and each ``period`` after it."""
        self._add(name, period if first is None else first, period)

    def at(self, name: str, when: int) -> None:
        """Let ``name`` fall due once, then, and not when it was to before."""
        self._entries = [entry for entry in self._entries if entry[0] != name]
        self._add(name, when, None)

    def reached(self, position: int) -> frozenset[str]:
        """The names due at the first time not passed yet, if ``position`` has reached it; passes it."""
        if position < self._soonest:
            return frozenset()
        due = frozenset(entry[0] for entry in self._entries if self._next(entry) == self._soonest)
        self.pass_to(int(self._soonest))
        return due

    def pass_to(self, when: int) -> None:
        """Leave what lies at or before ``when`` behind."""
        self.passed = when
        self._entries = [entry for entry in self._entries if math.isfinite(self._next(entry))]
        self._soonest = min(map(self._next, self._entries), default=math.inf)

    def _add(self, name: str, first: int, period: int | None) -> None:
        self._entries.append((name, first, period))
        self._soonest = min(map(self._next, self._entries))

    def _next(self, entry: tuple[str, int, int | None]) -> float:
        _, first, period = entry
        if first > self.passed:
            return first
        if period is None:
            return math.inf
        return first + period * ((self.passed - first) // period + 1)


class Clock:
    """A worker's count of its iterations, and what is due in the one that ends: the clock ``step``.

    All workers are in step. ``rounds`` is the agenda of a method's communication; ``meetings`` that of all
    else that the workers do together, such as evaluations and the end. ``due`` names what falls due in the
    present iteration; ``position`` says how far all workers are, ``total_steps`` how many iterations
    they have made together.
    """

    name: ClassVar[str] = "step"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.step = 0
        self.due: frozenset[str] = frozenset()
        self.rounds = self.meetings = Agenda()

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
        self.due = self.rounds.reached(self.step)

    def state_dict(self) -> dict[str, Any]:
        """The count, and what is behind."""
        return {"step": self.step, "passed": (self.rounds.passed, self.meetings.passed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.step = state["step"]
        for agenda, passed in zip((self.rounds, self.meetings), state["passed"], strict=True):
            agenda.pass_to(passed)


class SharedClock(Clock):
    """The clock that counts all workers' iterations (LSGD paper, Algorithm 1).

    A round at time T is held at the sum ``p T``, for p workers: the first to come is the one whose iteration
    brings the sum to ``p (T − 1) + 1``; each of the others comes when the iteration that it is in has ended,
    which adds p − 1. Workers of equal speed hold it in the iteration in which the clock ``step`` does. A
    worker passes at most one time in an iteration: a round that falls due during another is held in the
    next iteration. *Communication*: 8 bytes an iteration.
    """

    name = "shared"

    def __init__(self, workers: int, count: SharedCount) -> None:
        super().__init__(workers)
        self._count = count
        self._total_steps = 0

    @property
    def position(self) -> int:
        """Iterations of the average worker, the present one of the slowest included."""
        return -(-self._total_steps // self.workers)

    @property
    def total_steps(self) -> int:
        """The sum of all workers' iterations: in a round the agreed one, else as last seen."""
        return self._total_steps

    def tick(self) -> None:
        """Count one more iteration of this worker and find what is due in it."""
        self.step += 1
        self._total_steps = self._count(1)
        self._look(self.meetings)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; adds this worker's iterations to the count of all."""
        self._total_steps = self._count(state["step"] - self.step)
        super().load_state_dict(state)

    def _look(self, agenda: Agenda) -> None:
        self.due = agenda.reached(self.position)
        if self.due:
            self._total_steps = self.workers * agenda.passed


class OwnClock(SharedClock):
    """Rounds on each worker's own count, alone; what all do together on the shared one."""

    name = "own"

    def __init__(self, workers: int, count: SharedCount) -> None:
        super().__init__(workers, count)
        self.rounds = Agenda()

    def tick(self) -> None:
        """Count one more iteration of this worker and find what is due in it."""
        super().tick()
        self.due |= self.rounds.reached(self.step)

    def look(self) -> None:
        """Find what is due on a rank that does not train: it goes by the average worker's count."""
        self._total_steps = self._count(0)
        self.step = self._total_steps // self.workers
        self._look(self.meetings)
        self.due |= self.rounds.reached(self.step)


class WallClock(Clock):
    """Epochs of a fixed duration, in which each worker makes as many iterations as it can, but at least one.

    When a worker's epoch is over it waits for the others and adds up with them what all have done, so
    everything else that they do together, such as evaluations, falls on the end of an epoch, at or after its
    time.
    *Communication*: 8 bytes an epoch. `begin_epoch` is called on all workers when a round has been held.
    """

    name = "wall"

    def __init__(self, workers: int, seconds: float, add_up: Callable[[int], int]) -> None:
        super().__init__(workers)
        self.meetings = Agenda()
        self._seconds = seconds
        self._add_up = add_up
        self._total_steps = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start the next epoch now."""
        self._ends_at = time.perf_counter() + self._seconds

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
        self.due = frozenset()
        if time.perf_counter() >= self._ends_at:
            self._total_steps = self._add_up(self.step)
            self.due = frozenset({"round"})
            while names := self.meetings.reached(self.position):
                self.due |= names
