"""Parallel mini-batch SGD: the Horovod baseline, on the same path as every other method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lsgd_mpi.algorithms.base import Algorithm, Worker


class Allreduce(Algorithm):
    """Gradients averaged over all workers at every iteration, before the optimizer's step.

    It is ``horovod.torch.DistributedOptimizer``, which starts to average each gradient as soon as the
    backward pass has made it. *Communication of a worker*: one allreduce of 4 N bytes (N float32
    parameters) an iteration, in buckets that Horovod fuses. *Changes* the gradients. Nobody leads. All
    workers hold the same parameters, which are the evaluated variable.

    Gradients are on their way between ``backward()`` and ``step(loss)``: do not change (clip) them there.
    With three ranks or more the last bits can differ from run to run, with how Horovod fills its buckets.
    """

    pattern = "gradients"
    name = "allreduce"
    other_clocks = "averages the gradients of one and the same iteration of all workers"

    evaluated = "parameters"

    def __init__(self, options: Any, worker: Worker) -> None:
        names = {id(parameter): name for name, parameter in worker.model.named_parameters()}
        named = [
            (names[id(parameter)], parameter)
            for group in worker.optimizer.param_groups
            for parameter in group["params"]
        ]
        averaging = worker.communicator.gradient_averaging(worker.optimizer, named)
        super().__init__(options, replace(worker, optimizer=averaging))

    def before_update(self, loss: torch.Tensor | float) -> None:  # noqa: ARG002
        """Wait until all gradients are averaged."""
        with self.communicator.round(), self.communicator.averaging_gradients(self.parameters.nbytes):
            self.optimizer.synchronize()  # type: ignore[attr-defined]

    def update(self) -> None:
        """The optimizer's step with the averaged gradients."""
        with self.optimizer.skip_synchronize():  # type: ignore[attr-defined]
            self.optimizer.step()

    def close(self) -> None:
        """Stop averaging the model's gradients."""
        self.communicator.end_gradient_averaging(self.optimizer)

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The parameters, which are the same on all workers."""
        into.copy_(self.parameters.flat)
