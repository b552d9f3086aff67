"""Start and end: groups, ranks that disagree, equal parameters at the start."""

import pytest
import torch
from harness import (
    LAYOUTS,
    Tiny,
    Worker,
    assert_same_bits,
    case,
    case_without_groups,
    start_of,
    values,
    write,
)
from torch import nn

import lsgd_mpi
from lsgd_mpi.errors import DataError, UsageError
from lsgd_mpi.groups import parse_groups


def agreed_refusal(action):
    """The message of the UsageError that ``action`` must raise as one that all ranks know of."""
    with pytest.raises(UsageError) as refused:
        action()
    assert refused.value.agreed
    return str(refused.value)


@case
def the_public_functions_tell_ranks_and_groups(ranks):
    assert lsgd_mpi.is_initialized()
    assert (lsgd_mpi.rank(), lsgd_mpi.size()) == (ranks.rank, ranks.size)
    assert lsgd_mpi.group_rank() == ranks.members.index(ranks.rank)
    # All on one node here.
    assert lsgd_mpi.local_rank() == ranks.rank
    assert lsgd_mpi.topology().groups == ranks.groups


@case
def init_again_with_the_same_groups_does_nothing_and_with_others_is_refused(ranks):
    communicator = lsgd_mpi.runtime.communicator()
    lsgd_mpi.init([list(reversed(members)) for members in ranks.groups])
    assert lsgd_mpi.runtime.communicator() is communicator
    for layout in LAYOUTS[ranks.size]:
        other = parse_groups(layout)
        if tuple(map(tuple, other)) != ranks.groups:
            with pytest.raises(UsageError, match=r"shutdown\(\) first"):
                lsgd_mpi.init(other)
    assert lsgd_mpi.runtime.communicator() is communicator
    Worker(ranks, local_period=1).iterate(1.0)


@case
def after_shutdown_it_can_be_started_with_other_groups(ranks):
    lsgd_mpi.shutdown()
    lsgd_mpi.shutdown()
    assert not lsgd_mpi.is_initialized()
    with pytest.raises(UsageError, match=r"init\(\)"):
        lsgd_mpi.rank()
    for spec in (1, ranks.size, "node"):
        lsgd_mpi.init(spec)
        assert len(lsgd_mpi.topology().groups) == (ranks.size if spec == 1 else 1)
        lsgd_mpi.shutdown()
    lsgd_mpi.init(ranks.groups)


@case
def ranks_with_different_groups_are_told_so_together(ranks):
    lsgd_mpi.shutdown()
    if ranks.size > 1:
        mine = 1 if ranks.rank == 1 else ranks.size
        message = agreed_refusal(lambda: lsgd_mpi.init(mine))
        assert message.startswith("the ranks have different groups: ")
        assert message.endswith(f"{ranks.size} on world rank 0, 1 on world rank 1")
        assert not lsgd_mpi.is_initialized()
    lsgd_mpi.init(ranks.groups)


def disagreement(ranks, odd_model=None, **odd_options):
    """What all ranks are told when the last one has another model or other options."""
    odd = ranks.rank == ranks.size - 1
    model = odd_model if odd and odd_model is not None else Tiny()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"local_period": 2, **(odd_options if odd else {})}
    if ranks.size == 1:
        lsgd_mpi.DistributedOptimizer(inner, model, **options)
        return None
    message = agreed_refusal(lambda: lsgd_mpi.DistributedOptimizer(inner, model, **options))
    assert len(set(ranks.gather(message))) == 1
    assert f"on world rank {ranks.size - 1}" in message
    return message


@case
def ranks_with_different_options_are_told_so_together(ranks):
    message = disagreement(ranks, local_period=3)
    assert (
        message is None or f"local_period is 2 on world rank 0, 3 on world rank {ranks.size - 1}" in message
    )
    message = disagreement(ranks, algorithm="lsgd", loss_window=11)
    assert (
        message is None or f"loss_window is 10 on world rank 0, 11 on world rank {ranks.size - 1}" in message
    )


@case
def ranks_with_different_models_are_told_so_together(ranks):
    message = disagreement(ranks, nn.Linear(4, 3).double())
    assert message is None or "[3, 4]" in message
    message = disagreement(ranks, Tiny(torch.float32))
    assert message is None or "torch.float32" in message
    # Afterwards everything works.
    Worker(ranks, local_period=1).iterate(1.0)


