"""Sums over some iterations of one rank: loss, error, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def loss_sum(self) -> float:
        """Sum of the mini-batches' losses."""
        return float(self._loss)

    @property
    def loss(self) -> float:
        """Mean loss of the mini-batches, of which there is at least one."""
        return self.loss_sum / self.steps

    @property
    def error_pct(self) -> float:
        """Share of wrong answers, in percent."""
        return 100.0 * float(self._wrong) / self.images
