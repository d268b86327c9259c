"""The ways in which a model may change. An edit is data; :meth:`prepare` checks it against a model and returns the act."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spectrim.errors import PlanError
from spectrim.nn.component import KINDS, Codec, Component, Layer, Spec
from spectrim.surgery.sites import dotted, nearest_names, walk

Undo: TypeAlias = Callable[[], None]
Act: TypeAlias = Callable[[], Undo]
Kind = TypeVar("Kind", bound=Component)

EDITS: dict[str, type["Edit"]] = {}
"""Every edit by its name in JSON: a closed set."""


class Edit(ABC):
    """One change to a model, as data."""

    verb: ClassVar[str]

    def __init_subclass__(cls, *, verb: str) -> None:
        super().__init_subclass__()
        cls.verb = verb
        EDITS[verb] = cls

    @property
    @abstractmethod
    def site(self) -> str:
        """The dotted name of what is edited."""

    @abstractmethod
    def summary(self) -> str:
        """What is done, for people, in a few words."""

    @abstractmethod
    def prepare(self, model: nn.Module) -> Act:
        """Check the edit against a model, changing nothing; the returned act makes it and returns how to undo it.

        Raises:
            PlanError: The edit does not fit the model.
        """

    @classmethod
    def prepare_together(cls, edits: Sequence["Edit"], model: nn.Module) -> list[Act]:
        """The acts of several edits of one kind that stand next to each other in a plan; by default each its own.

        Raises:
            PlanError: One of them does not fit the model.
        """
        return [edit.prepare(model) for edit in edits]

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What :func:`edit_from_json` reads."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The edit with these entries of :meth:`to_json`, the verb left out.

        Raises:
            TypeError: They are not its own.
        """
        return cls(**fields)


@dataclass(frozen=True)
class ParametrizeTensor(Edit, verb="parametrize"):
    """Let a codec stand for a tensor of a module; a layer whose schedule is over is settled first."""

    path: str
    tensor: str
    kind: str
    spec: Spec

    @property
    def site(self) -> str:
        """The parameter's dotted name."""
        return dotted(self.path, self.tensor)

    def summary(self) -> str:
        """What the codec's kind says about its spec."""
        return _codec(self.kind).summary(self.spec)

    @classmethod
    def prepare_together(cls, edits: Sequence[Edit], model: nn.Module) -> list[Act]:
        """Settle a layer once, however many of its tensors are coded."""
        mine = [edit for edit in edits if isinstance(edit, cls)]
        there = {edit.path: module_at(model, edit.path) for edit in mine}
        forms = {id(each): each.settled() if isinstance(each, Layer) else each for each in there.values()}
        return [edit._act(model, there[edit.path], forms[id(there[edit.path])]) for edit in mine]

    def prepare(self, model: nn.Module) -> Act:
        """Check that the tensor is there, plain, of the planned shape; build the codec."""
        return self.prepare_together([self], model)[0]

    def _act(self, model: nn.Module, before: nn.Module, module: nn.Module) -> Act:
        parameter = module._parameters.get(self.tensor)
        if parameter is None:
            state = "already coded" if parametrize.is_parametrized(module, self.tensor) else "not a parameter"
            raise PlanError(f"planned to code {self.site!r}, found it {state}. Plan again on this model.")
        kind, planned = _codec(self.kind), self.spec.get("shape")
        if planned != list(parameter.shape):
            shape = tuple(planned) if isinstance(planned, list) else planned
            raise PlanError(
                f"planned for {self.site!r} of shape {shape}, found {tuple(parameter.shape)}. Plan again on this model."
            )
        if not parameter.is_floating_point():
            raise PlanError(
                f"planned to code {self.site!r}, found it of type {parameter.dtype}; only floats are coded."
            )
        codec = _built(kind, self.spec, self.site)

        def act() -> Undo:
            replace_module_(model, before, module)  # nothing where nothing was to be settled
            codec.to(parameter.device)
            codec.position = list(module._parameters).index(self.tensor)
            own_class_(module)
            # A parameter of its own: an optimizer's memory of the dense weight would be wrong for its code.
            module._parameters[self.tensor] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
            try:
                # unsafe spares a decoding: shape and dtype are what a codec promises and what its tests check
                parametrize.register_parametrization(module, self.tensor, codec.train(module.training), unsafe=True)
            except BaseException:
                module._parameters[self.tensor] = parameter
                replace_module_(model, module, before)
                raise

            def undo() -> None:
                replace_tensor_(module, self.tensor, parameter)
                replace_module_(model, module, before)

            return undo

        return act

    def to_json(self) -> dict[str, Any]:
        """Path, tensor, kind and spec."""
        return {"edit": self.verb, "path": self.path, "tensor": self.tensor, "kind": self.kind, "spec": self.spec}


