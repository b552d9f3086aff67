"""Elastic averaging SGD with momentum in the workers, synchronous."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.easgd import EASGD
from lsgd_mpi.errors import UsageError
from lsgd_mpi.flat import FlatTensors


class EAMSGD(EASGD):
    """EASGD with Nesterov or heavy-ball momentum in each worker (thesis, Equation 2.5 and Algorithm 2).

    Worker: ``v ← δ v − η g(x + δ v)`` and ``x ← x + v`` with Nesterov's momentum, ``g(x)`` with the heavy
    ball; the center has none. The worker's optimizer is `torch.optim.SGD` with ``momentum`` δ, and with
    ``nesterov`` or without. Options, rounds and communication are those of `EASGD`.

    *Changes* the parameters. With Nesterov's momentum torch's parameters are the point ``y = x + δ v`` where
    the gradient is taken; the elastic force is taken at ``x = y − δ v``, as the paper has it, and moves both.
    ``easgd`` over the same optimizer takes it at ``y``. torch keeps ``−v/η``, so that a new learning rate
    scales the velocity too. With δ = 0 this is `EASGD`.
    """

    name = "eamsgd"
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.9, "nesterov": True}

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` unless it is torch's SGD without dampening."""
        check_momentum_sgd(cls.name, optimizer)

    def _exchange(self) -> None:
        y, x, alpha = self.parameters.flat, self._mean, self.options.worker_moving_rate
        x.copy_(y)
        subtract_lookahead(x, self.parameters, self.optimizer)
        y.add_(x, alpha=-alpha).add_(self.center, alpha=alpha)
        self.center.lerp_(self._mean_of(x), self.options.moving_rate)


def check_momentum_sgd(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Raise `UsageError` unless the optimizer is torch's SGD without dampening."""
    if not isinstance(optimizer, torch.optim.SGD):
        raise UsageError(
            f"{name} knows the velocity of torch.optim.SGD, not of {type(optimizer).__name__}; easgd takes "
            "any optimizer"
        )
    if any(group["dampening"] for group in optimizer.param_groups):
        raise UsageError(f"{name}'s momentum has no dampening (thesis, Equation 2.5)")


def has_lookahead(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the parameters are where Nesterov's gradient is taken, ahead of the worker."""
    return isinstance(optimizer, torch.optim.SGD) and any(
        group["nesterov"] for group in optimizer.param_groups
    )


def subtract_lookahead(flat: torch.Tensor, parameters: FlatTensors, optimizer: torch.optim.Optimizer) -> None:
    """``flat ← flat − δ v``, from where torch's SGD takes Nesterov's gradient to where the worker is."""
    views = {
        id(tensor): view for (_, tensor), view in zip(parameters.named, parameters.views(flat), strict=True)
    }
    for group in optimizer.param_groups:
        if not group["nesterov"]:
            continue
        for parameter in group["params"]:
            # torch's buffer is −v/η; there is none before the first step.
            buffer = optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None and id(parameter) in views:
                views[id(parameter)].add_(buffer, alpha=group["momentum"] * group["lr"])
