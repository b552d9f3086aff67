"""DOWNPOUR with momentum in its center, asynchronous."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import Options, Worker, momentum_of
from lsgd_mpi.algorithms.center import CENTER
from lsgd_mpi.algorithms.eamsgd import check_momentum_sgd
from lsgd_mpi.algorithms.visiting import VisitingAlgorithm
from lsgd_mpi.errors import UsageError


class MDownpour(VisitingAlgorithm):
    """Workers send gradients to a center with Nesterov's momentum (thesis, Algorithms 4 and 5).

    *Exchange*, in every iteration, atomic: with the worker's gradient g at the point ``xⁱ`` that it got in
    its last one, ``v ← δ v − η g``, ``x̃ ← x̃ + v``, ``xⁱ ← x̃ + δ v``. There is no period. With one worker
    it is MSGD.

    η, δ and weight decay are those of the worker's optimizer, `torch.optim.SGD` with ``nesterov`` (or without
    momentum), whose own step is not made: the center's takes its place.

    *Communication of a worker*: 4 P an exchange (P the bytes of the flat parameters): x̃ and v, there and
    back. *Changes* the parameters. *Keeps* one buffer of the parameters' size, and two parts of 2 MB.
    """

    name = "mdownpour"
    #: Two vectors, every iteration.
    pattern = None
    other_clocks = "is asynchronous: each gradient goes to the center by itself"
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.9, "nesterov": True}
    evaluated = CENTER

    def __init__(self, options: Options, worker: Worker) -> None:
        super().__init__(options, worker, velocity=True)
        if not worker.equal_start:
            self.center.read([self.parameters.flat])
        self._scaled_gradient = torch.zeros_like(self.parameters.flat)
        self._gradient_views = {
            id(tensor): view
            for (_, tensor), view in zip(
                self.parameters.named, self.parameters.views(self._scaled_gradient), strict=True
            )
        }
        self._momentum = 0.0

    @classmethod
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` unless it is torch's SGD with one Nesterov momentum, or without any."""
        check_momentum_sgd(cls.name, optimizer)
        if any(group["momentum"] and not group["nesterov"] for group in optimizer.param_groups):
            raise UsageError("mdownpour's momentum is Nesterov's (thesis, Algorithm 5): use --nesterov")
        if len({group["momentum"] for group in optimizer.param_groups}) > 1:
            raise UsageError("mdownpour's center has one momentum: give all parameter groups the same")
        if any(group["maximize"] for group in optimizer.param_groups):
            raise UsageError("mdownpour minimises: leave maximize out")

    def update(self) -> None:
        """Let the center make the step."""
        self._scale_gradients()
        self._momentum = momentum_of(self.optimizer)
        self._exchange()

    def _scale_gradients(self) -> None:
        """``η (g + weight decay · x)`` of each parameter; 0 without a gradient."""
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    view = self._gradient_views.get(id(parameter))
                    if view is None:
                        continue
                    if parameter.grad is None:
                        view.zero_()
                        continue
                    view.copy_(parameter.grad).add_(parameter, alpha=group["weight_decay"])
                    view.mul_(group["lr"])

    def _move(self, visit: int, part: slice, *vectors: torch.Tensor) -> None:  # noqa: ARG002
        center, v = vectors
        v.mul_(self._momentum).sub_(self._scaled_gradient[part])
        center.add_(v)
        torch.add(center, v, alpha=self._momentum, out=self.parameters.flat[part])
