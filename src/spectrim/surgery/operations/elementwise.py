"""Operations that leave every element where it is."""

from collections.abc import Mapping

from torch import Tensor

from spectrim.surgery.atoms import Labels
from spectrim.surgery.trace import Call, Rule, Trace, for_all, tensors


def _same(trace: Trace, call: Call) -> Labels:
    return trace.of(call.args[0])


def pointwise(trace: Trace, call: Call) -> Labels:
    """What lies on each other goes together."""
    many = [(trace.of(t), t.shape) for t in tensors((call.args, call.kwargs)) if t.ndim]
    result = next(tensors(call.out), None)
    return () if result is None else trace.meet(many, result.shape, f"meets a tensor of fixed size in {call.name}")


def _copy(trace: Trace, call: Call) -> Labels:
    many = [(trace.of(t), t.shape) for t in call.args[:2] if isinstance(t, Tensor)]
    return trace.meet(many, call.out.shape, "is written into a tensor of fixed size")


RULES: Mapping[str, Rule] = {
    **for_all(_same, "detach alias clone contiguous lift_fresh _to_copy zeros_like ones_like full_like empty_like "
                  "fill zero bernoulli hardswish hardtanh hardsigmoid dropout native_dropout relu6"),
    **for_all(pointwise, "_prelu_kernel where masked_fill clamp elu celu softplus log_sigmoid_forward leaky_relu"),
    **for_all(_copy, "copy"),
}  # fmt: skip
