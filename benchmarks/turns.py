"""Run several jobs of many ranks in turns, the others stopped meanwhile.

The cores of a shared machine change their speed from second to second, so that whole runs one after the other
differ by more than what is to be measured. Slices in turn meet the same speeds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ranks import started

_CONNECT_S = 120.0
_SOCKET, _STOPPED_S = "driver", "stopped_s"

Start = AbstractContextManager["subprocess.Popen[str]"]


class Job:
    """A job of many ranks, as its driver sees it: stopped unless it is its turn."""

    def __init__(
        self, connections: list[Connection], pids: list[int], stopped_s: NDArray[np.float64]
    ) -> None:
        #: To each rank, by its number.
        self.connections = connections
        self._pids, self._stopped_s = pids, stopped_s
        self._since = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run."""
        self.resume()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all of its ranks."""
        _signal(self._pids, signal.SIGSTOP)
        self._since = time.perf_counter()

    def resume(self) -> None:
        """Continue all of its ranks, whose clocks have stood still."""
        self._stopped_s += time.perf_counter() - self._since
        _signal(self._pids, signal.SIGCONT)


@contextmanager
def stopped_job(folder: Path, ranks: int, start: Start) -> Iterator[Job]:
    """The job that ``start`` starts, as soon as all of its ranks are `connected` by way of ``folder``.

    In the end its ranks receive None and have to leave.
    """
    with ExitStack() as stack:
        # A job that fails before it connects must not be waited for.
        socket.setdefaulttimeout(_CONNECT_S)
        stopped_s = np.memmap(folder / _STOPPED_S, np.float64, "w+", shape=(1,))
        listener = stack.enter_context(Listener(str(folder / _SOCKET)))
        stack.enter_context(start)
        found: dict[int, tuple[Connection, int]] = {}
        for _ in range(ranks):
            connection = stack.enter_context(listener.accept())
            rank, pid = connection.recv()
            found[rank] = connection, pid
            # Whatever happens, no process stays behind stopped.
            stack.callback(_signal, [pid], signal.SIGCONT)
        job = Job(*map(list, zip(*(found[rank] for rank in range(ranks)), strict=True)), stopped_s)
        job.stop()
        yield job
        job.resume()
        for connection in job.connections:
            connection.send(None)


@contextmanager
def connected(folder: Path, rank: int) -> Iterator[Connection]:
    """On a rank: the connection to the driver, which stops this process from now on unless it is its turn.

    `time.perf_counter` stands still meanwhile.
    """
    stopped_s = np.memmap(folder / _STOPPED_S, np.float64, "r", shape=(1,))
    always = time.perf_counter
    time.perf_counter = lambda: always() - float(stopped_s[0])
    with Client(str(folder / _SOCKET)) as driver:
        driver.send((rank, os.getpid()))
        yield driver


def in_turns(ranks: int, slices: int, jobs: dict[str, Sequence[object]]) -> dict[str, NDArray[np.float64]]:
    """Start a job for each entry of ``jobs``, this program with the arguments given there, under mpirun.

    Each rank calls `work_in_turns`. Returns for each job what its ranks measured in each slice but the first,
    shape ``(ranks, slices, measurements)``.
    """
    measured: dict[str, list[list[Sequence[float]]]] = {name: [[] for _ in range(ranks)] for name in jobs}
    with ExitStack() as stack:
        stopped = {}
        for name, arguments in jobs.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            start = started(ranks, *arguments, folder)
            stopped[name] = stack.enter_context(stopped_job(folder, ranks, start))
        for _ in range(slices + 1):
            for name, job in stopped.items():
                with job.turn():
                    for connection in job.connections:
                        connection.send("go")
                    for rank, connection in enumerate(job.connections):
                        measured[name][rank].append(connection.recv())
    return {name: np.array(values)[:, 1:] for name, values in measured.items()}


def work_in_turns(rank: int, folder: str, work: Callable[[], Sequence[float]]) -> None:
    """On a rank: do ``work``, which returns its measurements, whenever it is this job's turn."""
    with connected(Path(folder), rank) as driver:
        while driver.recv() is not None:
            driver.send(work())


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
