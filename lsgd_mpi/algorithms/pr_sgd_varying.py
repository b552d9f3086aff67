"""Parallel restarted SGD with time-varying periods and learning rates."""

from __future__ import annotations

from typing import Any

import torch

from lsgd_mpi.algorithms.base import Worker
from lsgd_mpi.algorithms.pr_sgd import AveragingAlgorithm


class PRSGDVarying(AveragingAlgorithm):
    """Parallel restarted SGD whose periods grow while its learning rate falls (AAAI 2019, Algorithm 2).

    Epoch s = 1, 2, … has ``K^s = ⌈s^⅓ / p⌉`` iterations with learning rate ``γ^s = γ p / s^⅔``, for p
    workers, and ends with a *round*: ``xⁱ ← mean xⁱ``. γ is the learning rate that the optimizer has when
    it is handed over (the paper's is 1); the method sets the rate of every group from then on.

    *Communication of a worker*: P an epoch (the bytes of the flat parameters), one allreduce in place.
    *Changes* the parameters and the optimizer's learning rates. *Keeps* no buffer.
    """

    name = "pr-sgd-varying"
    #: Its periods grow.
    pattern = None
    other_clocks = "is synchronous: its periods are iterations that all workers make (Algorithm 2)"
    sets_learning_rate = True

    def __init__(self, options: Any, worker: Worker) -> None:
        super().__init__(options, worker)
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._epoch = self._epoch_end = 0
        self._begin_epoch()

    def before_update(self, loss: torch.Tensor | float) -> None:  # noqa: ARG002
        """Set the epoch's learning rate."""
        factor = self.communicator.topology.world_size / self._epoch ** (2 / 3)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _average(self) -> None:
        super()._average()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self._epoch_end += epoch_length(self._epoch, self.communicator.topology.world_size)
        self.clock.rounds.at("round", self._epoch_end)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, its end, and γ."""
        return {
            **super().state_dict(),
            "epoch": self._epoch,
            "epoch_end": self._epoch_end,
            "base_rates": list(self._base_rates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._epoch, self._epoch_end = state["epoch"], state["epoch_end"]
        self.clock.rounds.at("round", self._epoch_end)
        self._base_rates = list(state["base_rates"])


def epoch_length(epoch: int, workers: int) -> int:
    """``⌈s^⅓ / p⌉`` iterations, exactly: the least k with (k p)³ ≥ s."""
    length = max(1, int(epoch ** (1 / 3)) // workers)
    while (length * workers) ** 3 < epoch:
        length += 1
    return length
