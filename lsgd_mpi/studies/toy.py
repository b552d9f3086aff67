"""LGD against EAGD on a function with ring-shaped local minima (Teng et al., supplement, Section 6)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lsgd_mpi.studies import Settings, driver
from lsgd_mpi.studies.output import Output, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

USES: frozenset[str] = frozenset()

STARTS = ((-6.0, -4.0), (-15.0, -18.0), (20.0, 11.0), (17.0, 8.0))
LEARNING_RATE = 0.1
#: By then the workers have stood still to four digits for long.
STEPS = 500

#: λ as the paper gives it, and ηλ as its Section 7 writes the step; pulled after the step or along with it.
LGD: dict[str, Any] = {"local_period": 1, "local_pull": 0.1, "loss_window": 1}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LGD": ("lsgd", LGD),
    "LGD, pull every-step": ("lsgd", {**LGD, "pull": "every-step"}),
    "LGD, pull 0.01": ("lsgd", {**LGD, "local_pull": 0.01}),
    "LGD, pull 0.01, every-step": ("lsgd", {**LGD, "local_pull": 0.01, "pull": "every-step"}),
    "EAGD": ("easgd", {"local_period": 1, "moving_rate": 0.43}),
}
PAPER = {"LGD": -0.2172, "EAGD": -0.0912}


def objective(x: torch.Tensor) -> float:
    """``sin(πr)/(πr)`` with ``r = |x|``, for x of shape (2,)."""
    angle = math.pi * float(x.norm())
    return math.sin(angle) / angle if angle else 1.0


def gradient(world_rank: int, step: int, x: torch.Tensor) -> tuple[float, torch.Tensor]:  # noqa: ARG001
    """The objective at x and its gradient."""
    radius, value = float(x.norm()), objective(x)
    if radius == 0.0:
        return value, torch.zeros_like(x)
    return value, x * ((math.cos(math.pi * radius) - value) / radius**2)


def trajectories(name: str, steps: int) -> driver.Outcome:
    """Run the method of `METHODS` by that name from the paper's starting points."""
    algorithm, options = METHODS[name]
    starts = torch.tensor(STARTS, dtype=torch.float64)
    return driver.run(
        algorithm, options, starts, gradient, steps, learning_rate=LEARNING_RATE, keep_paths=True
    )


def recovered(outcome: driver.Outcome) -> float:
    """What a method ends at: the objective at the center, or at the best worker where there is none."""
    if outcome.center is not None:
        return objective(outcome.center)
    return min(objective(worker) for worker in outcome.workers)


def study(settings: Settings, output: Output) -> str:  # noqa: ARG001
    """Run all methods; write ``trajectories.csv``, ``minima.csv`` and ``toy.png`` (Figure 7)."""
    outcomes = {name: trajectories(name, STEPS) for name in METHODS}
    output.table("minima", ("method", "objective", "paper"), _minima(outcomes))
    output.table(
        "trajectories",
        ("method", "step", "worker", "x", "y", "objective"),
        (
            (name, step, worker, float(x[0]), float(x[1]), objective(x))
            for name, outcome in outcomes.items()
            for step, points in enumerate(_paths(outcome))
            for worker, x in enumerate(points)
        ),
    )
    _draw(outcomes, output)
    ours = {name: recovered(outcomes[name]) for name in PAPER}
    return (
        f"toy: LGD {ours['LGD']:.4f}, EAGD {ours['EAGD']:.4f} "
        f"(paper: LGD {PAPER['LGD']:.4f}, EAGD {PAPER['EAGD']:.4f})"
    )


def _minima(outcomes: dict[str, driver.Outcome]) -> list[tuple[str, float, float | None]]:
    return [(name, recovered(outcome), PAPER.get(name)) for name, outcome in outcomes.items()]


def _paths(outcome: driver.Outcome) -> torch.Tensor:
    assert outcome.paths is not None
    return outcome.paths


def _draw(outcomes: dict[str, driver.Outcome], output: Output) -> None:
    figure, (left, middle, right) = new_figure(3, r"min $\sin(\pi r)/(\pi r)$, 4 workers, $\tau=1$")
    for panel, name in ((left, "LGD"), (middle, "EAGD")):
        _draw_paths(panel, _paths(outcomes[name]))
        panel.set_title(f"{name}: ends at {recovered(outcomes[name]):.4f}")
    for name, style in (("LGD", "-"), ("EAGD", "--")):
        losses = outcomes[name].losses
        for worker in range(len(STARTS)):
            right.plot(
                losses[:150, worker], style, color=f"C{worker}", lw=1, label=f"{name}, worker {worker}"
            )
    right.set(xlabel="step $t$", ylabel="$L(x^i, y^i)$", title="objective of each worker")
    right.legend(fontsize=7, ncol=2)
    output.figure("toy", figure)


def _draw_paths(panel: Axes, paths: torch.Tensor) -> None:
    turn = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    for ring in range(12):
        # Between r = 2k + 1 and 2k + 2 lies one minimum, where tan(πr) = πr: close to 2k + 3/2.
        radius = 2 * ring + 1.5 - 1 / (math.pi**2 * (2 * ring + 1.5))
        label = "local minima" if ring == 0 else None
        panel.plot(radius * turn.cos(), radius * turn.sin(), ":", color="0.7", lw=0.8, label=label)
    for worker in range(paths.shape[1]):
        path = paths[:, worker]
        panel.plot(path[:, 0], path[:, 1], color=f"C{worker}", lw=1.2, label=f"worker {worker}")
    panel.plot(paths[0, :, 0], paths[0, :, 1], "ro", ms=5, label="start")
    panel.plot(paths[-1, :, 0], paths[-1, :, 1], "bo", ms=5, label="end")
    panel.set(xlabel="$x$", ylabel="$y$", aspect="equal", xlim=(-24, 24), ylim=(-24, 24))
    panel.legend(fontsize=7, loc="upper left")
