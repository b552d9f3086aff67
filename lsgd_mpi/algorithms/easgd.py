"""Elastic averaging SGD, synchronous, in the Jacobi form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from lsgd_mpi.algorithms.base import check_rate, flag, option
from lsgd_mpi.algorithms.center import CenterAlgorithm, CenterOptions
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import Topology

#: β of the thesis' experiments (Table 4.1).
DEFAULT_MOVING_RATE = 0.9


@dataclass(frozen=True)
class EASGDOptions(CenterOptions):
    """Options of EASGD; ``None`` means: derived from the other rate, or the thesis' default."""

    moving_rate: float | None = option(
        None, "β", "rate of the center towards the workers (default: p α, or 0.9)"
    )
    worker_moving_rate: float | None = option(
        None, "α", "rate of a worker towards the center (default: β/p, for p workers)"
    )

    def check(self) -> None:
        """Raise `UsageError` for a period below 1 or negative rates."""
        super().check()
        for name in ("moving_rate", "worker_moving_rate"):
            value = getattr(self, name)
            if value is not None:
                check_rate(name, value)

    def resolved(self, topology: Topology) -> EASGDOptions:
        """With both rates, β = p α."""
        p, alpha, beta = topology.world_size, self.worker_moving_rate, self.moving_rate
        if beta is None:
            beta = DEFAULT_MOVING_RATE if alpha is None else p * alpha
        if alpha is None:
            alpha = beta / p
        self._check_pair(alpha, beta, p)
        return replace(self, moving_rate=beta, worker_moving_rate=alpha)

    def _check_pair(self, alpha: float, beta: float, p: int) -> None:
        if not math.isclose(beta, p * alpha, rel_tol=1e-9):
            raise UsageError(
                f"{flag('moving_rate')} {beta:g} and {flag('worker_moving_rate')} {alpha:g} disagree: with "
                f"{p} workers β = p α would be {p * alpha:g}; give one of them"
            )

    def doubts(self, topology: Topology) -> list[str]:
        """Rates at which even small steps diverge (thesis, Lemma 3.1.1 for η → 0)."""
        alpha, beta = self.worker_moving_rate or 0.0, self.moving_rate or 0.0
        if alpha + beta < 2.0:
            return []
        return [
            f"EASGD is unstable at α = {alpha:g}, β = {beta:g}: with small steps it needs α + β < 2, that is "
            f"β < {2.0 * topology.world_size / (topology.world_size + 1):.3g} for β = p α"
        ]


class EASGD(CenterAlgorithm):
    """Elastic averaging SGD (Zhang, thesis, Equation 2.4): workers and a center pull at each other.

    | word | symbol | option, default |
    |---|---|---|
    | communication period | τ | ``local_period`` 16 |
    | moving rate of the center, of a worker | β, α | ``moving_rate`` 0.9, ``worker_moving_rate`` β/p |

    *Round*, whenever τ divides the number t of iterations done, 0 included, with all right-hand sides at t:
    ``xⁱ ← xⁱ − η g(xⁱ) − α (xⁱ − x̃)`` and ``x̃ ← (1 − β) x̃ + β · mean xⁱ``; between rounds
    ``xⁱ ← xⁱ − η g(xⁱ)``. With ``evaluated="center-average"`` also ``z = (1/t) Σ x̃`` (Chapter 3).

    *Communication of a worker*, with P the bytes of the flat parameters: P a round, one allreduce.
    *Changes* the parameters, never the optimizer's state. *Keeps* the buffers of `CenterAlgorithm`.

    *Departure*: the elastic move is made before the optimizer's step. The gradient stays the one at the old
    point, but weight decay and other terms of the optimizer's own are taken at the moved one.
    """

    name = "easgd"
    options_class = EASGDOptions
    # At the point that was there before any iteration.
    first_round = 1

    def before_update(self, loss: torch.Tensor | float) -> None:  # noqa: ARG002
        """Hold the round that is due: the gradient was taken at the point that it starts from."""
        self._hold_round()

    def _exchange(self) -> None:
        self._mean.copy_(self.parameters.flat)
        self.parameters.flat.lerp_(self.center, self.options.worker_moving_rate)
        self.center.lerp_(self._mean_of(self._mean), self.options.moving_rate)
