"""Samples of what a layer reads and writes, as rows: one for each place of its output that is looked at."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.repair.calls import Call, own

SAMPLES = 32_768
"""Rows that a layer is fitted to, about; fewer where its maps have fewer places."""

LARGEST = 5_000
"""Inputs of one output up to which second moments between all of them are taken; above, rows are as few as this."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def places(count: int, images: int, samples: int = SAMPLES) -> Int[Tensor, "image place"]:
    """Which places of each image's output are looked at: an even lattice, shifted from image to image.

    All of them where there are few. Nothing is drawn: the same for the same numbers.

    >>> places(6, 3, samples=6).tolist()
    [[0, 3], [3, 0], [1, 4]]
    """
    each = min(count, max(1, samples // images))
    shift = (torch.arange(images, dtype=torch.float64) * _GOLDEN % 1 * count).long()
    return (torch.arange(each) * count // each + shift[:, None]) % count


def written(call: Call, out: Tensor, where: Int[Tensor, "image place"]) -> Float[Tensor, "row output"]:
    """The outputs of a call at some places."""
    if call.kind == "linear":
        return _taken(out, where)
    index = where.to(out.device)[:, None].expand(-1, out.shape[1], -1)
    return own(out.flatten(2).gather(2, index)).transpose(1, 2).flatten(0, 1)


def read(
    call: Call, kernel: tuple[int, ...], size: tuple[int, ...], where: Int[Tensor, "image place"]
) -> Float[Tensor, "row group input"]:
    """All inputs of a call that have part in the outputs at some places, channels before kernel places; zero where it is padded.

    Args:
        call: Of a linear layer or a convolution, transposed or not.
        kernel: Sides of the layer's kernel.
        size: Sides of its output.
        where: Flat places of the output, for the images that ``call.x`` holds.
    """
    images, looked = where.shape
    if call.kind == "linear":
        return _taken(call.x, where).reshape(images * looked, 1, -1)
    index, inside = _sources(call, kernel, size, where)
    taps = index.shape[-1]
    channels = call.x.shape[1]
    index, inside = index.to(call.x.device), inside.to(call.x.device)
    flat = index.reshape(images, 1, -1).expand(-1, channels, -1)
    found = own(call.x.flatten(2).gather(2, flat)).reshape(images, channels, looked, taps) * inside[:, None]
    return found.transpose(1, 2).reshape(images * looked, call.groups, -1)


def _taken(x: Tensor, where: Int[Tensor, "image place"]) -> Tensor:
    """Rows of a linear layer's input or output."""
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    return own(tokens.gather(1, where.to(x.device)[:, :, None].expand(-1, -1, x.shape[-1]))).flatten(0, 1)


def _sources(
    call: Call, kernel: tuple[int, ...], size: tuple[int, ...], where: Int[Tensor, "image place"]
) -> tuple[Tensor, Tensor]:
    """For each place and each tap of the kernel the flat place that it reads, and whether that lies in the input."""
    axes, sides = len(kernel), tuple(call.x.shape[2:])
    strides, dilations = call.along("stride", axes, 1), call.along("dilation", axes, 1)
    flat = torch.zeros(*where.shape, 1, dtype=torch.long)
    inside = torch.ones_like(flat, dtype=torch.bool)
    rest = where
    outputs: list[Tensor] = []
    for side in reversed(size):
        outputs.insert(0, rest % side)
        rest = rest // side
    for axis, out in enumerate(outputs):
        taps = torch.arange(kernel[axis]) * dilations[axis]
        before = _before(call, axis, kernel, dilations)
        if call.kind == "conv":
            source = out[..., None] * strides[axis] - before + taps
            valid = (source >= 0) & (source < sides[axis])
        else:
            scaled = out[..., None] + before - taps
            source = scaled // strides[axis]
            valid = (scaled % strides[axis] == 0) & (source >= 0) & (source < sides[axis])
        source = source.clamp(0, sides[axis] - 1)
        flat = (flat[..., :, None] * sides[axis] + source[..., None, :]).flatten(2)
        inside = (inside[..., :, None] & valid[..., None, :]).flatten(2)
    return flat, inside


def _before(call: Call, axis: int, kernel: tuple[int, ...], dilations: tuple[int, ...]) -> int:
    """How far the input is padded in front along an axis."""
    padding = call.settings.get("padding", 0)
    if padding == "valid":
        return 0
    if padding == "same":
        return dilations[axis] * (kernel[axis] - 1) // 2
    return call.along("padding", len(kernel), 0)[axis]
