"""Layers whose weight stays factored as B_out · core · B_inᵀ with fixed cosine bases.

A truncated spectrum lies in a small box of the lowest indices. With the kernel's axes decoded, a convolution is exactly
a pointwise one (C_in → b_in), a small K-sized core (b_in → b_out) and a pointwise one (b_out → C_out); a linear layer is
three small products. That is fewer multiplications wherever the box is small; whether it is also faster is measured.
"""

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectrim.nn.component import Layer, Spec
from spectrim.transforms.dct import Norm, inverse_basis

_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_TRANSPOSED = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
_POINTWISE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def factored(host: nn.Module, core: Tensor, *, norm: Norm) -> nn.Module | None:
    """The factored form of a layer, or None where there is none: subclasses, groups, exotic padding, no fewer products.

    Args:
        host: The layer whose weight the core stands for; only its class and sizes are read.
        core: ``(b_out, b_in, *kernel)`` or, for transposed convolutions, ``(b_in, b_out, *kernel)``: the weight
            with its kernel axes decoded and its channel axes still as spectra.
        norm: Of the bases.
    """
    kind = type(host) if not _is_parametrized(host) else type(host).__base__
    if kind is nn.Linear:
        linear = cast(nn.Linear, host)
        spec: Spec = {"in": linear.in_features, "out": linear.out_features}
        dense = linear.in_features * linear.out_features
        thin = core.shape[0] * (core.shape[1] + linear.out_features) + core.shape[1] * linear.in_features
    elif kind in _CONVOLUTIONS or kind in _TRANSPOSED:
        conv = cast(nn.Conv2d, host)
        if conv.groups != 1 or conv.padding_mode != "zeros":
            return None
        taps = core[0, 0].numel()
        first, last = core.shape[:2] if kind in _TRANSPOSED else core.shape[:2][::-1]
        dense = conv.in_channels * conv.out_channels * taps
        thin = conv.in_channels * first + first * last * taps + last * conv.out_channels
        spec = {
            "in": conv.in_channels,
            "out": conv.out_channels,
            "stride": list(conv.stride),
            "padding": conv.padding if isinstance(conv.padding, str) else list(conv.padding),
            "dilation": list(conv.dilation),
        }
        if kind in _TRANSPOSED:
            spec["output_padding"] = list(conv.output_padding)
    else:
        return None
    if thin >= dense:
        return None
    spec |= {"core": list(core.shape), "bias": host.bias is not None, "norm": norm}
    layer = (FactoredLinear if kind is nn.Linear else FactoredConv).from_spec(spec)
    layer.to(core)
    with torch.no_grad():
        layer.core.copy_(core)
        if layer.bias is not None:
            layer.bias.copy_(cast(Tensor, host.bias))
    return layer.train(host.training)


def _is_parametrized(module: nn.Module) -> bool:
    return nn.utils.parametrize.is_parametrized(module)


class _Factored(Layer):
    """What both share: a core, two cosine bases, a bias."""

    basis_in: Tensor
    basis_out: Tensor
    bias: nn.Parameter | None

    def __init__(self, spec: Mapping[str, Any], *, transposed: bool) -> None:
        super().__init__()
        self._spec = dict(spec)
        shape, norm = spec["core"], spec["norm"]
        side_out, side_in = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
        self.core = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(spec["out"])) if spec["bias"] else None
        for name, n, side in (("basis_in", spec["in"], side_in), ("basis_out", spec["out"], side_out)):
            self.register_buffer(name, inverse_basis(n, side, norm=norm, dtype=torch.float32), persistent=False)

    def spec(self) -> Spec:
        """Sizes and options of the layer."""
        return dict(self._spec)

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """The sizes of the three factors."""
        return f"factor {spec['in']} to {spec['out']} channels around a core of {tuple(spec['core'])}"

    def finalized(self) -> nn.Module:
        """Itself: this is an inference form."""
        return self

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        return f"{self._spec['in']}, {self._spec['out']}, core={tuple(self.core.shape)}"


class FactoredLinear(_Factored, kind="spectral-factored-linear"):
    """:math:`y = B_{out} (C (B_{in}^T x)) + b`."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec, transposed=False)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        _checked(spec, {"in", "out", "core", "bias", "norm"}, ranks=(2,))
        return cls(spec)

    @property
    def stands_for(self) -> type[nn.Module]:
        """A linear layer."""
        return nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """``(*, in)`` to ``(*, out)``."""
        return F.linear(F.linear(F.linear(x, self.basis_in.T), self.core), self.basis_out, self.bias)


class FactoredConv(_Factored, kind="spectral-factored-conv"):
    """Pointwise (C_in → b_in), core, pointwise (b_out → C_out); plain or transposed, one to three dimensions."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.transposed = "output_padding" in spec
        super().__init__(spec, transposed=self.transposed)
        self.dims = len(spec["core"]) - 2

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        names = {"in", "out", "core", "bias", "norm", "stride", "padding", "dilation"}
        _checked(spec, names | (spec.keys() & {"output_padding"}), ranks=(3, 4, 5))
        return cls(spec)

    @property
    def stands_for(self) -> type[nn.Module]:
        """A convolution of its kind."""
        return list(_TRANSPOSED if self.transposed else _CONVOLUTIONS)[self.dims - 1]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in, *space)`` to ``(batch, out, *space)``."""
        pointwise, ones = _POINTWISE[self.dims], (1,) * self.dims
        stride, padding, dilation = self._spec["stride"], self._spec["padding"], self._spec["dilation"]
        x = pointwise(x, self.basis_in.T.reshape(self.basis_in.shape[1], -1, *ones))
        if self.transposed:
            convolve: Any = list(_TRANSPOSED.values())[self.dims - 1]
            x = convolve(x, self.core, None, stride, padding, self._spec["output_padding"], 1, dilation)
        else:
            convolve = list(_CONVOLUTIONS.values())[self.dims - 1]
            x = convolve(x, self.core, None, stride, padding, dilation)
        return pointwise(x, self.basis_out.reshape(-1, self.basis_out.shape[1], *ones), self.bias)


def _checked(spec: Mapping[str, Any], names: set[str], *, ranks: tuple[int, ...]) -> None:
    if spec.keys() != names:
        raise ValueError(f"a factored layer needs {sorted(names)}, got {sorted(spec)}.")
    core = spec["core"]
    if not isinstance(core, list) or len(core) not in ranks or not all(type(n) is int and n > 0 for n in core):
        raise ValueError(f"core must be a list of {ranks} positive whole numbers, got {core!r}.")
    if any(type(spec[name]) is not int or spec[name] < 1 for name in ("in", "out")):
        raise ValueError(f"in and out must be positive whole numbers, got {spec['in']!r} and {spec['out']!r}.")
    if spec["norm"] not in ("ortho", "backward") or type(spec["bias"]) is not bool:
        raise ValueError(f"unknown norm {spec['norm']!r} or bias {spec['bias']!r}.")
    for name, least in {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}.items():
        value = spec.get(name, [least] * (len(core) - 2))
        if name == "padding" and value in ("same", "valid"):
            continue
        if not isinstance(value, list) or len(value) != len(core) - 2 or any(type(n) is not int for n in value):
            raise ValueError(f"{name} must be a list of {len(core) - 2} whole numbers, got {value!r}.")
        if min(value, default=least) < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}.")
