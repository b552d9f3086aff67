"""What the sequential baselines share: one worker, no communication."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Algorithm, Options, Worker, momentum_of
from lsgd_mpi.algorithms.running_average import RunningAverage
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Round


@dataclass(frozen=True)
class SequentialOptions(Options):
    """No options but that there is one worker."""

    def resolved(self, topology: Topology) -> Options:
        """The same. Raises `UsageError` on several ranks."""
        if topology.world_size > 1:
            raise UsageError(
                f"sgd, msgd, asgd and mvasgd are sequential: start them on one rank, not "
                f"{topology.world_size}; allreduce, pr-sgd or lsgd use them all"
            )
        return self


class Sequential(Algorithm):
    """The worker's own optimizer and nothing else; the parameters are evaluated."""

    other_clocks = "is one worker's, who has nobody to wait for"
    options_class = SequentialOptions
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0}

    @property
    def evaluated(self) -> str:
        """The parameters themselves."""
        return "parameters"

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` for momentum in SGD, whose baseline is msgd."""
        if isinstance(optimizer, torch.optim.SGD) and momentum_of(optimizer):
            raise UsageError(f"{cls.name} has no momentum: use --momentum 0, or msgd")

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The parameters."""
        into.copy_(self.parameters.flat)


class AveragedSequential(Sequential):
    """A sequential method that evaluates a running average z of its parameters.

    *Keeps* one buffer of the parameters' size.
    """

    def __init__(self, options: Options, worker: Worker) -> None:
        super().__init__(options, worker)
        self._over_time = RunningAverage(self.parameters.flat, self._weight())

    def _weight(self) -> float | None:
        """The constant weight of the newest parameters, or none for 1/(t+1)."""
        return None

    @property
    def evaluated(self) -> str:
        """The running average."""
        return "time-average"

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:
        """Take the new parameters into the average."""
        self._over_time.push(self.parameters.flat)
        return super().after_update(loss)

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The running average."""
        into.copy_(self._over_time.value)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {**super().state_dict(), "over_time": self._over_time.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._over_time.load_state_dict(state["over_time"])
