"""A perceptron with one hidden layer, for quick runs and tests."""

from __future__ import annotations

import torch
from torch import nn

MINIMUM_SIDE = 1
HIDDEN = 256


class MLP(nn.Module):
    """Flatten, linear to 256, ReLU, linear to the classes: 784-256-10 for 28x28 grey images.

    No paper's network; 203,530 parameters for 1x28x28 and 10 classes. Input float32
    (batch, channels, height, width) of any size, output float32 logits (batch, classes).
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * width, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of ``images`` (batch, channels, height, width)."""
        logits: torch.Tensor = self.layers(images)
        return logits
