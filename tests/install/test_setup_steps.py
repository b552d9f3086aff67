"""The steps of the set-up, one by one."""

import importlib.util
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import console
import environment
import fashion_mnist
import horovod_wheel
import options
import packages
import probes
import pytest
import unified_diff

pytestmark = pytest.mark.timeout(60)

MADE_OF = horovod_wheel.Ingredients(
    horovod="0.28.1",
    patch_sha256="0" * 64,
    torch="2.15.0+cu132",
    cxx11_abi=True,
    python="cpython-311-x86_64-linux-gnu",
    platform="linux-x86_64 glibc 2.36",
    mpi_kind="wheel",
    mpi_version="mpirun (Open MPI) 5.0.11",
    mpi_wrapper="c++ -I<venv>/include -L<venv>/lib -lmpi",
    compiler="c++ 12.2.0",
    nccl="none",
)


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """Horovod's sources, unpacked and patched."""
    folder = tmp_path_factory.mktemp("horovod")
    try:
        sdist = horovod_wheel.fetch_sdist(Path(sys.executable), folder / "log")
    except console.SetupError as error:
        pytest.skip(f"neither cached nor to be downloaded: {error}")
    return horovod_wheel.unpack(sdist, folder)


# The patch


def test_patch_says_what_each_file_needs():
    text = horovod_wheel.release().patch.read_text()
    header = text[: text.index("\n--- ")]
    for file in unified_diff.parse(text):
        described = header[header.index(f"{file.path}\n") :].splitlines()[1:]
        numbers = [
            line.strip()[0] for line in described if line.startswith("  ") and line.strip()[0].isdigit()
        ]
        assert numbers[: len(file.hunks)] == [str(number + 1) for number in range(len(file.hunks))]


def test_every_hunk_fits_the_sdist(patched):
    assert "CMAKE_CXX_STANDARD 20" in (patched / "CMakeLists.txt").read_text()
    assert 'if(NOT "$ENV{HOROVOD_WITHOUT_GPU}"' in (patched / "CMakeLists.txt").read_text()
    assert "HOROVOD_WITHOUT_GPU" in (patched / "cmake/Modules/FindPytorch.cmake").read_text()
    torch = (patched / "horovod/torch/CMakeLists.txt").read_text()
    assert "CMAKE_CXX_STANDARD 20" in torch
    assert 'INSTALL_RPATH "$ENV{HOROVOD_RPATH}"' in torch
    runner = (patched / "horovod/runner/mpi_run.py").read_text()
    assert "'--bind-to none', '--map-by slot'" in runner
    assert "'-bind-to" not in runner


def test_patch_does_not_fit_twice(patched):
    before = {file: file.read_bytes() for file in patched.rglob("CMakeLists.txt")}
    with pytest.raises(unified_diff.PatchError, match=r"hunk 1 does not fit CMakeLists\.txt"):
        unified_diff.apply(horovod_wheel.release().patch.read_text(), patched)
    assert {file: file.read_bytes() for file in before} == before


DIFF = "why\n--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2b\n three\n@@ -5 +6 @@\n-five\n+5\n"


def test_diff_is_applied_at_its_lines(tmp_path):
    (tmp_path / "x").write_text("one\ntwo\nthree\nfour\nfive\n")
    assert unified_diff.apply(DIFF, tmp_path) == 2
    assert (tmp_path / "x").read_text() == "one\n2\n2b\nthree\nfour\n5\n"


@pytest.mark.parametrize(
    "content", ["one\ntwo\nthree\nfour\nFIVE\n", "zero\none\ntwo\nthree\nfour\nfive\n", ""]
)
def test_diff_that_does_not_fit_changes_nothing(tmp_path, content):
    (tmp_path / "x").write_text(content)
    with pytest.raises(unified_diff.PatchError):
        unified_diff.apply(DIFF, tmp_path)
    assert (tmp_path / "x").read_text() == content


@pytest.mark.parametrize("diff", ["", "only words\n", DIFF[:-4], DIFF + "stray\n", "--- a/x\n+++ b/x\n"])
def test_broken_diff_is_refused(diff):
    with pytest.raises(unified_diff.PatchError):
        unified_diff.parse(diff)


# The cache


