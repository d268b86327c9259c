"""Operations with weights of their own: convolutions and normalisations."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from spectrim.surgery.atoms import Label, Labels, along, moved
from spectrim.surgery.trace import Call, Rule, Trace, for_all, tensors


def _convolution(trace: Trace, call: Call) -> Labels:
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


def _batch_norm(trace: Trace, call: Call) -> Labels:
    labels = trace.passed(trace.of(call.args[0]), {1: 1}, "a batch normalisation averages over the channels")
    size = call.args[0].shape[1]
    many: list[tuple[Labels, Sequence[int]]] = [(moved(labels, {1: 0}), (size,))]
    many += [(trace.of(vector), vector.shape) for vector in call.args[1:5] if isinstance(vector, Tensor)]
    return moved(trace.meet(many, (size,), "meets a batch normalisation of fixed size"), {0: 1})


def _layer_norm(trace: Trace, call: Call) -> Labels:
    x, shape, *vectors = call.args[:4]
    reason = "a layer normalisation averages over the channels, so that removing one changes the others"
    for vector in vectors:
        if isinstance(vector, Tensor):
            trace.atoms.lock(trace.of(vector), reason)
    return trace.passed(trace.of(x), {dim: dim for dim in range(x.ndim - len(shape))}, reason)


def _group_norm(trace: Trace, call: Call) -> Labels:
    """Whole groups go: an average over a group stays what it was. With a single group there is nothing to cut."""
    x, weight, bias = call.args[:3]
    groups = call.args[6]
    channels = along(trace.of(x), 1)
    if groups == 1 or weight is None or channels is None or channels.ids.ndim > 1:
        reason = "a group normalisation averages over the channels, so that removing one changes the others"
        for tensor in tensors(call.args):
            trace.atoms.lock(trace.of(tensor), reason)
        return ()
    labels = trace.passed(trace.of(x), {1: 1}, "a group normalisation averages over space")
    many: list[tuple[Labels, Sequence[int]]] = [(moved(labels, {1: 0}), (x.shape[1],))]
    many += [(trace.of(vector), vector.shape) for vector in (weight, bias) if isinstance(vector, Tensor)]
    found = trace.meet(many, (x.shape[1],), "meets a group normalisation of fixed size")
    for label in found:
        rows = label.ids.reshape(groups, -1)
        trace.atoms.unite(rows, rows[:, :1], "shares a group with a channel of fixed size")
    return moved(found, {0: 1})


RULES: Mapping[str, Rule] = {
    **for_all(_convolution, "convolution"),
    **for_all(_batch_norm, "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
                        "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
    **for_all(_layer_norm, "native_layer_norm"),
    **for_all(_group_norm, "native_group_norm"),
}  # fmt: skip
