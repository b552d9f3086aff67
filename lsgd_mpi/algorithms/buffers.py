"""A model's buffers (batch-norm statistics) in a local round; no method exchanges them by itself."""

from __future__ import annotations

import logging

import torch

from lsgd_mpi.algorithms.base import Communicator
from lsgd_mpi.flat import FlatTensors
from lsgd_mpi.leaders import Leader

_log = logging.getLogger("lsgd_mpi")

MODES = ("local", "average", "leader")


class BufferExchange:
    """What happens to a model's buffers when a group has elected its leader.

    ``local``: nothing. ``average``: floating-point buffers become their mean over the group, counters
    their maximum (a mean of counts is not a count). ``leader``: all become the leader's. Boolean and complex
    buffers are left alone.
    """

    def __init__(self, mode: str, model: torch.nn.Module, communicator: Communicator) -> None:
        self._mode = mode
        self._communicator = communicator
        buffers = [] if mode == "local" else [(name, each) for name, each in model.named_buffers()]
        floating = [(name, each) for name, each in buffers if each.is_floating_point()]
        self._counters = [
            each
            for _, each in buffers
            if not each.is_floating_point() and not each.is_complex() and each.dtype != torch.bool
        ]
        self._floating = FlatTensors(floating) if floating else None
        if mode != "local" and not buffers and communicator.world_rank == 0:
            _log.warning(f"--bn {mode} has no effect: the model has no buffers")

    def exchange(self, leader: Leader) -> None:
        """Do it: collective over the group."""
        if self._floating is not None:
            self._floating.check()
            if self._mode == "average":
                self._communicator.average(self._floating.flat, "local")
            else:
                self._communicator.broadcast(self._floating.flat, leader.world_rank, "local")
        if self._counters:
            counts = torch.cat([each.reshape(-1).to(torch.int64) for each in self._counters])
            if self._mode == "average":
                self._communicator.maximum(counts, "local")
            else:
                self._communicator.broadcast(counts, leader.world_rank, "local")
            start = 0
            for each in self._counters:
                each.copy_(counts[start : start + each.numel()].reshape(each.shape))
                start += each.numel()
