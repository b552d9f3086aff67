"""Leader SGD's laws: what a pull does to the parameters of every rank."""

import pytest
import torch
from harness import (
    Tiny,
    Worker,
    assert_close,
    assert_same_bits,
    best,
    case,
    distributed,
    start_of,
    values,
    write,
)
from torch import nn

from lsgd_mpi.errors import UsageError

#: Iterations that no run here reaches: "never".
NEVER = 1000


def train_on_noise(model, optimizer, steps, seed, passes_loss):
    """Ordinary iterations on batches that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randn(4, 6, generator=generator)
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        if passes_loss:
            optimizer.step(loss)
        else:
            optimizer.step()


def independent_sgd(ranks, **options):
    models = []
    for _ in range(2):
        torch.manual_seed(ranks.rank)
        models.append(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    inner, plain = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
        for model in models
    )
    optimizer = distributed(ranks, inner, models[0], equal_start=False, **options)
    train_on_noise(models[0], optimizer, 13, seed=ranks.rank, passes_loss=True)
    train_on_noise(models[1], plain, 13, seed=ranks.rank, passes_loss=False)
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_same_bits(mine.detach(), other.detach())
        assert_same_bits(inner.state[mine]["momentum_buffer"], plain.state[other]["momentum_buffer"])
    assert sum(each.scope == "local" and each.group == ranks.group for each in optimizer.rounds) == 6


@case
def without_pulls_it_is_independent_sgd_bit_for_bit(ranks):
    independent_sgd(ranks, local_period=2, global_period=3, local_pull=0.0, global_pull=0.0)


@case
def without_pulls_it_is_independent_sgd_bit_for_bit_at_every_step(ranks):
    independent_sgd(
        ranks, local_period=2, global_period=3, local_pull=0.0, global_pull=0.0, pull="every-step"
    )


@case
def the_leader_is_unmoved_by_its_own_round_and_everybody_else_moves(ranks):
    for leader_of_all in range(ranks.size):
        losses = [float((rank - leader_of_all) % ranks.size) for rank in range(ranks.size)]
        worker = Worker(ranks, local_period=1, local_pull=0.3, global_period=NEVER)
        before = worker.values
        worker.iterate(losses[ranks.rank])
        if best(ranks.members, losses) == ranks.rank:
            assert_same_bits(worker.values, before)
        else:
            assert (worker.values != before).all()


@case
def the_global_leader_is_unmoved_by_the_round_of_all(ranks):
    losses = [float((2 * rank + 1) % ranks.size) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=1, local_pull=0.3, global_period=1, global_pull=0.4)
    before = worker.values
    worker.iterate(losses[ranks.rank])
    leader = best(range(ranks.size), losses)
    if ranks.rank == leader:
        assert_same_bits(worker.values, before)
    else:
        assert (worker.values != before).all() or len(ranks.members) == 1 == len(ranks.groups)


@case
def a_full_pull_makes_the_group_equal_to_its_leader(ranks):
    losses = [float(ranks.size - rank) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=NEVER)
    worker.iterate(losses[ranks.rank])
    everyone = ranks.gather(worker.values)
    for members, leader in zip(ranks.groups, ranks.leaders(losses), strict=True):
        for rank in members:
            assert_same_bits(everyone[rank], start_of(leader))


@case
def a_full_global_pull_makes_all_equal_to_the_best(ranks):
    losses = [float((rank + 2) % ranks.size) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=2, local_pull=0.5, global_period=1, global_pull=1.0)
    worker.iterate(losses[ranks.rank])
    leader = best(range(ranks.size), losses)
    several = len(ranks.groups) > 1
    assert_same_bits(worker.values, start_of(leader) if several else start_of(ranks.rank))


@case
def every_iteration_continues_from_the_best_worker_of_the_group(ranks):
    # τ = 1, λ = 1: from the first round on, each step starts at the best of the step before.
    generators = [torch.Generator().manual_seed(100 + rank) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=NEVER, loss_window=1, lr=0.1)
    expected = [start_of(rank) for rank in range(ranks.size)]
    led = set()
    for _ in range(12):
        losses = [float(torch.rand((), generator=generator)) for generator in generators]
        gradients = [torch.randn(18, generator=generator, dtype=torch.float64) for generator in generators]
        worker.iterate(losses[ranks.rank], gradients[ranks.rank])
        expected = [x - 0.1 * g for x, g in zip(expected, gradients, strict=True)]
        for members in ranks.groups:
            leader = best(members, losses)
            led.add(leader)
            for rank in members:
                expected[rank] = expected[leader]
        assert_close(worker.values, expected[ranks.rank])
    # Were there one leader all the time, the law would say little.
    assert len(led) > len(ranks.groups) or ranks.size == len(ranks.groups)


@case
def the_distance_to_the_leader_shrinks_by_one_minus_the_pull(ranks):
    losses = [float(rank) for rank in range(ranks.size)]
    for pull in (0.025, 0.1, 0.25, 0.5, 0.75, 0.9):
        worker = Worker(ranks, local_period=1, local_pull=pull, global_period=NEVER)
        leader = start_of(best(ranks.members, losses))
        for rounds in (1, 2, 3):
            worker.iterate(losses[ranks.rank])
            assert_close(worker.values - leader, (1 - pull) ** rounds * (start_of(ranks.rank) - leader))


@case
def a_pull_moves_the_parameters_alone_and_not_the_momentum(ranks):
    losses = [float(rank) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=1, local_pull=0.5, global_period=1, lr=0.1, momentum=0.9)
    gradient = (ranks.rank + 1) * torch.ones(18, dtype=torch.float64)
    for _ in range(3):
        worker.iterate(losses[ranks.rank], gradient)
    state = torch.cat(
        [worker.inner.state[each]["momentum_buffer"].reshape(-1) for each in worker.model.parameters()]
    )
    assert_close(state, (1 + 0.9 + 0.81) * gradient)


@case
def a_global_round_alone_elects_at_that_moment_and_pulls_to_nobody_else(ranks):
    # Step 2 is a local round; at step 3, a global round alone, other workers are the best of their groups.
    then = [float(rank) for rank in range(ranks.size)]
    now = [float(-rank) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=2, local_pull=0.5, global_period=3, global_pull=0.25, loss_window=1)
    worker.iterate(then[ranks.rank])
    worker.iterate(then[ranks.rank])
    after_local = worker.values
    worker.iterate(now[ranks.rank])
    if len(ranks.groups) == 1:
        assert_same_bits(worker.values, after_local)
        return
    leader = best(range(ranks.size), now)
    everyone = ranks.gather(after_local)
    assert_close(worker.values, after_local - 0.25 * (after_local - everyone[leader]))
    last = [each for each in worker.optimizer.rounds if each.group in (ranks.group, None)][-1]
    assert (last.scope, last.step, last.leader.world_rank) == ("global", 3, leader)
    assert [each.step for each in worker.optimizer.rounds if each.scope == "local"].count(3) == 0


@case
def the_global_round_comes_after_the_local_one_when_both_fall_together(ranks):
    losses = [float((rank + 1) % ranks.size) for rank in range(ranks.size)]
    worker = Worker(ranks, local_period=3, local_pull=0.4, global_period=3, global_pull=0.3)
    for _ in range(3):
        worker.iterate(losses[ranks.rank])
    x = start_of(ranks.rank)
    x = x - 0.4 * (x - start_of(best(ranks.members, losses)))
    if len(ranks.groups) > 1:
        # The global leader led its group, so that the local round left it where it was.
        x = x - 0.3 * (x - start_of(best(range(ranks.size), losses)))
    assert_close(worker.values, x)


@case
def ties_go_to_the_lowest_world_rank(ranks):
    worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=2, global_pull=1.0)
    worker.iterate(0.5)
    assert_same_bits(worker.values, start_of(min(ranks.members)))
    worker.iterate(0.5)
    assert_same_bits(worker.values, start_of(0 if len(ranks.groups) > 1 else min(ranks.members)))


@case
def a_loss_that_is_not_finite_never_leads(ranks):
    for bad in (float("nan"), float("inf"), float("-inf")):
        # In each group with several members the first, which wins all ties, is the one with the bad loss.
        losses = [1e30 + rank * 1e29 for rank in range(ranks.size)]
        for members in ranks.groups:
            if len(members) > 1:
                losses[members[0]] = bad
        worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=1, global_pull=1.0)
        worker.iterate(losses[ranks.rank])
        own = [each for each in worker.optimizer.rounds if each.group in (ranks.group, None)]
        assert own[0].leader.world_rank == best(ranks.members, losses)
        leader = best(range(ranks.size) if len(ranks.groups) > 1 else ranks.members, losses)
        assert own[-1].leader.world_rank == leader
        assert_same_bits(worker.values, start_of(leader))


@case
def a_bad_loss_is_forgotten_when_it_has_left_the_window(ranks):
    worker = Worker(ranks, local_period=1, local_pull=0.0, global_period=NEVER, loss_window=3)
    first, leads = ranks.members[0], []
    for step in range(5):
        bad = step == 0 and ranks.rank == first and len(ranks.members) > 1
        worker.iterate(float("nan") if bad else float(ranks.rank))
        own = [each for each in worker.optimizer.rounds if each.group == ranks.group]
        leads.append(own[-1].leader.world_rank == first)
    assert leads == [len(ranks.members) == 1] * 3 + [True, True]


@case
def the_offer_is_the_mean_over_the_window(ranks):
    # The last loss alone would elect the highest rank, the mean of three elects the lowest.
    worker = Worker(ranks, local_period=5, local_pull=0.5, global_period=NEVER, loss_window=3)
    for loss in (99.0, -99.0, 3.0 + ranks.rank, 3.0 + ranks.rank, 3.0 - ranks.rank):
        worker.iterate(loss)
    own = [each for each in worker.optimizer.rounds if each.group == ranks.group]
    assert [each.leader.world_rank for each in own] == [min(ranks.members)]
    assert abs(own[0].leader.loss - (9.0 + min(ranks.members)) / 3) < 1e-6


@case
def at_every_step_the_pull_follows_equation_three(ranks):
    # x ← x − η g − λ (x − x̃ʲ) − λ_G (x − x̃), the leaders as they were when they were elected.
    generators = [torch.Generator().manual_seed(200 + rank) for rank in range(ranks.size)]
    worker = Worker(
        ranks,
        pull="every-step",
        local_period=2,
        local_pull=0.2,
        global_period=3,
        global_pull=0.3,
        loss_window=1,
        lr=0.1,
    )
    x = [start_of(rank) for rank in range(ranks.size)]
    local_leaders, global_leader = [None] * len(ranks.groups), None
    for step in range(1, 14):
        losses = [float(torch.rand((), generator=generator)) for generator in generators]
        gradients = [torch.randn(18, generator=generator, dtype=torch.float64) for generator in generators]
        worker.iterate(losses[ranks.rank], gradients[ranks.rank])
        for group, members in enumerate(ranks.groups):
            for rank in members:
                moved = x[rank] - 0.1 * gradients[rank]
                if local_leaders[group] is not None:
                    moved = moved - 0.2 * (x[rank] - local_leaders[group])
                if global_leader is not None:
                    moved = moved - 0.3 * (x[rank] - global_leader)
                x[rank] = moved
        if step % 2 == 0:
            local_leaders = [x[leader].clone() for leader in ranks.leaders(losses)]
        if step % 3 == 0 and len(ranks.groups) > 1:
            global_leader = x[best(range(ranks.size), losses)].clone()
        assert_close(worker.values, x[ranks.rank], relative=1e-13)


@case
def tied_weights_move_once_and_frozen_ones_never(ranks):
    model = nn.ModuleDict({"first": Tiny(), "last": Tiny()})
    model["last"].weight = model["first"].weight
    model["last"].bias.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(10.0 * (ranks.rank + 1))
    frozen = model["last"].bias.detach().clone()
    trained = [each for each in model.parameters() if each.requires_grad]
    inner = torch.optim.SGD(trained, lr=0.1)
    optimizer = distributed(
        ranks, inner, model, equal_start=False, local_period=1, local_pull=0.25, global_period=NEVER
    )
    losses = [float(-rank) for rank in range(ranks.size)]
    for each in trained:
        each.grad = torch.ones_like(each)
    optimizer.step(losses[ranks.rank])
    leader = best(ranks.members, losses)
    expected = 10.0 * (ranks.rank + 1) - 0.25 * 10.0 * (ranks.rank - leader) - 0.1
    for each in trained:
        assert_close(each.detach(), torch.full_like(each, expected))
    assert model["last"].weight is model["first"].weight
    assert_same_bits(model["last"].bias.detach(), frozen)


@case
def half_precision_models_are_pulled_and_averaged_too(ranks):
    for dtype in (torch.float16, torch.bfloat16):
        check_half_precision(ranks, dtype)


def check_half_precision(ranks, dtype):
    model = Tiny(dtype)
    write(model, torch.full((18,), 2.0 * ranks.rank, dtype=dtype))
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = distributed(
        ranks, inner, model, equal_start=False, local_period=1, local_pull=0.5, global_period=NEVER
    )
    with optimizer.evaluated_parameters():
        assert values(model).tolist() == [ranks.size - 1.0] * 18
    optimizer.step(float(ranks.rank))
    assert values(model).tolist() == [ranks.rank + min(ranks.members)] * 18


@case
def a_pull_of_one_brings_a_diverged_worker_back(ranks):
    for pull in ("once", "every-step"):
        model = Tiny()
        odd = ranks.rank == max(ranks.members) and len(ranks.members) > 1
        write(model, torch.full((18,), float("nan") if odd else 1.0, dtype=torch.float64))
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = distributed(
            ranks,
            inner,
            model,
            equal_start=False,
            local_period=1,
            local_pull=1.0,
            global_period=NEVER,
            loss_window=1,
            pull=pull,
        )
        for _ in range(2):
            optimizer.step(float("nan") if odd else 1.0)
        assert values(model).tolist() == [1.0] * 18


@case
def training_where_the_average_is_shown_is_refused(ranks):
    model = Tiny()
    optimizer = distributed(ranks, torch.optim.SGD(model.parameters(), lr=0.1), model)
    with optimizer.evaluated_parameters():
        with pytest.raises(UsageError, match="outside"):
            optimizer.step(1.0)
        with pytest.raises(UsageError, match="outside"), optimizer.evaluated_parameters():
            pass
    optimizer.step(1.0)


@case
def single_precision_and_channels_last_weights_are_pulled_where_they_lie(ranks):
    model = nn.Conv2d(3, 4, 5).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) * (ranks.rank + 1.0))
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = distributed(
        ranks, inner, model, equal_start=False, local_period=1, local_pull=1.0, global_period=NEVER
    )
    optimizer.step(float(-ranks.rank))
    leader = max(ranks.members)
    for parameter in model.parameters():
        elements = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)
        assert_same_bits(parameter.detach(), elements * (leader + 1.0))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert values(model).dtype == torch.float32
