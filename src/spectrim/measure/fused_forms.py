"""Depthwise convolutions and the pointwise ones beside them, in one pass where that is measured to be faster."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from spectrim.kernels.building import built
from spectrim.measure.choice import Choice, fastest, inputs_of
from spectrim.surgery.channels import still
from spectrim.surgery.fusing import Block, blocks, fuse_
from spectrim.surgery.same import outputs_of, same

_SECONDS = 0.03
"""To spend on timing each form."""


def fuse_where_faster_(model: nn.Module, example: Tensor) -> list[Choice]:
    """Put :class:`spectrim.nn.FusedDepthwise` in the place of what it computes, where the compiled form wins.

    Args:
        model: Finalized; it computes what it did.
        example: One batch of the size and on the device where it will run.

    Returns:
        What was measured and taken (``apart`` or ``fused``), under the name of each depthwise convolution; nothing where the kernels are not built.
    """
    if not built() or not example.is_cpu or example.dtype != torch.float32:
        return []
    found = blocks(model, example)
    inputs = inputs_of(model, [block.first for block in found], example)
    choices: list[Choice] = []
    faster: list[Block] = []
    for block in found:
        x = inputs[block.first]
        apart, fused = nn.Sequential(*map(model.get_submodule, block.order)), block.fused(model)
        if not same(outputs_of(apart, x), outputs_of(fused, x)):
            continue
        with still(apart), still(fused):
            choice = fastest({"apart": apart, "fused": fused}, x, site=block.parts["depthwise"], seconds=_SECONDS)
        choices.append(choice)
        if choice.taken == "fused":
            faster.append(block)
    taken = {block.parts["depthwise"] for block in fuse_(model, example, faster)}
    return [choice if choice.site in taken else replace(choice, taken="apart") for choice in choices]
