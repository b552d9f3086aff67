"""When training ends: after so many iterations or when the time is up, on all ranks at the same meeting."""

from __future__ import annotations

import math
from collections.abc import Callable

from lsgd_mpi.clock import Clock, WallClock
from lsgd_mpi.comm import Communicator

_CHECK_EVERY_S = 1.0
_MOST_STEPS_BETWEEN_CHECKS = 1000

_END, _TIME = "end", "time"


class Budget:
    """A limit on iterations, and one on time, that all ranks keep at the same meeting of their ``clock``.

    Times differ between ranks, so the time is agreed upon: about once a second the ranks start a
    non-blocking allreduce of the time spent and read its result at the next check, when it has long
    arrived; nobody waits unless it is a whole check ahead of another. What the result says is the same on
    all ranks, and so is the meeting at which the next check falls.
    """

    def __init__(self, communicator: Communicator, clock: Clock, steps: float, seconds: float | None) -> None:
        self.steps = steps
        self._seconds = seconds
        self._communicator = communicator
        self._clock = clock
        self._pending: Callable[[], list[float]] | None = None
        self._spent_before_s: float | None = None
        if math.isfinite(steps):
            clock.meetings.at(_END, int(steps))
        if seconds is not None:
            clock.meetings.at(_TIME, 1)

    def is_over(self, elapsed_s: float, waited_s: float = 0.0) -> bool:
        """Whether the present iteration is the last one.

        It ends ``elapsed_s`` after the start, of which this rank has spent ``waited_s`` waiting for others.
        """
        over = _END in self._clock.due
        if self._seconds is None or _TIME not in self._clock.due:
            return over
        between = 1
        if self._pending is not None:
            spent_s, negative_average_s, slowest_s = self._pending()
            self._pending = None
            if self._is_nearly_up(spent_s):
                return True
            average_s = slowest_s if self._clock.in_step else -negative_average_s
            between = _steps_between(average_s, slowest_s)
        clock = self._clock
        worked_s = elapsed_s - waited_s
        own_s = worked_s / clock.step if clock.step else 0.0
        # Of the average iteration the least, that of ranks which did not hold the others up.
        self._pending = self._communicator.start_maximum([elapsed_s, -worked_s / clock.position, own_s])
        clock.meetings.at(_TIME, clock.meetings.passed + between)
        if isinstance(clock, WallClock):
            # Here all are together, and the next time is an epoch away.
            spent_s, *_ = self._pending()
            self._pending = None
            return over or spent_s + _CHECK_EVERY_S >= self._seconds
        return over

    def _is_nearly_up(self, spent_s: float) -> bool:
        """Of a time that was agreed upon when the check before this one was made."""
        assert self._seconds is not None
        before_s, self._spent_before_s = self._spent_before_s, spent_s
        since_s = _CHECK_EVERY_S if before_s is None else max(_CHECK_EVERY_S, spent_s - before_s)
        return spent_s + since_s >= self._seconds

    def close(self) -> None:
        """Take the result of a check under way: every started collective is finished."""
        if self._pending is not None:
            self._pending()
            self._pending = None


def _steps_between(average_s: float, slowest_s: float) -> int:
    """Iterations to the next check, for iterations of the average and the slowest rank that take so long."""
    # A slow rank needs two of its own to read one check and start the next; fast ones are not to wait for
    # that.
    seconds = max(_CHECK_EVERY_S, 2.0 * slowest_s if slowest_s > 1.1 * average_s else 0.0)
    return min(max(1, int(seconds / max(average_s, 1e-9))), _MOST_STEPS_BETWEEN_CHECKS)


def step_limit(steps: int | None, epochs: float | None, minutes: float | None, epoch_steps: int) -> float:
    """Iterations that ``--steps`` and ``--epochs`` allow, the fewer of both; 10 epochs by default."""
    if steps is None and epochs is None and minutes is None:
        epochs = 10.0
    limits = [math.inf if steps is None else float(steps)]
    if epochs is not None:
        most = epochs * epoch_steps
        limits.append(max(1.0, float(math.ceil(most)) if math.isfinite(most) else most))
    return min(limits)
