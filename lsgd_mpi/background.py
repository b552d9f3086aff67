"""Horovod's background threads: how often they look for work, and what they leave to the training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Horovod's own default of 1 ms takes a pull of 1 million parameters beyond twice bare MPI's time
#: (benchmarks/rounds.py); shorter cycles cost more.
CYCLE_TIME_MS = 0.5

#: A thirtieth of the weight of a thread that computes. 10 takes 1 % more from the training; with 19, the
#: most, rounds take twice as long as with 15 where other programs keep all cores busy.
NICENESS = 15


@contextmanager
def giving_way() -> Iterator[None]:
    """Let threads that start meanwhile give way to others on the same core.

    In each cycle Horovod's thread asks those of all ranks for work, and polls until the last one answers,
    which between nodes is most of the time. A round itself is not slowed: the training waits for it.
    Without effect where there is no ``/proc``.
    """
    before = _threads()
    yield
    for thread in _threads() - before:
        # It may have ended.
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, thread, NICENESS)


def _threads() -> set[int]:
    tasks = Path("/proc/self/task")
    return {int(task.name) for task in tasks.iterdir()} if tasks.is_dir() else set()
