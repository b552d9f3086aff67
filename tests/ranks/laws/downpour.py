"""DOWNPOUR: the center takes the sum of all workers' updates, and the workers go on from it."""

import numpy as np
from descent import Descent, assert_equal_on_all, assert_path, gradients, sgd, starts
from harness import assert_close, assert_same_bits, case_without_groups

from laws.starting import agreed_refusal

SLOW = 0.03


def downpour(size, steps, tau, *, equal):
    """All workers, shape (size, 18), and the center after each step, with the updates v of Algorithm 3."""
    x = starts(size, equal=equal)
    center, v = x.mean(axis=0), 0 * x
    path = []
    for step in range(steps):
        update = -SLOW * gradients(x, step)
        x, v = x + update, v + update
        if (step + 1) % tau == 0:
            center = center + v.sum(axis=0)
            x, v = np.tile(center, (size, 1)), 0 * v
        path.append((x, center))
    return path


@case_without_groups
def downpour_is_its_plain_loop(ranks):
    for tau in (1, 3):
        for equal in (True, False):
            worker = Descent(ranks, "downpour", sgd(lr=SLOW), equal_start=equal, local_period=tau)
            for step, (x, center) in enumerate(downpour(ranks.size, 11, tau, equal=equal), start=1):
                worker.run(1)
                assert_path(worker.values, x[ranks.rank])
                assert_path(worker.evaluated(), center)
                if step % tau == 0:
                    assert_same_bits(worker.values, worker.evaluated())
                    assert_equal_on_all(ranks, worker.values)


@case_without_groups
def after_a_round_nothing_is_given_twice(ranks):
    worker = Descent(ranks, "downpour", sgd(lr=SLOW), local_period=2)
    worker.run(2)
    center = worker.evaluated()
    worker.run(4, still=True)
    assert_close(worker.evaluated(), center)
    assert_close(worker.values, center)


@case_without_groups
def downpour_with_momentum_is_refused_on_all_ranks(ranks):
    told = agreed_refusal(lambda: Descent(ranks, "downpour", sgd(momentum=0.1)))
    assert "--momentum 0" in told
    assert ranks.gather(told) == [told] * ranks.size
