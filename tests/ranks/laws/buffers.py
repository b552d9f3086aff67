"""Batch-norm statistics in a local round: each worker's own, the group's average, or the leader's."""

import torch
from harness import assert_close, assert_same_bits, case, distributed
from torch import nn


def factor_of(rank):
    """Not linear, so that the mean over a group is not by chance the mean over all."""
    return float((rank + 1) ** 3)


class Statistics(nn.Module):
    """Batch norm, and buffers of the kinds that no average is made of."""

    def __init__(self, rank):
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()
        self.register_buffer("mask", torch.tensor([rank % 2 == 0, True]))
        self.register_buffer("counts", torch.tensor([rank, -rank], dtype=torch.int32))
        self.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]) * factor_of(rank))
        self.norm.running_var.fill_(10.0 * factor_of(rank))
        self.norm.num_batches_tracked.fill_(5 * rank + 1)


def after_a_local_round(ranks, bn):
    """The model after a round in which the highest rank of each group led; no gradient moved anything."""
    model = Statistics(ranks.rank)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = distributed(
        ranks, inner, model, equal_start=False, bn=bn, local_period=2, local_pull=0.5, global_period=3
    )
    optimizer.step(float(-ranks.rank))
    assert_same_bits(
        model.norm.running_var, torch.full((3,), 10.0 * factor_of(ranks.rank), dtype=torch.float64)
    )
    optimizer.step(float(-ranks.rank))
    return model, optimizer


def assert_statistics(model, factor, tracked, counts, rank):
    assert_close(model.norm.running_mean, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) * factor)
    assert_close(model.norm.running_var, torch.full((3,), 10.0 * factor, dtype=torch.float64))
    assert model.norm.num_batches_tracked.item() == tracked
    assert model.norm.num_batches_tracked.shape == ()
    assert model.counts.tolist() == counts
    assert model.counts.dtype == torch.int32
    assert model.mask.tolist() == [rank % 2 == 0, True]


@case
def each_worker_keeps_its_own_statistics(ranks):
    model, _ = after_a_local_round(ranks, "local")
    rank = ranks.rank
    assert_statistics(model, factor_of(rank), 5 * rank + 1, [rank, -rank], rank)


@case
def statistics_are_averaged_over_the_group_and_counters_take_the_maximum(ranks):
    model, _ = after_a_local_round(ranks, "average")
    low, high = min(ranks.members), max(ranks.members)
    mean = sum(factor_of(rank) for rank in ranks.members) / len(ranks.members)
    assert_statistics(model, mean, 5 * high + 1, [high, -low], ranks.rank)


@case
def all_statistics_become_the_leaders(ranks):
    model, _ = after_a_local_round(ranks, "leader")
    leader = max(ranks.members)
    assert_statistics(model, factor_of(leader), 5 * leader + 1, [leader, -leader], ranks.rank)


@case
def a_global_round_leaves_statistics_alone(ranks):
    model, optimizer = after_a_local_round(ranks, "average")
    before = model.norm.running_mean.clone()
    optimizer.step(float(-ranks.rank))
    assert_same_bits(model.norm.running_mean, before)


@case
def a_model_without_buffers_takes_every_mode(ranks):
    for bn in ("local", "average", "leader"):
        model = nn.Linear(2, 2)
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = distributed(ranks, inner, model, bn=bn, local_period=1)
        optimizer.step(1.0)
