"""How set-up talks, fails and runs other programs."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
SHOWN_LOG_LINES = 25
BUILD_ERROR = re.compile(r"(?<![\w-])error:|CMake Error|No space left|Killed")


class SetupError(Exception):
    """Something about this machine prevents the set-up; the message says what and how to mend it."""


class CommandError(Exception):
    """A program that set-up started failed; its output is in the log."""


def say(message: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"setup: {message}", flush=True)


def child_environment(*first_on_path: Path, **variables: str) -> dict[str, str]:
    """The environment for child processes: no trace of another Python environment that is active."""
    environment = dict(os.environ)
    for name in (
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PYTHONHOME",
        "PYTHONPATH",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        # Set-up imports torch and Horovod once; without the bytecode that this leaves behind, every rank of
        # every run would compile them again, at once.
        "PYTHONDONTWRITEBYTECODE",
    ):
        environment.pop(name, None)
    # Libraries of a user's own site directory would stand in for the ones that belong to .venv.
    environment["PYTHONNOUSERSITE"] = "1"
    folders = [*map(str, first_on_path), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(folders)
    environment.update(variables)
    return environment


def output_of(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str | None:
    """What a program prints, without the white space around it; None where it fails or does not exist."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run_logged(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
    """Run a program with its output appended to ``log``; raises CommandError where it fails."""
    words = [str(part) for part in command]
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n$ {shlex.join(words)}\n")
        stream.flush()
        try:
            code = subprocess.run(
                words,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                check=False,
            ).returncode
        except OSError as error:
            raise CommandError(f"{words[0]} cannot be started: {error}") from error
    if code != 0:
        # `pip wheel` tells more than `python`.
        name = words[2:4] if words[1:2] == ["-m"] else [Path(words[0]).name, *words[1:2]]
        raise CommandError(f"{' '.join(name)} ended with code {code}")


def first_errors(log: Path) -> str:
    """From the first error that a compiler or CMake reported in the last command's output, else its end.

    What a build prints after its first error says mostly that it failed.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    start = max((number for number, line in enumerate(lines) if line.startswith("$ ")), default=0)
    found = next(
        (number for number in range(start + 1, len(lines)) if BUILD_ERROR.search(lines[number])), None
    )
    if found is None:
        return last_lines(log)
    return "\n".join(f"    {line}" for line in lines[found : found + SHOWN_LOG_LINES])


def last_lines(log: Path) -> str:
    """The end of a log file, indented, for a message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LOG_LINES:]
    return "\n".join(f"    {line}" for line in lines)
