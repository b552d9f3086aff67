"""Evaluation shows the average of all workers and changes nothing that training uses."""

import copy

import torch
from harness import Worker, assert_close, assert_same_bits, case, distributed, start_of, values
from torch import nn


class WithBuffers(nn.Module):
    """A network whose buffers training changes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()

    def forward(self, x):
        return self.layers(x)


def train(model, optimizer, steps, generator):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6, generator=generator, dtype=torch.float64)).square().mean()
        loss.backward()
        optimizer.step(loss)


def everything(model, inner, optimizer):
    """All that training uses, copied, with the addresses of the parameters."""
    tensors = {name: each.detach().clone() for name, each in model.state_dict().items()}
    tensors |= {f"{name}.grad": each.grad.clone() for name, each in model.named_parameters()}
    momentum = [state["momentum_buffer"].clone() for state in inner.state.values()]
    addresses = [each.data_ptr() for each in model.parameters()]
    return tensors, momentum, addresses, copy.deepcopy(optimizer.state_dict()["algorithm"])


def assert_unchanged(before, after):
    for name, tensor in before[0].items():
        assert_same_bits(after[0][name], tensor)
    for mine, other in zip(after[1], before[1], strict=True):
        assert_same_bits(mine, other)
    assert after[2] == before[2]
    assert_same_state(after[3], before[3])


def assert_same_state(mine, other):
    if isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert_same_state(value, other[key])
    elif isinstance(mine, torch.Tensor):
        assert_same_bits(mine, other)
    else:
        assert mine == other


OPTIONS = {
    "once": {"local_period": 2, "local_pull": 0.3, "global_period": 3, "bn": "average"},
    "every-step": {"local_period": 2, "local_pull": 0.2, "global_period": 3, "pull": "every-step"},
    "allreduce": {"algorithm": "allreduce"},
}


def new(ranks, options):
    torch.manual_seed(ranks.rank)
    model = WithBuffers()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, inner, distributed(ranks, inner, model, **options)


@case
def evaluation_leaves_every_training_buffer_unchanged(ranks):
    for options in OPTIONS.values():
        model, inner, optimizer = new(ranks, options)
        generator = torch.Generator().manual_seed(ranks.rank)
        for steps in (1, 6):
            # After step 1 before any round, then with leaders stored.
            train(model, optimizer, steps, generator)
            before = everything(model, inner, optimizer)
            for _ in range(2):
                with optimizer.evaluated_parameters(), torch.no_grad():
                    model.eval()
                    model(torch.ones(2, 6, dtype=torch.float64))
                    model.train()
            assert_unchanged(before, everything(model, inner, optimizer))


@case
def training_goes_on_as_if_nobody_had_evaluated(ranks):
    for options in OPTIONS.values():
        ends = []
        for evaluating in (False, True):
            model, inner, optimizer = new(ranks, options)
            generator = torch.Generator().manual_seed(ranks.rank)
            for _ in range(7):
                train(model, optimizer, 1, generator)
                if evaluating:
                    with optimizer.evaluated_parameters():
                        pass
            ends.append(everything(model, inner, optimizer))
        for name, tensor in ends[0][0].items():
            assert_same_bits(ends[1][0][name], tensor)


@case
def what_is_evaluated_is_the_average_of_all_workers(ranks):
    worker = Worker(ranks, local_period=1, local_pull=0.3, global_period=2)
    for step in range(4):
        everyone = ranks.gather(worker.values)
        with worker.optimizer.evaluated_parameters():
            assert_close(worker.values, sum(everyone) / ranks.size)
            assert_close(worker.model(torch.eye(5, dtype=torch.float64))[:, 0], _first_outputs(everyone))
        assert_same_bits(worker.values, everyone[ranks.rank])
        worker.iterate(float((ranks.rank + step) % ranks.size))


def _first_outputs(everyone):
    average = sum(everyone) / len(everyone)
    return average[:5] + average[15]


@case
def evaluation_ends_also_with_an_exception(ranks):
    worker = Worker(ranks, local_period=1)
    try:
        with worker.optimizer.evaluated_parameters():
            raise KeyError
    except KeyError:
        pass
    assert_same_bits(worker.values, start_of(ranks.rank))
    worker.iterate(1.0)


@case
def evaluation_keeps_a_models_own_buffers_and_moves_no_bytes_but_one_average(ranks):
    model, _, optimizer = new(ranks, OPTIONS["once"])
    train(model, optimizer, 1, torch.Generator().manual_seed(ranks.rank))
    statistics = model.layers[1].running_mean.clone()
    flat_bytes = sum(-(-each.numel() // 2) * 16 for each in model.parameters())
    before = optimizer.traffic.sent_bytes
    with optimizer.evaluated_parameters():
        assert_same_bits(model.layers[1].running_mean, statistics)
        assert not torch.equal(values(model), torch.zeros_like(values(model)))
    assert optimizer.traffic.sent_bytes - before == (flat_bytes if ranks.size > 1 else 0)
