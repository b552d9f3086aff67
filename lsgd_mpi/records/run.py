"""All that one rank writes while it trains."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records.columns import (
    LEADERS_COLUMNS,
    LEADERS_FILE,
    METRICS_COLUMNS,
    METRICS_FILE,
    RANK_COLUMNS,
    RANKS_FOLDER,
    ROUND_COLUMNS,
    ROUNDS_KIND,
    rank_file,
)
from lsgd_mpi.records.log import RankLog
from lsgd_mpi.records.table import CsvTable, Value


class RunRecords:
    """One rank's tables and message log in a claimed run directory.

    Every rank has its own table and log; world rank 0 alone has ``metrics.csv`` and ``leaders.csv``, so
    that each measured row is written once.

    Args:
        path: the run directory, after world rank 0 has claimed it.
        world_rank: this rank in the world.

    Raises:
        RunDirectoryError: a file exists already or cannot be made; or this rank does not see the directory.

    """

    def __init__(self, path: Path, world_rank: int) -> None:
        self.path = path
        self.world_rank = world_rank
        if not (path / RANKS_FOLDER).is_dir():
            raise RunDirectoryError(
                f"world rank {world_rank} does not find {path / RANKS_FOLDER}: "
                "choose, with --run-dir, a directory on a file system that all ranks share"
            )
        with contextlib.ExitStack() as opened:
            opened.enter_context(RankLog(path / rank_file(world_rank, "log")))
            self._steps = opened.enter_context(CsvTable(path / rank_file(world_rank, "csv"), RANK_COLUMNS))
            self._rounds = opened.enter_context(
                CsvTable(path / rank_file(world_rank, "csv", ROUNDS_KIND), ROUND_COLUMNS)
            )
            self._metrics: CsvTable | None = None
            self._leaders: CsvTable | None = None
            if world_rank == 0:
                self._metrics = opened.enter_context(CsvTable(path / METRICS_FILE, METRICS_COLUMNS))
                self._leaders = opened.enter_context(CsvTable(path / LEADERS_FILE, LEADERS_COLUMNS))
            self._opened = opened.pop_all()

    def metrics(self, **row: Value) -> None:
        """Write one evaluation's row; world rank 0 only.

        Raises:
            ValueError: a column is missing or unknown.
            RunDirectoryError: the row cannot be written.

        """
        self._of_rank_zero(self._metrics).append(**row)

    def leader(self, **row: Value) -> None:
        """Write one round's leader, of a group or of all; world rank 0 only. Errors as in `metrics`."""
        self._of_rank_zero(self._leaders).append(**row)

    def step(self, **row: Value) -> None:
        """Write one row of this rank's own table. Errors as in `metrics`."""
        self._steps.append(**row)

    def round(self, **row: Value) -> None:
        """Write one row of this rank's own rounds. Errors as in `metrics`."""
        self._rounds.append(**row)

    def close(self) -> None:
        """Close every file; a second call does nothing."""
        self._opened.close()

    def __enter__(self) -> RunRecords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _of_rank_zero(self, table: CsvTable | None) -> CsvTable:
        # A second writer would mix its rows with rank 0's: better a stop than a wrong record.
        assert table is not None, f"world rank {self.world_rank} wrote a row that is rank 0's to write"
        return table
