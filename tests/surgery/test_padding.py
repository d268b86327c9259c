"""How a depthwise convolution pads is seen before it is fused; where it cannot be seen, the convolution stays."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrim.nn.folded import Padded
from spectrim.surgery.fusing import blocks
from tests.surgery.bottleneck import Net, RightAndBelow, image


class Same(nn.Conv2d):
    """Pads as TensorFlow does, whatever the size."""

    def forward(self, x):
        tall, wide = (max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in x.shape[2:])
        return F.conv2d(
            F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)),
            self.weight,
            None,
            2,
            0,
            1,
            self.groups,
        )


class Strange(nn.Conv2d):
    """Computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


class Own(nn.Conv2d):
    """Computes nothing else, but might."""


class OneSize(nn.Conv2d):
    """Takes maps of 16 x 16 alone."""

    def forward(self, x):
        return super().forward(x) + torch.zeros(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(12, 12, 3, groups=12), Padded((0, 0, 0, 0))),
        (nn.Conv2d(12, 12, 5, 2, padding=(2, 1), groups=12), Padded((2, 1, 2, 1))),
        (Same(12, 12, 3, 2, groups=12, bias=False), Padded(None)),
        (RightAndBelow(12, 12, 3, 2, groups=12), Padded((0, 0, 1, 1))),
        (RightAndBelow(12, 12, 3, 1, groups=12), Padded((0, 0, 1, 1))),
    ],
    ids=lambda each: type(each).__name__,
)
def test_padding_is_seen_in_what_a_convolution_computes(layer, expected):
    for side in (18, 19):
        model, x = Net(copy.deepcopy(layer)).eval().requires_grad_(requires_grad=False), image(side)
        (block,) = blocks(model, x)
        assert block.padded == expected
        before = [model(image(each)) for each in (18, 19)]
        block.fuse_(model)
        for each, was in zip((18, 19), before, strict=True):
            torch.testing.assert_close(model(image(each)), was)


def test_padding_is_seen_where_all_weights_are_zero():
    layer = Own(12, 12, 3, 2, padding=1, groups=12)
    nn.init.zeros_(layer.weight)
    (block,) = blocks(Net(layer).eval(), image())
    assert block.padded == Padded((1, 1, 1, 1))


@pytest.mark.parametrize(
    "layer",
    [
        Strange(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 12, 3, padding="same", groups=12),
        OneSize(12, 12, 3, padding=1, groups=12),
    ],
    ids=str,
)
def test_convolutions_stay_whose_padding_is_not_seen(layer):
    assert blocks(Net(layer).eval(), image()) == []
