"""Stochastic gradient descent with a moving average, one worker."""

from __future__ import annotations

from dataclasses import dataclass

from lsgd_mpi.algorithms.base import check_share, option
from lsgd_mpi.algorithms.sequential import AveragedSequential, SequentialOptions


@dataclass(frozen=True)
class MVASGDOptions(SequentialOptions):
    """Options of MVASGD."""

    averaging_rate: float = option(0.001, "a", "weight of the newest parameters in the moving average")

    def check(self) -> None:
        """Raise `UsageError` unless the rate lies in [0, 1]."""
        super().check()
        check_share("averaging_rate", self.averaging_rate)


class MVASGD(AveragedSequential):
    """Sequential SGD that evaluates a moving average of its parameters (thesis, Section 4.1).

    ``z ← (1 − a) z + a x`` after each iteration, from ``z = x_0``, with a constant a: ``averaging_rate``
    (0.001). *Communication*: none. *Changes* the parameters by the optimizer alone.
    """

    name = "mvasgd"
    options_class = MVASGDOptions

    def _weight(self) -> float | None:
        return float(self.options.averaging_rate)
