"""Labelled images, a batch at a time: in memory, or decoded from files when they are asked for."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Images(Protocol):
    """Labelled images of one size."""

    @property
    def labels(self) -> Int64[Tensor, "image *pixel"]:
        """One class an image, or one a pixel."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def batch(self, rows: Int64[Tensor, " row"]) -> tuple[UInt8[Tensor, "row c h w"], Int64[Tensor, "row *pixel"]]:
        """Some of the images, with their labels.

        Raises:
            DataError: A file cannot be read; the message names it.
        """
        ...


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images in memory.

    Attributes:
        pixels: 0 to 255.
        labels: One class an image, or one a pixel.
    """

    pixels: UInt8[Tensor, "image c h w"]
    labels: Int64[Tensor, "image *pixel"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Int64[Tensor, " row"]) -> tuple[UInt8[Tensor, "row c h w"], Int64[Tensor, "row *pixel"]]:
        """Some of the images, with their labels."""
        return self.pixels[rows], self.labels[rows]


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images in files, decoded by a few threads when a batch is asked for.

    Attributes:
        paths: One file an image.
        labels: One class an image.
        decode: File to pixels of ``shape``.
        shape: Channels, height and width.
    """

    paths: Sequence[Path]
    labels: Int64[Tensor, " image"]
    decode: Callable[[Path], NDArray[np.uint8]]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, rows: Int64[Tensor, " row"]) -> tuple[UInt8[Tensor, "row c h w"], Int64[Tensor, " row"]]:
        """Some of the images, with their labels."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            arrays = list(pool.map(lambda row: self.decode(self.paths[row]), rows.tolist()))
        return torch.from_numpy(np.stack(arrays)), self.labels[rows]

    def stored(self) -> StoredImages:
        """All of them, decoded into memory."""
        pixels, labels = self.batch(torch.arange(len(self)))
        return StoredImages(pixels, labels)


def resized(pixels: UInt8[Tensor, "image c h w"], size: int | None) -> UInt8[Tensor, "image c size size"]:
    """Images scaled to a square, bilinear, without aliasing; as they are if no size is asked for.

    >>> resized(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 28).shape
    torch.Size([2, 1, 28, 28])
    """
    if size is None or pixels.shape[-2:] == (size, size):
        return pixels
    parts = [
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        for part in torch.split(pixels, 4096)
    ]
    return torch.cat(parts)
