"""A folder of image files, one sub-folder per class."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectrim.errors import DataError, first_line
from spectrim.training import extras
from spectrim.training.images import FileImages, Images
from spectrim.training.source import Source
from spectrim.training.sources import folder

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_TESTS = ("val", "test", "valid", "validation")
_EVERY = 5
_IN_MEMORY = 1 << 31
_DEFAULT_SIZE = 224
_LOOK_AT = 50


def open_source(name: str, place: str, image_size: int | None) -> Source:
    """``DIR/train/CLASS/*.png`` and ``DIR/val/CLASS/*.png``, or ``DIR/CLASS/*.png``, of which a fifth is for testing.

    Which fifth is decided by a fixed shuffle of the sorted names within each class. Images are scaled on their shorter
    side and cropped to the centre; without an image size, to the size that they all have, or else to 224. Up to 2 GiB
    of pixels are decoded once, more are decoded as they are needed.

    Raises:
        DataError: No folder, no class, no image, or a file that is no image.
        UnsupportedError: Pillow is not installed.
    """
    extras.load("PIL.Image", extra="train", purpose=f"the data source {name!r}")
    root = folder(place, name=name)
    tests = next((root / each for each in _TESTS if (root / each).is_dir()), None)
    if (root / "train").is_dir() and tests is not None:
        classes = _classes(root / "train")
        if (other := _classes(tests)) != classes:
            odd = sorted(set(other) ^ set(classes))
            raise DataError(f"{tests}: other classes than in 'train': {', '.join(odd[:5])} are in only one of the two.")
        train, test = _files(root / "train", classes), _files(tests, classes)
    else:
        classes = _classes(root)
        train, test = _split(_files(root, classes))
    size, channels = _format([path for path, _ in train], image_size)

    def decode(path: Path) -> NDArray[np.uint8]:
        return _decode(path, size, channels)

    def part(files: list[tuple[Path, int]]) -> Images:
        paths = [path for path, _ in files]
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        images = FileImages(paths, labels, decode, (channels, size, size))
        return images.stored() if len(files) * channels * size * size <= _IN_MEMORY else images

    return Source(
        name, part(train), part(test), num_classes=len(classes), augmentation="crop-flip", classes=tuple(classes)
    )


def _classes(root: Path) -> list[str]:
    names = sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if len(names) < 2:
        found = f"found only {names[0]!r}" if names else "found none"
        raise DataError(f"{root}: expected one folder per class and at least two of them, {found}.")
    return names


def _files(root: Path, classes: list[str]) -> list[tuple[Path, int]]:
    files = []
    for label, name in enumerate(classes):
        found = sorted(each for each in (root / name).rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        if not found:
            raise DataError(f"{root / name}: no image in it ({', '.join(sorted(SUFFIXES))} are read).")
        files += [(path, label) for path in found]
    return files


def _split(files: list[tuple[Path, int]]) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    train, test = [], []
    for label in sorted({label for _, label in files}):
        own = [each for each in files if each[1] == label]
        if len(own) < 2:
            raise DataError(f"{own[0][0].parent}: one image; a class needs at least two, one of them for testing.")
        order = np.random.default_rng(0).permutation(len(own))
        count = max(1, len(own) // _EVERY)
        test += [own[row] for row in sorted(order[:count])]
        train += [own[row] for row in sorted(order[count:])]
    return train, test


def _format(paths: list[Path], image_size: int | None) -> tuple[int, int]:
    """Side and channels, from the first few files."""
    from PIL import Image, UnidentifiedImageError

    sizes, modes = set(), set()
    for path in paths[:: max(1, len(paths) // _LOOK_AT)]:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
                modes.add(image.mode)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path}: not a readable image ({_short(error)}).") from error
    width, height = next(iter(sizes))
    common = width if len(sizes) == 1 and width == height else _DEFAULT_SIZE
    return image_size or common, 1 if modes <= {"L", "1"} else 3


def _decode(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({_short(error)}). Repair or remove the file.") from error
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    pixels = np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _short(error: BaseException) -> str:
    """The library's reason without the path, which the message has already."""
    reason = first_line(error)
    return "of no known format" if "cannot identify" in reason else reason
