"""When training ends: after so many iterations or when the time is up, on all ranks at the same one."""

from __future__ import annotations

import math
from collections.abc import Callable

from lsgd_mpi.comm import Communicator

_CHECK_EVERY_S = 1.0
_MOST_STEPS_BETWEEN_CHECKS = 1000


class Budget:
    """A limit on iterations, and one on time that all ranks keep at the same iteration.

    Clocks differ between ranks, so the time is agreed upon: about once a second the ranks start a
    non-blocking allreduce of the time spent and read its result at the next check, when it has long
    arrived; nobody waits unless it is a whole check ahead of another. What the result says is the same on
    all ranks, and so is the iteration at which the next check falls.
    """

    def __init__(self, communicator: Communicator, steps: float, seconds: float | None) -> None:
        self.steps = steps
        self._seconds = seconds
        self._communicator = communicator
        self._next_check = 1
        self._pending: Callable[[], list[float]] | None = None

    def is_over(self, step: int, elapsed_s: float) -> bool:
        """Whether iteration ``step``, which ends ``elapsed_s`` after the start, is the last one."""
        if self._seconds is None or step < self._next_check:
            return step >= self.steps
        between = 1
        if self._pending is not None:
            spent_s, step_s = self._pending()
            self._pending = None
            if spent_s + _CHECK_EVERY_S >= self._seconds:
                return True
            between = min(max(1, int(_CHECK_EVERY_S / max(step_s, 1e-9))), _MOST_STEPS_BETWEEN_CHECKS)
        self._pending = self._communicator.start_maximum([elapsed_s, elapsed_s / step])
        self._next_check = step + between
        return step >= self.steps

    def close(self) -> None:
        """Take the result of a check under way: every started collective is finished."""
        if self._pending is not None:
            self._pending()
            self._pending = None


def step_limit(steps: int | None, epochs: float | None, minutes: float | None, epoch_steps: int) -> float:
    """Iterations that ``--steps`` and ``--epochs`` allow, the fewer of both; 10 epochs by default."""
    if steps is None and epochs is None and minutes is None:
        epochs = 10.0
    limits = [math.inf if steps is None else float(steps)]
    if epochs is not None:
        most = epochs * epoch_steps
        limits.append(max(1.0, float(math.ceil(most)) if math.isfinite(most) else most))
    return min(limits)
