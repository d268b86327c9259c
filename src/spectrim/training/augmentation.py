"""What is done to training images so that a network does not learn them by heart. The given generator decides."""

import math
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from spectrim.training.source import Augmentation

_SHARE = 14  # of the side: 2 pixels of 28, 2 of 32, 16 of 224
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a resized crop, as everyone draws it for ImageNet


def augmented(
    pixels: UInt8[Tensor, "image c h w"], labels: Tensor, how: Augmentation, *, generator: torch.Generator
) -> tuple[UInt8[Tensor, "image c h w"], Tensor]:
    """Images moved, cut and mirrored; labels of pixels follow.

    Args:
        pixels: On the generator's device.
        labels: One class an image, or one a pixel.
        how: ``shift``: moved by a few pixels; ``crop-flip``: moved by an eighth of the side, half of them mirrored;
            ``resized-crop``: a window of 8 to 100 % of the area and an aspect of 3/4 to 4/3, brought back to the size of the
            image, half of them mirrored; ``none``: as they are.
        generator: Source of randomness.

    >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    >>> augmented(images, labels, "shift", generator=torch.Generator())[0].shape
    torch.Size([2, 1, 8, 8])
    """
    if how == "none":
        return pixels, labels
    if how == "resized-crop":
        return _resized_crops(pixels, labels, generator)
    side = pixels.shape[-1]
    reach = max(1, side // _SHARE) if how == "shift" else max(1, side // 8)
    dense = labels.ndim > 1
    moved = torch.randint(-reach, reach + 1, (2, len(pixels)), generator=generator, device=pixels.device)
    flipped = torch.rand(len(pixels), generator=generator, device=pixels.device) < (0.5 if how == "crop-flip" else 0.0)
    pixels = _moved(pixels, moved, flipped, reach)
    if dense:
        labels = _moved(labels.unsqueeze(1), moved, flipped, reach).squeeze(1)
    return pixels, labels


def _moved(images: Tensor, offsets: Tensor, flipped: Tensor, reach: int) -> Tensor:
    """Each image read from its own window of the zero-padded batch, backwards where it is flipped."""
    count, _, height, width = images.shape
    padded = F.pad(images, (reach,) * 4)
    rows = torch.arange(height, device=images.device) + reach + offsets[0].unsqueeze(1)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = torch.where(flipped.unsqueeze(1), width - 1 - columns, columns) + reach + offsets[1].unsqueeze(1)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded[image, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def _resized_crops(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of the images at the images' size: pixels in between the four nearest, labels from the nearest."""
    count = len(pixels)

    def drawn(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=pixels.device)

    area = _AREA[0] + (_AREA[1] - _AREA[0]) * drawn(_TRIES, count)
    ratio = torch.exp(math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * drawn(_TRIES, count))
    scales = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1)  # of the width, and of the height
    fits = (scales <= 1).all(-1)
    first = fits.int().argmax(0)
    scale = torch.where(fits.any(0)[:, None], scales[first, torch.arange(count, device=pixels.device)], 1.0)
    shift = (1 - scale) * (2 * drawn(count, 2) - 1)
    mirrored = torch.where(drawn(count) < 0.5, -1.0, 1.0)
    window = torch.zeros(count, 2, 3, device=pixels.device)
    window[:, 0, 0], window[:, 1, 1], window[:, :, 2] = mirrored * scale[:, 0], scale[:, 1], shift
    grid = F.affine_grid(window, [*pixels.shape], align_corners=False)

    def seen(images: Tensor, how: Literal["bilinear", "nearest"]) -> Tensor:
        return F.grid_sample(images, grid, mode=how, padding_mode="border", align_corners=False)

    if labels.ndim > 1:
        labels = seen(labels.unsqueeze(1).float(), "nearest").squeeze(1).to(labels.dtype)
    return seen(pixels.float(), "bilinear").round().to(pixels.dtype), labels
