"""Where data sets lie, and how they come there."""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lsgd_mpi.errors import DataError

_TIMEOUT_S = 30.0
"""torchvision's downloads have none, and a cluster's node without a way out would wait for minutes."""


def cache_dir() -> Path:
    """The user's cache for data sets: ``$XDG_CACHE_HOME/lsgd_mpi/data``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lsgd_mpi" / "data"


def missing(name: str, files: str, folders: Sequence[Path]) -> DataError:
    """The error for a data set whose ``files`` lie in none of ``folders``."""
    places = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name} is missing: looked for {files} in {places}; put them there, "
        "name another folder with --data-dir, or allow the download"
    )


def download(
    name: str, root: Path, files: Sequence[Path], fetch: Callable[[Path], object], absent: DataError
) -> None:
    """Fetch ``files`` (relative to ``root``) with ``fetch(folder)``, which puts them below a folder.

    They are fetched into a folder beside their place and then moved, so that an interrupted download
    never leaves half a file where ``load`` would find it. Raises DataError with the reason and
    what ``absent`` says.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch, _network_timeout():
            fetch(Path(scratch))
            for file in files:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / file).replace(root / file)
    # RuntimeError is torchvision's, for a wrong checksum and for mirrors that do not answer.
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} could not be downloaded to {root} ({reason}). {absent}") from error


@contextmanager
def _network_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