@pytest.mark.parametrize("name", [field.name for field in fields(horovod_wheel.Ingredients)])
def test_key_changes_with_each_ingredient(name):
    value = getattr(MADE_OF, name)
    other = (not value) if isinstance(value, bool) else value + "x"
    assert replace(MADE_OF, **{name: other}).key() != MADE_OF.key()


def test_key_is_the_same_for_the_same():
    assert replace(MADE_OF).key() == MADE_OF.key()


def test_wheel_is_kept_whole_or_not_at_all(tmp_path):
    wheel = tmp_path / "horovod-0.28.1-any.whl"
    wheel.write_bytes(b"content")
    folder = tmp_path / "cache" / MADE_OF.key()
    kept = horovod_wheel.keep(wheel, MADE_OF, folder)
    assert horovod_wheel.cached_wheel(folder) == kept
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "something is left beside it"

    kept.write_bytes(b"cont")
    assert horovod_wheel.cached_wheel(folder) is None, "half a wheel was taken"

    horovod_wheel.keep(wheel, MADE_OF, folder)
    assert horovod_wheel.cached_wheel(folder) == kept, "a broken wheel was not replaced"


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"wheel": "absent.whl", "sha256": ""}'])
def test_broken_cache_folder_counts_as_empty(tmp_path, manifest):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    assert horovod_wheel.cached_wheel(tmp_path) is None


def test_cache_folder_follows_the_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert horovod_wheel.cache_folder() == tmp_path / "lsgd_mpi" / "horovod"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert horovod_wheel.cache_folder() == Path.home() / ".cache" / "lsgd_mpi" / "horovod"


# The build


SYSTEM_MPI = probes.Mpi("system", "mpirun 4", "c++", ("/opt/mpi/lib",))
WHEEL_MPI = probes.Mpi("wheel", "mpirun 5", "c++", ("/first/env/lib",))


def test_run_path_of_the_wheel_names_no_environment():
    assert horovod_wheel.run_path(WHEEL_MPI, None) == "$ORIGIN/../../../..;$ORIGIN/../../torch/lib"
    assert horovod_wheel.run_path(SYSTEM_MPI, None).split(";")[0] == "/opt/mpi/lib"


def test_build_without_gpu_ignores_cuda():
    variables = horovod_wheel.build_variables(WHEEL_MPI, ["g++"], None, None)
    assert variables["HOROVOD_WITHOUT_GPU"] == "1"
    assert not any("CUDA" in name or "NCCL" in name for name in variables)


def test_jobs_are_bounded_by_memory(monkeypatch):
    monkeypatch.setattr(horovod_wheel.os, "sched_getaffinity", lambda _: range(1000))
    jobs = horovod_wheel.parallel_jobs()
    assert 1 <= jobs < 1000


@pytest.mark.parametrize(
    ("cuda", "torch_cuda", "words"),
    [("13.0", None, "CPU build"), ("12.8", "13.2", "12.8"), ("12.8", "12.8", "HOROVOD_NCCL_HOME")],
)
def test_impossible_nccl_says_why(monkeypatch, cuda, torch_cuda, words):
    monkeypatch.delenv("HOROVOD_NCCL_HOME", raising=False)
    plan = horovod_wheel.plan_nccl(probes.Cuda(Path("/cuda"), cuda), torch_cuda)
    assert isinstance(plan, str)
    assert words in plan


