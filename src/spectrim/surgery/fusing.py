"""Depthwise convolutions that run in one pass with the pointwise ones beside them, and back."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spectrim.kernels.fused import KERNELS, STRIDES
from spectrim.nn.absorbed import Absorbed
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.component import Layer
from spectrim.nn.folded import FoldedConv2d, Padded
from spectrim.nn.fused import FusedDepthwise, Places, is_depthwise, is_pointwise
from spectrim.nn.limits import FREE, Limits, activation_of, meet
from spectrim.surgery.beside import clamp_of, heard, heard_between, readers, shared_path
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.padding import paddings_of
from spectrim.surgery.same import outputs_of, still_computes


@dataclass(frozen=True)
class Block:
    """A depthwise convolution and what stands beside it, by dotted name.

    Attributes:
        parts: Of :class:`spectrim.nn.FusedDepthwise` by their names there.
        norms: The norms behind these, by the same names.
        activations: What clamps besides, with what it clamps to; norms that end so among them.
        order: All of these as they run.
        padded: How the depthwise convolution pads.
        clamps: What the activations clamp behind the first pointwise and behind the depthwise convolution.
    """

    parts: Mapping[str, str]
    norms: Mapping[str, str]
    activations: Mapping[str, Limits]
    order: tuple[str, ...]
    padded: Padded
    clamps: tuple[Limits, Limits]

    @property
    def path(self) -> str:
        """Where the layer goes: to its last part."""
        return self.parts["project"]

    @property
    def first(self) -> str:
        """The part that reads what comes in."""
        return self.order[0]

    def fuse_(self, model: nn.Module) -> Callable[[], None]:
        """Put the layer into the model; the result takes it out again."""
        layer = self.fused(model)
        undo = []
        for path in self.order[:-1]:
            module = model.get_submodule(path)
            there = Absorbed(_absorbed_in(module)).train(module.training)
            undo.append(replace_module_(model, module, there))
        undo.append(replace_module_(model, model.get_submodule(self.path), layer))

        def back() -> None:
            for each in reversed(undo):
                each()

        return back

    def fused(self, model: nn.Module) -> FusedDepthwise:
        """The layer, with norms folded, else of the model's own modules; the model stays as it is."""
        parts = {name: model.get_submodule(path) for name, path in self.parts.items()}
        for name, path in {"depthwise": None, **self.norms}.items():
            norm, part = None if path is None else model.get_submodule(path), parts[name]
            if isinstance(part, nn.Conv2d):
                parts[name] = FoldedConv2d.of(part, norm, self.padded if name == "depthwise" else Padded((0, 0, 0, 0)))
        root = "".join(f"{name}." for name in shared_path(self.order))
        places = Places(
            self.path.removeprefix(root).count(".") + 1,
            {name: path.removeprefix(root) for name, path in self.parts.items()},
            {path.removeprefix(root): limits for path, limits in self.activations.items()},
        )
        depthwise, project = cast(FoldedConv2d, parts["depthwise"]), parts["project"]
        layer = FusedDepthwise(depthwise, project, expand=parts.get("expand"), places=places, clamps=self.clamps)
        layer.training = model.get_submodule(self.path).training  # of the parts each keeps its own
        return layer


def blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """The blocks of a model that can run in one pass: nothing else reads what is in between, and all of it is understood.

    Args:
        model: With finalized banded convolutions, or plain ones; runs once in evaluation mode, and is as before.
        example: One batch.

    >>> import torch
    >>> net = nn.Sequential(
    ...     nn.Conv2d(4, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 4, 1)
    ... )
    >>> blocks(net, torch.zeros(1, 4, 6, 6))[0].parts
    {'expand': '0', 'depthwise': '2', 'project': '4'}
    """
    inside = {id(each) for fused in model.modules() if isinstance(fused, FusedDepthwise) for each in fused.modules()}
    modules = {
        path: each
        for path, each in model.named_modules()
        if path
        and id(each) not in inside
        and (_is_pointwise(each) or _is_depthwise(each) or clamp_of(each) is not None)
    }
    follows, calls = readers(model, example, modules)
    leads = {reader: writer for writer, reader in follows.items()}
    found, taken = [], set[str]()
    for path, module in modules.items():
        if not _is_depthwise(module) or calls[path] != 1:
            continue
        free = Counter({each: count for each, count in calls.items() if each not in taken})
        if (block := _around(model, path, follows, leads, free)) is not None:
            taken.update(block.order)
            found.append(block)
    if not found:
        return []
    paddings = paddings_of(model, example, [block.parts["depthwise"] for block in found])
    return [replace(block, padded=paddings[name]) for block in found if (name := block.parts["depthwise"]) in paddings]


