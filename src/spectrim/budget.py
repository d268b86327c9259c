"""Budgets in a user's own units: what may be left of a model, asked for as ``macs:0.5``, and what a plan leaves of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

COUNTED = {"macs": "multiply-accumulates of one image", "params": "parameters"}
"""Quantities that can be counted, so that an absolute number of them may be asked for."""

MEASURED = {"latency": "time of one image, or of one batch"}
"""Quantities that are measured, relative to the dense model's in the same rounds."""

_OTHER_NAMES = {"time": "latency"}


@dataclass(frozen=True)
class Target:
    """At most so much of a quantity may be left.

    Args:
        quantity: One of :data:`COUNTED` or :data:`MEASURED`.
        amount: Up to 1 the fraction of what the dense model has, above 100 a number of them.
        name: What the quantity was called by whoever asked; its own name if empty.
    """

    quantity: str
    amount: float
    name: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.quantity)

    @classmethod
    def parse(cls, text: object, quantities: Sequence[str] = (*COUNTED, *MEASURED)) -> Self:
        """Read ``QUANTITY:NUMBER``.

        Args:
            text: ``macs:0.5`` is half of the dense model's, ``params:100000`` a number of them. ``time`` is another name of ``latency``.
                Milliseconds cannot be asked for: on a busy machine they would be a promise about the other programs.
            quantities: That are understood where it is asked for.

        Raises:
            ValueError: It is no target.

        >>> Target.parse("macs:0.5"), Target.parse("params:1e5")
        (Target(quantity='macs', amount=0.5), Target(quantity='params', amount=100000.0))
        >>> print(Target.parse("time:0.78"))
        time:0.78
        """
        form = f"QUANTITY:NUMBER with one of {', '.join(quantities)}, for example {quantities[0]}:0.5"
        if not isinstance(text, str) or text.count(":") != 1:
            raise ValueError(f"target must be {form}, got {text!r}.")
        name, _, number = text.partition(":")
        quantity = _OTHER_NAMES.get(name, name)
        if quantity not in quantities:
            raise ValueError(f"target must be {form}, got {text!r}, which is about {name!r}.")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        absolute = quantity in COUNTED
        if not (0 < amount <= 1 or (absolute and 100 < amount < math.inf)):
            counts = " or a number above 100" if absolute else ""
            hint = f" For {amount:g} percent, write {name}:{amount / 100:g}." if 1 < amount <= 100 else ""
            raise ValueError(f"a target of {name} is a fraction in (0, 1]{counts}, got {number!r}.{hint}")
        return cls(quantity, amount, name)

    def limit(self, dense: float) -> float:
        """The most that may be left.

        >>> Target("macs", 0.5).limit(300), Target("params", 200).limit(300)
        (150.0, 200)
        """
        return self.amount * dense if self.amount <= 1 else self.amount

    def __str__(self) -> str:
        return f"{self.name}:{self.amount:.15g}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a plan was asked to leave, and what it leaves.

    Attributes:
        target: What was asked for, see :meth:`Target.parse`.
        dense: What the dense model has; 1 for what is measured.
        left: What the model has when the plan is carried out.
        how: How it was measured, for people; empty for what is counted.
    """

    target: str
    dense: float
    left: float
    how: str = ""

    @property
    def fraction(self) -> float:
        """What is left, as a fraction of the dense model's."""
        return self.left / self.dense if self.dense else 1.0

    def __str__(self) -> str:
        """For a headline.

        >>> print(
        ...     Budget(target="macs:0.5", dense=1000, left=498),
        ...     Budget(target="params:500", dense=1000, left=480),
        ...     sep="; ",
        ... )
        macs 0.498 of dense, asked 0.5; params 480 of 1,000, asked 500
        """
        asked = Target.parse(self.target)
        how = f" ({self.how})" if self.how else ""
        if asked.amount <= 1:
            return f"{asked.name} {self.fraction:.3f} of dense, asked {asked.amount:.15g}{how}"
        return f"{asked.name} {self.left:,.0f} of {self.dense:,.0f}, asked {asked.amount:,.15g}{how}"

    def to_json(self) -> dict[str, Any]:
        """Target, dense, left, how; and for readers the fraction."""
        return {
            "target": self.target,
            "dense": self.dense,
            "left": self.left,
            "fraction": self.fraction,
            "how": self.how,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            TypeError, ValueError: It is something else.
        """
        made = cls(target=fields["target"], dense=fields["dense"], left=fields["left"], how=fields["how"])
        numbers = (made.dense, made.left)
        if not all(type(n) in {int, float} and math.isfinite(n) for n in numbers) or not isinstance(made.how, str):
            raise TypeError("a budget has two finite numbers and a text")
        Target.parse(made.target)
        return made
