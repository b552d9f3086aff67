"""Digits and synthetic images."""

from __future__ import annotations

import sys

import pytest
import torch

from lsgd_mpi.data import Synthetic, load, prepare
from lsgd_mpi.errors import DataError, UsageError


def test_digits_are_split_evenly_and_without_overlap():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    prepare("digits", None)
    dataset = load("digits")
    assert dataset.train.images.shape == (1437, 1, 8, 8)
    assert dataset.test.images.shape == (360, 1, 8, 8)
    test_share = dataset.test.labels.bincount() / (
        dataset.train.labels.bincount() + dataset.test.labels.bincount()
    )
    assert ((test_share - 0.2).abs() < 1 / 174).all()
    original = sklearn_datasets.load_digits()
    values = (original.images * 255 / 16).round().astype(int)
    expected = sorted((v.tolist(), int(k)) for v, k in zip(values, original.target, strict=True))
    parts = (dataset.train, dataset.test)
    found = [(i[0].tolist(), int(k)) for part in parts for i, k in zip(part.images, part.labels, strict=True)]
    assert sorted(found) == expected


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load("digits")


def test_statistics_are_those_of_the_training_images():
    dataset = load("synthetic", synthetic=Synthetic(channels=2, train=500, test=3), limit=2)
    pixels = load("synthetic", synthetic=Synthetic(channels=2, train=500, test=3)).train.images.double() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-7)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-7)


def test_synthetic_images_have_the_shape_asked_for_and_depend_on_the_seed():
    options = Synthetic(channels=2, height=9, width=5, classes=3, train=1500, test=40)
    first, second = (load("synthetic", synthetic=options) for _ in range(2))
    other = load("synthetic", synthetic=Synthetic(2, 9, 5, 3, 1500, 40, seed=1))
    assert first.train.images.shape == (1500, 2, 9, 5)
    assert first.test.images.shape == (40, 2, 9, 5)
    assert first.train.labels.unique().tolist() == [0, 1, 2]
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    assert not torch.equal(first.train.images, other.train.images)


def test_synthetic_classes_can_be_learned():
    """The nearest class mean of the training images tells nearly all test images."""
    dataset = load("synthetic", synthetic=Synthetic(train=1000, test=200))
    images, labels = dataset.train.images.float().flatten(1), dataset.train.labels
    means = torch.stack([images[labels == k].mean(0) for k in range(10)])
    guesses = torch.cdist(dataset.test.images.float().flatten(1), means).argmin(1)
    assert (guesses == dataset.test.labels).float().mean() > 0.95


def test_impossible_synthetic_options():
    with pytest.raises(UsageError, match="classes of at least 1, not 0"):
        Synthetic(classes=0)
    with pytest.raises(UsageError, match="noise"):
        Synthetic(noise=-1)
    with pytest.raises(UsageError, match="no effect"):
        load("digits", synthetic=Synthetic())
