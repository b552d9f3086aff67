"""What the benchmarks share: where they ran, and timings with their spread."""

from __future__ import annotations

import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Spread:
    """The smallest, middle and largest of some measurements."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of ``values``, at least one."""
        return cls(min(values), statistics.median(values), max(values))


def interleaved(functions: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each function in each round, after a round of warm-up.

    All take turns within a round, so that what slows the machine for a while slows all of them; compare
    them by their ratio within a round.
    """
    rounds = [[seconds(function) for function in functions] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def seconds(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def environment_lines(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Command, commit, versions and hardware, as items of a Markdown list."""
    script = Path(sys.argv[0]).name
    versions = [f"Python {platform.python_version()}", *(f"{p} {metadata.version(p)}" for p in packages)]
    return [
        f"- command: `{shlex.join(['python', f'benchmarks/{script}', *sys.argv[1:]])}`",
        f"- commit: {_commit()}",
        f"- versions: {', '.join(versions)}",
        f"- hardware: {_hardware()}",
    ]


def _commit() -> str:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changes = " with uncommitted changes" if git("status", "--porcelain", "--", "../lsgd_mpi") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changes


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = f"{len(names)} x {names[0]}" if names else model
    return f"{model}, {platform.system()} {platform.machine()}"
