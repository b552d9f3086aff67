"""ADMM against EASGD in the round-robin scheme on ``x²/2`` (thesis, Section 3.3, Figures 3.2 and 3.3)."""

from __future__ import annotations

import numpy as np

from lsgd_mpi.studies import Settings
from lsgd_mpi.studies.linear import Array, spectral_radius
from lsgd_mpi.studies.output import Output, new_figure
from lsgd_mpi.studies.round_robin import (
    ADMMState,
    EASGDState,
    admm_cycle_map,
    admm_step,
    easgd_cycle_map,
    easgd_step,
)

USES = frozenset({"scale"})

WORKERS = (3, 8)
LARGEST_RATE, LARGEST_PENALTY = 0.01, 10.0

#: Figure 3.3.
EXAMPLE_WORKERS, EXAMPLE_RATE, EXAMPLE_PENALTY, EXAMPLE_START = 3, 0.001, 2.5, 1000.0
EXAMPLE_STEPS = 100_000

#: Eigenvalues this little above one are one, and rounding.
_ROUNDING = 1e-9


def radii(workers: int, points: int) -> tuple[Array, Array, Array, Array]:
    """η (points,), ρ (points,), and the spectral radius of ADMM's cycle and of EASGD's, (points, points).

    EASGD runs at α = ηρ, with which its step minimises the same penalty. Rows are ρ, columns η.
    """
    middles = (np.arange(points) + 0.5) / points
    rates, penalties = LARGEST_RATE * middles, LARGEST_PENALTY * middles
    across, down = np.meshgrid(rates, penalties)
    admm = spectral_radius(admm_cycle_map(workers, across, down))
    easgd = spectral_radius(easgd_cycle_map(workers, across, across * down))
    return rates, penalties, admm, easgd


def trajectories(steps: int) -> tuple[Array, Array]:
    """The centers of ADMM and of EASGD from the start of Figure 3.3, each of shape (steps + 1,)."""
    p, rate, penalty = EXAMPLE_WORKERS, EXAMPLE_RATE, EXAMPLE_PENALTY
    workers, center = np.full(p, EXAMPLE_START), np.array(EXAMPLE_START)
    admm, easgd = ADMMState(np.zeros(p), workers, center), EASGDState(workers, center)
    centers = [(EXAMPLE_START, EXAMPLE_START)]
    for step in range(steps):
        active = step % p
        admm = admm_step(admm, active, admm.workers[active], rate, penalty)
        easgd = easgd_step(easgd, active, easgd.workers[active], rate, rate * penalty)
        centers.append((float(admm.center), float(easgd.center)))
    both = np.array(centers).T
    return both[0], both[1]


def study(settings: Settings, output: Output) -> str:
    """Write ``eigenvalues.csv``, ``trajectory.csv`` and ``admm-stability.png``."""
    points = 50 if settings.is_small else 200
    maps = {p: radii(p, points) for p in WORKERS}
    output.table(
        "eigenvalues",
        ("workers", "learning_rate", "penalty", "admm_radius", "easgd_radius"),
        (
            (p, float(rate), float(penalty), float(admm[row, column]), float(easgd[row, column]))
            for p, (rates, penalties, admm, easgd) in maps.items()
            for row, penalty in enumerate(penalties)
            for column, rate in enumerate(rates)
        ),
    )
    admm_center, easgd_center = trajectories(EXAMPLE_STEPS)
    output.table(
        "trajectory",
        ("step", "admm_center", "easgd_center"),
        (
            (step, float(admm_center[step]), float(easgd_center[step]))
            for step in range(0, EXAMPLE_STEPS + 1, 50)
        ),
    )
    _draw(maps, admm_center, easgd_center, output)
    unstable = ", ".join(
        f"p={p} unstable in {100 * float((admm > 1 + _ROUNDING).mean()):.0f} % of the plane"
        for p, (_, _, admm, _) in maps.items()
    )
    worst_easgd = max(float(easgd.max()) for _, _, _, easgd in maps.values())
    example = float(spectral_radius(admm_cycle_map(EXAMPLE_WORKERS, EXAMPLE_RATE, EXAMPLE_PENALTY)))
    farthest = [float(np.abs(centers).max()) for centers in (admm_center, easgd_center)]
    return (
        f"admm-stability: ADMM {unstable}; at p=3, η=0.001, ρ=2.5 largest |eigenvalue| {example:.6f}, "
        f"|center| {farthest[0]:.2g}; EASGD's at most {worst_easgd:.6f} anywhere, {farthest[1]:.2g} "
        "(paper: ADMM diverges there, EASGD does not)"
    )


def _draw(
    maps: dict[int, tuple[Array, Array, Array, Array]],
    admm_center: Array,
    easgd_center: Array,
    output: Output,
) -> None:
    figure, panels = new_figure(len(maps) + 1, r"round-robin ADMM on $x^2/2$")
    for panel, (p, (rates, penalties, admm, _)) in zip(panels[:-1], maps.items(), strict=True):
        panel.grid(False)
        mesh = panel.pcolormesh(rates, penalties, admm, shading="nearest", cmap="viridis", rasterized=True)
        panel.contour(rates, penalties, admm, levels=[1 + _ROUNDING], colors="red", linewidths=1)
        figure.colorbar(mesh, ax=panel, label=r"largest $|$eigenvalue$|$ of a cycle (red line: 1)")
        panel.set(xlabel=r"learning rate $\eta$", ylabel=r"penalty $\rho$", title=f"ADMM, $p={p}$")
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    panels[0].plot(EXAMPLE_RATE, EXAMPLE_PENALTY, "w*", mec="k", ms=12, label="the example")
    panels[0].legend()
    panel = panels[-1]
    panel.plot(admm_center, lw=0.6, label="ADMM")
    panel.plot(easgd_center, lw=1.5, label=r"EASGD, $\alpha=\eta\rho$")
    panel.set_yscale("symlog", linthresh=EXAMPLE_START)
    panel.set_yticks([-1e12, -1e8, -1e4, 0, 1e4, 1e8, 1e12])
    panel.set(xlabel="step $t$", ylabel=r"center $\tilde{x}_t$", title=r"$p=3$, $\eta=0.001$, $\rho=2.5$")
    panel.legend()
    output.figure("admm-stability", figure)
