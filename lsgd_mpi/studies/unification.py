"""DOWNPOUR as EASGD in the Gauss-Seidel form, and the stability of both (thesis, Section 6.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from lsgd_mpi.studies import Settings, driver
from lsgd_mpi.studies.linear import Array, boundary, mean_map, spectral_radius
from lsgd_mpi.studies.output import Output, new_figure

USES = frozenset({"scale", "seed"})

WORKERS = 4
LEARNING_RATE = 0.5
LARGEST_ALPHA, LARGEST_BETA = 6.0, 8.0

#: Of the trajectories: small enough for DOWNPOUR, which adds up all workers' steps.
STEP_RATE = 0.02
NOISE = 1.0
STEPS = 300


class Crossing(NamedTuple):
    """One line of ``boundaries.csv``: where stability begins or ends along α."""

    learning_rate: float
    beta: float
    edge: str
    measured_alpha: float
    theorem_alpha: float

    @property
    def departure(self) -> float:
        """The measured α against the theorem's, as a fraction."""
        return abs(self.measured_alpha / self.theorem_alpha - 1)


def theorem_interval(eta: float, beta: float) -> tuple[float, float] | None:
    """The open interval of stable α that Theorem 6.2.1 gives for η > 0, β > 0; None where none is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        c2 = float(
            np.float64(4 - 2 * beta - 2 * eta + beta * eta) / (2 - 2 * beta - 2 * eta + 2 * beta * eta)
        )
        c3 = float(np.float64(-beta - eta + beta * eta) / (1 - beta - eta + beta * eta))
    intervals = (
        (0 < eta < 1 and 0 < beta < 1, 0.0, c2),
        (0 < eta < 1 and beta == 1, 0.0, math.inf),
        (0 < eta < 1 and 1 < beta <= 2, 0.0, c3),
        (0 < eta < 1 and 2 < beta < 4 / eta, c2, c3),
        (eta == 1 and 0 < beta < 2, 0.0, math.inf),
        (1 < eta < 2 and 0 < beta < 1, 0.0, c3),
        (1 < eta < 2 and beta == 1, 0.0, math.inf),
        (1 < eta < 2 and 1 < beta < 2, 0.0, c2),
        (2 <= eta <= 4 and 0 < beta < 1, c2, c3),
        (eta > 4 and 0 < beta < 4 / eta, c2, c3),
    )
    return next(((low, high) for holds, low, high in intervals if holds), None)


def radius(eta: float, alpha: float, beta: float) -> float:
    """The spectral radius of a step of `GaussSeidelEASGD` on ``x²/2``, of workers' mean and center."""
    options = {"local_period": 1, "worker_moving_rate": alpha, "moving_rate": beta}
    return float(spectral_radius(mean_map("easgd-gauss-seidel", options, 2, eta)))


def crossings(eta: float, beta: float, alphas: Array, radii: Array) -> list[Crossing]:
    """Where the radius along ``alphas`` passes one, each found by bisection and set beside the theorem's."""

    def stable(alpha: float) -> bool:
        return radius(eta, alpha, beta) < 1

    interval = theorem_interval(eta, beta) or (math.nan, math.nan)
    found = []
    for number in np.flatnonzero(np.diff(radii < 1)):
        ends = float(alphas[number]), float(alphas[number + 1])
        begins = not radii[number] < 1
        inside, outside = reversed(ends) if begins else ends
        found.append(
            Crossing(
                *(eta, beta, "begins" if begins else "ends", boundary(stable, inside, outside)),
                theorem_alpha=interval[0 if begins else 1],
            )
        )
    return found


def downpour_limit(beta: float) -> float:
    """The largest stable η at α = 1, where the method is DOWNPOUR with β workers (paper: 2/β)."""
    return boundary(lambda eta: radius(eta, 1.0, beta) < 1, 1e-3, 1.9)


def trajectory(algorithm: str, options: dict[str, float], noise: torch.Tensor) -> driver.Outcome:
    """Run on ``x²/2`` with that gradient noise, shape (T, p, n), from 1 in n dimensions."""

    def gradient(world_rank: int, step: int, x: torch.Tensor) -> tuple[float, torch.Tensor]:
        return float(x.square().sum() / 2), x - noise[step, world_rank]

    steps, p, dimensions = noise.shape
    starts = torch.ones((p, dimensions), dtype=torch.float64)
    return driver.run(
        *(algorithm, {"local_period": 1, **options}, starts, gradient, steps),
        learning_rate=STEP_RATE,
        keep_paths=True,
    )


