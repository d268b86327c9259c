"""Reads what lies under ``SPECTRIM_DATA`` as plain tensors: MNIST (gzipped idx), CIFAR-10 and ImageNet (WebP), weights."""

import gzip
import io
import itertools
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_CIFAR10_TRAIN = tuple(f"cifar10-train-{part}.npz" for part in (1, 2, 3, 4))


def folder() -> Path:
    """Where the data lies.

    Raises:
        SystemExit: ``SPECTRIM_DATA`` is not set.
    """
    if found := os.environ.get("SPECTRIM_DATA"):
        return Path(found)
    raise SystemExit("SPECTRIM_DATA is not set. Point it to the folder with mnist/ and cifar10-*.npz.")


def mnist(*, train: bool) -> tuple[Tensor, Tensor]:
    """All images of a split in the official order: bytes (N, 28, 28) and classes (N,)."""
    stem = "train" if train else "t10k"
    images, labels = (idx(folder() / "mnist" / f"{stem}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return images, labels.long()


def cifar10(*, train: bool) -> tuple[Tensor, Tensor]:
    """All images of a split in the official order: bytes (N, 32, 32, 3) and classes (N,)."""
    pixels, labels = [], []
    for name in _CIFAR10_TRAIN if train else ("cifar10-test.npz",):
        with np.load(folder() / name) as packed:
            pixels += [sprite.reshape(-1, 32, 32, 3) for sprite in _sprites(packed["webp"], packed["offsets"])]
            labels.append(packed["labels"].astype(np.int64))
    return torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels))


def idx(path: Path) -> Tensor:
    """One gzipped idx file of bytes: a type, the number of axes, their lengths (big-endian), the data."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    return torch.from_numpy(data.reshape(shape.tolist()).copy())


def _sprites(packed: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    from PIL import Image

    content = packed.tobytes()
    return [np.asarray(Image.open(io.BytesIO(content[begin:end]))) for begin, end in itertools.pairwise(offsets)]


def imagenet(name: str, *, crop: int) -> tuple[Tensor, Tensor]:
    """The centres of all images of a file: bytes (N, crop, crop, 3) and classes (N,)."""
    with np.load(folder() / name) as packed:
        images = np.stack(_sprites(packed["webp"], packed["offsets"]))
        labels = packed["labels"].astype(np.int64)
    start = (images.shape[1] - crop) // 2
    centre = images[:, start : start + crop, start : start + crop]
    return torch.from_numpy(np.ascontiguousarray(centre)), torch.from_numpy(labels)


def mobilenet_v2_weights() -> dict[str, Tensor]:
    """MobileNetV2 for TensorFlow's padding, by torchvision's names; what is stored in eight bits is decoded."""
    from safetensors.torch import load_file

    stored = load_file(folder() / "weights" / "imagenet-mobilenet_v2-tf.safetensors")
    found = {}
    for name, value in stored.items():
        stem = name.removesuffix("_q")
        if stem != name:
            found[stem] = (value.float() - stored[f"{stem}_zero_point"].float()) * stored[f"{stem}_scale"]
        elif not name.endswith(("_scale", "_zero_point")):
            found[name] = value.float() if value.is_floating_point() else value
    return found
