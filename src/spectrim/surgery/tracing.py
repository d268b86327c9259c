"""Which channels belong together, read off one forward pass: every operation that runs passes labels on.

Each axis of each weight starts with atoms of its own. An operation that is understood unites what has to go together: the
channels that a convolution writes, the norm scales, an addition joins and the next layer reads. One that is not
understood locks the channels it sees, with its name as the reason, and nothing else. So no model is refused as a whole,
and there is no graph to search.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spectrim.surgery.atoms import FIXED, Atoms, Ids, Label, Labels, along, moved, reduced, reshaped, spread


@dataclass(frozen=True)
class Call:
    """An operation that ran: its name without namespace and overload, what it took and what came out."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


Rule: TypeAlias = "Callable[[Tracer, Call], Labels | list[Labels] | None]"


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """While active, follows atoms through every operation.

    Args:
        atoms: Of the weights.
        labels: Of the weights, by the identity of the tensor.
    """

    def __init__(self, atoms: Atoms, labels: Mapping[int, Labels]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.atoms = atoms
        self.read: set[int] = set()
        self._known = labels
        self._found = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, then say what it does to the labels."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.read.update(id(t) for t in _tensors((args, kwargs)) if id(t) in self._known)
        call = Call(str(func).removeprefix("aten.").split(".", 1)[0], args, kwargs, out)
        labels = self._rule(func, call.name)(self, call)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        several = labels if isinstance(labels, list) else [labels or ()] + [()] * (len(outs) - 1)
        for tensor, each in zip(outs, several, strict=False):
            if id(tensor) not in self._known:
                self._found[tensor] = each
        return out

    def _rule(self, func: Any, name: str) -> Rule:
        rule = _RULES.get(name) or _RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            return _pointwise
        return rule or _unknown

    def of(self, tensor: Tensor) -> Labels:
        """The labels of a tensor."""
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        found: Labels = self._found.get(tensor, ())  # type: ignore[no-untyped-call]
        return found

    def put(self, tensor: Tensor, labels: Labels) -> None:
        """Give a tensor labels."""
        self._found[tensor] = labels

    # -- what rules are made of -----------------------------------------------------------------------------------

    def passed(self, labels: Labels, to: Mapping[int, int], reason: str) -> Labels:
        """Labels whose axes are all in ``to``, renumbered; the others are locked."""
        kept = tuple(label for label in labels if set(label.dims) <= to.keys())
        self.atoms.lock([label for label in labels if label not in kept], reason)
        return moved(kept, to)

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


# -- the rules, by operation ----------------------------------------------------------------------------------------


def _unknown(trace: Tracer, call: Call) -> None:
    for tensor in _tensors((call.args, call.kwargs)):
        trace.atoms.lock(trace.of(tensor), f"goes through {call.name}, which is not understood")


def _same(trace: Tracer, call: Call) -> Labels:
    return trace.of(call.args[0])


def _pointwise(trace: Tracer, call: Call) -> Labels:
    many = [(trace.of(t), t.shape) for t in _tensors((call.args, call.kwargs)) if t.ndim]
    result = call.out if isinstance(call.out, Tensor) else next(iter(_tensors(call.out)))
    return trace.meet(many, result.shape, f"meets a tensor of fixed size in {call.name}")


def _convolution(trace: Tracer, call: Call) -> Labels:
    x, weight, bias, _, _, _, transposed, _, groups = call.args[:9]
    reading = trace.passed(trace.of(x), {1: 1}, "a convolution slides over the channels")
    weights = trace.passed(trace.of(weight), {0: 0, 1: 1}, "lies along a kernel")
    read, written = along(reading, 1), along(weights, 1 if transposed else 0)
    read_by = along(weights, 0 if transposed else 1)
    if groups == 1:
        trace.contract(read, read_by, "reads the input of the model, or another tensor of fixed size")
    else:
        trace.atoms.lock([label for label in (read_by,) if label], "lies within the groups of a grouped convolution")
        if transposed or read is None or written is None or {read.ids.ndim, written.ids.ndim} != {1}:
            reason = "belongs to a grouped convolution that is transposed or reads a tensor of fixed size"
            trace.atoms.lock([label for label in (read, written) if label], reason)
        else:
            inside, outside = read.ids.reshape(groups, -1), written.ids.reshape(groups, -1)
            for rows in (inside, outside):
                trace.atoms.unite(rows, inside[:, :1], "shares a group with a channel of fixed size")
    if bias is not None:
        shift = along(trace.of(bias), 0)
        if written is None or shift is None:
            trace.atoms.lock([label for label in (written, shift) if label], "has a bias of fixed size")
        else:
            trace.atoms.unite(written.ids, shift.ids, "has a bias of fixed size")
    return () if written is None else (Label((1,), written.ids),)


def _batch_norm(trace: Tracer, call: Call) -> Labels:
    labels = trace.passed(trace.of(call.args[0]), {1: 1}, "a batch normalisation averages over the channels")
    size = call.args[0].shape[1]
    many: list[tuple[Labels, Sequence[int]]] = [(moved(labels, {1: 0}), (size,))]
    many += [(trace.of(vector), vector.shape) for vector in call.args[1:5] if isinstance(vector, Tensor)]
    return moved(trace.meet(many, (size,), "meets a batch normalisation of fixed size"), {0: 1})


def _layer_norm(trace: Tracer, call: Call) -> Labels:
    x, shape, *vectors = call.args[:4]
    reason = "a layer normalisation averages over the channels, so that removing one changes the others"
    for vector in vectors:
        if isinstance(vector, Tensor):
            trace.atoms.lock(trace.of(vector), reason)
    return trace.passed(trace.of(x), {dim: dim for dim in range(x.ndim - len(shape))}, reason)


def _group_norm(trace: Tracer, call: Call) -> Labels:
    reason = "a group normalisation averages over the channels, so that removing one changes the others"
    for tensor in _tensors(call.args):
        trace.atoms.lock(trace.of(tensor), reason)
    return ()


def _over(what: str) -> Rule:
    """Operations along one axis that mix what lies on it."""

    def rule(trace: Tracer, call: Call) -> Labels:
        x = call.args[0]
        dim = (call.args[1] if len(call.args) > 1 else call.kwargs["dim"]) % x.ndim
        return trace.passed(trace.of(x), {d: d for d in range(x.ndim) if d != dim}, f"{what} runs over the channels")

    return rule


def _reduction(dim_at: int) -> Rule:
    def rule(trace: Tracer, call: Call) -> list[Labels]:
        x = call.args[0]
        dims = call.args[dim_at] if len(call.args) > dim_at else call.kwargs.get("dim")
        dims = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        gone = {dim % x.ndim for dim in dims}
        outs = list(_tensors(call.out))
        left = [dim for dim in range(x.ndim) if dim not in gone]
        place = {dim: dim if outs[0].ndim == x.ndim else left.index(dim) for dim in left}
        return [trace.passed(trace.of(x), place, f"{call.name} runs over the channels")] * len(outs)

    return rule


def _space(trace: Tracer, call: Call) -> Labels:
    """Pooling, resizing and reflecting: the axes that keep their size stay, and the others are space."""
    x, y = call.args[0], next(iter(_tensors(call.out)))
    space = {"1d": 1, "3d": 3}.get(call.name[-2:], 2)
    return trace.passed(trace.of(x), {d: d for d in range(y.ndim - space)}, f"{call.name} runs over the channels")


def _pad(trace: Tracer, call: Call) -> Labels:
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


def _reshape(trace: Tracer, call: Call) -> Labels:
    found, lost = reshaped(trace.of(call.args[0]), call.args[0].shape, call.out.shape)
    trace.atoms.lock(lost, f"two kinds of channels are folded into one axis in {call.name}")
    return found


def _permute(order: Callable[[int, tuple[Any, ...]], list[int]]) -> Rule:
    def rule(trace: Tracer, call: Call) -> Labels:
        x = call.args[0]
        return moved(trace.of(x), {old: new for new, old in enumerate(order(x.ndim, call.args[1:]))})

    return rule


def _transposed(ndim: int, args: tuple[Any, ...]) -> list[int]:
    order = list(range(ndim))
    if ndim:
        a, b = args[0] % ndim, args[1] % ndim
        order[a], order[b] = order[b], order[a]
    return order


def _expand(trace: Tracer, call: Call) -> Labels:
    x = call.args[0]
    gap = call.out.ndim - x.ndim
    place = {dim: dim + gap for dim in range(x.ndim) if call.out.shape[dim + gap] == x.shape[dim]}
    return trace.passed(trace.of(x), place, "is expanded to a fixed size")


def _picked(label: Label, dim: int, picked: slice) -> Label:
    """The label of a slice."""
    where = tuple(picked if each == dim else slice(None) for each in label.dims)
    return Label(label.dims, label.ids[where])


def _slice(trace: Tracer, call: Call) -> Labels:
    x, dim, start, end, step = (*call.args, *(None,) * 5)[:5]
    dim = (dim or 0) % x.ndim
    piece = slice(start, end, step or 1)
    return tuple(_picked(label, dim, piece) if dim in label.dims else label for label in trace.of(x))


def _select(trace: Tracer, call: Call) -> Labels:
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


def _unbind(trace: Tracer, call: Call) -> list[Labels]:
    x = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else 0) % x.ndim
    return [_dropped(trace.of(x), dim, index) for index in range(len(call.out))]


