"""How far each of several rounds goes, so that together they go as far as one cut."""

from collections.abc import Mapping
from dataclasses import replace

from spectrim.budget import COUNTED, Target
from spectrim.measure import Costs


def keeps(whole: Mapping[str, float], count: int) -> list[dict[str, float]]:
    """Fractions of the original widths: of the same step down, by a factor, in every round.

    >>> keeps({"*": 0.25}, 2)
    [{'*': 0.5}, {'*': 0.25}]
    """
    return [{glob: keep ** (number / count) for glob, keep in whole.items()} for number in range(1, count + 1)]


def targets(whole: Target, count: int, costs: Costs) -> list[str]:
    """The same for a target; what is counted becomes numbers, what is measured is relative to the round before.

    Args:
        whole: What may be left in the end.
        count: How many rounds.
        costs: Of the original network.

    >>> targets(Target("latency", 0.25), 2, Costs({}, (), None, 0))
    ['latency:0.5', 'latency:0.5']
    """
    if whole.quantity not in COUNTED:
        return [str(replace(whole, amount=whole.amount ** (1 / count)))] * count
    dense = costs.parameters() if whole.quantity == "params" else costs.macs()
    limit = whole.limit(dense)
    left = min(limit / dense, 1.0)
    return [str(replace(whole, amount=limit / left ** (1 - number / count))) for number in range(1, count + 1)]
