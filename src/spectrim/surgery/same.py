"""Whether a model that was rearranged still computes what it did, by what it says to an example."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spectrim.surgery.channels import still

_TOLERANCE = 1e-3
"""Rounding that another order of summation may cause, relative to the largest output; in half precision so many units in the last place."""
_UNITS = 8


def outputs_of(model: nn.Module, example: Any) -> list[Tensor]:
    """Every tensor of floating-point numbers that a model returns, in evaluation mode and without gradients."""
    with still(model), torch.no_grad():
        found = tree_leaves(model(example))
    return [each for each in found if isinstance(each, Tensor) and each.is_floating_point()]


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether outputs are the same up to rounding.

    >>> (
    ...     same([torch.ones(2)], [torch.ones(2) + 1e-6]),
    ...     same([torch.ones(2)], [torch.zeros(2)]),
    ...     same([torch.ones(2)], []),
    ... )
    (True, False, False)
    """
    return len(some) == len(others) and all(_close(*pair) for pair in zip(some, others, strict=True))


def still_computes(model: nn.Module, example: Any, expected: Sequence[Tensor]) -> bool:
    """Whether a model that was rearranged runs, and says what it did."""
    try:
        return same(expected, outputs_of(model, example))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.numel():
        return one.shape == other.shape
    tolerance = max(_TOLERANCE, _UNITS * torch.finfo(one.dtype).eps)
    return bool((one - other).abs().max() <= tolerance * one.abs().max())
