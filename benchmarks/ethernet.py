"""Methods over Ethernet: two nodes with a link of 1 Gbit/s, against the same ranks without communication.

python benchmarks/ethernet.py [--ranks-a-node N] [--cycles N] [MODEL ...]

Needs root: the nodes are network namespaces (tests/cluster).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Spread, environment_lines
from throughput import make_model

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "cluster"))

GBITS_PER_S = 1
#: name: (input shape, images a rank and iteration)
MODELS = {"mlp-11M": ((1, 28, 28), 128), "resnet20": ((3, 28, 28), 32)}
RANKS_A_NODE = (1, 2)
STALL_S, LIMIT_S = 120, 1500

NONE = "no communication"
#: (name, algorithm, clocks, options, iterations at a time)
METHODS: tuple[tuple[str, str, tuple[str, ...], dict[str, int], int], ...] = (
    ("allreduce", "allreduce", ("step",), {}, 8),
    ("lsgd, τ_G 4", "lsgd", ("step", "shared"), {"local_period": 4, "global_period": 4}, 16),
    ("lsgd, τ_G 16", "lsgd", ("step", "shared"), {"local_period": 16, "global_period": 16}, 32),
    ("pr-sgd, τ 16", "pr-sgd", ("step", "shared"), {"local_period": 16}, 32),
    ("easgd, τ 16", "easgd", ("step", "shared"), {"local_period": 16}, 32),
    ("downpour, τ 16", "downpour", ("step", "shared"), {"local_period": 16}, 32),
    ("lsgd, τ 64, τ_G 128", "lsgd", ("step", "shared"), {"local_period": 64, "global_period": 128}, 128),
)
#: Of the last method on the larger model.
TARGET = 0.97


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=[*MODELS])
    parser.add_argument("--ranks-a-node", type=int, choices=RANKS_A_NODE, action="append")
    parser.add_argument("--cycles", type=int, default=2)
    asked = parser.parse_args()
    lines = [
        f"# Over Ethernet of {GBITS_PER_S} Gbit/s",
        "",
        *environment_lines(("torch", "mpi4py", "horovod")),
        "- two nodes: network namespaces of this machine, which share its cores, joined by a link of",
        f"  {GBITS_PER_S} Gbit/s each way (tc's token buckets, as in tests/cluster); 1 thread a rank",
        f"- all methods in one job, in turns ({asked.cycles} of them), and without communication before and",
        "  after each of them; one group a node",
        "- images/s: the sum of the ranks' own rates; share: of the rate without communication around it,",
        "  and its range over the turns",
        "- transfer, waiting: seconds of all ranks in them, as a share of the time; a round: ms of a rank in",
        "  transfers, in each period τ_G or τ (with the local rounds in it), the mean; of `allreduce` with",
        "  its waiting; predicted: by the model of `lsgd-mpi cost` with its defaults",
        "- not measured: real network cards and switches; nodes with cores of their own",
        "",
    ]
    print("\n".join(lines), flush=True)
    for model in asked.models:
        for a_node in asked.ranks_a_node or RANKS_A_NODE:
            print(table(model, a_node, asked.cycles), flush=True)


def table(model: str, a_node: int, cycles: int) -> str:
    """The measurements on so many ranks a node, as a Markdown table under a heading."""
    told = on_two_nodes(model, a_node, cycles)
    batch = MODELS[model][1]
    heading = f"{model}, {told['parameters']:,} parameters, batch {batch}, 2 nodes with {a_node} rank(s) each"
    lines = [
        f"## {heading}",
        "",
        "| method | clock | images/s | share | range | target | transfer | waiting | a round, ms "
        "| predicted |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    alone = Spread.of([rate for turns in told["alone"] for rate in turns]).median
    lines.append(f"| {NONE} | | {alone:,.0f} | 1 | | | | | | |")
    for entry in told["methods"]:
        shares = Spread.of(entry["shares"])
        is_aimed = (model, entry["name"], entry["clock"]) == ("mlp-11M", METHODS[-1][0], "step")
        predicted_s = predicted_round_s(entry, told["parameters"] * 4, a_node)
        lines.append(
            f"| {entry['name']} | {entry['clock']} | {shares.median * alone:,.0f} | {shares.median:.3f} "
            f"| {shares.minimum:.3f} to {shares.maximum:.3f} | {TARGET if is_aimed else ''} "
            f"| {entry['transfer']:.1%} | {entry['waiting']:.1%} | {entry['round_ms']:.1f} "
            f"| {'' if predicted_s is None else f'{1e3 * predicted_s:.1f}'} |"
        )
    return "\n".join([*lines, ""])


def predicted_round_s(entry: dict[str, Any], nbytes: int, a_node: int) -> float | None:
    """What `lsgd-mpi cost` takes for the transfers of a global period; None for what it has no number of."""
    from dataclasses import replace

    from lsgd_mpi.algorithms import find_algorithm
    from lsgd_mpi.cost import Cluster, average_s, pull_s

    pattern = find_algorithm(entry["algorithm"], entry["clock"]).pattern
    # On the shared clock the seconds of the count are in the transfers, and with gradients waiting is.
    if entry["clock"] != "step" or pattern == "gradients":
        return None
    cluster = Cluster(nodes=2, ranks=a_node, gbit_per_s=GBITS_PER_S)
    if pattern == "average":
        return average_s(cluster, nbytes)
    local_rounds = entry["global_period"] / entry["local_period"] if a_node > 1 else 0
    return pull_s(cluster, nbytes) + local_rounds * pull_s(replace(cluster, nodes=1), nbytes)


def on_two_nodes(model: str, a_node: int, cycles: int) -> Any:
    """What rank 0 of a job on two nodes printed, as JSON."""
    import testbed

    reason = testbed.why_not()
    if reason:
        raise SystemExit(f"no nodes can be made: {reason}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder, testbed.cluster(folder, rate=f"{GBITS_PER_S}gbit") as nodes:
        where = ",".join(f"{name}:{a_node}" for name in nodes.names)
        launch = [sys.executable, "-m", "lsgd_mpi", "launch", "--hosts", where, "--interface", nodes.subnet]
        # launch cannot know that these hosts share their cores.
        launch += ["--launcher-option", "--mca mpi_yield_when_idle 1"]
        program = ["python", Path(__file__).resolve(), "worker", model, cycles]
        done = subprocess.run(
            nodes.words(nodes.names[0], [*launch, "--ssh-agent", nodes.agent, "--", *program]),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


class Training:
    """One method on a model and a batch of this rank."""

    def __init__(self, model: str, algorithm: str | None, clock: str, options: dict[str, int]) -> None:
        import lsgd_mpi

        shape, batch = MODELS[model]
        torch.manual_seed(1)
        self.model = make_model(model, shape)
        self.images, self.labels = torch.randn(batch, *shape), torch.randint(10, (batch,))
        self.optimizer: Any = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.algorithm = algorithm
        self.periods = {"global_period": options.get("local_period", 1), **options}
        if algorithm is not None:
            self.optimizer = lsgd_mpi.DistributedOptimizer(
                self.optimizer, self.model, algorithm, clock=clock, **options
            )
        self.made = 0

    def run(self, iterations: int) -> dict[str, float]:
        """So many iterations, on the shared clock of the average rank; what they took this rank."""
        traffic = None if self.algorithm is None else self.optimizer.traffic
        before = None if traffic is None else (traffic.comm_s, traffic.wait_s)
        if self.algorithm is not None:
            self.made += iterations
            self.optimizer.clock.meetings.at("end", self.made)
        begun, steps = time.perf_counter(), 0
        while True:
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(self.images), self.labels)
            loss.backward()
            steps += 1
            if self.algorithm is None:
                self.optimizer.step()
                if steps == iterations:
                    break
            else:
                self.optimizer.step(loss)
                if "end" in self.optimizer.clock.due:
                    break
        spent_s = time.perf_counter() - begun
        told = {"images_per_s": steps * len(self.images) / spent_s, "spent_s": spent_s, "steps": steps}
        if traffic is None or before is None:
            return {**told, "comm_s": 0.0, "wait_s": 0.0}
        comm_s, wait_s = before
        return {**told, "comm_s": traffic.comm_s - comm_s, "wait_s": traffic.wait_s - wait_s}


def worker(model: str, cycles: int) -> None:
    """All methods in turns; rank 0 prints what came out."""
    import lsgd_mpi
    from lsgd_mpi import runtime

    torch.set_num_threads(1)
    lsgd_mpi.init("node", stall_timeout_s=STALL_S)
    communicator = runtime.communicator()
    alone = Training(model, None, "step", {})
    trainings = [
        (name, clock, Training(model, algorithm, clock, options), iterations)
        for name, algorithm, clocks, options, iterations in METHODS
        for clock in clocks
    ]

    def everyone(training: Training, iterations: int) -> list[dict[str, float]]:
        communicator.barrier()
        return communicator.gather(training.run(iterations))

    # Connections, caches and Horovod's memory of names.
    alone.run(2)
    for *_, training, iterations in trainings:
        everyone(training, min(iterations, 16))
    rates_alone: list[list[float]] = []
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "algorithm": training.algorithm,
            "clock": clock,
            **training.periods,
            "shares": [],
            "ranks": [],
        }
        for name, clock, training, _ in trainings
    ]
    for _ in range(cycles):
        rates_alone.append([])
        for entry, (_, _, training, iterations) in zip(found, trainings, strict=True):
            # Before and after, since the cores' speed drifts.
            around = [total(everyone(alone, 8))]
            ranks = everyone(training, iterations)
            around.append(total(everyone(alone, 8)))
            entry["shares"].append(total(ranks) / (sum(around) / 2))
            entry["ranks"] += ranks
            rates_alone[-1] += around
    for entry in found:
        ranks = entry.pop("ranks")
        spent_s = sum(each["spent_s"] for each in ranks)
        comm_s = sum(each["comm_s"] for each in ranks)
        entry["transfer"] = comm_s / spent_s
        entry["waiting"] = sum(each["wait_s"] for each in ranks) / spent_s
        entry["round_ms"] = 1e3 * comm_s * entry["global_period"] / sum(each["steps"] for each in ranks)
    if lsgd_mpi.rank() == 0:
        parameters = sum(each.numel() for each in alone.model.parameters())
        print(json.dumps({"parameters": parameters, "alone": rates_alone, "methods": found}), flush=True)
    lsgd_mpi.shutdown()


def total(ranks: list[dict[str, float]]) -> float:
    return sum(each["images_per_s"] for each in ranks)


if __name__ == "__main__":
    main()
