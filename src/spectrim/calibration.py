"""Batches that something is decided on, checked one by one and put where the model is."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spectrim.errors import DataError, first_line

Calibration: TypeAlias = Iterable[Any] | None
"""Batches of images, or of tuples that begin with one, or one tensor of images."""

_CHUNK = 128
_IN_CACHE = 2**20
"""Numbers of a batch that a processor takes at once: with larger ones, most of the time goes to memory that the system hands out anew."""


class NoCalibrationError(ValueError):
    """A method that decides by what layers read was given nothing that they could read."""


class NoImageSizeError(NoCalibrationError):
    """Multiplications are to be counted, and nothing says how large the images are."""


def images_of(calibration: Calibration, model: nn.Module, *, who: str) -> Iterator[Tensor]:
    """The images of each batch, on the model's device; at least one batch.

    A tensor is cut into batches of 128. Batches are taken and checked as they are asked for, the first one at once.

    Args:
        calibration: Batches of images, or one tensor of them; of a batch that is a tuple the first entry is taken.
        model: That will see them.
        who: Wants them; named where there are none.

    Raises:
        NoCalibrationError: There is no calibration.
        DataError: It is empty, or a batch is no tensor, is empty or holds NaN.

    >>> [len(batch) for batch in images_of(torch.zeros(200, 3, 8, 8), nn.Conv2d(3, 1, 1), who="an example")]
    [128, 72]
    """
    if calibration is None:
        raise NoCalibrationError(
            f"{who} looks at activations and needs calibration=…: batches of images, or one tensor of them; a few hundred "
            "images of the training set are enough."
        )
    if isinstance(calibration, Tensor):
        calibration = calibration.split(_CHUNK) if calibration.ndim and len(calibration) else ()  # type: ignore[no-untyped-call]
    found = _images(calibration, model)
    first = next(found, None)
    if first is None:
        raise DataError("the calibration is empty: expected at least one batch of images, found none.")
    return itertools.chain([first], found)


def at_a_time(image: Tensor, most: int) -> int:
    """How many images like this one a device should take at once, of at most so many.

    A processor is several times faster with a few large ones than with many.

    >>> at_a_time(torch.zeros(3, 224, 224), 256), at_a_time(torch.zeros(3, 32, 32), 256)
    (6, 256)
    """
    return max(1, min(most, _IN_CACHE // max(1, image.numel()))) if image.is_cpu else most


def see(model: nn.Module, images: Tensor, number: int) -> Any:
    """Run a model on a batch; what it does not take is told apart from mistakes of ours.

    Raises:
        DataError: The batch does not go through the model.
    """
    try:
        return model(images)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = first_line(error)
        raise DataError(
            f"calibration batch {number} of shape {tuple(images.shape)} does not go through {type(model).__name__}: "
            f"{reason}. Check the shape of the images."
        ) from error


def _images(calibration: Iterable[Any], model: nn.Module) -> Iterator[Tensor]:
    parameter = next(model.parameters(), None)
    for number, batch in enumerate(calibration):
        x = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(x, Tensor):
            raise DataError(
                f"calibration batch {number} is a {type(batch).__name__}, expected a tensor of images or a tuple that "
                "begins with one."
            )
        if x.ndim == 0 or len(x) == 0:
            raise DataError(f"calibration batch {number} is empty: its shape is {tuple(x.shape)}.")
        if x.is_floating_point() and not bool((finite := torch.isfinite(x)).all()):
            bad = int((~finite).sum())
            raise DataError(
                f"calibration batch {number} holds {bad} numbers that are NaN or infinite. Check the images."
            )
        yield x if parameter is None else x.to(parameter.device)
