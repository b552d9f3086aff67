"""DOWNPOUR, synchronous."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lsgd_mpi.algorithms.base import momentum_of
from lsgd_mpi.algorithms.center import CenterAlgorithm, CenterOptions
from lsgd_mpi.errors import UsageError
from lsgd_mpi.leaders import Round


class Downpour(CenterAlgorithm):
    """Workers give all that they have learnt in a period to the center, and go on from there.

    DOWNPOUR (thesis, Algorithm 3) with all workers in step; the period τ is ``local_period`` (16). *Round*,
    every τ iterations: ``x̃ ← x̃ + Σ vⁱ``, ``xⁱ ← x̃``, ``vⁱ ← 0``, where vⁱ is the sum of the worker's updates
    since the last round. As all workers left from x̃ then, ``vⁱ = xⁱ − x̃`` and the sum is p times the mean.

    *Communication of a worker*: P a round (the bytes of the flat parameters), one allreduce. *Changes* the
    parameters; the optimizer has no momentum, which the paper excludes. *Keeps* the buffers of
    `CenterAlgorithm`. The workers add up: the learning rate that one worker bears is divided by p here.
    """

    name = "downpour"
    options_class = CenterOptions

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` for momentum."""
        refuse_momentum(cls.name, optimizer)

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Hold the round that is due."""
        self._hold_round()
        return iter(())

    def _exchange(self) -> None:
        workers = self.communicator.topology.world_size
        self.center.lerp_(self._mean_of(self.parameters.flat), workers)
        self.parameters.flat.copy_(self.center)


def refuse_momentum(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Raise `UsageError` for momentum in the workers."""
    if momentum_of(optimizer):
        raise UsageError(
            f"{name} has no momentum in its workers (thesis, Algorithm 3): each would add its own velocity "
            "to the center; use --optimizer sgd --momentum 0, or eamsgd"
        )
