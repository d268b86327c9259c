"""A ranking of channels as data: the score of everything in a group that can go alone, and what of it goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The channels of one group.

    Attributes:
        path: The first of the layers that write them.
        writers: All of them.
        width: How many channels that layer writes.
        scores: Of each unit that can go alone (a channel, or several that go together), relative to the mean of the group.
        gone: The numbers of the units that go, rising.
        reason: Why all of them stay; empty if some go.
    """

    path: str
    writers: tuple[str, ...]
    width: int
    scores: tuple[float, ...]
    gone: tuple[int, ...] = ()
    reason: str = ""

    @property
    def kept(self) -> int:
        """How many units stay."""
        return len(self.scores) - len(self.gone)

    @property
    def cut(self) -> float | None:
        """The lowest score that stays, where something goes: what scores less goes.

        >>> Ranked(path="0", writers=("0",), width=4, scores=(0.5, 1.5, 0.25, 1.75), gone=(0, 2)).cut
        1.5
        """
        if not self.gone:
            return None
        return min((score for unit, score in enumerate(self.scores) if unit not in set(self.gone)), default=None)

    @property
    def held(self) -> float:
        """The share of all scores that stays; at random it would be that of the units."""
        total = sum(self.scores)
        return 1 - sum(self.scores[unit] for unit in self.gone) / total if total > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """The attributes, and what follows from them."""
        return {
            "path": self.path,
            "writers": list(self.writers),
            "width": self.width,
            "units": len(self.scores),
            "kept": self.kept,
            "cut": self.cut,
            "held": self.held,
            "gone": list(self.gone),
            "scores": list(self.scores),
            "reason": self.reason or None,
        }


def total_units(ranked: Iterable[Ranked]) -> tuple[int, int]:
    """How many units some groups have, and how many of them stay.

    >>> total_units([Ranked(path="0", writers=("0",), width=2, scores=(0.5, 1.5), gone=(0,))])
    (2, 1)
    """
    every = list(ranked)
    return sum(len(each.scores) for each in every), sum(each.kept for each in every)
