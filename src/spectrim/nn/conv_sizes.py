"""The sizes of a convolution, as data that may come from a file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn
from torch.nn.modules.conv import _ConvNd

from spectrim.nn.component import Spec
from spectrim.transforms.taps import reads

_LISTS = ("kernel", "stride", "padding", "dilation")


@dataclass(frozen=True)
class ConvSizes:
    """An ungrouped convolution padded with zeros, of one to three dimensions.

    >>> sizes = ConvSizes.of(nn.Conv2d(4, 8, 3, stride=2, padding=1))
    >>> str(sizes), sizes.taps, sizes.reads((9, 11))[0]
    ('4, 8, kernel=(3, 3), stride=(2, 2)', 9, (4, 5))
    """

    inside: int
    outside: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: bool

    @classmethod
    def of(cls, host: _ConvNd) -> Self:
        """Those of a module.

        Raises:
            ValueError: It has groups, pads with something else than zeros, or unevenly.
        """
        if host.groups != 1:
            raise ValueError(f"has {host.groups} groups")
        if host.padding_mode != "zeros":
            raise ValueError(f"pads in the mode {host.padding_mode!r}")
        padding = host.padding
        if padding == "valid":
            padding = (0,) * len(host.kernel_size)
        elif isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(host.dilation, host.kernel_size, strict=True)]
            if any(span % 2 for span in spans):
                raise ValueError("pads one side more than the other")
            padding = tuple(span // 2 for span in spans)
        return cls(
            host.in_channels,
            host.out_channels,
            tuple(host.kernel_size),
            tuple(host.stride),
            tuple(padding),
            tuple(host.dilation),
            host.bias is not None,
        )

    def plain(self) -> _ConvNd:
        """An ordinary module of these sizes, with any numbers in it."""
        kind: Any = self.host
        place = (self.kernel, self.stride, self.padding, self.dilation)
        made: _ConvNd = kind(
            self.inside, self.outside, *place, bias=self.bias, device="meta"
        )  # no random numbers there
        return made.to_empty(device="cpu")

    @property
    def host(self) -> type[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
        """The class of that module."""
        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.dims - 1]

    @property
    def dims(self) -> int:
        """Dimensions of space."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return math.prod(self.kernel)

    def reads(self, padded: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[slice, ...]]]:
        """The sides of the output for a padded input of these sides, and where each tap reads it."""
        return reads(padded, self.kernel, self.stride, self.dilation)

    def to_json(self) -> Spec:
        """What :meth:`from_json` reads."""
        return {
            "in": self.inside,
            "out": self.outside,
            "kernel": list(self.kernel),
            "stride": list(self.stride),
            "padding": list(self.padding),
            "dilation": list(self.dilation),
            "bias": self.bias,
        }

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        """The sizes that :meth:`to_json` wrote.

        Raises:
            ValueError: They are not such sizes; nothing in ``spec`` is trusted.
        """
        names = {"in", "out", "bias", *_LISTS}
        if spec.keys() != names:
            raise ValueError(f"the sizes of a convolution are {sorted(names)}, got {sorted(spec)}.")
        kernel = spec["kernel"]
        if not isinstance(kernel, list) or not 1 <= len(kernel) <= 3:
            raise ValueError(f"kernel must be a list of one to three numbers, got {kernel!r}.")
        for name in _LISTS:
            least, value = 0 if name == "padding" else 1, spec[name]
            if (
                not isinstance(value, list)
                or len(value) != len(kernel)
                or any(type(n) is not int or n < least for n in value)
            ):
                raise ValueError(f"{name} must be {len(kernel)} whole numbers of at least {least}, got {value!r}.")
        if (
            any(type(spec[name]) is not int or spec[name] < 1 for name in ("in", "out"))
            or type(spec["bias"]) is not bool
        ):
            raise ValueError(f"in and out must be positive whole numbers and bias true or false, got {dict(spec)}.")
        kernel, stride, padding, dilation = (tuple(spec[name]) for name in _LISTS)
        return cls(spec["in"], spec["out"], kernel, stride, padding, dilation, spec["bias"])

    def __str__(self) -> str:
        """As ``print(model)`` shows it."""
        stride = f", stride={self.stride}" if max(self.stride) > 1 else ""
        return f"{self.inside}, {self.outside}, kernel={self.kernel}{stride}"
