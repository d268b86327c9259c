"""Modules that only hold vectors along the channels: LayerScale, affine maps."""

import math
from collections.abc import Mapping

from torch import nn

from spectrim.surgery.rules import Rule, Shape, smaller


class Scales(Rule):
    """A module whose own tensors are vectors of one length, laid along the channels: LayerScale, an affine map.

    Each of them may have sides of one around it, as ``(C, 1, 1)``. Scalars do not matter.
    """

    def outputs(self, layer: nn.Module) -> list[tuple[str, int]]:
        """The long side of each tensor."""
        return [(name, _side(shape)) for name, shape in _own(layer).items()]

    def sizes(self, layer: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        """No attribute changes; None where the vectors are of several lengths."""
        before = _own(layer)
        new = {name: shapes[name] for name in before}
        same_length = len({math.prod(shape) for shape in new.values()}) == 1
        vectors = all(
            len(shape) == len(before[name]) and math.prod(shape) == shape[_side(before[name])]
            for name, shape in new.items()
        )
        return {} if same_length and vectors and all(smaller(new[name], before[name]) for name in new) else None

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Whether a module is one of these. What torch itself defines has sizes of its own, which a rule has to know."""
        own = _own(layer)
        of_torch = [base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn.")]
        lengths = {math.prod(shape) for shape in own.values()}
        return (
            set(of_torch) <= {nn.Module, nn.Sequential}
            and len(lengths) == 1
            and all(math.prod(shape) == shape[_side(shape)] for shape in own.values())
        )


def _own(layer: nn.Module) -> dict[str, Shape]:
    """The shapes of the tensors that a module itself holds, scalars left out."""
    tensors = (*layer._parameters.items(), *layer._buffers.items())
    return {name: tuple(tensor.shape) for name, tensor in tensors if tensor is not None and tensor.numel() > 1}


def _side(shape: Shape) -> int:
    """The longest dimension."""
    return max(range(len(shape)), key=shape.__getitem__)
