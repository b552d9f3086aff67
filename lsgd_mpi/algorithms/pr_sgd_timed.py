"""Parallel restarted SGD for workers of different speed, in epochs of wall-clock time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lsgd_mpi.algorithms.base import Communicator, Options, Worker, flag, option
from lsgd_mpi.algorithms.pr_sgd import AveragingAlgorithm
from lsgd_mpi.clock import Clock, WallClock
from lsgd_mpi.errors import UsageError

#: The epochs after the first, which warms up, in which a worker must make more than one step.
_JUDGED_EPOCHS = 2


@dataclass(frozen=True)
class PRSGDTimedOptions(Options):
    """Options of PR-SGD in epochs of wall-clock time."""

    epoch_seconds: float = option(1.0, "", "seconds of an epoch, after which all workers average")

    def check(self) -> None:
        """Raise `UsageError` unless an epoch has a positive, finite length."""
        super().check()
        if not (self.epoch_seconds > 0 and math.isfinite(self.epoch_seconds)):
            raise UsageError(f"{flag('epoch_seconds')} {self.epoch_seconds}: a finite number above 0")


class PRSGDTimed(AveragingAlgorithm):
    """Parallel restarted SGD in heterogeneous networks (Yu, Yang, Zhu, AAAI 2019, Algorithm 3).

    An epoch lasts ``epoch_seconds`` (1), in which worker i makes ``I_i`` iterations, as many as it can and at
    least one; then all restart from their average, each with equal weight. With equal speeds it is `PRSGD`.

    *Communication of a worker*: P a round (the bytes of the flat parameters), one allreduce in place, and the
    8 bytes of `lsgd_mpi.clock.WallClock`. *Changes* the parameters, never the optimizer's state. *Keeps* no
    buffer. Raises `UsageError` on all workers when the epochs turn out to be shorter than anyone's step.
    """

    name = "pr-sgd-timed"
    clocks = ("wall",)
    #: Its rounds come by the wall's clock.
    pattern = None
    other_clocks = "has epochs of wall-clock time (--epoch-seconds); pr-sgd counts iterations"
    options_class = PRSGDTimedOptions

    def __init__(self, options: PRSGDTimedOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self._epochs = 0
        self._judged_from = 0

    @classmethod
    def make_clock(cls, name: str, options: Any, communicator: Communicator) -> Clock:  # noqa: ARG003
        """The clock ``wall``."""
        return WallClock(
            communicator.topology.world_size,
            options.epoch_seconds,
            lambda step: round(communicator.sum([step])[0]),
        )

    def _average(self) -> None:
        super()._average()
        self._epochs += 1
        if self._epochs == 1:
            self._judged_from = self.clock.total_steps
        if self._epochs == 1 + _JUDGED_EPOCHS:
            self._refuse_short_epochs()
        assert isinstance(self.clock, WallClock)
        self.clock.begin_epoch()

    def _refuse_short_epochs(self) -> None:
        # The same sums on all workers, so all decide alike.
        if self.clock.total_steps - self._judged_from == _JUDGED_EPOCHS * self.clock.workers:
            error = UsageError(
                f"{flag('epoch_seconds')} {self.options.epoch_seconds:g}: no worker makes more than one step "
                "in it; take longer epochs, or pr-sgd --local-period 1"
            )
            error.agreed = True
            raise error
