"""EAMSGD: elastic averaging with momentum in the workers, in the variables of the thesis."""

import torch
from descent import RATE, Descent, assert_path, gradients, sgd, starts
from harness import case_without_groups

from laws.starting import agreed_refusal

DELTA = 0.8


def momentum_loop(size, steps, tau, beta, *, nesterov):
    """x + δ v (Nesterov) or x of all workers, shape (size, 18), and the center after each step."""
    x = starts(size)
    v, center = 0 * x, x.mean(axis=0)
    path = []
    for step in range(steps):
        force, mean = x - center, x.mean(axis=0)
        v = DELTA * v - RATE * gradients(x + DELTA * v if nesterov else x, step)
        x = x + v
        if step % tau == 0:
            x = x - beta / size * force
            center = center + beta * (mean - center)
        path.append((x + DELTA * v if nesterov else x, center))
    return path


@case_without_groups
def eamsgd_is_its_plain_loop(ranks):
    for nesterov in (True, False):
        for tau in (1, 3):
            make = sgd(momentum=DELTA, nesterov=nesterov)
            worker = Descent(ranks, "eamsgd", make, local_period=tau, moving_rate=0.6)
            for point, center in momentum_loop(ranks.size, 12, tau, 0.6, nesterov=nesterov):
                worker.run(1)
                assert_path(worker.values, point[ranks.rank])
                assert_path(worker.evaluated(), center)


@case_without_groups
def without_momentum_eamsgd_is_easgd(ranks):
    for tau in (1, 3):
        workers = [Descent(ranks, algorithm, local_period=tau) for algorithm in ("eamsgd", "easgd")]
        paths = [worker.run(10) for worker in workers]
        assert_path(paths[0], paths[1], 1e-14)
        assert_path(workers[0].evaluated(), workers[1].evaluated(), 1e-14)


@case_without_groups
def nesterovs_elastic_force_is_not_that_of_easgd_over_the_same_optimizer(ranks):
    make = sgd(momentum=DELTA, nesterov=True)
    paths = [Descent(ranks, algorithm, make, local_period=1).run(4) for algorithm in ("eamsgd", "easgd")]
    assert abs(paths[0] - paths[1]).max() > 1e-3
    # With the heavy ball both mean the same x.
    make = sgd(momentum=DELTA)
    paths = [Descent(ranks, algorithm, make, local_period=1).run(4) for algorithm in ("eamsgd", "easgd")]
    assert_path(paths[0], paths[1], 1e-14)


@case_without_groups
def eamsgd_with_an_optimizer_of_unknown_velocity_is_refused(ranks):
    told = agreed_refusal(lambda: Descent(ranks, "eamsgd", torch.optim.Adam))
    assert "not of Adam" in told
    told = agreed_refusal(lambda: Descent(ranks, "eamsgd", sgd(momentum=0.9, dampening=0.1)))
    assert "no dampening" in told
