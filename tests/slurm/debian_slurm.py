"""SLURM's programs: installed ones, or Debian's packages unpacked in the user's cache and run from there."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launching import ROOT

# The scripts of the set-up are no package.
sys.path.insert(0, str(ROOT / "install"))
import debian

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scancel", "sinfo", "squeue")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client", "libpmix-dev")
MISSING = (
    "no SLURM: slurmctld is not on the path, and apt-get cannot download Debian's; as root: apt-get install "
    + " ".join(PACKAGES)
)
#: In the name of the cache's folder: raise it with any change of what is made there.
_RECIPE = 1
#: Where Debian's SLURM looks for PMIx, whatever the configuration says.
_PMIX = re.compile(rb"/usr/lib/[\w-]+/pmix2/lib\0")


@dataclass(frozen=True)
class Programs:
    """Where the programs are, and for unpacked ones what SLURM must be told about it."""

    path: str
    plugins: Path | None = None

    def __getitem__(self, name):
        found = shutil.which(name, path=self.path)
        assert found, f"SLURM is there but {name} is not"
        return found


def find():
    """Installed programs, or those in the cache, which is filled if need be; None where neither can be."""
    # Daemons are where the paths of ordinary users do not lead.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if all(shutil.which(name, path=path) for name in ("slurmctld", "munged")):
        return Programs(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lsgd_mpi" / "slurm"
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    folder = cache / f"{release}-{platform.machine()}-{_RECIPE}"
    if not _run(folder):
        shutil.rmtree(folder, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as new:
            root = Path(new) / "root"
            if not debian.unpack(PACKAGES, root, needed=True):
                return None
            _relocate(root, folder)
            root.rename(folder)
        assert _run(folder), f"Debian's SLURM does not run from {folder}"
    plugins = next(folder.glob("usr/lib/*/slurm-wlm"))
    return Programs(os.pathsep.join([str(folder / "lsgd"), path]), plugins)


def _run(folder):
    """Whether the daemons of a folder are there and find their libraries."""
    daemons = [folder / "lsgd" / name for name in ("munged", "slurmctld", "slurmd")]
    return all(file.exists() for file in daemons) and all(
        # The other programs want a configuration before they tell their version.
        subprocess.run([file, "-V"], capture_output=True, timeout=20, check=False).returncode == 0
        for file in daemons
    )


def _relocate(root, place):
    """Make packages unpacked in ``root`` run from ``place``: a script a program, and the way to PMIx."""
    libraries = next(root.glob("usr/lib/*/slurm-wlm")).parent
    moved = place / libraries.relative_to(root)
    where = f"{moved / 'slurm-wlm'}:{moved}"
    scripts = root / "lsgd"
    scripts.mkdir()
    for name in PROGRAMS:
        file = next(root.glob(f"usr/*bin/{name}-wlm"), None) or next(root.glob(f"usr/*bin/{name}"))
        # The loader takes the libraries' place as an argument. LD_LIBRARY_PATH would reach the jobs, through
        # srun, and put these libraries before those of the jobs' own MPI.
        loader = re.search(rb"/lib[\w/]*/ld-[\w.-]+", file.read_bytes())[0].decode()
        words = [loader, "--library-path", where, str(place / file.relative_to(root))]
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
    link = libraries / "pmix2" / "lib" / "libpmix.so"
    if link.is_symlink():
        # Else libpmix-dev is installed and PMIx where SLURM looks for it.
        if not link.exists():
            # The library itself is installed.
            target = Path("/") / link.relative_to(root).parent / link.readlink()
            link.unlink()
            link.symlink_to(target)
        for plugin in (libraries / "slurm-wlm").glob("mpi_pmix*.so"):
            # The loader reads $ORIGIN as the folder of the plugin that asks.
            plugin.write_bytes(
                _PMIX.sub(
                    lambda found: b"$ORIGIN/../pmix2/lib".ljust(len(found[0]), b"\0"), plugin.read_bytes()
                )
            )
