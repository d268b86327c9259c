"""How a depthwise convolution pads: what it says, or, of a class with a forward of its own, what it is seen to compute."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from spectrim.nn.folded import FoldedConv2d, Padded
from spectrim.surgery.channels import still

_SIDE = 64
"""Of what is looked at of a map."""
_OTHER_SIZES = ((9, 12), (10, 7))
"""Of maps on which a padding is tried too."""


def paddings_of(model: nn.Module, example: Tensor, paths: list[str]) -> dict[str, Padded]:
    """How each of some depthwise convolutions pads, for those of which that can be seen.

    Args:
        model: Runs once in evaluation mode, and is as before.
        example: One batch.
        paths: Dotted names of the convolutions.

    >>> paddings_of(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2)), torch.zeros(1, 2, 4, 4), ["0"])
    {'0': Padded(zeros=(1, 1, 1, 1))}
    """
    seen: dict[str, Tensor] = {}

    def remember(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if (
                len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4
            ):  # else it is called by other rules
                seen[path] = inputs[0][:1, :, :_SIDE, :_SIDE].clone()

        return note

    handles = [model.get_submodule(path).register_forward_pre_hook(remember(path)) for path in paths]
    with still(model), torch.no_grad():
        try:
            model(example)
        finally:
            for handle in handles:
                handle.remove()
        found = {path: _padded(model.get_submodule(path), x) for path, x in seen.items()}
    return {path: padded for path, padded in found.items() if padded is not None}


def _padded(layer: nn.Module, x: Tensor) -> Padded | None:
    if isinstance(layer, FoldedConv2d):
        return layer.padded
    assert isinstance(layer, nn.Conv2d)  # noqa: S101 - there are no others
    kernel = layer.kernel_size[0]
    if type(layer) is nn.Conv2d:
        if isinstance(layer.padding, str):
            return None
        tall, wide = layer.padding
        return Padded((tall, wide, tall, wide)) if max(tall, wide) < kernel else None
    weight = layer._parameters.get("weight")
    if weight is None:
        return None
    generator = torch.Generator().manual_seed(0)
    tries: list[tuple[Tensor, Tensor]] = [(x, weight)]
    for size in _OTHER_SIZES:  # with other weights: some tell paddings apart less well, zeros not at all
        shapes = ((1, x.shape[1], *size), tuple(weight.shape))
        one, other = (torch.randn(shape, generator=generator) for shape in shapes)
        tries.append((one.to(x), other.to(weight)))
    fixed = [
        Padded((above, left, below, right))
        for above in range(kernel) for left in range(kernel) for below in range(kernel) for right in range(kernel)
    ]  # fmt: skip
    try:
        expected: list[Tensor] = [functional_call(layer, {"weight": other}, (each,)) for each, other in tries]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # it is for maps of one size alone, say
        return None
    for padded in (Padded(None), *fixed):
        if all(_pads(layer, padded, *each, found) for each, found in zip(tries, expected, strict=True)):
            return padded
    return None


def _pads(layer: nn.Conv2d, padded: Padded, x: Tensor, weight: Tensor, expected: Tensor) -> bool:
    """Whether the layer computes with this weight what a convolution with these zeros does."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    size = (x.shape[2], x.shape[3])
    above, left, below, right = padded.of(size, kernel=kernel, stride=stride)
    sides = [
        (side + more - kernel) // stride + 1 for side, more in zip(size, (above + below, left + right), strict=True)
    ]
    if expected.shape[2:] != torch.Size(sides):
        return False
    y = F.conv2d(F.pad(x, (left, right, above, below)), weight, layer.bias, stride, groups=layer.groups)
    return bool(torch.allclose(y, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())))
