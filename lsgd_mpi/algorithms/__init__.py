"""The methods, by name. A new one is a file with a class, and its entry here."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from lsgd_mpi.algorithms.allreduce import Allreduce
from lsgd_mpi.algorithms.asgd import ASGD
from lsgd_mpi.algorithms.base import Algorithm, Communicator, Options, Worker, flag
from lsgd_mpi.algorithms.downpour import Downpour
from lsgd_mpi.algorithms.eamsgd import EAMSGD
from lsgd_mpi.algorithms.easgd import EASGD
from lsgd_mpi.algorithms.easgd_gauss_seidel import GaussSeidelEASGD
from lsgd_mpi.algorithms.lsgd import LSGD
from lsgd_mpi.algorithms.msgd import MSGD
from lsgd_mpi.algorithms.mvasgd import MVASGD
from lsgd_mpi.algorithms.pr_sgd import PRSGD
from lsgd_mpi.algorithms.pr_sgd_varying import PRSGDVarying
from lsgd_mpi.algorithms.sgd import SGD
from lsgd_mpi.errors import UsageError

_METHODS: tuple[type[Algorithm], ...] = (
    *(LSGD, Allreduce, PRSGD, PRSGDVarying, EASGD, GaussSeidelEASGD, EAMSGD, Downpour),
    *(SGD, MSGD, ASGD, MVASGD),
)
ALGORITHMS: dict[str, type[Algorithm]] = {cls.name: cls for cls in _METHODS}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Communicator",
    "Options",
    "Worker",
    "find_algorithm",
    "flag",
    "make_options",
]


def find_algorithm(name: str) -> type[Algorithm]:
    """The algorithm of that name. Raises `UsageError` with the known names."""
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--algorithm {name!r}: choose from {', '.join(ALGORITHMS)}{hint}")
    return ALGORITHMS[name]


def make_options(name: str, given: dict[str, Any]) -> Options:
    """The checked options of algorithm ``name``. Raises `UsageError` for unknown names or bad values."""
    cls = find_algorithm(name).options_class
    known = [each.name for each in fields(cls)]
    for option_name in given:
        if option_name not in known:
            takes = f"takes {', '.join(map(flag, known))}" if known else "has no options of its own"
            raise UsageError(f"{flag(option_name)} is no option of {name}, which {takes}")
    options = cls(**given)
    options.check()
    return options
