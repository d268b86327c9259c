"""Channels that must go together: a union of atoms, and how the atoms lie along the axes of a tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]

FIXED = 0
"""The atom of what no cut reaches: a constant, the pixels of the input."""


@dataclass(frozen=True)
class Label:
    """Atoms along some axes of a tensor together: ``ids`` has one axis for each of ``dims``.

    Cutting an atom removes every element of the tensor whose place in ``ids`` holds it, which leaves a smaller tensor only
    where that is whole slices.
    """

    dims: tuple[int, ...]
    ids: Ids


Labels: TypeAlias = tuple[Label, ...]


class Atoms:
    """Disjoint sets of atoms; a set may be locked, for a reason."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._reason: dict[int, str] = {FIXED: "is fixed"}

    def new(self, count: int) -> Ids:
        """Atoms of their own."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, atom: int) -> int:
        """The atom that speaks for the set."""
        root = atom
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[atom] != root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def unite(self, one: Ids, other: Ids, reason: str) -> None:
        """Let atoms at the same place go together. Those that meet what is fixed are locked, for this reason."""
        pairs = np.stack([a.ravel() for a in np.broadcast_arrays(one, other)], 1)
        for a, b in np.unique(pairs, axis=0).tolist():
            if FIXED in (a, b):
                self._lock(max(a, b), reason)
                continue
            root, leaf = self.find(a), self.find(b)
            if root != leaf:
                self._parent[leaf] = root
                if (why := self._reason.pop(leaf, None)) is not None:
                    self._reason.setdefault(root, why)

    def lock(self, labels: Sequence[Label], reason: str) -> None:
        """No atom of these is ever cut."""
        for label in labels:
            for atom in np.unique(label.ids).tolist():
                self._lock(atom, reason)

    def _lock(self, atom: int, reason: str) -> None:
        self._reason.setdefault(self.find(atom), reason)

    def reason(self, atom: int) -> str | None:
        """Why an atom is locked; None if it is not."""
        return self._reason.get(self.find(atom))


def along(labels: Labels, dim: int) -> Label | None:
    """The label that an axis has part in."""
    return next((label for label in labels if dim in label.dims), None)


def moved(labels: Labels, to: Mapping[int, int]) -> Labels:
    """Labels after the axes were renumbered; every labelled axis must be in ``to``."""
    return tuple(Label(tuple(to[dim] for dim in label.dims), label.ids) for label in labels)


def spread(label: Label, dims: Sequence[int], sizes: Sequence[int]) -> Ids:
    """The atoms of a label as an array over more axes, repeated along those that it has no part in."""
    order = [label.dims.index(dim) for dim in dims if dim in label.dims]
    ids = label.ids.transpose(order)
    shape = [size if dim in label.dims else 1 for dim, size in zip(dims, sizes, strict=True)]
    return np.broadcast_to(ids.reshape(shape), sizes)


def reduced(ids: Ids, dims: Sequence[int]) -> Label | None:
    """A label over those of the axes along which the atoms really change; None for nothing but fixed ones."""
    if not ids.any():
        return None
    kept = list(dims)
    for dim in dims:
        axis = kept.index(dim)
        if len(kept) > 1 and (ids == ids.take([0], axis)).all():
            ids = ids.take([0], axis).squeeze(axis)
            kept.remove(dim)
    return Label(tuple(kept), np.ascontiguousarray(ids))


def reshaped(labels: Labels, before: Sequence[int], after: Sequence[int]) -> tuple[Labels, Labels]:
    """Labels of a tensor that takes another shape, and those that cannot follow.

    The axes fall into the shortest stretches that hold equally many elements before and after; a label over several
    stretches joins them.
    """
    found: list[Label] = []
    lost: list[Label] = []
    left = list(labels)
    for old, new in _stretches(before, after, labels):
        here = [label for label in left if set(label.dims) & set(old)]
        left = [label for label in left if not set(label.dims) & set(old)]
        if len(here) > 1:
            lost += here
        elif here:
            ids = spread(here[0], old, [before[dim] for dim in old]).reshape([after[dim] for dim in new])
            if new and (label := reduced(ids, new)) is not None:
                found.append(label)
            elif not new:
                lost += here
    return tuple(found), tuple(lost)


def _stretches(before: Sequence[int], after: Sequence[int], labels: Labels) -> list[tuple[list[int], list[int]]]:
    stretches: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        size, other = 1, 1
        while True:
            if i < len(before) and (size <= other or j == len(after)):
                size *= before[i]
                old.append(i)
                i += 1
            elif j < len(after):
                other *= after[j]
                new.append(j)
                j += 1
            if (size == other and new and old) or (i == len(before) and j == len(after)):
                break
        # Sides of one belong to no stretch in particular: they join this one.
        while i < len(before) and before[i] == 1:
            old.append(i)
            i += 1
        while j < len(after) and after[j] == 1:
            new.append(j)
            j += 1
        stretches.append((old, new))
    for label in labels:
        touched = [number for number, (old, _) in enumerate(stretches) if set(old) & set(label.dims)]
        if len(touched) > 1:
            first, last = touched[0], touched[-1]
            joined = ([d for old, _ in stretches[first : last + 1] for d in old],
                      [d for _, new in stretches[first : last + 1] for d in new])  # fmt: skip
            stretches[first : last + 1] = [joined]
    return stretches
