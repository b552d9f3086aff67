"""One rank's messages, in a file of its own."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import TracebackType

from lsgd_mpi.errors import RunDirectoryError

LOGGER_NAME = "lsgd_mpi"


class RankLog:
    """Send what the package logs to one rank's file until `close`.

    It adds one handler to the logger ``lsgd_mpi`` and takes it away again; handlers of others, for example
    the command line's on standard error, stay as they are. Lines read
    ``2030-01-31T12:00:00.000Z INFO lsgd_mpi.trainer: text``, in UTC.

    Args:
        path: the file; messages are added at its end.
        level: least level that is written; the logger's level is put back on `close`.

    Raises:
        RunDirectoryError: the file cannot be opened.

    """

    def __init__(self, path: Path, level: int = logging.INFO) -> None:
        try:
            self._handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RunDirectoryError(f"cannot open {path}: {error.strerror}") from error
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
        formatter.default_msec_format = "%s.%03dZ"
        self._handler.setFormatter(formatter)
        self._handler.setLevel(level)
        self._logger = logging.getLogger(LOGGER_NAME)
        self._level_before = self._logger.level
        if not self._logger.isEnabledFor(level):
            self._logger.setLevel(level)
        self._logger.addHandler(self._handler)

    def close(self) -> None:
        """Take the file away from the logger and close it; a second call does nothing."""
        if self._handler in self._logger.handlers:
            self._logger.removeHandler(self._handler)
            self._logger.setLevel(self._level_before)
            self._handler.close()

    def __enter__(self) -> RankLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LogFile(logging.FileHandler):
    """A log that says once that it cannot write and then stays out of the way.

    A message must not decide how a run ends: it may be the one that explains another failure. The tables
    meet the same full disk and do end the run.
    """

    _complained = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's own name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._complain(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            print(f"lsgd-mpi: cannot write {self.baseFilename}: {error.strerror}", file=sys.stderr)
