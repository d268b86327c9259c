"""What is done to training images so that a network does not learn them by heart. The given generator decides."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from spectrim.training.source import Augmentation

_SHARE = 14  # of the side: 2 pixels of 28, 2 of 32, 16 of 224


def augmented(
    pixels: UInt8[Tensor, "image c h w"], labels: Tensor, how: Augmentation, *, generator: torch.Generator
) -> tuple[UInt8[Tensor, "image c h w"], Tensor]:
    """Images moved by a few pixels (``shift``), or moved further and mirrored (``crop-flip``); labels of pixels follow.

    Args:
        pixels: On the generator's device.
        labels: One class an image, or one a pixel.
        how: ``none`` returns both as they are.
        generator: Source of randomness.

    >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    >>> augmented(images, labels, "shift", generator=torch.Generator())[0].shape
    torch.Size([2, 1, 8, 8])
    """
    if how == "none":
        return pixels, labels
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
