"""The sequential baselines, which are the worker's own optimizer on one rank, and refused on several."""

import numpy as np
from descent import RATE, Descent, assert_path, gradients, sgd, starts
from harness import assert_same_bits, case_without_groups

from laws.starting import agreed_refusal

DELTA = 0.8
OPTIMIZERS = {
    "sgd": sgd(),
    "msgd": sgd(momentum=DELTA, nesterov=True),
    "asgd": sgd(),
    "mvasgd": sgd(),
}


def plain_sgd(steps):
    """x_0, x_1, ..., shape (steps + 1, 18)."""
    path = [starts(1)]
    for step in range(steps):
        path.append(path[-1] - RATE * gradients(path[-1], step))
    return np.array(path)[:, 0]


def trained(ranks, name, **options):
    """A worker alone, or none where there are several, which must be told so together."""
    if ranks.size == 1:
        return Descent(ranks, name, OPTIMIZERS[name], **options)
    told = agreed_refusal(lambda: Descent(ranks, name, OPTIMIZERS[name], **options))
    assert told.startswith("sgd, msgd, asgd and mvasgd are sequential: ")
    assert f"not {ranks.size}" in told
    assert ranks.gather(told) == [told] * ranks.size
    return None


@case_without_groups
def sgd_is_its_plain_loop(ranks):
    if worker := trained(ranks, "sgd"):
        assert_path(worker.run(10), plain_sgd(10)[1:])
        assert_same_bits(worker.evaluated(), worker.values)


@case_without_groups
def msgd_is_nesterovs_loop_in_position_and_velocity(ranks):
    if worker := trained(ranks, "msgd"):
        x = starts(1)
        v = 0 * x
        for step in range(12):
            worker.run(1)
            v = DELTA * v - RATE * gradients(x + DELTA * v, step)
            x = x + v
            assert_path(worker.values, (x + DELTA * v)[0])
        assert_same_bits(worker.evaluated(), worker.values)


@case_without_groups
def asgd_evaluates_the_mean_of_all_points_so_far(ranks):
    if worker := trained(ranks, "asgd"):
        path = plain_sgd(10)
        assert_path(worker.evaluated(), path[0], 0)
        for step in range(1, 11):
            worker.run(1)
            assert_path(worker.values, path[step])
            assert_path(worker.evaluated(), path[: step + 1].mean(axis=0))


@case_without_groups
def mvasgd_evaluates_a_moving_average(ranks):
    for options, rate in (({}, 0.001), ({"averaging_rate": 0.3}, 0.3)):
        if worker := trained(ranks, "mvasgd", **options):
            path = plain_sgd(10)
            z = path[0]
            for step in range(1, 11):
                worker.run(1)
                z = (1 - rate) * z + rate * path[step]
                assert_path(worker.values, path[step])
                assert_path(worker.evaluated(), z)
