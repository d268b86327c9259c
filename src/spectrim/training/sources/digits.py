"""The 1,797 hand-written digits that come with scikit-learn: no download, no files."""

import torch

from spectrim.training import extras
from spectrim.training.images import StoredImages, resized
from spectrim.training.source import Source

SIZE = 28
_EVERY = 5


def open_source(name: str, place: str, image_size: int | None) -> Source:  # noqa: ARG001
    """The digits; every fifth of each class is for testing.

    The scans are 8x8 pixels in 17 shades. They are enlarged to 28x28, the size of MNIST, unless another size is asked
    for, so that a network for MNIST has the job it was made for.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    datasets = extras.load("sklearn.datasets", extra="train", purpose=f"the data source {name!r}")
    images, labels = datasets.load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).reshape(-1, 1, 8, 8).mul(255 / 16).round().byte()
    pixels = resized(pixels, image_size or SIZE)
    targets = torch.from_numpy(labels).long()
    test = torch.zeros(len(targets), dtype=torch.bool)
    test[targets.argsort(stable=True)[_EVERY - 1 :: _EVERY]] = True
    return Source(
        name,
        StoredImages(pixels[~test], targets[~test]),
        StoredImages(pixels[test], targets[test]),
        num_classes=10,
        augmentation="shift",
        classes=tuple("0123456789"),
    )
