"""EASGD in the Gauss-Seidel form, which DOWNPOUR is a case of."""

import numpy as np
from descent import RATE, Descent, assert_path, gradients, sgd, starts
from harness import case_without_groups


def gauss_seidel(size, steps, tau, alpha, beta, *, equal):
    """The points of all gradients, shape (size, 18), and the center after each step (Equation 6.3)."""
    x = starts(size, equal=equal)
    center = x.mean(axis=0)
    path = []
    for step in range(steps):
        if step % tau == 0:
            x = x - alpha * (x - center)
        point = x
        x = x - RATE * gradients(x, step)
        if (step + 1) % tau == 0:
            center = center + beta * (x - center).mean(axis=0)
        path.append((point, center))
    return path


@case_without_groups
def the_gauss_seidel_form_is_its_plain_loop(ranks):
    for tau in (1, 3):
        for equal in (True, False):
            # Rates that no Jacobi form could have: p α is not β.
            rates = {"moving_rate": 0.8, "worker_moving_rate": 0.3}
            worker = Descent(ranks, "easgd-gauss-seidel", equal_start=equal, local_period=tau, **rates)
            for point, center in gauss_seidel(ranks.size, 13, tau, 0.3, 0.8, equal=equal):
                # The pull of the next period is made with the round, so that the gradient is taken after it.
                assert_path(worker.values, point[ranks.rank])
                worker.run(1)
                assert_path(worker.evaluated(), center)


@case_without_groups
def the_gauss_seidel_form_takes_the_rates_of_the_thesis(ranks):
    options = Descent(ranks, "easgd-gauss-seidel").optimizer.options
    assert (options.moving_rate, options.worker_moving_rate) == (0.9, 0.9 / ranks.size)


@case_without_groups
def with_full_rates_the_gauss_seidel_form_is_downpour(ranks):
    rates = {"worker_moving_rate": 1.0, "moving_rate": float(ranks.size)}
    for tau in (1, 3):
        workers = [
            Descent(ranks, algorithm, sgd(lr=0.03), equal_start=True, local_period=tau, **options)
            for algorithm, options in (("easgd-gauss-seidel", rates), ("downpour", {}))
        ]
        assert np.array_equal(*(worker.run(11) for worker in workers))
        assert workers[0].evaluated().equal(workers[1].evaluated())
