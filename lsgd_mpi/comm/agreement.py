"""What all ranks must know together: an error on one of them, a value that must be the same on each.

These are collectives over the world that need no groups, so they work before `start`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from lsgd_mpi.comm.libraries import MPI
from lsgd_mpi.comm.watchdog import Watchdog
from lsgd_mpi.errors import LsgdError, UsageError

_Result = TypeVar("_Result")

_watchdog: Watchdog | None = None


def watch_agreements(watchdog: Watchdog) -> None:
    """Let ``watchdog`` watch the collectives of this module; stops the one before."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.stop()
    _watchdog = watchdog


def raise_together(problem: LsgdError | None) -> None:
    """Raise, on all ranks alike, the problem of the lowest rank that has one. Collective over the world."""
    _raise_first(problem, _gathered)


def _raise_first(problem: LsgdError | None, gathered: Callable[[Any], list[Any]]) -> None:
    mine = None if problem is None else (type(problem), str(problem))
    found = [(rank, theirs) for rank, theirs in enumerate(gathered(mine)) if theirs]
    if not found:
        return
    rank, (kind, message) = found[0]
    error = kind(message if rank == 0 else f"world rank {rank}: {message}")
    error.agreed = True
    raise error


def together(action: Callable[[], _Result], what: str | None = None) -> _Result:
    """Do ``action`` on every rank; if it fails on one, raise its error on all. Collective over the world.

    ``what`` names an action that may hang, which then is watched as well.
    """
    with nullcontext() if what is None else _watched(what):
        result, problem = _attempt(action)
    raise_together(problem)
    return result[0]


def on_rank_zero(action: Callable[[], _Result], *, for_long: bool = False) -> _Result:
    """Do ``action`` on world rank 0; its result, or its error, on all. Collective over the world.

    What may take its time ``for_long``, a download perhaps, is not watched.
    """
    with nullcontext() if for_long else _watched("what world rank 0 does for all"):
        result, problem = _attempt(action) if MPI.COMM_WORLD.Get_rank() == 0 else ([], None)
        _raise_first(problem, MPI.COMM_WORLD.allgather)
        shared: list[_Result] = MPI.COMM_WORLD.bcast(result, root=0)
    return shared[0]


def check_equal(what: str, value: object) -> None:
    """Raise `UsageError` on all ranks if ``value`` is not the same on each. Collective over the world.

    ``value`` is made of plain built-in types; digests travel first, so that equal values cost 32 bytes.
    """
    digest = hashlib.sha256(repr(value).encode()).digest()
    if len(set(_gathered(digest))) > 1:
        values = _gathered(value)
        raise_together(UsageError(f"the ranks have different {what}: {_first_difference(values)}"))


def _gathered(value: _Result) -> list[_Result]:
    with _watched("an agreement of all ranks"):
        return MPI.COMM_WORLD.allgather(value)


def _watched(what: str) -> AbstractContextManager[None]:
    return nullcontext() if _watchdog is None else _watchdog.waiting(what)


def _attempt(action: Callable[[], _Result]) -> tuple[list[_Result], LsgdError | None]:
    try:
        return [action()], None
    except LsgdError as error:
        return [], error


def _first_difference(values: Sequence[object]) -> str:
    rank = next(rank for rank, value in enumerate(values) if repr(value) != repr(values[0]))
    first, other = values[0], values[rank]
    if isinstance(first, dict) and isinstance(other, dict):
        for name in {**first, **other}:
            here, there = (repr(each[name]) if name in each else "missing" for each in (first, other))
            if here != there:
                return f"{name} is {here} on world rank 0, {there} on world rank {rank}"
        first, other = list(first), list(other)
    return f"{first!r} on world rank 0, {other!r} on world rank {rank}"