def _split(trace: Tracer, call: Call) -> list[Labels]:
    x = call.args[0]
    dim = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % x.ndim
    found, start = [], 0
    for piece in call.out:
        end = start + piece.shape[dim]
        found.append(tuple(_picked(each, dim, slice(start, end)) if dim in each.dims else each
                           for each in trace.of(x)))  # fmt: skip
        start = end
    return found


def _cat(trace: Tracer, call: Call) -> Labels:
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


def _stack(trace: Tracer, call: Call) -> Labels:
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % call.out.ndim
    many = [(trace.of(t), t.shape) for t in call.args[0]]
    labels = trace.meet(many, call.args[0][0].shape, "is stacked with a tensor of fixed size")
    return moved(labels, {d: d + (d >= dim) for d in range(call.out.ndim - 1)})


def _repeat(trace: Tracer, call: Call) -> Labels:
    x = call.args[0]
    gap = call.out.ndim - x.ndim
    place = {d: d + gap for d in range(x.ndim) if call.out.shape[d + gap] == x.shape[d]}
    return trace.passed(trace.of(x), place, "is repeated along the channels")


def _flip(trace: Tracer, call: Call) -> Labels:
    dims = {dim % call.args[0].ndim for dim in call.args[1]}
    return trace.passed(trace.of(call.args[0]), {d: d for d in range(call.out.ndim) if d not in dims}, "is flipped")


