"""EASGD on a tree of workers, asynchronous."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from lsgd_mpi.algorithms.base import (
    Algorithm,
    Options,
    Worker,
    check_period,
    check_rate,
    flag,
    option,
)
from lsgd_mpi.algorithms.eamsgd import has_lookahead, subtract_lookahead
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Round
from lsgd_mpi.tree import Tree, make_tree

#: α (d + 1) of the thesis' experiments (Section 6.1.2).
_DEFAULT_RATE = 0.9

#: A node that does not train looks for letters that often.
_LOOK_EVERY_S = 0.001

_UP, _DOWN = "up", "down"
_SCHEMES = {"1": ("leaf_period", "upper_period"), "2": ("up_period", "down_period")}


@dataclass(frozen=True)
class EASGDTreeOptions(Options):
    """Options of EASGD Tree; ``None`` means: the thesis' value, in the scheme that has it."""

    degree: int = option(2, "d", "children of a node; the ranks must make a full tree")
    scheme: str = option(
        "1",
        "",
        "1: leaves and their parents exchange often, upper levels rarely; 2: all push up often, down rarely",
        choices=tuple(_SCHEMES),
    )
    leaf_period: int | None = option(
        None, "τ₁", "scheme 1: iterations between two exchanges of leaves and parents (default: 10)"
    )
    upper_period: int | None = option(
        None, "τ₂", "scheme 1: iterations between two exchanges of upper levels (default: 100)"
    )
    up_period: int | None = option(
        None, "τ_u", "scheme 2: iterations between two sends to the parent (default: 8)"
    )
    down_period: int | None = option(
        None, "τ_d", "scheme 2: iterations between two sends to the children (default: 80)"
    )
    worker_moving_rate: float | None = option(
        None, "α", "rate of a node towards a neighbour (default: 0.9/(d + 1))"
    )

    def check(self) -> None:
        """Raise `UsageError` for values that no tree can have, and for periods of the other scheme."""
        super().check()
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or self.degree < 1:
            raise UsageError(f"{flag('degree')} {self.degree}: a node has at least 1 child")
        for scheme, names in _SCHEMES.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and scheme != self.scheme:
                    raise UsageError(f"{flag(name)} {value} has no effect with --scheme {self.scheme}")
                if value is not None:
                    check_period(name, value)
        if self.worker_moving_rate is not None:
            check_rate("worker_moving_rate", self.worker_moving_rate)

    def resolved(self, topology: Topology) -> EASGDTreeOptions:
        """With the thesis' rate and periods. Raises `UsageError` if the ranks make no tree of this degree."""
        make_tree(topology, self.degree)
        defaults = {"leaf_period": 10, "upper_period": 100, "up_period": 8, "down_period": 80}
        periods: dict[str, Any] = {
            name: getattr(self, name) or defaults[name] for name in _SCHEMES[self.scheme]
        }
        rate = self.worker_moving_rate
        if rate is None:
            rate = _DEFAULT_RATE / (self.degree + 1)
        return replace(self, worker_moving_rate=rate, **periods)

    def doubts(self, topology: Topology) -> list[str]:
        """Leaves of one parent in several groups."""
        return [
            f"the leaves {', '.join(map(str, family))} of one parent are in several groups "
            f"({topology.describe()}); groups of a multiple of {self.degree + 1} ranks keep them together"
            for family in make_tree(topology, self.degree).split_families(topology)
        ]

    def trainers(self, topology: Topology) -> tuple[int, ...]:
        """The leaves."""
        return make_tree(topology, self.degree).leaves


