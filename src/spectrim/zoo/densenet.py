"""DenseNet-40 for 32x32 images: twelve channels a layer, everything before read by everything after."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """Twelve more channels, computed from all so far."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inside)
        self.conv = nn.Conv2d(inside, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch more height width"]:
        """All so far, then the new ones."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Sequential):
    """As many channels at half the size."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2))


class DenseNet40(nn.Module):
    """Three blocks of twelve layers.

    Args:
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    References:
        Huang et al. 2017 (arXiv 1608.06993), DenseNet with L = 40 and k = 12, without compression.

    >>> sum(p.numel() for p in DenseNet40().parameters())
    1059298
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        growth, depth, width = 12, 12, 24
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for stage in range(3):
            stages += [Dense(width + growth * layer, growth) for layer in range(depth)]
            width += growth * depth
            if stage < 2:
                stages.append(Transition(width))
        self.features = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        x = F.relu(self.bn(self.features(self.conv(images))))
        output: Tensor = self.linear(x.mean((2, 3)))
        return output


def densenet40(*, in_channels: int = 3, num_classes: int = 10) -> DenseNet40:
    """DenseNet-40 for 32x32 images: 1,059,298 parameters."""
    return DenseNet40(in_channels=in_channels, num_classes=num_classes)
