"""A batch normalisation as what it is in evaluation mode: one factor and one summand for each channel."""

from typing import cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a norm does in evaluation mode, in single precision at least: by what each channel is multiplied, and what is added.

    >>> scale_and_shift(torch.nn.BatchNorm2d(1, eps=0.0))
    (tensor([1.]), tensor([0.]))
    """
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    precision = torch.promote_types(var.dtype, torch.float32)
    there = {name: each.detach().to(precision) for name, each in norm.named_parameters(recurse=False)}
    scale = torch.rsqrt(var.to(precision) + norm.eps) * there.get("weight", 1)
    return scale, there.get("bias", 0) - mean.to(precision) * scale
