"""Multiply-accumulates of a network with banded convolutions, their transforms left out: what is multiplied with weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.measure.compute import macs_report
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.blockwise import multiplications
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.channels import still

_Banded = BandedPointwiseConv2d | GroupedBandsConv2d | FlatBandsConv2d


def macs_without_transforms(model: nn.Module, example: Tensor) -> int | None:
    """Of one forward pass, as :func:`spectrim.measure.macs` counts them, without the transforms of banded convolutions.

    Args:
        model: Runs once in evaluation mode.
        example: One batch.

    Returns:
        None where there is no such layer.

    >>> from spectrim.nn.blockwise import Geometry
    >>> layer = nn.Sequential(GroupedBandsConv2d(Geometry(8, 4, (2, 2)), [(8, 2)]))
    >>> x = torch.zeros(1, 8, 4, 4)
    >>> macs_without_transforms(layer, x), macs_report(layer, x).total
    (256, 640)
    """
    layers = {path: each for path, each in model.named_modules() if isinstance(each, _Banded)}
    if not layers:
        return None
    products = dict.fromkeys(layers, 0)

    def note_for(path: str, layer: _Banded) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            products[path] += _products(layer, tuple(inputs[0].shape))

        return note

    handles = [layer.register_forward_pre_hook(note_for(path, layer)) for path, layer in layers.items()]
    try:
        with still(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    counted = macs_report(model, example)
    return counted.total - sum(counted.by_module.get(path, 0) for path in layers) + sum(products.values())


def _products(layer: _Banded, shape: tuple[int, ...]) -> int:
    """Of one call on an input of this shape."""
    geometry = layer.geometry
    if isinstance(layer, BandedPointwiseConv2d):
        kept = layer.kept.long().cpu().clamp(1, geometry.frequencies)
    else:
        top = layer.writes if isinstance(layer, FlatBandsConv2d) and isinstance(layer.writes, int) else math.inf
        kept = torch.tensor([min(count, top) for size, count in layer.groups for _ in range(size)], dtype=torch.long)
    if isinstance(layer, FlatBandsConv2d) and layer.reads == "spectra":
        images, size = shape[0], [shape[-3] * geometry.block[0], shape[-2] * geometry.block[1]]
    else:
        sides = shape[-3:-1] if geometry.last else shape[-2:]
        images = math.prod(shape) // math.prod(sides) // geometry.in_channels
        size = [-(-side // step) for side, step in zip(sides, geometry.stride, strict=True)]
    return images * multiplications(kept, geometry.out_channels, geometry.block, size)[0]
