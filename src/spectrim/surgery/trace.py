"""What the rules of operations are made of: the atoms, and which of them lie along the axes of which tensor."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spectrim.surgery.atoms import FIXED, Atoms, Ids, Label, Labels, moved, reduced, spread


@dataclass(frozen=True)
class Call:
    """An operation that ran: its name without namespace and overload, what it took and what came out."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


Rule: TypeAlias = "Callable[[Trace, Call], Labels | list[Labels] | None]"
"""What an operation does to the labels: those of its result, or of each of its results."""


class Trace:
    """The labels of every tensor that a forward has made so far.

    Args:
        atoms: Of the weights.
        labels: Of the weights, by the identity of the tensor.
    """

    def __init__(self, atoms: Atoms, labels: Mapping[int, Labels]) -> None:
        self.atoms = atoms
        self._known = labels
        self._found = WeakTensorKeyDictionary()

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether the labels of a tensor were given at the start; they never change."""
        return id(tensor) in self._known

    def of(self, tensor: Tensor) -> Labels:
        """The labels of a tensor."""
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        found: Labels = self._found.get(tensor, ())  # type: ignore[no-untyped-call]
        return found

    def put(self, tensor: Tensor, labels: Labels) -> None:
        """Give a tensor labels."""
        self._found[tensor] = labels

    def passed(self, labels: Labels, to: Mapping[int, int], reason: str) -> Labels:
        """Labels whose axes are all in ``to``, renumbered; the others are locked.

        Of a label over several axes of which only some are in ``to``, whole slices along those can still go.
        """
        kept = []
        for label in labels:
            here = tuple(dim for dim in label.dims if dim in to)
            if here:
                kept.append(self.whole(label, [dim for dim in label.dims if dim not in to]))
            else:
                self.atoms.lock([label], reason)
        return moved(tuple(kept), to)

    def whole(self, label: Label, dims: Sequence[int]) -> Label:
        """Let what lies along some axes of a label go together only; the label over the other axes.

        Args:
            label: Over at least one axis more than these.
            dims: Axes of which a cut leaves nothing or everything.
        """
        ids = label.ids
        for dim in dims:
            axis = label.dims.index(dim)
            self.atoms.unite(ids, ids.take([0], axis), "lies beside a tensor of fixed size")
        first = tuple(0 if dim in dims else slice(None) for dim in label.dims)
        return Label(tuple(dim for dim in label.dims if dim not in dims), ids[first])

    def meet(self, many: Sequence[tuple[Labels, Sequence[int]]], size: Sequence[int], reason: str) -> Labels:
        """The labels of an elementwise result: what lies on each other goes together.

        Args:
            many: Labels and shapes, counted from the last axis as broadcasting does.
            size: Of the result.
            reason: For what meets a constant.
        """
        aligned = []
        for labels, shape in many:
            gap = len(size) - len(shape)
            here = moved(labels, {dim: dim + gap for dim in range(len(shape))})
            full = {dim + gap for dim in range(len(shape)) if shape[dim] == size[dim + gap]}
            grown = [label for label in here if not set(label.dims) <= full]
            self.atoms.lock(grown, reason)
            aligned.append(([label for label in here if set(label.dims) <= full], full))
        found = []
        for dims in _joined([label.dims for own, _ in aligned for label in own]):
            sides = [size[dim] for dim in dims]
            parts: list[Ids] = []
            for own, full in aligned:
                mine = [each for each in own if set(each.dims) & set(dims)]
                if len(mine) > 1:
                    self.atoms.lock(mine, reason)
                    parts.append(np.full(sides, FIXED))
                elif mine:
                    parts.append(spread(mine[0], dims, sides))
                elif any(dim in full and size[dim] > 1 for dim in dims):
                    parts.append(np.full(sides, FIXED))
            for other in parts[1:]:
                self.atoms.unite(parts[0], other, reason)
            if parts and (label := reduced(parts[0], dims)) is not None:
                found.append(label)
        return tuple(found)

    def contract(self, one: Label | None, other: Label | None, reason: str) -> None:
        """Two axes are summed over together."""
        if one is None or other is None or one.ids.shape != other.ids.shape or one.ids.ndim != 1:
            self.atoms.lock([label for label in (one, other) if label is not None], reason)
        else:
            self.atoms.unite(one.ids, other.ids, reason)


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in the arguments or results of an operation."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def for_all(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule for several operations."""
    return dict.fromkeys(names.split(), rule)


def _joined(many: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Sets of axes, those that overlap as one."""
    joined: list[set[int]] = []
    for dims in many:
        fresh = set(dims)
        for each in [other for other in joined if other & fresh]:
            joined.remove(each)
            fresh |= each
        joined.append(fresh)
    return sorted((tuple(sorted(each)) for each in joined), key=operator.itemgetter(0))
