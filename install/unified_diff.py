"""Apply a unified diff exactly: the sources it is for never change, so any misfit is an error."""

import re
from dataclasses import dataclass, field
from pathlib import Path

HUNK_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(ValueError):
    """The diff cannot be read, or does not fit the files."""


@dataclass(frozen=True)
class Hunk:
    """One change: at line ``start`` (from 1) the lines ``before`` become ``after``."""

    start: int
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass
class FileDiff:
    """The hunks of one file, in the order of its lines; ``path`` is relative to the patched folder."""

    path: str
    hunks: list[Hunk] = field(default_factory=list)


def parse(text: str) -> list[FileDiff]:
    """Read a unified diff; what stands before the first file header is explanation."""
    lines = text.splitlines()
    files: list[FileDiff] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if line.startswith("--- ") and position < len(lines) and lines[position].startswith("+++ "):
            files.append(FileDiff(_stripped_path(lines[position])))
            position += 1
        elif files and (header := HUNK_HEADER.match(line)):
            hunk, position = _read_hunk(lines, position, header)
            files[-1].hunks.append(hunk)
        elif files:
            raise PatchError(f"line {position} of the diff belongs to no hunk: {line!r}")
    if not files or any(not file.hunks for file in files):
        raise PatchError("the diff changes nothing, or names a file without a hunk")
    return files


def _stripped_path(header: str) -> str:
    """``+++ b/some/file`` without its first folder."""
    _, _, path = header[4:].split("\t")[0].partition("/")
    return path


def _read_hunk(lines: list[str], position: int, header: re.Match[str]) -> tuple[Hunk, int]:
    """Read the body of a hunk; returns it with the number of the next unread line."""
    before_left, after_left = (int(count or 1) for count in (header[2], header[4]))
    before: list[str] = []
    after: list[str] = []
    while before_left or after_left:
        if position == len(lines):
            raise PatchError("the diff ends inside a hunk")
        # An editor may have removed the one blank of an empty context line.
        sign, content = (lines[position] or " ")[0], lines[position][1:]
        if sign not in " +-":
            raise PatchError(f"line {position + 1} of the diff is none of a hunk: {lines[position]!r}")
        position += 1
        if sign in " -":
            before.append(content)
            before_left -= 1
        if sign in " +":
            after.append(content)
            after_left -= 1
    return Hunk(int(header[1]), tuple(before), tuple(after)), position


def patched(lines: list[str], file: FileDiff) -> list[str]:
    """The lines of a file after its hunks; raises PatchError at the first that does not fit."""
    result: list[str] = []
    copied = 0
    for number, hunk in enumerate(file.hunks, start=1):
        first = hunk.start - 1
        last = first + len(hunk.before)
        if first < copied or tuple(lines[first:last]) != hunk.before:
            raise PatchError(f"hunk {number} does not fit {file.path} at line {hunk.start}")
        result += lines[copied:first]
        result += hunk.after
        copied = last
    return result + lines[copied:]


def apply(text: str, folder: Path) -> int:
    """Apply the diff ``text`` to the files under ``folder``, all or none; returns the number of hunks."""
    files = parse(text)
    contents: dict[Path, str] = {}
    for file in files:
        path = folder / file.path
        if not path.is_file():
            raise PatchError(f"{file.path} is not there")
        lines = patched(path.read_text(encoding="utf-8").splitlines(), file)
        contents[path] = "\n".join(lines) + "\n"
    for path, content in contents.items():
        path.write_text(content, encoding="utf-8")
    return sum(len(file.hunks) for file in files)
