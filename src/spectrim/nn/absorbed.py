"""What stands in the place of a norm or an activation whose work the convolution beside it does."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from spectrim.nn.component import Layer, Spec
from spectrim.nn.limits import FREE, Limits, activation_of, limits_from_json, limits_to_json


class Absorbed(Layer, kind="absorbed"):
    """Passes on what it reads: a convolution next to it has taken over what stood here.

    Args:
        limits: Between which numbers the activation that stood here clamped; none for a norm.

    Raises:
        ValueError: The limits are none.

    >>> Absorbed((0.0, 6.0))
    Absorbed(limits=(0.0, 6.0))
    """

    def __init__(self, limits: Limits = FREE) -> None:
        super().__init__()
        if not limits[0] < limits[1]:
            raise ValueError(f"limits must be two numbers, the lower one first, got {limits}.")
        self.limits = limits

    def forward(self, x: Tensor) -> Tensor:
        """What comes in."""
        return x

    def released(self) -> nn.Module:
        """The activation again, for a convolution that clamps no longer; itself in the place of a norm."""
        return self if self.limits == FREE else activation_of(self.limits).train(self.training)

    def finalized(self) -> nn.Module:
        """Itself."""
        return self

    def spec(self) -> Spec:
        """The limits, where there are any."""
        return {} if self.limits == FREE else {"limits": limits_to_json(self.limits)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """One with the limits of :meth:`spec`."""
        if not spec.keys() <= {"limits"}:
            raise ValueError(f"what was absorbed has limits and nothing else, got {sorted(spec)}.")
        return cls(limits_from_json("limits", spec["limits"]) if "limits" in spec else FREE)

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """What went."""
        return f"{'an activation' if spec else 'a norm'}, done by the convolution beside it"

    def extra_repr(self) -> str:
        """The limits for ``print(model)``."""
        return f"limits={self.limits}" if self.limits != FREE else ""
