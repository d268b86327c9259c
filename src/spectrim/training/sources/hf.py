"""A data set of the Hugging Face hub, fetched only when it is asked for by name."""

import io
from typing import Any

import numpy as np
import torch

from spectrim.errors import DataError, first_line
from spectrim.training import extras
from spectrim.training.images import StoredImages, resized
from spectrim.training.source import Source

_TESTS = ("test", "validation", "val", "valid")
_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "fine_label")


def open_source(name: str, place: str, image_size: int | None) -> Source:
    """A data set with an image column and a class column, in splits ``train`` and ``test`` or ``validation``.

    Raises:
        DataError: It cannot be fetched, or a split or column is missing.
        UnsupportedError: The library ``datasets`` is not installed.
    """
    library = extras.load("datasets", extra="datasets", purpose=f"the data source {name!r}")
    try:
        splits = library.load_dataset(place)
    except Exception as error:
        reason = first_line(error)
        raise DataError(f"{name}: could not be loaded ({type(error).__name__}: {reason}).") from error
    test = next((each for each in _TESTS if each in splits), None)
    if "train" not in splits or test is None:
        raise DataError(f"{name}: expected the splits 'train' and 'test' or 'validation', found {', '.join(splits)}.")
    parts = {part: _part(name, part, splits[part], image_size) for part in ("train", test)}
    return Source(
        name,
        parts["train"],
        parts[test],
        num_classes=int(parts["train"].labels.max()) + 1,
        augmentation="crop-flip",
    )


def _part(name: str, part: str, rows: Any, image_size: int | None) -> StoredImages:
    columns = list(rows.column_names)
    image = next((each for each in _IMAGES if each in columns), None)
    label = next((each for each in _LABELS if each in columns), None)
    if image is None or label is None:
        raise DataError(
            f"{name}, split {part!r}: expected a column 'image' and a column 'label', found {', '.join(columns)}."
        )
    arrays = [_pixels(name, part, row, entry[image]) for row, entry in enumerate(rows)]
    channels = 1 if all(array.shape[0] == 1 for array in arrays) else 3
    sizes = {array.shape[1:] for array in arrays}
    side = image_size or (next(iter(sizes))[0] if len(sizes) == 1 else 224)
    pixels = torch.cat(
        [resized(torch.from_numpy(array).unsqueeze(0).expand(-1, channels, -1, -1), side) for array in arrays]
    )
    return StoredImages(pixels, torch.tensor([int(value) for value in rows[label]], dtype=torch.int64))


def _pixels(name: str, part: str, row: int, image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(image["bytes"])) if isinstance(image, dict) else image
        array = np.asarray(opened if opened.mode in {"L", "RGB"} else opened.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{name}, split {part!r}: the image of row {row} cannot be read ({error}).") from error
    return array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy()
