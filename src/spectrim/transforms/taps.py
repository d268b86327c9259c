"""The taps of a kernel: where each reads, and the cheap spatial transformations that turn one filter into another."""

import itertools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Family: TypeAlias = Literal["scalar", "rotation", "affine", "affine-moved", "matrix"]

FAMILIES: tuple[Family, ...] = ("scalar", "rotation", "affine", "affine-moved", "matrix")
"""A factor for every tap; a rotation of the kernel about its centre; an affine map of its coordinates, which says for every tap
where it is read; one that says where it goes; any linear map of its taps."""


def shape_of(family: Family, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the numbers of one transformation.

    Raises:
        ValueError: There is no such family, or it does not act on such a kernel.

    >>> shape_of("scalar", (3, 3)), shape_of("rotation", (3, 3)), shape_of("affine", (5, 5)), shape_of("matrix", (3,))
    ((3, 3), (), (2, 3), (3, 3))
    """
    taps = torch.Size(kernel).numel()
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}.")
    if family in ("rotation", "affine", "affine-moved") and (len(kernel) != 2 or kernel[0] != kernel[1]):
        raise ValueError(f"{family} turns square kernels of two dimensions, got one of {kernel}. Use scalar or matrix.")
    return {"scalar": kernel, "rotation": (), "matrix": (taps, taps)}.get(family, (2, 3))


def identity(family: Family, kernel: tuple[int, ...]) -> Tensor:
    """The transformation that changes nothing.

    >>> identity("affine", (3, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    shape = shape_of(family, kernel)
    if family == "scalar":
        return torch.ones(shape)
    return torch.zeros(()) if family == "rotation" else torch.eye(*shape)


def matrices(family: Family, numbers: Float[Tensor, "..."], kernel: tuple[int, ...]) -> Float[Tensor, "... tap source"]:
    """Each transformation as a matrix on the taps in row-major order: tap *k* of the result is row *k* times the filter.

    Rotations and affine maps resample the kernel bilinearly on a grid whose corners are the outer taps, with zeros outside:
    the result at a position is the filter at the mapped position. ``affine-moved`` goes the other way: each tap moves to its
    mapped position and is spread over the taps around it, and what leaves the kernel is lost. That is the transpose.

    Args:
        family: Of the transformations.
        numbers: Of each.
        kernel: Sides.

    References:
        Miles and Mikolajczyk 2023 (arXiv 2110.12844), the extension to more expressive transformations.

    >>> turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> (matrices("affine", turn, (3, 3)) @ torch.arange(1.0, 10.0)).reshape(3, 3)
    tensor([[3., 6., 9.],
            [2., 5., 8.],
            [1., 4., 7.]])
    >>> (matrices("affine-moved", turn, (3, 3)) @ torch.arange(1.0, 10.0)).reshape(3, 3)
    tensor([[7., 4., 1.],
            [8., 5., 2.],
            [9., 6., 3.]])
    """
    if family == "matrix":
        return numbers
    if family == "scalar":
        return torch.diag_embed(numbers.flatten(-len(kernel)))
    if family == "rotation":
        cosine, sine, zero = numbers.cos(), numbers.sin(), torch.zeros_like(numbers)
        numbers = torch.stack(
            [torch.stack([cosine, -sine, zero], dim=-1), torch.stack([sine, cosine, zero], dim=-1)], dim=-2
        )
    batch = numbers.shape[:-2]
    side = kernel[0]
    count = batch.numel()
    grid = F.affine_grid(numbers.reshape(count, 2, 3), [count, 1, side, side], align_corners=True)
    units = torch.eye(side * side, dtype=numbers.dtype, device=numbers.device).reshape(1, -1, side, side)
    sampled = F.grid_sample(units.expand(count, -1, -1, -1), grid, align_corners=True, padding_mode="zeros")
    rows = sampled.flatten(2) if family == "affine-moved" else sampled.flatten(2).mT
    return rows.reshape(*batch, side * side, side * side)


def transformed(
    family: Family, numbers: Float[Tensor, "group filter ..."], filters: Float[Tensor, "filter channel *kernel"]
) -> Float[Tensor, "filter channel *kernel"]:
    """Filters after their transformations, one for each group of input channels.

    Args:
        family: Of the transformations.
        numbers: Of each, for every group and filter.
        filters: As many; the number of groups divides their channels.

    >>> transformed("scalar", torch.full((1, 1, 3), 2.0), torch.ones(1, 2, 3))
    tensor([[[2., 2., 2.],
             [2., 2., 2.]]])
    """
    groups = numbers.shape[0]
    kernel = tuple(filters.shape[2:])
    grouped = filters.reshape(len(filters), groups, -1, *kernel)
    if family == "scalar":
        return (grouped * numbers.transpose(0, 1).unsqueeze(2)).reshape(filters.shape)
    rows = matrices(family, numbers, kernel).transpose(0, 1)  # filter, group, tap, source
    return (grouped.flatten(3) @ rows.mT).reshape(filters.shape)


def shared_slices(
    filters: Float[Tensor, "filter channel *kernel"], groups: int
) -> Float[Tensor, "filter depth *kernel"]:
    """The slices that come closest to filters when every group of their channels has the same one: the means.

    >>> shared_slices(torch.tensor([[[1.0], [2.0], [3.0], [6.0]]]), 2)
    tensor([[[2.],
             [4.]]])
    """
    return filters.reshape(len(filters), groups, -1, *filters.shape[2:]).mean(1)


def spread(slices: Float[Tensor, "filter depth *kernel"], groups: int) -> Float[Tensor, "filter channel *kernel"]:
    """Filters every group of whose channels has the same slice.

    >>> spread(torch.tensor([[[2.0], [4.0]]]), 2).flatten()
    tensor([2., 4., 2., 4.])
    """
    return slices.repeat(1, groups, *(1,) * (slices.ndim - 2))


def fitted(
    wanted: Float[Tensor, "filter channel *kernel"], filters: Float[Tensor, "filter channel *kernel"], groups: int
) -> Float[Tensor, "group filter *kernel"]:
    """The factors of the taps that bring filters closest to wanted ones, by least squares; 0 where a filter is zero.

    .. math::

        T_{gk} = \\frac{\\langle W_{gk}, B_{gk} \\rangle}{\\lVert B_{gk} \\rVert^2}

    >>> fitted(torch.tensor([[[4.0, 1.0]]]), torch.tensor([[[2.0, 0.0]]]), 1)
    tensor([[[2., 0.]]])
    """
    kernel = tuple(filters.shape[2:])
    some, mine = (each.reshape(len(filters), groups, -1, *kernel) for each in (wanted, filters))
    products, squares = (some * mine).sum(2), (mine * mine).sum(2)
    factors = torch.where(squares > 0, products / squares.where(squares > 0, torch.ones_like(squares)), 0)
    return factors.transpose(0, 1)


def fitted_matrices(
    wanted: Float[Tensor, "filter channel *kernel"], filters: Float[Tensor, "filter channel *kernel"], groups: int
) -> Float[Tensor, "group filter tap source"]:
    """The linear maps of the taps that bring filters closest to wanted ones: the least-squares solution of least norm.

    >>> fitted_matrices(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[2.0, 0.0]]]), 1)
    tensor([[[[0.5000, 0.0000],
              [1.0000, 0.0000]]]])
    """
    some, mine = (each.reshape(len(filters), groups, -1, each[0, 0].numel()) for each in (wanted, filters))
    solved: Tensor = torch.linalg.pinv(mine) @ some
    return solved.mT.transpose(0, 1).contiguous()


def reads(
    padded: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], list[tuple[slice, ...]]]:
    """The sides of a convolution's output, and where each tap, in row-major order, reads the padded input for it.

    >>> reads((7, 9), (2, 1), (2, 1), (3, 1))
    ((2, 9), [(slice(0, 3, 2), slice(0, 9, 1)), (slice(3, 6, 2), slice(0, 9, 1))])
    """
    steps = list(zip(padded, kernel, stride, dilation, strict=True))
    left = tuple((side - d * (k - 1) - 1) // s + 1 for side, k, s, d in steps)
    along = [
        [slice(tap * d, tap * d + (count - 1) * s + 1, s) for tap in range(k)]
        for count, (_, k, s, d) in zip(left, steps, strict=True)
    ]
    return left, list(itertools.product(*along))
