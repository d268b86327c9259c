"""Operations as papers on pruned channels print them, for comparing tables."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.measure.compute import ghost_of, macs


def published_macs(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> int:
    """What HRankPlus, CFDP and others print for pruned networks: :func:`macs`, biases, and two for each number that a batch norm writes.

    That is the count of the ``thop`` package. The same tables print :func:`macs` for the networks before the cut, so the
    percentages there are of two different counts; compare by one of them.

    Args:
        model: Any module.
        inputs: What the forward takes; only shapes and dtypes matter.

    Raises:
        UnsupportedError: As for :func:`macs`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
    >>> published_macs(net, torch.zeros(1, 3, 10, 10))
    24000
    """
    found = macs(model, inputs)
    ghost, extra = ghost_of(model), []

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        if isinstance(module, _BatchNorm):
            extra.append(2 * out.numel())
        elif module.bias is not None:
            extra.append(out.numel())

    for module in ghost.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | _BatchNorm):  # noqa: SLF001 - torch has no other name for them
            module.register_forward_hook(count)
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    with torch.no_grad(), torch.device("meta"):
        ghost(*(argument.to("meta") for argument in arguments))
    return found + sum(extra)
