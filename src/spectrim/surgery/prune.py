"""The edit that removes channels, from a layer and from everything that has to follow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from torch import Tensor, nn

from spectrim.errors import OrderError, PlanError
from spectrim.surgery.edits import Act, Edit, Undo, module_at
from spectrim.surgery.heads import Heads
from spectrim.surgery.layers import rule_of
from spectrim.surgery.rules import Rule, settle_
from spectrim.surgery.sites import coded, dotted

Axes: TypeAlias = dict[str, dict[int, list[int]]]


@dataclass(frozen=True)
class Cut:
    """Indices, and the tensors that lose them: dotted name, dimension, shape before."""

    indices: tuple[int, ...]
    tensors: tuple[tuple[str, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class PruneChannels(Edit, verb="prune"):
    """Remove channels of a layer, from it and from everything that has to follow. What stays is copied exactly.

    Args:
        path: The layer whose channels go.
        channels: Which of its output channels.
        width: How many it has.
        cuts: All that goes, at the layer itself and elsewhere. Edits next to each other in a plan all count in the
            model as it was before the first of them.
        note: For people: why these, and what it saves.
    """

    path: str
    channels: tuple[int, ...]
    width: int
    cuts: tuple[Cut, ...]
    note: str = ""

    @property
    def site(self) -> str:
        """The layer's dotted name."""
        return self.path

    def summary(self) -> str:
        """How many channels stay, and the note.

        >>> PruneChannels("conv1", (1, 3), 8, (), "saves 20 parameters").summary()
        'keep 6 of 8 channels; saves 20 parameters'
        """
        return f"keep {self.width - len(self.channels):,} of {self.width:,} channels" + f"; {self.note}" * bool(
            self.note
        )

    def prepare(self, model: nn.Module) -> Act:
        """Check that every tensor is there, plain, of the planned shape, and that something of it stays."""
        return self.prepare_together([self], model)[0]

    @classmethod
    def prepare_together(cls, edits: Sequence[Edit], model: nn.Module) -> list[Act]:
        """One act for all of them."""
        cuts = [edit for edit in edits if isinstance(edit, PruneChannels)]
        if codes := coded(model):
            raise OrderError(
                f"asked to cut channels, but {len(codes)} tensors are already coded (first: {codes[0].site!r}, "
                f"{codes[0].codec.kind}). Cut first and code last, or decode with spectrim.finalize_(model)."
            )
        _check(cuts, model)
        layers: dict[str, dict[str, Tensor]] = {}
        for site, axes in removed(cuts).items():
            path, _, name = site.rpartition(".")
            module, rule = _layer(model, path, site)
            value = _tensor(module, name, site)
            for dim, gone in sorted(axes.items(), reverse=True):  # what a map reads comes before what it writes
                value = rule.cut(value, dim, gone)
            layers.setdefault(path, {})[name] = value
        shapes = {
            dotted(path, name): tuple(value.shape) for path, values in layers.items() for name, value in values.items()
        }
        sizes = {path: _sizes(model, path, shapes) for path in (*layers, *_around(model, layers))}

        def act() -> Undo:
            undos: list[Undo] = []
            for path, numbers in sizes.items():
                module = model.get_submodule(path)
                undos.append(settle_(module, numbers))
                undos += [_put_(module, name, value) for name, value in layers.get(path, {}).items()]

            def undo() -> None:
                for each in reversed(undos):
                    each()

            return undo

        return [act]

    def to_json(self) -> dict[str, Any]:
        """Path, channels, width, cuts and note."""
        return {
            "edit": self.verb,
            "path": self.path,
            "channels": list(self.channels),
            "width": self.width,
            "cuts": [
                [list(cut.indices), [[s, dim, list(shape)] for s, dim, shape in cut.tensors]] for cut in self.cuts
            ],
            "note": self.note,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read :meth:`to_json`'s entries; the types of all of them are checked."""
        if fields.keys() != {"path", "channels", "width", "cuts", "note"}:
            raise TypeError("a cut has a path, channels, a width, cuts and a note")
        try:
            cuts = tuple(
                Cut(_numbers(indices), tuple((_text(s), _number(dim), _numbers(shape)) for s, dim, shape in tensors))
                for indices, tensors in fields["cuts"]
            )
        except ValueError as error:
            raise TypeError(f"cuts are pairs of indices and tensors: {error}") from error
        return cls(
            _text(fields["path"]), _numbers(fields["channels"]), _number(fields["width"]), cuts, _text(fields["note"])
        )


def removed(edits: Iterable[PruneChannels]) -> Axes:
    """All that several cuts remove: for each tensor and dimension the sorted indices."""
    found: dict[str, dict[int, set[int]]] = {}
    for edit in edits:
        for cut in edit.cuts:
            for site, dim, _ in cut.tensors:
                found.setdefault(site, {}).setdefault(dim, set()).update(cut.indices)
    return {site: {dim: sorted(indices) for dim, indices in axes.items()} for site, axes in found.items()}


def silenced(model: nn.Module, edits: Iterable[PruneChannels]) -> dict[str, Tensor]:
    """The tensors with which the model computes what it will compute without the channels, at its present size.

    Layers that read a channel to be removed get nothing from it. This is what a cut is held against.
    """
    found: dict[str, Tensor] = {}
    for site, axes in removed(edits).items():
        path, _, name = site.rpartition(".")
        module, rule = _layer(model, path, site)
        for each, dim in rule.inputs(module):
            if each == name and dim in axes and getattr(module, "groups", 1) == 1:
                found[site] = rule.silenced(_tensor(module, name, site), dim, axes[dim])
    return found


def _check(edits: Sequence[PruneChannels], model: nn.Module) -> None:
    for edit in edits:
        for cut in edit.cuts:
            for site, dim, shape in cut.tensors:
                path, _, name = site.rpartition(".")
                module, rule = _layer(model, path, site)
                found = tuple(_tensor(module, name, site).shape)
                if found != shape:
                    raise PlanError(f"planned for {site!r} of shape {shape}, found {found}. Plan again on this model.")
                axes = rule.outputs(module) + rule.inputs(module)
                size = shape[dim] if dim < len(shape) else 1 << 15
                if (name, dim) not in axes or not all(0 <= index < size for index in cut.indices):
                    raise PlanError(
                        f"planned to cut axis {dim} of {site!r} at {cut.indices[:3]}…, found that its channels do not lie "
                        "there. Plan again on this model."
                    )


def _layer(model: nn.Module, path: str, site: str) -> tuple[nn.Module, Rule]:
    module = module_at(model, path)
    rule = rule_of(module)
    if rule is None:
        raise PlanError(f"planned to cut {site!r}, found it in a {type(module).__name__}, which is not cut.")
    return module, rule


def _tensor(module: nn.Module, name: str, site: str) -> Tensor:
    value = {**module._parameters, **module._buffers}.get(name)
    if value is None:
        raise PlanError(f"planned to cut {site!r}, found no such plain tensor. Plan again on this model.")
    return value.detach()


def _around(model: nn.Module, paths: Iterable[str]) -> list[str]:
    """Modules that count the heads of layers in them."""
    above = {path.rpartition(".")[0] for path in paths}
    while more := {path.rpartition(".")[0] for path in above} - above:
        above |= more
    return [path for path in sorted(above - set(paths)) if isinstance(rule_of(model.get_submodule(path)), Heads)]


def _sizes(model: nn.Module, path: str, cut: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    module, rule = _layer(model, path, path)
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    shapes = {name: cut.get(dotted(path, name), tuple(tensor.shape)) for name, tensor in tensors}
    sizes = rule.sizes(module, shapes)
    if sizes is None:
        changed = {name: shapes[name] for name, _ in tensors if dotted(path, name) in cut}
        raise PlanError(
            f"planned to cut {path!r}, found that what is left is no {type(module).__name__}: {changed}. "
            "Plan again on this model."
        )
    return sizes


def _put_(module: nn.Module, name: str, value: Tensor) -> Undo:
    """Put a smaller tensor in a place. A parameter stays the same object, so that whoever shares it shares the cut."""
    parameter = module._parameters.get(name)
    if parameter is None:
        buffer = module._buffers[name]
        module._buffers[name] = value

        def undo() -> None:
            module._buffers[name] = buffer

        return undo
    data, grad = parameter.data, parameter.grad
    parameter.data, parameter.grad = value, None

    def undo_parameter() -> None:
        parameter.data = data
        parameter.grad = grad

    return undo_parameter


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(_number(each) for each in value)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"needs a whole number that is not negative, found {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"needs a text, found {value!r}")
    return value
