"""What networks need before they are measured side by side."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spectrim.kernels import build
from spectrim.nn import BandedPointwiseConv2d
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv


def made_ready_(networks: Iterable[nn.Module], example: Tensor, *, compile_kernels: bool = True) -> Tensor:
    """Give networks of which one holds banded or template convolutions what these run best with on a processor: kernels, and channels that come last.

    The dense one gets it too, as it is faster there as well: what is compared is what a cut does.

    Args:
        networks: Changed in place.
        example: A batch of images.
        compile_kernels: Whether the compiled kernels are built, if they are not.

    Returns:
        The example as it is to be given to the networks.
    """
    networks = list(networks)
    layers = [
        each
        for model in networks
        for _, each in components(model)
        if isinstance(each, BandedPointwiseConv2d | TemplateConv)
    ]
    if not layers or not example.is_cpu or example.ndim != 4:
        return example
    if compile_kernels and any(_compiles(each) for each in layers):
        build()
    for model in networks:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub knows it with a device only
    return example.contiguous(memory_format=torch.channels_last)


def _compiles(layer: nn.Module) -> bool:
    """Whether there is a compiled form of it, once that is built."""
    if isinstance(layer, TemplateConv):
        return layer.family == "scalar" and layer.sizes.dims == 2
    return isinstance(layer, BandedPointwiseConv2d)
