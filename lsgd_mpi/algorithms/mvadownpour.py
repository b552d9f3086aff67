"""DOWNPOUR with a moving average of its center, asynchronous."""

from __future__ import annotations

from dataclasses import dataclass

from lsgd_mpi.algorithms.adownpour import ADownpour
from lsgd_mpi.algorithms.base import PeriodOptions, check_share, option
from lsgd_mpi.algorithms.visiting import CenterLag


@dataclass(frozen=True)
class MVADownpourOptions(PeriodOptions):
    """Options of MVADOWNPOUR."""

    averaging_rate: float = option(0.001, "a", "weight of the newest parameters in the moving average")

    def check(self) -> None:
        """Raise `UsageError` for a period below 1, or a rate outside [0, 1]."""
        super().check()
        check_share("averaging_rate", self.averaging_rate)


class MVADownpour(ADownpour):
    """`ADownpour` with a constant weight (thesis, Section 4.1).

    ``z ← (1 − a) z + a x̃`` after each exchange of any worker, from ``z = x̃_0``, with a =
    ``averaging_rate`` (0.001).
    """

    name = "mvadownpour"
    other_clocks = "is asynchronous"
    options_class = MVADownpourOptions

    @property
    def evaluated(self) -> str:
        """The moving average of the center."""
        return "center-moving-average"

    def _make_lag(self) -> CenterLag:
        return CenterLag(self.parameters.flat, self.options.averaging_rate)
