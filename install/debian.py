"""Debian's packages without root: downloaded and unpacked into a folder, never installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

APT_S = 120


def _output(command: Sequence[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=APT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _download(packages: Sequence[str], needed: bool, apt: Sequence[str], folder: Path) -> bool:
    if needed:
        plan = _output([*apt, "--simulate", "--no-install-recommends", "install", *packages], folder)
        if plan is None:
            return False
        packages = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    return not packages or _output([*apt, "download", *packages], folder) is not None


def unpack(packages: Sequence[str], target: Path, *, needed: bool = False) -> bool:
    """Unpack packages into ``target``; with ``needed`` those that are missing here and what they need.

    False where there is no apt, or where it cannot reach them.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="lsgd-apt-") as name:
        folder = Path(name)
        apt = ["apt-get", "-q"]
        if not _download(packages, needed, apt, folder):
            # The lists of a new machine are empty, and only root may fill the system's: fetch our own.
            apt += [f"-oDir::State::lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}"]
            (folder / "lists" / "partial").mkdir(parents=True)
            (folder / "cache" / "archives" / "partial").mkdir(parents=True)
            if _output([*apt, "update"], folder) is None or not _download(packages, needed, apt, folder):
                return False
        archives = list(folder.glob("*.deb"))
        unpacked = [_output(["dpkg-deb", "-x", str(file), str(target)], folder) for file in archives]
        return bool(archives) and None not in unpacked
