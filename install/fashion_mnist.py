"""Find Fashion-MNIST or bring it into the user's cache, without root; prints its folder.

``bin/demo`` starts it with the Python of .venv. The exit code is 4 where the data cannot be had.
"""

import contextlib
import http.client
import os
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import debian

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
EXIT_DATA = 4
REACH_S = 5


def tell(message: str) -> None:
    """A line of progress; standard output is for the folder."""
    print(f"demo: {message}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Where lsgd_mpi.data looks by itself."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "lsgd_mpi" / "data"


def is_whole(folder: Path) -> bool:
    """Whether all four files are in a folder, packed or not."""
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES)


def raw_folder() -> Path:
    """The folder of the files in the cache, as torchvision lays them out."""
    return cache_folder() / "FashionMNIST" / "raw"


def fetch_debian_package() -> bool:
    """Unpack Debian's package into the cache; False where there is no apt or it cannot reach the package."""
    raw_folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=raw_folder().parent) as name:
        files = Path(name) / INSTALLED.relative_to("/")
        if not debian.unpack([PACKAGE], Path(name)) or not is_whole(files):
            return False
        raw_folder().mkdir(exist_ok=True)
        for file in files.iterdir():
            file.replace(raw_folder() / file.name)
    return True


def answers(url: str) -> bool:
    """Whether something is there to be downloaded, asked for a few seconds only."""
    answered = threading.Event()

    def ask() -> None:
        # Nothing to do about a refusal but to leave the event unset.
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(url, timeout=REACH_S),
        ):
            answered.set()

    # A thread, since looking up a name knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_S)
    return answered.is_set()


def fetch_with_torchvision() -> bool:
    """Download from torchvision's mirror, if that answers within seconds."""
    from torchvision.datasets import FashionMNIST

    if not any(answers(mirror + FashionMNIST.resources[1][0]) for mirror in FashionMNIST.mirrors):
        return False
    try:
        with contextlib.redirect_stdout(sys.stderr):
            FashionMNIST(str(cache_folder()), download=True)
    except (OSError, RuntimeError) as error:
        tell(f"torchvision's download failed: {error}")
        return False
    return is_whole(raw_folder())


def find_or_fetch() -> Path | None:
    """The folder with the data, from the first place that has it."""
    for folder in (INSTALLED, raw_folder()):
        if is_whole(folder):
            return folder
    ways: list[tuple[str, Callable[[], bool]]] = [
        (f"Debian's package {PACKAGE}", fetch_debian_package),
        ("torchvision's download", fetch_with_torchvision),
    ]
    for name, fetch in ways:
        tell(f"looking for Fashion-MNIST: {name}")
        if fetch():
            return raw_folder()
    return None


if __name__ == "__main__":
    found = find_or_fetch()
    if found is None:
        sys.exit(EXIT_DATA)
    print(found)
