"""File names and columns of a run directory: a contract with everyone who reads one.

A change here is a change of the format: it breaks the readers of runs that were made before it.
"""

from __future__ import annotations

from typing import Final

CONFIG_FILE: Final = "config.yaml"
ENVIRONMENT_FILE: Final = "environment.json"
METRICS_FILE: Final = "metrics.csv"
LEADERS_FILE: Final = "leaders.csv"
RANKS_FOLDER: Final = "ranks"

METRICS_COLUMNS: Final[tuple[str, ...]] = (
    "step",
    "epoch",
    "total_steps",
    "elapsed_s",
    "train_loss",
    "test_loss",
    "test_error_pct",
    "lr",
    "sent_bytes",
    "comm_s",
    "rounds",
    "evaluated",
)
"""One row an evaluation; ``evaluated`` says of what, such as ``average`` or ``center``."""

LEADERS_COLUMNS: Final[tuple[str, ...]] = (
    "round",
    "scope",
    "group",
    "step",
    "total_steps",
    "elapsed_s",
    "leader_world_rank",
    "leader_loss",
    "previous_leader_world_rank",
    "switched",
)
"""One row a local round and group, and one a global round, for which ``group`` is empty."""

RANK_COLUMNS: Final[tuple[str, ...]] = (
    "step",
    "elapsed_s",
    "loss",
    "error_pct",
    "data_s",
    "compute_s",
    "comm_s",
    "wait_s",
)
"""One row each ``--log-every`` steps of one rank."""


ROUNDS_KIND: Final = "rounds"

ROUND_COLUMNS: Final[tuple[str, ...]] = (
    "round",
    "step",
    "total_steps",
    "elapsed_s",
    "iterations",
    "comm_s",
    "wait_s",
    "staleness",
)
"""One row each iteration of one rank in which it held rounds: ``round`` counts them, ``iterations`` is the
number since the row before, ``staleness`` the center's updates by others since this rank's last visit."""


def rank_file(world_rank: int, suffix: str, kind: str = "rank") -> str:
    """Return the path, inside a run directory, of one rank's file: ``ranks/rank-0003.csv``."""
    return f"{RANKS_FOLDER}/{kind}-{world_rank:04d}.{suffix}"
