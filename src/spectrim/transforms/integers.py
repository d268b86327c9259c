"""Whole numbers in no more bits than they need."""

import torch
from torch import Tensor

_WIDTHS = (torch.int16, torch.int32)


def narrowest(tensor: Tensor) -> torch.dtype:
    """The narrowest of 16 bits, 32 bits and the tensor's own dtype that holds all of its numbers, if they are whole.

    A single number, such as a counter, keeps its dtype, and so does everything that is not whole.

    >>> narrowest(torch.tensor([3, -1])), narrowest(torch.tensor([40_000])), narrowest(torch.tensor(3))
    (torch.int16, torch.int32, torch.int64)
    """
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta or not tensor.ndim:
        return tensor.dtype
    for dtype in _WIDTHS:
        if dtype.itemsize < tensor.dtype.itemsize:
            limits = torch.iinfo(dtype)
            if bool(((tensor >= limits.min) & (tensor <= limits.max)).all()):
                return dtype
    return tensor.dtype


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every number of one dtype is one of another, both of them whole numbers.

    >>> holds(torch.int64, torch.int16), holds(torch.int16, torch.int32), holds(torch.int64, torch.bool)
    (True, False, False)
    """
    if any(each.is_floating_point or each.is_complex or each == torch.bool for each in (wide, narrow)):
        return False
    outer, inner = torch.iinfo(wide), torch.iinfo(narrow)
    return outer.min <= inner.min and inner.max <= outer.max
