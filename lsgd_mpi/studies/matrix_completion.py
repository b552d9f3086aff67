"""LGD against EAGD on low-rank matrix completion (Teng et al., Figure 1 and supplement, Section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lsgd_mpi.errors import UsageError
from lsgd_mpi.studies import Settings, driver
from lsgd_mpi.studies.output import Output, new_figure

USES = frozenset({"scale", "seed", "trials", "ranks"})

WORKERS = 8
#: λ, the strength of the penalty; each step pulls by ηλ, and EAGD's center moves by p·η·λ.
PENALTY = 0.2
#: EAGD is still above the one when LGD is below the other: our choice, as Figure 1 prints no numbers.
STALLED, ARRIVED = 1e-3, 1e-15


@dataclass(frozen=True)
class Scale:
    """The size of the problems; the learning rate goes with 1/d, as the curvature goes with d."""

    dimension: int
    learning_rate: float
    ranks: tuple[int, ...]
    trials: int
    steps: int


SCALES = {
    "small": Scale(dimension=100, learning_rate=5e-3, ranks=(1, 5), trials=2, steps=600),
    "paper": Scale(dimension=1000, learning_rate=5e-4, ranks=(1, 10, 50, 100), trials=10, steps=3000),
}


def methods(learning_rate: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """Algorithm and options of LGD and EAGD at that η."""
    pull = learning_rate * PENALTY
    return {
        # The pull is taken along with the gradient, as Section 8 writes the step.
        "LGD": ("lsgd", {"local_period": 1, "local_pull": pull, "loss_window": 1, "pull": "every-step"}),
        "EAGD": ("easgd", {"local_period": 1, "worker_moving_rate": pull}),
    }


class Problem:
    """``F(X) = ¼‖UUᵀ − XXᵀ‖²`` for a random U of shape (d, r), and starting points, all from N(0, 1)."""

    def __init__(self, dimension: int, rank: int, seed: int) -> None:
        check_rank(rank, dimension)
        generator = torch.Generator().manual_seed(seed)
        shape = (dimension, rank)
        self.factor = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.starts = torch.randn((WORKERS, *shape), generator=generator, dtype=torch.float64)
        self._signs = torch.cat([torch.ones(rank), -torch.ones(rank)]).to(torch.float64)

    def gradient(self, world_rank: int, step: int, x: torch.Tensor) -> tuple[float, torch.Tensor]:  # noqa: ARG002
        """F and ``(XXᵀ − UUᵀ)X``, without ever forming a d×d matrix."""
        # XXᵀ − UUᵀ = [X U] diag(1, −1) [X U]ᵀ, whose norm that of the small triangular factor gives. A
        # difference of traces would lose all digits near the minimum.
        triangle = torch.linalg.qr(torch.cat([x, self.factor], dim=1), mode="r").R
        residual = (triangle * self._signs) @ triangle.T
        slope = x @ (x.T @ x) - self.factor @ (self.factor.T @ x)
        return float(residual.square().sum()) / 4, slope


def best_worker(name: str, problem: Problem, scale: Scale) -> torch.Tensor:
    """The objective of the best worker before each step, shape (T,)."""
    algorithm, options = methods(scale.learning_rate)[name]
    outcome = driver.run(
        *(algorithm, options, problem.starts, problem.gradient, scale.steps),
        learning_rate=scale.learning_rate,
    )
    return outcome.losses.min(dim=1).values


def check_rank(rank: int, dimension: int) -> None:
    """Raise `UsageError` for a rank that ``M`` cannot have here."""
    if not 1 <= rank <= dimension // 2:
        raise UsageError(f"--ranks {rank}: a rank lies between 1 and {dimension // 2}, half of d")


def study(settings: Settings, output: Output) -> str:
    """Run all trials; write ``best_worker.csv`` and ``matrix-completion.png`` (Figure 1)."""
    scale = SCALES[settings.scale]
    ranks = settings.ranks or scale.ranks
    trials = scale.trials if settings.trials is None else settings.trials
    for rank in ranks:
        check_rank(rank, scale.dimension)
    names = tuple(methods(scale.learning_rate))
    curves: dict[tuple[str, int], list[torch.Tensor]] = {(name, rank): [] for rank in ranks for name in names}
    for rank in ranks:
        for trial in range(trials):
            problem = Problem(scale.dimension, rank, seed=settings.seed * 1_000_003 + 1000 * trial + rank)
            for name in names:
                curves[name, rank].append(best_worker(name, problem, scale))
    output.table(
        "best_worker",
        ("method", "rank", "trial", "step", "objective"),
        (
            (name, rank, trial, step, float(value))
            for (name, rank), trials_of in curves.items()
            for trial, curve in enumerate(trials_of)
            for step, value in enumerate(curve)
        ),
    )
    output.table(
        "summary",
        ("method", "rank", "trial", "final_objective", "first_step_below_1e-3", "first_step_below_1e-15"),
        (
            (name, rank, trial, float(curve[-1]), steps_to(curve, STALLED), steps_to(curve, ARRIVED))
            for (name, rank), trials_of in curves.items()
            for trial, curve in enumerate(trials_of)
        ),
    )
    _draw(curves, ranks, scale, output)
    arrivals = [steps_to(curve, ARRIVED) for rank in ranks for curve in curves["LGD", rank]]
    arrived = [step for step in arrivals if step is not None]
    latest = f"by step {max(arrived)}" if len(arrived) == len(arrivals) else "not in every trial"
    worst_lgd = max(float(curve[-1]) for rank in ranks for curve in curves["LGD", rank])
    best_eagd = min(float(curve[-1]) for rank in ranks for curve in curves["EAGD", rank])
    return (
        f"matrix-completion (d={scale.dimension}, r={', '.join(map(str, ranks))}, {trials} trial(s), "
        f"{scale.steps} steps): LGD below {ARRIVED:g} {latest}, at the end at most {worst_lgd:.1e}, EAGD at "
        f"least {best_eagd:.1e} (paper, Figure 1: LGD goes far below EAGD at every rank)"
    )


def steps_to(curve: torch.Tensor, level: float) -> int | None:
    """The first step at which the objective is below ``level``, or None."""
    below = (curve < level).nonzero()
    return int(below[0]) if len(below) else None


def _draw(
    curves: dict[tuple[str, int], list[torch.Tensor]], ranks: tuple[int, ...], scale: Scale, output: Output
) -> None:
    figure, panels = new_figure(len(ranks), rf"matrix completion, $d={scale.dimension}$, {WORKERS} workers")
    for panel, rank in zip(panels, ranks, strict=True):
        for name, color in (("LGD", "C0"), ("EAGD", "C1")):
            for trial, curve in enumerate(curves[name, rank]):
                panel.semilogy(curve, color=color, lw=1, label=name if trial == 0 else None)
        panel.set(xlabel="step $t$", ylabel=r"$\min_i F(X^i)$", title=f"$r={rank}$")
        panel.legend()
    output.figure("matrix-completion", figure)
