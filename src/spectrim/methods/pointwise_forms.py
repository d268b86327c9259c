"""A pointwise layer as it will run, with ones for weights, for the clock: beside its activations, or in one pass with a depthwise convolution."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor, nn

from spectrim.kernels.building import built
from spectrim.measure.choice import inputs_of
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry
from spectrim.nn.folded import FoldedConv2d
from spectrim.nn.fused import FusedDepthwise, Places
from spectrim.nn.limits import FREE, Limits
from spectrim.surgery.fusing import blocks

Clamps: TypeAlias = tuple[Limits, Limits]
"""Between which numbers activations before and behind a layer clamp."""
NO_CLAMPS: Clamps = (FREE, FREE)


@dataclass(frozen=True, eq=False)
class Inside:
    """Where a layer stands in a block that runs in one pass, nothing else in it being cut.

    Attributes:
        side: ``expand`` or ``project``.
        block: The whole block, with plain convolutions.
        inputs: Channels that come in.
        size: Height and width of the maps that come in.
    """

    side: str
    block: FusedDepthwise
    inputs: int
    size: tuple[int, int]

    def around(self, layer: nn.Module) -> FusedDepthwise:
        """The block with another layer on this side."""
        parts = self.block.parts() | {self.side: layer}
        other = FusedDepthwise(
            self.block.depthwise, parts["project"], expand=parts.get("expand"),
            places=self.block.places, clamps=self.block.clamps,
        )  # fmt: skip
        return other.eval()

    def outside(self, clamps: Clamps) -> Clamps:
        """What of the activations beside the layer stands outside of the block."""
        before, behind = clamps
        return (before if self.side == "expand" else FREE, behind if self.side == "project" else FREE)


def insides(model: nn.Module, example: Tensor, paths: Collection[str]) -> dict[str, Inside]:
    """Those of some layers that stand in blocks which run in one pass, where that is compiled.

    Args:
        model: With plain convolutions; runs in evaluation mode, and is as before.
        example: One batch.
        paths: Dotted names of the layers.
    """
    if not built() or not example.is_cpu:
        return {}
    found = blocks(model, example)
    inputs = inputs_of(model, [block.first for block in found], example)
    return {
        path: Inside(side, _ones_in(block.fused(model)), x.shape[1], (x.shape[2], x.shape[3]))
        for block in found
        for side, path in block.parts.items()
        if path in paths and (x := inputs.get(block.first)) is not None and x.ndim == 4
    }


def plain_layer(
    geometry: Geometry, memory: torch.memory_format, clamps: Clamps = NO_CLAMPS, inside: Inside | None = None
) -> nn.Module:
    """The convolution or linear layer, and activations that work where their input lies."""
    plain: Any = geometry.dense()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.fill_(1)
    layer: nn.Module = plain.to(memory_format=memory)
    if inside is not None:
        layer, clamps = inside.around(layer), inside.outside(clamps)
    before, behind = ([] if each == FREE else [nn.Hardtanh(*each, inplace=True)] for each in clamps)
    return nn.Sequential(*before, layer, *behind) if before or behind else layer


def grouped_layer(
    geometry: Geometry, bands: Int[Tensor, "in"], clamps: Clamps = NO_CLAMPS, inside: Inside | None = None
) -> nn.Module:
    """The finalized form, its channels sorted, which does the work of the activations."""
    weight = torch.ones(geometry.out_channels, geometry.in_channels, 1, 1)
    layer = GroupedBandsConv2d.of(geometry, weight, None, bands.sort(descending=True).values)
    layer.read, layer.written = clamps
    return layer if inside is None else inside.around(layer)


def ones(
    geometry: Geometry,
    size: tuple[int, int],
    memory: torch.memory_format,
    inside: Inside | None = None,
    images: int = 1,
) -> Tensor:
    """Images of ones."""
    if inside is not None:
        return torch.ones(images, inside.inputs, *inside.size).contiguous(memory_format=memory)
    if geometry.last:
        return torch.ones(images, *size, geometry.in_channels)
    return torch.ones(images, geometry.in_channels, *size).contiguous(memory_format=memory)


def _ones_in(block: FusedDepthwise) -> FusedDepthwise:
    """A block of the same sizes, with plain convolutions of one number each."""
    d = block.depthwise
    depthwise = FoldedConv2d(d.in_channels, d.out_channels, d.kernel, d.stride, d.groups, d.padded)
    sides = {}
    for name, part in block.parts().items():
        if name != "depthwise":
            out, inside, *_ = part.get_parameter("weight").shape
            sides[name] = nn.Conv2d(inside, out, 1)
    other = FusedDepthwise(
        depthwise, sides["project"], expand=sides.get("expand"), places=Places(1, {}, {}), clamps=block.clamps
    )
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1 / math.sqrt(parameter.numel()))
    return other.eval()
