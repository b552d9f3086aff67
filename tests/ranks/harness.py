"""What the programs under mpirun share: how a case is written, registered, and run on all ranks.

A case is a function of `Ranks` that every rank runs; it holds for every layout of groups and fails by an
exception on any rank. Importing this file starts no MPI: pytest reads the names of the cases from it.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

import lsgd_mpi

#: Groups as lists of world ranks, for each number of ranks.
LAYOUTS = {
    1: ["0;"],
    2: ["0-1", "0;1"],
    3: ["0-2", "0,2;1", "0;1;2"],
    4: ["0-3", "0-1;2-3", "0,2;1,3", "0-2;3", "3;1;0,2"],
}

CASES = {}
#: Names of cases to which the groups mean nothing: they run in the last layout of a size.
WITHOUT_GROUPS = set()


def case(function):
    """Register a case under its function's name."""
    assert function.__name__ not in CASES
    CASES[function.__name__] = function
    return function


def case_without_groups(function):
    """Register a case that would do the same in every layout of groups."""
    WITHOUT_GROUPS.add(function.__name__)
    return case(function)


@dataclass(frozen=True)
class Ranks:
    """The ranks as one of them sees them; ``world`` is a communicator of the tests' own."""

    world: object
    groups: tuple[tuple[int, ...], ...]

    @property
    def rank(self):
        return self.world.Get_rank()

    @property
    def size(self):
        return self.world.Get_size()

    @property
    def group(self):
        return next(index for index, members in enumerate(self.groups) if self.rank in members)

    @property
    def members(self):
        return self.groups[self.group]

    def gather(self, value):
        """Every rank's value, by world rank."""
        return self.world.allgather(value)

    def leaders(self, losses):
        """The local leaders, by group, when the ranks offer ``losses[world_rank]``."""
        return [best(members, losses) for members in self.groups]


def best(members, losses):
    """The rule of the election, written again: lowest finite loss, then lowest rank."""
    return min((loss if math.isfinite(loss := losses[rank]) else math.inf, rank) for rank in members)[1]


class Tiny(nn.Module):
    """18 parameters whose two tensors need padding between them."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 5, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(3, dtype=dtype))

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


RAMP = torch.linspace(0.5, 1.5, 18, dtype=torch.float64)


def start_of(rank):
    """Where the worker of a world rank starts: other numbers on each rank and in each element."""
    return (rank + 1) * RAMP / 3


def values(model):
    """A copy of all parameters as one vector, taken from the model and not from the engine."""
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in model.parameters()])


def write(model, vector):
    """Overwrite the parameters, in place."""
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), _split(model, vector), strict=True):
            parameter.copy_(part)


def give_gradient(model, vector):
    """Set the gradients."""
    for parameter, part in zip(model.parameters(), _split(model, vector), strict=True):
        parameter.grad = part.clone()


def _split(model, vector):
    shapes = [parameter.shape for parameter in model.parameters()]
    parts = vector.split([shape.numel() for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class Worker:
    """A rank's model and optimizer, with gradients and losses as the case gives them."""

    def __init__(self, ranks, model=None, *, lr=0.1, momentum=0.0, equal_start=False, **options):
        if model is None:
            model = Tiny()
            write(model, start_of(ranks.rank))
        self.model = model
        self.inner = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        self.optimizer = distributed(ranks, self.inner, model, equal_start=equal_start, **options)

    def iterate(self, loss, gradient=None):
        """One iteration; without a gradient only communication moves the parameters."""
        give_gradient(self.model, torch.zeros(18, dtype=torch.float64) if gradient is None else gradient)
        self.optimizer.step(loss)

    @property
    def values(self):
        return values(self.model)


def distributed(ranks, inner, model, **options):
    """A DistributedOptimizer; with one group without the global options, which it would warn of."""
    if len(ranks.groups) == 1:
        options = {name: value for name, value in options.items() if not name.startswith("global_")}
    return lsgd_mpi.DistributedOptimizer(inner, model, **options)


def assert_same_bits(actual, expected):
    """Equal to the last bit."""
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected), f"{actual}\n!=\n{expected}"


def assert_close(actual, expected, relative=1e-14):
    """Equal to a few roundings of float64, element by element."""
    torch.testing.assert_close(actual, expected, rtol=relative, atol=relative)
