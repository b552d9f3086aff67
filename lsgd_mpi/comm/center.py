"""A center variable that workers visit alone, one at a time: a one-sided window under a lock that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from lsgd_mpi.comm.libraries import MPI
from lsgd_mpi.comm.waiting import wait_until
from lsgd_mpi.comm.window import Window, as_bytes

#: Moves a part of the center and of the worker towards each other: ``move(visit, part, *vectors)``, where
#: ``visit`` counts the visits of all workers from 1, ``part`` says where in the flat tensors the part lies,
#: and ``vectors`` are that part of the center's, to be changed in place.
Move = Callable[..., None]

#: Bytes of a vector that are under way at once. A part is read, moved and written while it is in the cache.
_PART_BYTES = 1 << 20

#: Where in the window: the lock's next ticket and the one being served, and the number of visits so far.
_TICKET, _SERVED, _VISITS, _VECTORS = 0, 8, 16, 64


@dataclass(frozen=True)
class Visit:
    """One visit: its number among those of all workers, and what it took. Of the bytes, half came here."""

    number: int
    wait_s: float
    comm_s: float
    moved_bytes: int


class Center:
    """Vectors of equal shape ``(length,)`` and dtype in the memory of world rank 0.

    A worker's `exchange` is atomic: nobody else sees or changes a vector meanwhile, however many parts it is
    moved in. Visitors queue in the order in which they came (a ticket lock) and sleep while they wait; rank 0
    need not take part. Making one is collective; the vectors start as world rank 0's.
    """

    def __init__(
        self,
        world: MPI.Intracomm,
        starts: Sequence[torch.Tensor],
        account: Callable[[Visit], None],
        guarded: Callable[[str], AbstractContextManager[None]],
        is_far: bool = False,
    ) -> None:
        self._length = starts[0].numel()
        #: How many vectors there are.
        self.count = len(starts)
        self._device = starts[0].device
        self._item_bytes = starts[0].element_size()
        self._nbytes: int = self._length * self._item_bytes
        self._account = account
        self._guarded = guarded
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lsgd-center")
        # Two of each vector: one part is computed with while the next one is on its way.
        self._elements = min(self._length, _PART_BYTES // self._item_bytes)
        self._buffers = [
            [torch.empty(self._elements, dtype=starts[0].dtype) for _ in starts] for _ in range(2)
        ]
        self.window = Window(world, _VECTORS + self.count * self._nbytes, is_far)
        if world.Get_rank() == 0:
            self.write(starts)
        world.Barrier()

    def exchange(self, move: Move) -> int:
        """Visit the center, and return the visit's number. Not collective."""
        with self._guarded("an exchange with the center"):
            visit = self._visit(move)
        self._account(visit)
        return visit.number

    def start_exchange(self, move: Move) -> Callable[[], int]:
        """Visit the center in the background; call the result to wait for the visit's number."""
        begun: Future[Visit] = self._background.submit(self._visit, move)

        def finish() -> int:
            start = time.perf_counter()
            with self._guarded("an exchange with the center that was begun a period ago"):
                visit = begun.result()
            # What passed while the worker computed was no waiting of the worker.
            self._account(Visit(visit.number, time.perf_counter() - start, 0.0, visit.moved_bytes))
            return visit.number

        return finish

    def visits(self) -> int:
        """The number of visits so far, of all workers."""
        with self._guarded("the count of the center's visits"):
            return self.window.add(_VISITS, 0)

    def read(self, into: Sequence[torch.Tensor]) -> int:
        """Copy as many vectors as there are tensors, at a moment between two visits; their number so far.

        Not collective.
        """

        def copy(_: int, part: slice, *vectors: torch.Tensor) -> None:
            for tensor, vector in zip(into, vectors, strict=True):
                tensor[part].copy_(vector)

        def read_all() -> int:
            self._all_parts(copy, 0, vectors=len(into), change=False)
            return self.visits()

        with self._guarded("a look at the center"):
            return self._locked(read_all)

    def write(self, vectors: Sequence[torch.Tensor], visits: int = 0) -> None:
        """Overwrite the vectors and the number of visits between two visits. Not collective."""

        def put(_: int, part: slice, *theirs: torch.Tensor) -> None:
            for vector, mine in zip(theirs, vectors, strict=True):
                vector.copy_(mine[part])

        def overwrite() -> int:
            self._all_parts(put, 0)
            return self.window.add(_VISITS, visits - self.visits())

        with self._guarded("a change of the center"):
            self._locked(overwrite)

    def close(self) -> None:
        """Wait for what goes on in the background, and let it go; the window is freed by the communicator."""
        self._background.shutdown()
        self.window.released = True

    def _visit(self, move: Move) -> Visit:
        start = time.perf_counter()
        inside = start

        def visit() -> int:
            nonlocal inside
            inside = time.perf_counter()
            number = self.window.add(_VISITS, 1) + 1
            self._all_parts(move, number)
            return number

        number = self._locked(visit)
        return Visit(number, inside - start, time.perf_counter() - inside, 2 * self.count * self._nbytes)

    def _locked(self, action: Callable[[], int]) -> int:
        ticket = self.window.add(_TICKET, 1)
        try:
            self._wait_for_turn(ticket)
            return action()
        finally:
            # Whatever happened, in the wait too: the next one waits for this ticket to pass.
            self._wait_for_turn(ticket)
            self.window.flush()
            self.window.add(_SERVED, 1)

    def _wait_for_turn(self, ticket: int) -> None:
        wait_until(lambda: self.window.add(_SERVED, 0) == ticket)

    def _all_parts(self, move: Move, number: int, *, vectors: int | None = None, change: bool = True) -> None:
        """Get each part of so many vectors (None: all), move it, and put it back."""
        length = self._length
        buffers = [each[: self.count if vectors is None else vectors] for each in self._buffers]
        parts = [
            slice(start, min(start + self._elements, length)) for start in range(0, length, self._elements)
        ]
        puts: list[list[MPI.Request]] = [[], []]
        gets = self._start_gets(buffers[0], parts[0])
        for index, part in enumerate(parts):
            turn = index % 2
            _finish(gets)
            if index + 1 < len(parts):
                # The other buffers may still be on their way out.
                _finish(puts[1 - turn])
                gets = self._start_gets(buffers[1 - turn], parts[index + 1])
            received = [buffer[: part.stop - part.start] for buffer in buffers[turn]]
            # On a GPU: a copy there, and back.
            moved = [each.to(self._device) for each in received]
            move(number, part, *moved)
            if change:
                for buffer, vector in zip(received, moved, strict=True):
                    if vector is not buffer:
                        buffer.copy_(vector)
                puts[turn] = [
                    self.window.start_put(as_bytes(buffer), self._place(vector, part))
                    for vector, buffer in enumerate(received)
                ]
        for requests in puts:
            _finish(requests)

    def _start_gets(self, buffers: Sequence[torch.Tensor], part: slice) -> list[MPI.Request]:
        length = part.stop - part.start
        return [
            request
            for vector, buffer in enumerate(buffers)
            for request in self.window.start_get(as_bytes(buffer[:length]), self._place(vector, part))
        ]

    def _place(self, vector: int, part: slice) -> int:
        return _VECTORS + vector * self._nbytes + int(part.start) * self._item_bytes


def _finish(requests: list[MPI.Request]) -> None:
    for request in requests:
        wait_until(request.Test)
