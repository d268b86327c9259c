"""The ResNet-18 for 32x32 images: ImageNet's widths behind a 3x3 stem that keeps the resolution."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where shape or stride changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside h w"]:
        """The block's output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of 64 to 512 channels, two blocks each.

    Args:
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    References:
        He et al. 2016 (arXiv 1512.03385); this variant for small images is the ResNet of the supplement of
        Zhao et al. 2023 (arXiv 2304.07973), tables 8-10, whose counts leave the stem out.

    >>> model = ResNet18()
    >>> sum(p.numel() for p in model.parameters() if p.ndim > 1) - model.conv1.weight.numel()
    11162624
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.linear = nn.Linear(512, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        output: Tensor = self.linear(x.mean((2, 3)))
        return output


def resnet18(*, in_channels: int = 3, num_classes: int = 10) -> ResNet18:
    """ResNet-18 for 32x32 images: 11.17 million parameters."""
    return ResNet18(in_channels=in_channels, num_classes=num_classes)
