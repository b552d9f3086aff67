"""Vectors to and from one neighbour without waiting, of which few are ever under way."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lsgd_mpi.comm.libraries import MPI
from lsgd_mpi.comm.window import as_bytes


class Mailbox:
    """A rank's side of the exchange with one neighbour: its letters out, and the neighbour's in.

    A letter leaves only when the neighbour has room for it, which it has for one that it has not read (a
    synchronous-mode send). What is to leave meanwhile waits, and is then written as it is at that moment:
    newer values replace older ones that have not left. Nothing here blocks. *Keeps* two buffers of the
    vector's size on the host. ``tag`` is the same on both sides, and no other letters' between them.
    """

    def __init__(
        self,
        channel: MPI.Intracomm,
        neighbour: int,
        tag: int,
        like: torch.Tensor,
        account: Callable[[int], None],
    ) -> None:
        self._channel = channel
        self._address = {"dest": neighbour, "tag": tag}
        self._account = account
        self._letter = torch.empty(like.shape, dtype=like.dtype)
        self._received = torch.empty(like.shape, dtype=like.dtype)
        self._nbytes = like.numel() * like.element_size()
        self._to_leave = False
        self._leaving: MPI.Request = MPI.REQUEST_NULL
        #: Whether this side has said that it sends no more, and the other.
        self._said_end = self._ended = False
        #: Whether this side takes no more letters.
        self.closed = False
        self._arriving = self._make_room()

    def offer(self) -> None:
        """Let a letter leave as soon as it can: `post` writes it."""
        self._to_leave = True

    def post(self, write: Callable[[torch.Tensor], None]) -> None:
        """Send what was offered if the letter before has found room; ``write(letter)`` fills it in."""
        if self._to_leave and self._leaving.Test():
            self._to_leave = False
            write(self._letter)
            self._leaving = self._channel.Issend([as_bytes(self._letter), MPI.BYTE], **self._address)
            self._account(self._nbytes)

    def receive(self, read: Callable[[torch.Tensor], None]) -> bool:
        """If a letter of the neighbour is here, let ``read(letter)`` use it; whether there was one."""
        status = MPI.Status()
        if self._ended or self.closed or not self._arriving.Test(status):
            return False
        if status.Get_count(MPI.BYTE) == 0:
            self._ended = True
            return False
        read(self._received)
        self._arriving = self._make_room()
        return True

    def begin_end(self) -> None:
        """Send no more; what has not left yet never does."""
        self._to_leave = False

    def has_ended(self) -> bool:
        """Whether both sides have said so and all letters have been read; to be asked until it is true."""
        if not self._said_end and self._leaving.Test():
            # An empty letter.
            self._leaving = self._channel.Issend([None, 0, MPI.BYTE], **self._address)
            self._said_end = True
        return self._said_end and self._ended and bool(self._leaving.Test())

    def reopen(self) -> None:
        """Take letters again after an end, on both sides."""
        self._ended = self._said_end = False
        self._arriving = self._make_room()

    def close(self) -> None:
        """Take no more letters. One that is leaving may still, until `is_empty`."""
        if not self._ended and not self.closed:
            self._arriving.Cancel()
            self._arriving.Wait()
        self.closed = True

    def is_empty(self) -> bool:
        """Whether nothing is leaving."""
        return bool(self._leaving.Test())

    def _make_room(self) -> MPI.Request:
        source, tag = self._address["dest"], self._address["tag"]
        return self._channel.Irecv([as_bytes(self._received), MPI.BYTE], source, tag)
