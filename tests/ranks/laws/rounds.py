"""When rounds fall due, what is remembered of them, and how many bytes they cost."""

import time
from itertools import pairwise

import pytest
import torch
from harness import Worker, best, case
from torch import nn

import lsgd_mpi
from lsgd_mpi.errors import NumericalError, UsageError

#: The flat tensor of `harness.Tiny`: 15 and 3 float64, each padded to 16 bytes.
FLAT_BYTES = (16 + 4) * 8
ELECTION_BYTES = 16


def losses_at(ranks, step):
    """Finite losses whose order changes from step to step."""
    return [float((7 * rank + 3 * step) % 11) for rank in range(ranks.size)]


def own(ranks, optimizer):
    return [each for each in optimizer.rounds if each.group in (ranks.group, None)]


@case
def periods_that_do_not_divide_each_other_each_keep_their_own_time(ranks):
    worker = Worker(ranks, local_period=3, global_period=7, local_pull=0.1)
    for step in range(1, 22):
        worker.iterate(losses_at(ranks, step)[ranks.rank])
    seen = [(each.scope, each.number, each.step) for each in own(ranks, worker.optimizer)]
    local = [("local", number, 3 * number) for number in range(1, 8)]
    if len(ranks.groups) == 1:
        assert seen == local
        return
    both = [*local[:2], ("global", 1, 7), *local[2:4], ("global", 2, 14), *local[4:], ("global", 3, 21)]
    assert seen == both


@case
def rounds_tell_who_led_who_led_before_and_whether_the_lead_changed(ranks):
    worker = Worker(ranks, local_period=2, global_period=4, local_pull=0.1, loss_window=1)
    expected = {("local", group): [] for group in range(len(ranks.groups))} | {("global", None): []}
    for step in range(1, 17):
        losses = losses_at(ranks, step)
        worker.iterate(losses[ranks.rank])
        if step % 2 == 0:
            for group, leader in enumerate(ranks.leaders(losses)):
                expected["local", group].append((step, leader, losses[leader]))
        if step % 4 == 0 and len(ranks.groups) > 1:
            leader = best(range(ranks.size), losses)
            expected["global", None].append((step, leader, losses[leader]))
    worker.optimizer.finish()
    seen = {key: [] for key in expected}
    for each in worker.optimizer.rounds:
        seen[each.scope, each.group].append(each)
    for (scope, group), rounds in seen.items():
        knows = ranks.rank == 0 or scope == "global" or group == ranks.group
        told = [(each.step, each.leader.world_rank, each.leader.loss) for each in rounds]
        assert told == (expected[scope, group] if knows else [])
        assert [each.number for each in rounds] == list(range(1, len(rounds) + 1))
        assert [each.total_steps for each in rounds] == [each.step * ranks.size for each in rounds]
        leaders = [each.leader.world_rank for each in rounds]
        assert [each.previous_world_rank for each in rounds] == [None, *leaders][: len(rounds)]
        changed = [a != b for a, b in pairwise(leaders)]
        assert [each.switched for each in rounds] == [False, *changed][: len(rounds)]
        times = [each.elapsed_s for each in rounds]
        assert times == sorted(times)
        assert all(each > 0 for each in times)


@case
def between_rounds_nobody_talks(ranks):
    worker = Worker(ranks, local_period=5, global_period=7, local_pull=0.1)
    talked = []
    for step in range(1, 15):
        before = worker.optimizer.traffic.sent_bytes
        worker.iterate(float(ranks.rank))
        if worker.optimizer.traffic.sent_bytes > before:
            talked.append(step)
    assert talked == ([5, 10] if len(ranks.groups) == 1 else [5, 7, 10, 14])


def sent_bytes(ranks, steps, **options):
    worker = Worker(ranks, local_period=2, global_period=3, **options)
    before = worker.optimizer.traffic.sent_bytes
    for _ in range(steps):
        worker.iterate(float(ranks.rank))
    return worker.optimizer.traffic.sent_bytes - before


@case
def rounds_cost_their_elections_and_one_broadcast_each(ranks):
    several = len(ranks.groups) > 1
    local_pull = FLAT_BYTES if len(ranks.members) > 1 else 0
    global_pull = FLAT_BYTES if several else 0
    election_of_all = ELECTION_BYTES if several else 0
    # Rounds at 2 and 4 (local), 3 (global alone: the groups elect too), 6 (both: one election a scope).
    alone = ELECTION_BYTES if several else 0
    elections = 3 * ELECTION_BYTES + alone + 2 * election_of_all
    pulls = 3 * local_pull + 2 * global_pull
    assert sent_bytes(ranks, 6, local_pull=0.1, global_pull=0.2) == elections + pulls
    assert sent_bytes(ranks, 6, local_pull=0.0, global_pull=0.2) == elections + 2 * global_pull
    assert sent_bytes(ranks, 6, local_pull=0.0, global_pull=0.0) == elections
    assert sent_bytes(ranks, 6, local_pull=0.1, global_pull=0.2, pull="every-step") == elections + pulls


