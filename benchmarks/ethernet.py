"""Methods over Ethernet: two nodes with a link of 1 Gbit/s, against the same ranks without communication.

python benchmarks/ethernet.py [--ranks-a-node N] [--cycles N] [--method NAME] [--clock CLOCK] [--batch N]
    [MODEL ...]
python benchmarks/ethernet.py --rounds

Needs root: the nodes are network namespaces (tests/cluster).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Spread, environment_lines
from ranks import seen_to_end
from throughput import make_model
from turns import Job, Start, connected, stopped_job

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "cluster"))

GBITS_PER_S = 1
#: name: (input shape, images a rank and iteration)
MODELS = {"mlp-11M": ((1, 28, 28), 128), "resnet20": ((3, 28, 28), 32)}
RANKS_A_NODE = (1, 2)
WARM_UP = 8
#: The jobs take turns of so many seconds.
SLICE_S = 0.25
#: Parameters of the rounds that are measured by themselves, and how many of each.
SIZES, ROUNDS = (10_895_114, 269_722), 8
GLOBAL_PULL, LOCAL_PULL, AVERAGE, VISIT = "global pull", "local pull", "average", "visit from the other node"
STALL_S, END_S = 120, 60


@dataclass(frozen=True)
class Method:
    """A method of the table, and how many ``iterations`` are measured at a time: whole periods, or none."""

    name: str
    algorithm: str
    iterations: int
    local_period: int = 1
    global_period: int | None = None
    clocks: tuple[str, ...] = ("step", "shared")

    @property
    def period(self) -> int:
        """Iterations from one exchange of all ranks to the next."""
        return self.global_period or self.local_period

    @property
    def options(self) -> dict[str, int]:
        """For `lsgd_mpi.DistributedOptimizer`."""
        if self.algorithm == "allreduce":
            return {}
        outer = {} if self.global_period is None else {"global_period": self.global_period}
        return {"local_period": self.local_period, **outer}


#: More iterations than are ever made.
NEVER = 10**9
METHODS = (
    Method("Horovod, no rounds", "lsgd", 64, local_period=NEVER, global_period=NEVER, clocks=("step",)),
    Method("allreduce", "allreduce", 8, clocks=("step",)),
    Method("lsgd, τ_G 4", "lsgd", 16, local_period=4, global_period=4),
    Method("lsgd, τ_G 16", "lsgd", 32, local_period=16, global_period=16),
    Method("pr-sgd, τ 16", "pr-sgd", 32, local_period=16),
    Method("easgd, τ 16", "easgd", 32, local_period=16),
    Method("downpour, τ 16", "downpour", 32, local_period=16),
    Method("lsgd, τ 64, τ_G 128", "lsgd", 128, local_period=64, global_period=128),
)
#: (model, method, clock): the share of the rate without communication that it has to reach
TARGETS = {("mlp-11M", METHODS[-1].name, "step"): 0.97}


@dataclass(frozen=True)
class Measured:
    """What the ranks of a job did in a turn: arrays of one number a rank."""

    steps: np.ndarray[Any, Any]
    spent_s: np.ndarray[Any, Any]
    comm_s: np.ndarray[Any, Any]
    wait_s: np.ndarray[Any, Any]
    #: Processor time of a rank's other threads, which are Horovod's, while it computes.
    others_s: np.ndarray[Any, Any]

    @classmethod
    def of(cls, ranks: list[tuple[int, float, float, float, float]]) -> Measured:
        """From what each rank sent."""
        return cls(*np.array(ranks, dtype=np.float64).T)

    @property
    def steps_per_s(self) -> float:
        """The sum of the ranks' own rates."""
        return float((self.steps / self.spent_s).sum())


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(Path(sys.argv[2]), *sys.argv[3:])
        return
    if sys.argv[1:2] == ["rounds"]:
        measure_rounds(Path(sys.argv[2]), sys.argv[3] == "1")
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=[*MODELS])
    parser.add_argument("--ranks-a-node", type=int, choices=RANKS_A_NODE, action="append")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--method", choices=[method.name for method in METHODS], action="append")
    parser.add_argument("--clock", choices=("step", "shared"))
    parser.add_argument(
        "--rounds", action="store_true", help="rounds by themselves, beside the model of costs"
    )
    parser.add_argument("--batch", type=int, help="images a rank and iteration, in place of the model's")
    asked = parser.parse_args()
    if asked.rounds:
        print_rounds()
        return
    lines = [
        f"# Over Ethernet of {GBITS_PER_S} Gbit/s",
        "",
        *environment_lines(("torch", "mpi4py", "horovod")),
        "- two nodes: network namespaces with half of this machine's cores each, joined by a link of",
        f"  {GBITS_PER_S} Gbit/s each way (tc's token buckets, as in tests/cluster); 1 thread a rank",
        f"- each method's job and one without communication in slices of {SLICE_S:g} s, the other one",
        "  stopped meanwhile, its clock too; what is in the kernel's buffers goes on over the link; one",
        "  group a node",
        "- images/s: the sum of the ranks' own rates, times the share; share: of the rate without",
        f"  communication in the slices between, the median and the range of {asked.cycles} turns",
        "- transfer, waiting: seconds of all ranks in them, as a share of the time; a round: ms of a rank in",
        "  transfers, in each period τ_G or τ (with the local rounds in it), the mean; of `allreduce` with",
        "  its waiting, on the shared clock with the count; predicted: by the model of `lsgd-mpi cost`",
        "- Horovod: what its threads take from the cores while the ranks compute, as a share of the cores'",
        "  time; of `allreduce` with its transfers in the backward pass",
        "- not measured: real network cards and switches; nodes with a core to spare for Horovod's threads",
        "",
    ]
    print("\n".join(lines), flush=True)
    rows = [
        (method, clock)
        for method in METHODS
        if asked.method is None or method.name in asked.method
        for clock in method.clocks
        if asked.clock in (None, clock)
    ]
    for model in asked.models:
        for a_node in asked.ranks_a_node or RANKS_A_NODE:
            print_table(model, asked.batch or MODELS[model][1], a_node, rows, asked.cycles)


