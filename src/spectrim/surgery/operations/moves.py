"""Operations that move elements: reshaping, slicing, joining."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from spectrim.surgery.atoms import FIXED, Label, Labels, along, moved, reduced, reshaped
from spectrim.surgery.trace import Call, Rule, Trace, for_all


def _reshape(trace: Trace, call: Call) -> Labels:
    found, lost = reshaped(trace.of(call.args[0]), call.args[0].shape, call.out.shape)
    trace.atoms.lock(lost, f"two kinds of channels are folded into one axis in {call.name}")
    return found


def _permute(order: Callable[[int, tuple[Any, ...]], list[int]]) -> Rule:
    def rule(trace: Trace, call: Call) -> Labels:
        x = call.args[0]
        place = {old: new for new, old in enumerate(order(x.ndim, call.args[1:]))}
        labels = trace.of(x)
        for label in labels:
            if _shuffled(label, place):
                shortest = min(label.dims, key=lambda dim: x.shape[dim])
                trace.atoms.unite(label.ids, label.ids.take([0], label.dims.index(shortest)), "is shuffled")
        return moved(labels, place)

    return rule


def _shuffled(label: Label, place: Mapping[int, int]) -> bool:
    """Whether axes of one label change their order.

    Channels that were folded into groups are then laid out anew, which is the same for all sizes only if as many go from
    every group: those at one place in all groups.
    """
    before = sorted(label.dims)
    return [place[dim] for dim in before] != sorted(place[dim] for dim in before)


def _transposed(ndim: int, args: tuple[Any, ...]) -> list[int]:
    order = list(range(ndim))
    if ndim:
        a, b = args[0] % ndim, args[1] % ndim
        order[a], order[b] = order[b], order[a]
    return order


def _expand(trace: Trace, call: Call) -> Labels:
    """Also of ``repeat``."""
    x = call.args[0]
    gap = call.out.ndim - x.ndim
    place = {dim: dim + gap for dim in range(x.ndim) if call.out.shape[dim + gap] == x.shape[dim]}
    return trace.passed(trace.of(x), place, "is repeated along the channels")


def _flip(trace: Trace, call: Call) -> Labels:
    dims = {dim % call.args[0].ndim for dim in call.args[1]}
    return trace.passed(trace.of(call.args[0]), {d: d for d in range(call.out.ndim) if d not in dims}, "is flipped")


def _roll(trace: Trace, call: Call) -> Labels:
    dims = {dim % call.out.ndim for dim in (call.args[2] if len(call.args) > 2 else range(call.out.ndim))}
    return trace.passed(trace.of(call.args[0]), {d: d for d in range(call.out.ndim) if d not in dims}, "is rolled")


def _pad(trace: Trace, call: Call) -> Labels:
    x, pad = call.args[0], call.args[1]
    before = {x.ndim - 1 - k: (pad[2 * k], pad[2 * k + 1]) for k in range(len(pad) // 2) if any(pad[2 * k : 2 * k + 2])}
    found = []
    for label in trace.of(x):
        amounts = [before.get(dim, (0, 0)) for dim in label.dims]
        if any(amount < 0 for both in amounts for amount in both):
            trace.atoms.lock([label], "is cropped by a fixed amount")
        else:
            found.append(Label(label.dims, np.pad(label.ids, amounts, constant_values=FIXED)))
    return tuple(found)


def _picked(label: Label, dim: int, picked: slice) -> Label:
    """The label of a slice."""
    where = tuple(picked if each == dim else slice(None) for each in label.dims)
    return Label(label.dims, label.ids[where])


def _slice(trace: Trace, call: Call) -> Labels:
    x, dim, start, end, step = (*call.args, *(None,) * 5)[:5]
    dim = (dim or 0) % x.ndim
    piece = slice(start, end, step or 1)
    return tuple(_picked(label, dim, piece) if dim in label.dims else label for label in trace.of(x))


def _select(trace: Trace, call: Call) -> Labels:
    x, dim, index = call.args
    return _dropped(trace, trace.of(x), dim % x.ndim, index)


def _dropped(trace: Trace, labels: Labels, dim: int, index: int) -> Labels:
    """Labels after one entry of an axis was taken. The number of the entry is fixed, so the axis keeps its size."""
    found = []
    for label in labels:
        after = tuple(d - (d > dim) for d in label.dims if d != dim)
        if dim not in label.dims:
            found.append(Label(after, label.ids))
        elif not after:
            trace.atoms.lock([label], "is picked by a fixed number")
        else:
            trace.whole(label, [dim])
            ids = label.ids.take([index], label.dims.index(dim)).squeeze(label.dims.index(dim))
            if (kept := reduced(ids, after)) is not None:
                found.append(kept)
    return tuple(found)


def _unbind(trace: Trace, call: Call) -> list[Labels]:
    x = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else 0) % x.ndim
    return [_dropped(trace, trace.of(x), dim, index) for index in range(len(call.out))]


def _split(trace: Trace, call: Call) -> list[Labels]:
    """Equal parts stay equal: what lies at one place in all of them goes together. Others have fixed sizes."""
    x = call.args[0]
    dim = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % x.ndim
    sizes = [piece.shape[dim] for piece in call.out]
    found: list[list[Label]] = [[] for _ in sizes]
    for label in trace.of(x):
        if dim not in label.dims:
            pieces = [label] * len(sizes)
        elif len(set(sizes)) == 1:
            ends = list(itertools.accumulate(sizes))
            pieces = [_picked(label, dim, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
            for piece in pieces[1:]:
                trace.atoms.unite(pieces[0].ids, piece.ids, "is split beside a tensor of fixed size")
        elif len(label.dims) > 1:
            pieces = [trace.whole(label, [dim])] * len(sizes)
        else:
            trace.atoms.lock([label], "is split into parts of fixed sizes")
            continue
        for each, piece in zip(found, pieces, strict=True):
            each.append(piece)
    return [tuple(each) for each in found]


def _index(trace: Trace, call: Call) -> Labels:
    """``x[..., index, ...]`` with a tensor of numbers for one axis: the others pass."""
    x, picked = call.args[0], call.args[1]
    at = [dim for dim, index in enumerate(picked) if index is not None]
    by = picked[at[0]]
    if len(at) > 1 or by.dtype in (torch.bool, torch.uint8):
        place = {}
    else:
        place = {dim: dim + (by.ndim - 1) * (dim > at[0]) for dim in range(x.ndim) if dim != at[0]}
    return trace.passed(trace.of(x), place, "is picked by fixed numbers")


def _index_select(trace: Trace, call: Call) -> Labels:
    x, dim, index = call.args
    found = []
    for label in trace.of(x):
        if dim % x.ndim in label.dims:
            ids = label.ids.take(index.cpu().numpy(), label.dims.index(dim % x.ndim))
            found.append(Label(label.dims, ids))
        else:
            found.append(label)
    return tuple(found)


def _cat(trace: Trace, call: Call) -> Labels:
    tensors = [t for t in call.args[0] if t.numel() or t.ndim == call.out.ndim]
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out.ndim
    pieces, rest = [], []
    for t in tensors:
        labels, here = trace.of(t), None
        if (label := along(labels, dim)) is not None:
            if label.ids.ndim == 1:
                here = label.ids
            else:
                trace.atoms.lock([label], "two kinds of channels are concatenated")
        pieces.append(np.full(t.shape[dim], FIXED) if here is None else here)
        shape = [1 if d == dim else side for d, side in enumerate(t.shape)]
        rest.append((tuple(each for each in labels if dim not in each.dims), shape))
    found = trace.meet(rest, [1 if d == dim else side for d, side in enumerate(call.out.shape)],
                       "is concatenated with a tensor of fixed size")  # fmt: skip
    ids = np.concatenate(pieces)
    return (*found, Label((dim,), ids)) if ids.any() else found


def _stack(trace: Trace, call: Call) -> Labels:
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out.ndim
    many = [(trace.of(t), t.shape) for t in call.args[0]]
    labels = trace.meet(many, call.args[0][0].shape, "is stacked with a tensor of fixed size")
    return moved(labels, {d: d + (d >= dim) for d in range(call.out.ndim - 1)})


RULES: Mapping[str, Rule] = {
    **for_all(_reshape, "view _unsafe_view reshape _reshape_alias view_copy squeeze unsqueeze _reshape_copy"),
    **for_all(_permute(lambda ndim, args: [d % ndim for d in args[0]]), "permute"),
    **for_all(_permute(_transposed), "transpose"),
    **for_all(_permute(lambda ndim, _: list(range(ndim))[::-1]), "t"),
    **for_all(_expand, "expand repeat"),
    **for_all(_flip, "flip"),
    **for_all(_roll, "roll"),
    **for_all(_pad, "constant_pad_nd"),
    **for_all(_slice, "slice"),
    **for_all(_select, "select"),
    **for_all(_unbind, "unbind"),
    **for_all(_split, "split split_with_sizes chunk"),
    **for_all(_index_select, "index_select"),
    **for_all(_index, "index"),
    **for_all(_cat, "cat"),
    **for_all(_stack, "stack"),
}  # fmt: skip
