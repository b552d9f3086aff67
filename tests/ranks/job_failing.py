"""Under mpirun: an ordinary training script that fails in the way its argument names."""

import os
import signal
import sys
import time

if sys.argv[1] == "broken-promise":
    # As if the mpirun of another MPI library had started it: each process is then alone.
    os.environ["OMPI_COMM_WORLD_SIZE"] = "7"

import torch
from torch import nn

import lsgd_mpi
from lsgd_mpi import comm, runtime

STALL_TIMEOUT_S = 3.0
METHOD = os.environ.get("LSGD_TEST_METHOD", "lsgd")


def disagree(world_rank):
    """What this rank does differently from the others."""
    odd = world_rank == 1
    return {
        "groups": [[0], [1]] if odd else [[0, 1]],
        "outputs": 3 if odd else 2,
        "local_period": 5 if odd else 1,
    }


def main(failure):
    world_rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    chosen = disagree(world_rank if failure.startswith("different") else 0)
    groups = chosen["groups"] if failure == "different-groups" else "node"
    if failure == "late":
        runtime.START_TIMEOUT_S = STALL_TIMEOUT_S
        runtime.watch_start()
        if world_rank == 1:
            print(f"in step 5 at {time.monotonic()}", flush=True)
            time.sleep(1000)
        comm.check_equal("options", failure)
    lsgd_mpi.init(groups, stall_timeout_s=STALL_TIMEOUT_S)
    model = nn.Linear(3, chosen["outputs"] if failure == "different-models" else 2)
    period = chosen["local_period"] if failure == "different-options" else 1
    optimizer = lsgd_mpi.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        model,
        METHOD,
        **({} if METHOD == "allreduce" else {"local_period": period}),
    )
    for step in range(1, 10_000):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).square().mean()
        loss.backward()
        if step == 5:
            print(f"in step 5 at {time.monotonic()}", flush=True)
            if failure == "no-finite-loss":
                loss = loss * float("nan")
            if world_rank == 1 and failure == "exception":
                raise RuntimeError("this worker broke")
            if world_rank == 1 and failure == "left-early":
                sys.exit(0)
            if world_rank == 1 and failure == "hangs":
                time.sleep(1000)
            if world_rank == 1 and failure == "usage-error-of-one":
                optimizer.step()
            if world_rank == 1 and failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step(loss)
    raise AssertionError("it should have failed")


main(sys.argv[1])
