"""Files of the data sets: found, read, refused when broken."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import socket
import tarfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import torchvision
from image_samples import CIFAR_FILES, IDX_FILES, cifar_batch, random_images, write_cifar, write_idx

from lsgd_mpi.data import datasets, idx, load, prepare
from lsgd_mpi.errors import DataError, UsageError

GREY = (random_images(20, 1, 28, 28, seed=1), random_images(7, 1, 28, 28, seed=2))
COLOUR = (random_images(23, 3, 32, 32, seed=1), random_images(7, 3, 32, 32, seed=2))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for data sets instead of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lsgd_mpi" / "data"


def assert_holds(dataset, parts):
    for read, written in zip((dataset.train, dataset.test), parts, strict=True):
        assert torch.equal(read.images, written.images)
        assert torch.equal(read.labels, written.labels)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "raw", "."])
def test_idx_files_are_found_and_read(tmp_path, folder, compress):
    write_idx(tmp_path / folder, *GREY, compress=compress)
    prepare("fashion-mnist", tmp_path, download=False)
    dataset = load("fashion-mnist", tmp_path)
    assert_holds(dataset, GREY)
    assert (dataset.classes, dataset.mean, dataset.std) == (10, (0.2860,), (0.3530,))


def test_idx_files_are_read_as_torchvision_does(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", *GREY)
    theirs = torchvision.datasets.MNIST(tmp_path, train=False)
    ours = load("mnist", tmp_path).test
    assert torch.equal(ours.images.squeeze(1), theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


def test_torchvisions_folder_comes_before_the_others(tmp_path):
    write_idx(tmp_path, *reversed(GREY))
    write_idx(tmp_path / "MNIST" / "raw", *GREY)
    assert_holds(load("mnist", tmp_path), GREY)


def test_the_cache_comes_before_the_systems_folder(tmp_path, cache, monkeypatch):
    fashion = replace(idx.FASHION_MNIST, system=(tmp_path / "system",))
    monkeypatch.setitem(datasets._LOAD, "fashion-mnist", lambda data_dir, _: fashion.load(data_dir))
    write_idx(tmp_path / "system", *GREY, compress=True)
    assert_holds(load("fashion-mnist"), GREY)
    write_idx(cache / "FashionMNIST" / "raw", *reversed(GREY))
    assert_holds(load("fashion-mnist"), GREY[::-1])


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir() and "FASHION_MNIST_DIR" not in os.environ,
    reason="no Fashion-MNIST: install dataset-fashion-mnist or set FASHION_MNIST_DIR",
)
def test_the_real_fashion_mnist():
    folder = os.environ.get("FASHION_MNIST_DIR")
    dataset = load("fashion-mnist", Path(folder) if folder else None)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert torch.equal(dataset.train.labels.bincount(), torch.full((10,), 6000))
    pixels = dataset.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(dataset.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(dataset.std[0], abs=1e-4)


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "."])
def test_cifar10_files_are_found_and_read(tmp_path, folder):
    write_cifar(tmp_path / folder, *COLOUR)
    prepare("cifar10", tmp_path, download=False)
    dataset = load("cifar10", tmp_path)
    assert_holds(dataset, COLOUR)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_cifar10_written_by_python_2(tmp_path):
    """The original files hold byte strings and numpy's old module names."""
    write_cifar(tmp_path, *COLOUR)
    for file in CIFAR_FILES:
        path = tmp_path / file
        content = path.read_bytes()
        assert b"numpy._core.multiarray" in content
        path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_holds(load("cifar10", tmp_path), COLOUR)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_say_what_where_and_what_to_do(tmp_path, cache, name):
    for data_dir in (tmp_path, None):
        for call in (lambda d=data_dir: load(name, d), lambda d=data_dir: prepare(name, d, download=False)):
            with pytest.raises(DataError, match="--data-dir") as caught:
                call()
            message = str(caught.value)
            assert str(data_dir or cache) in message
            assert ("test_batch" if name == "cifar10" else "t10k-labels-idx1-ubyte") in message
            assert "\n" not in message


@pytest.mark.parametrize("missing", IDX_FILES)
def test_three_of_four_files_are_missing_files(tmp_path, missing):
    write_idx(tmp_path, *GREY)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match="missing"):
        load("mnist", tmp_path)


