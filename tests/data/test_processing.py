"""Batches against torchvision's transforms, image by image, given the same draws."""

from __future__ import annotations

import pytest
import torch
from image_samples import random_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from lsgd_mpi.data import Dataset, Processing, processing_for
from lsgd_mpi.errors import UsageError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Steps of 1/255 become one after normalisation with these, exactly, so that equality tests the pixels.
BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def torchvision_train(processing, image, top, left, flip):
    height, width = processing.size(*image.shape[1:])
    image = functional.pad(image, [processing.pad] * 4)
    image = functional.crop(image, top, left, height, width)
    return functional.horizontal_flip(image) if flip else image


def normalise(image):
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])(image)


PROCESSINGS = [
    {"crop": 28, "flip": 0.5},
    {"crop": 32, "pad": 4, "flip": 0.5},
    {"crop": 28},
    {"pad": 2, "crop": 36},
    {"pad": 2},
    {"flip": 0.5},
    {"flip": 1.0},
    {},
]
IDS = [str(fields) for fields in PROCESSINGS]


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 32, 41), (1, 37, 32)])
@pytest.mark.parametrize("fields", PROCESSINGS, ids=IDS)
def test_training_batches_equal_torchvisions(fields, shape):
    channels, height, width = shape
    images = random_images(64, *shape).images
    exact = Processing(**{key: value[:channels] for key, value in BYTES.items()}, **fields)
    real = Processing(MEAN[:channels], STD[:channels], **fields)
    draws = exact.draw(64, height, width, torch.Generator().manual_seed(3))
    pixels, batch = exact.train(images, draws), real.train(images, draws)
    assert pixels.dtype == batch.dtype == torch.float32
    assert batch.shape == (64, channels, *real.size(height, width))
    for i, image in enumerate(images):
        patch = torchvision_train(exact, image, int(draws.tops[i]), int(draws.lefts[i]), bool(draws.flips[i]))
        assert torch.equal(pixels[i], patch.float())
        expected = functional.normalize(patch.float() / 255, MEAN[:channels], STD[:channels])
        torch.testing.assert_close(batch[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fields", PROCESSINGS[:2], ids=IDS[:2])
def test_test_batches_equal_torchvisions(fields):
    processing = Processing(MEAN, STD, **fields)
    for side in (32, 33):
        images = random_images(5, 3, side, side).images
        for image, ours in zip(images, processing.test(images), strict=True):
            expected = normalise(v2.CenterCrop(processing.crop)(image))
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_stored_images_are_not_changed():
    images = random_images(8, 3, 32, 32).images
    before = images.clone()
    for fields in PROCESSINGS[:2]:
        processing = Processing(MEAN, STD, **fields)
        processing.train(images, processing.draw(8, 32, 32, torch.Generator()))
        processing.test(images)
    assert torch.equal(images, before)


def test_draws_reach_every_place_with_equal_probability():
    n = 90_000
    draws = Processing(MEAN, STD, crop=32, pad=4, flip=0.5).draw(n, 32, 32, torch.Generator().manual_seed(0))
    for places in (draws.tops, draws.lefts):
        assert torch.allclose(places.bincount() / n, torch.tensor(1 / 9), atol=0.005)
    assert draws.flips.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert abs(torch.corrcoef(torch.stack([draws.tops, draws.lefts]).double())[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("name", "shape", "model", "expected"),
    [
        ("cifar10", (3, 32, 32), "cnn7", (28, 0, 0.5)),
        ("cifar10", (3, 32, 32), "resnet20", (28, 0, 0.5)),
        ("cifar10", (3, 32, 32), "vgg16", (32, 4, 0.5)),
        ("cifar10", (3, 32, 32), "mlp", (32, 4, 0.5)),
        ("mnist", (1, 28, 28), "cnn7", (None, 0, 0.0)),
        ("fashion-mnist", (1, 28, 28), "resnet20", (None, 0, 0.5)),
        ("digits", (1, 8, 8), "mlp", (None, 0, 0.0)),
        ("synthetic", (3, 32, 32), "cnn7", (None, 0, 0.0)),
    ],
)
def test_the_papers_choices(name, shape, model, expected):
    images = random_images(2, *shape)
    dataset = Dataset(name, 10, images, images, MEAN, STD)
    processing = processing_for(dataset, model)
    assert (processing.crop, processing.pad, processing.flip) == expected
    assert (processing.mean, processing.std) == (MEAN, STD)
    with pytest.raises(UsageError, match="unknown model"):
        processing_for(dataset, "cnn8")
