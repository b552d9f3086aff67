"""PR-SGD: all workers restart from their average, at fixed and at growing periods."""

import itertools
import math

import numpy as np
import torch
from descent import RATE, Descent, assert_equal_on_all, assert_path, gradients, sgd, starts
from harness import Tiny, assert_close, assert_same_bits, case_without_groups, give_gradient, values, write

from lsgd_mpi.algorithms.pr_sgd_varying import epoch_length


@case_without_groups
def an_averaging_keeps_the_mean_of_the_workers_and_makes_them_equal(ranks):
    worker = Descent(ranks, "pr-sgd", local_period=3)
    for _ in range(2):
        before = worker.values
        everyone = ranks.gather(before)
        worker.run(2, still=True)
        assert_same_bits(worker.values, before)
        worker.run(1, still=True)
        assert_close(worker.values, sum(everyone) / ranks.size)
        assert_equal_on_all(ranks, worker.values)
        write(worker.model, worker.values * (ranks.rank + 2))


@case_without_groups
def between_averagings_workers_run_alone_and_keep_their_momentum(ranks):
    worker = Descent(ranks, "pr-sgd", sgd(momentum=0.9), local_period=3)
    plain = Tiny()
    twin = torch.optim.SGD(plain.parameters(), lr=RATE, momentum=0.9)
    for step in range(1, 8):
        write(plain, worker.values)
        worker.run(1)
        give_gradient(plain, torch.cat([each.grad.reshape(-1) for each in worker.model.parameters()]))
        twin.step()
        for mine, own in zip(worker.inner.state.values(), twin.state.values(), strict=True):
            assert_same_bits(mine["momentum_buffer"], own["momentum_buffer"])
        if step % 3:
            assert_same_bits(worker.values, values(plain))
        else:
            assert_close(worker.values, sum(ranks.gather(values(plain))) / ranks.size)


@case_without_groups
def averaging_at_every_step_is_gradient_averaging(ranks):
    paths = [
        Descent(ranks, algorithm, equal_start=True, **options).run(12)
        for algorithm, options in (("allreduce", {}), ("pr-sgd", {"local_period": 1}))
    ]
    assert_path(paths[0], paths[1])


@case_without_groups
def pr_sgd_is_its_plain_loop(ranks):
    for period in (1, 4):
        x = starts(ranks.size)
        path = []
        for step in range(10):
            x = x - RATE * gradients(x, step)
            if (step + 1) % period == 0:
                x = np.tile(x.mean(axis=0), (ranks.size, 1))
            path.append(x[ranks.rank])
        assert_path(Descent(ranks, "pr-sgd", local_period=period).run(10), path)


def varying(size, steps):
    """The learning rate and all workers, shape (size, 18), of each step of Algorithm 2 with γ = 0.05."""
    x, path = starts(size), []
    for epoch in itertools.count(1):
        rate = 0.05 * size / epoch ** (2 / 3)
        # Rounded first: the cube root of 27 is not exactly 3.
        length = math.ceil(round(epoch ** (1 / 3), 9) / size)
        for left in reversed(range(length)):
            x = x - rate * gradients(x, len(path))
            if left == 0:
                x = np.tile(x.mean(axis=0), (size, 1))
            path.append((rate, x))
            if len(path) == steps:
                return path
    raise AssertionError


@case_without_groups
def pr_sgd_varying_is_its_plain_loop(ranks):
    worker = Descent(ranks, "pr-sgd-varying", sgd(lr=0.05))
    rounds = worker.optimizer.traffic.rounds
    for rate, x in varying(ranks.size, 40):
        worker.run(1)
        (group,) = worker.optimizer.param_groups
        assert math.isclose(group["lr"], rate, rel_tol=1e-14)
        assert worker.inner.param_groups[0]["lr"] == group["lr"]
        assert_path(worker.values, x[ranks.rank])
    # Epochs that are longer than one step were among them, where few enough workers share the work.
    assert (worker.optimizer.traffic.rounds - rounds < 40) == (ranks.size < 4)


@case_without_groups
def pr_sgd_varying_sets_each_groups_own_rate(ranks):
    def two_rates(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight], "lr": 0.02}, {"params": [bias], "lr": 0.08}])

    worker = Descent(ranks, "pr-sgd-varying", two_rates)
    for epoch in range(1, 9):
        worker.run(epoch_length(epoch, ranks.size))
        rates = [group["lr"] for group in worker.optimizer.param_groups]
        expected = [base * ranks.size / epoch ** (2 / 3) for base in (0.02, 0.08)]
        np.testing.assert_allclose(rates, expected, rtol=1e-14)
        assert_equal_on_all(ranks, worker.values)
