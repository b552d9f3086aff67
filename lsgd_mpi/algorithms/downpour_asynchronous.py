"""DOWNPOUR, asynchronous."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Options, Worker
from lsgd_mpi.algorithms.center import CenterOptions
from lsgd_mpi.algorithms.downpour import refuse_momentum
from lsgd_mpi.algorithms.visiting import VisitingAlgorithm
from lsgd_mpi.leaders import Round


class AsynchronousDownpour(VisitingAlgorithm):
    """Each worker gives what it has learnt in a period to the center, and goes on from there (Algorithm 3).

    DOWNPOUR of the thesis; the period τ is ``local_period`` (16). *Exchange*, after every τ of the worker's
    own iterations: ``x̃ ← x̃ + vⁱ``, ``xⁱ ← x̃``, ``vⁱ ← 0``, atomic, where vⁱ is the sum of the worker's
    updates since its last one; at the end of training once more, so that nothing that was learnt is lost.

    *Communication of a worker*: 2 P an exchange (P the bytes of the flat parameters), there and back.
    *Changes* the parameters; the optimizer has no momentum, which the paper excludes. *Keeps* one buffer of
    the parameters' size, two parts of 1 MB, and one buffer for the center's average.

    *Departure*: the paper's exchange at t = 0, which would find the start, is left out. vⁱ is the difference
    of the worker to the center that it left from.
    """

    name = "downpour"
    options_class: ClassVar[type[Options]] = CenterOptions

    def __init__(self, options: Any, worker: Worker) -> None:
        super().__init__(options, worker)
        self.clock.rounds.every("round", options.local_period)
        self._left_from = self.parameters.flat.clone()
        self._step_of_exchange = 0

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` for momentum."""
        refuse_momentum(cls.name, optimizer)

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Make the exchange that is due."""
        if "round" in self.clock.due_rounds:
            self._exchange()
        return iter(())

    def finish(self) -> None:
        """Give the rest of a period to the center."""
        if self.clock.step > self._step_of_exchange:
            self._exchange()

    def _exchange(self) -> None:
        super()._exchange()
        self._step_of_exchange = self.clock.step

    def _move(self, visit: int, part: slice, *vectors: torch.Tensor) -> None:
        (center,) = vectors
        x, left_from = self.parameters.flat[part], self._left_from[part]
        v = torch.sub(x, left_from)
        center.add_(v)
        x.copy_(center)
        left_from.copy_(center)
        self._note(visit, part, v)

    def state_dict(self) -> dict[str, Any]:
        """The center's, and where the worker left from."""
        return {**super().state_dict(), "left_from": self._left_from.clone(), "step": self._step_of_exchange}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Collective."""
        super().load_state_dict(state)
        self._left_from.copy_(state["left_from"])
        self._step_of_exchange = state["step"]
