"""VGG-19's sixteen convolutions, normalised, with one linear layer: the VGG of the Frequency Regularization paper."""

from jaxtyping import Float
from torch import Tensor, nn

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


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
        layers: list[nn.Module] = []
        width = in_channels
        for channels, convolutions in STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores; the images are at least 32x32."""
        output: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return output


def vgg19(*, in_channels: int = 3, num_classes: int = 10) -> VGG19:
    """VGG-19 for 32x32 images: 20 million weights."""
    return VGG19(in_channels=in_channels, num_classes=num_classes)
