"""Ends a wait that takes too long: MPI and Horovod wait for a lost or busy rank for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Calls ``on_stall(what, limit_s)`` from a thread of its own once a wait has taken ``limit_s`` seconds.

    The thread lives as long as the process or until `stop`; a limit of 0 means that there is none.
    """

    def __init__(self, limit_s: float, on_stall: Callable[[str, float], None]) -> None:
        self._limit_s = limit_s
        self._on_stall = on_stall
        self._waiting: tuple[str, float] | None = None
        self._stopped = threading.Event()
        if limit_s > 0:
            threading.Thread(target=self._watch, name="lsgd-watchdog", daemon=True).start()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Watch what happens inside, which ``what`` names for the user; may be nested."""
        outer, self._waiting = self._waiting, (what, time.perf_counter())
        try:
            yield
        finally:
            self._waiting = outer

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(0.25, self._limit_s / 4)):
            waiting = self._waiting
            if waiting is not None and time.perf_counter() - waiting[1] >= self._limit_s:
                self._on_stall(waiting[0], self._limit_s)
                return
