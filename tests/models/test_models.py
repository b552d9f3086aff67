from __future__ import annotations

import pytest
import torch
import torchvision

from lsgd_mpi.errors import UsageError
from lsgd_mpi.models import MODELS, build, input_size


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def cifar(name: str) -> torch.nn.Module:
    side = input_size(name) or 32
    return build(name, channels=3, height=side, width=side, classes=10)


def test_cnn7_has_the_shapes_printed_in_the_thesis():
    model = cifar("cnn7")
    shapes = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.MaxPool2d | torch.nn.Linear):
            module.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, 3, 28, 28))
    assert shapes == [(64, 24, 24), (64, 12, 12), (128, 8, 8), (128, 4, 4), (64, 2, 2), (256,), (10,)]


def test_cnn7_starts_with_zero_biases():
    biases = [parameter for name, parameter in cifar("cnn7").named_parameters() if "bias" in name]
    assert len(biases) == 5
    assert not any(bias.any() for bias in biases)


def test_resnet20_stages():
    model = cifar("resnet20")
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(2, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_resnet20_shortcut_copies_every_second_pixel_and_adds_zero_channels():
    block = cifar("resnet20").blocks[3]
    torch.nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 16, 8, 8)
    output = block(images)
    assert torch.equal(output[:, :16], images[:, :, ::2, ::2])
    assert not output[:, 16:].any()


def test_vgg16_convolutions_are_torchvisions_vgg16_bn():
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn().features
        ours = cifar("vgg16").features
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("cnn7", (3, 28, 28), 351_946),
        ("resnet20", (3, 28, 28), 269_722),
        ("vgg16", (3, 32, 32), 15_253_578),
        ("mlp", (1, 28, 28), 203_530),
        ("mlp", (1, 8, 8), 19_210),
    ],
)
def test_parameter_counts(name, shape, count):
    channels, height, width = shape
    assert parameters(build(name, channels=channels, height=height, width=width, classes=10)) == count


@pytest.mark.parametrize(
    ("name", "channels", "height", "width"),
    [
        ("cnn7", 1, 24, 31),
        ("cnn7", 3, 32, 32),
        ("resnet20", 1, 4, 9),
        ("vgg16", 1, 32, 64),
        ("mlp", 2, 1, 3),
    ],
)
def test_other_sizes_and_classes(name, channels, height, width):
    model = build(name, channels=channels, height=height, width=width, classes=7)
    assert model(torch.zeros(2, channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_steps_on_one_batch_lower_its_loss(name):
    torch.manual_seed(0)
    side = input_size(name) or 28
    model = build(name, channels=3, height=side, width=side, classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # another mask in each step would move the loss too
    images, labels = torch.randn(8, 3, side, side), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_too_small_images_name_the_models_that_fit():
    with pytest.raises(UsageError, match=r"24x24.*8x8.*--model resnet20 or mlp"):
        build("cnn7", channels=1, height=8, width=8, classes=10)
    with pytest.raises(UsageError, match=r"32x32.*28x28.*--model cnn7 or resnet20 or mlp"):
        build("vgg16", channels=1, height=28, width=28, classes=10)


@pytest.mark.parametrize(("name", "side"), [("cnn7", 24), ("resnet20", 4), ("vgg16", 32)])
def test_the_smallest_side_works_and_one_less_does_not(name, side):
    build(name, channels=1, height=side, width=side, classes=10)(torch.zeros(2, 1, side, side))
    with pytest.raises(UsageError):
        build(name, channels=1, height=side, width=side - 1, classes=10)


def test_unknown_names_list_the_known_and_the_near():
    with pytest.raises(UsageError, match=r"'resnet-20'.*did you mean resnet20\?.*cnn7, resnet20, vgg16, mlp"):
        build("resnet-20", channels=3, height=28, width=28, classes=10)
    with pytest.raises(UsageError, match="known are cnn7"):
        input_size("zzz")
