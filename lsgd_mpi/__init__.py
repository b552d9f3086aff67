"""Train PyTorch models on many MPI ranks that talk rarely: leader SGD and its relatives.

    lsgd_mpi.init(groups="node")
    optimizer = lsgd_mpi.DistributedOptimizer(torch_optimizer, model, algorithm="lsgd", local_period=16)
    ...
    optimizer.step(loss)

The names below are loaded when first used: ``import lsgd_mpi`` alone starts neither MPI nor torch, so that
tools which only read a run directory stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lsgd_mpi.lars import LARS
    from lsgd_mpi.optimizer import DistributedOptimizer
    from lsgd_mpi.runtime import (
        group_rank,
        init,
        is_initialized,
        local_rank,
        rank,
        shutdown,
        size,
        topology,
    )

_HOMES = {
    "LARS": "lsgd_mpi.lars",
    "DistributedOptimizer": "lsgd_mpi.optimizer",
    **dict.fromkeys(
        ["group_rank", "init", "is_initialized", "local_rank", "rank", "shutdown", "size", "topology"],
        "lsgd_mpi.runtime",
    ),
}

__all__ = [
    "LARS",
    "DistributedOptimizer",
    "group_rank",
    "init",
    "is_initialized",
    "local_rank",
    "rank",
    "shutdown",
    "size",
    "topology",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lsgd_mpi' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
