"""Stochastic gradient descent, one worker."""

from __future__ import annotations

from lsgd_mpi.algorithms.sequential import Sequential


class SGD(Sequential):
    """The sequential baseline (thesis, Section 4.1): the optimizer as it is, ``x ← x − η g(x)``.

    *Communication*: none. *Changes* the parameters by the optimizer alone.
    """

    name = "sgd"
