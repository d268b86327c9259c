"""The ResNets of 6n+2 layers for 32x32 images, with shortcuts that have no parameters."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spectrim.nn.channel_map import ChannelMap


class Block(nn.Module):
    """Two 3x3 convolutions and option A's shortcut: every second pixel, new channels filled with zeros.

    The shortcut of a stage's first block is a map of channels, so that stages cut to other widths still meet.
    """

    def __init__(self, inside: int, outside: int, stride: int, *, first: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride = stride
        self.shortcut = ChannelMap.padded(inside, outside) if first else nn.Identity()

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside h w"]:
        """The block's output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x[:, :, :: self.stride, :: self.stride]) + y)


class ResNetCIFAR(nn.Module):
    """Three stages of 16, 32 and 64 channels. Parameter names are those of the widely used pretrained files.

    Args:
        depth: 6n+2: 20, 32, 44, 56, 110.
        in_channels: 3 for colour images.
        num_classes: Number of outputs.

    Raises:
        ValueError: No such depth.

    References:
        He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2.

    >>> sum(p.numel() for p in ResNetCIFAR(20).parameters())
    269722
    """

    def __init__(self, depth: int, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"the depth must be 6n+2 (20, 32, 44, 56, …), got {depth}.")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        output: Tensor = self.linear(x.mean((2, 3)))
        return output


def _stage(inside: int, outside: int, stride: int, blocks: int) -> nn.Sequential:
    first = Block(inside, outside, stride)
    return nn.Sequential(first, *(Block(outside, outside, 1, first=False) for _ in range(blocks - 1)))


def resnet20(*, in_channels: int = 3, num_classes: int = 10) -> ResNetCIFAR:
    """ResNet-20: 269,722 parameters."""
    return ResNetCIFAR(20, in_channels=in_channels, num_classes=num_classes)


def resnet56(*, in_channels: int = 3, num_classes: int = 10) -> ResNetCIFAR:
    """ResNet-56: 853,018 parameters."""
    return ResNetCIFAR(56, in_channels=in_channels, num_classes=num_classes)


def resnet110(*, in_channels: int = 3, num_classes: int = 10) -> ResNetCIFAR:
    """ResNet-110: 1,727,962 parameters."""
    return ResNetCIFAR(110, in_channels=in_channels, num_classes=num_classes)
