"""The data sets by name: one call fetches their files, another reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lsgd_mpi.data import cifar
from lsgd_mpi.data.generated import Synthetic, load_digits, load_synthetic
from lsgd_mpi.data.idx import FASHION_MNIST, MNIST
from lsgd_mpi.data.images import Dataset
from lsgd_mpi.errors import DataError, UsageError
from lsgd_mpi.names import unknown_name

_PREPARE: dict[str, Callable[[Path | None, bool], None]] = {
    "fashion-mnist": FASHION_MNIST.prepare,
    "mnist": MNIST.prepare,
    "cifar10": cifar.prepare,
}
_LOAD: dict[str, Callable[[Path | None, Synthetic], Dataset]] = {
    "fashion-mnist": lambda data_dir, _: FASHION_MNIST.load(data_dir),
    "mnist": lambda data_dir, _: MNIST.load(data_dir),
    "cifar10": lambda data_dir, _: cifar.load(data_dir),
    "digits": lambda _, __: load_digits(),
    "synthetic": lambda _, options: load_synthetic(options),
}

DATASETS: tuple[str, ...] = tuple(_LOAD)
WITHOUT_FILES: tuple[str, ...] = tuple(name for name in _LOAD if name not in _PREPARE)


def prepare(name: str, data_dir: Path | None = None, download: bool = True) -> None:
    """Make sure that the files of the data set ``name`` are where ``load`` looks for them.

    For one rank, before the others load: it downloads what is missing (into ``data_dir``, by default
    the user's cache) where ``download`` allows it. Digits and synthetic have no files. Raises
    DataError, with what was looked for and where, when the files are not there in the end, and
    UsageError for an unknown name.
    """
    _check_name(name)
    if name in _PREPARE:
        _PREPARE[name](data_dir, download)


def load(
    name: str,
    data_dir: Path | None = None,
    *,
    limit: int | None = None,
    synthetic: Synthetic | None = None,
) -> Dataset:
    """Read the data set ``name`` into memory; it never downloads.

    ``limit`` keeps the first so many images of the training and of the test part; mean and standard
    deviation stay those of the whole. ``synthetic`` is for the data set of that name. Raises DataError,
    naming the file, when one is missing, truncated or otherwise broken, and UsageError for an unknown
    name or impossible options.
    """
    _check_name(name)
    if limit is not None and limit < 1:
        raise UsageError(f"a data set is limited to 1 or more images, not {limit}")
    if synthetic is not None and name != "synthetic":
        raise UsageError(f"options of synthetic images have no effect on the data set {name}")
    dataset = _LOAD[name](data_dir, synthetic or Synthetic())
    for part in (dataset.train, dataset.test):
        if not len(part):
            raise DataError(f"the files of {name} hold no images: put intact copies in their place")
    if limit is None:
        return dataset
    return replace(dataset, train=dataset.train.first(limit), test=dataset.test.first(limit))


def _check_name(name: str) -> None:
    if name not in _LOAD:
        raise unknown_name("data set", name, DATASETS)
