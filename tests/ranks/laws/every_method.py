"""What holds for every method: what it evaluates, its state, its rounds and its bytes."""

import copy
import io

import numpy as np
import torch
from descent import FLAT_BYTES, Descent, methods
from harness import assert_close, assert_same_bits, case, case_without_groups, write

from laws.evaluation import assert_same_state
from laws.own_clock import VISITING
from lsgd_mpi.algorithms import ALGORITHMS
from lsgd_mpi.algorithms.pr_sgd_varying import epoch_length

STEPS = 13
SEQUENTIAL = {"sgd", "msgd", "asgd", "mvasgd"}
EVALUATED = {
    **dict.fromkeys(("lsgd", "pr-sgd", "pr-sgd-varying"), "average"),
    **dict.fromkeys(("allreduce", "sgd", "msgd"), "parameters"),
    **dict.fromkeys(("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"), "center"),
    **dict.fromkeys(("asgd", "mvasgd"), "time-average"),
}


@case_without_groups
def these_are_all_methods(ranks):
    covered = {name for name, _, _ in methods(ranks).values()} | SEQUENTIAL
    assert covered == set(EVALUATED)
    assert covered | {name for name, *_ in VISITING.values()} | {"pr-sgd-timed", "easgd-tree"} == set(
        ALGORITHMS
    )


@case_without_groups
def every_method_tells_what_it_evaluates(ranks):
    for name, make, options in methods(ranks).values():
        worker = Descent(ranks, name, make, equal_start=name == "allreduce", **options)
        told = options.get("evaluated", EVALUATED[name])
        assert worker.optimizer.evaluated == told
        worker.run(4)
        shown = worker.evaluated()
        if told == "average":
            assert_close(shown, sum(ranks.gather(worker.values)) / ranks.size)
        elif told == "parameters":
            assert_same_bits(shown, worker.values)
        # Centers and averages over time are followed step by step in the cases of their methods.


def remembered(worker):
    """All that training uses, copied."""
    return copy.deepcopy(
        {
            "values": worker.values,
            "gradients": {name: each.grad for name, each in worker.model.named_parameters()},
            "addresses": [each.data_ptr() for each in worker.model.parameters()],
            "state": worker.optimizer.state_dict(),
        }
    )


@case_without_groups
def evaluation_changes_nothing_in_training_by_any_method(ranks):
    for name, make, options in methods(ranks).values():
        plain, evaluating = (
            Descent(ranks, name, make, equal_start=name == "allreduce", **options) for _ in range(2)
        )
        for _ in range(5):
            before = remembered(evaluating)
            evaluating.evaluated()
            assert_same_state(remembered(evaluating), before)
            plain.run(1)
            evaluating.run(1)
        if name != "allreduce" or ranks.size < 3:
            # Horovod may add three gradients in another order the next time.
            assert_same_bits(evaluating.values, plain.values)
            assert_same_state(evaluating.optimizer.state_dict(), plain.optimizer.state_dict())


@case_without_groups
def a_saved_state_of_every_method_continues_bit_for_bit(ranks):
    for description, (name, make, options) in methods(ranks).items():
        if name == "allreduce" and ranks.size > 2:
            continue
        equal = name == "allreduce"
        # In the middle of a period, of the loss window, and of an epoch where few workers make it long.
        saved_at = 7
        if name == "pr-sgd-varying":
            saved_at = 10 if ranks.size == 1 else 11
        whole = Descent(ranks, name, make, equal_start=equal, **options)
        whole.run(saved_at)
        file = io.BytesIO()
        torch.save({"optimizer": whole.optimizer.state_dict(), "values": whole.values}, file)
        whole.run(6)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        # One that starts elsewhere and has been going for a while.
        second = Descent(ranks, name, make, equal_start=equal, shift=3, **options)
        second.run(2)
        write(second.model, saved["values"])
        second.optimizer.load_state_dict(saved["optimizer"])
        second.steps = saved_at
        assert np.array_equal(second.run(6)[2:], whole.path[saved_at:]), description
        assert_same_bits(second.evaluated(), whole.evaluated())


@case
def every_methods_rounds_and_bytes_are_those_it_tells(ranks):
    many = ranks.size > 1
    for description, (name, make, options) in methods(ranks).items():
        worker = Descent(ranks, name, make, equal_start=True, **options)
        traffic = worker.optimizer.traffic
        rounds, sent = traffic.rounds, traffic.sent_bytes
        worker.run(STEPS)
        expected_rounds, expected_bytes = cost(ranks, name)
        assert traffic.rounds - rounds == expected_rounds, description
        assert traffic.sent_bytes - sent == expected_bytes, description
        sent = traffic.sent_bytes
        worker.evaluated()
        average = FLAT_BYTES if many and worker.optimizer.evaluated == "average" else 0
        assert traffic.sent_bytes - sent == average, description
        assert traffic.rounds - rounds == expected_rounds, description


def cost(ranks, name):
    """Rounds and bytes of `STEPS` steps, from the options in `methods`."""
    if name == "lsgd":
        due = [(step % 2 == 0, step % 3 == 0 and len(ranks.groups) > 1) for step in range(1, STEPS + 1)]
        local, world = sum(each for each, _ in due), sum(each for _, each in due)
        pulls = local * (len(ranks.members) > 1) + world
        return local + world, 16 * (sum(map(any, due)) + world) + FLAT_BYTES * pulls
    if name in SEQUENTIAL:
        return 0, 0
    rounds = {
        "allreduce": STEPS,
        "pr-sgd": STEPS // 3,
        "pr-sgd-varying": epochs(ranks.size),
        # At 0, 3, 6, 9 and 12.
        "easgd": 5,
        "eamsgd": 5,
        "easgd-gauss-seidel": STEPS // 3,
        "downpour": STEPS // 3,
    }[name]
    return rounds, rounds * FLAT_BYTES if ranks.size > 1 else 0


def epochs(workers):
    """Whole epochs in `STEPS` steps."""
    ends = np.cumsum([epoch_length(epoch, workers) for epoch in range(1, STEPS + 1)])
    return int((ends <= STEPS).sum())


@case_without_groups
def a_center_that_starts_at_the_mean_costs_one_average_and_no_round(ranks):
    for name in ("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        traffic = Descent(ranks, "lsgd").optimizer.traffic
        for equal in (True, False):
            rounds, sent = traffic.rounds, traffic.sent_bytes
            Descent(ranks, name, equal_start=equal)
            average = FLAT_BYTES if ranks.size > 1 and not equal else 0
            assert (traffic.rounds - rounds, traffic.sent_bytes - sent) == (0, average)
