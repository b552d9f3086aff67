"""A communicator for p workers in p threads of one process, on which the algorithms run unchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, TypeVar

import torch

from lsgd_mpi.errors import CommunicationError, UsageError
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Leader, Scope, elect

_Result = TypeVar("_Result")


class _AbortedError(CommunicationError):
    """Another worker failed: its error is the one to tell."""


class Rendezvous:
    """The place where the workers of a topology meet for their collectives.

    The last worker to arrive does the work for all, in rank order, so that results do not depend on which
    thread was fast. No worker can wait for ever: when all that still run are waiting, or one has failed,
    every wait ends with `CommunicationError`.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._changed = threading.Condition()
        self._arrived: dict[tuple[int, ...], dict[int, tuple[str, Any]]] = {}
        self._results: dict[tuple[int, ...], Any] = {}
        self._meetings: dict[tuple[int, ...], int] = {}
        self._waiting = 0
        self._left = 0
        self._broken: str | None = None

    def members(self, world_rank: int, scope: Scope) -> tuple[int, ...]:
        """The world ranks that meet in ``scope``, seen from ``world_rank``."""
        if scope == "global":
            return tuple(range(self.topology.world_size))
        return self.topology.members_of(world_rank)

    def meet(
        self, world_rank: int, scope: Scope, what: str, offer: Any, work: Callable[[list[Any]], _Result]
    ) -> _Result:
        """Offer something to all members of the scope; return what ``work`` makes of all offers.

        ``what`` names the operation: members that meet for different ones are an error.
        """
        members = self.members(world_rank, scope)
        with self._changed:
            self._raise_if_broken()
            arrived = self._arrived.setdefault(members, {})
            arrived[world_rank] = (what, offer)
            if len(arrived) == len(members):
                self._finish(members, work)
            else:
                self._wait(members)
            result: _Result = self._results[members]
            return result

    def leave(self, failed: bool) -> None:
        """A worker is at its end."""
        with self._changed:
            self._left += 1
            if failed:
                self._break("another worker failed")
            self._break_if_stuck()

    def _finish(self, members: tuple[int, ...], work: Callable[[list[Any]], Any]) -> None:
        arrived = self._arrived.pop(members)
        names = {name for name, _ in arrived.values()}
        if len(names) > 1:
            self._break(f"the workers {members} met for different operations: {', '.join(sorted(names))}")
            self._raise_if_broken()
        self._results[members] = work([arrived[rank][1] for rank in members])
        self._meetings[members] = self._meetings.get(members, 0) + 1
        self._waiting -= len(members) - 1
        self._changed.notify_all()

    def _wait(self, members: tuple[int, ...]) -> None:
        self._waiting += 1
        before = self._meetings.get(members, 0)
        self._break_if_stuck()
        while self._meetings.get(members, 0) == before:
            self._raise_if_broken()
            self._changed.wait()

    def _break_if_stuck(self) -> None:
        if self._waiting and self._waiting + self._left == self.topology.world_size:
            self._break("the workers wait for each other in different places, or for one that has ended")

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._changed.notify_all()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise _AbortedError(self._broken)


