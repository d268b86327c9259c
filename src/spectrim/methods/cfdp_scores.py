"""How much a channel matters, by its feature maps: the published scores of CFDP and the controls."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spectrim.transforms.blocks import Scale, block_coefficients

LAMBDA = 0.03
"""Weight of the spatial term; the paper's."""

BLOCK = 4
"""Side of the patches; the paper's."""

_CHUNK = 1 << 18
"""So many numbers at a time are transformed and counted: what stays in the cache is not waited for."""

Maps = Float[Tensor, "image channel height width"]
PerMap = Float[Tensor, "image channel"]


class Score(Protocol):
    """A score of maps, by the Gaussian's deviation, λ and the side of the patches, as far as it has them."""

    def __call__(self, maps: Maps, sigma: float, weight: float, block: int = BLOCK, /) -> PerMap: ...  # noqa: D102


def frequency_score(
    maps: Maps, *, block: int = BLOCK, scale: Scale = "ortho", sigma: float | None = None, weight: float = LAMBDA
) -> PerMap:
    """The paper's score of each map *F*, with :math:`\\tilde F` its block spectrum and *µ* the mean of that.

    .. math::

        L = \\frac{\\#\\{\\tilde F \\ge µ\\}}{H W}\\, \\lVert \\tilde F \\rVert + λ \\lVert F \\rVert

    Orthonormal and without a Gaussian, :math:`\\lVert \\tilde F \\rVert = \\lVert F \\rVert`: the score is the energy of
    the map times the share of its coefficients that are above their mean, plus λ.

    Args:
        maps: Features.
        block: Side of the patches.
        scale: ``ortho``, or ``none`` as in equation 6.
        sigma: Of the Gaussian before the transform; none if None.
        weight: λ.

    References:
        Khaki and Luo 2023 (arXiv 2306.04147), equations 4 to 12.

    >>> frequency_score(torch.arange(16.0).reshape(1, 1, 4, 4))
    tensor([[3.2573]], dtype=torch.float64)
    """
    flat = maps.reshape(-1, *maps.shape[-2:])
    together = max(_CHUNK // max(flat[0].numel(), 1), 1) if len(flat) else 1
    parts = [_frequency_score(part, block, scale, sigma, weight) for part in flat.split(together)]  # type: ignore[no-untyped-call]
    return torch.cat(parts).reshape(maps.shape[:-2])


def _frequency_score(maps: Tensor, block: int, scale: Scale, sigma: float | None, weight: float) -> Tensor:
    spectrum = block_coefficients(maps, block, scale=scale, sigma=sigma)
    spatial = _norm(maps)
    spectral = spatial if scale == "ortho" and sigma is None else torch.linalg.vector_norm(spectrum, dim=-1).double()
    mean = spectrum.mean(-1, keepdim=True, dtype=torch.float64).to(spectrum.dtype)
    # In place, and numbers: summing them is several times faster than truth values.
    share = spectrum.ge_(mean).sum(-1).double() / spectrum.shape[-1]
    return share * spectral + weight * spatial


def official_score(maps: Maps, weight: float = LAMBDA) -> PerMap:
    """What the authors' released code computes, in closed form.

    It smooths the four coefficients of every 2x2 patch with a Gaussian of 10 pixels: each becomes their average, which
    is half of the patch's first pixel. So with *q* every second pixel, leftovers of odd sides left out,

    .. math::

        L = \\lVert q \\rVert\\, \\frac{4\\, \\#\\{q/2 > µ\\}}{H W} + λ \\lVert F \\rVert, \\qquad µ = \\frac{2 \\sum q}{H W}

    and no frequency is left in it. Maps that are not square count with their own sides (the release fails on them).

    References:
        Skhaki18/CFDP, ``CFDP_Metric.py``.

    >>> official_score(torch.arange(16.0).reshape(1, 1, 4, 4))
    tensor([[7.5371]], dtype=torch.float64)
    """
    height, width = maps.shape[-2:]
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    first = maps[..., : height // 2 * 2 : 2, : width // 2 * 2 : 2]
    mean = 2 * first.sum((-2, -1), keepdim=True, dtype=torch.float64) / (height * width)
    above = 4 * (first / 2 > mean.to(first.dtype)).sum((-2, -1))
    leftover = height * width - 4 * first.shape[-2] * first.shape[-1]
    above = above + leftover * (mean[..., 0, 0] < 0)
    return above / (height * width) * _norm(first) + weight * _norm(maps)


def _norm(maps: Maps) -> PerMap:
    wide = torch.promote_types(maps.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(maps.to(wide), dim=(-2, -1))
    return norms.double()


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "ortho": lambda maps, _, weight, block=BLOCK: frequency_score(maps, block=block, weight=weight),
        "paper": lambda maps, sigma, weight, block=BLOCK: frequency_score(
            maps, block=block, scale="none", sigma=sigma, weight=weight
        ),
        "official": lambda maps, _, weight, _block=BLOCK: official_score(maps, weight),
        "l1": lambda maps, _sigma, _weight, _block=BLOCK: maps.abs().sum((-2, -1), dtype=torch.float64),
        "l2": lambda maps, _sigma, _weight, _block=BLOCK: _norm(maps),
    }
)
"""Scores by name. ``random``, the third control, looks at no map."""
