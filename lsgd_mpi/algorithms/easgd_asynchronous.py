"""Elastic averaging SGD, asynchronous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lsgd_mpi.algorithms.base import Worker, option
from lsgd_mpi.algorithms.easgd import EASGDOptions
from lsgd_mpi.algorithms.visiting import VisitingAlgorithm
from lsgd_mpi.groups import Topology

BLOCKING, OVERLAPPED = "blocking", "overlapped"


@dataclass(frozen=True)
class AsynchronousEASGDOptions(EASGDOptions):
    """Options of asynchronous EASGD; α alone moves worker and center, β is p α."""

    exchange: str = option(
        BLOCKING,
        "",
        "on --clock own: wait for each exchange with the center, or let it go on in the background and apply "
        "what came back a period later",
        choices=(BLOCKING, OVERLAPPED),
    )

    def doubts(self, topology: Topology) -> list[str]:  # noqa: ARG002
        """A rate at which an exchange drives worker and center apart."""
        alpha = self.worker_moving_rate or 0.0
        if alpha <= 1.0:
            return []
        return [f"EASGD is unstable at α = {alpha:g}: alone, a worker and the center need α ≤ 1"]


class AsynchronousEASGD(VisitingAlgorithm):
    """Asynchronous EASGD (Zhang, thesis, Algorithm 1): each worker and the center pull at each other, alone.

    | word | symbol | option, default |
    |---|---|---|
    | communication period | τ | ``local_period`` 16 |
    | moving rate | α, with β = p α | ``worker_moving_rate`` β/p, ``moving_rate`` 0.9 |

    *Exchange*, whenever τ divides the worker's own count t, 0 included, with x its parameters at that
    moment, in which the gradient is taken too: ``d = α (x − x̃)``, ``xⁱ ← xⁱ − d`` and ``x̃ ← x̃ + d``,
    which nobody interleaves with; then the worker's own step. With ``exchange="overlapped"`` (thesis,
    Section 2.2) the center's part is done in the background while the worker computes on, and its own when
    the next exchange is due. With ``evaluated="center-average"`` the mean of all centers after each visit
    (Chapter 3).

    *Communication of a worker*: 2 P an exchange (P the bytes of the flat parameters), there and back.
    *Changes* the parameters, never the optimizer's state. *Keeps* two parts of 1 MB; overlapped also two
    buffers of the parameters' size; for the center's average one.

    *Departure*: as in `EASGD` the elastic move is made before the optimizer's step.
    """

    name = "easgd"
    options_class = AsynchronousEASGDOptions

    def __init__(self, options: AsynchronousEASGDOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self.clock.rounds.every("round", options.local_period, first=1)
        #: What the exchange starts from.
        self._position = self.parameters.flat
        # Overlapped: what the worker is to move by when the next exchange is due, and the wait for it.
        overlapped = options.exchange == OVERLAPPED
        self._difference = torch.zeros_like(self.parameters.flat) if overlapped else None
        self._under_way: Callable[[], int] | None = None

    def before_update(self, loss: torch.Tensor | float) -> None:  # noqa: ARG002
        """Make the exchange that is due: the gradient was taken at the point that it starts from."""
        if "round" not in self.clock.due_rounds:
            return
        if self._difference is None:
            self._position = self._take_position()
            self._exchange()
            return
        self.parameters.check()
        with self.communicator.round():
            self._apply()
            self._position = self._take_position()
            self._under_way = self.center.start_exchange(self._move)

    def finish(self) -> None:
        """Apply what is still under way."""
        self._apply()

    def _take_position(self) -> torch.Tensor:
        """Where the worker stands: a copy if the exchange goes on while it moves."""
        return self.parameters.flat if self._difference is None else self.parameters.flat.clone()

    def _move(self, visit: int, part: slice, *vectors: torch.Tensor) -> None:
        (center,) = vectors
        d = torch.sub(self._position[part], center).mul_(self.options.worker_moving_rate)
        center.add_(d)
        if self._difference is None:
            self.parameters.flat[part].sub_(d)
        else:
            self._difference[part].copy_(d)
        self._note(visit, part, d)

    def settle(self) -> None:
        """Let an exchange under way reach the center."""
        if self._under_way is not None:
            self._visited(self._under_way())
            self._under_way = None

    def _apply(self) -> None:
        """Let the exchange under way end, and move by what came back of it."""
        self.settle()
        if self._difference is not None:
            self.parameters.flat.sub_(self._difference)
            self._difference.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The center's, and what the worker is still to move by."""
        self.settle()
        difference = None if self._difference is None else self._difference.clone()
        return {**super().state_dict(), "difference": difference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Collective."""
        super().load_state_dict(state)
        if self._difference is not None:
            self._difference.zero_()
            if state["difference"] is not None:
                self._difference.copy_(state["difference"])
