"""Run an algorithm of `lsgd_mpi.algorithms` on a function with a known gradient, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lsgd_mpi.algorithms import Algorithm, Worker, find_algorithm, make_options
from lsgd_mpi.clock import Clock
from lsgd_mpi.flat import FlatTensors, trainable_parameters
from lsgd_mpi.groups import GroupSpec, make_topology
from lsgd_mpi.studies.threads import ThreadCommunicator, run_workers

#: From a worker's world rank, its step from 0 and its point: the loss there and the gradient.
Gradient = Callable[[int, int, torch.Tensor], tuple[float, torch.Tensor]]


@dataclass(frozen=True)
class Outcome:
    """What a run of p workers over T steps left.

    ``losses`` has the loss of each worker at its point before each step, shape (T, p). ``workers`` holds
    their points, shape (p, ...), and ``center`` the center variable (None without one), after the last step.
    ``paths``, shape (T + 1, p, ...), and ``centers``, (T + 1, ...), are kept only where asked for.
    """

    losses: torch.Tensor
    workers: torch.Tensor
    center: torch.Tensor | None
    paths: torch.Tensor | None = None
    centers: torch.Tensor | None = None


class _Point(torch.nn.Module):
    """A model whose only parameter is the point."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.point = torch.nn.Parameter(start.detach().clone())


def run(
    algorithm: str,
    options: Mapping[str, Any],
    starts: torch.Tensor,
    gradient: Gradient,
    steps: int,
    *,
    learning_rate: float,
    center: torch.Tensor | None = None,
    groups: GroupSpec | None = None,
    keep_paths: bool = False,
) -> Outcome:
    """Run ``algorithm`` with ``options`` and plain SGD from ``starts``, shape (p, ...), float64.

    The workers start where they are told, not equal, so that a center starts at their mean, unless
    ``center`` gives it. ``groups`` is as for `lsgd_mpi.init`; one group by default. Raises what the
    algorithm raises, from whichever worker, and `UsageError` for options that cannot be.
    """
    p = len(starts)
    topology = make_topology(p if groups is None else groups, ["here"] * p)
    resolved = make_options(algorithm, dict(options)).resolved(topology)

    def work(communicator: ThreadCommunicator) -> _Path:
        model = _Point(starts[communicator.world_rank])
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        parameters = FlatTensors(trainable_parameters(model), model)
        clock = Clock(p)
        worker = Worker(communicator, clock, parameters, model, optimizer, equal_start=center is not None)
        method = find_algorithm(algorithm)(resolved, worker)
        if center is not None:
            _place_center(method, parameters, center)
        path = _Path(method, parameters, model.point, keep_paths)
        for step in range(steps):
            path.step(step, communicator.world_rank, gradient)
        return path

    return _outcome(run_workers(topology, work), keep_paths)


class _Path:
    """One worker on its way."""

    def __init__(
        self, method: Algorithm, parameters: FlatTensors, point: torch.nn.Parameter, keep: bool
    ) -> None:
        self._method = method
        self._parameters = parameters
        self._point = point
        self._keep = keep
        self.losses: list[float] = []
        self.points: list[torch.Tensor] = []
        self.centers: list[torch.Tensor] = []
        self._note()

    @property
    def position(self) -> torch.Tensor:
        return self._point.detach().clone()

    @property
    def center(self) -> torch.Tensor | None:
        flat = getattr(self._method, "center", None)
        return None if flat is None else self._parameters.views(flat)[0].clone()

    def step(self, number: int, world_rank: int, gradient: Gradient) -> None:
        """One iteration, in the order of `lsgd_mpi.DistributedOptimizer.step`."""
        loss, slope = gradient(world_rank, number, self._point.detach())
        self._point.grad = slope
        self._method.clock.tick()
        self._method.before_update(loss)
        self._method.update()
        for _ in self._method.after_update(loss):
            pass
        self.losses.append(loss)
        self._note()

    def _note(self) -> None:
        if self._keep:
            self.points.append(self.position)
            center = self.center
            if center is not None:
                self.centers.append(center)


def _place_center(method: Algorithm, parameters: FlatTensors, center: torch.Tensor) -> None:
    flat = torch.zeros_like(parameters.flat)
    parameters.views(flat)[0].copy_(center)
    method.load_state_dict({**method.state_dict(), "center": flat})


def _outcome(paths: Sequence[_Path], keep: bool) -> Outcome:
    first = paths[0]
    return Outcome(
        losses=torch.tensor([path.losses for path in paths], dtype=torch.float64).T,
        workers=torch.stack([path.position for path in paths]),
        center=first.center,
        paths=torch.stack([torch.stack(path.points) for path in paths], dim=1) if keep else None,
        centers=torch.stack(first.centers) if first.centers else None,
    )
