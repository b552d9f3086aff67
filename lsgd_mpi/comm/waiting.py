"""Waiting for others without keeping a core from them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: A wait looks that long without a pause, and then pauses at most that long.
_BUSY_S = 0.0005
_LONGEST_SLEEP_S = 0.001


def wait_until(done: Callable[[], bool]) -> None:
    """Return when ``done()``, a request's ``Test`` for example, is true.

    MPI's own waits keep a core busy, which a slower rank may need: this looks often at first, then sleeps.
    """
    begun = time.perf_counter()
    while not done():
        waited = time.perf_counter() - begun
        if waited < _BUSY_S:
            os.sched_yield()
        else:
            time.sleep(min(_LONGEST_SLEEP_S, waited / 8))
