"""Images and labels as two arrays in one numpy archive."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectrim.errors import DataError, first_line
from spectrim.training.images import StoredImages, resized
from spectrim.training.source import Source

_EVERY = 5
_TRAIN, _TEST = ("train", "training"), ("test", "val", "valid", "validation")


def open_source(name: str, place: str, image_size: int | None) -> Source:
    """An archive with the arrays ``images``, ``labels`` and, if it likes, ``split``.

    ====================  ==============================================================================
    ``images``            (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3; bytes, or floats in [0, 1]
    ``labels``            whole numbers from 0: (N,) classes of images, or (N, H, W) classes of pixels
    ``split``             (N,): "train" or "test", or 0 and 1; without it, a fixed shuffled fifth is for testing
    ====================  ==============================================================================

    Raises:
        DataError: The file is missing or damaged, or an array is missing or not of this form.
    """
    path = Path(place).expanduser()
    if not path.is_file():
        raise DataError(f"{name}: there is no file {place!r}.")
    arrays = _read(path)
    images = _pixels(path, arrays["images"])
    labels = _labels(path, arrays["labels"], images.shape)
    test = _test_rows(path, arrays.get("split"), len(images))
    if labels.ndim == 3:
        if image_size is not None and images.shape[-2:] != (image_size, image_size):
            raise DataError(
                f"{path}: labels of pixels cannot be scaled to {image_size}x{image_size}. Scale the arrays."
            )
    else:
        images = resized(images, image_size)
    return Source(
        name,
        StoredImages(images[~test], labels[~test]),
        StoredImages(images[test], labels[test]),
        num_classes=max(2, int(labels.max()) + 1),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("images", "labels", "split") if key in archive}
            found = list(archive)
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        TypeError,
    ) as error:
        reason = first_line(error)
        raise DataError(f"{path}: not a readable .npz archive of plain arrays ({reason}).") from error
    for key in ("images", "labels"):
        if key not in arrays:
            raise DataError(f"{path}: no array {key!r}; found {', '.join(map(repr, found)) or 'nothing'}.")
    return arrays


def _pixels(path: Path, array: NDArray[Any]) -> torch.Tensor:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{path}: 'images' has the shape {array.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3."
        )
    if np.issubdtype(array.dtype, np.floating):
        rows = array.reshape(len(array), -1)
        wrong = np.flatnonzero(~((rows >= 0) & (rows <= 1)).all(axis=1))
        if len(wrong):
            raise DataError(
                f"{path}: row {wrong[0]} of 'images' has floats outside [0, 1]. Scale them, or store bytes."
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: 'images' holds {array.dtype}; expected bytes (uint8), or floats in [0, 1].")
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(path: Path, array: NDArray[Any], images: torch.Size) -> torch.Tensor:
    if not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_:
        raise DataError(f"{path}: 'labels' holds {array.dtype}; expected whole numbers.")
    count, _, height, width = images
    if array.shape not in {(count,), (count, height, width)}:
        raise DataError(
            f"{path}: 'labels' has the shape {array.shape}; expected ({count},) for classes of the images or "
            f"({count}, {height}, {width}) for classes of their pixels."
        )
    return torch.from_numpy(array.astype(np.int64))


def _test_rows(path: Path, split: NDArray[Any] | None, count: int) -> torch.Tensor:
    if split is None:
        test = np.zeros(count, bool)
        test[np.random.default_rng(0).permutation(count)[: max(1, count // _EVERY)]] = True
        return torch.from_numpy(test)
    if split.shape != (count,):
        raise DataError(f"{path}: 'split' has the shape {split.shape}; expected ({count},), one entry an image.")
    if split.dtype.kind in "US":
        texts = [str(each, "ascii", "replace") if isinstance(each, bytes) else str(each) for each in split.tolist()]
        for row, each in enumerate(texts):
            if each not in _TRAIN and each not in _TEST:
                raise DataError(f"{path}: row {row} of 'split' is {each!r}; expected 'train' or 'test'.")
        return torch.tensor([each in _TEST for each in texts])
    wrong = np.flatnonzero((split != 0) & (split != 1))
    if len(wrong):
        raise DataError(f"{path}: row {wrong[0]} of 'split' is {split[wrong[0]]}; expected 0 (train) or 1 (test).")
    return torch.from_numpy(split.astype(bool))