def _roll(trace: Tracer, call: Call) -> Labels:
    dims = {dim % call.out.ndim for dim in (call.args[2] if len(call.args) > 2 else range(call.out.ndim))}
    return trace.passed(trace.of(call.args[0]), {d: d for d in range(call.out.ndim) if d not in dims}, "is rolled")


def _index_select(trace: Tracer, call: Call) -> Labels:
    x, dim, index = call.args
    found = []
    for label in trace.of(x):
        if dim % x.ndim in label.dims:
            ids = label.ids.take(index.cpu().numpy(), label.dims.index(dim % x.ndim))
            found.append(Label(label.dims, ids))
        else:
            found.append(label)
    return tuple(found)


def _copy(trace: Tracer, call: Call) -> Labels:
    many = [(trace.of(t), t.shape) for t in call.args[:2] if isinstance(t, Tensor)]
    return trace.meet(many, call.out.shape, "is written into a tensor of fixed size")


def _product(trace: Tracer, one: Tensor, other: Tensor) -> Labels:
    """``one @ other`` with as many batch axes in both."""
    last = one.ndim - 1
    read, by = along(trace.of(one), last), along(trace.of(other), last - 1)
    reason = "a matrix product sums over the channels and a tensor of fixed size"
    kept: list[list[Label]] = []
    coarse: list[list[Label]] = [[], []]
    for side, (label, dim, tensor) in enumerate(((read, last, one), (by, last - 1, other))):
        kept.append([each for each in trace.of(tensor) if each is not label])
        if label is not None and len(label.dims) > 1:
            # Attention heads, say: only whole rows can go from a batched product.
            axis = label.dims.index(dim)
            first = label.ids.take([0], axis)
            trace.atoms.unite(label.ids, first, reason)
            rest = tuple(d for d in label.dims if d != dim)
            coarse[side].append(Label(rest, first.squeeze(axis)))
    if coarse[0] and coarse[1] and coarse[0][0].dims == coarse[1][0].dims:
        trace.atoms.unite(coarse[0][0].ids, coarse[1][0].ids, reason)
    else:
        single = [label if label is not None and len(label.dims) == 1 else None for label in (read, by)]
        if coarse[0] or coarse[1]:
            trace.atoms.lock([each for each in (*coarse[0], *coarse[1], *single) if each is not None], reason)
        elif read is not None or by is not None:
            trace.contract(single[0], single[1], reason)
    shapes = (*one.shape[:-1], 1), (*other.shape[:-2], 1, other.shape[-1])
    size = (*one.shape[:-1], other.shape[-1])
    many = [((*kept[side], *coarse[side]), shapes[side]) for side in (0, 1)]
    return trace.meet(many, size, "meets a tensor of fixed size in a matrix product")


