"""What can be cut to a band: a 1x1 convolution, and a linear layer on maps with the channels last, which is one too."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Pointwise: TypeAlias = nn.Conv2d | nn.Linear


def channels_of(layer: Pointwise) -> tuple[int, int]:
    """How many channels it reads, and writes."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def stride_of(layer: Pointwise) -> tuple[int, int]:
    """By how many pixels it goes on."""
    return (1, 1) if isinstance(layer, nn.Linear) else (layer.stride[0], layer.stride[1])


def size_of(layer: Pointwise, y: Tensor) -> tuple[int, int]:
    """Height and width of what it wrote."""
    return (y.shape[-3], y.shape[-2]) if isinstance(layer, nn.Linear) else (y.shape[-2], y.shape[-1])


def as_reads(layer: Pointwise, x: Tensor) -> Float[Tensor, "image in height width"]:
    """What of a map it looks at, with the channels in front."""
    high, wide = stride_of(layer)
    return x.movedim(-1, 1) if isinstance(layer, nn.Linear) else x[..., ::high, ::wide]


def matrix_of(layer: Pointwise) -> Float[Tensor, "out in"]:
    """Its weight."""
    return layer.weight.detach().flatten(1)


def plainly(layer: Pointwise) -> str:
    """What it is, for people."""
    return "linear layer" if isinstance(layer, nn.Linear) else "convolution"


def computes_as_plain(layer: Pointwise, x: Tensor, y: Tensor) -> bool:
    """Whether it does on these images what its tensors say; padding of a 1x1 kernel that comes to nothing is fine."""
    if type(layer) in (nn.Conv2d, nn.Linear):
        return True
    own = set(dict(layer.named_parameters())) | set(dict(layer.named_buffers()))
    if not own <= {"weight", "bias"} or any(layer.children()):
        return False
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            plain = F.linear(x, layer.weight, layer.bias)
        else:
            plain = F.conv2d(x, layer.weight, layer.bias, layer.stride)
    y = y.detach()
    return plain.shape == y.shape and torch.allclose(plain, y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))
