"""A file laid beside a model: whatever does not fit is found here, and nothing is changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from spectrim.artifact.entries import aliases, slots
from spectrim.artifact.norms import foldable, neutral
from spectrim.artifact.places import Place
from spectrim.artifact.reader import Artifact
from spectrim.artifact.resizing import resized
from spectrim.artifact.structure import ComponentEntry, TensorEntry
from spectrim.errors import ArtifactError
from spectrim.nn.absorbed import Absorbed
from spectrim.nn.component import KINDS, Codec, Component, Layer, components
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.sites import dotted, nearest_names
from spectrim.transforms.integers import holds

# What from_spec and the codecs raise at values that they refuse, and torch at sizes that it cannot make.
_REFUSALS = (ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError)


@dataclass
class Fitted:
    """Everything that loading will do, checked and computed.

    Attributes:
        layers: Modules to put at dotted names of the model.
        sizes: For layers that the file has with fewer channels, their integer attributes.
        values: What to write where, in the dtype and on the device of the place.
        codes: The components that are codecs, each with its place and its code.
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    sizes: list[tuple[nn.Module, dict[str, int]]] = field(default_factory=list)
    values: list[tuple[Place, Tensor]] = field(default_factory=list)
    codes: list[tuple[ComponentEntry, Place, Tensor]] = field(default_factory=list)


def fit(model: nn.Module, artifact: Artifact) -> Fitted:
    """Check every entry of a file against a model and compute what would be written where.

    Raises:
        ArtifactError: An entry does not fit.
    """
    _plain(model)
    kinds = {entry.path: _kind(entry) for entry in artifact.structure.components}
    layers = _layers(model, [e for e in artifact.structure.components if issubclass(kinds[e.path], Layer)])
    places = _places(model, layers)
    _same_names(model, artifact, places)
    fitted = Fitted(layers, resized(model, artifact.structure, places))
    for entry, parts in zip(artifact.structure.components, artifact.codes, strict=True):
        kind = kinds[entry.path]
        if issubclass(kind, Codec):
            place = places[entry.path]
            code, dense = _decoded(entry, kind, parts, place)
            fitted.codes.append((entry, place, code))
            fitted.values.append((place, dense))
    for each in artifact.structure.tensors:
        fitted.values.append((places[each.name], _cast(each, artifact.tensors[each.name], places[each.name])))
    _ties(artifact, places, fitted)
    if artifact.structure.norms == "folded":
        _statistics(model, places, fitted)
    _complete(model, places, fitted)
    return fitted


def _plain(model: nn.Module) -> None:
    present = [(path, each.kind) for path, each in components(model)]
    if present:
        raise ArtifactError(
            f"asked to load into {type(model).__name__}, found {len(present)} components of spectrim in it already "
            f"(first: {present[0][0]!r}, {present[0][1]}). Load into a freshly built model."
        )


def _kind(entry: ComponentEntry) -> type[Component]:
    found = KINDS.get(entry.kind)
    if found is None:
        raise ArtifactError(
            f"{entry.path!r} is of the kind {entry.kind[:80]!r}, this version of spectrim knows {', '.join(sorted(KINDS))}. "
            "Install the version that wrote the file."
        )
    if issubclass(found, Layer) == bool(entry.parts):
        raise ArtifactError(
            f"{entry.path!r} of the kind {entry.kind!r} has {len(entry.parts)} parts. The file is damaged."
        )
    return found


def _layers(model: nn.Module, entries: list[ComponentEntry]) -> dict[str, Layer]:
    """The layers that take the places of modules; one inside another is put there at once."""
    layers: dict[str, Layer] = {}
    absorbed = {entry.path for entry in entries if entry.kind == Absorbed.kind}
    for entry in entries:
        outer = next((path for path in layers if entry.path.startswith(f"{path}.")), None)
        root, inside = (model, entry.path) if outer is None else (layers[outer], entry.path[len(outer) + 1 :])
        modules = dict(root.named_modules(remove_duplicate=False))
        if inside not in modules:
            raise ArtifactError(f"{entry.path!r} is a {entry.kind} layer.{_absent(model, entry.path, list(modules))}")
        around = entry.path[: len(entry.path) - len(inside)]
        layer = _built(entry, modules[inside], {around + name: each for name, each in modules.items()}, absorbed)
        if outer is None:
            if other := next((path for path in layers if modules[path] is modules[inside]), None):
                raise ArtifactError(
                    f"{other!r} and {inside!r} are two layers in the file, in {type(model).__name__} they are one module. "
                    "Load it into the architecture that it was saved from."
                )
            layers[entry.path] = layer
        else:
            replace_module_(root, modules[inside], layer)
    for kind in {layer.kind: type(layer) for layer in layers.values()}.values():
        kind.join_([layer for layer in layers.values() if layer.kind == kind.kind])
    return {name: layer for path, layer in layers.items() for name in _names_of(model, path)}


