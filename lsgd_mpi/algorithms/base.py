"""What every method is: hooks around the worker's own optimizer step, with its communicator handed in."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch

from lsgd_mpi.clock import Clock, OwnClock, SharedClock, SharedCount
from lsgd_mpi.errors import UsageError
from lsgd_mpi.flat import FlatTensors
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Leader, Round, Scope


class Center(Protocol):
    """A center that workers visit alone; `lsgd_mpi.comm.Center` says what each does."""

    count: int

    def exchange(self, move: Callable[..., None]) -> int: ...  # noqa: D102
    def start_exchange(self, move: Callable[..., None]) -> Callable[[], int]: ...  # noqa: D102
    def visits(self) -> int: ...  # noqa: D102
    def read(self, into: Sequence[torch.Tensor]) -> int: ...  # noqa: D102
    def write(self, vectors: Sequence[torch.Tensor], visits: int = 0) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Mailbox(Protocol):
    """Letters to and from one neighbour; `lsgd_mpi.comm.Mailbox` says what each does."""

    def offer(self) -> None: ...  # noqa: D102
    def post(self, write: Callable[[torch.Tensor], None]) -> None: ...  # noqa: D102
    def receive(self, read: Callable[[torch.Tensor], None]) -> bool: ...  # noqa: D102
    def begin_end(self) -> None: ...  # noqa: D102
    def has_ended(self) -> bool: ...  # noqa: D102
    def reopen(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Communicator(Protocol):
    """The collectives that algorithms may use; `lsgd_mpi.comm.Communicator` says what each does."""

    topology: Topology
    world_rank: int
    group: int

    def elect(self, loss: float) -> Leader: ...  # noqa: D102
    def elect_among_leaders(self, local_leader: Leader) -> Leader: ...  # noqa: D102
    def broadcast(self, flat: torch.Tensor, root_world_rank: int, scope: Scope) -> None: ...  # noqa: D102
    def average(self, flat: torch.Tensor, scope: Scope) -> None: ...  # noqa: D102
    def maximum(self, counts: torch.Tensor, scope: Scope) -> None: ...  # noqa: D102
    def gradient_averaging(self, optimizer: torch.optim.Optimizer, named: Any) -> torch.optim.Optimizer: ...  # noqa: D102
    def end_gradient_averaging(self, wrapped: Any) -> None: ...  # noqa: D102
    def averaging_gradients(self, nbytes: int) -> AbstractContextManager[None]: ...  # noqa: D102
    def round(self) -> AbstractContextManager[None]: ...  # noqa: D102
    def guarded(self, what: str) -> AbstractContextManager[None]: ...  # noqa: D102
    def sum(self, values: Sequence[float]) -> list[float]: ...  # noqa: D102
    def center(self, *starts: torch.Tensor) -> Center: ...  # noqa: D102
    def mailboxes(self, neighbours: Sequence[int], like: torch.Tensor) -> Mapping[int, Mailbox]: ...  # noqa: D102
    def wait_for(self, what: str, done: Callable[[], bool]) -> None: ...  # noqa: D102
    def barrier(self) -> None: ...  # noqa: D102
    def shared_count(self) -> SharedCount: ...  # noqa: D102


def option(default: Any, symbol: str, help_text: str, choices: Sequence[str] = ()) -> Any:
    """A field of an algorithm's options: its default, the paper's symbol, and the text for ``--help``."""
    return field(default=default, metadata={"symbol": symbol, "help": help_text, "choices": tuple(choices)})


@dataclass(frozen=True)
class Options:
    """The options of an algorithm: a frozen dataclass of `option` fields, one subclass a method."""

    def check(self) -> None:
        """Raise `UsageError` for values that no run can have."""
        for each in fields(self):
            value, choices = getattr(self, each.name), each.metadata["choices"]
            if choices and value not in choices:
                raise UsageError(f"{flag(each.name)} {value!r}: choose from {', '.join(choices)}")

    def useless(self, topology: Topology) -> list[str]:  # noqa: ARG002
        """A sentence for each value given that has no effect with these groups."""
        return []

    def resolved(self, topology: Topology) -> Options:  # noqa: ARG002
        """The same with defaults filled in that depend on the groups. Raises `UsageError` for other ranks."""
        return self

    def trainers(self, topology: Topology) -> tuple[int, ...]:
        """The world ranks that train, of resolved options: all, unless some only average."""
        return tuple(range(topology.world_size))

    def doubts(self, topology: Topology) -> list[str]:  # noqa: ARG002
        """A sentence for each value, of resolved options, that is possible but known to train badly."""
        return []


def flag(option_name: str) -> str:
    """The command-line spelling of an option."""
    return "--" + option_name.replace("_", "-")


def check_period(name: str, value: int) -> None:
    """Raise `UsageError` unless a communication period is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{flag(name)} {value}: a period is a whole number of iterations, at least 1")


