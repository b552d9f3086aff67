"""Small data sets and their files, for the tests here."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import torch

from lsgd_mpi.data import Images

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def random_images(n: int, channels: int, height: int, width: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 10, (n,), generator=generator))


def numbered_images(n: int, side: int = 1) -> Images:
    """Images whose label is their place, so that a batch tells which images it holds."""
    return Images(torch.zeros(n, 1, side, side, dtype=torch.uint8), torch.arange(n))


def write_idx(folder: Path, train: Images, test: Images, *, compress: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for (images_file, labels_file), part in zip((IDX_FILES[:2], IDX_FILES[2:]), (train, test), strict=True):
        pixels, labels = part.images.squeeze(1), part.labels.to(torch.uint8)
        for file, tensor in ((images_file, pixels), (labels_file, labels)):
            header = struct.pack(f">BBBB{tensor.ndim}I", 0, 0, 8, tensor.ndim, *tensor.shape)
            content = header + tensor.numpy().tobytes()
            path = folder / (f"{file}.gz" if compress else file)
            path.write_bytes(gzip.compress(content) if compress else content)


def cifar_batch(part: Images) -> dict[str, object]:
    return {"data": part.images.reshape(len(part), -1).numpy(), "labels": part.labels.tolist()}


def write_cifar(folder: Path, train: Images, test: Images) -> None:
    """CIFAR-10's files, the training images spread unevenly over the five batches."""
    folder.mkdir(parents=True, exist_ok=True)
    places = np.array_split(np.arange(len(train)), 5)
    parts = [Images(train.images[i[0] : i[-1] + 1], train.labels[i[0] : i[-1] + 1]) for i in places]
    for file, part in zip(CIFAR_FILES, [*parts, test], strict=True):
        (folder / file).write_bytes(pickle.dumps(cifar_batch(part), protocol=2))
