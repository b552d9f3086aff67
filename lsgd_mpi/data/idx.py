"""MNIST and Fashion-MNIST, in the IDX format of http://yann.lecun.com/exdb/mnist.

The reader is our own: torchvision's takes no .gz files (Debian's package has those) and checks the
format with ``assert``, which says nothing of the file and vanishes under ``python -O``.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lsgd_mpi.data.images import Dataset, Images, checked_labels
from lsgd_mpi.data.locations import cache_dir, download, missing
from lsgd_mpi.errors import DataError

_CLASSES = 10
_SIDE = 28
_PARTS = ("train", "t10k")
_FILES = tuple(f"{part}-{kind}-ubyte" for part in _PARTS for kind in ("images-idx3", "labels-idx1"))
_DESCRIPTION = ", ".join(_FILES) + " (plain or .gz)"


@dataclass(frozen=True)
class IdxSet:
    """A data set of four IDX files with 28x28 grey images and ten classes."""

    name: str
    torchvision_class: str
    """Its class in torchvision.datasets, whose name is also a folder in torchvision's layout."""
    mean: float
    """Of the training pixels in [0, 1]."""
    std: float
    """Of the training pixels in [0, 1]."""
    system: tuple[Path, ...] = ()
    """Where the operating system's packages put it."""

    def folders(self, data_dir: Path | None) -> list[Path]:
        """Where the files are looked for, in this order."""
        raw = Path(self.torchvision_class) / "raw"
        if data_dir is None:
            return [cache_dir() / raw, *self.system]
        return [data_dir / raw, data_dir / "raw", data_dir]

    def prepare(self, data_dir: Path | None, allow_download: bool) -> None:
        """See ``lsgd_mpi.data.prepare``."""
        folders = self.folders(data_dir)
        if any(_found(folder) for folder in folders):
            return
        absent = missing(self.name, _DESCRIPTION, folders)
        if not allow_download:
            raise absent
        # Here, since it takes as long to load as torch itself.
        import torchvision

        source = getattr(torchvision.datasets, self.torchvision_class)
        files = [Path(self.torchvision_class) / "raw" / file for file in _FILES]
        root = data_dir or cache_dir()
        download(self.name, root, files, lambda folder: source(folder, download=True), absent)

    def load(self, data_dir: Path | None) -> Dataset:
        """Training and test images from the first folder that holds all four files."""
        folders = self.folders(data_dir)
        for folder in folders:
            files = _found(folder)
            if files:
                train, test = (_read_part(*files[i : i + 2]) for i in (0, 2))
                return Dataset(self.name, _CLASSES, train, test, (self.mean,), (self.std,))
        raise missing(self.name, _DESCRIPTION, folders)


FASHION_MNIST = IdxSet(
    "fashion-mnist", "FashionMNIST", 0.2860, 0.3530, (Path("/usr/share/datasets/fashion-mnist"),)
)
MNIST = IdxSet("mnist", "MNIST", 0.1307, 0.3081)


def _found(folder: Path) -> list[Path]:
    """The four files in ``folder`` in the order of ``_FILES``, or nothing when one is missing."""
    paths = []
    for file in _FILES:
        either = [path for path in (folder / file, folder / f"{file}.gz") if path.is_file()]
        paths += either[:1]
    return paths if len(paths) == len(_FILES) else []


def _read_part(images_file: Path, labels_file: Path) -> Images:
    pixels = read_idx(images_file, dimensions=3)
    if pixels.shape[1:] != (_SIDE, _SIDE):
        height, width = pixels.shape[1:]
        raise DataError(f"{images_file} holds images of {height}x{width}, not {_SIDE}x{_SIDE}")
    labels = checked_labels(read_idx(labels_file, dimensions=1), _CLASSES, labels_file)
    if len(labels) != len(pixels):
        raise DataError(f"{labels_file} holds {len(labels)} labels for the {len(pixels)} of {images_file}")
    return Images(pixels.unsqueeze(1), labels)


def read_idx(path: Path, *, dimensions: int) -> torch.Tensor:
    """The uint8 tensor with ``dimensions`` dimensions in the IDX file ``path``, plain or .gz.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each size as a
    big-endian 32-bit number, then the values. Raises DataError, naming the file, when it cannot be
    read or is anything else, too short or too long.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, str(error)) from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise _broken(path, f"no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if math.prod(shape) != len(content) - start:
        size = " x ".join(map(str, shape))
        raise _broken(path, f"{len(content) - start} bytes of data where {size} are announced")
    values = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(values.copy())


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read ({reason}): put an intact copy in its place")
