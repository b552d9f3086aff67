"""The state of one process: whether lsgd_mpi was started, with which groups, and how a job ends.

The public functions of `lsgd_mpi` for ranks and groups are here; the words are Horovod's.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import sys
import threading
import time
import traceback
from types import TracebackType

from lsgd_mpi import aftermath, comm
from lsgd_mpi.errors import INTERRUPTED, CommunicationError, LsgdError, UsageError
from lsgd_mpi.groups import GroupSpec, Topology, make_topology
from lsgd_mpi.launcher import promise

_log = logging.getLogger("lsgd_mpi")

_communicator: comm.Communicator | None = None
_hook_before = sys.excepthook

#: Ranks that are not to print a failure leave that long to the one that is, before they end the job.
_GRACE_S = 5.0

#: A rank that has waited that long in one collective ends the job; 0: never.
STALL_TIMEOUT_S = 120.0

#: Before `init`, when processes may still be loading from a slow file system.
START_TIMEOUT_S = 300.0

#: Stalled ranks leave each other that long to say what they wait for.
_LAST_WORDS_S = 2.0

#: What MPI_Abort may take to end a job whose hosts still reach each other.
_ABORT_S = 10.0


def init(
    groups: GroupSpec = "node", *, stall_timeout_s: float = STALL_TIMEOUT_S, horovod_gives_way: bool = False
) -> None:
    """Start MPI, Horovod and the groups: ``"node"``, a group size, or a list of lists of world ranks.

    Collective over all ranks. Calling it again with the same groups does nothing. From here on an uncaught
    exception on one rank ends the job on all, and so does, with exit code 7, a wait of more than
    ``stall_timeout_s`` seconds for other ranks in one collective (0: wait for ever).

    If ``horovod_gives_way``, its threads have a lower priority than the training on CPUs, from which they
    take a few per cent of a core otherwise. Not for the clocks ``shared`` and ``own``, where they serve the
    other ranks' access to memory, nor for ``allreduce``, whose gradients they send in the backward pass.

    Raises `UsageError` for impossible groups, or others than before, and `SetupError` if launcher, MPI and
    Horovod do not fit together.
    """
    global _communicator, _hook_before
    if _communicator is not None:
        _check_same_groups(groups, _communicator.topology)
        return
    # First the hook: a failure of start() itself is one sentence with its exit code, not a traceback a rank.
    if sys.excepthook is not _end_job_of_uncaught:
        _hook_before, sys.excepthook = sys.excepthook, _end_job_of_uncaught
    watchdog = comm.Watchdog(stall_timeout_s, _end_stalled)
    comm.watch_agreements(watchdog)
    try:
        _communicator = comm.start(groups, watchdog, horovod_gives_way)
    except BaseException:
        watchdog.stop()
        raise
    atexit.register(shutdown)


def watch_start() -> None:
    """From here to `init`, end the job if a rank waits for the others for more than `START_TIMEOUT_S`."""
    told = "--stall-timeout holds from the start of Horovod on"
    comm.watch_agreements(comm.Watchdog(START_TIMEOUT_S, functools.partial(_end_stalled, about_limit=told)))


def shutdown() -> None:
    """Stop Horovod and free the communicators. Collective; does nothing if `init` was not called.

    Waits, however long, until every rank is here: other groups may still be training.
    """
    global _communicator
    if _communicator is not None:
        closing, _communicator = _communicator, None
        sys.excepthook = _hook_before
        # Horovod stops on all ranks as soon as it does on one. If others still count on this rank, they end
        # the job by their own watch.
        closing.wait_for_all_to_leave()
        closing.close()


def _end_stalled(what: str, limit_s: float, about_limit: str = "--stall-timeout sets the limit") -> None:
    """From the watchdog's thread."""
    problem = CommunicationError(
        f"waited {limit_s:g} s in {what}: a rank is lost, hangs, is slow, or has ended (each rank that "
        f"waits says so; the logs of the others tell what they did last; {about_limit})"
    )
    # Whatever fails here, a closed pipe or a full disk, the job is to end; the disk may be behind the network
    # that was lost, and writing to it never return.
    try:
        threading.Thread(target=_say_stalled, args=(problem,), daemon=True).start()
        time.sleep(_LAST_WORDS_S)
        # On one host MPI_Abort always gets through.
        if _communicator is None or len(set(_communicator.topology.hosts)) > 1:
            with contextlib.suppress(OSError):
                aftermath.leave_will(problem.exit_code)
            aftermath.end_daemon_after(_ABORT_S)
    finally:
        comm.abort(problem.exit_code)


