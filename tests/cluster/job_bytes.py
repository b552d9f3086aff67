"""Under mpirun on two hosts: what each host sends over its link in ROUNDS rounds, as JSON.

In global rounds of leader SGD for each leader, by world rank, in local ones, and in visits of a center.
"""

import json
import platform
import sys
import time
from pathlib import Path

import torch
from torch import nn

import lsgd_mpi
from lsgd_mpi import runtime

PARAMETERS = 1_000_000
ROUNDS = 5


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(PARAMETERS))


def sent_bytes():
    return int(Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())


def measure(leader, method="lsgd", **options):
    """Bytes by host name, and where each rank stands in the end; rank r begins at r."""
    communicator = runtime.communicator()
    model = Flat()
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = lsgd_mpi.DistributedOptimizer(inner, model, method, **options)
    with torch.no_grad():
        model.weight.fill_(float(lsgd_mpi.rank()))
    model.weight.grad = torch.zeros(PARAMETERS)
    optimizer.zero_grad(set_to_none=False)
    communicator.barrier()
    # What the barrier itself sends is not of the rounds.
    time.sleep(0.1)
    before = sent_bytes()
    # Nobody begins before all have looked.
    communicator.barrier()
    for _ in range(ROUNDS):
        optimizer.step(0.0 if lsgd_mpi.rank() == leader else 1.0)
    communicator.barrier()
    time.sleep(0.1)
    sent = communicator.gather((platform.node(), sent_bytes() - before))
    stands = communicator.gather(float(model.weight.detach()[0]))
    optimizer.finish()
    return {"leader": leader, "sent": dict(sent), "stands": stands}


def main():
    lsgd_mpi.init("node", stall_timeout_s=60)
    size = lsgd_mpi.size()
    pulled = {"local_pull": 1.0, "global_pull": 1.0, "loss_window": 1}
    measure(0, local_period=1, global_period=1, **pulled)  # sets up connections
    result = {
        "hosts": runtime.topology().hosts,
        "groups": runtime.topology().groups,
        "global": [measure(leader, local_period=1, global_period=1, **pulled) for leader in range(size)],
        "local": measure(0, local_period=1, global_period=1_000_000, **pulled),
        "visits": measure(0, "easgd", clock="own", local_period=1),
    }
    if lsgd_mpi.rank() == 0:
        print(json.dumps(result), flush=True)
    lsgd_mpi.shutdown()


if __name__ == "__main__":
    sys.exit(main())
