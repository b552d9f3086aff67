"""DOWNPOUR with the mean of its center over time, asynchronous."""

from __future__ import annotations

from lsgd_mpi.algorithms.base import PeriodOptions
from lsgd_mpi.algorithms.center import CENTER_AVERAGE
from lsgd_mpi.algorithms.downpour_asynchronous import AsynchronousDownpour


class ADownpour(AsynchronousDownpour):
    """`AsynchronousDownpour` that evaluates the mean of the center over time (thesis, Section 4.1).

    ``z ← (1 − a_t) z + a_t x̃`` with ``a_t = 1/(t+1)`` after the t-th exchange of all workers, from ``z =
    x̃_0``. It costs no communication but one allreduce an evaluation: see
    `lsgd_mpi.algorithms.visiting.CenterLag`.
    """

    name = "adownpour"
    other_clocks = "is asynchronous; in step it is downpour with --evaluated center-average"
    options_class = PeriodOptions

    @property
    def evaluated(self) -> str:
        """The mean of the center over time."""
        return CENTER_AVERAGE
