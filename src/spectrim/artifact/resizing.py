"""A file of a network with fewer channels, laid beside the network with all of them."""

from collections.abc import Mapping, Sequence

from torch import nn

from spectrim.artifact.places import Place
from spectrim.artifact.structure import Structure
from spectrim.surgery.heads import Heads
from spectrim.surgery.layers import rule_of
from spectrim.surgery.rules import Rule
from spectrim.surgery.sites import dotted, walk

Shape = tuple[int, ...]


def resized(
    model: nn.Module, structure: Structure, places: Mapping[str, Place]
) -> list[tuple[nn.Module, dict[str, int]]]:
    """Mark the places of layers that the file has with fewer channels; the shapes come from the file.

    Only layers that have a rule in :mod:`spectrim.surgery.layers` get smaller, never larger, each in a way in which a cut can
    leave it, and only if as many channels are read less as are written less: a file for another number of classes
    is refused as ever. Places of anything else keep their shape, and what does not fit is found when they are filled.

    Returns:
        The layers, with the integer attributes that they will have.
    """
    shapes = {each.name: each.shape for each in structure.tensors}
    for component in structure.components:
        spec = component.spec.get("shape")
        if component.parts and isinstance(spec, list) and all(type(n) is int and n > 0 for n in spec):
            shapes[component.path] = tuple(n for n in spec if isinstance(n, int))
    if structure.norms == "folded":  # their statistics are not in the file, and as long as what is
        for name in places.keys() - shapes.keys():
            path, _, attribute = name.rpartition(".")
            if attribute in ("running_mean", "running_var") and (scale := dotted(path, "weight")) in shapes:
                shapes[name] = shapes[scale]
    shapes |= {alias: shapes[name] for alias, name in structure.ties.items() if name in shapes}
    layers: dict[int, tuple[nn.Module, dict[str, Shape]]] = {}
    for name, place in places.items():
        if name not in shapes or shapes[name] == place.shape:
            continue
        for slot in place.slots:
            layers.setdefault(id(slot.module), (slot.module, {}))[1][slot.attribute] = shapes[name]
    found = []
    for module, new in layers.values():
        rule = rule_of(module)
        if rule is None or rule.sizes(module, _shapes(module)) is None:
            continue
        if (sizes := rule.sizes(module, _shapes(module) | new)) is not None:
            found.append((module, rule, new, sizes))
    heads = _heads(model, shapes)
    if heads is None or not _explained([(module, rule, new) for module, rule, new, _ in found]):
        return []
    smaller = {id(module) for module, *_ in found}
    for name, place in places.items():
        if name in shapes and shapes[name] != place.shape and all(id(slot.module) in smaller for slot in place.slots):
            place.resized = shapes[name]
    return [*heads, *((module, sizes) for module, _, _, sizes in found if not isinstance(rule_of(module), Heads))]


def _heads(model: nn.Module, shapes: Mapping[str, Shape]) -> list[tuple[nn.Module, dict[str, int]]] | None:
    """Attention modules with fewer heads; None where the projections of one are cut within a head."""
    found = []
    for path, module in walk(model):
        if isinstance(rule := rule_of(module), Heads):
            sizes = rule.sizes(
                module, {name: shapes.get(dotted(path, name), shape) for name, shape in _shapes(module).items()}
            )
            if sizes is None:
                return None
            found.append((module, sizes))
    return [each for each in found if each[1]]


def _shapes(module: nn.Module) -> dict[str, Shape]:
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _explained(layers: Sequence[tuple[nn.Module, Rule, Mapping[str, Shape]]]) -> bool:
    """Whether no layer writes fewer channels by much more than all layers together read fewer.

    A gate writes two channels where one is read, attention a query, a key and a value.
    """
    read = 0
    written = [0]
    for module, rule, new in layers:
        before = _shapes(module)
        for axes, lost in ((rule.inputs(module), False), (rule.outputs(module)[:1], True)):
            for tensor, dim in axes:
                if tensor in new and dim < len(before[tensor]) and rule.inputs(module):
                    difference = before[tensor][dim] - new[tensor][dim]
                    read += 0 if lost else difference
                    written += [difference] * lost
    return max(written) <= 4 * read
