"""The papers' numerical studies, run through the same algorithm classes as training."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from lsgd_mpi.names import unknown_name
from lsgd_mpi.studies.output import Output

#: Names and what comes out; each is a module of this package with `study` and `USES`.
STUDIES = {
    "toy": "LGD finds the global minimum where EAGD stays at a local one",
    "matrix-completion": "LGD reaches the rounding floor where EAGD stalls",
    "easgd-stability": "for which rates synchronous and round-robin EASGD are stable",
    "admm-stability": "ADMM can diverge in the round-robin scheme where EASGD cannot",
    "double-well": "up to which penalty the workers of EASGD can stay apart",
    "unification": "DOWNPOUR as EASGD in the Gauss-Seidel form, and its stability",
}

SCALES = ("small", "paper")


@dataclass(frozen=True)
class Settings:
    """What a person may ask of a study; None leaves the choice to the scale.

    ``trials`` is the number of random problems, ``ranks`` the ranks of the matrices to complete.
    """

    scale: str = "small"
    seed: int = 0
    trials: int | None = None
    ranks: tuple[int, ...] | None = None

    @property
    def is_small(self) -> bool:
        """Whether seconds are wanted rather than the paper's sizes."""
        return self.scale == "small"


@dataclass(frozen=True)
class Study:
    """A study: ``run`` writes its numbers and figure and returns one line that compares with the paper.

    ``uses`` are the names of the settings that change what it does.
    """

    name: str
    run: Callable[[Settings, Output], str]
    uses: frozenset[str]


def find_study(name: str) -> Study:
    """The study of that name. Raises `UsageError` with the near names."""
    if name not in STUDIES:
        raise unknown_name("study", name, tuple(STUDIES))
    module = importlib.import_module(f"lsgd_mpi.studies.{name.replace('-', '_')}")
    return Study(name, module.study, module.USES)
