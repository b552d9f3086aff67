"""Build Horovod once for everything that it depends on, and keep the wheel in the user's cache."""

import hashlib
import json
import os
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import unified_diff
from console import CommandError, SetupError, child_environment, first_errors, last_lines, run_logged, say
from probes import Cuda, Mpi, gpu_architectures

HERE = Path(__file__).resolve().parent
REQUIREMENT = HERE / "requirements-horovod.txt"
NCCL_OF_CUDA_MAJOR = {"13": "nvidia-nccl-cu13==2.29.3"}
"""NCCL wheels that hold the header; later ones do not."""
GIB = 1024**3


@dataclass(frozen=True)
class Release:
    """The Horovod release that is built."""

    version: str
    sha256: str

    @property
    def patch(self) -> Path:
        """The changes it needs."""
        return HERE / f"horovod-{self.version}.patch"

    @property
    def sdist_name(self) -> str:
        """The file name of its sources."""
        return f"horovod-{self.version}.tar.gz"


def release(requirement: Path = REQUIREMENT) -> Release:
    """Read the pinned release from its requirements file."""
    for line in requirement.read_text(encoding="utf-8").splitlines():
        if line.startswith("horovod=="):
            pin, _, digest = line.partition(" --hash=sha256:")
            return Release(pin.removeprefix("horovod=="), digest.strip())
    raise ValueError(f"{requirement} pins no horovod")


@dataclass(frozen=True)
class Nccl:
    """A build with NCCL: the toolkit, the folder with NCCL's ``include`` and ``lib``, and the cards."""

    cuda: Cuda
    requirement: str
    """The wheel that has NCCL, or the folder that HOROVOD_NCCL_HOME names."""
    architectures: str


def plan_nccl(cuda: Cuda, torch_cuda: str | None) -> Nccl | str:
    """What an NCCL build would use, or why there can be none."""
    if torch_cuda is None:
        return "the PyTorch in .venv is a CPU build"
    major = cuda.version.partition(".")[0]
    if major != torch_cuda.partition(".")[0]:
        return f"the toolkit {cuda.home} is CUDA {cuda.version} and PyTorch was built for CUDA {torch_cuda}"
    source = os.environ.get("HOROVOD_NCCL_HOME") or NCCL_OF_CUDA_MAJOR.get(major)
    if source is None:
        return f"no NCCL wheel with headers is known for CUDA {major}; HOROVOD_NCCL_HOME can name a folder"
    return Nccl(cuda, source, gpu_architectures())


