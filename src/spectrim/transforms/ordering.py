"""The orders in which a method keeps the coefficients of a spectrum of any rank.

An order first compares *levels* (the sum of the indices in ``l1-lex``, the order of the paper; the largest index in
``linf``) and breaks ties by the position in C order, which is lexicographic order. Both go into one integer key,

.. code-block:: text

    key(i) = level(i) * numel + position(i)

so that "the first k coefficients" is the comparison ``key <= cut`` with a single number: no stored mask, no rank
tensor, no sort, no rounding (the official code sorts float32 keys, which collide for large tensors).

References:
    Zhao et al. 2023, "Frequency Regularization" (arXiv 2304.07973), the zigzag order of the released code.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

Order = Literal["l1-lex", "linf"]
ORDERS: tuple[Order, ...] = ("l1-lex", "linf")


def shell_sizes(shape: Sequence[int], *, order: Order = "l1-lex") -> list[int]:
    """How many indices each level holds, from level 0 on.

    >>> shell_sizes((4, 4))
    [1, 2, 3, 4, 3, 2, 1]
    >>> shell_sizes((4, 2), order="linf")
    [1, 3, 2, 2]
    """
    _check(shape, order)
    if order == "linf":
        cubes = [math.prod(min(n, side) for n in shape) for side in range(max(shape) + 1)]
        return [after - before for before, after in itertools.pairwise(cubes)]
    return [int(count) for count in _sum_counts(shape)]


def cut_key(shape: Sequence[int], kept: int, *, order: Order = "l1-lex") -> int:
    """The key of the last of the first ``kept`` indices: an index is kept if and only if its key is not larger.

    Costs a few polynomial products, whatever the size of the tensor.

    Args:
        shape: Of the spectrum.
        kept: How many coefficients stay, in [1, numel].
        order: Which order.

    Raises:
        ValueError: ``kept`` is out of range, or the order is unknown.

    >>> int((keys((4, 4), (4, 4)) <= cut_key((4, 4), 5)).sum())
    5
    """
    level, last = _last(shape, kept, order)
    return level * math.prod(shape) + _position(shape, last)


def keys(
    shape: Sequence[int],
    box: Sequence[int],
    *,
    order: Order = "l1-lex",
    device: torch.device | str | None = None,
) -> Int[Tensor, "*box"]:
    """The keys of the indices inside a box at the origin of a spectrum.

    Args:
        shape: Of the whole spectrum.
        box: Sides of the box, each at most that of ``shape``.
        order: Which order.
        device: Of the result.

    >>> keys((2, 2), (2, 2))
    tensor([[ 0,  5],
            [ 6, 11]])
    """
    numel, rank = math.prod(shape), len(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    ramps = [
        torch.arange(side, device=device).view([-1 if axis == other else 1 for other in range(rank)])
        for axis, side in enumerate(box)
    ]
    if order == "l1-lex":
        # level * numel + position is linear in the index, hence a sum of one vector per axis
        total = ramps[0] * (numel + strides[0])
        for ramp, stride in zip(ramps[1:], strides[1:], strict=True):
            total = total + ramp * (numel + stride)
        return total
    level, position = ramps[0], ramps[0] * strides[0]
    for ramp, stride in zip(ramps[1:], strides[1:], strict=True):
        level, position = torch.maximum(level, ramp), position + ramp * stride
    return level * numel + position


def positions(shape: Sequence[int], kept: int, *, order: Order = "l1-lex") -> Int[Tensor, "kept"]:
    """Positions in C order of the first ``kept`` indices, in the order.

    >>> positions((3, 3), 5)
    tensor([0, 1, 3, 2, 4])
    """
    found = keys(shape, box_sides(shape, kept, order=order), order=order).flatten()
    found = found[found <= cut_key(shape, kept, order=order)].sort().values
    return found % math.prod(shape)


def box_sides(shape: Sequence[int], kept: int, *, order: Order = "l1-lex") -> tuple[int, ...]:
    """Sides of the smallest box at the origin that holds the first ``kept`` indices.

    >>> box_sides((64, 64, 3, 3), 370)
    (10, 11, 3, 3)
    """
    level, last = _last(shape, kept, order)
    largest = [0] * len(shape)
    if order == "linf":
        inside = [min(n, level) for n in shape]
        front = keys(shape, [min(n, level + 1) for n in shape], order=order)
        kept_there = (front <= cut_key(shape, kept, order=order)).nonzero()
        return tuple(max(a, int(b) + 1) for a, b in zip(inside, kept_there.max(dim=0).values, strict=True))
    if level > 0:
        largest = [min(n - 1, level - 1) for n in shape]
    largest = [max(a, b) for a, b in zip(largest, last, strict=True)]
    # Whatever else is kept of the last shell comes lexicographically before `last`: it shares a prefix with it,
    # is smaller on the next axis, and free behind.
    rest = level
    for axis, value in enumerate(last):
        room = sum(n - 1 for n in shape[axis + 1 :])
        lowest = max(0, rest - room)
        if lowest < value:
            largest[axis] = max(largest[axis], value - 1)
            for later in range(axis + 1, len(shape)):
                largest[later] = max(largest[later], min(shape[later] - 1, rest - lowest))
        rest -= value
    return tuple(side + 1 for side in largest)


def _last(shape: Sequence[int], kept: int, order: Order) -> tuple[int, tuple[int, ...]]:
    """Level and index of the last of the first ``kept`` indices."""
    sizes = shell_sizes(shape, order=order)
    if not 1 <= kept <= math.prod(shape):
        raise ValueError(
            f"kept must lie in [1, {math.prod(shape)}] for a spectrum of shape {tuple(shape)}, got {kept}."
        )
    level, before = 0, 0
    while before + sizes[level] < kept:
        before += sizes[level]
        level += 1
    return level, _nth_in_shell(shape, level, kept - before, order)


def _nth_in_shell(shape: Sequence[int], level: int, nth: int, order: Order) -> tuple[int, ...]:
    """The ``nth`` index (from 1) of a shell in lexicographic order, found axis by axis by counting what is left."""
    index: list[int] = []
    if order == "linf":
        reached = False
        for axis, n in enumerate(shape):
            tail = shape[axis + 1 :]
            inner, outer = math.prod(min(m, level) for m in tail), math.prod(min(m, level + 1) for m in tail)
            for value in range(min(n, level + 1)):
                count = outer if reached or value == level else outer - inner
                if nth <= count:
                    break
                nth -= count
            index.append(value)
            reached = reached or value == level
        return tuple(index)
    rest = level
    for axis, n in enumerate(shape):
        counts = _sum_counts(shape[axis + 1 :])
        for value in range(max(0, rest - len(counts) + 1), min(n, rest + 1)):
            count = int(counts[rest - value])
            if nth <= count:
                break
            nth -= count
        index.append(value)
        rest -= value
    return tuple(index)


def _sum_counts(shape: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """How many indices have each sum: the coefficients of the product of (1 + x + … + x^(n-1))."""
    counts = np.ones(1, dtype=np.int64)
    for n in shape:
        cumulated = np.cumsum(np.concatenate([counts, np.zeros(n - 1, dtype=np.int64)]))
        cumulated[n:] -= cumulated[:-n].copy()
        counts = cumulated
    return counts


def _position(shape: Sequence[int], index: Sequence[int]) -> int:
    position = 0
    for n, i in zip(shape, index, strict=True):
        position = position * n + i
    return position


def _check(shape: Sequence[int], order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
    if not shape or any(n < 1 for n in shape):
        raise ValueError(f"an order needs at least one axis and no empty one, got shape {tuple(shape)}.")
