"""What each operation of torch does to labels: a rule by its name."""

from collections.abc import Mapping
from typing import Any

import torch

from spectrim.surgery.operations import elementwise, layers, moves, products, reductions
from spectrim.surgery.trace import Call, Rule, Trace, for_all, tensors


def _unknown(trace: Trace, call: Call) -> None:
    for tensor in tensors((call.args, call.kwargs)):
        trace.atoms.lock(trace.of(tensor), f"goes through {call.name}, which is not understood")


_FRESH = for_all(lambda *_: (), "empty zeros ones full arange eye scalar_tensor new_zeros new_ones new_full new_empty randn rand "
                             "linspace empty_strided new_empty_strided")  # fmt: skip

RULES: Mapping[str, Rule] = {
    **_FRESH,
    **elementwise.RULES,
    **layers.RULES,
    **moves.RULES,
    **products.RULES,
    **reductions.RULES,
}


def rule_for(func: Any, name: str) -> Rule:
    """The rule for an operation; torch itself says which of the others are elementwise, and the rest lock what they see.

    Args:
        func: The operation as torch dispatches it.
        name: Its name without namespace and overload.
    """
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and torch.Tag.pointwise in func.tags:
        return elementwise.pointwise
    return rule or _unknown