BREAKAGES = {
    "empty": lambda content: content[:0],
    "header cut": lambda content: content[:6],
    "data cut": lambda content: content[:-1],
    "too long": lambda content: content + b"\0",
    "other magic": lambda content: b"\0\0\x0d" + content[3:],
    "huge size": lambda content: content[:4] + b"\xff" * 4 + content[8:],
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("file", IDX_FILES)
@pytest.mark.parametrize("how", BREAKAGES)
def test_broken_idx_files_are_named(tmp_path, file, how, compress):
    write_idx(tmp_path, *GREY, compress=compress)
    path = tmp_path / (f"{file}.gz" if compress else file)
    content = path.read_bytes()
    content = BREAKAGES[how](gzip.decompress(content) if compress else content)
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        load("mnist", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("how", ["cut", "flipped", "no blocks", "plain"])
def test_broken_compression_is_named(tmp_path, how):
    write_idx(tmp_path, *GREY, compress=True)
    path = tmp_path / f"{IDX_FILES[0]}.gz"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
            "no blocks": content[:10] + b"\xff" * 10 + content[20:],
            "plain": gzip.decompress(content),
        }[how]
    )
    with pytest.raises(DataError, match="cannot be read") as caught:
        load("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_wrong_contents_of_idx_files_are_named(tmp_path):
    write_idx(tmp_path / "size", random_images(5, 1, 28, 27), GREY[1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte holds images of 28x27"):
        load("mnist", tmp_path / "size")
    wrong_label = replace(GREY[0], labels=torch.full((20,), 10))
    write_idx(tmp_path / "label", wrong_label, GREY[1])
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte holds the label 10 where 0 to 9"):
        load("mnist", tmp_path / "label")
    write_idx(tmp_path / "count", *GREY)
    labels = tmp_path / "count" / IDX_FILES[3]
    labels.write_bytes((tmp_path / "count" / IDX_FILES[1]).read_bytes())
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte holds 20 labels for the 7"):
        load("mnist", tmp_path / "count")
    write_idx(tmp_path / "none", GREY[0], GREY[1].first(0))
    with pytest.raises(DataError, match="no images"):
        load("mnist", tmp_path / "none")


class Outsider:
    """What a stranger's pickle would call."""

    def __reduce__(self):
        return (os.getenv, ("HOME",))


def cifar_content(**changes: object) -> bytes:
    return pickle.dumps(cifar_batch(COLOUR[1]) | changes, protocol=2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOFError"),
        (cifar_content()[:5000], "truncated"),
        (b"\x00garbage", "Error"),
        (pickle.dumps([1, 2], protocol=2), "TypeError"),
        (pickle.dumps({"data": 1}, protocol=2), "KeyError"),
        (cifar_content(data=np.zeros((7, 3071), np.uint8)), "3071"),
        (cifar_content(data=np.zeros((7, 3072), np.float32)), "float32"),
        (cifar_content(labels=[1, 2]), "labels"),
        (cifar_content(labels=["cat"] * 7), "labels"),
        (cifar_content(labels=[0, 1, 2, -1, 4, 5, 6]), "label -1 where 0 to 9"),
        (cifar_content(labels=[0, 1, 2, 10, 4, 5, 6]), "label 10 where 0 to 9"),
        (cifar_content(extra=Outsider()), "refers to os.getenv"),
    ],
)
def test_broken_cifar10_files_are_named(tmp_path, content, reason):
    write_cifar(tmp_path, *COLOUR)
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load("cifar10", tmp_path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and the address at which a web server on this machine gives what is in it."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.fixture
def mnist_server(server, monkeypatch):
    """Small files where torchvision believes MNIST's to be."""
    folder, address = server
    write_idx(folder, *GREY, compress=True)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    resources = [(f"{file}.gz", md5(folder / f"{file}.gz")) for file in IDX_FILES]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    return folder


@pytest.mark.parametrize("given", [True, False])
def test_prepare_downloads_what_is_missing(tmp_path, cache, mnist_server, given):
    data_dir = tmp_path / "new" if given else None
    prepare("mnist", data_dir)
    assert_holds(load("mnist", data_dir), GREY)
    root = data_dir or cache
    left = sorted(path.name for path in root.rglob("*") if path.is_file())
    assert left == sorted(IDX_FILES)
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    (mnist_server / f"{IDX_FILES[0]}.gz").unlink()
    prepare("mnist", data_dir)


def test_a_failed_download_leaves_nothing_and_says_why(tmp_path, mnist_server):
    (mnist_server / f"{IDX_FILES[3]}.gz").write_bytes(b"not the file")
    with pytest.raises(DataError, match=r"could not be downloaded to .*--data-dir") as caught:
        prepare("mnist", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("mnist_server")
def test_a_folder_that_cannot_be_made_is_an_error_of_data(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not be downloaded"):
        prepare("mnist", tmp_path / "file" / "below")


def test_cifar10_is_downloaded_and_unpacked(tmp_path, server, monkeypatch):
    folder, address = server
    original = tmp_path / "cifar-10-batches-py"
    write_cifar(original, *COLOUR)
    (original / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(original, original.name)
    source = torchvision.datasets.CIFAR10
    sums = [[file, md5(original / file)] for file in CIFAR_FILES]
    monkeypatch.setattr(source, "train_list", sums[:5])
    monkeypatch.setattr(source, "test_list", sums[5:])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(original / "batches.meta")})
    monkeypatch.setattr(source, "tgz_md5", md5(archive))
    monkeypatch.setattr(source, "url", address + archive.name)
    prepare("cifar10", tmp_path / "new")
    assert_holds(load("cifar10", tmp_path / "new"), COLOUR)


@pytest.mark.usefixtures("mnist_server")
def test_loading_never_downloads(tmp_path):
    with pytest.raises(DataError):
        load("mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_limit_keeps_the_first_images(tmp_path):
    write_idx(tmp_path, *GREY)
    dataset = load("mnist", tmp_path, limit=9)
    assert_holds(dataset, (GREY[0].first(9), GREY[1]))
    with pytest.raises(UsageError, match="not 0"):
        load("mnist", tmp_path, limit=0)


def test_unknown_names_list_the_known_and_the_near():
    for call in (load, prepare):
        with pytest.raises(UsageError, match=r"'cifar-10': did you mean cifar10\?.*fashion-mnist, mnist"):
            call("cifar-10")
