"""For which rates EASGD is stable on a quadratic (thesis, Lemma 3.1.1 and Section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lsgd_mpi.studies import Settings
from lsgd_mpi.studies.linear import boundary, linear_map, spectral_radius
from lsgd_mpi.studies.output import Output, new_figure
from lsgd_mpi.studies.round_robin import easgd_cycle_map

USES = frozenset({"scale"})

SYNCHRONOUS, ROUND_ROBIN = "synchronous", "round-robin"
WORKERS = (1, 2, 3, 4, 8)
SMALL_RATES = (0.1, 0.5, 1.0, 1.5, 1.9)
PAPER_RATES = tuple(float(rate) for rate in np.linspace(0.1, 1.9, 19))

#: At no η is a larger α stable.
_ABOVE_ALL = 2.5


def synchronous_limit(curved_rate: float, workers: int) -> float:
    """The largest stable α at ηh: both conditions of Lemma 3.1.1, solved for α."""
    product = 2 * (2 - curved_rate) / (workers * (2 - curved_rate) + 2)  # (2 − ηh)(2 − pα) > 2α
    total = (4 - curved_rate) / (workers + 1)  # (2 − ηh) + (2 − pα) > α
    return min(product, total)


def round_robin_limit(learning_rate: float) -> float:
    """The largest α at which every step of the round-robin scheme, whoever is active, is stable.

    A product of symmetric contractions is one, so that whole cycles are stable there too, for any p.
    """
    return (4 - 2 * learning_rate) / (4 - learning_rate)


def synchronous_boundary(learning_rate: float, workers: int, curvature: float = 1.0) -> float:
    """The largest α at which the step of `lsgd_mpi.algorithms.EASGD` is stable."""

    def stable(rate: float) -> bool:
        options = {"local_period": 1, "worker_moving_rate": rate}
        matrix = linear_map("easgd", options, workers, learning_rate, curvature)
        return bool(spectral_radius(matrix) < 1)

    return boundary(stable, 1e-3, _ABOVE_ALL)


def round_robin_boundary(learning_rate: float, workers: int) -> float:
    """The largest α at which a cycle of the round-robin scheme is stable."""

    def stable(rate: float) -> bool:
        return bool(spectral_radius(easgd_cycle_map(workers, learning_rate, rate)) < 1)

    return boundary(stable, 1e-3, _ABOVE_ALL)


def study(settings: Settings, output: Output) -> str:
    """Find the boundaries; write ``boundaries.csv`` and ``easgd-stability.png``."""
    rates = SMALL_RATES if settings.is_small else PAPER_RATES
    rows = [
        Row(scheme, p, rate, found(rate, p), limit(rate, p))
        for scheme, found, limit in (
            (SYNCHRONOUS, synchronous_boundary, synchronous_limit),
            (ROUND_ROBIN, round_robin_boundary, lambda rate, _: round_robin_limit(rate)),
        )
        for p in WORKERS
        for rate in rates
    ]
    output.table("boundaries", Row._fields, rows)
    _draw(rows, output)
    synchronous = max(abs(row.excess) for row in rows if row.scheme == SYNCHRONOUS)
    odd = max(abs(row.excess) for row in rows if row.scheme == ROUND_ROBIN and row.workers % 2)
    even = [row.excess for row in rows if row.scheme == ROUND_ROBIN and row.workers % 2 == 0]
    return (
        f"easgd-stability: the largest stable α is the paper's within {100 * synchronous:.1g} % "
        f"(synchronous) and {100 * odd:.1g} % (round-robin, odd p); for even p it is "
        f"{100 * min(even):.1g} to {100 * max(even):.1g} % above the paper's, which is sufficient only"
    )


class Row(NamedTuple):
    """One line of ``boundaries.csv``."""

    scheme: str
    workers: int
    learning_rate: float
    measured_alpha: float
    formula_alpha: float

    @property
    def excess(self) -> float:
        """By which fraction of the formula's the measured α is larger."""
        return self.measured_alpha / self.formula_alpha - 1


def _draw(rows: list[Row], output: Output) -> None:
    figure, panels = new_figure(2, r"EASGD on $x^2/2$: stable below the lines")
    fine = np.linspace(0.0, 2.0, 201)
    for panel, scheme in zip(panels, (SYNCHRONOUS, ROUND_ROBIN), strict=True):
        for number, p in enumerate(WORKERS):
            points = [row for row in rows if (row.scheme, row.workers) == (scheme, p)]
            panel.plot(
                [row.learning_rate for row in points],
                [row.measured_alpha for row in points],
                "oxs+d"[number],
                color=f"C{number}",
                label=f"measured, $p={p}$",
            )
            if scheme == SYNCHRONOUS:
                limits = [synchronous_limit(float(rate), p) for rate in fine]
                panel.plot(fine, limits, color=f"C{number}", lw=1, label="Lemma 3.1.1" if p == 1 else None)
        if scheme == ROUND_ROBIN:
            limits = [round_robin_limit(float(rate)) for rate in fine]
            panel.plot(fine, limits, "k", lw=1, label=r"$(4-2\eta)/(4-\eta)$")
        panel.set(xlabel=r"learning rate $\eta$", ylabel=r"moving rate $\alpha$", title=scheme)
        panel.legend(fontsize=8)
    output.figure("easgd-stability", figure)
