"""Stochastic gradient descent with Nesterov's momentum, one worker."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.sequential import Sequential
from lsgd_mpi.errors import UsageError


class MSGD(Sequential):
    """The sequential baseline with momentum (thesis, Section 4.1): torch's Nesterov SGD.

    ``v ← δ v − η g(x + δ v)``, ``x ← x + v``; torch's parameters are ``x + δ v``, and are evaluated.
    *Communication*: none. *Changes* the parameters by the optimizer alone.
    """

    name = "msgd"
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.9, "nesterov": True}

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` unless it is torch's SGD with Nesterov's momentum."""
        if not isinstance(optimizer, torch.optim.SGD) or not all(
            group["nesterov"] for group in optimizer.param_groups
        ):
            raise UsageError(
                "msgd is SGD with Nesterov's momentum: use --optimizer sgd --nesterov --momentum 0.9"
            )
