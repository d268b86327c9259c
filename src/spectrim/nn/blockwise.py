"""Maps as rows of blocks and back, and the sizes that a convolution over them has."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from spectrim.nn.component import Spec
from spectrim.transforms.scans import SCANS, Scan, scan

MAX_FREQUENCIES = 1024
"""Most coefficients of a block: its transform is one matrix with as many rows and columns."""


@dataclass(frozen=True)
class Geometry:
    """What a pointwise convolution over the spectra of blocks is, apart from its numbers.

    Args:
        in_channels, out_channels: As of the convolution.
        block: Height and width of a block.
        order: In which frequencies are kept: a name, or their positions in C order.
        stride: Of the convolution.
        bias: Whether there is one.
        last: Whether maps have their channels last, as those that linear layers read.

    Raises:
        ValueError: A value is out of range.
    """

    in_channels: int
    out_channels: int
    block: tuple[int, int]
    order: str | Sequence[int] = "zigzag"
    stride: tuple[int, int] = (1, 1)
    bias: bool = True
    last: bool = False

    def __post_init__(self) -> None:
        pair("block", self.block)
        pair("stride", self.stride)
        if self.frequencies > MAX_FREQUENCIES:
            raise ValueError(f"a block has at most {MAX_FREQUENCIES} coefficients, got {self.block}.")
        for name, count in (("in", self.in_channels), ("out", self.out_channels)):
            if type(count) is not int or count < 1:
                raise ValueError(f"{name} must be a positive whole number, got {count!r}.")
        if isinstance(self.order, str):
            if self.order not in SCANS:
                raise ValueError(f"order must be one of {', '.join(SCANS)}, or positions, got {self.order!r}.")
        elif not all(type(each) is int for each in self.order) or sorted(self.order) != list(range(self.frequencies)):
            raise ValueError(f"order must hold each of the numbers below {self.frequencies} once, got {self.order!r}.")
        if type(self.bias) is not bool:
            raise ValueError(f"bias must be true or false, got {self.bias!r}.")
        if type(self.last) is not bool:
            raise ValueError(f"last must be true or false, got {self.last!r}.")
        if self.last and self.stride != (1, 1):
            raise ValueError(f"a layer that reads channels last has no stride, got {self.stride}.")

    @property
    def frequencies(self) -> int:
        """Coefficients of a block."""
        return math.prod(self.block)

    @property
    def host(self) -> type[nn.Conv2d | nn.Linear]:
        """The class of the layer that reads all coefficients."""
        return nn.Linear if self.last else nn.Conv2d

    @functools.cached_property
    def positions(self) -> list[int]:
        """The order as positions."""
        if isinstance(self.order, str):
            order: Scan = "zigzag" if self.order == "zigzag" else "radial" if self.order == "radial" else "square"
            return scan(self.block[0], self.block[1], order)
        return list(self.order)

    def strided(self, x: Tensor) -> Tensor:
        """What the stride leaves of a map."""
        return x if self.stride == (1, 1) else x[..., :: self.stride[0], :: self.stride[1]]

    def channels_first(self, x: Tensor) -> Tensor:
        """A map as it comes in, with its channels in front."""
        return x.movedim(-1, -3) if self.last else x

    def as_read(self, y: Tensor) -> Tensor:
        """A map with its channels in front, laid as it goes out."""
        return y.movedim(-3, -1).contiguous() if self.last else y

    def as_convolution(self, weight: Tensor) -> Float[Tensor, "out in 1 1"]:
        """A weight as a convolution has it."""
        return weight[:, :, None, None] if self.last else weight

    def dense(self) -> nn.Conv2d | nn.Linear:
        """The layer that reads all coefficients, with any numbers in it."""
        if self.last:
            linear: nn.Linear = nn.utils.skip_init(nn.Linear, self.in_channels, self.out_channels, bias=self.bias)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            return linear
        conv: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # likewise
            nn.Conv2d, self.in_channels, self.out_channels, 1, self.stride, bias=self.bias
        )
        return conv

    def multiplications(self, kept: Int[Tensor, "in"], shape: Sequence[int]) -> int:
        """Of one call on maps of this shape, products and transforms together; see :func:`multiplications`."""
        images, size = self.read(shape)
        return images * sum(multiplications(kept, self.out_channels, self.block, size))

    def read(self, shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
        """How many images maps of this shape are, and their height and width behind the stride."""
        height, width = shape[-3:-1] if self.last else shape[-2:]
        images = math.prod(shape) // (height * width) // self.in_channels
        return images, (-(-height // self.stride[0]), -(-width // self.stride[1]))

    def to_json(self) -> Spec:
        """As it stands in plans and files; what is the default is left out."""
        spec: Spec = {"in": self.in_channels, "out": self.out_channels, "block": list(self.block), "bias": self.bias}
        if self.order != "zigzag":
            spec["order"] = self.order if isinstance(self.order, str) else list(self.order)
        if self.stride != (1, 1):
            spec["stride"] = list(self.stride)
        return spec | {"last": True} if self.last else spec

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read :meth:`to_json`; nothing in it is trusted.

        Raises:
            ValueError: It is not that.
        """
        needed, known = {"in", "out", "block", "bias"}, {"in", "out", "block", "bias", "order", "stride", "last"}
        if not needed <= fields.keys() <= known:
            raise ValueError(f"a banded convolution needs {sorted(needed)}, got {sorted(fields)}.")
        order, block, stride = fields.get("order", "zigzag"), fields["block"], fields.get("stride", [1, 1])
        if not isinstance(order, str | list) or not isinstance(block, list) or not isinstance(stride, list):
            raise ValueError(  # noqa: TRY004 - a wrong type in a file is a wrong value
                f"block, order and stride must be lists, got {block!r}, {order!r} and {stride!r}."
            )
        sizes = fields["in"], fields["out"], pair("block", block)
        return cls(*sizes, order, pair("stride", stride), fields["bias"], fields.get("last", False))


