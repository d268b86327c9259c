"""What tests of fused layers share: a bottleneck around a depthwise convolution, one that pads by code, and images."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.surgery.test_chaining import Bottlenecks


class RightAndBelow(nn.Conv2d):
    """Pads on two sides."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, 1, self.groups)


class Net(nn.Module):
    """A bottleneck; who else reads what, the flags say."""

    def __init__(self, depthwise=None, *, residual=False, functional=False, twice=False, expand=True):
        super().__init__()
        torch.manual_seed(0)
        self.flags = residual, functional, twice
        self.stem = nn.Conv2d(3, 6 if expand else 12, 3)
        self.expand = nn.Conv2d(6, 12, 1, bias=False) if expand else nn.Identity()
        self.norm, self.act = Bottlenecks.norm(12), nn.ReLU6(inplace=True)
        self.depthwise = depthwise or nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.other_norm, self.other_act = Bottlenecks.norm(12), nn.ReLU()
        self.project, self.last_norm = nn.Conv2d(12, 5, 1), Bottlenecks.norm(5)

    def forward(self, x):
        residual, functional, twice = self.flags
        x = self.act(self.norm(self.expand(self.stem(x))))
        y = self.other_norm(self.depthwise(x))
        if twice:
            y = self.other_norm(y)
        y = F.relu(y) if functional else self.other_act(y)
        y = y + x if residual else y
        return self.last_norm(self.project(y))


def image(side=18, count=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
