"""The abstract modules that may stand in a compressed model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Spec: TypeAlias = dict[str, JSON]

KINDS: dict[str, type["Component"]] = {}
"""Every concrete component by the name it has in files. Filled by the class statements, never changed after."""


class Component(nn.Module, ABC):
    """A module that a method leaves in the model; it carries all of the method's state.

    A concrete subclass names its ``kind``, which is what files call it and is never reused for something else::

        class SpectralCodec(Codec, kind="spectral"): ...

    Raises:
        TypeError: Two classes claim the same kind.
    """

    kind: ClassVar[str]
    spared: ClassVar[tuple[str, ...]] = ()
    """Parameters of its own that weight decay should leave alone, because zero is not where they start from."""

    def __init_subclass__(cls, *, kind: str | None = None) -> None:
        super().__init_subclass__()
        if kind is None:
            return
        if kind in KINDS:
            raise TypeError(f"the kind {kind!r} already belongs to {KINDS[kind].__name__}. Choose another name.")
        cls.kind = kind
        KINDS[kind] = cls

    @abstractmethod
    def spec(self) -> Spec:
        """What rebuilds an empty one, together with the kind: sizes and choices, no tensors, no history."""

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty component as described by :meth:`spec`.

        Raises:
            ValueError: A value is missing, of the wrong type or out of range; nothing in ``spec`` is trusted.
        """

    @classmethod
    @abstractmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """What a plan with this spec does, for people, in a few words."""

    def penalty(self) -> Tensor | None:
        """What joins the loss, already weighted; None where the method has no regulariser."""
        return None

    @classmethod
    def penalty_together(cls, components: Sequence[Self]) -> Tensor | None:
        """The penalties of all components of this kind in one; by default their sum."""
        terms = [term for component in components if (term := component.penalty()) is not None]
        return torch.stack([term.to(terms[0]) for term in terms]).sum() if terms else None

    @classmethod
    def anneal_together_(cls, components: Sequence[Self], progress: float) -> None:
        """Move the schedules of all components of this kind to ``progress`` in [0, 1]; by default nothing moves.

        Monotone (an earlier progress changes nothing) and idempotent.
        """


class Layer(Component):
    """A component that stands for a whole module."""

    def take_over(self, host: nn.Module) -> None:
        """Take what this layer needs of the module in whose place it is put, which stays as it is; by default nothing.

        Raises:
            ValueError: The module is another one than this layer was planned for; the message goes on where
                "planned for NAME" stops.
        """

    @property
    def stands_for(self) -> type[nn.Module]:
        """The class of the modules in whose place this layer can stand; by default any."""
        return nn.Module

    def takes_places(self, path: str) -> list[str]:
        """The dotted names of all modules whose place this layer takes where it stands at ``path``; by default that one.

        In a file stand ``absorbed`` layers in the places of the others.
        """
        return [path]

    @abstractmethod
    def finalized(self) -> nn.Module:
        """The module that takes this one's place for inference; itself where it already is that form."""

    def multiplications(self, shape: Sequence[int]) -> int | None:
        """Multiply-accumulates of one call on an input of this shape, where torch dispatches others; by default None, it does not.

        For layers with a compiled form that has another arithmetic than the plain one.
        """
        return None

    def alternatives(self, *, compiled: bool = True) -> dict[str, nn.Module]:
        """Other inference forms, which compute the same in another way, by names for people; by default none.

        Args:
            compiled: Whether those count that need compiled kernels, which no other runtime has.

        :func:`spectrim.finalize_` measures them against :meth:`finalized` and takes the fastest one.
        """
        return {}

    @classmethod
    def join_(cls, layers: Sequence[Self]) -> None:
        """Let layers of this kind that go into a model together hold one tensor where their specs say so; by default none do."""

    def settled(self) -> "Layer":
        """What stands here once its schedule is over and its numbers are coded; by default itself."""
        return self

    def stored(self) -> "Layer":
        """What a file holds of this layer: one of the same outputs, without what only training needs."""
        return self


class Codec(Component):
    """A component that stands for one tensor, through :mod:`torch.nn.utils.parametrize`.

    ``right_inverse`` encodes, ``forward`` decodes; between them the tensor lives as its *code*, which is what trains.
    """

    position: int | None = None
    """Where among its module's parameters the tensor stood, so that decoding puts it back there."""

    @abstractmethod
    def right_inverse(self, dense: Tensor) -> Tensor:
        """Encode a dense tensor."""

    @abstractmethod
    def forward(self, code: Tensor) -> Tensor:
        """Decode to the dense tensor."""

    @abstractmethod
    def numbers(self) -> int:
        """How many numbers :meth:`packed` writes."""

    @abstractmethod
    def packed(self, code: Tensor) -> tuple[Tensor, ...]:
        """What of the code is worth writing: one-dimensional tensors."""

    @abstractmethod
    def unpacked(self, *packed: Tensor) -> Tensor:
        """The code that :meth:`packed` came from.

        Raises:
            ValueError: The parts do not fit this codec.
        """

    def alternative(self, host: nn.Module, code: Tensor) -> nn.Module | None:
        """A module that computes what ``host`` computes with the decoded tensor, in another way; None if there is none.

        :func:`spectrim.finalize_` measures it against the dense form and takes the faster one.
        """
        return None


def components(model: nn.Module) -> Iterator[tuple[str, Component]]:
    """The components that stand in a model, each with its dotted name.

    >>> list(components(nn.Linear(2, 2)))
    []
    """
    for path, module in model.named_modules():
        if isinstance(module, Component):
            yield path, module
