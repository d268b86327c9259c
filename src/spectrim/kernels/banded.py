"""The banded pointwise convolution in one call: plain torch everywhere, compiled once that has been built or asked for."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.kernels.building import built, triton_loaded

_SIDES = range(2, 9)
_ON_DEVICE = (torch.float32, torch.float16, torch.bfloat16)
_MOST = 64
"""Coefficients of the largest block that Triton takes."""


Limits: TypeAlias = tuple[float, float]
"""Between which numbers an activation leaves what it reads."""
FREE: Limits = (-inf, inf)


def compiled_for(weight: Tensor) -> bool:
    """Whether there is a compiled form for a weight, by where and what it is."""
    if weight.is_cuda:
        return weight.dtype in _ON_DEVICE and triton_loaded()
    return weight.is_cpu and weight.dtype == torch.float32 and built()


def packed(weight: Float[Tensor, "in out"]) -> Float[Tensor, "..."] | None:
    """The weight as the compiled form reads it, on a processor in an order that depends on it; None where there is none for it."""
    if not compiled_for(weight):
        return None
    plain = weight.detach().contiguous()
    if weight.is_cuda:
        return plain
    kernel: Any = torch.ops.spectrim.banded_pack
    with torch.no_grad():
        found: Tensor = kernel(plain)
    return found


def banded_pointwise(
    x: Float[Tensor, "image in height width"],
    source: Int[Tensor, "in"],
    order: Int[Tensor, "frequency"],
    basis: Float[Tensor, "kept pixel"],
    weight: Float[Tensor, "in out"],
    bias: Float[Tensor, "out"] | None,
    *,
    groups: Sequence[tuple[int, int]],
    kept: Int[Tensor, "in"],
    active: Int[Tensor, "kept"],
    block: tuple[int, int],
    in_order: bool,
    panels: Float[Tensor, "..."] | None = None,
    read: Limits = FREE,
    written: Limits = FREE,
) -> Float[Tensor, "image out height width"]:
    """A pointwise convolution of the first coefficients of the blocks of its input, by dense products alone.

    Nothing in a call is copied from the host to a device, so that a CUDA graph can hold it.

    Args:
        x: Maps of any size; continued by their last row and column where the block does not divide them.
        source: Which input channel each row of ``weight`` is for.
        order: Positions of the frequencies in C order, in the order in which they are kept.
        basis: The transform of a block, a row for each frequency in ``order`` that any group keeps.
        weight: The sorted channels' weights.
        bias: Added to every pixel.
        groups: Number of channels and kept coefficients, most kept first.
        kept, active: The same as tensors: how many coefficients each channel keeps, and how many channels each coefficient.
        block: Height and width.
        in_order: Whether ``source`` counts up from 0, so that nothing has to be sorted.
        panels: What :func:`packed` makes of ``weight``, if that was done before; plain torch does not read it.
        read, written: Between which numbers what comes in and what goes out is clamped, as by activations before and behind.
    """
    sized = block[0] * block[1] <= _MOST if x.is_cuda else block[0] == block[1] and block[0] in _SIDES
    compiled = (
        sized
        and x.device == weight.device
        and x.dtype == weight.dtype
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and compiled_for(weight)
        and not torch.is_autocast_enabled(x.device.type)
    )
    if compiled and (laid := packed(weight) if panels is None else panels) is not None:
        if x.is_cuda:
            from spectrim.kernels.banded_triton import banded_pointwise_triton

            y = banded_pointwise_triton(clamped(x, read), source, kept, basis, laid, bias, block=block, active=active)
            return clamped(y, written)
        kernel: Any = torch.ops.spectrim.banded_pointwise.default
        from_ = None if in_order else source
        found: Tensor = kernel(x, order, kept, from_, laid, bias, block[0], weight.shape[1], *read, *written)
        return found
    x = clamped(x, read)
    return clamped(_plain(x, source, basis, weight, bias, groups=groups, block=block, in_order=in_order), written)


Ready: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def ready(
    source: Int[Tensor, "in"],
    order: Int[Tensor, "frequency"],
    kept: Int[Tensor, "in"],
    panels: Float[Tensor, "..."] | None,
    *,
    block: tuple[int, int],
    outputs: int,
    in_order: bool,
    read: Limits,
    written: Limits,
) -> Ready | None:
    """One call of maps and bias, with all else looked up; None where :func:`banded_pointwise` has no compiled form on this processor.

    What that asks about its arguments has to be asked about the maps before: see :func:`takes`.
    """
    if panels is None or not panels.is_cpu or block[0] != block[1] or block[0] not in _SIDES:
        return None
    kernel: Any = torch.ops.spectrim.banded_pointwise.default
    from_, side, limits = None if in_order else source, block[0], (*read, *written)
    return lambda x, bias: kernel(x, order, kept, from_, panels, bias, side, outputs, *limits)


def takes(x: Tensor) -> bool:
    """Whether :func:`ready` is for these maps, as things are: in single precision on the processor, without gradients."""
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and x.ndim == 4
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def clamped(x: Tensor, limits: Limits) -> Tensor:
    """What an activation with these limits leaves of a tensor.

    >>> clamped(torch.tensor([-1.0, 3.0]), (0.0, inf))
    tensor([0., 3.])
    """
    low, high = limits
    return x if limits == FREE else x.clamp(None if low == -inf else low, None if high == inf else high)


def _plain(
    x: Tensor,
    source: Tensor,
    basis: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    groups: Sequence[tuple[int, int]],
    block: tuple[int, int],
    in_order: bool,
) -> Tensor:
    height, width = x.shape[-2:]
    tall, wide = block
    below, right = -height % tall, -width % wide
    if below or right:
        x = F.pad(x, (0, right, 0, below), mode="replicate")
    if not in_order:
        x = x.index_select(1, source)
    n, c, high, broad = x.shape
    down, across = high // tall, broad // wide
    rows, frequencies, top = n * down * across, tall * wide, groups[0][1]
    # (pixel of the block, block, channel)
    pixels = x.reshape(n, c, down, tall, across, wide).permute(3, 5, 0, 2, 4, 1).reshape(frequencies, rows, c)
    total: Tensor | None = None
    start = 0
    for size, kept in groups:
        columns = slice(start, start + size)
        spectrum = basis[:kept] @ pixels[:, :, columns].reshape(frequencies, rows * size).to(basis.dtype)
        part = spectrum.to(x.dtype).reshape(kept * rows, size) @ weight[columns]
        total = part if total is None else torch.cat([total[: kept * rows] + part, total[kept * rows :]])
        start += size
    assert total is not None  # noqa: S101 - there is at least one group
    spread = basis[:top].T @ total.reshape(top, -1).to(basis.dtype)
    y = spread.to(x.dtype).reshape(tall, wide, n, down, across, -1)
    if bias is not None:
        y = y + bias
    return y.permute(2, 5, 3, 0, 4, 1).reshape(n, -1, high, broad)[..., :height, :width]
