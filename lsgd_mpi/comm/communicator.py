"""The collectives that algorithms use: elections, broadcasts, averages.

Every rank creates every communicator and process set in the same order; `Communicator.close` frees them.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from lsgd_mpi.comm.center import Center, Visit
from lsgd_mpi.comm.libraries import MPI, HorovodInternalError, hvd
from lsgd_mpi.comm.mailbox import Mailbox
from lsgd_mpi.comm.reports import RoundReports
from lsgd_mpi.comm.route import Ranks, route
from lsgd_mpi.comm.staging import Staging, gpu_of, why_staged
from lsgd_mpi.comm.waiting import wait_until
from lsgd_mpi.comm.watchdog import Watchdog
from lsgd_mpi.comm.window import COUNT_BYTES, Window
from lsgd_mpi.errors import CommunicationError, SetupError
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Leader, Round, Scope, offered_loss

_log = logging.getLogger("lsgd_mpi")

_Result = TypeVar("_Result")

#: Payload of one election: a float64 loss and an int32 rank, padded as C pads it.
ELECTION_BYTES = 16

#: Elements in one allreduce. MPI's own buffer grows with it: half the parameters' size with two ranks, if
#: they were averaged at once (benchmarks/memory.py). Each waits for Horovod's next cycle.
_AVERAGED_AT_A_TIME = 4_000_000

_PAIR = np.dtype([("loss", np.float64), ("world_rank", np.int32)], align=True)


@dataclass
class Traffic:
    """What one rank's communication came to.

    ``sent_bytes`` counts the payload of each collective that the rank took part in once, a visit of the
    center both ways, and of letters those that it sent; ``rounds`` the rounds of the method that it took part
    in; ``comm_s`` the seconds in transfers of tensors, and in the shared count; ``wait_s`` the seconds in
    elections, barriers and at the center's door, whose few bytes take no time of their own, so that nearly
    all of it is waiting for other ranks.
    """

    sent_bytes: int = 0
    rounds: int = 0
    comm_s: float = 0.0
    wait_s: float = 0.0

    def since(self, before: Traffic) -> float:
        """Seconds of communication since there was a copy made."""
        return self.comm_s + self.wait_s - before.comm_s - before.wait_s


class Communicator:
    """The collectives that algorithms use, over the groups of one `Topology`.

    World ranks name everyone, also inside a group. Every method is a collective over the scope that it
    names and must be called by all its ranks in the same order, unless its docstring says otherwise.
    """

    def __init__(
        self,
        topology: Topology,
        world: MPI.Intracomm,
        process_sets: Mapping[Ranks, Any],
        watchdog: Watchdog,
    ) -> None:
        self.topology = topology
        self.world_rank = world.Get_rank()
        self.group = topology.group_of(self.world_rank)
        self.traffic = Traffic()
        self._staging = Staging()
        self._world = world
        self._watchdog = watchdog
        with self.guarded("the making of the groups' communicators"):
            self._group = world.Split(self.group, key=self.world_rank)
            # Leaders change every round and communicators are dear to make, so one fixed rank of each group,
            # its first, speaks for whoever leads the group in the election among leaders.
            self._speaks = self._group.Get_rank() == 0
            self._leaders = world.Split(0 if self._speaks else MPI.UNDEFINED, key=self.world_rank)
            #: Of local rounds, for world rank 0.
            self.reports = RoundReports(world, [members[0] for members in topology.groups])
            self._letters = world.Dup()
        self._made_mailboxes = 0
        self._mailboxes: list[Mailbox] = []
        self._centers: weakref.WeakSet[Center] = weakref.WeakSet()
        self._windows: list[Window] = []
        everyone = tuple(range(topology.world_size))
        self._scopes: dict[Scope, Ranks] = {"global": everyone, "local": topology.groups[self.group]}
        self._process_sets: dict[Ranks, Any] = {everyone: hvd.global_process_set, **process_sets}
        # Short names for them, the same on all ranks.
        self._set_names = {members: f"set{index}" for index, members in enumerate(self._process_sets)}

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.topology.world_size

    def prepare(self, device: torch.device) -> None:
        """Find out how tensors of these devices are sent, and warn if through host memory. Collective."""
        gpu = None
        if device.type == "cuda":
            gpu = (self.topology.hosts[self.world_rank], gpu_of(device))
        before, gpus = self._staging.reason, self.gather(gpu)
        if self.world_size == 1 or not any(gpus):
            return
        self._staging.reason = why_staged(gpus, hvd.nccl_built())
        if self._staging.reason not in (None, before) and self.world_rank == 0:
            _log.warning(f"GPUs exchange parameters through host memory: {self._staging.reason}")

    @property
    def staged(self) -> str | None:
        """Why tensors of GPUs go through host memory, or None."""
        return self._staging.reason

    def scope_size(self, scope: Scope) -> int:
        """Number of ranks in this rank's group ("local") or in the world ("global")."""
        return len(self._scopes[scope])

    def elect(self, loss: float) -> Leader:
        """The member of this rank's group with the lowest loss: one MINLOC allreduce of 16 bytes."""
        offer = _pair(Leader(offered_loss(loss), self.world_rank))
        with self._timed("wait_s", ELECTION_BYTES, f"an election in group {self.group}"):
            _wait(self._group.Iallreduce(MPI.IN_PLACE, [offer, 1, MPI.DOUBLE_INT], op=MPI.MINLOC))
        return _leader(offer)

    def elect_among_leaders(self, local_leader: Leader) -> Leader:
        """The best of all groups' leaders: MINLOC over the inter-group communicator, told to each group."""
        winner = _pair(local_leader)
        with self._timed("wait_s", ELECTION_BYTES, "an election among all leaders"):
            if self._speaks:
                _wait(self._leaders.Iallreduce(MPI.IN_PLACE, [winner, 1, MPI.DOUBLE_INT], op=MPI.MINLOC))
            _wait(self._group.Ibcast([winner, 1, MPI.DOUBLE_INT], root=0))
        return _leader(winner)

    def broadcast(self, flat: torch.Tensor, root_world_rank: int, scope: Scope) -> None:
        """Overwrite ``flat`` with the root's, in place: Horovod broadcasts, nothing packed.

        One of them if the scope is on one node, else as many as `lsgd_mpi.comm.route` says.
        """
        if self.scope_size(scope) == 1:
            return
        what = f"the broadcast of world rank {root_world_rank}'s parameters"
        with self._timed("comm_s", _nbytes(flat), what):
            hops = route(root_world_rank, self._scopes[scope], self.topology.hosts)
            is_root = self.world_rank == root_world_rank
            with self._staging.lent(flat, sends=is_root, receives=not is_root) as lent:
                for hop in hops:
                    if self.world_rank in hop.members:
                        # With root and length in its name, Horovod knows each after its first broadcast.
                        name = self._name(f"broadcast.from{hop.root}", hop.members, flat)
                        process_set = self._process_sets[hop.members]
                        hvd.broadcast_(_as_integers(lent), hop.root, name, process_set)

    def average(self, flat: torch.Tensor, scope: Scope) -> None:
        """Overwrite ``flat``, shape ``(length,)``, with its mean over the scope, in place by Horovod.

        Of bfloat16, which Horovod does not know, the mean is taken in float32.
        """
        if self.scope_size(scope) == 1:
            return
        if flat.is_cuda:
            # What the GPU has still to do is neither waiting for others nor transfer.
            torch.cuda.current_stream(flat.device).synchronize()
        self._meet(scope)
        with self._timed("comm_s", _nbytes(flat), "an average over the ranks"):
            members = self._scopes[scope]
            process_set = self._process_sets[members]
            for chunk in torch.split(flat, _AVERAGED_AT_A_TIME):
                name = self._name("average", members, chunk)
                known = chunk.float() if chunk.dtype == torch.bfloat16 else chunk
                with self._staging.lent(known) as lent:
                    hvd.allreduce_(lent, name=name, op=hvd.Average, process_set=process_set)
                if known is not chunk:
                    chunk.copy_(known)

    def maximum(self, counts: torch.Tensor, scope: Scope) -> None:
        """Overwrite an integer tensor with its elementwise maximum over the scope, in place."""
        host = counts.cpu().numpy()
        communicator = self._world if scope == "global" else self._group
        with self._timed("comm_s", host.nbytes, "a maximum over the ranks"):
            _wait(communicator.Iallreduce(MPI.IN_PLACE, host, op=MPI.MAX))
        counts.copy_(torch.from_numpy(host))

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the world of a few float64 numbers, the same bits on every rank."""
        total = np.array(values, dtype=np.float64)
        with self._timed("wait_s", total.nbytes, "a sum over the ranks"):
            _wait(self._world.Iallreduce(MPI.IN_PLACE, total, op=MPI.SUM))
        return [float(value) for value in total]

    def start_maximum(self, values: Sequence[float]) -> Callable[[], list[float]]:
        """Start the maxima over the world of a few float64 numbers; call the result to wait for them."""
        largest = np.array(values, dtype=np.float64)
        request = self._world.Iallreduce(MPI.IN_PLACE, largest, op=MPI.MAX)

        def finish() -> list[float]:
            with self._timed("wait_s", largest.nbytes, "a maximum over the ranks"):
                _wait(request)
            return [float(value) for value in largest]

        return finish

    def start_equal(self, named: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Overwrite each tensor with world rank 0's, in place, all broadcasts under way together."""
        if self.world_size == 1:
            return
        dense = [
            (name, each.detach(), self._sendable(each.detach().contiguous()))
            for name, each in named
            if each.numel()
        ]
        handles = [
            hvd.broadcast_async_(_as_integers(sent.reshape(-1)), 0, name=f"lsgd.start.{name}")
            for name, _, sent in dense
        ]
        with self.guarded("the broadcast of world rank 0's start"):
            for handle in handles:
                hvd.synchronize(handle)
        for _, tensor, sent in dense:
            if sent.data_ptr() != tensor.data_ptr():
                tensor.copy_(sent)

    def gradient_averaging(self, optimizer: torch.optim.Optimizer, named: Any) -> torch.optim.Optimizer:
        """Horovod's DistributedOptimizer around ``optimizer``: gradients averaged over the world."""
        on_gpus = any(each.is_cuda for group in optimizer.param_groups for each in group["params"])
        if on_gpus and self._staging.reason is not None:
            # Horovod sends gradients itself, and knows no way but NCCL here.
            raise SetupError(
                f"gradients cannot be averaged over these GPUs: {self._staging.reason}; or use --device cpu"
            )
        wrapped: torch.optim.Optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=named)
        wrapped.state.update(optimizer.state)
        return wrapped

    def end_gradient_averaging(self, wrapped: Any) -> None:
        """Let gradients be each rank's own again. Not collective."""
        # Horovod has no way to take its hooks off the parameters: they count backward passes down to zero.
        for parameter in wrapped._allreduce_delay:
            wrapped._allreduce_delay[parameter] = sys.maxsize

    @contextmanager
    def averaging_gradients(self, nbytes: int) -> Iterator[None]:
        """Time and count what happens inside as the transfer of ``nbytes`` of gradients. Not collective."""
        with self._timed("comm_s", nbytes if self.world_size > 1 else 0, "the average of the gradients"):
            yield

    @contextmanager
    def round(self) -> Iterator[None]:
        """Count what happens inside as one round of the method. Not collective."""
        yield
        self.traffic.rounds += 1

    def shared_count(self) -> Callable[[int], int]:
        """A new count, at 0, of all ranks: a function that adds to it and returns it. Collective."""
        self._free_released_windows()
        with self.guarded("the making of a shared count"):
            window = Window(self._world, COUNT_BYTES)
        self._windows.append(window)

        def add(amount: int) -> int:
            if amount == 0:
                with self.guarded("the shared count of iterations"):
                    return window.add(0, 0)
            with self._timed("comm_s", COUNT_BYTES, "the shared count of iterations"):
                return window.add(0, amount) + amount

        weakref.finalize(add, setattr, window, "released", True)
        return add

    def center(self, *starts: torch.Tensor) -> Center:
        """A center of such vectors that workers visit alone. Collective; they start as world rank 0's."""
        self._free_released_windows()
        is_far = self.topology.hosts[self.world_rank] != self.topology.hosts[0]
        with self.guarded("the making of a center"):
            center = Center(self._world, starts, self._account, self.guarded, is_far)
        self._windows.append(center.window)
        self._centers.add(center)
        return center

    def mailboxes(self, neighbours: Sequence[int], like: torch.Tensor) -> dict[int, Mailbox]:
        """Ways to exchange vectors like ``like`` with other ranks, which make theirs as well. Collective."""
        self._made_mailboxes += 1

        def account(nbytes: int) -> None:
            self.traffic.sent_bytes += nbytes

        made = {
            neighbour: Mailbox(self._letters, neighbour, self._made_mailboxes, like, account)
            for neighbour in neighbours
        }
        self._mailboxes = [each for each in self._mailboxes if not (each.closed and each.is_empty())] + list(
            made.values()
        )
        return made

    def wait_for(self, what: str, done: Callable[[], bool]) -> None:
        """Wait until ``done()``, which is asked again and again; ``what`` names it for the user.

        Not collective in itself.
        """
        with self._timed("wait_s", 0, what):
            wait_until(done)

    def barrier(self) -> None:
        """Wait until every rank of the world is here."""
        self._meet("global")

    def wait_for_all_to_leave(self) -> None:
        """End what goes on in the background, and wait, however long, until every rank is here."""
        for center in list(self._centers):
            center.close()
        _wait(self._world.Ibarrier())

    def gather(self, value: _Result) -> list[_Result]:
        """Every rank's value, on every rank, by world rank; pickled, so for set-up only."""
        with self.guarded("a gathering of small values"):
            return self._world.allgather(value)

    def remaining_rounds(self) -> list[Round]:
        """All reports that were sent before this call anywhere: collective over the world."""
        with self._timed("wait_s", 0, "the last rounds of the other groups"):
            return self.reports.rest()

    def close(self) -> None:
        """Stop Horovod and free the communicators. Collective over the world."""
        with self._watchdog.waiting("letters that nobody reads any more"):
            self._discard_letters()
        with self._watchdog.waiting("the end of Horovod on all ranks"):
            hvd.shutdown()
        self._watchdog.stop()
        for window in self._windows:
            window.close()
        self.reports.close()
        for communicator in (self._letters, self._leaders, self._group, self._world):
            if communicator != MPI.COMM_NULL:
                communicator.Free()

    def _account(self, visit: Visit) -> None:
        self.traffic.wait_s += visit.wait_s
        self.traffic.comm_s += visit.comm_s
        self.traffic.sent_bytes += visit.moved_bytes

    def _meet(self, scope: Scope) -> None:
        # Before an average, so that waiting for the others is not taken for its transfer.
        with self._timed(
            "wait_s", 0, f"a barrier of {'all' if scope == 'global' else f'group {self.group}'}"
        ):
            _wait((self._world if scope == "global" else self._group).Ibarrier())

    def _discard_letters(self) -> None:
        """Take in letters that nobody reads any more, so that none is under way at the end. Collective."""
        for mailbox in self._mailboxes:
            mailbox.close()
        all_have_left: Any = None

        def is_done() -> bool:
            nonlocal all_have_left
            if all_have_left is None and all(mailbox.is_empty() for mailbox in self._mailboxes):
                all_have_left = self._world.Ibarrier()
            status = MPI.Status()
            if self._letters.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
                unread = np.empty(status.Get_count(MPI.BYTE), dtype=np.uint8)
                self._letters.Recv([unread, MPI.BYTE], status.Get_source(), status.Get_tag())
            return all_have_left is not None and bool(all_have_left.Test())

        wait_until(is_done)
        self._mailboxes = []

    def _free_released_windows(self) -> None:
        """Free the windows that no rank needs any more, which they notice at different times. Collective."""
        released = np.array([window.released for window in self._windows], dtype=np.int8)
        with self.guarded("an agreement on what is needed no more"):
            _wait(self._world.Iallreduce(MPI.IN_PLACE, released, op=MPI.MIN))
            for window, free in zip(self._windows, released, strict=True):
                if free:
                    window.close()
        self._windows = [window for window, free in zip(self._windows, released, strict=True) if not free]

    def _sendable(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._staging.reason is None else tensor.cpu()

    def _name(self, operation: str, members: Ranks, tensor: torch.Tensor) -> str:
        # Horovod's automatic names are counters, which one extra operation on one rank would shift.
        return f"lsgd.{operation}.{self._set_names[members]}.{tensor.dtype}.{tensor.numel()}"

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Watch what happens inside as a wait for others, and tell a failure of MPI or Horovod as theirs."""
        try:
            with self._watchdog.waiting(what):
                yield
        except (HorovodInternalError, MPI.Exception) as error:
            raise CommunicationError(
                f"world rank {self.world_rank} lost the others in {what}: {error}"
            ) from error

    @contextmanager
    def _timed(self, kind: str, nbytes: int, what: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.guarded(what):
            yield
        setattr(self.traffic, kind, getattr(self.traffic, kind) + time.perf_counter() - start)
        self.traffic.sent_bytes += nbytes


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    # Horovod knows neither bfloat16 nor complex numbers; as bytes there would be too many for MPI's counts.
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
    return tensor.view(kinds[tensor.element_size()])


def _wait(request: MPI.Request) -> None:
    wait_until(request.Test)


def _pair(leader: Leader) -> np.ndarray[Any, Any]:
    return np.array([(leader.loss, leader.world_rank)], dtype=_PAIR)


def _leader(pair: np.ndarray[Any, Any]) -> Leader:
    return Leader(float(pair["loss"][0]), int(pair["world_rank"][0]))


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
