"""A few images of a calibration that is too large to be looked at again."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_IMAGES = 16


class Sample:
    """A few images of a calibration, spread evenly over all of it, while it is read once; of one size, that of the first.

    Every so many images one is kept. Whenever twice as many are there as are wanted, every second one goes.

    >>> sample = Sample(3)
    >>> read = [len(batch) for batch in sample.of([torch.arange(8.0)[:, None], torch.arange(8.0, 10)[:, None]])]
    >>> read, sample.images().flatten()
    ([8, 2], tensor([0., 4., 8.]))
    """

    def __init__(self, most: int = _IMAGES) -> None:
        self._most = most
        self._step, self._seen = 1, 0
        self._kept: list[Tensor] = []

    def of(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches, one by one, which are looked at on their way."""
        for batch in batches:
            self._look(batch)
            yield batch

    def images(self) -> Tensor:
        """Those that were kept, as one batch."""
        places = torch.linspace(0, len(self._kept) - 1, min(self._most, len(self._kept))).round().long().tolist()
        return torch.stack([self._kept[place] for place in places])

    def _look(self, batch: Tensor) -> None:
        if self._kept and batch.shape[1:] != self._kept[0].shape:
            return
        for image in batch:
            if self._seen % self._step == 0:
                self._kept.append(image.clone())
            if len(self._kept) == 2 * self._most:
                del self._kept[1::2]
                self._step *= 2
            self._seen += 1
