"""What networks need before they are measured side by side."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spectrim.kernels import build
from spectrim.nn import BandedPointwiseConv2d
from spectrim.nn.component import components


def made_ready_(networks: Iterable[nn.Module], example: Tensor, *, compile_kernels: bool = True) -> Tensor:
    """Give networks of which one holds banded convolutions what these run best with on a processor: kernels, and channels that come last.

    The dense one gets it too, as it is faster there as well: what is compared is what a cut does.

    Args:
        networks: Changed in place.
        example: A batch of images.
        compile_kernels: Whether the compiled kernels are built, if they are not.

    Returns:
        The example as it is to be given to the networks.
    """
    networks = list(networks)
    banded = any(isinstance(each, BandedPointwiseConv2d) for model in networks for _, each in components(model))
    if not banded or not example.is_cpu or example.ndim != 4:
        return example
    if compile_kernels:
        build()
    for model in networks:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub knows it with a device only
    return example.contiguous(memory_format=torch.channels_last)