@dataclass(frozen=True)
class PeriodOptions(Options):
    """Options of every method with one period."""

    local_period: int = option(16, "τ", "iterations between two rounds")

    def check(self) -> None:
        """Raise `UsageError` for a period below 1."""
        super().check()
        check_period("local_period", self.local_period)


def check_pull(name: str, value: float) -> None:
    """Raise `UsageError` unless a pull lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{flag(name)} {value}: a pull lies between 0 (none) and 1 (onto the leader)")


def check_share(name: str, value: float) -> None:
    """Raise `UsageError` unless the weight of the newest value in an average lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{flag(name)} {value}: the newest parameters' share of an average lies in [0, 1]")


def check_rate(name: str, value: float) -> None:
    """Raise `UsageError` unless a moving rate is a finite number of at least 0."""
    if not (value >= 0.0 and math.isfinite(value)):
        raise UsageError(f"{flag(name)} {value}: a moving rate is a finite number, at least 0")


def momentum_of(optimizer: torch.optim.Optimizer) -> float:
    """The largest momentum that a torch optimizer's groups have: SGD's δ, or Adam's β₁."""
    return max(
        float(group.get("momentum", group.get("betas", (0.0,))[0])) for group in optimizer.param_groups
    )


@dataclass(frozen=True)
class Worker:
    """What a method has to work with on one rank.

    ``equal_start`` says that all workers hold the same parameters now.
    """

    communicator: Communicator
    clock: Clock
    parameters: FlatTensors
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    equal_start: bool


class Algorithm(ABC):
    """A method, for one worker.

    ``optimizer.step(loss)`` of the public face lets the clock tick and calls `before_update`, `update` and
    `after_update`, in this order, on every worker. The method writes its rounds into the clock's agenda
    ``rounds``, and finds in ``clock.due_rounds`` which one is to be held now.
    """

    name: ClassVar[str]
    #: The clocks that the method's papers have, its default first.
    clocks: ClassVar[tuple[str, ...]] = ("step",)
    #: Why not the others, after the method's name.
    other_clocks: ClassVar[str] = "is synchronous"
    options_class: ClassVar[type[Options]] = Options
    #: What `lsgd-mpi train` takes for its own options unless they are given, such as no momentum.
    training_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: What its rounds send, one of `lsgd_mpi.cost.PATTERNS`; None for what that does not know.
    pattern: ClassVar[str | None] = None
    #: Whether rounds have leaders, so that leaders.csv gets rows.
    elects_leaders: ClassVar[bool] = False
    #: Whether the method itself sets the learning rate of each iteration.
    sets_learning_rate: ClassVar[bool] = False

    def __init__(self, options: Any, worker: Worker) -> None:
        self.options = options
        self.communicator = worker.communicator
        self.clock = worker.clock
        self.parameters = worker.parameters
        self.optimizer = worker.optimizer
        #: Whether this rank trains; one that does not calls `attend` instead.
        self.trains = True
        #: The center's updates by others between this worker's last two visits, if it visits one.
        self.staleness: int | None = None
        self._started = time.perf_counter()

    @classmethod
    def make_clock(cls, name: str, options: Any, communicator: Communicator) -> Clock:
        """The clock called ``name``, one of `clocks`. Collective."""
        workers = len(options.trainers(communicator.topology))
        if name == "step":
            return Clock(workers)
        return {"shared": SharedClock, "own": OwnClock}[name](workers, communicator.shared_count())

    @classmethod  # noqa: B027
    def check_optimizer(cls, optimizer: torch.optim.Optimizer) -> None:
        """Raise `UsageError` for a local optimizer that the method's paper excludes."""

    @property
    @abstractmethod
    def evaluated(self) -> str:
        """What `write_evaluated` writes, in a word for metrics.csv, such as ``average``."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since this worker's algorithm was made."""
        return time.perf_counter() - self._started

    def before_update(self, loss: torch.Tensor | float) -> None:  # noqa: B027
        """What happens between the gradient and the worker's own step. ``loss`` is this mini-batch's."""

    def update(self) -> None:
        """The worker's own optimizer step."""
        self.optimizer.step()

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """What happens after the worker's own step; yields the rounds that elected a leader."""
        return iter(())

    def attend(self) -> None:
        """What a rank that does not train does in the place of an iteration, in about a millisecond."""
        raise NotImplementedError

    @abstractmethod
    def write_evaluated(self, into: torch.Tensor) -> None:
        """Write the variable that the paper evaluates into ``into``, shaped like the flat parameters.

        Collective over the world; changes nothing that training uses.
        """

    def settle(self) -> None:  # noqa: B027
        """Let what this worker has under way arrive. Not collective."""

    def finish(self) -> None:  # noqa: B027
        """End in order, after the last iteration. Collective."""

    def close(self) -> None:  # noqa: B027
        """Let go of the model: another optimizer takes it over. Not collective."""

    def state_dict(self) -> dict[str, Any]:
        """What the method itself remembers between iterations."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue from `state_dict`, after the clock has."""
