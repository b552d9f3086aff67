"""Cases for `harness`, by subject; importing them registers them."""

from laws import (
    buffers,
    downpour,
    eamsgd,
    easgd,
    easgd_gauss_seidel,
    evaluation,
    every_method,
    golden,
    local_optimizers,
    lsgd,
    optimizers,
    pr_sgd,
    rounds,
    sequential,
    starting,
    trajectory,
)

__all__ = [
    "buffers",
    "downpour",
    "eamsgd",
    "easgd",
    "easgd_gauss_seidel",
    "evaluation",
    "every_method",
    "golden",
    "local_optimizers",
    "lsgd",
    "optimizers",
    "pr_sgd",
    "rounds",
    "sequential",
    "starting",
    "trajectory",
]
