"""Sums over some iterations of one rank: loss, error, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lsgd_mpi.comm import Traffic


@dataclass
class Meter:
    """Sums over some iterations of one rank: loss and error of its mini-batches, and where the time went.

    ``compute_s`` is what is left of the time in an iteration after data, transfers and waiting. Losses stay
    on their device until they are read.
    """

    steps: int = 0
    images: int = 0
    data_s: float = 0.0
    compute_s: float = 0.0
    comm_s: float = 0.0
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        self._loss: torch.Tensor | float = 0.0
        self._wrong: torch.Tensor | float = 0.0

    def add(self, loss: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count one mini-batch."""
        self._loss = self._loss + loss.detach()
        self._wrong = self._wrong + (output.detach().argmax(dim=1) != target).sum()
        self.steps += 1
        self.images += len(target)

    def add_times(self, data_s: float, step_s: float, before: Traffic, after: Traffic) -> None:
        """Count the seconds of one iteration, of which some passed in communication."""
        comm_s, wait_s = after.comm_s - before.comm_s, after.wait_s - before.wait_s
        self.data_s += data_s
        self.comm_s += comm_s
        self.wait_s += wait_s
        self.compute_s += step_s - comm_s - wait_s

    def sums(self) -> torch.Tensor:
        """Sum of the losses and number of wrong answers, float64, shape ``(2,)``, on their device."""
        return torch.stack([torch.as_tensor(each).double() for each in (self._loss, self._wrong)])

    @property
    def loss_sum(self) -> float:
        """Sum of the mini-batches' losses."""
        return float(self._loss)

    @property
    def loss(self) -> float:
        """Mean loss of the mini-batches, of which there is at least one."""
        return self.loss_sum / self.steps


class Reading:
    """A meter's loss and error on their way from the device, for which nobody waits."""

    def __init__(self, meter: Meter) -> None:
        self._steps, self._images = meter.steps, meter.images
        sums = meter.sums()
        self._arrived: Any = None
        if sums.is_cuda:
            self._sums = torch.empty(2, dtype=torch.float64, pin_memory=True).copy_(sums, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._sums = sums

    @property
    def is_here(self) -> bool:
        """Whether `loss` and `error_pct` can be read without waiting."""
        return self._arrived is None or bool(self._arrived.query())

    @property
    def loss(self) -> float:
        """Mean loss of the mini-batches; waits for the device."""
        return float(self._here()[0]) / self._steps

    @property
    def error_pct(self) -> float:
        """Share of wrong answers, in percent; waits for the device."""
        return 100.0 * float(self._here()[1]) / self._images

    def _here(self) -> torch.Tensor:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._sums