class EASGDTree(Algorithm):
    """EASGD Tree (Zhang, thesis, Algorithm 6): the leaves of a tree train, the inner nodes average.

    | word | symbol | option, default |
    |---|---|---|
    | degree of the tree | d | ``degree`` 2 |
    | periods of scheme 1: leaves and their parents, upper levels | τ₁, τ₂ | ``leaf_period`` 10,
    ``upper_period`` 100 |
    | periods of scheme 2: to the parent, to the children | τ_u, τ_d | ``up_period`` 8, ``down_period`` 80 |
    | moving rate | α | ``worker_moving_rate`` 0.9/(d + 1) |

    A node sends its parameters to its parent every τ_up and to its children every τ_down of its own steps,
    without waiting; when a neighbour's have arrived, ``x ← x + α (x_neighbour − x)``. A leaf also trains, by
    any torch optimizer. An inner node has no gradient: its own steps are those of the average leaf. The
    root's parameters are evaluated. The ranks make a full tree; leaves of one parent are in one group where
    the groups allow it (`lsgd_mpi.tree`).

    With Nesterov's momentum at a leaf, whose torch parameters are ``x + δ v``, x is what is sent and moved
    towards the neighbour's.

    *Communication of a worker*: P a send (the bytes of the flat parameters); a value that could not leave
    yet is replaced by a newer one, so there is at most one under way to each neighbour. A round is an
    arrival. *Changes* the parameters, never the optimizer's state. *Keeps* two buffers of the parameters'
    size a neighbour, and one at leaves with Nesterov's momentum.

    *Departure*: the sends of the thesis at t = 0, of the common start, are left out.
    """

    name = "easgd-tree"
    clocks = ("own",)
    other_clocks = "is asynchronous: no node of the tree waits for another"
    options_class = EASGDTreeOptions
    training_defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0}
    evaluated = "root"

    def __init__(self, options: EASGDTreeOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        self.tree: Tree = make_tree(self.communicator.topology, options.degree)
        me = self.communicator.world_rank
        self.trains = me in self.tree.leaves
        self._parent, self._children = self.tree.parent(me), self.tree.children(me)
        neighbours = (*([] if self._parent is None else [self._parent]), *self._children)
        self._mailboxes = self.communicator.mailboxes(neighbours, self.parameters.flat)
        up, down = self._periods()
        if self._parent is not None:
            self.clock.rounds.every(_UP, up)
        if self._children:
            self.clock.rounds.every(_DOWN, down)
        lookahead = self.trains and has_lookahead(self.optimizer)
        self._without_lookahead = torch.empty_like(self.parameters.flat) if lookahead else None

    def _periods(self) -> tuple[int, int]:
        """τ_up and τ_down of this node."""
        if self.options.scheme == "2":
            return self.options.up_period, self.options.down_period
        leaf, upper = self.options.leaf_period, self.options.upper_period
        over_leaves = any(child in self.tree.leaves for child in self._children)
        return (leaf if self.trains else upper), (leaf if over_leaves else upper)

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Send what is due, and move towards what has arrived."""
        self._look()
        return iter(())

    def attend(self) -> None:
        """What a node that does not train does instead of an iteration."""
        if not self._look():
            time.sleep(_LOOK_EVERY_S)

    def write_evaluated(self, into: torch.Tensor) -> None:
        """The root's parameters."""
        if self.communicator.world_rank == self.tree.root:
            into.copy_(self.parameters.flat)
        self.communicator.broadcast(into, self.tree.root, "global")

    def finish(self) -> None:
        """Take in all letters that have left anywhere, then start afresh. Collective."""
        for mailbox in self._mailboxes.values():
            mailbox.begin_end()
        self.communicator.wait_for("the last letters of the neighbours in the tree", self._has_ended)
        for mailbox in self._mailboxes.values():
            mailbox.reopen()
        self.communicator.barrier()

    def _has_ended(self) -> bool:
        # Each is asked at each look, not only up to the first that has not ended.
        for mailbox in self._mailboxes.values():
            mailbox.receive(self._follow)
        ended = [mailbox.has_ended() for mailbox in self._mailboxes.values()]
        return all(ended)

    def close(self) -> None:
        """Take no more letters."""
        for mailbox in self._mailboxes.values():
            mailbox.close()

    def _look(self) -> bool:
        """Whether any neighbour's parameters had arrived."""
        if _UP in self.clock.due_rounds and self._parent is not None:
            self._mailboxes[self._parent].offer()
        if _DOWN in self.clock.due_rounds:
            for child in self._children:
                self._mailboxes[child].offer()
        with self.communicator.guarded("letters of the neighbours in the tree"):
            # First what is sent, then what has come, as in the thesis.
            for mailbox in self._mailboxes.values():
                mailbox.post(self._write)
            arrived = [mailbox.receive(self._follow) for mailbox in self._mailboxes.values()]
        return any(arrived)

    def _position(self) -> torch.Tensor:
        """x: the parameters without Nesterov's look-ahead."""
        x = self._without_lookahead
        if x is None:
            return self.parameters.flat
        x.copy_(self.parameters.flat)
        subtract_lookahead(x, self.parameters, self.optimizer)
        return x

    def _write(self, letter: torch.Tensor) -> None:
        self.parameters.check()
        letter.copy_(self._position())

    def _follow(self, letter: torch.Tensor) -> None:
        """``x ← x + α (x_neighbour − x)``."""
        self.parameters.check()
        alpha = self.options.worker_moving_rate
        with self.communicator.round():
            theirs = letter.to(self.parameters.flat.device)
            if self._without_lookahead is None:
                self.parameters.flat.lerp_(theirs, alpha)
            else:
                x = self._position()
                self.parameters.flat.add_(theirs, alpha=alpha).sub_(x, alpha=alpha)
