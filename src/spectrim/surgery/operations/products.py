"""Matrix products, attention among them: an axis of each side is summed over together."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from spectrim.surgery.atoms import FIXED, Label, Labels, along
from spectrim.surgery.trace import Call, Rule, Trace, for_all, tensors


def _product(trace: Trace, one: Tensor, other: Tensor) -> Labels:
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


def _matmul(trace: Trace, call: Call) -> Labels:
    return _product(trace, call.args[0], call.args[1])


def _addmm(trace: Trace, call: Call) -> Labels:
    product = _product(trace, call.args[1], call.args[2])
    return trace.meet(
        [(product, call.out.shape), (trace.of(call.args[0]), call.args[0].shape)],
        call.out.shape,
        "has a bias of fixed size",
    )


def _attention(trace: Trace, call: Call) -> Labels:
    """Queries, keys and values of (batch, head, token, channel), and what is added to the logits: whole heads go."""
    query, key, value, *masks = (t for t in tensors((call.args, call.kwargs)) if t.ndim == 4)
    heads = query.shape[1]
    reason = "goes through fused attention with a tensor of fixed size"
    parts = []
    for tensor in (query, key, value, *(mask for mask in masks if mask.shape[1] == heads)):
        by_head = trace.passed(trace.of(tensor), {1: 1}, "a fused attention sums over the channels")
        parts.append(np.full(heads, FIXED) if not by_head else by_head[0].ids)
    for part in parts[1:]:
        trace.atoms.unite(parts[0], part, reason)
    return (Label((1,), parts[2]),) if parts[2].any() else ()


RULES: Mapping[str, Rule] = {
    **for_all(_matmul, "mm bmm"),
    **for_all(_attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
                          "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
                          "_scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable"),
    **for_all(_addmm, "addmm baddbmm"),
}  # fmt: skip
