"""The methods, by name. A new one is a file with a class, and its entry here."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from lsgd_mpi.algorithms.allreduce import Allreduce
from lsgd_mpi.algorithms.base import Algorithm, Communicator, Options, flag
from lsgd_mpi.algorithms.lsgd import LSGD
from lsgd_mpi.errors import UsageError

ALGORITHMS: dict[str, type[Algorithm]] = {cls.name: cls for cls in (LSGD, Allreduce)}

__all__ = ["ALGORITHMS", "Algorithm", "Communicator", "Options", "find_algorithm", "flag", "make_options"]


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
