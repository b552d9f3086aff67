"""The public face: a torch optimizer with a distributed method around it."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lsgd_mpi import comm, runtime
from lsgd_mpi.algorithms import Algorithm, Options, Worker, find_algorithm, make_options
from lsgd_mpi.clock import Clock, OwnClock
from lsgd_mpi.errors import UsageError
from lsgd_mpi.flat import FlatTensors, trainable_parameters
from lsgd_mpi.leaders import Round

_log = logging.getLogger("lsgd_mpi")

#: The optimizers that still live, so that one made for the same model takes it over from the one before.
_in_use: weakref.WeakSet[DistributedOptimizer] = weakref.WeakSet()


class DistributedOptimizer(torch.optim.Optimizer):
    """Train ``model`` with ``optimizer`` on this rank and with ``algorithm`` among the ranks.

    ``optimizer`` is any torch optimizer over parameters of ``model``; ``algorithm`` a registered name
    (`lsgd_mpi.algorithms`), and ``options`` are its options, such as ``local_period``. ``clock`` says what
    drives the rounds (`lsgd_mpi.clock.CLOCKS`): by default all ranks are in step, if the method has that.
    Making one is collective: all ranks must give the same algorithm, clock, options and model, and afterwards
    hold the parameters and buffers of world rank 0, unless ``equal_start`` is false.

    The model's trainable parameters become views of one flat tensor: move or cast the model before.
    The result is a torch optimizer, for learning-rate schedulers and the like; `step` takes the loss.

    Raises `UsageError` before `lsgd_mpi.init`, for options that cannot be, for models that cannot be
    exchanged, and for ranks that disagree.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        algorithm: str = "lsgd",
        *,
        clock: str | None = None,
        equal_start: bool = True,
        **options: Any,
    ) -> None:
        # Not torch's own constructor: groups, state and defaults are those of the optimizer inside.
        self._communicator = runtime.communicator()
        topology = self._communicator.topology
        # A rank may be long in coming here, and this wait sleeps.
        self._communicator.barrier()
        cls, given = comm.together(lambda: _checked(optimizer, model, algorithm, clock, options))
        resolved = comm.together(lambda: given.resolved(topology))
        if self._communicator.world_rank == 0:
            for sentence in (*given.useless(topology), *resolved.doubts(topology)):
                _log.warning(sentence)
        parameters = trainable_parameters(model)
        comm.check_equal("options", {"algorithm": algorithm, "clock": clock, **vars(given)})
        comm.check_equal("parameters", _described(parameters))
        frozen = [(name, each) for name, each in model.named_parameters() if not each.requires_grad]
        held = [*frozen, *model.named_buffers()]
        comm.check_equal("frozen parameters or buffers", _described(held))
        for other in list(_in_use):
            other._give_up_if_sharing(parameters)
        self._parameters = comm.together(lambda: FlatTensors(parameters, model))
        self._communicator.prepare(self._parameters.flat.device)
        if equal_start:
            self._communicator.start_equal([("parameters", self._parameters.flat), *held])
        self._clock = cls.make_clock(clock or cls.clocks[0], resolved, self._communicator)
        worker = Worker(self._communicator, self._clock, self._parameters, model, optimizer, equal_start)
        self._algorithm = comm.together(lambda: cls(resolved, worker))
        # Whoever drops this object without a successor must not leave its hooks in the model.
        self._closing = weakref.finalize(self, self._algorithm.close)
        self._closing.atexit = False
        self._evaluation: torch.Tensor | None = None
        # Rounds of an optimizer before that was left without finish() are not this one's.
        self._communicator.remaining_rounds()
        self._rounds: list[Round] = []
        self._taken_over = False
        _in_use.add(self)

    # What torch's schedulers and users read and change is the inner optimizer's own.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the optimizer inside, whose ``lr`` and others may be changed."""
        return self._algorithm.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the optimizer inside; never exchanged."""
        return self._algorithm.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the optimizer inside."""
        return self._algorithm.optimizer.defaults

    @property
    def rounds(self) -> list[Round]:
        """The rounds so far, with their leaders, in the order in which this rank learnt of them.

        On world rank 0 those of all groups (another group's within a step or so after both groups have held
        that round, see `finish`), elsewhere those of this rank's own group and the global ones.
        """
        return self._rounds

    @property
    def traffic(self) -> comm.Traffic:
        """Bytes sent and seconds spent in communication by this rank since `lsgd_mpi.init`."""
        return self._communicator.traffic

    @property
    def elapsed_s(self) -> float:
        """Seconds since this optimizer was made, as in its rounds."""
        return self._algorithm.elapsed_s

    @property
    def clock(self) -> Clock:
        """Of this rank. After a `step`, ``clock.due`` has what the user put into ``clock.meetings``."""
        return self._clock

    @property
    def staleness(self) -> int | None:
        """Updates of the center by others between this rank's last two visits; None without them."""
        return self._algorithm.staleness

    @property
    def evaluated(self) -> str:
        """What `evaluated_parameters` shows, in a word: ``average`` (of all workers), ``center``, ..."""
        return self._algorithm.evaluated

    @property
    def options(self) -> Any:
        """The algorithm's options with every default filled in: a frozen dataclass."""
        return self._algorithm.options

    def step(self, loss: torch.Tensor | float | None = None) -> None:  # type: ignore[override]
        """One iteration: communication that comes before, the inner optimizer's step, and after.

        ``loss`` is this mini-batch's training loss, a float or a tensor of one element. Collective in the
        iterations in which a round is due, but for rounds on a worker's own clock. Raises `NumericalError`
        when no worker of a group has a finite loss, and `CommunicationError` when the other ranks are lost.
        """
        if loss is None or callable(loss):
            raise UsageError(
                "leaders are elected by their loss: call optimizer.step(loss), without a closure"
            )
        if not self.trains:
            raise UsageError(f"this rank does not train with {self._algorithm.name}: call optimizer.attend()")
        self._check_in_use()
        self._clock.tick()
        self._algorithm.before_update(loss)
        self._algorithm.update()
        for finished in self._algorithm.after_update(loss):
            self._rounds.append(finished)
            if finished.scope == "local":
                self._communicator.reports.send(finished)
        self._rounds.extend(self._communicator.reports.arrived())

    @property
    def trains(self) -> bool:
        """Whether this rank trains; the inner nodes of a tree do not, and call `attend`."""
        return self._algorithm.trains

    def attend(self) -> None:
        """What a rank that does not train does in the place of `step`; takes about a millisecond."""
        self._check_in_use()
        if self.trains:
            raise UsageError("this rank trains: call optimizer.step(loss)")
        assert isinstance(self._clock, OwnClock)
        self._clock.look()
        self._algorithm.attend()

    def finish(self) -> None:
        """End in order after the last iteration: what is under way arrives, world rank 0 hears of all rounds.

        Collective.
        """
        self._check_in_use()
        self._algorithm.finish()
        self._rounds.extend(self._communicator.remaining_rounds())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as in torch."""
        if set_to_none:
            # torch's default; Horovod's optimizer, which takes no argument, also refuses it at a wrong time.
            self._algorithm.optimizer.zero_grad()
        else:
            torch.optim.Optimizer.zero_grad(self._algorithm.optimizer, set_to_none=False)

    @contextmanager
    def evaluated_parameters(self) -> Iterator[None]:
        """Inside the context the model holds what the paper evaluates; after it, its own parameters again.

        For leader SGD that is the average over all workers. Collective at its start. Changes nothing that
        training uses; the first call allocates one buffer of the parameters' size. The model's buffers stay
        this rank's own: `lsgd_mpi.evaluate.recalibrated` re-estimates batch-norm statistics.
        """
        self._check_in_use()
        if self._evaluation is None:
            self._evaluation = torch.empty_like(self._parameters.flat)
        begun = time.perf_counter()
        self._algorithm.write_evaluated(self._evaluation)
        with self._parameters.showing(self._evaluation):
            yield
        self._clock.leave_out(time.perf_counter() - begun)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, the clock's and the algorithm's, of this rank."""
        self._check_in_use()
        return {
            "optimizer": self._algorithm.optimizer.state_dict(),
            "clock": {"name": self._clock.name, **self._clock.state_dict()},
            "algorithm": {"name": self._algorithm.name, **self._algorithm.state_dict()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, of the same rank. Collective. `UsageError` for another algorithm's."""
        self._check_in_use()
        state = state_dict["algorithm"]
        if state["name"] != self._algorithm.name:
            raise UsageError(f"the saved state is of {state['name']}, not of {self._algorithm.name}")
        clock = state_dict["clock"]
        if clock["name"] != self._clock.name:
            raise UsageError(f"the saved state is of clock {clock['name']}, not of {self._clock.name}")
        # What workers share changes while nobody trains: not before all have come, until all have loaded.
        self._algorithm.settle()
        self._communicator.barrier()
        self._algorithm.optimizer.load_state_dict(state_dict["optimizer"])
        self._clock.load_state_dict(clock)
        self._algorithm.load_state_dict(state)
        self._communicator.barrier()

    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: ARG002
        """Refused: which parameters are exchanged is fixed when the optimizer is made."""
        raise UsageError("add parameter groups to the torch optimizer before DistributedOptimizer is made")

    def __repr__(self) -> str:
        algorithm = self._algorithm
        return f"DistributedOptimizer({algorithm.name}, {algorithm.options}, {algorithm.optimizer})"

    def _check_in_use(self) -> None:
        if self._taken_over:
            raise UsageError("another DistributedOptimizer was made for this model: step that one")
        self._parameters.check_own()

    def _give_up_if_sharing(self, parameters: list[tuple[str, torch.Tensor]]) -> None:
        mine = {id(tensor) for _, tensor in self._parameters.named}
        if not self._taken_over and any(id(tensor) in mine for _, tensor in parameters):
            self._taken_over = True
            self._closing()


def _checked(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    algorithm: str,
    clock: str | None,
    options: dict[str, Any],
) -> tuple[type[Algorithm], Options]:
    _check_covered(optimizer, model)
    cls = find_algorithm(algorithm, clock)
    cls.check_optimizer(optimizer)
    return cls, make_options(algorithm, options, clock)


def _described(named: Sequence[tuple[str, torch.Tensor]]) -> dict[str, tuple[str, list[int]]]:
    return {name: (str(each.dtype), list(each.shape)) for name, each in named}


def _check_covered(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    if isinstance(optimizer, DistributedOptimizer):
        raise UsageError("the optimizer is a DistributedOptimizer already")
    known = {id(parameter) for parameter in model.parameters()}
    if any(id(each) not in known for group in optimizer.param_groups for each in group["params"]):
        raise UsageError(
            "the optimizer holds a parameter that is not the model's: give the model it was made for"
        )
