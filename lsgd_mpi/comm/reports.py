"""Local rounds of the other groups, told to world rank 0 without anybody waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lsgd_mpi.comm.libraries import MPI
from lsgd_mpi.comm.waiting import wait_until
from lsgd_mpi.leaders import Round

_ROUND_TAG = 1
_END_TAG = 2


class RoundReports:
    """One rank's side: it sends if it is among the ``speakers``, one world rank of each group.

    Making one, and `close`, is collective over ``world``.
    """

    def __init__(self, world: MPI.Intracomm, speakers: Sequence[int]) -> None:
        self._channel = world.Dup()
        self._is_home = world.Get_rank() == 0
        self._others = [speaker for speaker in speakers if speaker != 0]
        self._sends = world.Get_rank() in self._others
        self._leaving: list[Any] = []
        self._expected = 0

    def send(self, finished: Round) -> None:
        """Send a round to world rank 0, from a speaker. Not collective; nobody waits."""
        if self._sends:
            self._leaving.append(self._channel.isend(finished, dest=0, tag=_ROUND_TAG))
            self._leaving = [request for request in self._leaving if not request.Test()]
        elif self._is_home:
            self._expected += len(self._others)

    def arrived(self) -> list[Round]:
        """The rounds that have arrived on world rank 0; elsewhere none. Does not wait.

        As many of each other group as this rank has held itself: to ask in every iteration costs 0.2 ms.
        """
        rounds: list[Round] = []
        while self._expected and self._channel.iprobe(source=MPI.ANY_SOURCE, tag=_ROUND_TAG):
            rounds.append(self._channel.recv(source=MPI.ANY_SOURCE, tag=_ROUND_TAG))
            self._expected -= 1
        return rounds

    def rest(self) -> list[Round]:
        """All rounds that were sent before this call anywhere, on world rank 0. Collective."""
        # A speaker's messages arrive in order, so an end marker says that it has no more. It has a tag of its
        # own: a slower rank 0 still asks for what has arrived when it comes, and must leave it there.
        if self._sends:
            self._channel.send(None, dest=0, tag=_END_TAG)
            MPI.Request.waitall(self._leaving)
            self._leaving = []
        rounds = []
        if self._is_home:
            for speaker in self._others:
                while (message := self._next_from(speaker)) is not None:
                    rounds.append(message)
        self._expected = 0
        return rounds

    def close(self) -> None:
        """Free the channel."""
        self._channel.Free()

    def _next_from(self, speaker: int) -> Round | None:
        wait_until(lambda: self._channel.iprobe(source=speaker))
        report: Round | None = self._channel.recv(source=speaker)
        return report
