"""Labelled images in memory, as every data set here holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lsgd_mpi.errors import DataError


@dataclass(frozen=True)
class Images:
    """Labelled images; one byte a pixel and channel, so that whole small data sets stay in memory."""

    images: torch.Tensor
    """uint8 (n, channels, height, width)."""
    labels: torch.Tensor
    """int64 (n,), classes counted from 0."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images are uint8 (n, c, h, w), not {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels are int64 ({len(self.images)},), not {_describe(self.labels)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.images.shape[1]

    @property
    def height(self) -> int:
        """Height of every image in pixels."""
        return self.images.shape[2]

    @property
    def width(self) -> int:
        """Width of every image in pixels."""
        return self.images.shape[3]

    def first(self, n: int) -> Images:
        """The first ``n`` images, or all when there are fewer; a view."""
        return Images(self.images[:n], self.labels[:n])

    def to(self, device: torch.device | str) -> Images:
        """The same images on ``device``; no copy when they are there."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set's training and test images, with what is needed to normalise and classify them."""

    name: str
    classes: int
    """How many classes there are; labels are below it."""
    train: Images
    test: Images
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""


def checked_labels(labels: torch.Tensor, classes: int, source: object) -> torch.Tensor:
    """``labels`` as int64; DataError that names ``source`` when one is not in 0 .. classes - 1."""
    labels = labels.to(torch.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataError(
            f"{source} holds the label {wrong} where 0 to {classes - 1} are allowed: "
            "put an intact copy of the right data set in its place"
        )
    return labels


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 (n, c, h, w), of pixels in [0, 1].

    From the counts of the 256 values, so exact and without a float copy of the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.reshape(-1), minlength=256) / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        deviations.append((share * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
