"""A data source: images to train on and images to test on, with what a network has to know about them."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from spectrim.errors import DataError
from spectrim.training.images import Images

Task = Literal["classification", "segmentation"]
Augmentation = Literal["none", "shift", "crop-flip", "resized-crop"]
Normalization = Literal["data", "imagenet", "half", "none"]

NORMALIZATIONS: tuple[Normalization, ...] = ("data", "imagenet", "half", "none")
_FIXED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images of one size, split in two.

    Attributes:
        name: As asked for, "mnist:data/mnist".
        train, test: The two parts.
        num_classes: Labels lie in [0, num_classes).
        augmentation: What suits these images while training.
        classes: Names of the classes, where they have any.
    """

    name: str
    train: Images
    test: Images
    num_classes: int
    augmentation: Augmentation = "none"
    classes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if len(images) == 0:
                raise DataError(f"{self.name}: no {part} images. A source needs at least one of each kind.")
            _check_labels(f"{self.name}, {part} part", images.labels, self.num_classes)
        if self.train.shape != self.test.shape:
            raise DataError(
                f"{self.name}: the training images are {_size(self.train.shape)}, the test images "
                f"{_size(self.test.shape)}. Pass an image size to bring all to one."
            )

    @property
    def task(self) -> Task:
        """What the labels are: one class an image, or one a pixel."""
        return "classification" if self.train.labels.ndim == 1 else "segmentation"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train.shape

    def statistics(self, how: Normalization = "data") -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of pixels in [0, 1].

        Args:
            how: ``data``: of (up to 10,000 of) the training images; ``imagenet``: what most pretrained networks
                were trained with; ``half``: 0.5 and 0.5, for inputs in [-1, 1]; ``none``: 0 and 1.
        """
        if how != "data":
            mean, std = _FIXED[how]
            channels = self.shape[0]
            return (mean, std) if len(mean) == channels else (_spread(mean, channels), _spread(std, channels))
        # Drawn, not every n-th: MNIST's order has a period of six, whose every sixth image is 6 % darker.
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))[:10_000]
        pixels = self.train.batch(rows.sort().values)[0].double() / 255
        means, stds = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
        return tuple(round(m, 4) for m in means), tuple(round(max(s, 1e-3), 4) for s in stds)


def _check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    wrong = ((labels < 0) | (labels >= num_classes)).reshape(len(labels), -1).any(dim=1).nonzero()
    if len(wrong):
        row = int(wrong[0])
        values = labels[row].reshape(-1)
        value = int(values[(values < 0) | (values >= num_classes)][0])
        raise DataError(f"{where}: the label of row {row} is {value}; labels lie in 0 to {num_classes - 1}.")


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return (sum(values) / len(values),) * channels


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' * (shape[0] != 1)}"


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """From stored pixels to what a network sees.

    Attributes:
        mean, std: Per channel, of pixels in [0, 1].
        channels: How many the network wants; grey images are repeated.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int

    def __call__(self, pixels: UInt8[Tensor, "image c h w"]) -> Float[Tensor, "image channels h w"]:
        """Scaled, centred and, where grey images meet a network for colour, repeated.

        >>> Preprocessing((0.5,), (0.5,), channels=3)(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).flatten()
        tensor([1., 1., 1.])
        """
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        x = (pixels.float() / 255 - mean) / std
        return x.expand(-1, self.channels, -1, -1) if x.shape[1] != self.channels else x
