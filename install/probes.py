"""Questions to this machine, each answered in a moment: compiler, Python, MPI, CUDA.

A function that finds something missing raises SetupError with one sentence and the remedy.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from console import SetupError, child_environment, output_of

OLDEST_PYTHON = (3, 10)
CXX20_PROGRAM = """\
#include <bit>
#include <compare>
int main() { return (std::bit_width(8u) == 4 && (1 <=> 2) == std::strong_ordering::less) ? 0 : 1; }
"""
MPI_LIBRARY = re.compile(r"^libmpi(ch|_cray\w*|_intel)?\.so")


def check_platform() -> None:
    """Set-up reads /proc and builds for Linux."""
    if not sys.platform.startswith("linux"):
        raise SetupError(
            f"this set-up works on Linux only, not on {sys.platform}: use a Linux machine or container"
        )


def check_python() -> None:
    """The running Python is new enough and can make an environment and compile against itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python {version} is too old: set PYTHON to 3.10 or later, as in PYTHON=python3.11 bin/setup"
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments (no ensurepip): install the package for it "
            "(Debian and Ubuntu: apt-get install python3-venv) or set PYTHON to another Python"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise SetupError(
            f"{header} is missing, and Horovod cannot be built without it: install Python's headers "
            "(Debian and Ubuntu: apt-get install python3-dev) or set PYTHON to a Python that has them"
        )


def find_compiler() -> list[str]:
    """The C++ compiler as CMake will choose it, tried on a small C++20 program; also make must be there."""
    asked = os.environ.get("CXX", "").strip()
    candidates = [asked] if asked else ["c++", "g++", "clang++"]
    found = next((name for name in candidates if name and shutil.which(shlex.split(name)[0])), None)
    if found is None:
        what = f"CXX={asked} is not a program that can be found" if asked else "no C++ compiler was found"
        raise SetupError(
            f"{what}, and Horovod must be built: install g++ 11 or later "
            "(Debian and Ubuntu: apt-get install build-essential; a cluster: load the module of a compiler)"
        )
    compiler = shlex.split(found)
    complaint = _cxx20_complaint(compiler)
    if complaint is not None:
        raise SetupError(
            f"the C++ compiler {found} cannot compile C++20, which PyTorch's headers need ({complaint}): "
            "install g++ 11 or clang 14 or later and name it, for example CXX=g++-12 bin/setup"
        )
    if shutil.which("make") is None:
        raise SetupError(
            "the program make was not found, and Horovod must be built: install it "
            "(Debian and Ubuntu: apt-get install build-essential)"
        )
    return compiler


