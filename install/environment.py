"""Make ``.venv``: PyTorch, MPI, Horovod built for both, this package, and the development tools.

Standard library only, since nothing else is there yet. ``bin/setup`` starts it. Each step says what it does;
a second run finds the stamp of the first and ends at once.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import horovod_wheel
from console import (
    EXIT_ENVIRONMENT,
    CommandError,
    SetupError,
    child_environment,
    last_lines,
    output_of,
    say,
)
from options import Options, Request, parse
from packages import Packages, Tree, installed_versions
from probes import (
    Mpi,
    check_platform,
    check_python,
    compiler_version,
    describe_mpi,
    find_compiler,
    find_cuda,
    find_system_mpicxx,
    has_gpu,
    linked_libraries,
    loaded_libraries,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def digest(tree: Tree, options: Options) -> str:
    """A hash over the options and every file of the project that decides what is installed."""
    folder = tree.root / "install"
    files = sorted(file for ending in ("py", "txt", "patch") for file in folder.glob(f"*.{ending}"))
    files.append(tree.root / "setup.py")
    parts = [
        json.dumps(vars(options), sort_keys=True),
        str(tree.root),
        ".".join(map(str, sys.version_info[:2])),
    ]
    parts += [f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_stamp(tree: Tree) -> dict[str, object]:
    """What the last finished set-up wrote, or nothing."""
    try:
        told = json.loads(tree.stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def last_options(stamp: Mapping[str, object]) -> Options | None:
    """The options of the last finished set-up."""
    told = stamp.get("options")
    if not isinstance(told, dict):
        return None
    try:
        return Options(**told)
    except TypeError:  # written by another version of this file
        return None


def is_current(tree: Tree, options: Options, stamp: Mapping[str, object]) -> bool:
    """Whether the stamp is for the same request and everything it lists is still installed."""
    if tree.unfinished.exists() or stamp.get("digest") != digest(tree, options):
        return False
    if options.system_mpi and stamp.get("mpi") != vars_of(describe_system_mpi(tree)):
        return False
    wanted = stamp.get("versions")
    return isinstance(wanted, dict) and bool(wanted) and wanted.items() <= installed_versions(tree).items()


def vars_of(mpi: Mpi) -> dict[str, object]:
    """An MPI's description as JSON gives it back."""
    return dict(json.loads(json.dumps(vars(mpi))))


def describe_system_mpi(tree: Tree) -> Mpi:
    """The MPI on the PATH."""
    return describe_mpi(find_system_mpicxx(), tree.venv, "system")


def make_venv(tree: Tree, anew: bool) -> None:
    """Make .venv, unless a whole one of this Python is there."""
    told = output_of(
        [tree.python, "-c", "import sys, pip; print(*sys.version_info[:3])"], child_environment()
    )
    whole = told is not None and told.split() == [str(part) for part in sys.version_info[:3]]
    if whole and not anew and not tree.unfinished.exists():
        return
    if tree.venv.exists() and any(tree.venv.iterdir() if tree.venv.is_dir() else ()):
        say("making .venv anew: the one that is there is unfinished, of another Python, or no longer wanted")
    else:
        say(f"making .venv with Python {'.'.join(map(str, sys.version_info[:3]))}")
    # The log lies inside .venv, which is about to be emptied, so this step's output is kept in memory.
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(tree.venv)],
        capture_output=True, text=True, env=child_environment(), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SetupError(
            f"{sys.executable} could not make {tree.venv} ({' '.join(complaint)}): "
            "Debian and Ubuntu need apt-get install python3-venv; check also that the folder can be written"
        )


def install_packages(tree: Tree, options: Options, packages: Packages) -> None:
    """Install all that comes ready-made."""
    say("installing PyTorch, MPI and the tools (about 3 GB to download the first time)")
    arguments = [part for file in tree.requirements(options) for part in ("-r", file)]
    tree.unfinished.touch()
    try:
        packages.install(*arguments)
    except CommandError as error:
        raise SetupError(
            f"the packages could not be installed ({error}): check the network and pip's configuration. "
            f"The end of {tree.log}:\n{last_lines(tree.log)}"
        ) from error
    tree.unfinished.unlink()


