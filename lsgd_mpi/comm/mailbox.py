"""Vectors to and from one neighbour without waiting: only the newest counts, and they never pile up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lsgd_mpi.comm.libraries import MPI

_VECTOR_TAG, _END_TAG = 1, 2


class Mailbox:
    """A rank's side of the exchange with one neighbour: its letters out, and the neighbour's in.

    A letter leaves only when the one before has been taken in (a synchronous-mode send), so at most one is
    under way in each direction; what is to leave meanwhile waits, and is then written as it is at that
    moment. Nothing here blocks. *Keeps* two buffers of the vector's size on the host.
    """

    def __init__(
        self,
        channel: MPI.Intracomm,
        neighbour: int,
        like: torch.Tensor,
        account: Callable[[int], None],
    ) -> None:
        self._channel = channel
        self._neighbour = neighbour
        self._account = account
        self._letter = torch.empty(like.shape, dtype=like.dtype)
        self._received = torch.empty(like.shape, dtype=like.dtype)
        self._nbytes = like.numel() * like.element_size()
        self._to_leave = False
        self._leaving: MPI.Request = MPI.REQUEST_NULL
        #: Whether this side has said that it sends no more, and the other.
        self._said_end = self._ended = False
        self._arriving = self._await_letter()

    def offer(self) -> None:
        """Let a letter leave as soon as it can: `post` writes it."""
        self._to_leave = True

    def post(self, write: Callable[[torch.Tensor], None]) -> None:
        """Send what was offered if the letter before has been taken in; ``write(letter)`` fills it in."""
        if self._to_leave and self._leaving.Test():
            self._to_leave = False
            write(self._letter)
            self._leaving = self._channel.Issend(
                [_bytes(self._letter), MPI.BYTE], self._neighbour, _VECTOR_TAG
            )
            self._account(self._nbytes)

    def receive(self, read: Callable[[torch.Tensor], None]) -> bool:
        """If a letter of the neighbour is here, let ``read(letter)`` use it; whether there was one."""
        status = MPI.Status()
        if self._ended or not self._arriving.Test(status):
            return False
        if status.Get_tag() == _END_TAG:
            self._ended = True
            return False
        read(self._received)
        self._arriving = self._await_letter()
        return True

    def begin_end(self) -> None:
        """Say that no letter will follow those that have left; what has not left yet never does."""
        self._to_leave = False

    def has_ended(self) -> bool:
        """Whether both sides have said so and all letters have arrived; to be asked until it is true."""
        if not self._said_end and self._leaving.Test():
            self._leaving = self._channel.Issend([None, 0, MPI.BYTE], self._neighbour, _END_TAG)
            self._said_end = True
        return self._said_end and self._ended and bool(self._leaving.Test())

    def reopen(self) -> None:
        """Take letters again after an end, on both sides."""
        self._ended = self._said_end = False
        self._arriving = self._await_letter()

    def close(self) -> None:
        """Take no more letters."""
        if not self._ended:
            self._arriving.Cancel()
            self._arriving.Free()
            self._ended = True

    def _await_letter(self) -> MPI.Request:
        return self._channel.Irecv([_bytes(self._received), MPI.BYTE], self._neighbour, MPI.ANY_TAG)


def _bytes(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return tensor.view(torch.uint8).numpy()
