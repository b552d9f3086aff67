"""ResNet-20, the CIFAR-10 residual network of He et al."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

INPUT_SIDE = 28
"""The LSGD paper trains it on 28x28 crops (supplement, Section 9.1); He et al. on 32x32."""
MINIMUM_SIDE = 4
"""Two halvings; smaller images would leave padding only."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut without parameters (option A).

    Where the number of channels grows, the shortcut takes every second pixel and pads the new
    channels with zeros. Input (batch, channels_in, h, w), output (batch, channels_out, h', w').
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.new_channels = channels_out - channels_in
        self.stride = 2 if self.new_channels else 1
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The block's output for ``images`` (batch, channels_in, h, w)."""
        shortcut = images
        if self.new_channels:
            strided = images[:, :, :: self.stride, :: self.stride]
            shortcut = functional.pad(strided, (0, 0, 0, 0, 0, self.new_channels))
        hidden = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(hidden)) + shortcut)


class ResNet20(nn.Module):
    """He, Zhang, Ren and Sun, *Deep residual learning* (CVPR 2016), Section 4.2, with n = 3.

    A 3x3 convolution, three stages of three blocks with 16, 32 and 64 filters, the mean over the
    image, one linear layer: 19 convolutions and a linear layer, 269,722 parameters for 3 channels
    and 10 classes (0.27 M in their Table 6). Convolutions start as He et al. (2015) propose.

    Input float32 (batch, channels, height, width), output float32 logits (batch, classes). Any
    image of at least 4x4 fits; stages see the full, the halved and the quartered side.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        del height, width  # the mean over the image makes every size fit the linear layer
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        filters = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(ResidualBlock(before, after) for before, after in pairwise(filters)))
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of ``images`` (batch, channels, height, width)."""
        features: torch.Tensor = self.blocks(functional.relu(self.bn(self.conv(images))))
        logits: torch.Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits
