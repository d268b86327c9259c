"""A depthwise convolution and the pointwise ones beside it in one compiled call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.kernels.banded import FREE, Limits, compiled_for, packed

KERNELS, STRIDES = (3, 5), (1, 2)
"""Of the depthwise convolutions that are compiled."""
SIDES = range(2, 9)
"""Of the square blocks that are."""

Padding: TypeAlias = tuple[int, int, int, int]
"""Zeros above, left, below and right."""


@dataclass(frozen=True, eq=False)
class Side:
    """A pointwise convolution as the compiled form reads it.

    Attributes:
        weight: A row for each input channel, in the order in which they are read.
        bias: One per output.
        block: The side of its blocks; 1 for a plain convolution, which has no bands.
        order, kept: Positions of the frequencies and how many of them each channel keeps, most first.
        source: Which channel of the map each of them is; None where they lie in order.
        read, written: Between which numbers what comes in and what goes out is clamped.
    """

    weight: Float[Tensor, "in out"]
    bias: Float[Tensor, "out"] | None
    block: int = 1
    order: Int[Tensor, "frequency"] | None = None
    kept: Int[Tensor, "in"] | None = None
    source: Int[Tensor, "in"] | None = None
    read: Limits = FREE
    written: Limits = FREE


def fused_call(
    expand: Side | None,
    taps: Float[Tensor, "channel 1 tall wide"],
    shift: Float[Tensor, "channel"],
    project: Side,
    *,
    stride: int,
    clamp: Limits,
) -> Callable[[Tensor, Padding], Tensor] | None:
    """One call of maps and padding that computes what three layers do, a few channels at a time; None where it is not compiled.

    Coefficients of those channels go back to rows of a map, through the depthwise convolution and forward to coefficients again,
    while they stay in the cache: the wide maps in between are never written down.

    Args:
        expand: What writes the channels in the middle; none where they are what comes in.
        taps, shift: Of the depthwise convolution, with a norm behind it in them.
        project: What reads these channels; in order.
        stride: Of the depthwise convolution.
        clamp: Between which numbers what it writes is clamped.

    Returns:
        A function of maps (image, channel, height, width) in single precision on the processor, without gradients.
    """
    kernel = taps.shape[-1]
    tensors = [taps, *(side.weight for side in (expand, project) if side is not None)]
    if (
        kernel not in KERNELS
        or stride not in STRIDES
        or not all(each.is_cpu and compiled_for(each) for each in tensors)
    ):
        return None
    run: Any = torch.ops.spectrim.fused_depthwise.default
    channels, outputs = project.weight.shape
    lanes = packed(taps.new_zeros(1, channels))
    assert lanes is not None  # noqa: S101 - they are built
    filled = lanes.numel() - channels
    weight = F.pad(taps.detach().flatten(1).T, (0, filled)).contiguous().flatten()
    bias = F.pad(shift.detach(), (0, filled)).contiguous()
    front = _arguments(expand) if expand is not None else (None,) * 5
    order, kept, _, panels, behind = _arguments(project)
    read, written = (FREE, FREE) if expand is None else (expand.read, expand.written)
    limits = [*read, *written, *clamp, *project.written]
    sizes = [channels, outputs, 1 if expand is None else expand.block, project.block, kernel, stride]

    def call(x: Tensor, padding: Padding) -> Tensor:
        found: Tensor = run(x, *front, weight, bias, order, kept, panels, behind, [*sizes, *padding], limits)
        return found

    return call


def _arguments(side: Side) -> Sequence[Tensor | None]:
    bias = None if side.bias is None else side.bias.detach().contiguous()
    return side.order, side.kept, side.source, packed(side.weight), bias