def fuse_(model: nn.Module, example: Tensor, chosen: Sequence[Block]) -> list[Block]:
    """Put layers in the places of some blocks; those are taken out again, the last ones first, with which the model no longer computes what it did.

    What is not seen in a forward can still refuse: one that asks a part for its weight, say.

    Args:
        model: Of which they are blocks.
        example: One batch.
        chosen: These blocks, in the order of the model.

    Returns:
        Those that are in.
    """
    expected = outputs_of(model, example)
    found, undo = [*chosen], [each.fuse_(model) for each in chosen]
    while undo and not still_computes(model, example, expected):
        undo.pop()()
        found.pop()
    return found


def unfused_(model: nn.Module) -> None:
    """Let the parts of fused layers stand in their places again."""
    for path, layer in [(path, each) for path, each in model.named_modules() if isinstance(each, FusedDepthwise)]:
        here = {name: layer.places.at(path, place) for name, place in layer.places.parts.items()}
        for name, limits in layer.places.activations.items():
            there = model.get_submodule(layer.places.at(path, name))
            replace_module_(model, there, activation_of(limits).train(layer.training))
        for name, part in layer.parts().items():
            replace_module_(model, model.get_submodule(here[name]), part)


def _around(
    model: nn.Module, path: str, follows: Mapping[str, str], leads: Mapping[str, str], calls: Mapping[str, int]
) -> Block | None:
    """The block around a depthwise convolution, its padding left open; None where nothing pointwise reads it."""

    def passed(at: str | None, by: Mapping[str, str]) -> tuple[list[str], str | None]:
        """Norms and activations from a name on, and the pointwise convolution behind them, if there is one."""
        names: list[str] = []
        while at is not None and calls.get(at) == 1 and clamp_of(model.get_submodule(at)) is not None:
            names.append(at)
            at = by.get(at)
        found = at is not None and calls.get(at) == 1 and _is_pointwise(model.get_submodule(at))
        return names, at if found else None

    behind, project = passed(follows.get(path), follows)
    before, expand = passed(leads.get(path), leads)
    if project is None:
        return None
    stretches = {"depthwise": behind} | ({} if expand is None else {"expand": [*reversed(before)]})
    norms: dict[str, str] = {}
    activations: dict[str, Limits] = {}
    clamps = dict.fromkeys(("expand", "depthwise"), FREE)
    for name, stretch in stretches.items():
        for number, at in enumerate(stretch):
            module = model.get_submodule(at)
            limits = clamp_of(module) or FREE
            if isinstance(module, _BatchNorm):
                if number > 0 or isinstance(
                    model.get_submodule(path if name == "depthwise" else cast(str, expand)), Layer
                ):
                    return None  # layers of ours have taken norms already, where they can
                norms[name] = at
            if limits != FREE:
                activations[at] = limits
            clamps[name] = meet(clamps[name], limits)
    reader = model.get_submodule(project)
    if expand is None and isinstance(reader, GroupedBandsConv2d) and not reader._in_order():
        return None
    if isinstance(reader, GroupedBandsConv2d):
        low, high = meet(clamps["depthwise"], reader.read)
        if not low < high:
            return None
    if not all(low < high for low, high in clamps.values()):
        return None
    parts = {"expand": expand} if expand is not None else {}
    order = (*([expand, *stretches["expand"]] if expand is not None else ()), path, *behind, project)
    if heard_between(model, order):
        return None
    return Block(
        {**parts, "depthwise": path, "project": project}, norms, activations, order, Padded(None),
        (clamps["expand"], clamps["depthwise"]),
    )  # fmt: skip


def _absorbed_in(module: nn.Module) -> Limits:
    """What an activation inside of a norm clamped before a convolution took that over."""
    inner = module._modules.get("act")
    return inner.limits if isinstance(inner, Absorbed) else FREE


def _is_pointwise(module: nn.Module) -> bool:
    return is_pointwise(module) and not heard(module)


def _is_depthwise(module: nn.Module) -> bool:
    if heard(module):
        return False
    return is_depthwise(module) or (
        isinstance(module, nn.Conv2d)
        and module.in_channels == module.out_channels == module.groups
        and module.kernel_size[0] == module.kernel_size[1]
        and module.kernel_size[0] in KERNELS
        and module.stride[0] == module.stride[1]
        and module.stride[0] in STRIDES
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
    )
