"""The calls of a model's layers while its forward runs, whoever wrote the forward."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.repair.norms import norms_of
from spectrim.surgery.sites import walk

Kind: TypeAlias = Literal["linear", "conv", "transposed", "norm"]

_WEIGHTED = ("input", "weight", "bias", "stride", "padding")
_CALLS: Mapping[Callable[..., Any], tuple[Kind, tuple[str, ...]]] = {
    F.linear: ("linear", _WEIGHTED[:3]),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), ("conv", (*_WEIGHTED, "dilation", "groups"))),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        ("transposed", (*_WEIGHTED, "output_padding", "groups", "dilation")),
    ),
    F.batch_norm: ("norm", ("input", "running_mean")),
}


@dataclass(frozen=True)
class Call:
    """A call of a layer of the model.

    Attributes:
        path: Of the layer.
        kind: What is computed.
        x: What it reads.
        settings: The other arguments by name, where they were given.
    """

    path: str
    kind: Kind
    x: Tensor
    settings: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """Into how many parts the channels fall."""
        return int(self.settings.get("groups", 1))

    def along(self, name: str, axes: int, default: int) -> tuple[int, ...]:
        """A setting such as the stride, for each of the axes."""
        value = self.settings.get(name, default)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * axes
        return values * axes if len(values) == 1 else values


class Calls(TorchFunctionMode, ABC):
    """While active, sees each call of a convolution, linear layer or batch normalisation with the layer's own tensors.

    Functions are watched rather than modules: so padding that a forward makes itself is seen as it is, and a weight that is
    computed on the way (standardised, coded) is not taken for the layer's own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        layers = {path: cast(nn.Linear, layer).weight for path, layer in layers_of(model).items()}
        norms = {path: cast(Tensor, norm.running_mean) for path, norm in norms_of(model).items()}
        self._paths = {id(tensor): path for path, tensor in reversed((layers | norms).items())}

    @abstractmethod
    def before(self, call: Call) -> None:
        """A layer is about to be called."""

    @abstractmethod
    def after(self, call: Call, out: Tensor) -> None:
        """A layer was called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; show it if it is a layer's."""
        kwargs = kwargs or {}
        kind, names = _CALLS.get(func, (None, ()))
        if kind is None:
            return func(*args, **kwargs)
        given = dict(zip(names, args, strict=False)) | kwargs
        path = self._paths.get(id(given.get("running_mean" if kind == "norm" else "weight")))
        if path is None:
            return func(*args, **kwargs)
        call = Call(path, kind, given["input"], given)
        self.before(call)
        out = func(*args, **kwargs)
        self.after(call, out)
        return out


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers with a plain weight, by dotted name; pointwise ones that see low frequencies alone, too."""
    return {
        path: module
        for path, module in walk(model)
        if isinstance(module, _ConvNd | nn.Linear | BandedPointwiseConv2d)
        and isinstance(module._parameters.get("weight"), Tensor)  # noqa: SLF001 - not a coded one
    }


def own(tensor: Tensor) -> Tensor:
    """In the precision that sums are taken in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
