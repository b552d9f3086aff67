"""What the asynchronous methods share: a center that each worker visits alone, when its own clock says so."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Algorithm, Options, Worker
from lsgd_mpi.algorithms.center import CENTER


class CenterLag:
    """How far a time average of the center is behind it: ``e = x̃ − z``, of which each worker keeps its part.

    ``z ← (1 − a_t) z + a_t x̃`` after visit t, with ``a_t = 1/(t+1)`` or a constant ``weight`` (thesis,
    Chapter 4). If visit t moves the center by d, then ``e ← (1 − a_t)(e + d)``, which is linear: each
    worker's own visits make up its part, which decays with the visits of all. So nobody sends z; only who
    looks at it adds up the parts.
    """

    def __init__(self, like: torch.Tensor, weight: float | None) -> None:
        self.part = torch.zeros_like(like)
        self._weight = weight
        self._visit = 0

    def push(self, visit: int, part: slice, moved: torch.Tensor) -> None:
        """Take in what this worker's ``visit`` moved of the center; all parts before the next visit."""
        kept = self._decay(visit - 1, visit)
        self.part[part].mul_(self._decay(self._visit, visit)).add_(moved, alpha=kept)

    def end(self, visit: int) -> None:
        """All parts of the visit are in."""
        self._visit = visit

    def at(self, visits: int) -> torch.Tensor:
        """The part of this worker after so many visits of all, a new tensor."""
        return self.part * self._decay(self._visit, visits)

    def _decay(self, before: int, after: int) -> float:
        """The product of ``1 − a_t`` over the visits t after ``before``, up to ``after``."""
        if self._weight is not None:
            return float((1.0 - self._weight) ** (after - before))
        return (before + 1.0) / (after + 1.0)

    def restart(self, visit: int) -> None:
        """Let the average be what the center is now, as if it had been there since the first visit."""
        self.part.zero_()
        self._visit = visit

    def state_dict(self) -> dict[str, Any]:
        """The part, and the visit it is of."""
        return {"part": self.part.clone(), "visit": self._visit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.part.copy_(state["part"])
        self._visit = state["visit"]


class VisitingAlgorithm(Algorithm):
    """A method whose workers each exchange something with a center ``x̃``, alone and atomically.

    The center lives in world rank 0's memory (`lsgd_mpi.comm.Center`), with no process of its own: P bytes
    there, the size of the flat parameters, and with a velocity 2 P. It begins as world rank 0's parameters,
    or as the mean of the workers where they do not start equal.
    """

    pattern: ClassVar[str | None] = "visit"
    clocks = ("own",)
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0}

    def __init__(self, options: Options, worker: Worker, velocity: bool = False) -> None:
        super().__init__(options, worker)
        start = self.parameters.flat.clone()
        if not worker.equal_start:
            self.communicator.average(start, "global")
        vectors = (start, torch.zeros_like(start)) if velocity else (start,)
        self.center = self.communicator.center(*vectors)
        self._lag = self._make_lag()
        self._last_visit: int | None = None

    @property
    def evaluated(self) -> str:
        """The center or its average over time, as the options say."""
        return str(self.options.evaluated)

    def _make_lag(self) -> CenterLag | None:
        """What follows the center's time average, if that is evaluated."""
        if self.evaluated == CENTER:
            return None
        return CenterLag(self.parameters.flat, None)

    def _exchange(self) -> None:
        """Visit the center."""
        self.parameters.check()
        with self.communicator.round():
            self._visited(self.center.exchange(self._move))

    @abstractmethod
    def _move(self, visit: int, part: slice, *vectors: torch.Tensor) -> None:
        """Move a part of the worker, and of the center's vectors in place."""

    def _note(self, visit: int, part: slice, moved: torch.Tensor) -> None:
        """Take into the time average by what the center moved in this part."""
        if self._lag is not None:
            self._lag.push(visit, part, moved)

    def _visited(self, visit: int) -> None:
        if self._lag is not None:
            self._lag.end(visit)
        if self._last_visit is not None:
            self.staleness = visit - self._last_visit - 1
        self._last_visit = visit

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The center, or its average over time. All workers are here, so nobody visits it meanwhile."""
        self.settle()
        self.communicator.barrier()
        if self.communicator.world_rank == 0:
            self.center.read([into])
        self.communicator.broadcast(into, 0, "global")
        if self._lag is not None:
            lag = self._lag.at(self.center.visits())
            self.communicator.average(lag, "global")
            into.sub_(lag, alpha=self.communicator.topology.world_size)
        # Whoever leaves first must not move what another still looks at.
        self.communicator.barrier()

    def close(self) -> None:
        """Let go of the model."""
        self.center.close()

    def state_dict(self) -> dict[str, Any]:
        """On world rank 0 the center and its visits; everywhere this worker's last visit and its lag.

        They belong together if no rank makes an iteration meanwhile.
        """
        self.settle()
        vectors, visits = None, None
        if self.communicator.world_rank == 0:
            vectors = [torch.empty_like(self.parameters.flat) for _ in range(self.center.count)]
            visits = self.center.read(vectors)
        return {
            **super().state_dict(),
            "center": vectors,
            "visits": visits,
            "last_visit": self._last_visit,
            "lag": None if self._lag is None else self._lag.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Collective."""
        super().load_state_dict(state)
        if state["center"] is not None:
            self.center.write(state["center"], state["visits"])
        # The others read there how many visits there were.
        self.communicator.barrier()
        self._last_visit = state["last_visit"]
        if self._lag is not None:
            if state["lag"] is not None:
                self._lag.load_state_dict(state["lag"])
            else:
                self._lag.restart(self.center.visits())
