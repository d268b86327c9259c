"""The idx files of MNIST and of everything published in its format: Fashion-MNIST, KMNIST, EMNIST."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectrim.errors import DataError
from spectrim.training.images import StoredImages, resized
from spectrim.training.source import Source
from spectrim.training.sources import folder

_GZIP = b"\x1f\x8b"
_UBYTE = 8


def open_source(name: str, place: str, image_size: int | None) -> Source:
    """Four idx files in a folder, gzipped or not, named ``train-images-idx3-ubyte.gz`` or ``train-images.idx3-ubyte``.

    Raises:
        DataError: A file is missing, damaged, or not the idx file it should be.
    """
    root = folder(place, name=name)
    root = next((each for each in (root, root / "raw", root / "MNIST" / "raw") if _find(each, "train", "images")), root)
    train, test = _part(root, "train"), _part(root, "t10k")
    return Source(
        name,
        StoredImages(resized(train.pixels, image_size), train.labels),
        StoredImages(resized(test.pixels, image_size), test.labels),
        num_classes=int(train.labels.max()) + 1,
        augmentation="shift",
    )


def _part(root: Path, part: str) -> StoredImages:
    paths = {kind: _find(root, part, kind) for kind in ("images", "labels")}
    for kind, path in paths.items():
        if path is None:
            expected = f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"
            found = sorted(each.name for each in root.iterdir())[:6]
            raise DataError(f"{root}: no file {expected!r} (or without .gz); found {', '.join(found) or 'nothing'}.")
    image_path, label_path = paths["images"], paths["labels"]
    assert image_path is not None and label_path is not None  # noqa: PT018, S101  # for the type checker
    images, labels = read_idx(image_path, rank=3), read_idx(label_path, rank=1)
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: {len(labels)} labels for the {len(images)} images in {image_path.name}. "
            "The two files belong to different sets."
        )
    return StoredImages(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())


def _find(root: Path, part: str, kind: str) -> Path | None:
    rank = 3 if kind == "images" else 1
    names = [f"{part}-{kind}{dot}idx{rank}-ubyte{end}" for dot in ("-", ".") for end in (".gz", "")]
    return next((root / name for name in names if (root / name).is_file()), None)


def read_idx(path: Path, *, rank: int) -> NDArray[np.uint8]:
    """The array of bytes in one idx file.

    Args:
        path: Gzipped or not; the content tells.
        rank: How many dimensions it must have: 3 for images, 1 for labels.

    Raises:
        DataError: The file is damaged, truncated, or another kind of file.

    References:
        The format is described at the end of http://yann.lecun.com/exdb/mnist.
    """
    data = path.read_bytes()
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged gzip data ({error}). Fetch the file again.") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(f"{path}: not an idx file: it starts with {data[:4]!r}, two zero bytes were expected.")
    if data[2] != _UBYTE or data[3] != rank:
        raise DataError(
            f"{path}: an idx file of type {data[2]:#04x} with {data[3]} dimensions; "
            f"expected bytes ({_UBYTE:#04x}) with {rank}."
        )
    start = 4 + 4 * rank
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(rank)]
    expected = int(np.prod(shape, dtype=object))
    if len(data) < start or len(data) - start != expected:
        size = "x".join(map(str, shape))
        raise DataError(
            f"{path}: announces {size} = {expected} bytes, holds {max(0, len(data) - start)}. The file is truncated "
            "or damaged."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()
