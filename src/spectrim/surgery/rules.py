"""How one type of layer is cut: which axes of its tensors are channels, and what it must know when they become fewer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Rule(ABC):
    """How one type of layer is cut.

    ``outputs`` and ``inputs`` name the axes (tensor, dimension) along which the layer's own channels lie, written and
    read; along an axis in both, channels pass through.
    """

    @abstractmethod
    def outputs(self, layer: Any) -> list[tuple[str, int]]:
        """Axes of output channels."""

    def inputs(self, layer: Any) -> list[tuple[str, int]]:
        """Axes of input channels that are not output channels too."""
        return []

    @abstractmethod
    def sizes(self, layer: Any, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        """The layer's integer attributes for tensors of these shapes; None where no cut of it has them.

        Args:
            layer: As it is now.
            shapes: Of its tensors and of those of the layers in it, by dotted name from here.
        """

    def cut(self, value: Tensor, dim: int, gone: Sequence[int]) -> Tensor:
        """A tensor of the layer without these channels along an axis."""
        left = torch.ones(value.shape[dim], dtype=torch.bool)
        left[list(gone)] = False
        return value.index_select(dim, left.nonzero()[:, 0].to(value.device))

    def silenced(self, value: Tensor, dim: int, gone: Sequence[int]) -> Tensor:
        """A tensor of the layer that gets nothing from these channels along an axis that it reads."""
        return value.index_fill(dim, torch.tensor(gone, device=value.device), 0)


def settle_(layer: nn.Module, sizes: Mapping[str, int]) -> Callable[[], None]:
    """Set integer attributes of a layer; the result undoes it."""
    before = {name: getattr(layer, name) for name in sizes}

    def undo() -> None:
        for name, value in before.items():
            setattr(layer, name, value)

    for name, value in sizes.items():
        setattr(layer, name, value)
    return undo


def smaller(shape: Shape, than: Shape) -> bool:
    """Whether a shape is what a cut can leave of another: as many sides, each between one and what it was."""
    return len(shape) == len(than) and all(1 <= new <= old for new, old in zip(shape, than, strict=True))
