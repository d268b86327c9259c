"""The VGGs of the papers for 32x32 images: normalised convolutions of five stages with a small classifier."""

from jaxtyping import Float
from torch import Tensor, nn

Stages = tuple[tuple[int, int], ...]

VGG16_STAGES: Stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
VGG19_STAGES: Stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class VGG19(nn.Module):
    """Five stages of 3x3 convolutions, batch norms and ReLUs, each ended by pooling.

    Args:
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    References:
        Simonyan and Zisserman 2015 (arXiv 1409.1556); the paper calls it VGG16, but the layer counts of its
        supplement (tables 5-7) are those of 16 convolutions and Linear(512, 10).

    >>> sum(p.numel() for p in VGG19().parameters() if p.ndim > 1)
    20024000
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.features, width = _features(VGG19_STAGES, in_channels)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores; the images are at least 32x32."""
        output: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return output


class VGG16BN(nn.Module):
    """VGG-16's thirteen convolutions and two linear layers: the VGG of the pruning literature, CFDP included.

    Args:
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    References:
        Khaki and Luo 2023 (arXiv 2306.04147), table 1, after Lin et al. 2020, "HRank" (arXiv 2002.10179).

    >>> sum(p.numel() for p in VGG16BN().parameters())
    14991946
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.features, width = _features(VGG16_STAGES, in_channels)
        self.classifier = nn.Sequential(
            nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, num_classes)
        )

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores; the images are at least 32x32."""
        output: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return output


def _features(stages: Stages, in_channels: int) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    width = in_channels
    for channels, convolutions in stages:
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            width = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers), width


def vgg16_bn(*, in_channels: int = 3, num_classes: int = 10) -> VGG16BN:
    """VGG-16 with batch norms for 32x32 images: 14,991,946 parameters."""
    return VGG16BN(in_channels=in_channels, num_classes=num_classes)


def vgg19(*, in_channels: int = 3, num_classes: int = 10) -> VGG19:
    """VGG-19 for 32x32 images: 20 million weights."""
    return VGG19(in_channels=in_channels, num_classes=num_classes)