def print_table(model: str, batch: int, a_node: int, rows: list[tuple[Method, str]], cycles: int) -> None:
    """Measure on so many ranks a node, and print a Markdown table under a heading."""
    parameters = sum(each.numel() for each in make_model(model, MODELS[model][0]).parameters())
    print(f"## {model}, {parameters:,} parameters, batch {batch}, 2 nodes with {a_node} rank(s) each\n")
    columns = "method", "clock", "images/s", "share", "range", "target", "transfer", "waiting", "Horovod"
    print(f"| {' | '.join([*columns, 'a round, ms', 'predicted'])} |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    with ExitStack() as stack:
        nodes = stack.enter_context(two_nodes())
        cores_a_node = max(1, len(os.sched_getaffinity(0)) // len(nodes.names))
        alone = stack.enter_context(started(nodes, a_node, model, batch))
        rates_alone = []
        for method, clock in rows:
            with started(nodes, a_node, model, batch, METHODS.index(method), clock) as job:
                turns = [one_turn(job, alone) for _ in range(cycles)]
            beside = [without.steps_per_s * batch for _, without in turns]
            rates_alone += beside
            shares = Spread.of([own.steps_per_s / without.steps_per_s for own, without in turns])
            spent_s, comm_s, wait_s, others_s, steps = (
                sum(getattr(own, what).sum() for own, _ in turns)
                for what in ("spent_s", "comm_s", "wait_s", "others_s", "steps")
            )
            cores_s = spent_s / a_node * cores_a_node
            predicted_s = predicted_round_s(method, clock, 4 * parameters, a_node)
            print(
                f"| {method.name} | {clock} | {shares.median * Spread.of(beside).median:,.0f} "
                f"| {shares.median:.3f} | {shares.minimum:.3f} to {shares.maximum:.3f} "
                f"| {TARGETS.get((model, method.name, clock), '')} "
                f"| {comm_s / spent_s:.1%} | {wait_s / spent_s:.1%} | {others_s / cores_s:.1%} "
                f"| {1e3 * comm_s * method.period / steps:.1f} "
                f"| {'' if predicted_s is None else f'{1e3 * predicted_s:.1f}'} |",
                flush=True,
            )
    alone_rate = Spread.of(rates_alone)
    print(
        f"\nWithout communication {alone_rate.median:,.0f} images/s "
        f"({alone_rate.minimum:,.0f} to {alone_rate.maximum:,.0f}).\n",
        flush=True,
    )


def print_rounds() -> None:
    """Measure rounds by themselves beside what the model of `lsgd-mpi cost` says, as a Markdown table."""
    print(
        "| round | parameters | ranks a node | measured, ms | range | predicted, ms | measured / predicted |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for a_node in RANKS_A_NODE:
        for one_sided in (False, True):
            with two_nodes() as nodes, tempfile.TemporaryDirectory() as folder:
                with seen_to_end(*launched(nodes, a_node, "rounds", folder, int(one_sided)), END_S) as job:
                    job.communicate(timeout=STALL_S)
                told = json.loads((Path(folder) / "rounds").read_text())
            for kind, parameters, times_s in told:
                measured, predicted = Spread.of(times_s), predicted_s(kind, 4 * parameters, a_node)
                print(
                    f"| {kind} | {parameters:,} | {a_node} | {1e3 * measured.median:.1f} "
                    f"| {1e3 * measured.minimum:.1f} to {1e3 * measured.maximum:.1f} "
                    f"| {1e3 * predicted:.1f} | {measured.median / predicted:.2f} |",
                    flush=True,
                )


def measure_rounds(folder: Path, one_sided: bool) -> None:
    """On a rank: rounds of each kind one after the other, each until the last rank has done it."""
    import lsgd_mpi
    from lsgd_mpi import runtime

    own_cores()
    torch.set_num_threads(1)
    lsgd_mpi.init("node", stall_timeout_s=STALL_S, horovod_gives_way=not one_sided)
    communicator = runtime.communicator()
    me, size = lsgd_mpi.rank(), lsgd_mpi.size()
    members = communicator.topology.members_of(me)
    flat, center = torch.empty(0), None

    def hold(kind: str, number: int) -> None:
        if kind == GLOBAL_PULL:
            communicator.broadcast(flat, number % size, "global")
        elif kind == LOCAL_PULL:
            communicator.broadcast(flat, members[number % len(members)], "local")
        elif kind == AVERAGE:
            communicator.average(flat, "global")
        elif center is not None and me == size - 1:
            # The vectors go there and back as they are.
            center.exchange(lambda *_: None)

    kinds = [VISIT] if one_sided else [GLOBAL_PULL, AVERAGE, *([LOCAL_PULL] if len(members) > 1 else [])]
    found: list[tuple[str, int, list[float]]] = []
    for parameters in SIZES:
        flat = torch.zeros(parameters)
        center = communicator.center(flat) if one_sided else None
        for kind in kinds:
            times = []
            for number in range(ROUNDS + 1):
                communicator.barrier()
                begun = time.perf_counter()
                hold(kind, number)
                spans = communicator.gather((begun, time.perf_counter()))
                # From the last one that came to the last one that is done: here they have one clock.
                begins, ends = zip(*(spans[-1:] if kind == VISIT else spans), strict=True)
                times.append(max(ends) - max(begins))
            # The first one sets up connections.
            found.append((kind, parameters, times[1:]))
    if me == 0:
        (folder / "rounds").write_text(json.dumps(found))
    lsgd_mpi.shutdown()


def predicted_s(kind: str, nbytes: int, a_node: int) -> float:
    """What `lsgd-mpi cost` takes for a round by itself."""
    from lsgd_mpi.cost import Cluster, average_s, pull_s, visit_s

    cluster = Cluster(nodes=2, ranks=a_node, gbit_per_s=GBITS_PER_S)
    if kind == LOCAL_PULL:
        return pull_s(replace(cluster, nodes=1), nbytes)
    return {GLOBAL_PULL: pull_s, AVERAGE: average_s, VISIT: visit_s}[kind](cluster, nbytes)


def predicted_round_s(method: Method, clock: str, nbytes: int, a_node: int) -> float | None:
    """What `lsgd-mpi cost` takes for the transfers of a global period; None for what it has no number of."""
    from lsgd_mpi.algorithms import find_algorithm

    pattern = find_algorithm(method.algorithm, clock).pattern
    if clock != "step" or pattern == "gradients" or method.local_period == NEVER:
        return None
    if pattern == "average":
        return predicted_s(AVERAGE, nbytes, a_node)
    local_rounds = method.period / method.local_period if a_node > 1 else 0
    return predicted_s(GLOBAL_PULL, nbytes, a_node) + local_rounds * predicted_s(LOCAL_PULL, nbytes, a_node)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Two hosts of network namespaces, and the link between them."""
    import testbed

    reason = testbed.why_not()
    if reason:
        raise SystemExit(f"no nodes can be made: {reason}")
    with tempfile.TemporaryDirectory() as folder, testbed.cluster(folder, rate=f"{GBITS_PER_S}gbit") as nodes:
        yield nodes


def launched(nodes: Any, a_node: int, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The command that starts this program on the nodes, and its environment."""
    launch = [sys.executable, "-m", "lsgd_mpi", "launch", "--interface", nodes.subnet]
    launch += ["--hosts", ",".join(f"{name}:{a_node}" for name in nodes.names)]
    launch += ["--ssh-agent", str(nodes.agent), "--", "python", str(Path(__file__).resolve())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return nodes.words(nodes.names[0], [*launch, *map(str, arguments)]), environment


@contextmanager
def started(nodes: Any, a_node: int, *arguments: object) -> Iterator[Job]:
    """The ranks of a job on the two nodes, warm and stopped."""
    with tempfile.TemporaryDirectory() as folder:
        start: Start = seen_to_end(*launched(nodes, a_node, "worker", folder, *arguments), END_S)
        with stopped_job(Path(folder), len(nodes.names) * a_node, start) as job:
            yield job


def one_turn(job: Job, alone: Job) -> tuple[Measured, Measured]:
    """The iterations that a method is measured with, and what the job without communication did between."""
    so_far(alone)
    for connection in job.connections:
        connection.send("go")
    left = list(job.connections)
    while left:
        with job.turn():
            until = time.monotonic() + SLICE_S
            while left and (remains := until - time.monotonic()) > 0:
                ready = wait(left, remains)
                left = [connection for connection in left if connection not in ready]
        with alone.turn():
            time.sleep(SLICE_S)
    return Measured.of([connection.recv() for connection in job.connections]), so_far(alone)


def so_far(alone: Job) -> Measured:
    """What the job without communication has done since this was asked last."""
    with alone.turn():
        for connection in alone.connections:
            connection.send("so far")
        return Measured.of([connection.recv() for connection in alone.connections])


class Training:
    """One rank's, of a model on a batch that stays the same."""

    def __init__(self, model: str, batch: int) -> None:
        shape, _ = MODELS[model]
        torch.set_num_threads(1)
        torch.manual_seed(1)
        self.model = make_model(model, shape)
        self.images, self.labels = torch.randn(batch, *shape), torch.randint(10, (batch,))
        self.optimizer: Any = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        #: Processor time of the other threads in forward and backward passes so far.
        self.others_s = 0.0

    def step(self) -> None:
        """One iteration."""
        begun = _others_s()
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.others_s += _others_s() - begun
        self.optimizer.step(loss) if hasattr(self.optimizer, "traffic") else self.optimizer.step()


def _others_s() -> float:
    return time.process_time() - time.thread_time()


def own_cores() -> None:
    """Take those that this node has to itself: the names of the nodes end with their numbers."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[int(platform.node()[-1]) % 2 :: 2] or cores)


def worker(folder: Path, model: str, batch: str, number: str | None = None, clock: str = "step") -> None:
    """One rank of a job: of a method, or without communication."""
    own_cores()
    training = Training(model, int(batch))
    if number is None:
        train_alone(folder, training)
    else:
        train(folder, training, METHODS[int(number)], clock)


def train_alone(folder: Path, training: Training) -> None:
    """Iterations without end; says how many, and in what time, when it is asked."""
    from mpi4py import MPI

    for _ in range(WARM_UP):
        training.step()
    with connected(folder, MPI.COMM_WORLD.rank) as driver:
        steps, begun, ended = 0, time.perf_counter(), time.perf_counter()
        while True:
            while driver.poll():
                if driver.recv() is None:
                    return
                driver.send((steps, ended - begun, 0.0, 0.0, training.others_s))
                steps, begun, training.others_s = 0, ended, 0.0
            training.step()
            steps, ended = steps + 1, time.perf_counter()


def train(folder: Path, training: Training, method: Method, clock: str) -> None:
    """So many iterations whenever it is asked, on the shared clock of the average rank."""
    import lsgd_mpi

    gives_way = clock == "step" and method.algorithm != "allreduce"
    lsgd_mpi.init("node", stall_timeout_s=STALL_S, horovod_gives_way=gives_way)
    training.optimizer = optimizer = lsgd_mpi.DistributedOptimizer(
        training.optimizer, training.model, method.algorithm, clock=clock, **method.options
    )
    made = 0

    def run(iterations: int) -> tuple[int, float, float, float, float]:
        nonlocal made
        made += iterations
        optimizer.clock.meetings.at("end", made)
        comm_s, wait_s = optimizer.traffic.comm_s, optimizer.traffic.wait_s
        steps, begun, training.others_s = 0, time.perf_counter(), 0.0
        while "end" not in optimizer.clock.due or steps == 0:
            training.step()
            steps += 1
        spent_s = time.perf_counter() - begun
        sent_s, waited_s = optimizer.traffic.comm_s - comm_s, optimizer.traffic.wait_s - wait_s
        return steps, spent_s, sent_s, waited_s, training.others_s

    # Connections, caches and Horovod's memory of names.
    run(max(WARM_UP, min(method.period, method.iterations)))
    with connected(folder, lsgd_mpi.rank()) as driver:
        while driver.recv() is not None:
            driver.send(run(method.iterations))
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    main()
