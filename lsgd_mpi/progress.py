"""What world rank 0 shows while it trains: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from lsgd_mpi.launcher import promise

_LINE_EVERY_S = 10.0


def on_terminal() -> bool:
    """Whether a person watches standard error.

    Under mpirun it is a pipe to mpirun, which passes it on: then mpirun's own standard error counts.
    """
    if sys.stderr.isatty() or promise() is None:
        return sys.stderr.isatty()
    try:
        return str(Path(f"/proc/{os.getppid()}/fd/2").readlink()).startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


class Progress:
    """A tqdm bar where a person watches, else a line every ten seconds; silent if not ``shown``."""

    def __init__(self, total_steps: float, shown: bool) -> None:
        total = None if math.isinf(total_steps) else int(total_steps)
        terminal = on_terminal()
        width = None if sys.stderr.isatty() else 79
        self._bar = tqdm(total=total, unit="step", disable=not (shown and terminal), ncols=width)
        self._total = "" if total is None else f" of {total}"
        self._lines = shown and not terminal
        self._started = self._last_line = time.perf_counter()
        self._steps = 0

    def step(self) -> bool:
        """Count one iteration; true when its loss is worth reading for `show`."""
        self._steps += 1
        if self._lines:
            return time.perf_counter() - self._last_line >= _LINE_EVERY_S
        return bool(self._bar.update(1))

    def show(self, loss: float) -> None:
        """Show the training loss of the last iterations."""
        if self._lines:
            self._last_line = time.perf_counter()
            rate = self._steps / (self._last_line - self._started)
            self.say(f"step {self._steps}{self._total}, {rate:.1f} steps/s, loss {loss:.4f}")
        else:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    @staticmethod
    def say(line: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class ConsoleHandler(logging.Handler):
    """Prints log records: warnings and errors to standard error, the others to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if record.levelno >= logging.WARNING:
            tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
        else:
            Progress.say(record.getMessage())
