"""The U-Net of the published Frequency Regularization checkpoint."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, inside: int, outside: int, *, affine: bool) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside, affine=affine, track_running_stats=affine),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside, affine=affine, track_running_stats=affine),
            nn.ReLU(),
        )

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside height width"]:
        """The features."""
        output: Tensor = self.double_conv(x)
        return output


class Down(nn.Module):
    """Halve the resolution, then convolve."""

    def __init__(self, inside: int, outside: int, *, affine: bool) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inside, outside, affine=affine))

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside h w"]:
        """The features."""
        output: Tensor = self.maxpool_conv(x)
        return output


class Up(nn.Module):
    """Double the resolution by a transposed convolution, append the features of the way down, then convolve."""

    def __init__(self, inside: int, outside: int, *, affine: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inside, inside // 2, 2, stride=2, bias=False)
        self.conv = DoubleConv(inside, outside, affine=affine)

    def forward(
        self, x: Float[Tensor, "batch inside h w"], skip: Float[Tensor, "batch outside height width"]
    ) -> Float[Tensor, "batch outside height width"]:
        """The features."""
        x = self.up(x)
        high, wide = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        output: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return output


class OutConv(nn.Module):
    """A pointwise convolution to the classes; a module of its own only because the checkpoint's name has it."""

    def __init__(self, inside: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, classes, 1, bias=False)

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch classes height width"]:
        """Class scores of every pixel."""
        output: Tensor = self.conv(x)
        return output


class UNet(nn.Module):
    """Four steps down and up; every convolution without bias, so that 23 weight tensors are all it learns.

    Args:
        in_channels: 3 for colour images.
        num_classes: Classes of a pixel.
        width: Channels at full resolution; doubled by each step down.
        affine: Whether the norms learn scale and shift, and track statistics for evaluation. The published
            checkpoint's do neither: they normalise with the statistics of the batch at hand, in eval mode too.

    References:
        Ronneberger et al. 2015 (arXiv 1505.04597); layout of milesial/Pytorch-UNet, as used by Zhao et al. 2023.

    >>> with torch.device("meta"):
    ...     weights = list(UNet().parameters())
    >>> len(weights), sum(w.numel() for w in weights)
    (23, 31024960)
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 2, width: int = 64, affine: bool = False) -> None:
        super().__init__()
        self.inc = DoubleConv(in_channels, width, affine=affine)
        self.down1 = Down(width, 2 * width, affine=affine)
        self.down2 = Down(2 * width, 4 * width, affine=affine)
        self.down3 = Down(4 * width, 8 * width, affine=affine)
        self.down4 = Down(8 * width, 16 * width, affine=affine)
        self.up1 = Up(16 * width, 8 * width, affine=affine)
        self.up2 = Up(8 * width, 4 * width, affine=affine)
        self.up3 = Up(4 * width, 2 * width, affine=affine)
        self.up4 = Up(2 * width, width, affine=affine)
        self.outc = OutConv(width, num_classes)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Class scores of every pixel; the images are at least 16x16."""
        full = self.inc(images)
        half = self.down1(full)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        x = self.up1(self.down4(eighth), eighth)
        x = self.up4(self.up3(self.up2(x, quarter), half), full)
        output: Tensor = self.outc(x)
        return output


def unet(*, in_channels: int = 3, num_classes: int = 2, width: int = 64, affine: bool = False) -> UNet:
    """The U-Net of 31,024,960 weights."""
    return UNet(in_channels=in_channels, num_classes=num_classes, width=width, affine=affine)
