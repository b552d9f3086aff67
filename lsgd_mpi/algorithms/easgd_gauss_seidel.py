"""Elastic averaging SGD, synchronous, in the Gauss-Seidel form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lsgd_mpi.algorithms.base import Worker
from lsgd_mpi.algorithms.center import CenterAlgorithm
from lsgd_mpi.algorithms.easgd import EASGDOptions
from lsgd_mpi.groups import Topology
from lsgd_mpi.leaders import Round


@dataclass(frozen=True)
class GaussSeidelOptions(EASGDOptions):
    """Options of EASGD, whose two rates are independent in this form."""

    def _check_pair(self, alpha: float, beta: float, p: int) -> None:
        """Any pair will do."""

    def doubts(self, topology: Topology) -> list[str]:  # noqa: ARG002
        """Rates at which even small steps diverge (thesis, Theorem 6.2.1 for η → 0)."""
        alpha, beta = self.worker_moving_rate or 0.0, self.moving_rate or 0.0
        if abs((1.0 - alpha) * (1.0 - beta)) <= 1.0 and alpha < 2.0:
            return []
        return [
            f"EASGD in the Gauss-Seidel form is unstable at α = {alpha:g}, β = {beta:g}: with small steps it "
            "needs α < 2 and |(1 − α)(1 − β)| < 1"
        ]


class GaussSeidelEASGD(CenterAlgorithm):
    """EASGD in which each part of a round sees what the one before it did (thesis, Equation 6.3).

    | word | symbol | option, default |
    |---|---|---|
    | communication period | τ | ``local_period`` 16 |
    | moving rate of the center, of a worker | β, α | ``moving_rate`` 0.9, ``worker_moving_rate`` β/p |

    For each period: ``xⁱ ← xⁱ − α (xⁱ − x̃)``; τ steps ``xⁱ ← xⁱ − η g(xⁱ)``, the first from there; then
    ``x̃ ← x̃ + β · mean(xⁱ − x̃)``. So a *round*, at the end of every τ-th iteration, moves the center and at
    once pulls the workers for the period to come. With α = 1, β = p it is synchronous DOWNPOUR.

    *Communication of a worker*: P a round (the bytes of the flat parameters), one allreduce. *Changes* the
    parameters, never the optimizer's state. *Keeps* the buffers of `CenterAlgorithm`.
    """

    name = "easgd-gauss-seidel"
    options_class = GaussSeidelOptions

    def __init__(self, options: GaussSeidelOptions, worker: Worker) -> None:
        super().__init__(options, worker)
        if not worker.equal_start:
            self._pull()

    def after_update(self, loss: torch.Tensor | float) -> Iterator[Round]:  # noqa: ARG002
        """Hold the round that is due."""
        self._hold_round()
        return iter(())

    def _exchange(self) -> None:
        self.center.lerp_(self._mean_of(self.parameters.flat), self.options.moving_rate)
        self._pull()

    def _pull(self) -> None:
        self.parameters.flat.lerp_(self.center, self.options.worker_moving_rate)