def study(settings: Settings, output: Output) -> str:
    """Write ``radii.csv``, ``boundaries.csv``, ``trajectories.csv`` and ``unification.png``."""
    alphas, betas = _grid(settings)
    radii = np.array([[radius(LEARNING_RATE, float(a), float(b)) for a in alphas] for b in betas])
    output.table(
        "radii",
        ("beta", "alpha", "radius"),
        (
            (float(beta), float(alpha), float(radii[row, column]))
            for row, beta in enumerate(betas)
            for column, alpha in enumerate(alphas)
        ),
    )
    found = [
        crossing
        for row, beta in enumerate(betas)
        for crossing in crossings(LEARNING_RATE, float(beta), alphas, radii[row])
    ]
    output.table("boundaries", Crossing._fields, found)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = NOISE * torch.randn((STEPS, WORKERS, 1), generator=generator, dtype=torch.float64)
    paths = {name: _centers(trajectory(algorithm, options, noise)) for name, algorithm, options in _METHODS}
    output.table(
        "trajectories",
        ("step", *(name.replace(" ", "_") for name in paths)),
        ((step, *map(float, row)) for step, row in enumerate(zip(*paths.values(), strict=True))),
    )
    _draw(alphas, betas, radii, found, paths, output)
    apart = float((paths[_SAME] - paths[_DOWNPOUR]).abs().max())
    worst = max(crossing.departure for crossing in found)
    return (
        f"unification: Gauss-Seidel EASGD with α=1, β=p and DOWNPOUR differ by {apart:.1g} "
        f"in {STEPS} steps (paper: equal); stability ends within {100 * worst:.1g} % of Theorem 6.2.1 at "
        f"{len(found)} boundary points; 16 workers of DOWNPOUR are stable up to η = {downpour_limit(16):.5f} "
        "(paper: 1/8)"
    )


_DOWNPOUR, _SAME = "DOWNPOUR", "EASGD alpha=1 beta=p"
_METHODS: tuple[tuple[str, str, dict[str, float]], ...] = (
    (_DOWNPOUR, "downpour", {}),
    (_SAME, "easgd-gauss-seidel", {"worker_moving_rate": 1.0, "moving_rate": float(WORKERS)}),
    ("EASGD beta=0.9", "easgd-gauss-seidel", {"moving_rate": 0.9}),
)


def _grid(settings: Settings) -> tuple[Array, Array]:
    # β between the theorem's cases, where an end of stability goes to infinity, rather than on them.
    alphas, betas = (41, 16) if settings.is_small else (121, 56)
    middles = (np.arange(betas, dtype=np.float64) + 0.5) / betas
    return np.linspace(0.02, LARGEST_ALPHA, alphas), LARGEST_BETA * middles


def _centers(outcome: driver.Outcome) -> torch.Tensor:
    assert outcome.centers is not None
    return outcome.centers[:, 0]


def _draw(
    alphas: Array,
    betas: Array,
    radii: Array,
    found: list[Crossing],
    paths: dict[str, torch.Tensor],
    output: Output,
) -> None:
    figure, (left, right) = new_figure(2, r"EASGD in the Gauss-Seidel form on $x^2/2$")
    left.grid(False)
    shown = np.minimum(radii, 2.0)
    mesh = left.pcolormesh(alphas, betas, shown, shading="nearest", cmap="coolwarm", vmin=0, vmax=2)
    figure.colorbar(mesh, ax=left, label="spectral radius, cut at 2 (stable below 1)")
    fine = np.linspace(0.005, LARGEST_BETA, 1600)
    ends = [theorem_interval(LEARNING_RATE, float(beta)) or (math.nan, math.nan) for beta in fine]
    for number in (0, 1):
        line = [end[number] if end[number] > 0 else math.nan for end in ends]
        left.plot(line, fine, "k", lw=1.2, label="Theorem 6.2.1" if number == 0 else None)
    left.plot(
        [each.measured_alpha for each in found], [each.beta for each in found], "yo", ms=4, label="measured"
    )
    left.set(xlabel=r"$\alpha$", ylabel=r"$\beta$", title=rf"stability at $\eta={LEARNING_RATE}$")
    left.set(xlim=(0, LARGEST_ALPHA), ylim=(0, LARGEST_BETA))
    left.legend()
    for (name, path), style in zip(paths.items(), ("-", "--", "-"), strict=True):
        label = name.replace("alpha=", r"$\alpha=$").replace("beta=", r"$\beta=$")
        right.plot(path, style, lw=3 if name == _DOWNPOUR else 1.3, label=label)
    right.set(xlabel="step $t$", ylabel=r"center $\tilde{x}_t$")
    right.set_title(rf"with noise: $\eta={STEP_RATE}$, $p={WORKERS}$")
    right.legend()
    output.figure("unification", figure)
