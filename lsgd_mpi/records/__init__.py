"""The run directory: what a run writes about itself while it trains.

Nothing here imports torch or MPI: whoever reads a run shares these columns without paying for either.
"""

from __future__ import annotations

from lsgd_mpi.records.columns import LEADERS_COLUMNS, METRICS_COLUMNS, RANK_COLUMNS, ROUND_COLUMNS
from lsgd_mpi.records.directory import claim_run_directory, default_run_dir, write_config, write_environment
from lsgd_mpi.records.environment import collect_environment
from lsgd_mpi.records.log import RankLog
from lsgd_mpi.records.run import RunRecords
from lsgd_mpi.records.table import CsvTable, Value

__all__ = [
    "LEADERS_COLUMNS",
    "METRICS_COLUMNS",
    "RANK_COLUMNS",
    "ROUND_COLUMNS",
    "CsvTable",
    "RankLog",
    "RunRecords",
    "Value",
    "claim_run_directory",
    "collect_environment",
    "default_run_dir",
    "write_config",
    "write_environment",
]
