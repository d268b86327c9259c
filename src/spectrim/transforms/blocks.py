"""Cosine transforms of the small square patches of images, as products with block-diagonal matrices."""

import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from spectrim.transforms.dct import forward_basis

Scale = Literal["ortho", "none"]

# Patches are transformed many at a time, by one matrix of up to this many rows: a product with a 4x4 matrix alone
# waits for memory. In small images one matrix does a whole band of patches, in both directions at once.
_TILE = 64


def block_dctn(
    x: Float[Tensor, "*batch height width"], size: int, *, scale: Scale = "ortho", sigma: float | None = None
) -> Float[Tensor, "*batch height width"]:
    """DCT-II of every ``size`` x ``size`` patch of an image, put back where the patch was.

    .. math::

        \\tilde p(u, v) = \\sum_{x, y} \\cos\\frac{\\pi u (2x + 1)}{2 B} \\cos\\frac{\\pi v (2y + 1)}{2 B}\\, g(p)(x, y)

    times the factors that make it orthonormal where ``scale`` is ``ortho``. Patches at the lower and the right edge are
    smaller where the size does not divide the image, and are transformed at their own size.

    Args:
        x: Images of any real dtype; half precision is transformed in float32 and returned so.
        size: Side *B* of a patch.
        scale: ``ortho``, or ``none`` for the bare sum of cosines.
        sigma: Standard deviation, in pixels, of a Gaussian *g* that smooths each patch alone before the transform
            (borders reflected, cut at four deviations, as :func:`scipy.ndimage.gaussian_filter`); none if None.

    Raises:
        ValueError: ``size`` or ``sigma`` is not positive.

    References:
        Khaki and Luo 2023 (arXiv 2306.04147), equations 4 and 6.

    >>> block_dctn(torch.arange(4.0).expand(2, 4), 2).round(decimals=4) + 0.0
    tensor([[ 1., -1.,  5., -1.],
            [ 0.,  0.,  0.,  0.]])
    """
    _check(size, sigma)
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    height, width = y.shape[-2:]
    if y.numel() and height % size == 0 and size * width <= _TILE:
        return (y.reshape(-1, size * width) @ _band(width, size, scale, sigma).to(y).T).reshape(y.shape)
    y = torch.cat([part @ _matrix(part.shape[-1], size, scale, sigma).to(y).T for part in _tiles(y, -1, size)], -1)
    return torch.cat([_matrix(part.shape[-2], size, scale, sigma).to(y) @ part for part in _tiles(y, -2, size)], -2)


def block_coefficients(
    x: Float[Tensor, "*batch height width"], size: int, *, scale: Scale = "ortho", sigma: float | None = None
) -> Float[Tensor, "*batch coefficient"]:
    """The numbers of :func:`block_dctn` in no particular order, several times faster; not a view of the input.

    Args:
        x, size, scale, sigma: As for :func:`block_dctn`.

    Raises:
        ValueError: As there.

    >>> x = torch.rand(2, 8, 8)
    >>> torch.allclose(block_coefficients(x, 4).sort()[0], block_dctn(x, 4).flatten(1).sort()[0], atol=1e-6)
    True
    """
    _check(size, sigma)
    height, width = x.shape[-2:]
    whole = height // size * size
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    if y.numel() and size * width <= _TILE:
        bands = [y[..., :whole, :].reshape(*y.shape[:-2], -1, size * width) @ _band(width, size, scale, sigma).to(y).T]
        if whole < height:
            edge = torch.kron(_patch(height - whole, scale, sigma).contiguous(), _matrix(width, size, scale, sigma))
            bands.append(y[..., None, whole:, :].flatten(-2) @ edge.to(y).T)
        return torch.cat([each.flatten(-2) for each in bands], -1) if len(bands) > 1 else bands[0].flatten(-2)
    if height == whole and width % size == 0 and (patches := _patches(y, size)) is not None:
        return (patches @ _band(size, size, scale, sigma).to(y).T).flatten(-2)
    return block_dctn(x, size, scale=scale, sigma=sigma).flatten(-2)


def _check(size: int, sigma: float | None) -> None:
    if size < 1 or (sigma is not None and not sigma > 0):
        raise ValueError(f"size must be at least 1 and sigma positive or None, got {size} and {sigma}.")


def _patches(x: Float[Tensor, "*batch height width"], size: int) -> Float[Tensor, "*batch patch pixel"] | None:
    """The patches one after the other, or None where that is no faster than what else there is.

    Copies in runs of four numbers of 32 bits are slow, and fast where they are taken for one number of 128 bits.
    """
    if size != 4 or x.dtype != torch.float32 or x.device.type not in {"cpu", "cuda"}:
        return None
    *batch, height, width = x.shape
    rows = x.contiguous().view(torch.complex128).reshape(*batch, height // size, size, width // size)
    together: Tensor = rows.transpose(-2, -1).contiguous().view(torch.float32)
    return together.reshape(*batch, -1, size * size)


def _tiles(x: Tensor, axis: int, size: int) -> Iterator[Tensor]:
    """Whole patches, many at a time."""
    tile, length = max(_TILE // size, 1) * size, x.shape[axis]
    return (x.narrow(axis, start, min(tile, length - start)) for start in range(0, length, tile))


@functools.lru_cache(maxsize=64)
def _matrix(length: int, size: int, scale: Scale, sigma: float | None) -> Float[Tensor, "length length"]:
    """The transforms of all patches of a line, float64."""
    sides = [size] * (length // size) + [length % size] * bool(length % size)
    blocks: Tensor = torch.block_diag(*(_patch(side, scale, sigma) for side in sides))  # type: ignore[no-untyped-call]
    return blocks


@functools.lru_cache(maxsize=64)
def _band(width: int, size: int, scale: Scale, sigma: float | None) -> Float[Tensor, "band band"]:
    """The transforms of ``size`` whole lines, row after row."""
    return torch.kron(_patch(size, scale, sigma).contiguous(), _matrix(width, size, scale, sigma).contiguous())


def _patch(side: int, scale: Scale, sigma: float | None) -> Float[Tensor, "side side"]:
    basis = forward_basis(side) if scale == "ortho" else forward_basis(side, norm="backward") / 2
    if sigma is None:
        return basis
    return basis @ torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, axis=0))
