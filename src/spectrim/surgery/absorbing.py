"""Norms and activations that a finalized banded convolution does itself, without a pass over the maps of their own."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.nn.absorbed import Absorbed
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.limits import FREE
from spectrim.nn.norms import scale_and_shift
from spectrim.surgery.beside import Beside, beside, clamp_of, ending
from spectrim.surgery.edits import replace_module_


@dataclass(frozen=True)
class Absorption:
    """What takes the places of a banded convolution and of what stands beside it.

    Attributes:
        path: Of the convolution.
        after: The modules that take places, by dotted name, in the order in which they run; the convolution among them.
    """

    path: str
    after: Mapping[str, nn.Module]

    def put_(self, model: nn.Module) -> Callable[[], None]:
        """Put it in; the result takes it out again."""
        undo = [replace_module_(model, model.get_submodule(path), each) for path, each in self.after.items()]

        def back() -> None:
            for each in reversed(undo):
                each()

        return back


def absorbing(model: nn.Module, path: str, known: Beside) -> Absorption:
    """A banded convolution that does the work of what stands beside it; the model stays as it is.

    Args:
        model: With the layer.
        path: Of a :class:`spectrim.nn.GroupedBandsConv2d`.
        known: What stands beside it.
    """
    layer = cast(GroupedBandsConv2d, model.get_submodule(path))
    front: dict[str, nn.Module] = {}
    back: dict[str, nn.Module] = {}
    read, written, scale, shift = layer.read, layer.written, None, None
    if known.before is not None and read == FREE and (limits := clamp_of(model.get_submodule(known.before))):
        read = limits
        front[ending(model, known.before)] = Absorbed(limits)
    for name in known.behind if written == FREE else ():
        module = model.get_submodule(name)
        if (limits := clamp_of(module)) is None:  # a layer before took it
            break
        written = limits
        back[name] = Absorbed(limits)
        if isinstance(module, _BatchNorm):
            scale, shift = scale_and_shift(module)
    other = _with(layer, scale, shift)
    other.read, other.written = read, written
    after = {**front, path: other, **back}
    return Absorption(path, {name: each.train(model.get_submodule(name).training) for name, each in after.items()})


def absorb_(model: nn.Module, example: Tensor) -> None:
    """Let every banded convolution that is finalized do the work of what stands beside it.

    Args:
        model: Computes what it did.
        example: One batch.
    """
    paths = [path for path, each in model.named_modules() if path and isinstance(each, GroupedBandsConv2d)]
    for path, known in beside(model, example, paths).items():
        absorbing(model, path, known).put_(model)


def released_(model: nn.Module) -> None:
    """Let activations that banded convolutions have absorbed stand in their places again; norms stay in the weights."""
    for module in list(model.modules()):
        if isinstance(module, GroupedBandsConv2d):
            module.read = module.written = FREE
        elif isinstance(module, Absorbed) and (activation := module.released()) is not module:
            replace_module_(model, module, activation)


def _with(layer: GroupedBandsConv2d, scale: Tensor | None, shift: Tensor | None) -> GroupedBandsConv2d:
    """A copy, with a norm in its weight."""
    if scale is None or shift is None:
        shared = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
        return copy.deepcopy(layer, dict(shared))
    other = GroupedBandsConv2d(dataclasses.replace(layer.geometry, bias=True), layer.groups)
    other.to(layer.weight.device, layer.weight.dtype)
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias
    with torch.no_grad():
        other.source.copy_(layer.source)
        other.weight.copy_(layer.weight * scale)
        assert other.bias is not None  # noqa: S101 - asked for above
        other.bias.copy_(bias * scale + shift)
    return other.requires_grad_(layer.weight.requires_grad)
