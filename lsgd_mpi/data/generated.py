"""Data sets that need no files: scikit-learn's digits, and synthetic images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lsgd_mpi.data.images import Dataset, Images, channel_statistics
from lsgd_mpi.errors import DataError, UsageError

_TEST_SHARE = 5
"""Every fifth digit is a test digit."""
_CHUNK = 1024
"""Synthetic images made at a time: their float32 noise would fill four times the memory otherwise."""


def load_digits() -> Dataset:
    """The 1,797 handwritten digits inside scikit-learn: 1x8x8, ten classes, 1,437 for training.

    Their values 0 to 16 become 0 to 255. The split is fixed and has the same share of each class
    within one digit: in an order sorted by class (and by place within it) every fifth is for the test.
    Source: UCI *Optical Recognition of Handwritten Digits*, test part. Raises DataError when
    scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            f"digits come with scikit-learn, which cannot be imported ({error}): "
            "install it (pip install scikit-learn) or choose another data set"
        ) from error
    bunch = datasets.load_digits()
    values = torch.from_numpy(bunch.images).unsqueeze(1)
    images = (values * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    by_class = labels.argsort(stable=True)
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    in_test[by_class[::_TEST_SHARE]] = True
    train, test = (Images(images[part], labels[part]) for part in (~in_test, in_test))
    return Dataset("digits", 10, train, test, *channel_statistics(train.images))


@dataclass(frozen=True)
class Synthetic:
    """Shape, size and difficulty of the synthetic data set; by default like CIFAR-10, but smaller."""

    channels: int = 3
    height: int = 32
    width: int = 32
    classes: int = 10
    train: int = 4096
    """Training images."""
    test: int = 1024
    """Test images."""
    seed: int = 0
    noise: float = 48.0
    """Standard deviation of each pixel's noise, in steps of 1/255."""

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "classes", "train", "test"):
            if getattr(self, name) < 1:
                raise UsageError(f"synthetic images need {name} of at least 1, not {getattr(self, name)}")
        if self.noise < 0:
            raise UsageError(f"the noise of synthetic images is at least 0, not {self.noise}")


def load_synthetic(options: Synthetic) -> Dataset:
    """Images that are one smooth random prototype a class plus noise; the same for the same options.

    Prototypes are 4x4 random grids enlarged to the image, so that convolutions, crops and poolings
    keep what tells the classes apart. Every class has the same probability.
    """
    generator = torch.Generator().manual_seed(options.seed)
    grid = torch.rand(options.classes, options.channels, 4, 4, generator=generator) * 255
    size = (options.height, options.width)
    prototypes = torch.nn.functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    labels = torch.randint(options.classes, (options.train + options.test,), generator=generator)
    images = torch.empty(len(labels), *prototypes.shape[1:], dtype=torch.uint8)
    for part, chosen in zip(torch.split(images, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        noise = torch.randn(part.shape, generator=generator)
        part.copy_((prototypes[chosen] + options.noise * noise).round_().clamp_(0, 255))
    train = Images(images[: options.train], labels[: options.train])
    test = Images(images[options.train :], labels[options.train :])
    return Dataset("synthetic", options.classes, train, test, *channel_statistics(train.images))
