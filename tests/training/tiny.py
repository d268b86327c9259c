"""Networks that train in a blink, for tests; named on command lines as tests.training.tiny:tiny."""

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Everything that a resumed run could get wrong: statistics, dropout, biases, a layer or two to code."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(6 * 16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(images)))
        hidden = nn.functional.adaptive_max_pool2d(hidden, 4)
        return self.fc(self.drop(hidden.flatten(1)))


def tiny(in_channels: int = 1, num_classes: int = 10) -> Tiny:
    return Tiny(in_channels, num_classes)


class Pixels(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(images)))


def pixels(in_channels: int = 1, num_classes: int = 2) -> Pixels:
    return Pixels(in_channels, num_classes)


def two_outputs() -> nn.Module:
    class Two(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images), images

    return Two(1, 10, 3)


def wrong_outputs() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def no_module() -> int:
    return 3
