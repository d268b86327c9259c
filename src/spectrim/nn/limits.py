"""Activations that only clamp: between which numbers, and how that stands in files."""

import math
from typing import Any

from torch import nn

from spectrim.kernels.banded import FREE, Limits
from spectrim.nn.component import JSON

__all__ = ["FREE", "Limits", "activation_of", "limits_from_json", "limits_of", "limits_to_json", "meet"]


def limits_of(module: nn.Module) -> Limits | None:
    """Between which numbers a module clamps what it reads; None where it does anything else.

    >>> limits_of(nn.ReLU6()), limits_of(nn.ReLU()), limits_of(nn.GELU())
    ((0.0, 6.0), (0.0, inf), None)
    """
    if type(module) is nn.ReLU:
        return (0.0, math.inf)
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return (float(module.min_val), float(module.max_val))  # type: ignore[arg-type]  # torch leaves them unannotated
    return None


def activation_of(limits: Limits) -> nn.Module:
    """The activation that clamps between these numbers, by the name that other runtimes know best.

    >>> activation_of((0.0, math.inf)), activation_of((0.0, 1.0))
    (ReLU(), Hardtanh(min_val=0.0, max_val=1.0))
    """
    known = {limits_of(each): each for each in (nn.ReLU(), nn.ReLU6())}
    return known.get(limits) or nn.Hardtanh(*limits)


def limits_to_json(limits: Limits) -> list[JSON]:
    """Two numbers, null where there is no limit: JSON has nothing infinite."""
    return [each if math.isfinite(each) else None for each in limits]


def limits_from_json(name: str, found: Any) -> Limits:
    """Read :func:`limits_to_json`; nothing in it is trusted.

    Raises:
        ValueError: It is not that.

    >>> limits_from_json("read", [0, None])
    (0.0, inf)
    """
    pair = isinstance(found, list) and len(found) == 2
    if not pair or not all(each is None or (type(each) in (int, float) and math.isfinite(each)) for each in found):
        raise ValueError(f"{name} must be two numbers, null where there is no limit, got {found!r}.")
    low, high = (-math.inf if found[0] is None else float(found[0]), math.inf if found[1] is None else float(found[1]))
    if not low < high:
        raise ValueError(f"{name} must be two numbers, the lower one first, got {found!r}.")
    return (low, high)


def meet(one: Limits, other: Limits) -> Limits:
    """What clamping twice comes to; where the two have no number in common, only the nearest one of the other is left.

    >>> meet((0.0, math.inf), (-1.0, 6.0)), meet((0.0, 1.0), (2.0, 3.0))
    ((0.0, 6.0), (2.0, 2.0))
    """
    low, high = other
    return (min(max(one[0], low), high), min(max(one[1], low), high))
