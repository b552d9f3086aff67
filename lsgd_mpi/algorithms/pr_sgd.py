"""Parallel restarted SGD: model averaging, also known as local SGD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Algorithm, PeriodOptions, Worker
from lsgd_mpi.leaders import Round


class AveragingAlgorithm(Algorithm):
    """A method that now and then replaces all workers' parameters by their mean."""

    evaluated = "average"
    pattern: ClassVar[str | None] = "average"
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0}

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Hold the round that is due."""
        if "round" in self.clock.due_rounds:
            self._average()
        return iter(())

    def _average(self) -> None:
        """The averaging, in place: collective over the world."""
        self.parameters.check()
        with self.communicator.round():
            self.communicator.average(self.parameters.flat, "global")

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The average of the parameters of all workers."""
        into.copy_(self.parameters.flat)
        self.communicator.average(into, "global")


class PRSGD(AveragingAlgorithm):
    """Parallel restarted SGD (Yu, Yang, Zhu, AAAI 2019, Algorithm 1): restart from the average.

    The period I is ``local_period`` (16). *Round*, after every I iterations: ``xⁱ ← mean xⁱ`` over all
    workers. I = 1 with plain SGD is parallel mini-batch SGD.

    *Communication of a worker*: P a round (the bytes of the flat parameters), one allreduce in place.
    *Changes* the parameters, never the optimizer's state. *Keeps* no buffer.
    """

    name = "pr-sgd"
    clocks = ("step", "shared")
    options_class = PeriodOptions

    def __init__(self, options: PeriodOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self.clock.rounds.every("round", options.local_period)
