"""The networks, by name: the papers' (cnn7, resnet20, vgg16) and a small one (mlp)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lsgd_mpi.errors import UsageError
from lsgd_mpi.models import cnn7, mlp, resnet20, vgg16
from lsgd_mpi.names import unknown_name

__all__ = ["MODELS", "build", "input_size"]


@dataclass(frozen=True)
class _Entry:
    make: Callable[[int, int, int, int], nn.Module]
    """Called with channels, height, width, classes."""
    minimum_side: int
    """The smallest image side in pixels that the network can take."""
    input_side: int | None
    """The image side in pixels that the papers feed it on CIFAR-10."""


_REGISTRY = {
    "cnn7": _Entry(cnn7.CNN7, cnn7.MINIMUM_SIDE, cnn7.INPUT_SIDE),
    "resnet20": _Entry(resnet20.ResNet20, resnet20.MINIMUM_SIDE, resnet20.INPUT_SIDE),
    "vgg16": _Entry(vgg16.VGG16, vgg16.MINIMUM_SIDE, vgg16.INPUT_SIDE),
    "mlp": _Entry(mlp.MLP, mlp.MINIMUM_SIDE, None),
}

MODELS: tuple[str, ...] = tuple(_REGISTRY)


def build(name: str, *, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """A new network with random parameters from torch's global generator, float32, on the CPU.

    It maps images float32 (batch, channels, height, width) to logits float32 (batch, classes).

    Raises UsageError for an unknown ``name``, and for images smaller than the network can take, with
    the names of the networks that can.
    """
    entry = _entry(name)
    side = min(height, width)
    if side < entry.minimum_side:
        fitting = [other for other, its in _REGISTRY.items() if its.minimum_side <= side]
        raise UsageError(
            f"{name} needs images of at least {entry.minimum_side}x{entry.minimum_side} and these are "
            f"{height}x{width}: choose --model {' or '.join(fitting)}, or a data set with larger images"
        )
    return entry.make(channels, height, width, classes)


def input_size(name: str) -> int | None:
    """The side in pixels of the square image that the papers feed ``name`` on CIFAR-10.

    None where no paper says. Source: LSGD supplement, Section 9.1. Raises UsageError for an unknown
    ``name``.
    """
    return _entry(name).input_side


def _entry(name: str) -> _Entry:
    if name not in _REGISTRY:
        raise unknown_name("model", name, MODELS)
    return _REGISTRY[name]
