"""What the synchronous methods with a center variable share: EASGD and DOWNPOUR.

The center has no server: every worker holds a copy, and the same average moves every copy alike.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Algorithm, PeriodOptions, Worker, option
from lsgd_mpi.algorithms.running_average import RunningAverage

CENTER = "center"
CENTER_AVERAGE = "center-average"


@dataclass(frozen=True)
class CenterOptions(PeriodOptions):
    """Options of every method with a center."""

    evaluated: str = option(
        CENTER,
        "",
        "what is tested: the center, or its average over all rounds (double averaging)",
        choices=(CENTER, CENTER_AVERAGE),
    )


class CenterAlgorithm(Algorithm):
    """A method whose workers gather around a center ``x̃``, with one average over the world a round.

    The center begins as world rank 0's parameters, or as the mean of the workers where they do not start
    equal. *Keeps* two buffers of the parameters' size: the center, and one for the average on its way.
    """

    pattern = "average"
    clocks = ("step", "shared")
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0}
    #: The iteration of the first round.
    first_round: ClassVar[int | None] = None

    def __init__(self, options: CenterOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self.clock.rounds.every("round", options.local_period, first=self.first_round)
        self.center = self.parameters.flat.clone()
        if not worker.equal_start:
            self.communicator.average(self.center, "global")
        self._mean = torch.empty_like(self.center)
        self._over_time = RunningAverage(self.center) if options.evaluated == CENTER_AVERAGE else None

    @property
    def evaluated(self) -> str:
        """The center or its average over time, as the options say."""
        return str(self.options.evaluated)

    @abstractmethod
    def _exchange(self) -> None:
        """Move the center and the workers, with one `_mean_of`."""

    def _hold_round(self) -> None:
        """The round, if one is due: collective over the world."""
        if "round" not in self.clock.due_rounds:
            return
        self.parameters.check()
        with self.communicator.round():
            self._exchange()
        if self._over_time is not None:
            self._over_time.push(self.center)

    def _mean_of(self, position: torch.Tensor) -> torch.Tensor:
        """The mean over the workers of each one's ``position``, in a buffer of its own."""
        if position is not self._mean:
            self._mean.copy_(position)
        self.communicator.average(self._mean, "global")
        return self._mean

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The center, or its average over time; no communication."""
        into.copy_(self.center if self._over_time is None else self._over_time.value)

    def state_dict(self) -> dict[str, Any]:
        """The center, and its average over time."""
        over_time = None if self._over_time is None else self._over_time.state_dict()
        return {**super().state_dict(), "center": self.center.clone(), "over_time": over_time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.center.copy_(state["center"])
        if self._over_time is not None:
            # A run that kept none has its average from here on.
            self._over_time = RunningAverage(self.center)
            if state["over_time"] is not None:
                self._over_time.load_state_dict(state["over_time"])