def torch_facts(tree: Tree) -> dict[str, str]:
    """Import torch and torchvision once; returns what the Horovod build depends on."""
    program = (
        "import json, platform, sysconfig, torch\n"
        "facts = {'version': torch.__version__, 'cuda': torch.version.cuda or '', 'vision': '',\n"
        "         'cxx11_abi': str(torch.compiled_with_cxx11_abi()),\n"
        "         'python': sysconfig.get_config_var('SOABI') or '',\n"
        "         'platform': ' '.join([sysconfig.get_platform(), *platform.libc_ver()])}\n"
        "try:\n"
        "    import torchvision\n"
        "except Exception as error:\n"
        "    facts['vision'] = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)\n"
        "print('\\n' + json.dumps(facts))\n"
    )
    told = output_of([tree.python, "-c", program], child_environment())
    if told is None:
        raise SetupError(
            f"torch cannot be imported: see `{tree.python} -c 'import torch'`, or try bin/setup --rebuild"
        )
    facts: dict[str, str] = json.loads(told.splitlines()[-1])
    if facts["vision"]:
        raise SetupError(
            f"torchvision cannot be imported beside torch {facts['version']} ({facts['vision']}): one is "
            "a CPU and the other a CUDA build; let pip and uv find both in one place (no extra index that "
            "has a CPU-only torch without its torchvision), then bin/setup --rebuild"
        )
    return facts


def choose_nccl(options: Options, torch_cuda: str) -> horovod_wheel.Nccl | None:
    """The NCCL build to make, None for one without; an impossible ``--nccl yes`` is an error."""
    if options.nccl == "no" or (options.nccl == "auto" and not has_gpu()):
        return None
    cuda = find_cuda()
    plan: horovod_wheel.Nccl | str = "no CUDA toolkit with nvcc was found; CUDA_HOME can name one"
    if cuda is not None:
        plan = horovod_wheel.plan_nccl(cuda, torch_cuda or None)
    if isinstance(plan, horovod_wheel.Nccl):
        return plan
    if options.nccl == "yes":
        raise SetupError(f"--nccl yes is not possible here: {plan}")
    say(f"a GPU is here, but Horovod will be built without NCCL, so transfers go through host memory: {plan}")
    return None


def install_horovod(
    tree: Tree, packages: Packages, made_of: horovod_wheel.Ingredients, mpi: Mpi,
    compiler: list[str], nccl: horovod_wheel.Nccl | None, rebuild: bool,
) -> None:  # fmt: skip
    """Install Horovod's wheel from the cache, building it first where it is not there."""
    folder = horovod_wheel.cache_folder() / made_of.key()
    wheel = None if rebuild else horovod_wheel.cached_wheel(folder)
    if wheel is not None:
        say(f"Horovod {made_of.horovod} is in the cache ({folder})")
    else:
        started = time.monotonic()
        wheel = horovod_wheel.build(tree.venv, mpi, compiler, nccl, made_of, tree.log)
        say(f"built Horovod in {time.monotonic() - started:.0f} s and kept it in {folder}")
    packages.install("--no-deps", "--force-reinstall", wheel)


def fit_mpi4py(tree: Tree, packages: Packages, mpi: Mpi) -> None:
    """With a system MPI, build mpi4py against it where its ready-made wheel does not find that MPI."""
    if mpi.kind == "wheel":
        return
    told = loaded_libraries(tree.python, ["mpi4py.MPI"])
    if not told["error"] and told["mpi"] in linked_libraries(mpi):
        return
    say("mpi4py's wheel does not find this MPI: building mpi4py from its sources (some minutes)")
    constraints = tree.root / "install" / "requirements.txt"
    packages.install_with_pip(
        "--no-binary",
        "mpi4py",
        "--no-cache-dir",
        "--force-reinstall",
        "--no-deps",
        "-c",
        constraints,
        "mpi4py",
    )


