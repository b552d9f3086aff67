"""What workers share without meeting: memory of world rank 0 that the others reach one-sidedly.

Rank 0 has nothing to do for it, nor a process beside it: MPI moves the bytes while rank 0 computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lsgd_mpi.comm.libraries import MPI

COUNT_BYTES = 8

#: Open MPI sends as many bytes with the request for a get over TCP as are asked for, and twice as many if
#: that is more than its eager limit of 64 KiB: 10 ms for 1 MB at 1 Gbit/s instead of 18.
_FAR_GET_BYTES = 1 << 15


class Window:
    """Zeros in the memory of world rank 0, for one-sided access by all ranks until `close`.

    Making and closing one is collective over ``world``; ``is_far`` says that this rank is on another node.
    """

    def __init__(self, world: MPI.Intracomm, nbytes: int, is_far: bool = False) -> None:
        #: Whether this rank needs it no longer; see `Communicator`.
        self.released = False
        self._is_far = is_far
        is_home = world.Get_rank() == 0
        self._window = MPI.Win.Allocate(nbytes if is_home else 0, 1, comm=world)
        if is_home:
            self._window.Lock(0)
            np.asarray(self._window.tomemory())[:] = 0
            self._window.Unlock(0)
        world.Barrier()
        # One epoch for the whole life: MPI's own locks keep a core busy while they wait, ours sleep.
        self._window.Lock_all()

    def add(self, place: int, amount: int) -> int:
        """Add to the int64 at byte ``place`` and return it as it was before: atomic, not collective."""
        given, found = np.array(amount, dtype=np.int64), np.empty((), dtype=np.int64)
        self._window.Fetch_and_op([given, MPI.INT64_T], [found, MPI.INT64_T], 0, place, MPI.SUM)
        self._window.Flush(0)
        return int(found)

    def start_get(self, into: np.ndarray[Any, Any], place: int) -> list[MPI.Request]:
        """Start to read from byte ``place`` into ``into``, contiguous and of dtype uint8."""
        at_once = _FAR_GET_BYTES if self._is_far else into.nbytes
        return [
            self._window.Rget([part, MPI.BYTE], 0, [place + start, part.nbytes, MPI.BYTE])
            for start in range(0, into.nbytes, max(1, at_once))
            for part in [into[start : start + at_once]]
        ]

    def start_put(self, source: np.ndarray[Any, Any], place: int) -> MPI.Request:
        """Start to write; ``source`` may change when the request has completed, all have it after `flush`."""
        return self._window.Rput([source, MPI.BYTE], 0, [place, source.nbytes, MPI.BYTE])

    def flush(self) -> None:
        """Wait until all that was put is there."""
        self._window.Flush(0)

    def close(self) -> None:
        """Give the memory back."""
        self._window.Unlock_all()
        self._window.Free()


def as_bytes(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A contiguous tensor on the host as MPI's functions take it, without a copy."""
    return tensor.view(torch.uint8).numpy()
