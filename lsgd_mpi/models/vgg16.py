"""VGG16 for 32x32 images."""

from __future__ import annotations

import torch
from torch import nn

INPUT_SIDE = 32
MINIMUM_SIDE = 32
"""Five poolings halve the image to 1x1."""

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Configuration D of Simonyan and Zisserman (2015), made for CIFAR-10.

    13 convolutions 3x3 in five stages of 64, 128, 256, 512 and 512 filters, each convolution with
    batch norm and ReLU, each stage closed by a 2x2 max-pooling; then linear layers 512, 512 and
    classes, with dropout 0.5 before the first two. 15,253,578 parameters for 3x32x32 and 10 classes.

    The LSGD paper names VGG16 without saying more. The code that its authors published
    (``codes/models.py``) builds the CIFAR-10 variant common in PyTorch, with batch norm and the
    small linear layers, so this does too; the 4096-wide layers of the original are made for features
    of 7x7 where 32x32 images leave 1x1.

    Input float32 (batch, channels, height, width) of at least 32x32, output float32 logits
    (batch, classes).
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in _STAGES:
            for filters in stage:
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters)]
                layers.append(nn.ReLU(inplace=True))
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(512 * (height // 32) * (width // 32), 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, classes),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of ``images`` (batch, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits
