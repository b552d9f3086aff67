"""Training with leader SGD against the same ranks that do not communicate at all.

python benchmarks/throughput.py
"""

from __future__ import annotations

import sys
import time

import torch
from common import Spread, environment_lines
from turns import in_turns, work_in_turns

#: name: (input shape, batch)
MODELS = {"mlp-11M": ((1, 28, 28), 32), "resnet20": ((3, 28, 28), 32)}
RANKS = {2: 1, 4: 2}
METHOD = {"local_period": 16, "global_period": 64}
#: One global round each.
SLICES, STEPS = 6, METHOD["global_period"]


def main() -> None:
    if len(sys.argv) > 1:
        worker(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    lines = ["# Throughput against no communication", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- leader SGD with local period {METHOD['local_period']}, global period {METHOD['global_period']};",
        "  two groups; 1 thread a rank, batch 32",
        f"- both jobs in turns, {SLICES} times {STEPS} iterations each, the other one stopped meanwhile;",
        "  without communication there is no Horovod in the process and no rank waits for another",
        "- the time of a job is that of the rank with the largest sum; the range is that of the turns",
        "- waiting: for the slower rank in elections, the mean of the ranks; transfer: broadcasts;",
        "  background: processor time of Horovod's and MPI's threads; all as shares of the job's time",
        "- not measured: two machines, GPUs",
        "",
        "| model | ranks | alone, images/s | leader SGD, images/s | ratio | range | target "
        "| waiting | transfer | background |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for model, (_, batch) in MODELS.items():
        for ranks, group in RANKS.items():
            measured = in_turns(ranks, SLICES, {kind: (kind, model, group) for kind in ("alone", "lsgd")})
            turns = [measured[kind][:, :, 0] for kind in ("alone", "lsgd")]
            alone, ours = (each.sum(axis=1).max() for each in turns)
            ratios = Spread.of(list(turns[0].max(axis=0) / turns[1].max(axis=0)))
            shares = measured["lsgd"].sum(axis=1).mean(axis=0) / ours
            images = ranks * batch * STEPS * SLICES
            print(
                f"| {model} | {ranks} | {images / alone:,.0f} | {images / ours:,.0f} | {alone / ours:.3f} "
                f"| {ratios.minimum:.3f} to {ratios.maximum:.3f} | 0.95 "
                f"| {shares[1]:.1%} | {shares[2]:.1%} | {shares[3]:.1%} |",
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


def worker(kind: str, name: str, group: int, folder: str) -> None:
    """Train one rank, `STEPS` iterations in each turn."""
    from mpi4py import MPI

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape, batch = MODELS[name]
    model = make_model(name, shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if kind == "lsgd":
        import lsgd_mpi

        lsgd_mpi.init(group, horovod_gives_way=True)
        optimizer = lsgd_mpi.DistributedOptimizer(optimizer, model, **METHOD)
    data, target = torch.randn(batch, *shape), torch.randint(10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step(loss) if kind == "lsgd" else optimizer.step()

    def clocks() -> list[float]:
        traffic = getattr(optimizer, "traffic", None)
        background = time.process_time() - time.thread_time()
        spent = [traffic.wait_s, traffic.comm_s] if traffic else [0.0, 0.0]
        return [time.perf_counter(), *spent, background]

    def slice_of_work() -> list[float]:
        start = clocks()
        for _ in range(STEPS):
            step()
        return [end - begin for begin, end in zip(start, clocks(), strict=True)]

    work_in_turns(MPI.COMM_WORLD.rank, folder, slice_of_work)


if __name__ == "__main__":
    main()