def _names_of(model: nn.Module, path: str) -> list[str]:
    """Every name of the module that has this one."""
    module = model.get_submodule(path)
    return [name for name, each in model.named_modules(remove_duplicate=False) if each is module]


def _built(entry: ComponentEntry, host: nn.Module, modules: Mapping[str, nn.Module], absorbed: set[str]) -> Layer:
    """An empty layer like the module it replaces: first without memory, to see that it asks for a decent amount.

    Args:
        entry: Of the layer.
        host: The module.
        modules: All that there are, by their names in the file.
        absorbed: Names whose modules have nothing left to do, each for one layer only: those that this one has are taken out.
    """
    kind = cast(type[Layer], KINDS[entry.kind])
    try:
        with torch.device("meta"), torch.no_grad():
            trial = kind.from_spec(entry.spec)
        if not isinstance(host, trial.stands_for):
            raise _another(entry, trial, host)
        others = set(trial.takes_places(entry.path)) ^ {entry.path}
        if entry.path in others or not others <= absorbed & modules.keys():
            raise ValueError(f"it takes the places {sorted(others)}, which the file does not leave to it")
        absorbed -= others
        asked, given = _numbers([trial]), _numbers([host, *(modules[name] for name in others)])
        if asked > 8 * given + (1 << 16):
            raise ValueError(f"it asks for {asked:,} numbers in the place of {given:,}")
        layer = kind.from_spec(entry.spec)
    except _REFUSALS as error:
        raise _refused(entry, error) from error
    like = next((tensor for tensor in host.parameters() if tensor.is_floating_point()), None)
    if like is not None:
        layer.to(device="cpu" if like.is_meta else like.device, dtype=like.dtype)
    return layer.train(host.training)


def _numbers(modules: Iterable[nn.Module]) -> int:
    return sum(tensor.numel() for each in modules for tensor in (*each.parameters(), *each.buffers()))


def _another(entry: ComponentEntry, layer: Layer, host: nn.Module) -> ArtifactError:
    name = f"nn.{layer.stands_for.__name__}"
    return ArtifactError(
        f"asked to put the {entry.kind} layer of the file, which stands for an {name}, at {entry.path!r}, found a "
        f"{type(host).__name__} there. Build the network with an {name} in this place, as it was when it was saved."
    )


def _places(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, Place]:
    """The places of the model as it will be with the layers in it, by every name."""
    replaced = {id(module) for path in layers for module in model.get_submodule(path).modules()}
    found = {name: slot for name, slot in slots(model).items() if id(slot.module) not in replaced}
    for path, layer in layers.items():
        found |= {dotted(path, name): slot for name, slot in slots(layer).items()}
    ties = aliases(found)
    places = {name: Place([name], [slot]) for name, slot in found.items() if name not in ties}
    for alias, name in ties.items():
        places[name].names.append(alias)
        places[name].slots.append(found[alias])
        places[alias] = places[name]
    if lost := [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in places]:
        raise ArtifactError(
            f"asked to load into a model without numbers, found that {lost[0]!r} is a buffer that files do not hold. "
            "Build the model on a device."
        )
    return places


def _same_names(model: nn.Module, artifact: Artifact, places: Mapping[str, Place]) -> None:
    """Refuse names that the model does not have."""
    structure = artifact.structure
    names = [*(e.path for e in structure.components if e.parts), *(t.name for t in structure.tensors), *structure.ties]
    unknown = [name for name in names if name not in places]
    if len(unknown) > len(names) / 2:
        raise ArtifactError(
            f"the file is for another architecture: {len(unknown)} of its {len(names)} entries do not exist in "
            f"{type(model).__name__}, the first is {unknown[0]!r}.{_nearest(unknown[0], list(places))} "
            "Load it into the architecture that it was saved from."
        )
    if unknown:
        raise ArtifactError(f"the file holds {unknown[0]!r}.{_absent(model, unknown[0], list(places), len(unknown))}")


def _absent(model: nn.Module, name: str, known: list[str], count: int = 1) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return (
        f" {type(model).__name__} does not have it{more}.{_nearest(name, known)} "
        "Load it into the architecture that it was saved from."
    )


def _nearest(name: str, known: list[str]) -> str:
    nearest = nearest_names(name, known)
    return f" Nearest: {', '.join(map(repr, nearest))}." if nearest else ""