def test_nccl_plan(monkeypatch):
    monkeypatch.delenv("HOROVOD_NCCL_HOME", raising=False)
    plan = horovod_wheel.plan_nccl(probes.Cuda(Path("/cuda"), "13.0"), "13.2")
    assert isinstance(plan, horovod_wheel.Nccl)
    variables = horovod_wheel.build_variables(WHEEL_MPI, ["g++"], plan, Path("/nccl"))
    assert variables["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert "HOROVOD_WITHOUT_GPU" not in variables


def test_failed_build_shows_its_first_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("$ first\nan error: of before\n")
    environment = console.child_environment()
    program = (
        "import sys; print('CC=cc -Wno-error: x'); print('a.cc:1: error: no bit_width');"
        "print('y\\n' * 99); sys.exit(4)"
    )
    with pytest.raises(console.CommandError, match="ended with code 4"):
        console.run_logged([sys.executable, "-c", program], log, environment)
    shown = console.first_errors(log).splitlines()
    assert shown[0].strip() == "a.cc:1: error: no bit_width"
    assert len(shown) <= 30


def test_mpicxx_in_a_folder_with_a_blank_is_told_to_cmake_without(tmp_path):
    venv = tmp_path / "a b" / ".venv"
    (venv / "bin").mkdir(parents=True)
    link = tmp_path / "env"
    link.symlink_to(venv)
    (venv / "bin" / "python").symlink_to(sys.executable)
    mpicxx = venv / "bin" / "mpicxx"
    mpicxx.write_text(f"#!/bin/sh\necho 'c++ -I{venv}/include -L{venv}/lib'; [ \"$1\" = -showme ]\n")
    mpicxx.chmod(0o755)
    horovod_wheel.wrap_mpi(venv, link, tmp_path / "bin")
    wrapped = tmp_path / "bin" / "mpicxx"
    assert console.output_of([wrapped, "-showme"]) == f"c++ -I{link}/include -L{link}/lib"
    assert console.output_of([wrapped, "-wrong"]) is None


def test_linked_library_is_the_file_behind_the_links(tmp_path):
    """Debian's wrapper names a folder with a link out of it."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "libmpi.so.40.1").touch()
    (tmp_path / "lib" / "libmpi.so").symlink_to(tmp_path / "libmpi.so.40.1")
    mpi = replace(SYSTEM_MPI, library_folders=("/no/such", str(tmp_path / "lib")))
    assert probes.linked_libraries(mpi) == {str((tmp_path / "libmpi.so.40.1").resolve())}


def test_library_folders_of_a_wrapper():
    shown = "gcc -I/i -L/opt/lib -Wl,-rpath -Wl,/opt/lib -Wl,-rpath,/other -Wl,--enable-new-dtags -lmpi"
    assert probes.library_folders(shown) == ("/opt/lib", "/other")


# What was installed


made_by_setup = pytest.mark.skipif(
    not (Path(sys.prefix) / "setup.json").exists(),
    reason="this Python's environment was not made by bin/setup",
)


@made_by_setup
def test_installed_horovod_finds_its_libraries_anywhere():
    if environment.read_stamp(packages.Tree(Path(sys.prefix).parent))["mpi"]["kind"] == "system":
        pytest.skip("a system's MPI stays where it is")
    spec = importlib.util.find_spec("horovod")
    library = next((Path(spec.origin).parent / "torch").glob("mpi_lib_v2*.so")).read_bytes()
    place = library.index(b"$ORIGIN/")
    run_path = library[library.rindex(b"\0", 0, place) + 1 : library.index(b"\0", place)].decode()
    assert run_path.split(":")[:2] == ["$ORIGIN/../../../..", "$ORIGIN/../../torch/lib"]
    assert all(folder.startswith("$ORIGIN/") for folder in run_path.split(":"))


@made_by_setup
def test_horovodrun_starts_ranks_with_plain_options():
    """Open MPI 5 takes options with one dash for the program to start."""
    from horovod.runner import mpi_run

    assert mpi_run._NO_BINDING_ARGS == ["--bind-to none", "--map-by slot"]
    assert all(word.startswith("--") for word in mpi_run._SOCKET_BINDING_ARGS)
    command = [Path(sys.executable).parent / "horovodrun", "-np", "2", sys.executable, "-c"]
    program = "from mpi4py import MPI; print('ranks:', MPI.COMM_WORLD.size)"
    done = subprocess.run(
        [*map(str, command), program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=console.child_environment(
            Path(sys.executable).parent, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"
        ),
    )
    assert done.stdout.count("ranks: 2") == 2, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        (
            {"mpi4py.MPI": ("", "/a/libmpi.so"), "horovod.torch": ("", "/b/libmpi.so")},
            ["/a/libmpi.so", "/b/"],
        ),
        ({"mpi4py.MPI": ("no libmpi", ""), "horovod.torch": ("", "/b/libmpi.so")}, ["mpi4py", "no libmpi"]),
        ({"mpi4py.MPI": ("", "/a/libmpi.so"), "horovod.torch": ("", "")}, ["no MPI"]),
    ],
)
def test_two_mpi_libraries_are_refused(monkeypatch, tmp_path, loaded, words):
    def load(_python, imports):
        error, library = loaded[next(iter(imports))]
        return {"error": error, "mpi": library}

    monkeypatch.setattr(environment, "loaded_libraries", load)
    with pytest.raises(console.SetupError) as caught:
        environment.check_one_mpi(packages.Tree(tmp_path))
    assert all(word in str(caught.value) for word in words)
    assert "--" in str(caught.value), "no remedy"


def test_loaded_libraries_tell_of_a_failed_import():
    told = probes.loaded_libraries(Path(sys.executable), ["json", "no_such_module"])
    assert "no_such_module" in told["error"]


def test_broken_torchvision_is_one_sentence(monkeypatch, tmp_path):
    facts = '{"version": "2.13.0+cpu", "vision": "operator torchvision::nms does not exist"}'
    monkeypatch.setattr(environment, "output_of", lambda *_: facts)
    with pytest.raises(console.SetupError, match="torchvision::nms") as caught:
        environment.torch_facts(packages.Tree(tmp_path))
    assert "\n" not in str(caught.value)


# When a set-up is repeated


def test_options_are_those_of_the_last_set_up_only_with_again():
    last = options.Options(system_mpi=True, nccl="no", dev=False)
    assert options.parse([]).options(last) == options.Options()
    assert options.parse(["--again"]).options(last) == last
    assert options.parse(["--again", "--dev"]).options(last) == replace(last, dev=True)
    assert options.parse(["--again"]).options(None) == options.Options()


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "install").mkdir()
    (tmp_path / "install" / "requirements.txt").write_text("torch\n")
    (tmp_path / "setup.py").write_text("")
    (tmp_path / ".venv").mkdir()
    return packages.Tree(tmp_path)


def test_set_up_is_current_until_something_changes(monkeypatch, tree):
    installed = {"torch": "2.15.0", "horovod": "0.28.1", "own": "1"}
    monkeypatch.setattr(environment, "installed_versions", lambda _: dict(installed))
    wanted = options.Options()
    environment.write_stamp(tree, wanted, WHEEL_MPI, MADE_OF)
    stamp = environment.read_stamp(tree)
    assert environment.last_options(stamp) == wanted
    assert environment.is_current(tree, wanted, stamp)
    assert not environment.is_current(tree, options.Options(dev=False), stamp)

    installed["torch"] = "2.14.0"
    assert not environment.is_current(tree, wanted, stamp), "a package was replaced"
    installed |= {"torch": "2.15.0", "more": "1"}
    assert environment.is_current(tree, wanted, stamp), "a package of the user's own is no matter"

    (tree.root / "install" / "requirements.txt").write_text("torch<3\n")
    assert not environment.is_current(tree, wanted, stamp), "the requirements changed"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"options": {"unknown": 1}}'])
def test_broken_stamp_is_no_stamp(tree, content):
    tree.stamp.write_text(content)
    stamp = environment.read_stamp(tree)
    assert environment.last_options(stamp) is None
    assert not environment.is_current(tree, options.Options(), stamp)


def test_half_made_venv_is_made_anew(tree, capsys):
    (tree.venv / "bin").mkdir()
    (tree.venv / "bin" / "python").write_text("")
    environment.make_venv(tree, anew=False)
    assert (tree.venv / "bin" / "pip").exists()
    assert "anew" in capsys.readouterr().out

    kept = tree.venv / "kept"
    kept.touch()
    environment.make_venv(tree, anew=False)
    assert kept.exists(), "a whole environment was thrown away"

    tree.unfinished.touch()
    environment.make_venv(tree, anew=False)
    assert not kept.exists(), "packages may be halves, and were kept"


# The demo's data


def test_asking_a_silent_server_ends_soon(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not fashion_mnist.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_fashion_mnist_in_the_cache_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "fetch_debian_package", lambda: False)
    monkeypatch.setattr(fashion_mnist, "fetch_with_torchvision", lambda: False)
    raw = tmp_path / "lsgd_mpi" / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in fashion_mnist.FILES[1:]:
        (raw / f"{name}.gz").touch()
    assert fashion_mnist.find_or_fetch() is None, "one of the four is missing"
    (raw / fashion_mnist.FILES[0]).touch()
    assert fashion_mnist.find_or_fetch() == raw
