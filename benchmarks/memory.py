"""Memory of a rank beyond what plain training takes, in buffers of the parameters' size.

python benchmarks/memory.py
"""

from __future__ import annotations

import json
import resource
import sys

import torch
from common import environment_lines
from ranks import on_ranks

PARAMETERS = 50_000_000
RANKS = 2
STEPS = 4


def main() -> None:
    if len(sys.argv) > 1:
        worker(sys.argv[1])
        return
    lines = ["# Memory of a rank", "", *environment_lines(("torch", "mpi4py", "horovod"))]
    lines += [
        f"- {RANKS} ranks; {PARAMETERS:,} float32 parameters, gradients and momentum; {STEPS} steps, for",
        "  leader SGD with a round in each, and one evaluation of the average; the rank with the higher peak",
        "- plain training is measured with Horovod running, so that the difference is the method's",
        "- not measured: GPUs",
        "",
        "| training | peak resident memory, MB | beyond plain, in parameter buffers | target |",
        "|---|--:|--:|--:|",
    ]
    print("\n".join(lines))
    buffer = 4 * PARAMETERS
    plain = max(on_ranks(RANKS, "plain"))
    for kind, target in (("train", "1"), ("evaluate", "2")):
        peak = max(on_ranks(RANKS, kind))
        name = {"train": "leader SGD", "evaluate": "leader SGD, evaluated"}[kind]
        print(f"| {name} | {peak / 1e6:,.0f} | {(peak - plain) / buffer:.2f} | {target} |", flush=True)
    print(f"| plain | {plain / 1e6:,.0f} | 0 | |")


def worker(kind: str) -> None:
    """Train one rank and print every rank's peak resident bytes."""
    from mpi4py import MPI

    import lsgd_mpi

    lsgd_mpi.init([list(range(RANKS))])
    model = torch.nn.Linear(PARAMETERS, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, foreach=False)
    if kind != "plain":
        optimizer = lsgd_mpi.DistributedOptimizer(optimizer, model, local_period=1)
    data = torch.zeros(1, PARAMETERS).expand(1, -1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(data).sum() + lsgd_mpi.rank()
        loss.backward()
        optimizer.step(loss) if kind != "plain" else optimizer.step()
    if kind == "evaluate":
        with optimizer.evaluated_parameters():
            pass
    peaks = MPI.COMM_WORLD.gather(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if lsgd_mpi.rank() == 0:
        print(json.dumps(peaks))
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    main()
