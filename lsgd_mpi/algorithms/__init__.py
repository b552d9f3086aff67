"""The methods, by name. A new one is a file with a class, and its entry here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lsgd_mpi.algorithms.adownpour import ADownpour
from lsgd_mpi.algorithms.allreduce import Allreduce
from lsgd_mpi.algorithms.asgd import ASGD
from lsgd_mpi.algorithms.base import Algorithm, Communicator, Options, Worker, flag
from lsgd_mpi.algorithms.downpour import Downpour
from lsgd_mpi.algorithms.downpour_asynchronous import AsynchronousDownpour
from lsgd_mpi.algorithms.eamsgd import EAMSGD
from lsgd_mpi.algorithms.eamsgd_asynchronous import AsynchronousEAMSGD
from lsgd_mpi.algorithms.easgd import EASGD
from lsgd_mpi.algorithms.easgd_asynchronous import AsynchronousEASGD
from lsgd_mpi.algorithms.easgd_gauss_seidel import GaussSeidelEASGD
from lsgd_mpi.algorithms.easgd_tree import EASGDTree
from lsgd_mpi.algorithms.lsgd import LSGD
from lsgd_mpi.algorithms.mdownpour import MDownpour
from lsgd_mpi.algorithms.msgd import MSGD
from lsgd_mpi.algorithms.mvadownpour import MVADownpour
from lsgd_mpi.algorithms.mvasgd import MVASGD
from lsgd_mpi.algorithms.pr_sgd import PRSGD
from lsgd_mpi.algorithms.pr_sgd_timed import PRSGDTimed
from lsgd_mpi.algorithms.pr_sgd_varying import PRSGDVarying
from lsgd_mpi.algorithms.sgd import SGD
from lsgd_mpi.errors import UsageError
from lsgd_mpi.names import did_you_mean

_METHODS: tuple[type[Algorithm], ...] = (
    *(LSGD, Allreduce, PRSGD, PRSGDVarying, PRSGDTimed),
    *(EASGD, AsynchronousEASGD, GaussSeidelEASGD, EAMSGD, AsynchronousEAMSGD, EASGDTree),
    *(Downpour, AsynchronousDownpour, ADownpour, MVADownpour, MDownpour),
    *(SGD, MSGD, ASGD, MVASGD),
)
#: Every class by the method's name; more than one where clocks need different machinery.
VARIANTS: dict[str, list[type[Algorithm]]] = {}
for _cls in _METHODS:
    VARIANTS.setdefault(_cls.name, []).append(_cls)
ALGORITHMS: tuple[str, ...] = tuple(VARIANTS)

__all__ = [
    "ALGORITHMS",
    "VARIANTS",
    "Algorithm",
    "Communicator",
    "Options",
    "Worker",
    "find_algorithm",
    "flag",
    "make_options",
]


def find_algorithm(name: str, clock: str | None = None) -> type[Algorithm]:
    """The algorithm of that name on that clock, or on its first. Raises `UsageError` with what there is."""
    if name not in ALGORITHMS:
        hint = did_you_mean(name, ALGORITHMS)
        raise UsageError(f"--algorithm {name!r}: choose from {', '.join(ALGORITHMS)}{hint and f'; {hint}'}")
    for cls in VARIANTS[name]:
        if clock is None or clock in cls.clocks:
            return cls
    variants = VARIANTS[name]
    takes = [each for cls in variants for each in cls.clocks]
    reason = f"{name} {variants[0].other_clocks}; " if len(variants) == 1 else ""
    clocks = f"its clock is {takes[0]}" if len(takes) == 1 else f"its clocks are {', '.join(takes)}"
    raise UsageError(f"--clock {clock}: {reason or f'{name} has no such clock; '}{clocks}")


def make_options(name: str, given: dict[str, Any], clock: str | None = None) -> Options:
    """The checked options of algorithm ``name``. Raises `UsageError` for unknown names or bad values."""
    cls = find_algorithm(name, clock).options_class
    known = [each.name for each in fields(cls)]
    for option_name in given:
        if option_name not in known:
            takes = f"takes {', '.join(map(flag, known))}" if known else "has no options of its own"
            raise UsageError(f"{flag(option_name)} is no option of {name}, which {takes}")
    options = cls(**given)
    options.check()
    return options
