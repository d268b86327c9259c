"""The widths that a group of channels may have, and which of its units go on the way down."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from spectrim.surgery.channels import Axis, Group, cut
from spectrim.surgery.prune import PruneChannels


def kept_units(group: Group, keep: float, round_to: int, *, of: int | None = None) -> int:
    """How many units of a group stay: ``floor(keep * units)``, then rounded, at least one.

    The floor forgives a rounding error, so that 0.7 of 10 is 7. Rounding is to the nearest multiple of the layer's whole width,
    halves up, and at least one multiple.

    Args:
        group: Of channels.
        keep: Fraction of the units that stays.
        round_to: What the width is a multiple of.
        of: How many units the group had before earlier rounds, which ``keep`` is a fraction of.
    """
    units, locked = of or len(group.units), group.locked[0]
    kept = max(math.floor(units * keep * (1 + 1e-9)), 1)
    step = _step(group, round_to)
    rounded = max((2 * (kept + locked) + step) // (2 * step), 1) * step
    return min(max(rounded - locked, 1), len(group.units))


def widths(group: Group, least: float, round_to: int, *, of: int | None = None) -> tuple[int, ...]:
    """All numbers of units that may stay, from all of them down: those that make the layer's width a multiple.

    Args:
        group: Of channels.
        least: Fraction of the units that has to stay; one unit always does.
        round_to: What the width is a multiple of, unless all units stay.
        of: How many units the group had before earlier rounds, which ``least`` is a fraction of.
    """
    units, locked, step = len(group.units), group.locked[0], _step(group, round_to)
    floor = max(math.ceil((of or units) * least * (1 - 1e-9)), 1)
    widest = (units + locked - 1) // step * step - locked
    return (units, *range(widest, floor - 1, -step))


def _step(group: Group, round_to: int) -> int:
    """How many units together are a multiple."""
    each = max(group.width // (len(group.units) + group.locked[0]), 1)
    return round_to // math.gcd(round_to, each)


@dataclass(frozen=True, eq=False)
class Ladder:
    """A group on its way down.

    Attributes:
        group: Of channels.
        scores: Of its units, relative to their mean.
        order: The units in the order in which they go: the lowest score first, the lower number where two are equal.
        rungs: How many units stay, from all of them down.
    """

    group: Group
    scores: Float[Tensor, "unit"]
    order: tuple[int, ...]
    rungs: tuple[int, ...]

    @classmethod
    def of(cls, group: Group, values: Float[Tensor, "unit"], rungs: Sequence[int]) -> "Ladder":
        """The ladder of a group.

        Args:
            group: Of channels.
            values: The score of each unit, not negative.
            rungs: How many may stay, falling from all.
        """
        scores = values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
        return cls(group, scores, tuple(values.argsort(stable=True).tolist()), tuple(rungs))

    def prices(self) -> list[float]:
        """For each step down the mean relative score of the units that go with it; never falls."""
        found, worst = [], 0.0
        for more, fewer in itertools.pairwise(self.rungs):
            going = list(self.order[self.rungs[0] - more : self.rungs[0] - fewer])
            worst = max(worst, float(self.scores[going].mean()))
            found.append(worst)
        return found

    def below(self, kept: int) -> float:
        """The lowest relative score that stays: what scores less goes."""
        return float(self.scores[self.order[len(self.order) - kept]])

    def cut(self, model: nn.Module, kept: int, note: str = "") -> PruneChannels:
        """The edit that leaves so many units."""
        return cut(model, self.group, self.order[: len(self.order) - kept], note)

    @cached_property
    def reach(self) -> dict[Axis, NDArray[np.int64]]:
        """For each axis how many of its indices are gone with the first 0, 1, 2, … units."""
        counts: dict[Axis, NDArray[np.int64]] = {}
        for place, unit in enumerate(self.order):
            for axis, indices in self.group.units[unit].items():
                counts.setdefault(axis, np.zeros(len(self.order) + 1, np.int64))[place + 1] = len(indices)
        return {axis: each.cumsum() for axis, each in counts.items()}