@dataclass(frozen=True)
class SwapModule(Edit, verb="swap"):
    """Put a component in the place of a module, under every name that the module has.

    Args:
        path: Of the module.
        kind: Of the component.
        spec: What builds an empty one.
        note: For people: what this does to this model.
    """

    path: str
    kind: str
    spec: Spec
    note: str = ""

    @property
    def site(self) -> str:
        """The module's dotted name."""
        return self.path

    def summary(self) -> str:
        """What the layer's kind says about its spec, and the note."""
        return _layer(self.kind).summary(self.spec) + f"; {self.note}" * bool(self.note)

    @classmethod
    def prepare_together(cls, edits: Sequence[Edit], model: nn.Module) -> list[Act]:
        """Build all components first: some of them hold a tensor together."""
        swaps = [(edit, edit._component(model)) for edit in edits if isinstance(edit, cls)]
        first: dict[int, str] = {}
        for edit, _ in swaps:
            path = first.setdefault(id(module_at(model, edit.path)), edit.path)
            if path != edit.path:
                raise PlanError(
                    f"the plan swaps {path!r} and {edit.path!r}, which are one module. Drop one of the edits."
                )
        for kind in {layer.kind: type(layer) for _, layer in swaps}.values():
            kind.join_([layer for _, layer in swaps if layer.kind == kind.kind])
        return [edit._act(model, layer) for edit, layer in swaps]

    def prepare(self, model: nn.Module) -> Act:
        """Check that the module is there, not the root, and what was planned for; build the component."""
        return self._act(model, self._component(model))

    def _act(self, model: nn.Module, layer: Layer) -> Act:
        before = module_at(model, self.path)
        training = before.training
        return lambda: replace_module_(model, before, layer.train(training))

    def _component(self, model: nn.Module) -> Layer:
        if not self.path:
            raise PlanError(
                "planned to swap the model itself, which cannot be done in place. Wrap it in nn.Sequential."
            )
        module = module_at(model, self.path)
        layer = _built(_layer(self.kind), self.spec, self.site)
        like = next(module.parameters(), None)
        if like is not None:
            layer.to(like.device, like.dtype)
        try:
            layer.take_over(module)
        except ValueError as error:
            raise PlanError(f"planned for {self.site!r} {error}. Plan again on this model.") from error
        return layer

    def to_json(self) -> dict[str, Any]:
        """Path, kind and spec; the note if there is one."""
        note = {"note": self.note} if self.note else {}
        return {"edit": self.verb, "path": self.path, "kind": self.kind, "spec": self.spec, **note}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """See :meth:`Edit.from_json`."""
        if not isinstance(fields.get("note", ""), str):
            raise TypeError("a note is a text")
        return cls(**fields)


def edit_from_json(data: Mapping[str, Any]) -> Edit:
    """The edit that :meth:`Edit.to_json` wrote.

    Raises:
        PlanError: It is not one.
    """
    fields = dict(data)
    verb = fields.pop("edit", None)
    if verb not in EDITS:
        raise PlanError(f"an edit is one of {', '.join(EDITS)}, found {verb!r}.")
    try:
        return EDITS[verb].from_json(fields)
    except TypeError as error:
        raise PlanError(f"the edit {verb!r} has other entries than {sorted(fields)}.") from error


def replace_module_(model: nn.Module, before: nn.Module, after: nn.Module) -> Undo:
    """Put a module in the place of another, wherever the model holds it; the result undoes it.

    >>> layer = nn.Linear(2, 2)
    >>> model = nn.Sequential(layer, nn.ReLU(), layer)
    >>> undo = replace_module_(model, layer, nn.Identity())
    >>> model[0] is model[2], undo(), model[0] is model[2] is layer
    (True, None, True)
    """
    held = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is before]
    for parent, name in held:
        parent._modules[name] = after

    def undo() -> None:
        for parent, name in held:
            parent._modules[name] = before

    return undo


def replace_tensor_(module: nn.Module, tensor: str, value: nn.Parameter) -> None:
    """Take the codec off a tensor and put a plain parameter in its place; of several in a module, the last coded first.

    torch's ``remove_parametrizations`` deletes the property from the module's class, which deep copies of the module
    share, and so breaks them; here the class of another module is never touched.
    """
    parametrizations = cast(nn.ModuleDict, module.parametrizations)
    codec = cast(nn.ModuleList, parametrizations[tensor])[0]
    position = codec.position if isinstance(codec, Codec) and codec.position is not None else len(module._parameters)
    del parametrizations[tensor]
    if len(parametrizations) == 0:
        del module._modules["parametrizations"]
        module.__class__ = cast(type[nn.Module], type(module).__base__)
    else:
        own_class_(module)
        delattr(type(module), tensor)
    in_order = list(module._parameters.items())
    in_order.insert(position, (tensor, value))
    module._parameters.clear()
    module._parameters.update(in_order)


def own_class_(module: nn.Module) -> None:
    """Give a parametrized module a class of its own, so that its deep copies do not see its next property."""
    if parametrize.is_parametrized(module):
        shared = type(module)
        members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, members)


def plain_parameter(like: nn.Parameter, dense: Tensor) -> nn.Parameter:
    """A parameter of its own with these values, trainable where ``like`` is."""
    return nn.Parameter(dense.detach().clone(), requires_grad=like.requires_grad)


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module that a plan names.

    Raises:
        PlanError: The model does not have it.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        near = nearest_names(path, (name for name, _ in walk(model) if name))
        hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
        raise PlanError(f"planned for {path!r}, which {type(model).__name__} does not have.{hint}") from error


def _codec(kind: str) -> type[Codec]:
    codecs = {name: each for name, each in KINDS.items() if issubclass(each, Codec)}
    if kind not in codecs:
        raise PlanError(f"no codec of kind {kind!r}; there are {', '.join(codecs)}.")
    return codecs[kind]


def _layer(kind: str) -> type[Layer]:
    layers = {name: each for name, each in KINDS.items() if issubclass(each, Layer)}
    if kind not in layers:
        raise PlanError(f"no layer of kind {kind!r}; there are {', '.join(layers)}.")
    return layers[kind]


def _built(cls: type[Kind], spec: Spec, site: str) -> Kind:
    try:
        with torch.no_grad():
            return cls.from_spec(spec)
    except (ValueError, TypeError, KeyError) as error:
        raise PlanError(f"the plan for {site!r} cannot be built: {error}") from error
