"""DOWNPOUR with the mean of its center over time, asynchronous."""

from __future__ import annotations

from dataclasses import dataclass

from lsgd_mpi.algorithms.base import Options, check_period, option
from lsgd_mpi.algorithms.center import CENTER_AVERAGE
from lsgd_mpi.algorithms.downpour_asynchronous import AsynchronousDownpour


@dataclass(frozen=True)
class ADownpourOptions(Options):
    """Options of ADOWNPOUR."""

    local_period: int = option(16, "τ", "iterations of a worker between two of its exchanges")

    def check(self) -> None:
        """Raise `UsageError` for a period below 1."""
        super().check()
        check_period("local_period", self.local_period)


class ADownpour(AsynchronousDownpour):
    """`AsynchronousDownpour` that evaluates the mean of the center over time (thesis, Section 4.1).

    ``z ← (1 − a_t) z + a_t x̃`` with ``a_t = 1/(t+1)`` after the t-th exchange of all workers, from ``z =
    x̃_0``. It costs no communication but one allreduce an evaluation: see
    `lsgd_mpi.algorithms.visiting.CenterLag`.
    """

    name = "adownpour"
    other_clocks = "is asynchronous; in step it is downpour with --evaluated center-average"
    options_class = ADownpourOptions

    @property
    def evaluated(self) -> str:
        """The mean of the center over time."""
        return CENTER_AVERAGE
