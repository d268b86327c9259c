"""Operations that move elements: reshaping, slicing, joining."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spectrim.surgery.atoms import FIXED, Label, Labels, along, moved, reduced, reshaped
from spectrim.surgery.trace import Call, Rule, Trace, for_all


def _reshape(trace: Trace, call: Call) -> Labels:
    found, lost = reshaped(trace.of(call.args[0]), call.args[0].shape, call.out.shape)
    trace.atoms.lock(lost, f"two kinds of channels are folded into one axis in {call.name}")
    return found


def _permute(order: Callable[[int, tuple[Any, ...]], list[int]]) -> Rule:
    def rule(trace: Trace, call: Call) -> Labels:
        x = call.args[0]
        return moved(trace.of(x), {old: new for new, old in enumerate(order(x.ndim, call.args[1:]))})

    return rule


def _transposed(ndim: int, args: tuple[Any, ...]) -> list[int]:
    order = list(range(ndim))
    if ndim:
        a, b = args[0] % ndim, args[1] % ndim
        order[a], order[b] = order[b], order[a]
    return order


def _expand(trace: Trace, call: Call) -> Labels:
    x = call.args[0]
    gap = call.out.ndim - x.ndim
    place = {dim: dim + gap for dim in range(x.ndim) if call.out.shape[dim + gap] == x.shape[dim]}
    return trace.passed(trace.of(x), place, "is expanded to a fixed size")


def _repeat(trace: Trace, call: Call) -> Labels:
    x = call.args[0]
    gap = call.out.ndim - x.ndim
    place = {d: d + gap for d in range(x.ndim) if call.out.shape[d + gap] == x.shape[d]}
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
    return _dropped(trace.of(x), dim % x.ndim, index)


def _dropped(labels: Labels, dim: int, index: int) -> Labels:
    """Labels after one entry of an axis was taken."""
    found = []
    for label in labels:
        dims, ids = label.dims, label.ids
        if dim in dims:
            ids = np.take(ids, [index], dims.index(dim)).squeeze(dims.index(dim))
            dims = tuple(d for d in dims if d != dim)
        if dims and (kept := reduced(ids, [d - (d > dim) for d in dims])) is not None:
            found.append(kept)
    return tuple(found)


def _unbind(trace: Trace, call: Call) -> list[Labels]:
    x = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else 0) % x.ndim
    return [_dropped(trace.of(x), dim, index) for index in range(len(call.out))]


def _split(trace: Trace, call: Call) -> list[Labels]:
    x = call.args[0]
    dim = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % x.ndim
    found, start = [], 0
    for piece in call.out:
        end = start + piece.shape[dim]
        found.append(tuple(_picked(each, dim, slice(start, end)) if dim in each.dims else each
                           for each in trace.of(x)))  # fmt: skip
        start = end
    return found


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
    **for_all(_expand, "expand"),
    **for_all(_repeat, "repeat"),
    **for_all(_flip, "flip"),
    **for_all(_roll, "roll"),
    **for_all(_pad, "constant_pad_nd"),
    **for_all(_slice, "slice"),
    **for_all(_select, "select"),
    **for_all(_unbind, "unbind"),
    **for_all(_split, "split split_with_sizes chunk"),
    **for_all(_index_select, "index_select"),
    **for_all(_cat, "cat"),
    **for_all(_stack, "stack"),
}  # fmt: skip
