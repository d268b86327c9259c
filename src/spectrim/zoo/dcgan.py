"""The DCGAN pair for 64x64 images."""

from jaxtyping import Float
from torch import Tensor, nn


class Generator(nn.Module):
    """Noise to image: five transposed 4x4 convolutions.

    Args:
        noise: Length of the noise vector.
        width: Channels before the last layer.
        out_channels: 1 for grey images.

    References:
        Radford et al. 2016 (arXiv 1511.06434); widths as in the supplement of Zhao et al. 2023, table 14.

    >>> sum(p.numel() for p in Generator().parameters() if p.ndim > 1)
    3572736
    """

    def __init__(self, *, noise: int = 100, width: int = 64, out_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(noise, 8 * width, 4, 1, 0, bias=False), nn.BatchNorm2d(8 * width), nn.ReLU(),
        ]  # fmt: skip
        for factor in (8, 4, 2):
            layers += [
                nn.ConvTranspose2d(factor * width, factor * width // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(factor * width // 2),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(width, out_channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, noise: Float[Tensor, "batch noise 1 1"]) -> Float[Tensor, "batch channel 64 64"]:
        """Images in [-1, 1]."""
        output: Tensor = self.main(noise)
        return output


class Discriminator(nn.Module):
    """Image to score: five 4x4 convolutions.

    Args:
        in_channels: 1 for grey images.
        width: Channels after the first layer.

    References:
        Radford et al. 2016 (arXiv 1511.06434); widths as in the supplement of Zhao et al. 2023, table 13.

    >>> sum(p.numel() for p in Discriminator().parameters() if p.ndim > 1)
    2761728
    """

    def __init__(self, *, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for factor in (1, 2, 4):
            layers += [
                nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * factor * width),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))
        self.main = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "batch channel 64 64"]) -> Float[Tensor, "batch"]:
        """One score an image: positive for real, before the sigmoid."""
        output: Tensor = self.main(images).flatten()
        return output


def generator(*, noise: int = 100, width: int = 64, out_channels: int = 1) -> Generator:
    """DCGAN's generator: 3,572,736 weights."""
    return Generator(noise=noise, width=width, out_channels=out_channels)


def discriminator(*, in_channels: int = 1, width: int = 64) -> Discriminator:
    """DCGAN's discriminator: 2,761,728 weights."""
    return Discriminator(in_channels=in_channels, width=width)
