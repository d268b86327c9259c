"""When the cut-offs of a network train, when its weights do, and what a kept coefficient costs meanwhile."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from spectrim.nn.component import Spec

Phase = Literal["cut-offs", "weights", "both", "settled"]

_SEARCH = 0.5
"""Share of the progress that the rounds take; then the cut-offs stand and the rest is for the weights."""
_CUT = 1 / 3
"""Share of a round in which the cut-offs train."""
_SOFTEST = 4.0
_SOFT = 0.8
"""Share of the training of the cut-offs after which the ramp is a single coefficient wide."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How cut-offs are learned.

    Training alternates, ``rounds`` times in the first half of the progress: a third of each round trains the cut-offs, with a ramp in
    place of the cut that narrows from four coefficients to one, two thirds the weights, with hard cuts. Then the cut-offs of each
    layer are raised to ``levels`` different values and stand, and the weights train on.

    Args:
        cost: Share of the costs of all layers together that one channel of this layer has where nothing is cut.
        keep: The share of the costs to come down to; the penalty is what is above it. None for no such target: the penalty is the
            whole cost.
        strength: Factor of the penalty (λ).
        rounds: How often training alternates; 0 trains both at once.
        levels: Most different cut-offs in a layer at the end.
        tied: Name of the stream whose readers all have the same cut-offs; None where they are the layer's own.

    Raises:
        ValueError: A value is out of range.

    References:
        Buckler et al. 2021, "Dense Pruning of Pointwise Convolutions in the Frequency Domain" (arXiv 2109.07707): learned cut-offs
        and a regularisation term. That they are learned in alternation is in N. Adit's thesis (Cornell, 2024), section 1.4.
        The schedule is our own.

    >>> Learning(cost=0.1, rounds=1).phase(0.1), Learning(cost=0.1, rounds=1).phase(0.3)
    ('cut-offs', 'weights')
    """

    cost: float
    keep: float | None = None
    strength: float = 0.1
    rounds: int = 4
    levels: int = 4
    tied: str | None = None

    def __post_init__(self) -> None:
        numbers = {"cost": self.cost, "strength": self.strength}
        for name, value in numbers.items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
        if self.keep is not None and (type(self.keep) not in (int, float) or not 0 < self.keep <= 1):
            raise ValueError(f"keep must lie in (0, 1] or be None, got {self.keep!r}.")
        for name, whole, least in (("rounds", self.rounds, 0), ("levels", self.levels, 1)):
            if type(whole) is not int or whole < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {whole!r}.")
        if self.tied is not None and type(self.tied) is not str:
            raise ValueError(f"tied must be a name or None, got {self.tied!r}.")

    def phase(self, progress: float) -> Phase:
        """What trains at this progress in [0, 1]."""
        if progress >= _SEARCH:
            return "settled"
        if self.rounds == 0:
            return "both"
        return "cut-offs" if self._within(progress) < _CUT else "weights"

    def ramp(self, progress: float) -> float:
        """Width R of the ramp where cut-offs train, in coefficients.

        >>> [round(Learning(cost=1, rounds=0).ramp(p), 2) for p in (0.0, 0.2, 0.4)]
        [4.0, 2.0, 1.0]
        """
        share = progress / _SEARCH if self.rounds == 0 else self._within(progress) / _CUT
        return max(1.0, _SOFTEST * (1 - share / _SOFT))

    def _within(self, progress: float) -> float:
        return (progress / _SEARCH * self.rounds) % 1.0

    def to_json(self) -> Spec:
        """As it stands in plans and files."""
        fields: Spec = asdict(self)
        return fields if self.tied is not None else {name: value for name, value in fields.items() if name != "tied"}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read :meth:`to_json`.

        Raises:
            ValueError: It is not that.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                f"learning needs cost, keep, strength, rounds, levels and tied, got {sorted(fields)}."
            ) from error
