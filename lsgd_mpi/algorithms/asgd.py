"""Averaged stochastic gradient descent, one worker."""

from __future__ import annotations

from lsgd_mpi.algorithms.sequential import AveragedSequential


class ASGD(AveragedSequential):
    """Sequential SGD that evaluates the mean of all its parameters so far (thesis, Section 4.1).

    ``z ← (1 − a_t) z + a_t x`` with ``a_t = 1/(t+1)`` after iteration t, from ``z = x_0`` (Polyak and
    Juditsky). *Communication*: none. *Changes* the parameters by the optimizer alone.
    """

    name = "asgd"
