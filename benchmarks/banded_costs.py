"""What the bands of a network multiply as they stand, trained or not."""

import torch
from torch import nn

from spectrim import measure
from spectrim.nn.component import components
from spectrim.nn.pointwise import BandedPointwiseConv2d


def banded_costs(net: nn.Module, dense: nn.Module, images: torch.Tensor) -> tuple[int, int, int]:
    """Multiply-accumulates of the banded layers for these images: of the convolutions that they were, of what they keep, and of the transforms.

    Args:
        net: With banded layers.
        dense: The same network without.
        images: One image, of the size that counts.
    """
    report = measure.macs_report(dense, images)
    found = torch.zeros(3, dtype=torch.long)
    for path, layer in components(net):
        assert isinstance(layer, BandedPointwiseConv2d)
        sizes, kept, whole = layer.geometry, layer.kept.long(), report.by_module[path]
        positions = whole // (sizes.in_channels * sizes.out_channels)
        products = positions * sizes.out_channels * int(kept.sum()) // sizes.frequencies
        sides = sum(sizes.block)
        transforms = positions * (int(kept.clamp(max=sides).sum()) + min(int(kept.max()), sides) * sizes.out_channels)
        if bool((kept == sizes.frequencies).all()):  # which is finalized to a plain convolution
            transforms = 0
        found += torch.tensor([whole, products, transforms])
    whole, kept, transforms = found.tolist()
    return whole, kept, transforms
