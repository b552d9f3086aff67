"""What a run ran on: versions, commit, command, and what only its caller knows."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import lsgd_mpi

_PACKAGES = ("torch", "torchvision", "mpi4py", "horovod", "numpy")
_GIT_TIMEOUT_S = 10.0


def collect_environment(
    *,
    hosts: Sequence[str],
    groups: Sequence[Sequence[int]],
    seed: int | None,
    mpi_library: str | None = None,
    threads: int | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, object]:
    """Describe this run for ``environment.json``.

    Versions are read from the installed packages' metadata, so nothing is imported for it. It starts
    ``git``: call it on world rank 0 alone.

    Args:
        hosts: the host name of each world rank.
        groups: the world ranks of each group.
        seed: the run's seed.
        mpi_library: the MPI library's own version text.
        threads: threads that one rank computes with.
        command: the command line; this process's by default.

    Returns:
        ``versions`` (``None`` for what is not installed), ``commit`` and ``commit_dirty`` (``None``
        without a checkout; dirty means that the package's own files differ from the commit),
        ``command``, ``started_utc`` (ISO 8601), and the arguments.

    """
    commit, dirty = package_commit(Path(lsgd_mpi.__file__).parent)
    return {
        "versions": {
            "lsgd_mpi": lsgd_mpi.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "commit": commit,
        "commit_dirty": dirty,
        "command": list(sys.orig_argv if command is None else command),
        "started_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hosts": list(hosts),
        "groups": [list(group) for group in groups],
        "seed": seed,
        "mpi_library": mpi_library,
        "threads": threads,
    }


def package_commit(package: Path) -> tuple[str | None, bool | None]:
    """Return the commit that ``package`` was checked out from, and whether its files differ from it.

    A package that is merely installed somewhere below another project's checkout has no commit: the one
    found there would be that project's. Both are ``None`` then, as without git.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    return commit, None if changes is None else bool(changes)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    # A hook or a build may have pointed GIT_DIR at some other repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
