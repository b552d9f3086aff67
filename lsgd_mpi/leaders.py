"""Who leads: the loss that a worker offers and the rule of the election, without MPI."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from lsgd_mpi.errors import UsageError

#: Mini-batches that a loss window holds at most.
LARGEST_WINDOW = 1_000_000

#: "local": among the members of one group; "global": among the leaders of all groups.
Scope = Literal["local", "global"]


@dataclass(frozen=True, order=True)
class Leader:
    """An offer in an election, and its winner: ordered by loss, ties by world rank."""

    loss: float
    world_rank: int

    @property
    def is_valid(self) -> bool:
        """Whether anybody leads: false when every offer of the election was +infinity."""
        return math.isfinite(self.loss)


@dataclass(frozen=True)
class Round:
    """One round of communication that elected a leader.

    ``number`` counts the rounds of one scope from 1; ``group`` is None in a global round; ``step`` is the
    worker's own iteration count; ``elapsed_s`` counts seconds from the optimizer's construction;
    ``previous_world_rank`` led the round before in the same scope and group, None in the first.
    """

    number: int
    scope: Scope
    group: int | None
    step: int
    total_steps: int
    elapsed_s: float
    leader: Leader
    previous_world_rank: int | None

    @property
    def switched(self) -> bool:
        """Whether the lead changed hands."""
        return self.previous_world_rank not in (None, self.leader.world_rank)


def offered_loss(loss: float) -> float:
    """The loss as it takes part in an election: anything that is not finite counts as +infinity."""
    return loss if math.isfinite(loss) else math.inf


def elect(offers: Iterable[Leader]) -> Leader:
    """The election's rule: lowest loss, ties to the lowest world rank, non-finite losses last.

    What the MINLOC allreduce of `lsgd_mpi.comm` computes, for one process.
    """
    return min(Leader(offered_loss(offer.loss), offer.world_rank) for offer in offers)


class LossWindow:
    """The mean of a worker's training loss over its last ``size`` mini-batches (fewer if fewer were seen).

    Losses stay on their device until `mean` is asked for, so that a step never waits for the GPU.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise UsageError(f"--loss-window {size}: the window holds at least one mini-batch")
        self._size = size
        self._losses: torch.Tensor | None = None
        self._seen = 0

    def push(self, loss: torch.Tensor | float) -> None:
        """Remember the loss of one mini-batch: a float or a tensor of one element, detached here."""
        value = torch.as_tensor(loss).detach()
        if self._losses is None:
            self._losses = torch.zeros(self._size, dtype=torch.float32, device=value.device)
        self._losses[self._seen % self._size] = value.reshape(())
        self._seen += 1

    def mean(self) -> float:
        """The mean, or +infinity if it is not finite or no loss was seen yet."""
        if self._losses is None:
            return math.inf
        return offered_loss(float(self._losses[: min(self._seen, self._size)].mean()))

    def state_dict(self) -> dict[str, object]:
        """The losses in the window and how many were ever seen."""
        return {"losses": None if self._losses is None else self._losses.clone(), "seen": self._seen}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict`; a window of another size is a `UsageError`."""
        losses, seen = state["losses"], state["seen"]
        if isinstance(losses, torch.Tensor) and losses.numel() != self._size:
            raise UsageError(
                f"the saved loss window has {losses.numel()} entries, --loss-window {self._size}"
            )
        self._losses = losses.clone() if isinstance(losses, torch.Tensor) else None
        self._seen = int(str(seen))
