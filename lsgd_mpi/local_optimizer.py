"""The optimizer that each worker runs by itself, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lsgd_mpi.config import TrainOptions
from lsgd_mpi.lars import LARS


def make_local_optimizer(
    parameters: Iterable[torch.nn.Parameter], options: TrainOptions
) -> torch.optim.Optimizer:
    """The optimizer that ``options`` describe, over ``parameters``."""
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    momentum = options.momentum or 0.0
    if options.optimizer == "lars":
        return LARS(parameters, momentum=momentum, **common)
    return torch.optim.SGD(parameters, momentum=momentum, nesterov=bool(options.nesterov), **common)
