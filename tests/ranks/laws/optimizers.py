"""DistributedOptimizer as a torch optimizer: schedulers, saved states, several in a row, and allreduce."""

import io
import logging
import warnings

import pytest
import torch
from harness import (
    RAMP,
    Tiny,
    Worker,
    assert_close,
    assert_same_bits,
    case,
    distributed,
    start_of,
    values,
    write,
)
from torch import nn
from torch.optim import lr_scheduler

import lsgd_mpi
from lsgd_mpi.errors import UsageError

NEVER = 1000


def refuses(words, action, *arguments, **options):
    """`action` must raise a UsageError with these words in it."""
    with pytest.raises(UsageError) as refused:
        action(*arguments, **options)
    for word in words:
        assert word in str(refused.value)


@case
def a_torch_scheduler_changes_the_rate_of_the_steps(ranks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        worker = Worker(ranks, lr=0.8, local_period=NEVER)
        scheduler = lr_scheduler.StepLR(worker.optimizer, step_size=2, gamma=0.5)
        ones, rates = torch.ones(18, dtype=torch.float64), []
        for _ in range(6):
            rates.append(worker.inner.param_groups[0]["lr"])
            worker.iterate(1.0, ones)
            scheduler.step()
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert_close(worker.values, start_of(ranks.rank) - sum(rates))
    assert scheduler.get_last_lr() == [0.1]


@case
def other_torch_schedulers_take_it_for_an_optimizer(ranks):
    makers = [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1)),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    ]
    for maker in makers:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            worker, plain = Worker(ranks, lr=0.5, momentum=0.9, local_period=NEVER), Tiny()
            twin = torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9)
            schedulers = maker(worker.optimizer), maker(twin)
            for _ in range(3):
                worker.iterate(1.0)
                twin.step()
                for each in schedulers:
                    each.step()
        assert worker.optimizer.param_groups[0]["lr"] == twin.param_groups[0]["lr"]
        assert worker.optimizer.param_groups[0]["momentum"] == twin.param_groups[0]["momentum"]
    plateau = lr_scheduler.ReduceLROnPlateau(worker.optimizer, patience=0, factor=0.1)
    before = worker.inner.param_groups[0]["lr"]
    for _ in range(3):
        plateau.step(1.0)
    assert worker.inner.param_groups[0]["lr"] < before


@case
def it_shows_the_state_of_the_optimizer_inside(ranks):
    worker = Worker(ranks, lr=0.1, momentum=0.9, local_period=NEVER)
    worker.iterate(1.0, torch.ones(18, dtype=torch.float64))
    assert isinstance(worker.optimizer, torch.optim.Optimizer)
    assert worker.optimizer.state is worker.inner.state
    assert worker.optimizer.defaults["momentum"] == 0.9
    worker.optimizer.zero_grad()
    assert worker.model.weight.grad is None
    assert "lsgd" in repr(worker.optimizer)
    refuses(["before DistributedOptimizer"], worker.optimizer.add_param_group, {"params": []})


TRAJECTORIES = {
    "once": {"local_period": 2, "local_pull": 0.3, "global_period": 3, "loss_window": 4},
    "every-step": {"local_period": 2, "local_pull": 0.2, "global_period": 3, "pull": "every-step"},
}


def iterations(ranks, worker, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(1000 * step + ranks.rank)
        loss = float(torch.rand((), generator=generator))
        worker.iterate(loss, torch.randn(18, generator=generator, dtype=torch.float64))


@case
def a_saved_state_continues_the_same_trajectory(ranks):
    for options in TRAJECTORIES.values():
        whole = Worker(ranks, momentum=0.9, **options)
        iterations(ranks, whole, 0, 14)

        first = Worker(ranks, momentum=0.9, **options)
        iterations(ranks, first, 0, 7)
        file = io.BytesIO()
        torch.save({"optimizer": first.optimizer.state_dict(), "values": first.values}, file)
        # What the first one does now must not reach the saved state.
        iterations(ranks, first, 50, 57)
        file.seek(0)
        saved = torch.load(file, weights_only=True)

        second = Worker(ranks, momentum=0.9, **options)
        write(second.model, saved["values"])
        second.optimizer.load_state_dict(saved["optimizer"])
        iterations(ranks, second, 7, 14)
        assert_same_bits(second.values, whole.values)

        whole.optimizer.finish()
        first.optimizer.finish()
        second.optimizer.finish()
        assert tell(ranks, second.optimizer) == [each for each in tell(ranks, whole.optimizer) if each[3] > 7]


def tell(ranks, optimizer):
    return [
        (
            each.scope,
            each.group,
            each.number,
            each.step,
            each.total_steps,
            each.leader,
            each.previous_world_rank,
        )
        for each in optimizer.rounds
        if each.group in (ranks.group, None)
    ]


@case
def a_state_in_memory_is_a_copy_of_what_the_algorithm_remembers(ranks):
    for options in TRAJECTORIES.values():
        worker = Worker(ranks, **options)
        iterations(ranks, worker, 0, 7)
        state, at = worker.optimizer.state_dict(), worker.values
        iterations(ranks, worker, 7, 12)
        expected = worker.values
        write(worker.model, at)
        worker.optimizer.load_state_dict(state)
        iterations(ranks, worker, 7, 12)
        assert_same_bits(worker.values, expected)


@case
def a_state_of_another_algorithm_is_refused(ranks):
    state = Worker(ranks, algorithm="allreduce").optimizer.state_dict()
    worker = Worker(ranks, local_period=1)
    refuses(["allreduce", "lsgd"], worker.optimizer.load_state_dict, state)
    window = Worker(ranks, local_period=1, loss_window=3)
    window.iterate(1.0)
    refuses(["--loss-window"], worker.optimizer.load_state_dict, window.optimizer.state_dict())


@case
def several_optimizers_live_one_after_the_other(ranks):
    for number in range(3):
        worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=NEVER)
        for _ in range(2):
            worker.iterate(float(-ranks.rank))
        worker.optimizer.finish()
        own = [each for each in worker.optimizer.rounds if each.group == ranks.group]
        assert [each.number for each in own] == [1, 2], number
        assert own[0].previous_world_rank is None
        assert_same_bits(worker.values, start_of(max(ranks.members)))


