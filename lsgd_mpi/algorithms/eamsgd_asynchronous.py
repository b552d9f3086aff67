"""Elastic averaging SGD with momentum in the workers, asynchronous."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.eamsgd import check_momentum_sgd, subtract_lookahead
from lsgd_mpi.algorithms.easgd_asynchronous import AsynchronousEASGD


class AsynchronousEAMSGD(AsynchronousEASGD):
    """`AsynchronousEASGD` with Nesterov or heavy-ball momentum in each worker (thesis, Algorithm 2).

    Worker: ``v ← δ v − η g(x + δ v)`` and ``x ← x + v`` with Nesterov's momentum, ``g(x)`` with the heavy
    ball, by `torch.optim.SGD`; the center has none. The elastic difference is taken at x, and moves torch's
    ``x + δ v`` as much. Options and communication are those of `AsynchronousEASGD`. *Keeps* one buffer of
    the parameters' size more. With δ = 0 it is `AsynchronousEASGD`.
    """

    name = "eamsgd"
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.9, "nesterov": True}

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` unless it is torch's SGD without dampening."""
        check_momentum_sgd(cls.name, optimizer)

    def _take_position(self) -> torch.Tensor:
        position = self.parameters.flat.clone()
        subtract_lookahead(position, self.parameters, self.optimizer)
        return position
