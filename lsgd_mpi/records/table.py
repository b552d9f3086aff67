"""An append-only CSV file whose lines are whole at every moment, even if the run is killed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType

from lsgd_mpi.errors import RunDirectoryError

Value = Real | int | float | str | bool | None
"""What one cell may hold; NumPy's numbers are ``Real`` too."""


class CsvTable:
    """A CSV file with a fixed header, one ``write`` call a row.

    The file is unbuffered, so a row is with the operating system when `append` returns: a killed process
    loses none and leaves no part of one. (A machine that loses power may still lose the last seconds.)

    Numbers come back from ``float()`` exactly as they were; ``None`` becomes an empty cell, a truth value
    0 or 1.

    Args:
        path: the file; it must not exist yet, because a measured row is never overwritten.
        columns: the header, in order.

    Raises:
        RunDirectoryError: the file exists or cannot be written.
        ValueError: no columns, or one of them twice.

    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"{path.name} needs columns, each of them once: {', '.join(self.columns)}")
        self._whole_bytes = 0
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError as error:
            raise RunDirectoryError(f"{path} exists already: choose another --run-dir") from error
        except OSError as error:
            raise RunDirectoryError(f"cannot create {path}: {error.strerror}") from error
        try:
            self._write(_line(self.columns))
        except RunDirectoryError:
            self._file.close()
            raise

    def append(self, **row: Value) -> None:
        """Write one row.

        Raises:
            ValueError: a column is missing or unknown, a text holds a line break, or a value is neither
                number nor text; nothing is written.
            RunDirectoryError: the row cannot be written, for example because the disk is full.

        """
        missing = [name for name in self.columns if name not in row]
        unknown = [name for name in row if name not in self.columns]
        if missing or unknown:
            problems = [f"lacks {', '.join(missing)}"] * bool(missing)
            problems += [f"has unknown {', '.join(unknown)}"] * bool(unknown)
            raise ValueError(f"a row of {self.path.name} {' and '.join(problems)}")
        self._write(_line([_cell(name, row[name]) for name in self.columns]))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> CsvTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
        except OSError as error:
            raise RunDirectoryError(f"cannot write {self.path}: {error.strerror}") from error
        if written != len(line):
            # A disk that fills up takes the beginning of a line without complaint.
            os.ftruncate(self._file.fileno(), self._whole_bytes)
            raise RunDirectoryError(f"cannot write {self.path}: no space left for a whole line")
        self._whole_bytes += len(line)


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(name: str, value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        # Through float, because NumPy's own repr of a number is not a number.
        return repr(float(value))
    if not isinstance(value, str):
        raise ValueError(f"column {name} takes a number or a text, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        raise ValueError(f"column {name} takes a text without line breaks, not {value!r}")
    return value
