"""How wide each group stays: what was asked for, or under a budget what one ranking over all groups leaves."""

import copy
import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from spectrim.budget import Budget, Target
from spectrim.errors import UnsupportedError
from spectrim.measure import Costs, macs, paired_latency
from spectrim.methods.cfdp_widths import Ladder
from spectrim.surgery.prune import PruneChannels, removed
from spectrim.surgery.trial import not_followed

_ROUGH, _SURE = 7, 25
"""Rounds of a measurement while searching, and of one that is believed."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The widths of all groups.

    Attributes:
        kept: How many units stay, by the path of the group.
        blamed: Groups that the forward does not follow, with what happened.
        budget: What was asked for and is left.
    """

    kept: Mapping[str, int]
    blamed: Mapping[str, str]
    budget: Budget | None = None


def settle(model: nn.Module, ladders: Sequence[Ladder], target: Target | None, costs: Costs, images: Tensor) -> Settled:
    """Down to the last rung, or under a target only as far as it takes; groups that are not followed stay whole.

    Args:
        model: Stays as it is.
        ladders: Of the groups that may be cut.
        target: What may be left.
        costs: Of the model on the first image.
        images: Two to try cuts on; the first one is measured.

    Raises:
        ValueError: The target cannot be reached.
    """
    last = {ladder.group.path: ladder.rungs[-1] for ladder in ladders}
    blamed = not_followed(model, _edits(model, ladders, last), [images])
    while True:
        left = [ladder for ladder in ladders if ladder.group.path not in blamed]
        if target is None:
            return Settled(kept={each.group.path: each.rungs[-1] for each in left}, blamed=blamed)
        kept, budget = within(model, left, target, costs, images[:1])
        more = not_followed(model, _edits(model, left, kept), [images])
        if not more:
            return Settled(kept=kept, blamed=blamed, budget=budget)
        blamed |= more


def within(
    model: nn.Module, ladders: Sequence[Ladder], target: Target, costs: Costs, x: Tensor
) -> tuple[dict[str, int], Budget]:
    """The widest network on the way down that meets a target.

    All groups go down together, one step at a time: the next step is the one whose units have the lowest mean score,
    relative to the mean of their group. So there is one line of networks, each inside the one before, and a smaller target
    never leaves a group wider.

    Raises:
        ValueError: The target cannot be reached.
    """
    if not ladders and target.amount < 1:
        raise ValueError(
            f"asked for target {target}, found no group of channels that may get narrower. The plan of CFDP(keep=0.5) without "
            "one says why, layer by layer."
        )
    descent = Descent.of(ladders)
    number, budget = _timed(model, descent, target, x) if target.quantity == "latency" else _counted(
        model, descent, target, costs, x
    )  # fmt: skip
    return descent.kept(number), budget


@dataclass(frozen=True, eq=False)
class Descent:
    """All ladders in one order of steps: of each step which ladder, and how many units stay there after it."""

    ladders: Sequence[Ladder]
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ladders: Sequence[Ladder]) -> "Descent":
        """The steps by price; of equal ones first that of the group of which more is left."""
        every = [
            [(price, -rung / ladder.rungs[0], number, fewer)
             for price, rung, fewer in zip(ladder.prices(), ladder.rungs, ladder.rungs[1:], strict=False)]
            for number, ladder in enumerate(ladders)
        ]  # fmt: skip
        return cls(ladders, tuple((number, kept) for _, _, number, kept in heapq.merge(*every)))

    def kept(self, number: int) -> dict[str, int]:
        """How many units of each group stay after so many steps."""
        return {each.group.path: units for each, units in zip(self.ladders, self._units(number), strict=True)}

    def gone(self, number: int) -> dict[str, dict[int, int]]:
        """How many indices are gone, by tensor and dimension."""
        found: dict[str, dict[int, int]] = {}
        for ladder, units in zip(self.ladders, self._units(number), strict=True):
            for (site, dim), counts in ladder.reach.items():
                axes = found.setdefault(site, {})
                axes[dim] = axes.get(dim, 0) + int(counts[len(ladder.order) - units])
        return found

    def cut(self, model: nn.Module, number: int) -> nn.Module:
        """A copy of the model after so many steps."""
        return cut_copy(model, _edits(model, self.ladders, self.kept(number)))

    def _units(self, number: int) -> list[int]:
        units = [ladder.rungs[0] for ladder in self.ladders]
        for ladder, kept in self.steps[:number]:
            units[ladder] = kept
        return units