@dataclass(frozen=True)
class Ingredients:
    """All that the built wheel depends on. Two equal ones give the same key."""

    horovod: str
    patch_sha256: str
    torch: str
    cxx11_abi: bool
    python: str
    platform: str
    mpi_kind: str
    mpi_version: str
    mpi_wrapper: str
    compiler: str
    nccl: str

    def key(self) -> str:
        """The name of the cache folder."""
        text = json.dumps(vars(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def ingredients(torch: Mapping[str, str], mpi: Mpi, compiler: str, nccl: Nccl | None) -> Ingredients:
    """Collect what the wheel depends on; ``torch`` is what environment.py read from .venv."""
    pinned = release()
    gpu = "none"
    if nccl is not None:
        gpu = f"{nccl.requirement}, CUDA {nccl.cuda.version}, {nccl.architectures}"
    return Ingredients(
        horovod=pinned.version,
        patch_sha256=hashlib.sha256(pinned.patch.read_bytes()).hexdigest(),
        torch=torch["version"],
        cxx11_abi=torch["cxx11_abi"] == "True",
        python=torch["python"],
        platform=torch["platform"],
        mpi_kind=mpi.kind,
        mpi_version=mpi.version,
        mpi_wrapper=mpi.wrapper,
        compiler=compiler,
        nccl=gpu,
    )


def cache_folder() -> Path:
    """Where wheels and Horovod's sources are kept between set-ups and clones."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The standard for these folders says that a relative path is to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "lsgd_mpi" / "horovod"


def cached_wheel(folder: Path) -> Path | None:
    """The wheel in a cache folder, where it is whole."""
    manifest = folder / "manifest.json"
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        wheel = folder / str(told["wheel"])
        whole = sha256_of(wheel) == told["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return wheel if whole else None


def sha256_of(path: Path) -> str:
    """The hash of a file of moderate size."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep(wheel: Path, made_of: Ingredients, folder: Path) -> Path:
    """Put a wheel into the cache: written aside, then renamed, so that nobody ever sees half of one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as name:
        aside = Path(name) / "new"
        aside.mkdir()
        shutil.copy2(wheel, aside / wheel.name)
        manifest = {"wheel": wheel.name, "sha256": sha256_of(wheel), "ingredients": vars(made_of)}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(name) / "old")
        try:
            aside.rename(folder)
        except OSError:
            # Another clone was faster by a moment; its wheel is made of the same.
            if cached_wheel(folder) is None:
                raise
    return folder / wheel.name


def fetch_sdist(python: Path, log: Path) -> Path:
    """Horovod's sources from the cache, else from the package index pip is configured for; hash checked."""
    pinned = release()
    kept = cache_folder() / pinned.sdist_name
    if kept.is_file() and sha256_of(kept) == pinned.sha256:
        return kept
    say(f"downloading Horovod {pinned.version}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=kept.parent) as folder:
        command: list[str | Path] = [
            python, "-m", "pip", "download", "--no-deps", "--no-binary", "horovod", "--no-build-isolation",
            "--require-hashes", "-r", REQUIREMENT, "-d", folder,
        ]  # fmt: skip
        try:
            run_logged(command, log, child_environment(python.parent))
        except CommandError as error:
            raise SetupError(
                f"Horovod {pinned.version} could not be downloaded ({error}): check the network and pip's "
                f"configuration, or put {pinned.sdist_name} into {kept.parent}. The end of {log}:\n"
                f"{last_lines(log)}"
            ) from error
        fetched = Path(folder) / pinned.sdist_name
        if not fetched.is_file() or sha256_of(fetched) != pinned.sha256:
            raise SetupError(f"the Horovod that was downloaded is not the one pinned in {REQUIREMENT}")
        fetched.replace(kept)
    return kept


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the sources and patch them; returns their folder."""
    with tarfile.open(sdist) as archive:
        # Pythons before 3.10.12 have no filters; the hash of the archive is known.
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    sources = folder / sdist.name.removesuffix(".tar.gz")
    hunks = unified_diff.apply(release().patch.read_text(encoding="utf-8"), sources)
    say(f"patched Horovod's sources ({hunks} hunks of {release().patch.name})")
    return sources


def parallel_jobs() -> int:
    """Compilers to run at once: one a core, and 2 GiB of memory for each."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            memory = int(line.split()[1]) * 1024
    return max(1, min(cores, memory // (2 * GIB)))


def run_path(mpi: Mpi, nccl: Nccl | None) -> str:
    """Where Horovod's extension finds its libraries, as CMake's list, relative to itself where it can be."""
    # site-packages/horovod/torch, so four folders up is the environment's lib.
    mpi_folders = ["$ORIGIN/../../../.."] if mpi.kind == "wheel" else list(mpi.library_folders)
    nccl_folders = ["$ORIGIN/../../nvidia/nccl/lib"] if nccl is not None else []
    return ";".join([*mpi_folders, "$ORIGIN/../../torch/lib", *nccl_folders])


def build_variables(
    mpi: Mpi, compiler: list[str], nccl: Nccl | None, nccl_home: Path | None
) -> dict[str, str]:
    """The environment variables that tell Horovod's build what to do."""
    variables = {
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_RPATH": run_path(mpi, nccl),
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # CMake 4 refuses what Horovod's third-party sources ask for
        "CXX": " ".join(compiler),
        "MAKEFLAGS": f"-j{parallel_jobs()}",
    }
    if nccl is None or nccl_home is None:
        return variables | {"HOROVOD_WITHOUT_GPU": "1", "HOROVOD_WITHOUT_NVTX": "1"}
    home = str(nccl.cuda.home)
    return variables | {
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_NCCL_HOME": str(nccl_home),
        "HOROVOD_BUILD_CUDA_CC_LIST": nccl.architectures,
        "HOROVOD_CUDA_HOME": home,
        "CUDA_HOME": home,
        "CUDAToolkit_ROOT": home,
        "CUDACXX": str(nccl.cuda.home / "bin" / "nvcc"),
    }


def unpack_nccl(nccl: Nccl, python: Path, folder: Path, log: Path) -> Path:
    """NCCL's header and library in a folder of their own; returns what HOROVOD_NCCL_HOME is to be."""
    if os.environ.get("HOROVOD_NCCL_HOME"):
        return Path(nccl.requirement)
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--target",
        folder,
        nccl.requirement,
    ]
    run_logged(command, log, child_environment(python.parent))
    home = folder / "nvidia" / "nccl"
    # The linker looks for the name without a version, which the wheel leaves out.
    plain = home / "lib" / "libnccl.so"
    if not plain.exists():
        plain.symlink_to("libnccl.so.2")
    return home


def wrap_mpi(venv: Path, link: Path, folder: Path) -> None:
    """Put stand-ins for ``mpicxx``, ``mpicc`` and ``mpiexec`` into ``folder``.

    The wheel's wrappers look through symbolic links and tell CMake the real path; the stand-ins say ``link``.
    CMake takes the wrappers beside the first ``mpiexec`` and only asks them for their options.
    """
    folder.mkdir()
    real, fake = (shlex.quote(str(path)) for path in (venv, link))
    replace = shlex.quote("import sys; print(sys.argv[1].replace(sys.argv[2], sys.argv[3]))")
    scripts = {"mpiexec": f'exec {fake}/bin/mpiexec "$@"\n'}
    for wrapper in ("mpicxx", "mpicc"):
        scripts[wrapper] = (
            f'told=$({fake}/bin/{wrapper} "$@") || exit\n'
            f'exec {fake}/bin/python -c {replace} "$told" {real} {fake}\n'
        )
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
        (folder / name).chmod(0o755)


def build(
    venv: Path, mpi: Mpi, compiler: list[str], nccl: Nccl | None, made_of: Ingredients, log: Path
) -> Path:
    """Build the wheel in a temporary folder and keep it; returns its place in the cache."""
    with tempfile.TemporaryDirectory(prefix="lsgd-horovod-") as name:
        folder = Path(name)
        # Compilers and CMake are not safe with a blank in a path, and the user's folder may have one.
        link = folder / "env"
        link.symlink_to(venv, target_is_directory=True)
        python = link / "bin" / "python"
        if mpi.kind == "wheel":
            wrap_mpi(venv, link, folder / "bin")
        sources = unpack(fetch_sdist(python, log), folder)
        say("building Horovod: 3 to 7 minutes on two cores" + (", a little more with NCCL" if nccl else ""))
        say(f"the compiler's output goes to {log}")
        try:
            nccl_home = unpack_nccl(nccl, python, folder / "nccl", log) if nccl is not None else None
            variables = build_variables(mpi, compiler, nccl, nccl_home)
            command: list[str | Path] = [
                python,
                "-m",
                "pip",
                "wheel",
                "-v",
                "--no-deps",
                "--no-build-isolation",
            ]
            environment = child_environment(folder / "bin", python.parent, **variables)
            run_logged([*command, "--no-clean", "-w", folder / "out", sources], log, environment)
        except CommandError as error:
            raise SetupError(
                f"Horovod could not be built ({error}). All output is in {log}:\n{first_errors(log)}"
            ) from error
        wheels = sorted((folder / "out").glob("horovod-*.whl"))
        return keep(wheels[0], made_of, cache_folder() / made_of.key())
