"""A convolution with the norm behind it in its weight, whatever class it was and however it pads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.kernels.fused import Padding
from spectrim.nn.component import JSON, Layer, Spec
from spectrim.nn.norms import scale_and_shift

_MOST = 63
"""The widest kernel, and the widest stride, that a file may ask for."""


@dataclass(frozen=True)
class Padded:
    """How a convolution pads.

    Attributes:
        zeros: Above, left, below and right; None for as many as TensorFlow's ``SAME`` takes, which depends on the size.

    >>> Padded(None).of((7, 8), kernel=3, stride=2), Padded((1, 1, 1, 1)).of((7, 8), kernel=3, stride=2)
    ((1, 0, 1, 1), (1, 1, 1, 1))
    """

    zeros: Padding | None

    def of(self, size: tuple[int, int], *, kernel: int, stride: int) -> Padding:
        """For maps of this size."""
        if self.zeros is not None:
            return self.zeros
        tall, wide = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in size)
        return (tall // 2, wide // 2, tall - tall // 2, wide - wide // 2)

    def to_json(self) -> JSON:
        """As in files."""
        return None if self.zeros is None else [*self.zeros]

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """Read :meth:`to_json`; nothing in it is trusted.

        Raises:
            ValueError: It is not that.
        """
        if found is None:
            return cls(None)
        if not isinstance(found, list) or len(found) != 4 or not all(type(each) is int and each >= 0 for each in found):
            raise ValueError(f"padding must be four whole numbers or null, got {found!r}.")
        return cls(cast(Padding, tuple(found)))


class FoldedConv2d(Layer, kind="folded-convolution"):
    """A convolution with a square kernel and a bias.

    Args:
        in_channels, out_channels, kernel, stride, groups: Of the convolution.
        padded: How it pads, by less than the kernel.

    Raises:
        ValueError: A number is out of range.

    >>> FoldedConv2d(8, 8, 3, 2, 8, Padded((0, 0, 1, 1)))(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int, padded: Padded
    ) -> None:
        super().__init__()
        numbers = {"in": in_channels, "out": out_channels, "kernel": kernel, "stride": stride, "groups": groups}
        for name, number in numbers.items():
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} must be a positive whole number, got {number!r}.")
        if max(kernel, stride) > _MOST or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"a kernel and a stride of at most {_MOST} and groups that divide the channels, got {numbers}."
            )
        if padded.zeros is not None and max(padded.zeros) >= kernel:
            raise ValueError(f"padding must be narrower than the kernel of {kernel}, got {padded.zeros}.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel, self.stride, self.padded = kernel, stride, padded
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @classmethod
    def of(cls, convolution: nn.Conv2d, norm: nn.Module | None, padded: Padded) -> Self:
        """What a convolution, padded so, and a norm behind it compute.

        Args:
            convolution: With a square kernel, one stride and no dilation.
            norm: A batch normalisation in evaluation mode, if there is one.
            padded: How the convolution pads.
        """
        weight, bias = convolution.weight, convolution.bias
        layer = cls(
            convolution.in_channels, convolution.out_channels, weight.shape[-1], convolution.stride[0], convolution.groups, padded
        )  # fmt: skip
        layer.to(weight.device, weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
            if norm is not None:
                scale, shift = (each.to(weight) for each in scale_and_shift(cast(_BatchNorm, norm)))
                layer.weight.mul_(scale[:, None, None, None])
                layer.bias.mul_(scale).add_(shift)
        return layer.requires_grad_(weight.requires_grad).train(convolution.training)

    def forward(self, x: Float[Tensor, "image in height width"]) -> Float[Tensor, "image out above across"]:
        """Maps of any size."""
        above, left, below, right = self.padding_of(x)
        y = F.pad(x, (left, right, above, below)) if above or left or below or right else x
        return F.conv2d(y, self.weight, self.bias, self.stride, groups=self.groups)

    def padding_of(self, x: Tensor) -> Padding:
        """Zeros above, left, below and right of these maps."""
        return self.padded.of((x.shape[-2], x.shape[-1]), kernel=self.kernel, stride=self.stride)

    def finalized(self) -> nn.Module:
        """Itself."""
        return self

    def spec(self) -> Spec:
        """Sizes and padding."""
        return {
            "in": self.in_channels,
            "out": self.out_channels,
            "kernel": self.kernel,
            "stride": self.stride,
            "groups": self.groups,
            "padding": self.padded.to_json(),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty one of the given sizes."""
        names = ("in", "out", "kernel", "stride", "groups", "padding")
        if spec.keys() != {*names}:
            raise ValueError(f"a folded convolution has {', '.join(names)}, got {sorted(spec)}.")
        inside, out, kernel, stride, groups, padding = (spec[name] for name in names)
        return cls(inside, out, kernel, stride, groups, Padded.from_json(padding))

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """What it is."""
        return f"a convolution of {spec['kernel']} x {spec['kernel']} with the norm behind it in its weight"

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        padding = "same" if self.padded.zeros is None else self.padded.zeros
        return f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}, stride={self.stride}, groups={self.groups}, padding={padding}"
