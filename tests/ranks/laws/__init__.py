"""Cases for `harness`, by subject; importing them registers them."""

from laws import buffers, evaluation, lsgd, optimizers, rounds, starting, trajectory

__all__ = ["buffers", "evaluation", "lsgd", "optimizers", "rounds", "starting", "trajectory"]