def _say_stalled(problem: CommunicationError) -> None:
    with contextlib.suppress(OSError):
        _say(problem, comm.mpi_rank_and_size()[0])
    with contextlib.suppress(OSError):
        _log.error(str(problem), extra={"for_file_only": True})


def communicator() -> comm.Communicator:
    """The communicator of this process. Raises `UsageError` before `init`."""
    if _communicator is None:
        raise UsageError("call lsgd_mpi.init() first")
    return _communicator


def is_initialized() -> bool:
    """Whether `init` was called (and `shutdown` was not)."""
    return _communicator is not None


def topology() -> Topology:
    """The groups of this run."""
    return communicator().topology


def rank() -> int:
    """World rank of this process."""
    return communicator().world_rank


def size() -> int:
    """Number of ranks in the world."""
    return communicator().world_size


def local_rank() -> int:
    """Position of this process among those of its node."""
    return topology().local_rank(rank())


def group_rank() -> int:
    """Position of this process in its group."""
    return topology().group_rank(rank())


def end_job(error: BaseException) -> int:
    """Say why the job ends, once, and return the exit code; aborts the other ranks if they do not know.

    A `LsgdError` is one sentence on stderr, anything else a traceback. If all ranks raised the same error
    together (``error.agreed``) rank 0 says it and this returns, so that every rank can leave in order.
    Otherwise the rank that failed ends the job everywhere by ``MPI_Abort``, and this does not return.
    """
    world_rank, world_size = comm.mpi_rank_and_size()
    exit_code = error.exit_code if isinstance(error, LsgdError) else 1
    if isinstance(error, KeyboardInterrupt):
        exit_code = INTERRUPTED
        if world_size > 1:
            comm.abort(exit_code)
        return exit_code
    reporter = getattr(error, "reporter", None)
    if getattr(error, "agreed", False) or world_size == 1:
        promised = promise()
        if world_rank == 0 and (promised is None or promised.rank == 0):
            _say(error, None)
        return exit_code
    if reporter not in (None, world_rank):
        time.sleep(_GRACE_S)
    else:
        # Where several groups fail in the same moment, the first speaks for all.
        time.sleep(0.0 if world_rank == 0 or reporter is None else 0.5)
        _say(error, world_rank)
    comm.abort(exit_code)
    return exit_code


def _say(error: BaseException, world_rank: int | None) -> None:
    where = "" if world_rank is None else f"world rank {world_rank}: "
    if isinstance(error, LsgdError):
        text = f"lsgd-mpi: {where}{error}\n"
    else:
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        text = f"lsgd-mpi: {where}unexpected error, ending the job on all ranks\n{lines}"
    # One write, so that the launcher does not interleave it with what other ranks print.
    sys.stderr.write(text)
    sys.stderr.flush()


def _end_job_of_uncaught(
    kind: type[BaseException],  # noqa: ARG001
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    # Python exits with 1 after a hook, unless the hook itself asks for another code.
    raise SystemExit(end_job(error.with_traceback(trace)))


def _check_same_groups(groups: GroupSpec, current: Topology) -> None:
    if make_topology(groups, current.hosts).groups != current.groups:
        raise UsageError(
            f"init() was already called with other groups ({current.describe()}); Horovod's process sets are "
            "fixed once it runs: call shutdown() first"
        )
