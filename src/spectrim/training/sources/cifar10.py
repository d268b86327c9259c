"""CIFAR-10 as its authors publish it: the binary version, or the Python version without trusting the pickles."""

import io
import pickle  # only behind the restricted reader below
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectrim.errors import DataError
from spectrim.training.images import StoredImages, resized
from spectrim.training.source import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_RECORD = 1 + 3072


def open_source(name: str, place: str, image_size: int | None) -> Source:
    """CIFAR-10 from a folder with its batches, or from the published ``.tar.gz`` as it is.

    Raises:
        DataError: The place is missing, a batch is missing or damaged.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(f"{name}: there is nothing at {place!r}. Give the folder with the batches or the .tar.gz.")
    read = _archive_reader(path) if path.is_file() else _folder_reader(path)
    return Source(
        name,
        _part(path, _TRAIN, read, image_size),
        _part(path, _TEST, read, image_size),
        num_classes=10,
        augmentation="crop-flip",
        classes=CLASSES,
    )


def _part(
    path: Path, batches: tuple[str, ...], read: Callable[[str], tuple[str, bytes] | None], size: int | None
) -> StoredImages:
    parts = []
    for batch in batches:
        found = read(batch)
        if found is None:
            raise DataError(f"{path}: no {batch + '.bin'!r} (binary version) and no {batch!r} (Python version).")
        where, data = found
        parts.append(_binary(where, data) if where.endswith(".bin") else _python(where, data))
    return StoredImages(
        resized(torch.cat([pixels for pixels, _ in parts]), size), torch.cat([labels for _, labels in parts])
    )


def _folder_reader(root: Path) -> Callable[[str], tuple[str, bytes] | None]:
    inner = ("", "cifar-10-batches-bin", "cifar-10-batches-py")

    def read(batch: str) -> tuple[str, bytes] | None:
        for folder in inner:
            for file in (root / folder / f"{batch}.bin", root / folder / batch):
                if file.is_file():
                    return str(file), file.read_bytes()
        return None

    return read


def _archive_reader(path: Path) -> Callable[[str], tuple[str, bytes] | None]:
    try:
        with tarfile.open(path) as archive:  # members are read into memory, nothing is unpacked to disk
            members = {
                Path(member.name).name: opened.read()
                for member in archive
                if member.isfile() and (opened := archive.extractfile(member)) is not None
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .tar.gz archive ({error}). Fetch it again.") from error

    def read(batch: str) -> tuple[str, bytes] | None:
        file = next((name for name in (f"{batch}.bin", batch) if name in members), None)
        return None if file is None else (f"{path}/{file}", members[file])

    return read


def _binary(where: str, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    records, rest = divmod(len(data), _RECORD)
    if rest or not records:
        raise DataError(
            f"{where}: {len(data)} bytes, which is {records} images of {_RECORD} bytes and {rest} bytes more. "
            "The file is truncated or not CIFAR-10's binary version."
        )
    table = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(records, _RECORD).copy())
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()


def _python(where: str, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{where}: not a batch of CIFAR-10's Python version ({error}).") from error
    pixels = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"{where}: no 'data' of bytes with 3,072 columns in it; not CIFAR-10.")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(each) is int for each in labels):
        raise DataError(f"{where}: no list 'labels' with one number for each of the {len(pixels)} images.")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.tensor(labels, dtype=torch.int64)


class _ArraysOnly(pickle.Unpickler):
    """Builds dictionaries, lists, texts, numbers and numpy arrays, and nothing else."""

    _allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
