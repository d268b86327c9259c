"""Operations that mix what lies along an axis: sums, softmax, pooling."""

from collections.abc import Mapping

from spectrim.surgery.atoms import Labels
from spectrim.surgery.trace import Call, Rule, Trace, for_all, tensors


def _over(what: str, dim_at: int = 1) -> Rule:
    """Operations along one axis, the last one where none is said, that mix what lies on it."""

    def rule(trace: Trace, call: Call) -> Labels:
        x = call.args[0]
        dim = call.args[dim_at] if len(call.args) > dim_at else call.kwargs.get("dim", -1)
        return trace.passed(
            trace.of(x), {d: d for d in range(x.ndim) if d != dim % x.ndim}, f"{what} runs over the channels"
        )

    return rule


def _reduction(dim_at: int) -> Rule:
    def rule(trace: Trace, call: Call) -> list[Labels]:
        x = call.args[0]
        dims = call.args[dim_at] if len(call.args) > dim_at else call.kwargs.get("dim")
        dims = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        gone = {dim % x.ndim for dim in dims}
        outs = list(tensors(call.out))
        left = [dim for dim in range(x.ndim) if dim not in gone]
        place = {dim: dim if outs[0].ndim == x.ndim else left.index(dim) for dim in left}
        return [trace.passed(trace.of(x), place, f"{call.name} runs over the channels")] * len(outs)

    return rule


def _space(trace: Trace, call: Call) -> Labels:
    """Pooling, resizing and reflecting: the axes that keep their size stay, and the others are space."""
    x, y = call.args[0], next(iter(tensors(call.out)))
    space = {"1d": 1, "3d": 3}.get(call.name[-2:], 2)
    return trace.passed(trace.of(x), {d: d for d in range(y.ndim - space)}, f"{call.name} runs over the channels")


RULES: Mapping[str, Rule] = {
    **for_all(_over("a softmax"), "_softmax _log_softmax _safe_softmax"),
    **for_all(_over("a running sum"), "cumsum cumprod"),
    **for_all(_over("an order"), "sort"),
    **for_all(_over("an order", dim_at=2), "topk"),
    **for_all(_reduction(1), "mean sum amax amin max min var var_mean std std_mean argmax logsumexp any all prod"),
    **for_all(_reduction(2), "linalg_vector_norm norm"),
    **for_all(_space, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d avg_pool1d "
                   "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d "
                   "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
                   "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
                   "reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d grid_sampler_2d"),
}  # fmt: skip