class ThreadCommunicator:
    """The collectives that algorithms use (`lsgd_mpi.algorithms.Communicator`), among threads.

    One object a worker, all around one `Rendezvous`. Counts and times nothing. Gradient averaging, which
    belongs to Horovod, is not offered.
    """

    def __init__(self, rendezvous: Rendezvous, world_rank: int) -> None:
        self.topology = rendezvous.topology
        self.world_rank = world_rank
        self.group = self.topology.group_of(world_rank)
        self._rendezvous = rendezvous

    def elect(self, loss: float) -> Leader:
        """The member of this worker's group with the lowest loss."""
        return self._meet("local", "elect", Leader(loss, self.world_rank), elect)

    def elect_among_leaders(self, local_leader: Leader) -> Leader:
        """The best of all groups' leaders."""
        return self._meet("global", "elect among leaders", local_leader, elect)

    def broadcast(self, flat: torch.Tensor, root_world_rank: int, scope: Scope) -> None:
        """Overwrite ``flat`` with the root's, in place."""
        members = self._rendezvous.members(self.world_rank, scope)
        if root_world_rank not in members:
            raise UsageError(f"world rank {root_world_rank} cannot broadcast to the ranks {members}")

        def copy(flats: list[torch.Tensor]) -> None:
            root = flats[members.index(root_world_rank)]
            for each in flats:
                if each is not root:
                    each.copy_(root)

        self._meet(scope, f"broadcast from {root_world_rank}", flat, copy)

    def average(self, flat: torch.Tensor, scope: Scope) -> None:
        """Overwrite ``flat`` with the mean over the scope, summed in the order of the ranks."""

        def average(flats: list[torch.Tensor]) -> None:
            total = flats[0].clone()
            for each in flats[1:]:
                total += each
            total /= len(flats)
            for each in flats:
                each.copy_(total)

        self._meet(scope, "average", flat, average)

    def maximum(self, counts: torch.Tensor, scope: Scope) -> None:
        """Overwrite ``counts`` with the element-wise maximum over the scope."""

        def maximum(all_counts: list[torch.Tensor]) -> None:
            largest = torch.stack(all_counts).amax(dim=0)
            for each in all_counts:
                each.copy_(largest)

        self._meet(scope, "maximum", counts, maximum)

    def center(self, *starts: torch.Tensor) -> NoReturn:  # noqa: ARG002
        """Refused, as `shared_count`."""
        raise UsageError("threads are in step: study a method on --clock step")

    def mailboxes(self, neighbours: Sequence[int], like: torch.Tensor) -> NoReturn:  # noqa: ARG002
        """Refused, as `shared_count`."""
        raise UsageError("threads are in step: study a method on --clock step")

    def wait_for(self, what: str, done: Callable[[], bool]) -> NoReturn:  # noqa: ARG002
        """Refused, as `shared_count`."""
        raise UsageError("threads are in step: study a method on --clock step")

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self._meet("global", "barrier", None, lambda _: None)

    def shared_count(self) -> Callable[[int], int]:
        """Refused: what is studied here does not depend on the speed of threads."""
        raise UsageError("threads are in step: study a method on --clock step")

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all workers, in the order of the ranks."""
        return self._meet(
            "global", "sum", values, lambda offers: [sum(column) for column in zip(*offers, strict=True)]
        )

    def gradient_averaging(self, optimizer: torch.optim.Optimizer, named: Any) -> torch.optim.Optimizer:  # noqa: ARG002
        """Refused: it is Horovod's optimizer."""
        raise UsageError("gradients are averaged by Horovod, which threads do not have: study another method")

    def end_gradient_averaging(self, wrapped: Any) -> None:
        """Nothing was begun."""

    def averaging_gradients(self, nbytes: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing is timed."""
        return self.round()

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:  # noqa: ARG002
        """Nothing is watched: a rendezvous notices who waits for ever."""
        yield

    @contextmanager
    def round(self) -> Iterator[None]:
        """Nothing is counted."""
        yield

    def _meet(self, scope: Scope, what: str, offer: Any, work: Callable[[list[Any]], _Result]) -> _Result:
        return self._rendezvous.meet(self.world_rank, scope, what, offer, work)


def run_workers(topology: Topology, work: Callable[[ThreadCommunicator], _Result]) -> list[_Result]:
    """Run ``work(communicator)`` once a worker, each in a thread, and return the results by world rank.

    The first exception of a worker (the lowest world rank's, if several fail by themselves) ends all
    of them and is raised here.
    """
    rendezvous = Rendezvous(topology)
    results: dict[int, _Result] = {}
    errors: dict[int, BaseException] = {}

    def worker(world_rank: int) -> None:
        # A thread has its own pool in torch; p pools of all cores each would fight for them.
        torch.set_num_threads(1)
        try:
            results[world_rank] = work(ThreadCommunicator(rendezvous, world_rank))
        except BaseException as error:
            errors[world_rank] = error
        finally:
            rendezvous.leave(failed=world_rank in errors)

    outer_threads = torch.get_num_threads()
    threads = [
        threading.Thread(target=worker, args=(rank,), name=f"worker {rank}", daemon=True)
        for rank in range(topology.world_size)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(outer_threads)
    own = [errors[rank] for rank in sorted(errors) if not isinstance(errors[rank], _AbortedError)]
    if errors:
        raise (own or [errors[min(errors)]])[0]
    return [results[rank] for rank in range(topology.world_size)]
