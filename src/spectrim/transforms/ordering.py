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

import functools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Order = Literal["l1-lex", "linf"]
ORDERS: tuple[Order, ...] = ("l1-lex", "linf")
_Counts: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


def shell_sizes(shape: Sequence[int], *, order: Order = "l1-lex") -> list[int]:
    """How many indices each level holds, from level 0 on.

    >>> shell_sizes((4, 4))
    [1, 2, 3, 4, 3, 2, 1]
    >>> shell_sizes((4, 2), order="linf")
    [1, 3, 2, 2]
    """
    return [int(size) for size in _shells(tuple(shape), order)]


def cut_key(shape: Sequence[int], kept: int, *, order: Order = "l1-lex") -> int:
    """The key of the last of the first ``kept`` indices: an index is kept if and only if its key is not larger.

    Costs a few binary searches, whatever the size of the tensor.

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
    ramps, strides = _ramps(shape, box, device), _strides(shape)
    numel = math.prod(shape)
    if order == "l1-lex":
        # level * numel + position is linear in the index, hence a sum of one vector per axis
        return _summed([ramp * (numel + stride) for ramp, stride in zip(ramps, strides, strict=True)])
    level = functools.reduce(torch.maximum, ramps)
    return level * numel + _summed([ramp * stride for ramp, stride in zip(ramps, strides, strict=True)])


def kept_inside(
    shape: Sequence[int], box: Sequence[int], cut: Int[Tensor, ""], *, order: Order = "l1-lex"
) -> Bool[Tensor, "*box"]:
    """Which indices inside a box at the origin have a key of at most ``cut``: ``keys(shape, box) <= cut``, cheaper.

    Args:
        shape: Of the whole spectrum.
        box: Sides of the box, each at most that of ``shape``.
        cut: Of :func:`cut_key`, on the device of the result.
        order: Which order.

    >>> kept_inside((4, 4), (3, 3), torch.tensor(cut_key((4, 4), 5))).int()
    tensor([[1, 1, 1],
            [1, 1, 0],
            [0, 0, 0]], dtype=torch.int32)
    """
    if order != "l1-lex":
        return keys(shape, box, order=order, device=cut.device) <= cut
    # The first axis stands on one side, the others on the other, so that no integer per coefficient is made.
    numel = math.prod(shape)
    ramps = _ramps(shape, box, cut.device)
    first, *others = [ramp * (numel + stride) for ramp, stride in zip(ramps, _strides(shape), strict=True)]
    return first <= cut - _summed(others) if others else first <= cut


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
    sizes = _shells(tuple(shape), order)
    if not 1 <= kept <= math.prod(shape):
        raise ValueError(
            f"kept must lie in [1, {math.prod(shape)}] for a spectrum of shape {tuple(shape)}, got {kept}."
        )
    level, nth = _bin(sizes, kept)
    return level, _nth_in_shell(shape, level, nth, order)


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
        counts = _sum_counts(tuple(shape[axis + 1 :]))
        lowest, highest = max(0, rest - len(counts) + 1), min(n - 1, rest)
        # with this value on the axis, what follows has the sum rest - value
        step, nth = _bin(counts[rest - highest : rest - lowest + 1][::-1], nth)
        index.append(lowest + step)
        rest -= lowest + step
    return tuple(index)


def _bin(counts: _Counts, nth: int) -> tuple[int, int]:
    """In which of the consecutive bins the ``nth`` of all things lies (from 1), and the how-manieth it is there."""
    ends = np.cumsum(counts)
    which = int(np.searchsorted(ends, nth))
    return which, nth - int(ends[which] - counts[which])


@functools.lru_cache(maxsize=1024)
def _shells(shape: tuple[int, ...], order: Order) -> _Counts:
    _check(shape, order)
    if order == "l1-lex":
        return _sum_counts(shape)
    cubes = np.array([math.prod(min(n, side) for n in shape) for side in range(max(shape) + 1)], dtype=np.int64)
    return cubes[1:] - cubes[:-1]


@functools.lru_cache(maxsize=1024)
def _sum_counts(shape: tuple[int, ...]) -> _Counts:
    """How many indices have each sum: the coefficients of the product of (1 + x + … + x^(n-1))."""
    counts = np.ones(1, dtype=np.int64)
    for n in shape:
        cumulated = np.cumsum(np.concatenate([counts, np.zeros(n - 1, dtype=np.int64)]))
        cumulated[n:] -= cumulated[:-n].copy()
        counts = cumulated
    return counts


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _ramps(shape: Sequence[int], box: Sequence[int], device: torch.device | str | None) -> list[Tensor]:
    """The index on each axis, inside the box, shaped to broadcast."""
    rank = len(shape)
    return [
        torch.arange(side, device=device).view([-1 if axis == other else 1 for other in range(rank)])
        for axis, side in enumerate(box)
    ]


def _summed(terms: Sequence[Tensor]) -> Tensor:
    # The last axes first, while the sum is small.
    return functools.reduce(torch.add, reversed(terms))


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
