"""Averages over time, of a center or of one worker's parameters."""

from __future__ import annotations

from typing import Any

import torch


class RunningAverage:
    """``z ← (1 − a_t) z + a_t x``, with a constant ``weight`` a or, without one, ``a_t = 1/(t+1)``.

    Without a weight z is the plain mean of z_0 and of every x since (thesis, Chapter 4: ADOWNPOUR and ASGD;
    with one: MVADOWNPOUR and MVASGD). ``t`` counts the values from 1.
    """

    def __init__(self, start: torch.Tensor, weight: float | None = None) -> None:
        self.value = start.clone()
        self._weight = weight
        self._count = 0

    def push(self, value: torch.Tensor) -> None:
        """Take one more value in, shape and dtype of the start."""
        self._count += 1
        self.value.lerp_(value, 1.0 / (self._count + 1) if self._weight is None else self._weight)

    def state_dict(self) -> dict[str, Any]:
        """The average and how many values it holds."""
        return {"value": self.value.clone(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.value.copy_(state["value"])
        self._count = state["count"]
