"""CIFAR-10, in the format "CIFAR-10 python version" of https://www.cs.toronto.edu/~kriz/cifar.html.

The reader is our own: torchvision's refuses every file whose MD5 is not the original's, also a
smaller set in the same format. Its MD5 is what makes unpickling a stranger's file safe there; here
an unpickler does that knows arrays and nothing else. The download is torchvision's.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsgd_mpi.data.images import Dataset, Images, checked_labels
from lsgd_mpi.data.locations import cache_dir, download, missing
from lsgd_mpi.errors import DataError

NAME = "cifar10"
_FOLDER = Path("cifar-10-batches-py")
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = ("test_batch",)
_FILES = _TRAIN + _TEST
_SHAPE = (3, 32, 32)
_CLASSES = 10
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2023, 0.1994, 0.2010)
"""LSGD supplement, Section 9.1. (Over all training pixels the deviation is 0.247, 0.243, 0.262; these
are the mean of the images' own deviations, as common as it is in PyTorch code.)"""


def folders(data_dir: Path | None) -> list[Path]:
    """Where the files are looked for, in this order."""
    return [cache_dir() / _FOLDER] if data_dir is None else [data_dir / _FOLDER, data_dir]


def prepare(data_dir: Path | None, allow_download: bool) -> None:
    """See ``lsgd_mpi.data.prepare``."""
    if any(_complete(folder) for folder in folders(data_dir)):
        return
    absent = _missing(data_dir)
    if not allow_download:
        raise absent
    files = [_FOLDER / file for file in _FILES]
    root = data_dir or cache_dir()
    # Here, since it takes as long to load as torch itself.
    import torchvision

    download(NAME, root, files, lambda folder: torchvision.datasets.CIFAR10(folder, download=True), absent)


def load(data_dir: Path | None) -> Dataset:
    """Training and test images from the first folder that holds all six files."""
    for folder in folders(data_dir):
        if _complete(folder):
            train, test = (_read_batches([folder / file for file in files]) for files in (_TRAIN, _TEST))
            return Dataset(NAME, _CLASSES, train, test, _MEAN, _STD)
    raise _missing(data_dir)


def _complete(folder: Path) -> bool:
    return all((folder / file).is_file() for file in _FILES)


def _missing(data_dir: Path | None) -> DataError:
    return missing(NAME, f"{', '.join(_FILES)} (of cifar-10-python.tar.gz)", folders(data_dir))


def _read_batches(paths: list[Path]) -> Images:
    batches = [read_batch(path) for path in paths]
    return Images(
        torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
    )


def read_batch(path: Path) -> Images:
    """The 3x32x32 images of one file, any number of them.

    The file is a pickled dictionary with ``data``, uint8 (n, 3072), each row the red, green and blue
    plane, and ``labels``, a list of n integers. Raises DataError, naming the file, for anything else.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        pixels, labels = np.asarray(content["data"]), np.asarray(content["labels"])
    # A broken pickle can raise whatever its bytes happen to spell.
    except Exception as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != np.prod(_SHAPE):
        raise _broken(path, f"its data are {pixels.dtype} {pixels.shape}, not uint8 (n, 3072)")
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise _broken(path, f"its labels are {labels.dtype} {labels.shape}, not {len(pixels)} integers")
    return Images(
        torch.from_numpy(pixels.copy()).view(-1, *_SHAPE),
        checked_labels(torch.from_numpy(labels.astype(np.int64)), _CLASSES, path),
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings and numpy arrays, and calls nothing else."""

    _reconstruct: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
    # The original files are of 2009, when numpy's internals lay in numpy.core.
    _allowed = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self._allowed:
            raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")
        return self._allowed[module_name, global_name]


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read ({reason}): put an intact copy in its place")
