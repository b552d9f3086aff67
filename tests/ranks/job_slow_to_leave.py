"""Under mpirun: world rank 0 goes on alone, after the last round, for longer than the stall time-out."""

import time

import torch

import lsgd_mpi

lsgd_mpi.init(stall_timeout_s=1.0)
model = torch.nn.Linear(3, 2)
optimizer = lsgd_mpi.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, local_period=1)
optimizer.step(1.0)
if lsgd_mpi.rank() == 0:
    time.sleep(4)
