"""EASGD on a tree of ranks: who sends to whom and when, what an arrival does, and how it ends."""

import time

import numpy as np
import pytest
import torch
from descent import FLAT_BYTES, Descent, assert_equal_on_all, sgd
from harness import (
    Tiny,
    assert_close,
    assert_same_bits,
    case_without_groups,
    give_gradient,
    start_of,
    values,
    write,
)

import lsgd_mpi
from laws.starting import agreed_refusal
from lsgd_mpi.errors import UsageError

#: A degree that makes a full tree of so many ranks: a root with leaves, for two ranks and three.
DEGREE = {1: 2, 2: 1, 3: 2, 4: 3}


def node(ranks, make=None, **options):
    return Descent(
        ranks, "easgd-tree", make or sgd(), equal_start=True, **{"degree": DEGREE[ranks.size], **options}
    )


def train(worker, until, seconds=0.0, still=False):
    """What each rank does until the average leaf has made so many iterations."""
    clock = worker.optimizer.clock
    clock.meetings.at("end", until)
    while True:
        if worker.optimizer.trains:
            time.sleep(seconds)
            worker.run(1, still=still)
        else:
            worker.optimizer.attend()
        yield clock
        if "end" in clock.due:
            return


@case_without_groups
def leaves_train_and_the_root_averages(ranks):
    worker = node(ranks, leaf_period=2)
    assert worker.optimizer.trains == (ranks.rank > 0 or ranks.size == 1)
    assert worker.optimizer.clock.workers == max(1, ranks.size - 1)
    assert worker.optimizer.options.worker_moving_rate == 0.9 / (DEGREE[ranks.size] + 1)
    for _ in train(worker, 30, seconds=0.002):
        pass
    worker.optimizer.finish()
    assert worker.steps == (0 if not worker.optimizer.trains else worker.optimizer.clock.step)
    evaluated = worker.evaluated()
    assert worker.optimizer.evaluated == "root"
    assert_equal_on_all(ranks, evaluated)
    assert_same_bits(ranks.gather(worker.values)[0], evaluated)
    everyone = ranks.gather(worker.values.numpy())
    assert np.isfinite(everyone).all()


@case_without_groups
def the_root_follows_the_average_of_its_leaves(ranks):
    # The leaves stand still, apart: the root ends where their pulls balance, and pulls them together.
    worker = node(ranks, leaf_period=1, worker_moving_rate=0.05)
    if worker.optimizer.trains:
        write(worker.model, start_of(ranks.rank))
    apart = spread(ranks, worker)
    for _ in train(worker, 150, seconds=0.002, still=True):
        pass
    worker.optimizer.finish()
    if ranks.size == 1:
        assert_same_bits(worker.values, start_of(0))
        return
    leaves = ranks.gather(worker.values)[1:]
    average, root = sum(leaves) / len(leaves), worker.evaluated()
    scale = float(start_of(ranks.size - 1).abs().max())
    assert float((root - average).abs().max()) < 0.05 * scale
    assert spread(ranks, worker) < 0.1 * apart or ranks.size == 2


def spread(ranks, worker):
    """How far the leaves are from each other."""
    leaves = torch.stack(ranks.gather(worker.values)[1:] or [worker.values])
    return float((leaves - leaves.mean(dim=0)).abs().max())


@case_without_groups
def an_arrival_moves_by_its_rate_and_costs_one_send(ranks):
    if ranks.size == 1:
        return
    worker = node(ranks, scheme="2", up_period=1000, down_period=1, worker_moving_rate=0.25)
    traffic = worker.optimizer.traffic
    rounds, sent = traffic.rounds, traffic.sent_bytes
    if not worker.optimizer.trains:
        write(worker.model, start_of(9))
    clock = worker.optimizer.clock
    # One step of each leaf, so the root's own clock comes to 1 and it sends down once.
    if worker.optimizer.trains:
        worker.run(1, still=True)
    ranks.world.barrier()
    if not worker.optimizer.trains:
        worker.optimizer.attend()
        assert clock.step == 1
    worker.optimizer.finish()
    if worker.optimizer.trains:
        assert_close(worker.values, start_of(0) + 0.25 * (start_of(9) - start_of(0)))
        assert traffic.rounds - rounds == 1
        assert traffic.sent_bytes - sent == 8
    else:
        assert_same_bits(worker.values, start_of(9))
        assert traffic.rounds == rounds
        assert traffic.sent_bytes - sent == FLAT_BYTES * (ranks.size - 1)


@case_without_groups
def sends_never_pile_up(ranks):
    if ranks.size == 1:
        return
    worker = node(ranks, leaf_period=1, worker_moving_rate=0.5)
    # The root looks at nothing while the leaves send at every step.
    traffic = worker.optimizer.traffic
    sent = traffic.sent_bytes
    if worker.optimizer.trains:
        worker.run(40, still=True)
        letters = (traffic.sent_bytes - sent - 40 * 8) // FLAT_BYTES
        assert letters <= 2
        write(worker.model, start_of(ranks.rank))
    ranks.world.barrier()
    rounds = traffic.rounds
    if not worker.optimizer.trains:
        for _ in range(20):
            worker.optimizer.attend()
    worker.optimizer.finish()
    if not worker.optimizer.trains:
        assert traffic.rounds - rounds <= 3 * (ranks.size - 1)
    ranks.world.barrier()