def cut_copy(model: nn.Module, edits: Sequence[PruneChannels]) -> nn.Module:
    """A copy without some channels."""
    small = copy.deepcopy(model)
    for act in PruneChannels.prepare_together(edits, small):
        act()
    return small


def saved(model: nn.Module, edits: Sequence[PruneChannels], costs: Costs, x: Tensor) -> list[tuple[int, int | None]]:
    """What each of some cuts saves alone, in parameters and in multiply-accumulates; None where those cannot be counted.

    Multiplied out where that gives what all cuts together really save, counted on a copy for each cut where not.
    """
    every = [counts([edit]) for edit in edits]
    parameters = [costs.parameters() - costs.parameters(gone) for gone in every]
    operations: list[int | None] = [None] * len(every)
    if costs.positions is not None:
        dense = costs.macs()
        try:
            exact = macs(cut_copy(model, edits), x) == costs.macs(counts(edits))
            operations = [dense - (costs.macs(gone) if exact else macs(cut_copy(model, [edit]), x))
                          for edit, gone in zip(edits, every, strict=True)]  # fmt: skip
        except UnsupportedError:
            pass
    return list(zip(parameters, operations, strict=True))


def counts(edits: Iterable[PruneChannels]) -> dict[str, dict[int, int]]:
    """How many indices go with some cuts, by tensor and dimension."""
    return {site: {dim: len(gone) for dim, gone in axes.items()} for site, axes in removed(edits).items()}


def _counted(model: nn.Module, descent: Descent, target: Target, costs: Costs, x: Tensor) -> tuple[int, Budget]:
    count = costs.parameters if target.quantity == "params" else costs.macs
    last, dense = len(descent.steps), count()
    limit = target.limit(dense)

    def multiplied(number: int) -> int:
        return count(descent.gone(number))

    def counted(number: int) -> int:
        try:
            return macs(descent.cut(model, number), x)
        except UnsupportedError:  # the forward does not follow, which the trial will say
            return multiplied(number)

    number = min(bisect_left(range(last + 1), 1, key=lambda step: multiplied(step) <= limit), last)
    left = multiplied(number)
    if target.quantity == "macs" and counted(number) != left:  # the cut narrows more than layers: count every network
        number = min(bisect_left(range(last + 1), 1, key=lambda step: counted(step) <= limit), last)
        left = counted(number)
    if left > limit:
        raise ValueError(_out_of_reach(target, left / dense, f" ({left:,} of {dense:,})"))
    return number, Budget(target=str(target), dense=dense, left=left)


def _timed(model: nn.Module, descent: Descent, target: Target, x: Tensor) -> tuple[int, Budget]:
    last = len(descent.steps)

    def measured(number: int, rounds: int) -> tuple[float, str]:
        try:
            clock = paired_latency({"dense": model, "cut": descent.cut(model, number)}, x, rounds=rounds)
        except Exception:  # noqa: BLE001 - a forward that fails at this width is one that is not taken
            return math.inf, ""
        dense, cut = clock["dense"], clock["cut"]
        threads = f"{cut.threads} thread{'s' * (cut.threads > 1)}"
        how = f"{dense.median_ms:.3g} → {cut.median_ms:.3g} ms, {threads} on {cut.device}, {rounds} rounds"
        return 1 / clock.speedup("cut", over="dense"), how

    if target.amount >= 1:
        return 0, Budget(target=str(target), dense=1.0, left=1.0)
    lowest = measured(last, _SURE)[0] if last else 1.0
    number = last
    if lowest <= target.amount:
        number = bisect_left(range(last), 1, key=lambda step: step > 0 and measured(step, _ROUGH)[0] <= target.amount)
    while True:
        left, how = measured(number, _SURE)
        if left <= target.amount:
            return number, Budget(target=str(target), dense=1.0, left=left, how=how)
        if number == last:
            raise ValueError(_out_of_reach(target, left, f" ({how})"))
        number = min(number + max(1, last // 50), last)


def _out_of_reach(target: Target, lowest: float, found: str) -> str:
    up = math.ceil(lowest * 1000) / 1000
    ask = f" Ask for {target.name}:{up:g} or more, or let" if up < 1 else " Let"
    return (
        f"target {target} is below what can be reached, {up:g} of dense with every group at its least width{found}."
        f"{ask} more go: a wider where, a smaller round_to or least."
    )


def _edits(model: nn.Module, ladders: Sequence[Ladder], kept: Mapping[str, int]) -> list[PruneChannels]:
    return [
        ladder.cut(model, kept[ladder.group.path]) for ladder in ladders if kept[ladder.group.path] < ladder.rungs[0]
    ]
