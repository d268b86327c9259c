"""A pointwise layer that can be cut: what its bands would change, multiply and take."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spectrim.kernels.building import built
from spectrim.measure.choice import least_seconds
from spectrim.methods.pointwise_forms import NO_CLAMPS, Clamps, Inside, grouped_layer, ones, plain_layer
from spectrim.methods.pointwise_hosts import Pointwise, channels_of, stride_of
from spectrim.methods.pointwise_time import Pace, pace
from spectrim.methods.spectra import Reading, order_of
from spectrim.nn.blockwise import Geometry, multiplications
from spectrim.transforms.bands import rounded_up

_MARGIN = 0.05
"""By which share of its time a layer must be beaten by its cut form."""
FREE = 0.0
"""The price at which nothing is cut, not even what was zero in all images."""


@dataclass(frozen=True)
class Cuttable:
    """A layer that can be cut: its sizes, and the squared change by what lies behind a band of 1, 2, ... coefficients.

    What is measured of it is measured on ``images`` at a time.
    """

    channels: int
    outputs: int
    bias: bool
    stride: tuple[int, int]
    block: tuple[int, int]
    size: tuple[int, int]
    calls: int
    order: list[int]
    levels: int
    last: bool
    rest: Float[Tensor, "in frequency"]
    clamps: Clamps = NO_CLAMPS
    inside: Inside | None = None
    images: int = 1

    @classmethod
    def of(cls, layer: Pointwise, reading: Reading, order: str, levels: int) -> Self:
        """From what was read of a layer: ``order`` is that of a method, or ``energy``."""
        assert reading.worth is not None  # noqa: S101 - there is no reason against it
        positions = order_of(reading, order)
        worth = reading.worth[:, positions]
        rest = worth.flip(1).cumsum(1).flip(1).roll(-1, 1)
        rest[:, -1] = 0
        return cls(*channels_of(layer), layer.bias is not None, stride_of(layer), reading.block, reading.size,
                   reading.calls, positions, levels, isinstance(layer, nn.Linear), rest)  # fmt: skip

    @property
    def frequencies(self) -> int:
        """Coefficients of a block."""
        return math.prod(self.block)

    @property
    def cost(self) -> int:
        """Multiplications that read one channel, for one image."""
        return self.outputs * math.prod(self.size) * self.calls

    @property
    def dense(self) -> int:
        """Multiplications for one image where nothing is cut."""
        return self.cost * self.channels

    def bands(self, price: float, cost: float | None = None) -> Int[Tensor, "in"]:
        """The bands with the least sum of the change by what is cut and the price of what is kept, one for all channels at one level.

        Args:
            price: Of a unit of cost.
            cost: Of one channel that keeps everything; its multiplications if None.
        """
        if price == FREE:
            return torch.full((self.channels,), self.frequencies)
        each = price * (self.cost if cost is None else cost) / self.frequencies
        total = self.rest + each * torch.arange(1, self.frequencies + 1)
        if self.levels == 1:
            return (total.sum(0).argmin() + 1).expand(self.channels).clone()
        return rounded_up(total.argmin(1) + 1, self.levels)

    def multiplications(self, bands: Tensor) -> tuple[int, int]:
        """Of the products, and of the transforms; see :func:`spectrim.nn.blockwise.multiplications`."""
        products, transforms = multiplications(bands, self.outputs, self.block, self.size)
        return products * self.calls, transforms * self.calls

    def pays(self, bands: Tensor, by: str) -> bool:
        """Whether the layer is better cut to these bands than left dense, by the multiplications that are counted."""
        return by == "always" or sum(self.multiplications(bands)) < self.dense

    @property
    def worth(self) -> Float[Tensor, "in frequency"]:
        """Of each frequency behind the mean."""
        return (self.rest[:, :-1] - self.rest[:, 1:]).clamp(min=0)

    @property
    def geometry(self) -> Geometry:
        """As it stands behind the stride."""
        return Geometry(self.channels, self.outputs, self.block, self.order, bias=self.bias, last=self.last)

    def pace(self) -> Pace:
        """Its seconds with the activations beside it, measured; those of all its calls."""
        once = pace(self.geometry, self.size, self.clamps, self.inside, images=self.images)
        return Pace(once.dense * self.calls, once.least * self.calls, once.whole * self.calls)

    def takes(self, bands: Tensor, measured: Pace) -> float:
        """Seconds with these bands, by what was measured at both ends."""
        return measured.at(float(bands.sum()) / self.frequencies / self.channels)

    def timed(self, bands: Tensor) -> "Timed":
        """Its seconds as a convolution and finalized, its channels sorted, with the activations beside it; in the memory format that it runs best in."""
        memory = torch.channels_last if built() else torch.contiguous_format
        geometry = self.geometry
        forms = (
            plain_layer(geometry, memory, self.clamps, self.inside),
            grouped_layer(geometry, bands, self.clamps, self.inside),
        )
        return Timed(
            *least_seconds(
                forms, ones(geometry, self.size, memory, self.inside, self.images), seconds=0.1 * self.images
            )
        )


class Timed(NamedTuple):
    """Seconds of a layer for one batch.

    >>> Timed(dense=1.0, cut=0.9).wins, Timed(dense=1.0, cut=0.96).wins
    (True, False)
    """

    dense: float
    cut: float

    @property
    def wins(self) -> bool:
        """Whether the cut form is faster by more than chance."""
        return self.cut < (1 - _MARGIN) * self.dense

    def __str__(self) -> str:
        """In milliseconds, as a convolution first."""
        return f"{1000 * self.dense:.3g} against {1000 * self.cut:.3g} ms"
