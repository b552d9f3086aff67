"""When EASGD's workers can stay in two different wells (thesis, Section 5.3, Figure 5.20)."""

from __future__ import annotations

import math

import numpy as np
import torch

from lsgd_mpi.studies import Settings, driver
from lsgd_mpi.studies.linear import boundary
from lsgd_mpi.studies.output import Output, new_figure

USES = frozenset({"scale"})

LEARNING_RATE = 0.1
PAPER_LIMIT = 2 / 3
#: How far off the split point a run begins: enough to leave it where it is a saddle.
NUDGE = 1e-3
STEPS = 1500


def energy(point: torch.Tensor, penalty: float) -> torch.Tensor:
    """EASGD's objective of two workers and a center, (x, y, z): Equation 5.35."""
    wells = (1 - point[:2].square()).square().sum() / 4
    return wells + penalty / 2 * (point[:2] - point[2]).square().sum()


def split_point(penalty: float) -> torch.Tensor:
    """The critical point ``x = −y = √(1−ρ)``, center 0, for ρ up to 1."""
    x = math.sqrt(1 - penalty)
    return torch.tensor([x, -x, 0.0], dtype=torch.float64)


def smallest_eigenvalue(penalty: float) -> float:
    """Of the Hessian of the objective at the split point, by automatic differentiation."""
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda point: energy(point, penalty), split_point(penalty)
    )
    return float(torch.linalg.eigvalsh(hessian)[0])


def limit() -> float:
    """The ρ at which the split point stops being a minimum, by bisection."""
    return boundary(lambda penalty: smallest_eigenvalue(penalty) > 0, 0.2, 0.95)


def gradient(world_rank: int, step: int, x: torch.Tensor) -> tuple[float, torch.Tensor]:  # noqa: ARG001
    """The well ``(1 − x²)²/4`` and its slope."""
    return float((1 - x.square()).square().sum() / 4), (x.square() - 1) * x


def trajectory(penalty: float, steps: int = STEPS) -> driver.Outcome:
    """Run EASGD, α = ηρ, with two workers from just beside the split point."""
    start = split_point(penalty)
    # Both to the same side: with the mean of the two, where the center begins, off zero.
    starts = start[:2, None] + NUDGE
    return driver.run(
        "easgd",
        {"local_period": 1, "worker_moving_rate": LEARNING_RATE * penalty},
        starts,
        gradient,
        steps,
        learning_rate=LEARNING_RATE,
        keep_paths=True,
    )


def study(settings: Settings, output: Output) -> str:
    """Write ``eigenvalues.csv``, ``runs.csv`` and ``double-well.png``."""
    penalties = np.linspace(0.0, 1.0, 101 if settings.is_small else 1001)
    eigenvalues = [smallest_eigenvalue(float(penalty)) for penalty in penalties]
    output.table(
        "eigenvalues",
        ("penalty", "smallest_eigenvalue"),
        zip(map(float, penalties), eigenvalues, strict=True),
    )
    tried = np.round(np.linspace(0.1, 0.95, 8 if settings.is_small else 18), 4)
    runs = {float(penalty): trajectory(float(penalty)) for penalty in tried}
    distances = {penalty: _half_distance(outcome) for penalty, outcome in runs.items()}
    output.table(
        "runs",
        ("penalty", "step", "x", "y", "center"),
        (
            (penalty, step, float(points[0, 0]), float(points[1, 0]), float(center[0]))
            for penalty, outcome in runs.items()
            for step, (points, center) in enumerate(zip(*_kept(outcome), strict=True))
        ),
    )
    _draw(penalties, eigenvalues, distances, output)
    found = limit()
    apart = max(penalty for penalty, distance in distances.items() if distance > _APART)
    together = min(penalty for penalty, distance in distances.items() if distance <= _APART)
    return (
        f"double-well: the split point is a minimum for ρ in (0, {found:.6f}) (paper: (0, 2/3)); "
        f"of the ρ tried, EASGD's workers stay apart up to {apart:g} and come together from {together:g}"
    )


#: Workers whose half distance is below it are in one well.
_APART = 0.1


def _kept(outcome: driver.Outcome) -> tuple[torch.Tensor, torch.Tensor]:
    assert outcome.paths is not None
    assert outcome.centers is not None
    return outcome.paths, outcome.centers


def _half_distance(outcome: driver.Outcome) -> float:
    return float((outcome.workers[0] - outcome.workers[1]).abs().max() / 2)


def _draw(
    penalties: np.ndarray[tuple[int], np.dtype[np.float64]],
    eigenvalues: list[float],
    distances: dict[float, float],
    output: Output,
) -> None:
    figure, (left, right) = new_figure(2, r"EASGD on $(1-x^2)^2/4$, two workers")
    left.plot(penalties, eigenvalues, label="smallest eigenvalue of the Hessian")
    left.axhline(0, color="k", lw=0.8)
    left.axvline(PAPER_LIMIT, color="C3", ls="--", label=r"$\rho=2/3$")
    left.set(xlabel=r"penalty $\rho$", ylabel=r"$\lambda_{\min}$", title=r"at $x=-y=\sqrt{1-\rho}$, $z=0$")
    left.legend()
    right.plot(penalties, np.sqrt(1 - penalties), "C0", lw=1, label=r"split point, $\sqrt{1-\rho}$")
    right.plot(
        list(distances), list(distances.values()), "ko", label=f"after {STEPS} steps of EASGD beside it"
    )
    right.axvline(PAPER_LIMIT, color="C3", ls="--", label=r"$\rho=2/3$")
    right.set(xlabel=r"penalty $\rho$", ylabel="$|x-y|/2$", title="do the workers stay apart?")
    right.legend()
    output.figure("double-well", figure)
