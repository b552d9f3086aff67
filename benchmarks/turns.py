"""Run several jobs of many ranks in turns, one slice of work at a time, the others stopped meanwhile.

The cores of a shared machine change their speed from second to second, so that whole runs one after the other
differ by more than what is to be measured. Slices in turn meet the same speeds.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Client, Connection, Listener

import numpy as np
from numpy.typing import NDArray
from ranks import started

_CONNECT_S = 120.0


def in_turns(ranks: int, slices: int, jobs: dict[str, Sequence[object]]) -> dict[str, NDArray[np.float64]]:
    """Start a job for each entry of ``jobs``, this program with the arguments given there, under mpirun.

    Each rank calls `work_in_turns`. Returns for each job what its ranks measured in each slice but the first,
    shape ``(ranks, slices, measurements)``.
    """
    with ExitStack() as stack:
        # A job that fails before it connects must not be waited for.
        socket.setdefaulttimeout(_CONNECT_S)
        listener = stack.enter_context(Listener(("127.0.0.1", 0)))
        workers: dict[str, dict[int, Connection]] = {}
        pids: dict[str, list[int]] = {}
        for name, arguments in jobs.items():
            stack.enter_context(started(ranks, *arguments, listener.address[1]))
            workers[name], pids[name] = {}, []
            for _ in range(ranks):
                connection = stack.enter_context(listener.accept())
                rank, pid = connection.recv()
                workers[name][rank] = connection
                pids[name].append(pid)
                # Whatever happens, no process stays behind stopped.
                stack.callback(_signal, [pid], signal.SIGCONT)
            _signal(pids[name], signal.SIGSTOP)
        measured: dict[str, list[list[Sequence[float]]]] = {name: [[] for _ in range(ranks)] for name in jobs}
        for _ in range(slices + 1):
            for name in jobs:
                _signal(pids[name], signal.SIGCONT)
                for connection in workers[name].values():
                    connection.send("go")
                for rank, connection in workers[name].items():
                    measured[name][rank].append(connection.recv())
                _signal(pids[name], signal.SIGSTOP)
        for name in jobs:
            _signal(pids[name], signal.SIGCONT)
            for connection in workers[name].values():
                connection.send(None)
                connection.recv()
    return {name: np.array(values)[:, 1:] for name, values in measured.items()}


def work_in_turns(rank: int, port: int, work: Callable[[], Sequence[float]]) -> None:
    """On a rank: do ``work``, which returns its measurements, whenever it is this job's turn."""
    with Client(("127.0.0.1", port)) as driver:
        driver.send((rank, os.getpid()))
        while driver.recv() is not None:
            driver.send(work())
        driver.send(None)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
