"""Training with leader SGD against the same ranks that do not communicate at all.

python benchmarks/throughput.py
"""

from __future__ import annotations

import json
import sys
import time

import torch
from common import Spread, environment_lines
from ranks import on_ranks

#: name: (input shape, batch, steps a run)
MODELS = {
    "mlp-11M": ((1, 28, 28), 32, 128),
    "resnet20": ((3, 28, 28), 32, 64),
}
RANKS = {2: 1, 4: 2}
REPEATS = 4
METHOD = {"local_period": 16, "global_period": 64}


def main() -> None:
    if len(sys.argv) > 1:
        worker(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        return
    lines = ["# Throughput against no communication", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- leader SGD with local period {METHOD['local_period']}, global period {METHOD['global_period']};",
        "  two groups; 1 thread a rank, batch 32",
        f"- {REPEATS} pairs of runs in turn; without communication there is no Horovod in the process;",
        "  the slowest rank's time; ratios are within a pair",
        "- not measured: two machines, GPUs",
        "",
        "| model | ranks | alone, images/s | leader SGD, images/s | ratio, median | range | target |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for model, (_, batch, steps) in MODELS.items():
        for ranks, group in RANKS.items():
            pairs = [
                [on_ranks(ranks, kind, model, group) for kind in ("alone", "lsgd")] for _ in range(REPEATS)
            ]
            alone, ours = (
                Spread.of([ranks * batch * steps / pair[k] for pair in pairs]).median for k in (0, 1)
            )
            ratio = Spread.of([pair[0] / pair[1] for pair in pairs])
            print(
                f"| {model} | {ranks} | {alone:,.0f} | {ours:,.0f} | {ratio.median:.3f} "
                f"| {ratio.minimum:.3f} to {ratio.maximum:.3f} | 0.95 |",
                flush=True,
            )


def make_model(name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    from lsgd_mpi.models import build

    if name == "mlp-11M":
        layers = [
            torch.nn.Flatten(),
            torch.nn.Linear(784, 2816),
            torch.nn.ReLU(),
            torch.nn.Linear(2816, 3072),
        ]
        return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(3072, 10))
    return build(name, channels=shape[0], height=shape[1], width=shape[2], classes=10)


def worker(kind: str, name: str, group: int) -> None:
    """Train one rank and print the slowest rank's seconds."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape, batch, steps = MODELS[name]
    model = make_model(name, shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if kind == "lsgd":
        import lsgd_mpi

        lsgd_mpi.init(group)
        optimizer = lsgd_mpi.DistributedOptimizer(optimizer, model, **METHOD)
    data, target = torch.randn(batch, *shape), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step(loss) if kind == "lsgd" else optimizer.step()

    for _ in range(4):
        step()
    world.Barrier()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    slowest = world.allreduce(time.perf_counter() - start, op=MPI.MAX)
    if world.rank == 0:
        print(json.dumps(slowest))


if __name__ == "__main__":
    main()