class Odd(nn.Module):
    """Parameters and buffers of all kinds that a model may have, other values on each rank."""

    def __init__(self, rank):
        super().__init__()
        generator = torch.Generator().manual_seed(rank)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=generator).t())
        self.scale = nn.Parameter(torch.tensor(rank + 0.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.frozen = nn.Parameter(torch.randn(4, 3, generator=generator).t(), requires_grad=False)
        self.frozen_double = nn.Parameter(torch.tensor([float(rank)]).double(), requires_grad=False)
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.fill_(rank)
        self.norm.num_batches_tracked.fill_(rank)
        self.register_buffer("strided", torch.randn(8, generator=generator)[::2])
        self.register_buffer("mask", torch.tensor([rank % 2 == 0, rank % 2 == 1]))
        self.register_buffer("halves", torch.tensor([rank + 0.5], dtype=torch.float16))
        self.register_buffer("count", torch.tensor(rank, dtype=torch.int32))
        self.register_buffer("brain", torch.tensor([rank + 0.5], dtype=torch.bfloat16))
        self.register_buffer("wave", torch.tensor([rank + 1j]))
        self.register_buffer("temporary", torch.tensor([float(rank)]), persistent=False)


@case
def all_workers_start_with_the_parameters_and_buffers_of_rank_zero(ranks):
    # Rank 0 has seed 5, so that nothing is right by being zero.
    def make(rank):
        return Odd(5 + rank)

    model, wanted = make(ranks.rank), make(0)
    strides = [each.stride() for each in model.parameters()]
    lsgd_mpi.DistributedOptimizer(torch.optim.SGD([model.weight, model.scale], lr=0.1), model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, expected in [*wanted.named_parameters(), *wanted.named_buffers()]:
        assert torch.equal(tensors[name], expected), name
    assert [each.stride() for each in model.parameters()] == strides


@case
def without_equal_start_each_worker_keeps_its_own(ranks):
    model = Odd(ranks.rank)
    before = {name: each.clone() for name, each in [*model.named_parameters(), *model.named_buffers()]}
    inner = torch.optim.SGD([model.weight, model.scale], lr=0.1)
    lsgd_mpi.DistributedOptimizer(inner, model, equal_start=False)
    for name, each in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(each, before[name]), name


@case
def equal_start_is_the_default(ranks):
    model = Tiny()
    write(model, start_of(ranks.rank + 3))
    lsgd_mpi.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert_same_bits(values(model), start_of(3))


@case
def a_problem_of_one_rank_is_raised_on_all(ranks):
    last = ranks.size - 1

    def fail_on_the_last():
        if ranks.rank == last:
            raise DataError("the file is missing")
        return "fine"

    with pytest.raises(DataError) as raised:
        lsgd_mpi.comm.together(fail_on_the_last)
    assert raised.value.agreed
    where = f"world rank {last}: " if last else ""
    assert str(raised.value) == f"{where}the file is missing"
    assert lsgd_mpi.comm.together(lambda: ranks.rank) == ranks.rank
    assert lsgd_mpi.comm.on_rank_zero(lambda: ("zero", ranks.rank)) == ("zero", 0)


@case
def sums_and_maxima_are_the_same_on_all_ranks(ranks):
    communicator = lsgd_mpi.runtime.communicator()
    total = ranks.size * (ranks.size + 1) / 2
    assert communicator.sum([ranks.rank + 1, 0.5]) == [total, ranks.size * 0.5]
    assert communicator.start_maximum([ranks.rank, -ranks.rank])() == [ranks.size - 1, 0]
    assert communicator.gather(10 * ranks.rank) == [10 * rank for rank in range(ranks.size)]


MAPS = """\
7f00-7f01 r-xp 00000000 08:01 11 /opt/one/lib/libmpi.so.40.40.5
7f01-7f02 rw-p 00000000 08:01 11 /opt/one/lib/libmpi.so.40.40.5
7f02-7f03 r-xp 00000000 08:01 12 /opt/one/lib/libmpi_mpifh.so.40
7f03-7f04 r-xp 00000000 08:01 13 /opt/one/lib/libopen-pal.so.80
7f04-7f05 r-xp 00000000 08:01 14 /home/a user/lib/python3/site-packages/mpi4py/MPI.so
7f05-7f06 rw-p 00000000 00:00 0  [heap]
"""


@case
def the_mpi_libraries_of_a_process_are_found_in_its_memory_map(ranks):  # noqa: ARG001
    find = lsgd_mpi.comm.mpi_libraries
    assert find(MAPS) == ["/opt/one/lib/libmpi.so.40.40.5"]
    for other in ("/opt/two/lib/libmpi.so.12.1", "/usr/lib/libmpich.so.12", "/cray/lib/libmpi_cray.so.12"):
        assert find(f"{MAPS}7f06-7f07 r-xp 00000000 08:01 15 {other}\n") == sorted(
            ["/opt/one/lib/libmpi.so.40.40.5", other]
        )
    assert find("") == []
    # And this process has exactly one.
    assert len(lsgd_mpi.comm.mpi_library_files()) == 1


@case
def models_that_differ_in_any_tensor_are_refused_together(ranks):
    def build(change):
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        if ranks.rank == ranks.size - 1:
            change(model)
        return model

    changes = {
        "0.bias": lambda model: model[0].bias.requires_grad_(False),
        "1.running_mean": lambda model: model[1].register_buffer("running_mean", torch.zeros(7)),
        "1.another": lambda model: model[1].register_buffer("another", torch.zeros(1)),
        "more": lambda model: model.register_parameter("more", nn.Parameter(torch.zeros(1))),
    }
    for name, change in changes.items():
        model = build(change)
        inner = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
        if ranks.size == 1:
            lsgd_mpi.DistributedOptimizer(inner, model)
            continue
        told = agreed_refusal(lambda inner=inner, model=model: lsgd_mpi.DistributedOptimizer(inner, model))
        assert name in told
        assert told.startswith("the ranks have different ")


@case_without_groups
def parameters_in_another_order_are_refused(ranks):
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    model = nn.Module()
    for name, each in sorted({"a": first, "b": second}.items(), reverse=ranks.rank > 0):
        model.register_parameter(name, each)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    if ranks.size > 1:
        told = agreed_refusal(lambda: lsgd_mpi.DistributedOptimizer(inner, model))
        assert told == (
            "the ranks have different parameters: ['a', 'b'] on world rank 0, ['b', 'a'] on world rank 1"
        )


@case_without_groups
def a_dropped_optimizer_leaves_nothing_in_the_model(ranks):
    model = nn.Linear(4, 3)

    def phase(algorithm, steps):
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = lsgd_mpi.DistributedOptimizer(inner, model, algorithm)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(torch.full((2, 4), float(ranks.rank))).square().mean()
            loss.backward()
            optimizer.step(loss)

    # Horovod's hooks would average the gradients of whoever trains the model next.
    phase("allreduce", 2)
    phase("lsgd", 5)