def _cxx20_complaint(compiler: list[str]) -> str | None:
    """None where a small C++20 program compiles and links, else the first line that tells why not."""
    with tempfile.TemporaryDirectory(prefix="lsgd-cxx20-") as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(CXX20_PROGRAM, encoding="utf-8")
        try:
            done = subprocess.run(
                [*compiler, "-std=c++20", str(source), "-o", str(Path(folder) / "probe")],
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return errors[0].strip() if errors else f"it ended with code {done.returncode}"


def compiler_version(compiler: list[str]) -> str:
    """The first line of ``c++ --version``."""
    return (output_of([*compiler, "--version"]) or "unknown").splitlines()[0]


@dataclass(frozen=True)
class Mpi:
    """The MPI that Horovod is built with and that starts the ranks."""

    kind: str
    """``wheel`` (inside .venv) or ``system``."""
    version: str
    """The first line of ``mpirun --version``."""
    wrapper: str
    """What ``mpicxx`` adds to a compiler's command; the environment's own folder is written as ``<venv>``."""
    library_folders: tuple[str, ...]
    """Where libmpi lies, as the wrapper says."""


def find_system_mpicxx() -> Path:
    """``mpicxx`` on the PATH."""
    found = shutil.which("mpicxx")
    if found is None or shutil.which("mpirun") is None:
        raise SetupError(
            "--system-mpi needs mpicxx and mpirun on the PATH: load the cluster's MPI module "
            "(Debian and Ubuntu: apt-get install openmpi-bin libopenmpi-dev), or leave the option out"
        )
    return Path(found)


def describe_mpi(mpicxx: Path, venv: Path, kind: str) -> Mpi:
    """Ask an MPI's compiler wrapper and launcher what they are."""
    environment = child_environment(mpicxx.parent)
    mpirun = mpicxx.parent / "mpirun"
    version = output_of([mpirun if mpirun.exists() else "mpirun", "--version"], environment)
    # Open MPI knows --showme, MPICH and what descends from it -show.
    shown = output_of([mpicxx, "--showme"], environment) or output_of([mpicxx, "-show"], environment)
    if version is None or shown is None:
        raise SetupError(
            f"{mpicxx} or its mpirun does not work: try `{mpicxx} --showme` and `{mpirun} --version`; "
            + ("remove .venv and start again" if kind == "wheel" else "load another MPI module")
        )
    return Mpi(
        kind=kind,
        version=version.splitlines()[0],
        wrapper=shown.replace(str(venv), "<venv>"),
        library_folders=library_folders(shown),
    )


def library_folders(shown: str) -> tuple[str, ...]:
    """The folders behind ``-L`` and ``-rpath`` in a compiler's command, each once."""
    folders: list[str] = []
    for word in shlex.split(shown):
        if word.startswith("-L"):
            folders.append(word[2:])
        elif word.startswith("-Wl,/"):
            folders.append(word[4:])
        elif word.startswith("-Wl,-rpath,"):
            folders.append(word.removeprefix("-Wl,-rpath,"))
    return tuple(dict.fromkeys(folder for folder in folders if folder))


def linked_libraries(mpi: Mpi) -> set[str]:
    """The real paths of the MPI library that programs built with the wrapper are linked to."""
    candidates = (
        Path(folder) / name for folder in mpi.library_folders for name in ("libmpi.so", "libmpich.so")
    )
    return {str(path.resolve()) for path in candidates if path.exists()}


def has_gpu() -> bool:
    """Whether an NVIDIA GPU and its driver are here."""
    cards = Path("/proc/driver/nvidia/gpus")
    return (cards.is_dir() and any(cards.iterdir())) or bool(output_of(["nvidia-smi", "-L"]))


def gpu_architectures() -> str:
    """The compute capabilities of the cards here as Horovod's build wants them (``80,90``)."""
    told = output_of(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    found = sorted({line.strip().replace(".", "") for line in (told or "").splitlines() if line.strip()})
    # Without a card (a login node): Ampere and Hopper, which later cards run as well.
    return ",".join(found) or "80,90"


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit: its folder and version (``13.0``)."""

    home: Path
    version: str


def find_cuda() -> Cuda | None:
    """The CUDA toolkit at CUDA_HOME, else of the ``nvcc`` on the PATH, else in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME", "")]
    if (nvcc := shutil.which("nvcc")) is not None:
        homes.append(str(Path(nvcc).resolve().parent.parent))
    homes.append("/usr/local/cuda")
    for home in homes:
        # A start script called nvcc may lie anywhere; the toolkit is where the headers are.
        if home and (Path(home) / "bin" / "nvcc").exists() and (Path(home) / "include" / "cuda.h").exists():
            told = output_of([Path(home) / "bin" / "nvcc", "--version"]) or ""
            if (release := re.search(r"release (\d+\.\d+)", told)) is not None:
                return Cuda(Path(home), release[1])
    return None


def loaded_libraries(python: Path, imports: Iterable[str]) -> dict[str, str]:
    """Import modules in a process of their own; returns an empty ``error`` or its last line, and ``mpi``.

    ``mpi`` lists the real paths of the MPI libraries that the process then has in memory.
    """
    program = (
        "import importlib, json, sys\n"
        "error = ''\n"
        "try:\n"
        "    for name in sys.argv[1:]: importlib.import_module(name)\n"
        "except Exception as caught:\n"
        "    error = f'{name}: {caught}'.strip().splitlines()[0]\n"
        "paths = {line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '/lib' in line}\n"
        "print('\\n' + json.dumps([error, sorted(paths)]), flush=True)\n"
        # MPI's own clean-up at exit is of no interest here, and may complain after a failed import.
        "import os; os._exit(0)\n"
    )
    environment = child_environment(python.parent, MPI4PY_RC_INITIALIZE="0")
    told = output_of([python, "-c", program, *imports], environment)
    if told is None:
        return {"error": f"{', '.join(imports)}: Python crashed", "mpi": ""}
    error, paths = json.loads(told.splitlines()[-1])
    libraries = sorted({str(Path(path).resolve()) for path in paths if MPI_LIBRARY.match(Path(path).name)})
    return {"error": error, "mpi": os.pathsep.join(libraries)}
