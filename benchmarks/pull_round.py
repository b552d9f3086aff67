"""A pull round (election, broadcast, pull) against a bare MPI_Bcast and lerp_ of the same bytes.

python benchmarks/pull_round.py
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from common import Spread, environment_lines
from ranks import on_ranks

PARAMETERS = (11_000_000, 1_000_000)
RANKS = (2, 4)
TARGETS = {11_000_000: 1.25, 1_000_000: 2.0}
ROUNDS = 60
REPEATS = 3
PULL = 0.1


def main() -> None:
    if len(sys.argv) > 1:
        worker(int(sys.argv[1]))
        return
    lines = ["# A pull round against bare MPI", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- {REPEATS} runs; in each {ROUNDS} rounds of each kind in turn, slowest rank; the leader",
        "  is the same rank as the root of MPI_Bcast and changes every round; ratios are within a run",
        "- not measured: two machines, GPUs",
        "",
        "| parameters | ranks | bare, ms | pull round, ms | ratio, median of runs | range | target |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for parameters in PARAMETERS:
        for ranks in RANKS:
            runs = [on_ranks(ranks, parameters) for _ in range(REPEATS)]
            bare, ours = (Spread.of([run[kind] for run in runs]) for kind in ("bare", "round"))
            ratio = Spread.of([run["round"] / run["bare"] for run in runs])
            print(
                f"| {parameters:,} | {ranks} | {1e3 * bare.median:.2f} | {1e3 * ours.median:.2f} "
                f"| {ratio.median:.2f} | {ratio.minimum:.2f} to {ratio.maximum:.2f} "
                f"| {TARGETS[parameters]:.2f} |",
                flush=True,
            )


def worker(parameters: int) -> None:
    """Both kinds of rounds in turn, in one process with Horovod running."""
    from mpi4py import MPI

    import lsgd_mpi

    world = MPI.COMM_WORLD
    lsgd_mpi.init([list(range(world.size))])
    model = torch.nn.Linear(parameters, 1, bias=False)
    # Without gradients the optimizer's own step does nothing: what is left is the round.
    optimizer = lsgd_mpi.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), model, local_period=1, local_pull=PULL, loss_window=1
    )
    flat, received = torch.zeros(parameters), torch.zeros(parameters)

    def bare(root: int) -> None:
        if world.rank == root:
            world.Bcast(flat.numpy(), root=root)
        else:
            world.Bcast(received.numpy(), root=root)
            flat.lerp_(received, PULL)

    def pull_round(root: int) -> None:
        optimizer.step(float(world.rank != root))

    def slowest(function: Callable[[int], None], root: int) -> float:
        world.Barrier()
        start = time.perf_counter()
        function(root)
        return world.allreduce(time.perf_counter() - start, op=MPI.MAX)

    times: dict[str, list[float]] = {"bare": [], "round": []}
    for number in range(ROUNDS):
        times["bare"].append(slowest(bare, number % world.size))
        times["round"].append(slowest(pull_round, number % world.size))
    assert [each.leader.world_rank for each in optimizer.rounds] == [n % world.size for n in range(ROUNDS)]
    if world.rank == 0:
        print(json.dumps({kind: Spread.of(values[5:]).median for kind, values in times.items()}))
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    main()