@case_without_groups
def nesterovs_momentum_at_the_leaves_sends_where_they_are(ranks):
    if ranks.size == 1:
        return
    make = sgd(momentum=0.9, nesterov=True, lr=0.02)
    worker = node(ranks, make, scheme="2", up_period=4, down_period=1000, worker_moving_rate=1.0)
    alone = Descent(ranks, "lsgd", make, equal_start=True, local_period=1000)
    if worker.optimizer.trains:
        worker.run(4)
        alone.run(4)
        assert_same_bits(worker.values, alone.values)
        (weight, bias) = (alone.inner.state[each]["momentum_buffer"] for each in alone.model.parameters())
        lookahead = -0.02 * 0.9 * torch.cat([weight.reshape(-1), bias])
    ranks.world.barrier()
    worker.optimizer.finish()
    places = ranks.gather(worker.values - lookahead if worker.optimizer.trains else None)
    if not worker.optimizer.trains:
        # With a rate of 1 the root stands where the last letter was from.
        assert any(torch.allclose(worker.values, place, rtol=1e-13, atol=1e-13) for place in places[1:])


@case_without_groups
def a_tree_ends_in_order_and_can_go_on(ranks):
    worker = node(ranks, leaf_period=2)
    for until in (10, 20):
        for _ in train(worker, until, seconds=0.0005 * (1 + ranks.rank)):
            pass
        worker.optimizer.finish()
        leaves = ranks.gather(worker.steps)[1 if ranks.size > 1 else 0 :]
        assert sum(leaves) == until * len(leaves)
        assert_equal_on_all(ranks, worker.evaluated())


@case_without_groups
def what_does_not_fit_the_tree_is_refused(ranks):
    degree = {1: 1, 2: 2, 3: 3, 4: 2}[ranks.size]
    if ranks.size > 1:
        told = agreed_refusal(lambda: Descent(ranks, "easgd-tree", degree=degree))
        assert told.startswith(f"--degree {degree}: {ranks.size} ranks make no full tree; it has ")
    for options, why in (
        ({"degree": 0}, "--degree 0: a node has at least 1 child"),
        ({"up_period": 3}, "--up-period 3 has no effect with --scheme 1"),
        ({"scheme": "2", "leaf_period": 3}, "--leaf-period 3 has no effect with --scheme 2"),
        ({"scheme": "3"}, "choose from 1, 2"),
        ({"leaf_period": 0}, "--leaf-period 0: a period is a whole number"),
    ):
        with pytest.raises(UsageError, match=why):
            Descent(ranks, "easgd-tree", **options)
    worker = node(ranks)
    if worker.optimizer.trains:
        with pytest.raises(UsageError, match="this rank trains"):
            worker.optimizer.attend()
    else:
        with pytest.raises(UsageError, match=r"call optimizer\.attend\(\)"):
            worker.optimizer.step(1.0)
    ranks.world.barrier()
    assert lsgd_mpi.size() == ranks.size


@case_without_groups
def two_trees_at_a_time_do_not_read_each_others_letters(ranks):
    if ranks.size == 1:
        return
    # Every node of the first tree stands at 1, of the second at 2, and their letters are under way together.
    trees = [node(ranks, scheme="2", up_period=1, down_period=1) for _ in range(2)]
    for value, worker in enumerate(trees, start=1):
        write(worker.model, torch.full((18,), float(value), dtype=torch.float64))
    for _ in range(20):
        for worker in trees:
            if worker.optimizer.trains:
                worker.run(1, still=True)
            else:
                worker.optimizer.attend()
    # A third one does not let the first be forgotten: what it has under way is taken back at the end.
    node(ranks)
    assert len(lsgd_mpi.runtime.communicator()._mailboxes) >= 2
    for value, worker in enumerate(trees, start=1):
        worker.optimizer.finish()
        assert_close(worker.values, torch.full((18,), float(value), dtype=torch.float64), 1e-12)


@case_without_groups
def a_tree_that_is_taken_over_without_an_end_leaves_no_letter_behind(ranks):
    if ranks.size == 1:
        return
    model = Tiny()
    for value in (1.0, 2.0, 3.0):
        write(model, torch.full((18,), value, dtype=torch.float64))
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = lsgd_mpi.DistributedOptimizer(
            inner, model, "easgd-tree", degree=DEGREE[ranks.size], scheme="2", up_period=1, down_period=1
        )
        for _ in range(5):
            if optimizer.trains:
                give_gradient(model, torch.zeros(18, dtype=torch.float64))
                optimizer.step(1.0)
            else:
                optimizer.attend()
        ranks.world.barrier()
    optimizer.finish()
    assert_close(values(model), torch.full((18,), 3.0, dtype=torch.float64), 1e-12)
    # What the first two left under way is taken in at the end.
    lsgd_mpi.shutdown()
    lsgd_mpi.init(ranks.groups)