def pair(name: str, sides: Sequence[int]) -> tuple[int, int]:
    """Two sides as they are.

    Raises:
        ValueError: They are not two positive whole numbers.

    >>> pair("block", [7, 7])
    (7, 7)
    """
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= MAX_FREQUENCIES for side in sides):
        raise ValueError(f"{name} must be two whole numbers from 1 to {MAX_FREQUENCIES}, got {list(sides)!r}.")
    return sides[0], sides[1]


def check_groups(geometry: Geometry, groups: Sequence[tuple[int, int]]) -> None:
    """Whether groups of channels and what they keep fit the sizes.

    Raises:
        ValueError: They do not.
    """
    counts = [kept for _, kept in groups]
    whole = all(type(number) is int and number >= 1 for group in groups for number in group)
    if not groups or not whole or sum(size for size, _ in groups) != geometry.in_channels:
        raise ValueError(f"groups must hold {geometry.in_channels} channels in all, got {groups!r}.")
    if counts != sorted(counts, reverse=True) or counts[0] > geometry.frequencies:
        raise ValueError(f"groups must keep at most {geometry.frequencies}, fewer from each to the next, got {counts}.")


def multiplications(
    kept: Int[Tensor, "in"], outputs: int, block: Sequence[int], size: Sequence[int]
) -> tuple[int, int]:
    """For one image: of the products over what is kept, and of the transforms, as the compiled form takes them.

    A transform goes by rows and columns, or coefficient by coefficient where that is less.

    Args:
        kept: How many coefficients each input channel keeps.
        outputs: Number of output channels.
        block: Height and width of a block.
        size: Height and width of the map, behind the stride.

    >>> import torch
    >>> multiplications(torch.tensor([1, 4]), 3, (2, 2), (4, 4))
    (60, 272)
    """
    there, back = transforms(kept, outputs, block, size)
    return _positions(block, size) * int(kept.sum()) * outputs // math.prod(block), there + back


def transforms(kept: Int[Tensor, "in"], outputs: int, block: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """The transforms in :func:`multiplications` one by one: of what is read, and of what is written.

    >>> import torch
    >>> transforms(torch.tensor([1, 4]), 3, (2, 2), (4, 4))
    (80, 192)
    """
    positions = _positions(block, size)
    return positions * int(kept.clamp(max=sum(block)).sum()), positions * min(int(kept.max()), sum(block)) * outputs


def _positions(block: Sequence[int], size: Sequence[int]) -> int:
    return math.prod(-(-side // step) * step for side, step in zip(size, block, strict=True))


def covered(x: Float[Tensor, "batch channel height width"], block: Sequence[int]) -> Tensor:
    """A map continued by its last row and column until the block divides it."""
    below, right = (-side % step for side, step in zip(x.shape[-2:], block, strict=True))
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def to_blocks(x: Float[Tensor, "batch channel height width"], block: Sequence[int]) -> Tensor:
    """A map cut into blocks: batch, channel, block, pixel.

    >>> import torch
    >>> to_blocks(torch.arange(8.0).reshape(1, 1, 2, 4), (2, 2))
    tensor([[[[0., 1., 4., 5.],
              [2., 3., 6., 7.]]]])
    """
    n, c, height, width = x.shape
    tall, wide = block
    cut = x.reshape(n, c, height // tall, tall, width // wide, wide).transpose(3, 4)
    return cut.reshape(n, c, (height // tall) * (width // wide), tall * wide)


def from_blocks(
    blocks: Float[Tensor, "batch channel block pixel"], block: Sequence[int], size: Sequence[int]
) -> Tensor:
    """The map of some size that :func:`to_blocks` cut."""
    n, c = blocks.shape[:2]
    (height, width), (tall, wide) = size, block
    cut = blocks.reshape(n, c, height // tall, width // wide, tall, wide).transpose(3, 4)
    return cut.reshape(n, c, height, width)
