"""What world rank 0 shows while it trains: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from lsgd_mpi.launcher import promise

_LINE_EVERY_S = 10.0


def terminal(descriptor: int) -> TextIO | None:
    """The terminal on which a person reads this process's standard output (1) or error (2), if one does.

    Under mpirun both are pipes, or a pseudo-terminal of mpirun's own, and mpirun passes only whole lines on,
    which a bar is not. What counts then is mpirun's own output: if that is a terminal of this node, the bar
    is written there.
    """
    if promise() is not None:
        return _launchers_terminal(descriptor)
    stream = sys.stdout if descriptor == 1 else sys.stderr
    return stream if stream.isatty() else None


@functools.cache
def _launchers_terminal(descriptor: int) -> TextIO | None:
    path = Path(f"/proc/{os.getppid()}/fd/{descriptor}")
    try:
        if str(path.readlink()).startswith(("/dev/pts/", "/dev/tty")):
            return path.open("w", encoding="utf-8")
    except OSError:
        return None  # the launcher is another user's, or on another node
    return None


class Progress:
    """A tqdm bar where a person watches, else a line every ten seconds; silent if not ``shown``."""

    def __init__(self, total_steps: float, shown: bool) -> None:
        total = None if math.isinf(total_steps) else int(total_steps)
        screen = terminal(2) if shown else None
        self._bar = tqdm(total=total, unit="step", disable=screen is None, file=screen, dynamic_ncols=True)
        self._total = "" if total is None else f" of {total}"
        self._lines = shown and screen is None
        self._started = self._last_line = time.perf_counter()
        self._steps = 0

    def reached(self, step: int) -> bool:
        """Say how far training is; true when its loss is worth reading for `show`."""
        done, self._steps = step - self._steps, step
        if self._lines:
            return time.perf_counter() - self._last_line >= _LINE_EVERY_S
        return bool(self._bar.update(done))

    def show(self, loss: float | None) -> None:
        """Show the training loss of the last iterations, if this rank has one."""
        if self._lines:
            self._last_line = time.perf_counter()
            rate = self._steps / (self._last_line - self._started)
            told = "" if loss is None else f", loss {loss:.4f}"
            self.say(f"step {self._steps}{self._total}, {rate:.1f} steps/s{told}")
        elif loss is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    @staticmethod
    def say(line: str) -> None:
        """Print a line without breaking the bar."""
        # tqdm clears its bar for a line on the bar's own stream only.
        screen = terminal(2) if terminal(1) is not None and promise() is not None else None
        screen = screen or sys.stdout
        tqdm.write(line, file=screen)
        screen.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class ConsoleHandler(logging.Handler):
    """Prints log records: warnings and errors to standard error, the others to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, unless it is for the rank's log alone."""
        if getattr(record, "for_file_only", False):
            return
        if record.levelno >= logging.WARNING:
            tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
        else:
            Progress.say(record.getMessage())
