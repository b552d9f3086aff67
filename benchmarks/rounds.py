"""A round of each method against the bare MPI collectives and the arithmetic that it is made of.

python benchmarks/rounds.py [METHOD ...]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from common import Spread, environment_lines
from ranks import on_ranks

RANKS = (2, 4)
LARGE, SMALL = 11_000_000, 1_000_000
TARGETS = {LARGE: 1.25, SMALL: 2.0}
ROUNDS = 60
REPEATS = 3
LR, MOMENTUM = 0.0, 0.9
PULL = 0.1


@dataclass
class Bare:
    """What a round moves and computes, without this project: one worker's buffers and MPI."""

    world: object
    x: torch.Tensor
    center: torch.Tensor
    received: torch.Tensor
    velocity: torch.Tensor

    def lsgd(self, root: int) -> None:
        """A broadcast and a pull."""
        if self.world.rank == root:
            self.world.Bcast(self.x.numpy(), root=root)
        else:
            self.world.Bcast(self.received.numpy(), root=root)
            self.x.lerp_(self.received, PULL)

    def averaging(self, root: int) -> None:  # noqa: ARG002
        """The mean of the workers, in place."""
        self.world.Allreduce(IN_PLACE, self.x.numpy())
        self.x.mul_(1.0 / self.world.size)

    def easgd(self, root: int) -> None:  # noqa: ARG002
        """The mean of the workers into a buffer; workers and center move towards each other."""
        self._mean_of(self.x)
        self.x.lerp_(self.center, PULL)
        self.center.lerp_(self.received, PULL)

    def eamsgd(self, root: int) -> None:  # noqa: ARG002
        """The same at x = y − δv, which is one pass more."""
        position = torch.add(self.x, self.velocity, alpha=MOMENTUM, out=self.position)
        self._mean_of(position)
        self.x.lerp_(self.center, PULL)
        self.center.lerp_(self.received, PULL)

    def downpour(self, root: int) -> None:  # noqa: ARG002
        """The mean of the workers into a buffer; the center moves, and the workers to it."""
        self._mean_of(self.x)
        self.center.lerp_(self.received, float(self.world.size))
        self.x.copy_(self.center)

    def __post_init__(self) -> None:
        self.position = torch.empty_like(self.x)

    def _mean_of(self, tensor: torch.Tensor) -> None:
        self.world.Allreduce(tensor.numpy(), self.received.numpy())
        self.received.mul_(1.0 / self.world.size)


IN_PLACE: object = None

#: method: (what it is made of, its options)
METHODS: dict[str, tuple[Callable[[Bare, int], None], dict[str, object]]] = {
    "lsgd": (Bare.lsgd, {"local_period": 1, "local_pull": PULL, "loss_window": 1}),
    "pr-sgd": (Bare.averaging, {"local_period": 1}),
    "easgd": (Bare.easgd, {"local_period": 1}),
    "easgd-gauss-seidel": (Bare.easgd, {"local_period": 1}),
    "eamsgd": (Bare.eamsgd, {"local_period": 1}),
    "downpour": (Bare.downpour, {"local_period": 1}),
    "allreduce": (Bare.averaging, {}),
}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
        return
    lines = ["# A round against bare MPI", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- {REPEATS} runs; in each {ROUNDS} rounds of each kind in turn, slowest rank, the median; ratios",
        "  are within a run. Bare is MPI_Bcast or MPI_Allreduce of the same bytes from mpi4py, then the",
        "  method's arithmetic in place; the leader of lsgd is the root of MPI_Bcast and changes every round",
        "- allreduce: its round is Horovod's averaging of one gradient tensor; a round of pr-sgd-varying is",
        "  one of pr-sgd",
        "- not measured: two machines, GPUs",
        "",
        "| method | parameters | ranks | bare, ms | round, ms | ratio, median of runs | range | target |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    wanted = sys.argv[1:] or list(METHODS)
    sizes = [(name, LARGE) for name in wanted] + [("lsgd", SMALL)] * ("lsgd" in wanted)
    for name, parameters in sizes:
        for ranks in RANKS:
            runs = [on_ranks(ranks, "worker", name, parameters) for _ in range(REPEATS)]
            bare, ours = (Spread.of([run[kind] for run in runs]) for kind in ("bare", "round"))
            ratio = Spread.of([run["round"] / run["bare"] for run in runs])
            print(
                f"| {name} | {parameters:,} | {ranks} | {1e3 * bare.median:.2f} | {1e3 * ours.median:.2f} "
                f"| {ratio.median:.2f} | {ratio.minimum:.2f} to {ratio.maximum:.2f} "
                f"| {TARGETS[parameters]:.2f} |",
                flush=True,
            )


def worker(name: str, parameters: int) -> None:
    """Both kinds of rounds in turn, in one process with Horovod running."""
    global IN_PLACE
    from mpi4py import MPI

    import lsgd_mpi

    IN_PLACE = MPI.IN_PLACE
    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    lsgd_mpi.init([list(range(world.size))])
    model = torch.nn.Linear(parameters, 1, bias=False)
    momentum = {"momentum": MOMENTUM, "nesterov": True} if name == "eamsgd" else {}
    inner = torch.optim.SGD(model.parameters(), lr=LR, **momentum)
    bare_round, options = METHODS[name]
    optimizer = lsgd_mpi.DistributedOptimizer(inner, model, name, **options)
    bare = Bare(world, *(torch.zeros(parameters) for _ in range(4)))
    if name == "eamsgd":
        # A velocity as after a step; without gradients no step changes it.
        for parameter in model.parameters():
            inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    gradient = torch.zeros_like(model.weight) if name == "allreduce" else None

    def method_round(root: int) -> None:
        if gradient is not None:
            # Horovod averages a gradient when the backward pass has made it.
            model.weight.grad = None
            (model.weight * gradient).sum().backward()
        start = time.perf_counter()
        # Without gradients the optimizer's own step does nothing: what is left is the round.
        optimizer.step(float(world.rank != root))
        times["round"].append(world.allreduce(time.perf_counter() - start, op=MPI.MAX))

    times: dict[str, list[float]] = {"bare": [], "round": []}
    for number in range(ROUNDS):
        root = number % world.size
        world.Barrier()
        start = time.perf_counter()
        bare_round(bare, root)
        times["bare"].append(world.allreduce(time.perf_counter() - start, op=MPI.MAX))
        world.Barrier()
        method_round(root)
    assert optimizer.traffic.rounds == ROUNDS
    if name == "lsgd":
        assert [each.leader.world_rank for each in optimizer.rounds] == [
            n % world.size for n in range(ROUNDS)
        ]
    if world.rank == 0:
        print(json.dumps({kind: float(np.median(values[5:])) for kind, values in times.items()}))
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    main()
