"""The orders in which the frequencies of a two-dimensional block are kept, low ones first."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from spectrim.transforms.dct import forward_basis

Scan = Literal["zigzag", "radial", "square"]
SCANS: tuple[Scan, ...] = ("zigzag", "radial", "square")


def scan(height: int, width: int, order: Scan = "zigzag") -> list[int]:
    """Positions in C order of the frequencies of a block, in the order in which they are kept.

    ``zigzag`` is JPEG's: by the sum of the two indices, from diagonal to diagonal in alternating directions. ``radial`` goes by
    the sum of their squares, ``square`` by the larger of the two; both break ties by zigzag.

    Args:
        height, width: Of the block, at least 1.
        order: Which.

    Raises:
        ValueError: A side is not positive, or the order is unknown.

    >>> scan(3, 3)
    [0, 1, 3, 6, 4, 2, 5, 7, 8]
    >>> scan(2, 2, "square")
    [0, 1, 2, 3]
    """
    if height < 1 or width < 1:
        raise ValueError(f"a block needs two sides of at least 1, got {height} x {width}.")
    if order not in SCANS:
        raise ValueError(f"order must be one of {', '.join(map(repr, SCANS))}, got {order!r}.")

    def key(index: tuple[int, int]) -> tuple[int, int, int]:
        u, v = index
        level = {"zigzag": 0, "radial": u * u + v * v, "square": max(u, v)}[order]
        return level, u + v, u if (u + v) % 2 else -u

    indices = sorted(((u, v) for u in range(height) for v in range(width)), key=key)
    return [u * width + v for u, v in indices]


def block_basis(
    block: tuple[int, int], order: Sequence[int], *, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "frequency pixel"]:
    """The orthonormal DCT-II of a block as one matrix: a row for each frequency in the order given, a column for each pixel.

    Args:
        block: Height and width.
        order: Positions in C order of the frequencies, as :func:`scan` gives them.
        dtype: Of the result; the cosines are taken in float64.

    >>> block_basis((1, 2), [0, 1])
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    whole = torch.kron(forward_basis(block[0]).contiguous(), forward_basis(block[1]).contiguous())
    return whole[list(order)].to(dtype)
