"""The banded pointwise convolution for CUDA devices: three kernels in Triton, cut up by what was measured on an H100.

The first one takes the cosine transform of the blocks and writes what is kept, as frequency, block, channel. The second multiplies, at every
frequency, the channels that keep it, a prefix of the sorted ones, with the weight. The third one transforms back and adds the
bias. Triton is not among the dependencies of the library; torch brings it along where it has been built for CUDA.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_LEAST = 16
"""Rows and columns of the smallest product that there is."""
_FREE = ["rows", "top", "height", "width", "down", "across"]
"""Numbers that no access is faster for knowing: a kernel is not compiled anew for each kind of them."""


class Tiling(NamedTuple):
    """How the work is cut up.

    Attributes:
        blocks, parts: Blocks and channels of a tile that is transformed.
        high, inner, outer: Rows, channels and outputs of a tile of a product.
        warps: Of each program, in transforms and in products.
        precision: Of products of single precision, and of the transforms.
    """

    blocks: int = 4
    parts: int = 32
    high: int = 32
    inner: int = 32
    outer: int = 32
    warps: tuple[int, int] = (4, 4)
    precision: str = "ieee"


def tiling(rows: int, outs: int, dtype: torch.dtype) -> Tiling:
    """How a product of so many rows and outputs is cut up: into few large tiles where there is enough to do.

    Half precision has its transforms in TensorFloat-32, which holds what is read exactly; single precision where torch may use it. Elsewhere
    each number is two of TensorFloat-32 and each product three of theirs, which is nearly as exact as single precision and faster; so are
    transforms of fewer blocks at a time.
    """
    half = dtype != torch.float32
    high = 16 if rows <= 16 else 32 if rows <= 256 else 128 if half and rows > 4096 else 64
    tf32 = half or torch.backends.cuda.matmul.allow_tf32
    return Tiling(
        blocks=4 if half else 2,
        high=high,
        inner=64 if half else 32,
        outer=64 if outs > 32 else 32,
        precision="tf32" if tf32 else "tf32x3",
    )


@triton.jit(do_not_specialize=_FREE)  # type: ignore[untyped-decorator]
def _there(
    x: tl.tensor, source: tl.tensor, kept: tl.tensor, basis: tl.tensor, spectrum: tl.tensor,
    rows: tl.tensor, channels: tl.tensor, top: tl.tensor, height: tl.tensor, width: tl.tensor, down: tl.tensor, across: tl.tensor,
    by_image: tl.tensor, by_channel: tl.tensor, by_line: tl.tensor, by_pixel: tl.tensor,
    tall: tl.constexpr, wide: tl.constexpr, frequencies: tl.constexpr, pixels: tl.constexpr,
    blocks: tl.constexpr, parts: tl.constexpr, precision: tl.constexpr,
) -> None:  # fmt: skip
    """The kept coefficients of a few blocks of a few channels."""
    f, p, j = tl.arange(0, frequencies), tl.arange(0, pixels), tl.arange(0, blocks * parts)
    row, channel = tl.program_id(0) * blocks + j // parts, tl.program_id(1) * parts + j % parts
    there = (row < rows) & (channel < channels)
    image, place = row // (down * across), row % (down * across)
    # What the block does not divide is continued by its last line and pixel.
    line = tl.minimum((place // across * tall)[None, :] + (p // wide)[:, None], height - 1)
    pixel = tl.minimum((place % across * wide)[None, :] + (p % wide)[:, None], width - 1)
    taken = tl.load(source + channel, mask=there, other=0)
    base = image.to(tl.int64) * by_image + taken.to(tl.int64) * by_channel
    whole = (p < tall * wide)[:, None] & there[None, :]
    value = tl.load(x + base[None, :] + line * by_line + pixel * by_pixel, mask=whole, other=0.0).to(tl.float32)
    wave = tl.load(
        basis + f[:, None] * (tall * wide) + p[None, :], mask=(f < top)[:, None] & (p < tall * wide)[None, :], other=0.0
    )
    found = tl.dot(wave, value, input_precision=precision)
    most = tl.load(kept + channel, mask=there, other=0)
    to = f.to(tl.int64)[:, None] * rows * channels + row.to(tl.int64)[None, :] * channels + channel[None, :]
    tl.store(spectrum + to, found.to(spectrum.dtype.element_ty), mask=(f[:, None] < most[None, :]) & there[None, :])


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _products(
    spectrum: tl.tensor, weight: tl.tensor, active: tl.tensor, total: tl.tensor,
    rows: tl.tensor, channels: tl.tensor, outs: tl.tensor,
    high: tl.constexpr, inner: tl.constexpr, outer: tl.constexpr, precision: tl.constexpr,
) -> None:  # fmt: skip
    """One frequency of a few blocks and outputs: over the channels that keep it, and no others."""
    f = tl.program_id(2)
    row, out = tl.program_id(0) * high + tl.arange(0, high), tl.program_id(1) * outer + tl.arange(0, outer)
    count = tl.load(active + f)
    from_ = spectrum + f.to(tl.int64) * rows * channels + row.to(tl.int64)[:, None] * channels
    found = tl.full((high, outer), 0.0, tl.float32)
    for start in range(0, count, inner):
        channel = start + tl.arange(0, inner)
        there = channel < count
        left = tl.load(from_ + channel[None, :], mask=(row < rows)[:, None] & there[None, :], other=0.0)
        right = tl.load(
            weight + channel.to(tl.int64)[:, None] * outs + out[None, :],
            mask=there[:, None] & (out < outs)[None, :],
            other=0.0,
        )
        found = tl.dot(left, right, found, input_precision=precision)
    to = f.to(tl.int64) * rows * outs + row.to(tl.int64)[:, None] * outs + out[None, :]
    tl.store(total + to, found.to(total.dtype.element_ty), mask=(row < rows)[:, None] & (out < outs)[None, :])


@triton.jit(do_not_specialize=_FREE)  # type: ignore[untyped-decorator]
def _back(
    total: tl.tensor, basis: tl.tensor, bias: tl.tensor, y: tl.tensor,
    rows: tl.tensor, outs: tl.tensor, top: tl.tensor, height: tl.tensor, width: tl.tensor, down: tl.tensor, across: tl.tensor,
    by_image: tl.tensor, by_channel: tl.tensor, by_line: tl.tensor, by_pixel: tl.tensor,
    has_bias: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, frequencies: tl.constexpr, pixels: tl.constexpr,
    blocks: tl.constexpr, parts: tl.constexpr, precision: tl.constexpr,
) -> None:  # fmt: skip
    """The pixels of a few blocks of a few outputs; what reaches over an edge is left out."""
    f, p, j = tl.arange(0, frequencies), tl.arange(0, pixels), tl.arange(0, blocks * parts)
    row, out = tl.program_id(0) * blocks + j // parts, tl.program_id(1) * parts + j % parts
    there = (row < rows) & (out < outs)
    at = f.to(tl.int64)[:, None] * rows * outs + row.to(tl.int64)[None, :] * outs + out[None, :]
    value = tl.load(total + at, mask=(f < top)[:, None] & there[None, :], other=0.0).to(tl.float32)
    wave = tl.load(
        basis + f[None, :] * (tall * wide) + p[:, None], mask=(f < top)[None, :] & (p < tall * wide)[:, None], other=0.0
    )
    found = tl.dot(wave, value, input_precision=precision)
    if has_bias:
        found += tl.load(bias + out, mask=there, other=0.0).to(tl.float32)[None, :]
    image, place = row // (down * across), row % (down * across)
    line = (place // across * tall)[None, :] + (p // wide)[:, None]
    pixel = (place % across * wide)[None, :] + (p % wide)[:, None]
    base = image.to(tl.int64) * by_image + out.to(tl.int64) * by_channel
    inside = (p < tall * wide)[:, None] & there[None, :] & (line < height) & (pixel < width)
    tl.store(y + base[None, :] + line * by_line + pixel * by_pixel, found.to(y.dtype.element_ty), mask=inside)


def banded_pointwise_triton(
    x: Float[Tensor, "image in height width"],
    source: Int[Tensor, "in"],
    kept: Int[Tensor, "in"],
    basis: Float[Tensor, "kept pixel"],
    weight: Float[Tensor, "in out"],
    bias: Float[Tensor, "out"] | None,
    *,
    block: tuple[int, int],
    active: Int[Tensor, "kept"] | None = None,
    tiles: Tiling | None = None,
) -> Float[Tensor, "image out height width"]:
    """What :func:`spectrim.kernels.banded.banded_pointwise` computes, on the device where its arguments are.

    Args:
        x: Maps of any size and in any memory format, in single or half precision; what comes out is laid as ``channels_last``.
        source: Which input channel each row of ``weight`` is for.
        kept: How many coefficients each row of ``weight`` keeps, most first.
        basis: The transform of a block of at most 64 pixels, a row for each frequency that is kept, in float32.
        weight: The sorted channels' weights, of the type of ``x``.
        bias: Added to every pixel.
        block: Height and width.
        active: How many rows of ``weight`` keep each frequency, if that is known.
        tiles: How the work is cut up; by :func:`tiling` if None.
    """
    (images, channels, height, width), outs, top = x.shape, weight.shape[1], len(basis)
    (tall, wide), (down, across) = block, (-(-height // block[0]), -(-width // block[1]))
    rows = images * down * across
    y = torch.empty((images, outs, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    active = counted(kept, top) if active is None else active
    cut = tiling(rows, outs, x.dtype) if tiles is None else tiles
    spectrum, total = x.new_empty(top, rows, channels), x.new_empty(top, rows, outs)
    frequencies, pixels = (max(_LEAST, triton.next_power_of_2(each)) for each in (top, tall * wide))
    shape = {
        "tall": tall, "wide": wide, "frequencies": frequencies, "pixels": pixels, "blocks": cut.blocks, "parts": cut.parts,
        "precision": cut.precision, "num_warps": cut.warps[0],
    }  # fmt: skip
    place = height, width, down, across
    several = triton.cdiv(rows, cut.blocks)
    grid = triton.cdiv(rows, cut.high), triton.cdiv(outs, cut.outer), top
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # else they would start on the current device
        _there[several, triton.cdiv(channels, cut.parts)](
            x, source, kept, basis, spectrum, rows, channels, top, *place, *x.stride(), **shape
        )
        _products[grid](
            spectrum, weight, active, total, rows, channels, outs,
            high=cut.high, inner=cut.inner, outer=cut.outer, precision=cut.precision, num_warps=cut.warps[1],
        )  # fmt: skip
        _back[several, triton.cdiv(outs, cut.parts)](
            total, basis, weight if bias is None else bias, y, rows, outs, top, *place, *y.stride(),
            has_bias=bias is not None, **shape,
        )  # fmt: skip
    return y


def counted(kept: Int[Tensor, "in"], top: int) -> Int[Tensor, "frequency"]:
    """How many channels keep each of the first ``top`` frequencies."""
    return (kept[:, None] > torch.arange(top, device=kept.device)).sum(0, dtype=torch.int32)