def check_one_mpi(tree: Tree) -> None:
    """mpi4py and Horovod, each imported alone, must load the same file of libmpi."""
    with ThreadPoolExecutor() as both:
        mpi4py, horovod = both.map(
            lambda name: loaded_libraries(tree.python, [name]), ["mpi4py.MPI", "horovod.torch"]
        )
    for name, told in (("mpi4py", mpi4py), ("Horovod", horovod)):
        if told["error"]:
            raise SetupError(
                f"{name} is installed but cannot be imported ({told['error']}): try bin/setup --rebuild"
            )
    if mpi4py["mpi"] != horovod["mpi"]:
        raise SetupError(
            f"mpi4py uses {mpi4py['mpi'] or 'no MPI'} and Horovod {horovod['mpi'] or 'no MPI'}, but they "
            "must use the same: unset LD_LIBRARY_PATH and MPI4PY_LIBMPI, or load one MPI module only and run "
            "bin/setup --system-mpi --rebuild"
        )
    say(f"mpi4py and Horovod share {mpi4py['mpi']}")


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Keep a second set-up of the same folder waiting until the first is done."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another bin/setup is at work in this folder: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            say(f"this file system has no locks ({error.strerror}): run one bin/setup at a time")
        yield
    finally:
        os.close(handle)


def set_up(tree: Tree, request: Request) -> None:
    """All the steps, in their order."""
    started = time.monotonic()
    stamp = read_stamp(tree)
    before = last_options(stamp)
    options = request.options(before)
    if not request.rebuild and is_current(tree, options, stamp):
        say(".venv is up to date")
        return
    check_python()
    compiler = find_compiler()
    system_mpi = describe_system_mpi(tree) if options.system_mpi else None
    if options.nccl == "yes" and find_cuda() is None:
        raise SetupError(
            "--nccl yes needs a CUDA toolkit with nvcc: install one, or set CUDA_HOME to its folder"
        )

    moved = stamp.get("root", str(tree.root)) != str(tree.root)
    other_mpi = before is not None and before.system_mpi != options.system_mpi
    make_venv(tree, anew=request.rebuild or moved or other_mpi)
    tree.stamp.unlink(missing_ok=True)
    packages = Packages(tree)
    install_packages(tree, options, packages)
    torch = torch_facts(tree)
    mpi = system_mpi or describe_mpi(tree.venv / "bin" / "mpicxx", tree.venv, "wheel")
    nccl = choose_nccl(options, torch["cuda"])
    made_of = horovod_wheel.ingredients(torch, mpi, compiler_version(compiler), nccl)
    try:
        fit_mpi4py(tree, packages, mpi)
        install_horovod(tree, packages, made_of, mpi, compiler, nccl, request.rebuild)
        say("installing lsgd_mpi itself, editable")
        packages.install("--no-deps", "--no-build-isolation", "-e", tree.root)
    except CommandError as error:
        raise SetupError(f"{error}. The end of {tree.log}:\n{last_lines(tree.log)}") from error
    check_one_mpi(tree)
    write_stamp(tree, options, mpi, made_of)
    say(f"done in {time.monotonic() - started:.0f} s: `source .venv/bin/activate`, bin/demo or bin/test")


def write_stamp(tree: Tree, options: Options, mpi: Mpi, made_of: horovod_wheel.Ingredients) -> None:
    """Note what was made, for the next run; renamed into place, so it is whole or not there."""
    stamp = {
        "digest": digest(tree, options),
        "root": str(tree.root),
        "options": vars(options),
        "mpi": vars(mpi),
        "horovod": vars(made_of),
        "versions": installed_versions(tree),
    }
    aside = tree.stamp.with_suffix(".new")
    aside.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    aside.replace(tree.stamp)


def main(arguments: Sequence[str]) -> int:
    """Run the set-up; returns the exit code."""
    request = parse(arguments)
    try:
        check_platform()
        if shutil.disk_usage(ROOT).free < 8 * horovod_wheel.GIB and not (ROOT / ".venv").exists():
            say("less than 8 GiB are free here, and PyTorch with its CUDA libraries takes most of that")
        with only_one(ROOT):
            set_up(Tree(ROOT), request)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except OSError as error:
        print(f"setup: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except KeyboardInterrupt:
        print("setup: interrupted; bin/setup goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