def _matmul(trace: Tracer, call: Call) -> Labels:
    return _product(trace, call.args[0], call.args[1])


def _addmm(trace: Tracer, call: Call) -> Labels:
    product = _product(trace, call.args[1], call.args[2])
    return trace.meet(
        [(product, call.out.shape), (trace.of(call.args[0]), call.args[0].shape)],
        call.out.shape,
        "has a bias of fixed size",
    )


def _each(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: Mapping[str, Rule] = {
    **_each(_same, "detach alias clone contiguous lift_fresh _to_copy zeros_like ones_like full_like empty_like "
                   "fill zero bernoulli hardswish hardtanh hardsigmoid dropout native_dropout relu6"),
    **_each(_pointwise, "_prelu_kernel where masked_fill clamp elu celu softplus log_sigmoid_forward leaky_relu"),
    **_each(_convolution, "convolution"),
    **_each(_batch_norm, "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
                         "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
    **_each(_layer_norm, "native_layer_norm"),
    **_each(_group_norm, "native_group_norm"),
    **_each(_over("a softmax"), "_softmax _log_softmax _safe_softmax"),
    **_each(_over("a running sum"), "cumsum cumprod sort topk"),
    **_each(_reduction(1), "mean sum amax amin max min var var_mean std std_mean argmax logsumexp any all prod"),
    **_each(_reduction(2), "linalg_vector_norm norm"),
    **_each(_space, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d "
                    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d "
                    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
                    "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
                    "reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d grid_sampler_2d"),
    **_each(_pad, "constant_pad_nd"),
    **_each(_reshape, "view _unsafe_view reshape _reshape_alias view_copy squeeze unsqueeze _reshape_copy"),
    **_each(_permute(lambda ndim, args: [d % ndim for d in args[0]]), "permute"),
    **_each(_permute(_transposed), "transpose"),
    **_each(_permute(lambda ndim, _: list(range(ndim))[::-1]), "t"),
    **_each(_expand, "expand"),
    **_each(_slice, "slice"),
    **_each(_select, "select"),
    **_each(_unbind, "unbind"),
    **_each(_split, "split split_with_sizes chunk"),
    **_each(_cat, "cat"),
    **_each(_stack, "stack"),
    **_each(_repeat, "repeat"),
    **_each(_flip, "flip"),
    **_each(_roll, "roll"),
    **_each(_index_select, "index_select"),
    **_each(_copy, "copy"),
    **_each(_matmul, "mm bmm"),
    **_each(_addmm, "addmm baddbmm"),
    **_each(lambda *_: (), "empty zeros ones full arange eye scalar_tensor new_zeros new_ones new_full new_empty randn rand "
                      "linspace empty_strided new_empty_strided"),
}  # fmt: skip


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


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
