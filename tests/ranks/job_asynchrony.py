"""Under mpirun: trainings on a clock, and contention for a center; rank 0 prints what became of each as JSON.

Usage: job_asynchrony.py JSON, a list of ["train", algorithm, clock, options, iterations, slowness] and of
["contend", exchanges, length]. In a training the last rank is so many times as slow; an iteration sleeps, so
that more ranks than cores do not slow each other down.
"""

import json
import sys
import time

import torch
from contention import contend

import lsgd_mpi
from lsgd_mpi import runtime

STEP_S = 0.004


def train(communicator, algorithm, clock, options, iterations, slowness):
    """Each rank's share of the time spent waiting, its iterations and rounds."""
    model = torch.nn.Linear(1000, 1)
    optimizer = lsgd_mpi.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01), model, algorithm, clock=clock, **options
    )
    seconds = STEP_S * (slowness if lsgd_mpi.rank() == lsgd_mpi.size() - 1 else 1)
    optimizer.clock.meetings.at("end", iterations)
    communicator.barrier()
    waited, rounds, begun = optimizer.traffic.wait_s, optimizer.traffic.rounds, time.perf_counter()
    while "end" not in optimizer.clock.due:
        if not optimizer.trains:
            optimizer.attend()
            continue
        time.sleep(seconds)
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step(1.0)
    spent = time.perf_counter() - begun
    told = {
        "waiting": (optimizer.traffic.wait_s - waited) / spent,
        "steps": optimizer.clock.step if optimizer.trains else 0,
        "total_steps": optimizer.clock.total_steps,
        "rounds": optimizer.traffic.rounds - rounds,
    }
    optimizer.finish()
    return communicator.gather(told)


lsgd_mpi.init()
kinds = {"train": train, "contend": contend}
results = [kinds[kind](runtime.communicator(), *rest) for kind, *rest in json.loads(sys.argv[1])]
if lsgd_mpi.rank() == 0:
    print(json.dumps(results))
lsgd_mpi.shutdown()
