"""Rounds without waiting: what they cost on each clock, with and without a slow rank, against bare MPI.

python benchmarks/asynchrony.py
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import environment_lines
from ranks import on_ranks

RANKS = (2, 4, 8)
PARAMETERS = 1_000_000
PERIOD = 32
STEP_S, SLOWNESS = 0.01, 3
#: Turns of the method and of bare MPI, each of so many iterations of the average rank.
TURNS, ITERATIONS = 3, 128
ALPHA = 0.1
TARGET = 1.5
WAIT_S = 2.0

METHODS = (
    ("lsgd", "step"),
    ("lsgd", "shared"),
    ("pr-sgd", "shared"),
    ("easgd", "own"),
    ("downpour", "own"),
)


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:5])
        return
    if sys.argv[1:2] == ["waiting"]:
        waiting()
        return
    lines = ["# Rounds without waiting", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- {PARAMETERS:,} float32 parameters, period {PERIOD}; an iteration sleeps {1e3 * STEP_S:.0f} ms,",
        "  so that ranks do not take the cores from each other; on the slow rank",
        f"  {SLOWNESS} times as long",
        f"- the method and bare MPI in {TURNS} turns of {ITERATIONS} iterations of the average rank",
        "- waiting, transfer: ms of a round or visit, the mean of the ranks that are not slow; share: of",
        "  their time, spent waiting; count: us an iteration for the shared count, not in the transfer",
        "- bare: what the method is made of, from mpi4py, in ms: MPI_Bcast or MPI_Allreduce of ranks that",
        "  come together, then the arithmetic in place; or MPI_Win_lock, MPI_Get, the arithmetic, MPI_Put",
        "  and MPI_Win_unlock at the method's own times",
        "- ratio: transfer to bare; of visits, which wait for a lock in both, waiting and transfer to bare",
        "- not measured: two machines, GPUs",
        "",
        "| method | clock | ranks | slow | rounds/s | waiting | share | count | transfer | bare | ratio "
        "| target |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for method, clock in METHODS:
        for ranks in RANKS:
            for slow in (False, True):
                told = on_ranks(ranks, "worker", method, clock, int(slow))
                print(
                    f"| {method} | {clock} | {ranks} | {'yes' if slow else 'no'} "
                    f"| {told['rounds_per_s']:.2f} | {told['wait_ms']:.2f} | {told['share']:.1%} "
                    f"| {told['count_us']:.0f} | {told['comm_ms']:.2f} | {told['bare_ms']:.2f} "
                    f"| {told['ratio']:.2f} | {TARGET} |",
                    flush=True,
                )
    told = on_ranks(2, "waiting")
    print()
    print(f"Processor time of a rank while it waits {WAIT_S:g} s for another one, as a share of a core:")
    print()
    print("| waiting | this project's thread | all threads, Horovod's among them | target |")
    print("|---|--:|--:|--:|")
    for what, (own, process) in told.items():
        print(f"| {what} | {own:.1%} | {process:.1%} | 5 % for the first |", flush=True)


def start() -> tuple[Any, Any]:
    """MPI and the world, with the project running on one group of all ranks."""
    import lsgd_mpi

    torch.set_num_threads(1)
    lsgd_mpi.init()
    from mpi4py import MPI

    return MPI, MPI.COMM_WORLD


def worker(method: str, clock: str, slow: str) -> None:
    """Turns of a method and of bare MPI; rank 0 prints what a round took."""
    mpi, world = start()
    import lsgd_mpi

    seconds = STEP_S * (SLOWNESS if int(slow) and world.rank == world.size - 1 else 1)
    model = torch.nn.Linear(PARAMETERS, 1, bias=False)
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = lsgd_mpi.DistributedOptimizer(inner, model, method, clock=clock, local_period=PERIOD)
    bare = bare_operation(mpi, world, method, clock)
    counted = time_counting(optimizer.clock)
    times: list[float] = []
    spent_s = 0.0
    before = (optimizer.traffic.rounds, optimizer.traffic.wait_s, optimizer.traffic.comm_s)
    for turn in range(1, TURNS + 1):
        world.Barrier()
        begun = time.perf_counter()
        optimizer.clock.meetings.at("end", turn * ITERATIONS)
        while True:
            time.sleep(seconds)
            optimizer.step(float(world.rank))
            if "end" in optimizer.clock.due:
                break
        spent_s += time.perf_counter() - begun
        world.Barrier()
        for step in range(1, ITERATIONS + 1):
            time.sleep(seconds)
            if step % PERIOD == 0:
                if clock != "own":
                    world.Barrier()
                started = time.perf_counter()
                bare()
                times.append(time.perf_counter() - started)
    rounds, wait_s, comm_s = (
        after - begun
        for after, begun in zip(
            (optimizer.traffic.rounds, optimizer.traffic.wait_s, optimizer.traffic.comm_s),
            before,
            strict=True,
        )
    )
    comm_s -= counted[0]
    counting = counted[0] / optimizer.clock.step
    told = world.gather(
        (rounds / spent_s, wait_s / rounds, wait_s / spent_s, comm_s / rounds, np.median(times), counting)
    )
    if world.rank == 0:
        fast = told[:-1] if int(slow) else told
        rate, wait, share, comm, bare_s, count = (
            float(np.mean(column)) for column in zip(*fast, strict=True)
        )
        lost = comm + wait if clock == "own" else comm
        print(
            json.dumps(
                {
                    "rounds_per_s": rate,
                    "wait_ms": 1e3 * wait,
                    "share": share,
                    "count_us": 1e6 * count,
                    "comm_ms": 1e3 * comm,
                    "bare_ms": 1e3 * bare_s,
                    "ratio": lost / bare_s,
                }
            )
        )
    optimizer.finish()
    lsgd_mpi.shutdown()


def time_counting(clock: Any) -> list[float]:
    """The seconds, in a list of one, that ``clock`` spends from now on in the shared count, if it has one."""
    spent, count = [0.0], getattr(clock, "_count", None)

    def timed(amount: int) -> int:
        begun = time.perf_counter()
        total: int = count(amount)
        spent[0] += time.perf_counter() - begun
        return total

    if count is not None:
        clock._count = timed
    return spent


def bare_operation(mpi: Any, world: Any, method: str, clock: str) -> Callable[[], None]:
    """What a round of the method is made of, without this project."""
    x, received = torch.zeros(PARAMETERS), torch.zeros(PARAMETERS)
    if clock == "own":
        window = mpi.Win.Allocate(4 * PARAMETERS if world.rank == 0 else 0, 1, comm=world)

        def visit() -> None:
            window.Lock(0, mpi.LOCK_EXCLUSIVE)
            window.Get(received.numpy(), 0)
            window.Flush(0)
            if method == "easgd":
                difference = (x - received).mul_(ALPHA)
                x.sub_(difference)
                received.add_(difference)
            else:
                received.add_(x - received)
                x.copy_(received)
            window.Put(received.numpy(), 0)
            window.Unlock(0)

        return visit

    def together() -> None:
        if method == "pr-sgd":
            world.Allreduce(mpi.IN_PLACE, x.numpy())
            x.mul_(1.0 / world.size)
        elif world.rank == 0:
            world.Bcast(x.numpy(), root=0)
        else:
            world.Bcast(received.numpy(), root=0)
            x.lerp_(received, ALPHA)

    return together


def waiting() -> None:
    """Processor time of rank 0 while it waits for rank 1 in an election, and at the center's door."""
    _, world = start()
    import lsgd_mpi
    from lsgd_mpi import runtime

    communicator = runtime.communicator()
    center = communicator.center(torch.zeros(1000))
    world.Barrier()

    def measured(action: Callable[[], object]) -> tuple[float, float]:
        begun = (time.perf_counter(), time.thread_time(), time.process_time())
        action()
        ended = (time.perf_counter(), time.thread_time(), time.process_time())
        wall, own, process = (after - before for before, after in zip(begun, ended, strict=True))
        return own / wall, process / wall

    told = {}
    if world.rank == 0:
        told["in an election"] = measured(lambda: communicator.elect(1.0))
    else:
        time.sleep(WAIT_S)
        communicator.elect(1.0)
    world.Barrier()
    if world.rank == 1:
        center.exchange(lambda *_: time.sleep(WAIT_S))
    else:
        time.sleep(0.2)
        told["for the center's lock"] = measured(lambda: center.exchange(lambda *_: None))
    if world.rank == 0:
        print(json.dumps(told))
    world.Barrier()
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    main()
