"""Two hundred steps of LSGD with momentum against a plain loop over all workers, in NumPy."""

import numpy as np
import torch
from harness import Worker, case, start_of

STEPS, LOCAL_PERIOD, GLOBAL_PERIOD, WINDOW = 200, 3, 7, 10
RATE, MOMENTUM, LOCAL_PULL, GLOBAL_PULL = 0.05, 0.9, 0.1, 0.15


class Quadratic:
    """A worker's loss, mean(h (x − c)²) / 2 + noise · x: its own curvature, center and noise."""

    def __init__(self, rank):
        generator = np.random.default_rng(rank)
        self.curvature = generator.uniform(0.1, 2.0, 18)
        self.center = generator.normal(0.0, 1.0, 18)
        self.noise = generator.normal(0.0, 0.5, (STEPS, 18))

    def loss(self, x, step):
        return float((self.curvature * (x - self.center) ** 2).mean() / 2 + self.noise[step] @ x / 18)

    def gradient(self, x, step):
        return self.curvature * (x - self.center) + self.noise[step]


def reference(size, groups):
    """The parameters of every worker after every step, and (scope, group, step, leader) of every round."""
    workers = [Quadratic(rank) for rank in range(size)]
    x = np.array([start_of(rank).numpy() for rank in range(size)])
    v, losses = np.zeros_like(x), np.zeros((size, STEPS))
    path, led = [], []
    for step in range(STEPS):
        for rank, worker in enumerate(workers):
            losses[rank, step] = worker.loss(x[rank], step)
            v[rank] = MOMENTUM * v[rank] + worker.gradient(x[rank], step)
            x[rank] = x[rank] - RATE * v[rank]
        offers = losses[:, max(0, step + 1 - WINDOW) : step + 1].mean(axis=1)
        leaders = [min(members, key=lambda rank: (offers[rank], rank)) for members in groups]
        if (step + 1) % LOCAL_PERIOD == 0:
            for group, (members, leader) in enumerate(zip(groups, leaders, strict=True)):
                for rank in members:
                    x[rank] = x[rank] - LOCAL_PULL * (x[rank] - x[leader])
                led.append(("local", group, step + 1, leader))
        if (step + 1) % GLOBAL_PERIOD == 0 and len(groups) > 1:
            best = min(leaders, key=lambda rank: (offers[rank], rank))
            x = x - GLOBAL_PULL * (x - x[best])
            led.append(("global", None, step + 1, best))
        path.append(x.copy())
    return np.array(path), led


@case
def two_hundred_steps_are_those_of_a_plain_loop(ranks):
    path, led = reference(ranks.size, ranks.groups)
    mine = Quadratic(ranks.rank)
    worker = Worker(
        ranks,
        lr=RATE,
        momentum=MOMENTUM,
        local_period=LOCAL_PERIOD,
        global_period=GLOBAL_PERIOD,
        local_pull=LOCAL_PULL,
        global_pull=GLOBAL_PULL,
        loss_window=WINDOW,
    )
    for step in range(STEPS):
        x = worker.values.numpy()
        worker.iterate(mine.loss(x, step), torch.from_numpy(mine.gradient(x, step)))
        np.testing.assert_allclose(worker.values.numpy(), path[step, ranks.rank], rtol=1e-12, atol=1e-12)
    worker.optimizer.finish()
    known = [each for each in led if ranks.rank == 0 or each[1] in (ranks.group, None)]
    told = [(each.scope, each.group, each.step, each.leader.world_rank) for each in worker.optimizer.rounds]
    # Another group's rounds come as messages, somewhere in between.
    for scope, group in {each[:2] for each in known}:
        expected = [each for each in known if each[:2] == (scope, group)]
        assert [each for each in told if each[:2] == (scope, group)] == expected
    assert len(told) == len(known)
    if ranks.size > len(ranks.groups):
        assert len({each[3] for each in led}) > 1, "the lead never changes: the case would show little"
