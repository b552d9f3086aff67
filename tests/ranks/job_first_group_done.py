"""Under mpirun: one group is done, and calls shutdown, long before the other has held its last round."""

import time

import torch

import lsgd_mpi

lsgd_mpi.init([[0, 1], [2, 3]])
model = torch.nn.Linear(3, 2)
optimizer = lsgd_mpi.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.1), model, local_period=1, global_period=1000
)
for _ in range(10):
    if lsgd_mpi.rank() > 1:
        time.sleep(0.2)
    optimizer.step(1.0)
lsgd_mpi.shutdown()
