"""CNN7, the seven-layer network of the EASGD and LSGD papers."""

from __future__ import annotations

import torch
from torch import nn

INPUT_SIDE = 28
MINIMUM_SIDE = 24
"""The third convolution needs a 3x3 input: 24 - 4 = 20, 10, 10 - 4 = 6, 3."""


class CNN7(nn.Module):
    """The CIFAR network of Zhang's thesis, Section 4.1, and of the LSGD paper, Section 4.

    For the papers' input of 28x28 the activations are

    ==================================  =============
    layer                               output
    ==================================  =============
    input                               (C, 28, 28)
    convolution 5x5, ReLU               (64, 24, 24)
    max-pooling 2x2                     (64, 12, 12)
    convolution 5x5, ReLU               (128, 8, 8)
    max-pooling 2x2                     (128, 4, 4)
    convolution 3x3, ReLU               (64, 2, 2)
    linear, ReLU, dropout 0.5           (256,)
    linear                              (classes,)
    ==================================  =============

    Input float32 (batch, channels, height, width), output float32 logits (batch, classes); the
    softmax of the thesis is part of the cross-entropy loss. All biases start at zero, as in the
    thesis. The code that the LSGD authors published leaves out the ReLU after the first linear
    layer; this follows the thesis. With C = 3 and 10 classes it has 351,946 parameters.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 64, 3),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * _features_side(height) * _features_side(width), 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(256, classes),
        )
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of ``images`` (batch, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits


def _features_side(side: int) -> int:
    return ((side - 4) // 2 - 4) // 2 - 2
