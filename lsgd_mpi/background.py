"""Horovod's background threads: how often they look for work, and what they leave to the training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Horovod's own default of 1 ms takes a pull of 1 million parameters beyond twice bare MPI's time
#: (benchmarks/rounds.py); shorter cycles cost more.
CYCLE_TIME_MS = 0.5

#: A tenth of the weight of a thread that computes. More takes hardly less from the training, but rounds take
#: several times as long: of a group while others compute, of all where other programs keep the cores busy.
NICENESS = 10
_MOST = 19


@contextmanager
def giving_way() -> Iterator[None]:
    """Let threads that start meanwhile give way to others on the same core.

    In each cycle Horovod's thread asks those of all ranks for work, and polls until the last one answers,
    which between nodes is most of the time. A round of all ranks is not slowed by that, since the training
    waits for it; one of a group comes when the threads of those that still compute have had their turn.
    Without effect where there is no ``/proc``.
    """
    before = _threads()
    yield
    for thread in _threads() - before:
        # It may have ended.
        with suppress(ProcessLookupError):
            # Linux has a niceness of each thread, whatever POSIX says of processes.
            nicer = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, min(nicer, _MOST))


def given_way() -> int:
    """How much nicer than the calling thread any of this process is."""
    found = [os.getpriority(os.PRIO_PROCESS, 0)]
    for thread in _threads():
        with suppress(ProcessLookupError):
            found.append(os.getpriority(os.PRIO_PROCESS, thread))
    return max(found) - found[0]


def _threads() -> set[int]:
    tasks = Path("/proc/self/task")
    return {int(task.name) for task in tasks.iterdir()} if tasks.is_dir() else set()