def _decoded(
    entry: ComponentEntry, kind: type[Codec], parts: tuple[Tensor, ...], place: Place
) -> tuple[Tensor, Tensor]:
    """Code and dense tensor. The shape is compared first, so that no codec is built of a size that only a file claims."""
    shape, dtype = list(place.shape), place.tensor.dtype
    if entry.spec.get("shape") != shape:
        raise ArtifactError(
            f"{entry.path!r} has the shape {entry.spec.get('shape')} in the file and {shape} in the model. "
            "Load it into the architecture that it was saved from."
        )
    if not dtype.is_floating_point:
        raise ArtifactError(f"{entry.path!r} is coded in the file, in the model it is of type {dtype}.")
    wide = torch.promote_types(dtype, torch.float32)
    try:
        with torch.no_grad():
            codec = kind.from_spec(entry.spec).to(device=place.device, dtype=wide)
            if codec.numbers() != sum(part.numel() for part in parts):
                raise ValueError(f"the spec asks for {codec.numbers()} numbers, the file has {sum(map(len, parts))}")
            code = codec.unpacked(*(part.to(place.device, wide) for part in parts))
            dense = codec(code)
    except _REFUSALS as error:
        raise _refused(entry, error) from error
    if list(dense.shape) != shape:
        raise ArtifactError(f"{entry.path!r} decodes to the shape {list(dense.shape)} instead of {shape}.")
    return _finite(entry.path, code, dtype), _finite(entry.path, dense, dtype)


def _refused(entry: ComponentEntry, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{entry.path!r} of the kind {entry.kind!r} is refused: {error}. The file is damaged or hostile."
    )


def _cast(entry: TensorEntry, tensor: Tensor, place: Place) -> Tensor:
    there = place.tensor
    if tuple(tensor.shape) != place.shape:
        raise ArtifactError(
            f"{entry.name!r} has the shape {list(tensor.shape)} in the file and {list(place.shape)} in the model. "
            "Load it into the architecture that it was saved from."
        )
    floats = tensor.is_floating_point() and there.is_floating_point()
    if tensor.dtype != there.dtype and not floats and not holds(there.dtype, tensor.dtype):
        raise ArtifactError(f"{entry.name!r} is of type {tensor.dtype} in the file and {there.dtype} in the model.")
    # A copy, so that a model without numbers does not keep the whole file alive.
    return _finite(entry.name, tensor.to(place.device, copy=True), there.dtype)


def _finite(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the dtype of the model, if that can hold it."""
    found = tensor.to(dtype)
    if dtype.is_floating_point and not bool(torch.isfinite(found).all()):
        raise ArtifactError(
            f"{name!r} has numbers up to {float(tensor.abs().max()):.3g}, which {dtype} cannot hold. "
            "Load it into a model in float32."
        )
    return found


def _ties(artifact: Artifact, places: Mapping[str, Place], fitted: Fitted) -> None:
    """Where the file has one tensor under two names and the model two tensors, both get its numbers."""
    values = {id(place): value for place, value in fitted.values}
    for alias, name in artifact.structure.ties.items():
        here, there = places[alias], places[name]
        if here is not there:
            if here.shape != there.shape or here.tensor.dtype != there.tensor.dtype:
                raise ArtifactError(
                    f"{alias!r} is {name!r} in the file, in the model the two are not of one shape and type."
                )
            fitted.values.append((here, values[id(there)].to(here.device, copy=True)))


def _statistics(model: nn.Module, places: Mapping[str, Place], fitted: Fitted) -> None:
    """The running statistics that folding left out."""
    given = {id(place) for place, _ in fitted.values}
    for norm in foldable(model, places):
        absent = [name for name in norm.statistics if id(places[name]) not in given]
        if len(absent) == len(norm.statistics):
            values = neutral(
                norm, {name: places[name].tensor.new_empty(places[name].shape, device="cpu") for name in absent}
            )
            fitted.values.extend((places[name], value.to(places[name].device)) for name, value in values.items())


def _complete(model: nn.Module, places: Mapping[str, Place], fitted: Fitted) -> None:
    """Refuse a file that leaves a tensor of the model without numbers, or gives one two."""
    given = [id(place) for place, _ in fitted.values]
    held = set(given)
    if missing := [name for name, place in places.items() if id(place) not in held and name == place.name]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ArtifactError(
            f"{type(model).__name__} needs {missing[0]!r}{more}, which the file does not hold. "
            "Load it into the architecture that it was saved from."
        )
    if len(given) > len(held):
        twice = next(
            place.name for position, (place, _) in enumerate(fitted.values) if given.index(id(place)) < position
        )
        raise ArtifactError(f"{twice!r} is one tensor in the model and several in the file, with numbers of their own.")
