"""Leader SGD, single-leader and multi-leader, in step or on the shared clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lsgd_mpi.algorithms.base import Algorithm, Options, Worker, check_period, check_pull, option
from lsgd_mpi.algorithms.buffers import MODES, BufferExchange
from lsgd_mpi.errors import NumericalError, UsageError
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import LARGEST_WINDOW, Leader, LossWindow, Round, Scope

_LOCAL, _GLOBAL = "local round", "global round"


@dataclass(frozen=True)
class LSGDOptions(Options):
    """Options of leader SGD; ``None`` means: derived from the groups."""

    local_period: int = option(16, "τ", "iterations between two local rounds")
    global_period: int | None = option(
        None, "τ_G", "iterations between two global rounds (default: 4 local periods, with several groups)"
    )
    local_pull: float = option(0.1, "λ", "pull to the local leader, 0 to 1")
    global_pull: float | None = option(
        None, "λ_G", "pull to the global leader, 0 to 1 (default: the local pull, with several groups)"
    )
    loss_window: int = option(10, "W", "mini-batches whose mean training loss a worker offers in an election")
    pull: str = option(
        "once",
        "",
        "pull once after each election, or at every step towards the stored leaders (Equation 3 as printed)",
        choices=("once", "every-step"),
    )
    bn: str = option("local", "", "batch-norm statistics in a local round", choices=MODES)

    def check(self) -> None:
        """Raise `UsageError` for periods below 1, pulls outside [0, 1], an empty loss window."""
        super().check()
        check_period("local_period", self.local_period)
        check_pull("local_pull", self.local_pull)
        if self.global_period is not None:
            check_period("global_period", self.global_period)
        if self.global_pull is not None:
            check_pull("global_pull", self.global_pull)
        window = self.loss_window
        if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= LARGEST_WINDOW:
            raise UsageError(f"--loss-window {window}: the window holds 1 to {LARGEST_WINDOW} mini-batches")

    def useless(self, topology: Topology) -> list[str]:
        """Global options without a second group."""
        if len(topology.groups) > 1:
            return []
        given = [("--global-period", self.global_period), ("--global-pull", self.global_pull)]
        return [
            f"{name} {value}: there is only one group ({topology.describe()}), so no global round; "
            "leave it out or make more groups (--groups)"
            for name, value in given
            if value not in (None, 0.0)
        ]

    def resolved(self, topology: Topology) -> LSGDOptions:
        """With a global period and pull if there are several groups, and none otherwise."""
        if len(topology.groups) == 1:
            return replace(self, global_period=None, global_pull=None)
        return replace(
            self,
            global_period=self.global_period or 4 * self.local_period,
            global_pull=self.local_pull if self.global_pull is None else self.global_pull,
        )

    def doubts(self, topology: Topology) -> list[str]:
        """A group across nodes that have ranks enough for groups of their own: its local rounds cost most."""
        hosts = topology.hosts
        for group, members in enumerate(topology.groups):
            nodes = {hosts[rank] for rank in members}
            if len(nodes) > 1 and len(set(hosts)) < len(hosts):
                return [
                    f"group {group} has ranks on {len(nodes)} nodes, whose link each of its local rounds "
                    "crosses: --groups node makes a group of the ranks of each node"
                ]
        return []


class LSGD(Algorithm):
    """Leader SGD (Teng et al., NeurIPS 2019): every worker is pulled towards the best of its group.

    | word | symbol | option, default |
    |---|---|---|
    | local, global communication period | τ, τ_G | ``local_period`` 16, ``global_period`` 4 τ |
    | pull to the local, global leader | λ, λ_G | ``local_pull`` 0.1, ``global_pull`` λ |
    | loss window | W | ``loss_window`` 10 |

    *Local round*, every τ iterations, in each group: the worker with the lowest mean training loss over
    its last W mini-batches leads (MINLOC, ties to the lowest world rank); it broadcasts its parameters x̃
    and every other worker does ``x ← x − λ (x − x̃)``. *Global round*, every τ_G iterations, after the
    local round where both fall together: the leaders elected at that moment elect the best of them, which
    pulls every other worker with λ_G. If no worker of a group has a finite loss nobody leads and the run
    ends with `NumericalError`.

    *Communication of a worker*, with P the bytes of the flat parameters (4 N for N float32 parameters, each
    tensor padded to 16 bytes): an election (16 bytes) in its group whenever a round is due; P a local
    round; another election and P a global round. Nothing is broadcast for a pull of 0, nor in a group of one.

    *Changes* the parameters; with ``bn`` other than ``local`` also the model's buffers; never the
    optimizer's state. *Keeps* one buffer of the parameters' size; with ``pull="every-step"`` one a scope.

    *Departures from the paper*: Equation 3 is run as ``pull="every-step"``, with the leaders' parameters as
    they were when elected, and no pull before the first election. Its pull is applied before the
    optimizer's step (the gradient stays the one at the old point), so that weight decay, where the
    optimizer has any, is taken at the pulled point.
    """

    pattern = "pull"
    name = "lsgd"
    clocks = ("step", "shared")
    other_clocks = "elects a leader among workers that meet, none can go to a round alone"
    options_class = LSGDOptions

    elects_leaders = True
    evaluated = "average"

    def __init__(self, options: LSGDOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self.clock.rounds.every(_LOCAL, options.local_period)
        if options.global_period is not None:
            self.clock.rounds.every(_GLOBAL, options.global_period)
        self._pulls: dict[Scope, float] = {"local": options.local_pull, "global": options.global_pull or 0.0}
        self._window = LossWindow(options.loss_window)
        self._buffers = BufferExchange(options.bn, worker.model, worker.communicator)
        self._rounds: dict[Scope, int] = {"local": 0, "global": 0}
        self._last_leader: dict[Scope, int | None] = {"local": None, "global": None}
        # Parameters as received: of the last leader ("once"), or of each scope's leader ("every-step").
        self._received: dict[Scope, torch.Tensor] = {}

    def before_update(self, loss: torch.Tensor | float) -> None:
        """Remember the loss; with ``pull="every-step"`` pull towards the stored leaders."""
        self._window.push(loss)
        if self.options.pull == "every-step" and self._received:
            x = self.parameters.flat
            pulls = [(self._pulls[scope], leader) for scope, leader in self._received.items()]
            # x − λ (x − x̃ʲ) − λ_G (x − x̃), all at the old x.
            kept = 1.0 - sum(pull for pull, _ in pulls)
            # A pull onto the leader also heals what is not finite, which a product with zero would not.
            x.mul_(kept) if kept else x.zero_()
            for pull, leader in pulls:
                x.add_(leader, alpha=pull)

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Hold the rounds that are due, of a late worker all that lie before the next meeting."""
        while self.clock.due_rounds:
            yield from self._hold_rounds()
            if not self.clock.go_on():
                return

    def _hold_rounds(self) -> Iterator[Round]:
        self.parameters.check()
        local_leader = self.communicator.elect(self._window.mean())
        if not local_leader.is_valid:
            error = NumericalError(
                f"no worker of group {self.communicator.group} has a finite training loss at step "
                f"{self.clock.step}: training diverged; lower --lr"
            )
            error.reporter = local_leader.world_rank
            raise error
        if _LOCAL in self.clock.due_rounds:
            with self.communicator.round():
                self._follow(local_leader, "local")
                self._buffers.exchange(local_leader)
            yield self._round(local_leader, "local")
        if _GLOBAL in self.clock.due_rounds:
            with self.communicator.round():
                global_leader = self.communicator.elect_among_leaders(local_leader)
                self._follow(global_leader, "global")
            yield self._round(global_leader, "global")

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The average of the parameters of all workers."""
        into.copy_(self.parameters.flat)
        self.communicator.average(into, "global")

    def state_dict(self) -> dict[str, Any]:
        """Rounds, the loss window, who led last, and stored leaders (``every-step``)."""
        stored = self._received if self.options.pull == "every-step" else {}
        return {
            **super().state_dict(),
            "rounds": dict(self._rounds),
            "last_leader": dict(self._last_leader),
            "window": self._window.state_dict(),
            "stored_leaders": {scope: leader.clone() for scope, leader in stored.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._rounds = dict(state["rounds"])
        self._last_leader = dict(state["last_leader"])
        self._window.load_state_dict(state["window"])
        self._received = {scope: leader.clone() for scope, leader in state["stored_leaders"].items()}

    def _follow(self, leader: Leader, scope: Scope) -> None:
        pull = self._pulls[scope]
        if pull == 0.0:
            return
        x = self.parameters.flat
        leads = leader.world_rank == self.communicator.world_rank
        if self.options.pull == "every-step":
            stored = self._buffer(scope)
            if leads:
                stored.copy_(x)
            self.communicator.broadcast(stored, leader.world_rank, scope)
        elif leads:
            self.communicator.broadcast(x, leader.world_rank, scope)
        else:
            received = self._buffer("local")
            self.communicator.broadcast(received, leader.world_rank, scope)
            # x ← x − λ (x − x̃); a copy, for λ = 1, also heals what is not finite
            x.copy_(received) if pull == 1.0 else x.lerp_(received, pull)

    def _buffer(self, scope: Scope) -> torch.Tensor:
        if scope not in self._received:
            self._received[scope] = torch.empty_like(self.parameters.flat)
        return self._received[scope]

    def _round(self, leader: Leader, scope: Scope) -> Round:
        self._rounds[scope] += 1
        previous, self._last_leader[scope] = self._last_leader[scope], leader.world_rank
        return Round(
            number=self._rounds[scope],
            scope=scope,
            group=self.communicator.group if scope == "local" else None,
            step=self.clock.step,
            total_steps=self.clock.total_steps,
            elapsed_s=self.elapsed_s,
            leader=leader,
            previous_world_rank=previous,
        )
