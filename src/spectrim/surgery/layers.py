"""The rules of torch's layers, and the rule of any layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from spectrim.nn.channel_map import ChannelMap
from spectrim.surgery.heads import Heads
from spectrim.surgery.rules import Rule, Shape, smaller
from spectrim.surgery.scales import Scales


class _Weighted(Rule):
    def __init__(self, out: int = 0) -> None:
        self.out = out

    def outputs(self, layer: Any) -> list[tuple[str, int]]:
        return [("weight", self.out), ("bias", 0)] if layer.bias is not None else [("weight", self.out)]

    def inputs(self, layer: Any) -> list[tuple[str, int]]:
        return [("weight", 1 - self.out)]

    def sizes(self, layer: Any, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        weight, before = shapes["weight"], tuple(layer.weight.shape)
        out, inside = weight[self.out], weight[1 - self.out]
        if not smaller(weight, before) or weight[2:] != before[2:] or shapes.get("bias", (out,)) != (out,):
            return None
        return self._named(layer, out, inside)

    def _named(self, layer: Any, out: int, inside: int) -> dict[str, int] | None:
        return {"out_features": out, "in_features": inside}


class _Conv(_Weighted):
    def _named(self, layer: Any, out: int, inside: int) -> dict[str, int] | None:
        groups = layer.groups
        if groups > 1:  # whole groups go: what one group reads and writes stays
            per_group, rest = divmod(out * groups, layer.out_channels)
            if self.out != 0 or rest or inside != layer.weight.shape[1]:
                return None
            groups = per_group
        return {"out_channels": out, "in_channels": inside * groups, "groups": groups}


class _Vectors(Rule):
    def __init__(self, tensors: Sequence[str], size: str) -> None:
        self.tensors = tensors
        self.size = size

    def outputs(self, layer: Any) -> list[tuple[str, int]]:
        return [(name, 0) for name in self.tensors if getattr(layer, name) is not None]

    def sizes(self, layer: Any, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        lengths = {shapes[name] for name, _ in self.outputs(layer)}
        before = tuple(getattr(layer, self.outputs(layer)[0][0]).shape) if lengths else ()
        if len(lengths) != 1 or not smaller(length := lengths.pop(), before):
            return None
        return {self.size: length[0]}


class _Groups(_Vectors):
    """Whole groups go, so that those that stay average over what they did."""

    def sizes(self, layer: nn.GroupNorm, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        sizes = super().sizes(layer, shapes)
        if sizes is None:
            return None
        groups, rest = divmod(layer.num_groups * sizes[self.size], layer.num_channels)
        return None if rest or not groups else {**sizes, "num_groups": groups}


class _Map(Rule):
    def outputs(self, layer: ChannelMap) -> list[tuple[str, int]]:
        return [("source", 0)]

    def inputs(self, layer: ChannelMap) -> list[tuple[str, int]]:
        return [("source", 1)]  # no axis of the tensor: the channels that its values name

    def sizes(self, layer: ChannelMap, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        return {} if smaller(shapes["source"], tuple(layer.source.shape)) else None

    def cut(self, value: Tensor, dim: int, gone: Sequence[int]) -> Tensor:
        if dim == 0:
            return super().cut(value, dim, gone)
        named = self.silenced(value, dim, gone)
        lower = torch.tensor(gone, dtype=value.dtype, device=value.device)[None, :] < named[:, None]
        return named - lower.sum(1).to(value.dtype)

    def silenced(self, value: Tensor, dim: int, gone: Sequence[int]) -> Tensor:
        return torch.where(torch.isin(value, torch.tensor(gone, dtype=value.dtype, device=value.device)), -1, value)


_RULES: tuple[tuple[type | tuple[type, ...], Rule], ...] = (
    (_ConvTransposeNd, _Conv(out=1)),
    (_ConvNd, _Conv()),
    (nn.Linear, _Weighted()),
    (_BatchNorm, _Vectors(("weight", "bias", "running_mean", "running_var"), "num_features")),
    (nn.GroupNorm, _Groups(("weight", "bias"), "num_channels")),
    (nn.PReLU, _Vectors(("weight",), "num_parameters")),
    (ChannelMap, _Map()),
)
_OTHERS: tuple[Scales | Heads, ...] = (Heads(), Scales())


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer, by its type or a type that it extends; None where channels of it are never cut.

    >>> rule_of(nn.Conv2d(1, 2, 3)).outputs(nn.Conv2d(1, 2, 3))
    [('weight', 0), ('bias', 0)]
    """
    found = next((rule for kinds, rule in _RULES if isinstance(layer, kinds)), None)
    return found or next((rule for rule in _OTHERS if rule.fits(layer)), None)
