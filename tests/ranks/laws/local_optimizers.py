"""Methods over other optimizers than SGD: Adam and LARS."""

import numpy as np
import torch
from descent import Bowl, Descent, assert_equal_on_all, assert_path, gradients, starts
from harness import Tiny, assert_same_bits, case, give_gradient, start_of, values, write

import lsgd_mpi


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.05)


def lars(parameters):
    return lsgd_mpi.LARS(parameters, lr=0.1, momentum=0.9, weight_decay=0.01, trust=0.5)


@case
def lsgd_over_adam_without_pull_is_as_many_runs_of_adam(ranks):
    no_pull = {"local_pull": 0.0, "global_pull": 0.0, "local_period": 2, "global_period": 3}
    worker = Descent(ranks, "lsgd", adam, **no_pull)
    plain, bowl = Tiny(), Bowl(ranks.rank)
    write(plain, start_of(ranks.rank))
    twin = adam(plain.parameters())
    for step in range(10):
        give_gradient(plain, torch.from_numpy(bowl.gradient(values(plain).numpy(), step)))
        twin.step()
        worker.run(1)
        assert_same_bits(worker.values, values(plain))
    assert worker.optimizer.rounds


@case
def lsgd_over_adam_pulls_parameters_and_never_adams_moments(ranks):
    worker = Descent(ranks, "lsgd", adam, local_pull=1.0, local_period=4, global_pull=0.0)
    worker.run(4)
    moments = torch.cat([state["exp_avg"].reshape(-1) for state in worker.inner.state.values()])
    led = next(each.leader.world_rank for each in worker.optimizer.rounds if each.group == ranks.group)
    everyone = ranks.gather((worker.values, moments))
    assert_same_bits(worker.values, everyone[led][0])
    for rank in set(ranks.members) - {led}:
        assert not everyone[rank][1].equal(everyone[led][1])


@case
def allreduce_over_lars_is_lars_on_the_averaged_gradient(ranks):
    worker = Descent(ranks, "allreduce", lars, equal_start=True)
    plain = Tiny()
    write(plain, start_of(0))
    twin = lars(plain.parameters())
    for step in range(10):
        x = np.tile(values(plain).numpy(), (ranks.size, 1))
        give_gradient(plain, torch.from_numpy(gradients(x, step).mean(axis=0)))
        twin.step()
        worker.run(1)
        assert_path(worker.values, values(plain).numpy())
    assert_equal_on_all(ranks, worker.values)
    assert abs(worker.values.numpy() - starts(1)[0]).max() > 0.1