@case
def averaging_gradients_costs_the_parameters_each_step_and_nothing_on_one_rank(ranks):
    worker = Worker(ranks, algorithm="allreduce")
    before = worker.optimizer.traffic.sent_bytes
    for _ in range(4):
        worker.optimizer.zero_grad()
        loss = worker.model(torch.ones(2, 5, dtype=torch.float64)).square().mean()
        loss.backward()
        worker.optimizer.step(loss)
    sent = worker.optimizer.traffic.sent_bytes - before
    assert sent == (4 * FLAT_BYTES if ranks.size > 1 else 0)


@case
def time_in_rounds_is_counted_as_waiting_and_as_communication(ranks):
    traffic = lsgd_mpi.runtime.communicator().traffic
    before = (traffic.wait_s, traffic.comm_s)
    worker = Worker(ranks, local_period=1, local_pull=0.5, global_period=1)
    worker.iterate(1.0)
    assert worker.optimizer.traffic.wait_s > before[0]
    assert (worker.optimizer.traffic.comm_s > before[1]) == (ranks.size > 1)


@case
def without_any_finite_loss_nobody_leads_and_every_rank_knows(ranks):
    for bad in (float("nan"), float("inf"), float("-inf")):
        worker = Worker(ranks, local_period=2, local_pull=0.5, global_period=NEVER)
        worker.iterate(bad)
        before = worker.values
        with pytest.raises(NumericalError, match="step 2") as raised:
            worker.iterate(1.0)
        assert raised.value.exit_code == 6
        assert raised.value.reporter == ranks.members[0]
        assert (worker.values == before).all()
        assert worker.optimizer.rounds == []


NEVER = 1000


@case
def an_election_takes_offers_that_are_not_finite_for_the_worst(ranks):
    communicator = lsgd_mpi.runtime.communicator()
    for bad in (float("nan"), float("inf"), float("-inf")):
        first = ranks.rank == ranks.members[0]
        leader = communicator.elect(bad if first else 1e300)
        if len(ranks.members) > 1:
            assert (leader.loss, leader.world_rank) == (1e300, ranks.members[1])
        else:
            assert (leader.loss, leader.world_rank) == (float("inf"), ranks.rank)
        assert leader.is_valid == (len(ranks.members) > 1)


@case
def finish_may_be_called_more_than_once_and_training_may_go_on(ranks):
    worker = Worker(ranks, local_period=1, local_pull=0.1, global_period=NEVER)
    for part in (1, 2, 3):
        for _ in range(3):
            worker.iterate(float(ranks.rank))
        worker.optimizer.finish()
        known = len(ranks.groups) if ranks.rank == 0 else 1
        assert len(worker.optimizer.rounds) == 3 * part * known
        # Without this the other groups may be in the next part, and rank 0 has heard of its rounds too.
        ranks.world.barrier()


@case
def rank_0_hears_of_the_rounds_of_other_groups_while_it_trains(ranks):
    period = 200
    worker = Worker(ranks, local_period=period, local_pull=0.1, global_period=NEVER)
    for _ in range(period):
        worker.iterate(float(ranks.rank))
    ranks.world.barrier()
    known = list(range(len(ranks.groups))) if ranks.rank == 0 else [ranks.group]
    for _ in range(period - 1):
        if len(worker.optimizer.rounds) == len(known):
            break
        worker.iterate(float(ranks.rank))
        time.sleep(0.01)
    assert sorted(each.group for each in worker.optimizer.rounds) == known
    ranks.world.barrier()


@case
def rounds_of_an_optimizer_before_are_not_rounds_of_the_next(ranks):
    # The first one ends without finish(), and with reports under way that rank 0 has not asked for.
    first = Worker(ranks, local_period=1, local_pull=0.1, global_period=NEVER)
    for turn in (True, False):
        if (0 in ranks.members) == turn:
            first.iterate(float(ranks.rank))
        ranks.world.barrier()
    second = Worker(ranks, local_period=1, local_pull=0.1, global_period=NEVER)
    second.iterate(float(ranks.rank))
    second.optimizer.finish()
    known = len(ranks.groups) if ranks.rank == 0 else 1
    assert [each.number for each in second.optimizer.rounds] == [1] * known


@case
def a_step_without_a_loss_or_with_a_closure_is_refused(ranks):
    worker = Worker(ranks, local_period=1)
    for wrong in ((), (lambda: 1.0,)):
        with pytest.raises(UsageError, match=r"optimizer\.step\(loss\)"):
            worker.optimizer.step(*wrong)


@case
def a_loss_may_be_a_number_or_a_tensor_with_a_graph(ranks):
    model = nn.Linear(5, 1)
    worker = Worker(ranks, model, local_period=4, global_period=NEVER, loss_window=4)
    output = model(torch.ones(1, 5))
    shift = float(ranks.rank)
    for loss in (
        1.0 + shift,
        torch.tensor(2.0 + shift),
        torch.tensor([3.0 + shift]),
        0 * output.sum() + 6 + shift,
    ):
        worker.optimizer.step(loss)
    (finished,) = (each for each in worker.optimizer.rounds if each.group == ranks.group)
    assert finished.leader.loss == 3.0 + min(ranks.members)