@case
def a_model_can_be_trained_by_another_method_after_the_first(ranks):
    model, plain, before = Tiny(), Tiny(), None
    write(model, RAMP)
    for algorithm in ("lsgd", "allreduce", "allreduce", "lsgd"):
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"local_period": 1, "local_pull": 0.0} if algorithm == "lsgd" else {}
        optimizer = distributed(ranks, inner, model, algorithm=algorithm, **options)
        write(plain, values(model))
        twin = torch.optim.SGD(plain.parameters(), lr=0.1)
        for _ in range(3):
            # Without communication each rank goes its own way, with averaged gradients all go the same.
            size = 1.0 if algorithm == "allreduce" else ranks.rank + 1.0
            for each, stepper in ((model, optimizer), (plain, twin)):
                stepper.zero_grad()
                loss = each(torch.full((1, 5), size, dtype=torch.float64)).square().mean()
                loss.backward()
                if stepper is optimizer:
                    stepper.step(loss)
                else:
                    stepper.step()
        assert_close(values(model), values(plain))
        before = optimizer if algorithm == "allreduce" else before
    refuses(["another DistributedOptimizer"], before.step, 1.0)


@case
def allreduce_is_plain_sgd_on_the_concatenated_batch(ranks):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    plain = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    plain.load_state_dict(model.state_dict())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = distributed(
        ranks, torch.optim.SGD(model.parameters(), **settings), model, algorithm="allreduce"
    )
    twin = torch.optim.SGD(plain.parameters(), **settings)
    generators = [torch.Generator().manual_seed(rank) for rank in range(ranks.size)]
    for _ in range(6):
        batches = [torch.randn(3, 5, generator=each, dtype=torch.float64) for each in generators]
        optimizer.zero_grad()
        loss = model(batches[ranks.rank]).square().mean()
        loss.backward()
        optimizer.step(loss)
        twin.zero_grad()
        plain(torch.cat(batches)).square().mean().backward()
        twin.step()
        assert_close(values(model), values(plain), relative=1e-13)
    assert optimizer.rounds == []


@case
def a_model_that_was_cast_after_wrapping_ends_the_round_before_anything_is_sent(ranks):
    worker = Worker(ranks, local_period=1, local_pull=0.5)
    worker.model.float()
    for each in worker.model.parameters():
        each.grad = torch.zeros_like(each)
    before = worker.optimizer.traffic.sent_bytes
    refuses(["was given other memory"], worker.optimizer.step, 1.0)
    assert worker.optimizer.traffic.sent_bytes == before


@case
def a_model_whose_parameters_were_replaced_after_wrapping_ends_the_round(ranks):
    worker = Worker(ranks, local_period=1, local_pull=0.5)
    copies = {name: each.clone() for name, each in worker.model.state_dict().items()}
    worker.model.load_state_dict(copies, assign=True)
    refuses(["was given other memory"], worker.iterate, 1.0)


@case
def a_models_new_values_in_place_are_what_is_trained_on(ranks):
    worker = Worker(ranks, local_period=1, local_pull=1.0, global_period=NEVER)
    write(worker.model, start_of(ranks.rank + 10))
    worker.iterate(float(ranks.rank))
    assert_same_bits(worker.values, start_of(min(ranks.members) + 10))


@case
def optimizers_that_do_not_belong_to_the_model_are_refused(ranks):
    model = Tiny()
    other = torch.optim.SGD(Tiny().parameters(), lr=0.1)
    refuses(["not the model's"], lsgd_mpi.DistributedOptimizer, other, model)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = distributed(ranks, inner, model, local_period=1)
    refuses(["already"], lsgd_mpi.DistributedOptimizer, optimizer, model)
    refuses(["did you mean lsgd?"], lsgd_mpi.DistributedOptimizer, inner, model, algorithm="lsdg")
    refuses(["--local-perod"], lsgd_mpi.DistributedOptimizer, inner, model, local_perod=3)


class Heard(logging.Handler):
    """Remembers what was logged."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@case
def options_without_effect_are_warned_of_on_rank_zero(ranks):
    model = Tiny()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    heard, log = Heard(), logging.getLogger("lsgd_mpi")
    log.addHandler(heard)
    try:
        lsgd_mpi.DistributedOptimizer(inner, model, local_period=3, global_period=6)
    finally:
        log.removeHandler(heard)
    expected = 1 if len(ranks.groups) == 1 and ranks.rank == 0 else 0
    assert ["--global-period 6" in message for message in heard.messages] == [True] * expected
