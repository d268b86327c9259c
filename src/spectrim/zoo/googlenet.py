"""GoogLeNet for 32x32 images, with batch norms: the Inception network of the pruning literature."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The widths of a block: 1x1; 3x3 behind its reduction; two 3x3 behind theirs (in the place of 5x5); behind the pool.
_WIDTHS = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(self, inside: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, reduce_three, three, reduce_five, five, pool = widths
        self.branch1 = nn.Sequential(*_conv(inside, one, 1))
        self.branch2 = nn.Sequential(*_conv(inside, reduce_three, 1), *_conv(reduce_three, three, 3))
        self.branch3 = nn.Sequential(
            *_conv(inside, reduce_five, 1), *_conv(reduce_five, five, 3), *_conv(five, five, 3)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), *_conv(inside, pool, 1))

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside height width"]:
        """The four results along the channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNetCIFAR(nn.Module):
    """A stem of 192 channels and nine Inception blocks in three stages.

    Args:
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    References:
        Szegedy et al. 2015 (arXiv 1409.4842); Khaki and Luo 2023 (arXiv 2306.04147), table 3.

    >>> sum(p.numel() for p in GoogLeNetCIFAR().parameters())
    6166250
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(in_channels, 192, 3))
        width = 192
        for name, widths in _WIDTHS.items():
            setattr(self, name, Inception(width, widths))
            width = widths[0] + widths[2] + widths[4] + widths[5]
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        x = self.stem(images)
        for name in _WIDTHS:
            if name in ("a4", "a5"):
                x = self.pool(x)
            x = self.get_submodule(name)(x)
        output: Tensor = self.linear(x.mean((2, 3)))
        return output


def _conv(inside: int, outside: int, size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv2d(inside, outside, size, padding=size // 2), nn.BatchNorm2d(outside), nn.ReLU()


def googlenet(*, in_channels: int = 3, num_classes: int = 10) -> GoogLeNetCIFAR:
    """GoogLeNet for 32x32 images: 6,166,250 parameters."""
    return GoogLeNetCIFAR(in_channels=in_channels, num_classes=num_classes)
