"""Which filters become transformations of which: the schedule and the ranking of generalised pruning."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.nn.component import Spec

Saliency: TypeAlias = Literal["magnitude", "raw", "taylor"]
Assignment: TypeAlias = Literal["modulo", "cosine", "random", "outputs"]
Start: TypeAlias = Literal["lstsq", "ones", "outputs"]


@dataclass(frozen=True, kw_only=True)
class Rebuilding:
    """How the filters of all layers with the same settings are pruned together while they train.

    Attributes:
        keep: Fraction of all filters that stay templates, in (0, 1]; the others are rebuilt from them. Where filters have
            prices, the fraction of the sum of all prices.
        least: Templates that every layer keeps.
        stages: In how many equal steps the fraction falls.
        saliency: What ranks filters over all layers: ``magnitude``, the mean absolute weight less its mean over the layer;
            ``raw``, without subtracting; ``taylor``, the absolute sum of weight times gradient since the last stage.
        assign: Which template a filter is rebuilt from: ``modulo`` (in turn), ``cosine`` (the most similar), ``random``, or
            ``outputs`` (that which can come closest to what the filter writes, for as long as it is a template).
        start: The first transformation: ``lstsq``, the one that comes closest to the filter; ``outputs``, to what the filter
            writes for the batch that was read last; or ``ones``, the identity.
        seed: Of ``random``.

    Raises:
        ValueError: A setting is out of range.

    References:
        Miles and Mikolajczyk 2023 (arXiv 2110.12844), training as generalised pruning.
    """

    keep: float
    least: int = 8
    stages: int = 40
    saliency: Saliency = "magnitude"
    assign: Assignment = "modulo"
    start: Start = "lstsq"
    seed: int = 0

    def __post_init__(self) -> None:
        keep: object = self.keep
        if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {self.keep!r}.")
        for name in ("least", "stages"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        for name, names in (("saliency", Saliency), ("assign", Assignment), ("start", Start)):
            if getattr(self, name) not in get_args(names):
                raise ValueError(f"{name} must be one of {', '.join(get_args(names))}, got {getattr(self, name)!r}.")
        if type(self.seed) is not int:
            raise ValueError(f"seed must be a whole number, got {self.seed!r}.")

    def stage(self, progress: float) -> int:
        """How many steps have been made at a progress in [0, 1].

        >>> [Rebuilding(keep=0.5, stages=4).stage(p) for p in (0, 0.01, 0.25, 0.26, 1)]
        [0, 1, 1, 2, 4]
        """
        return math.ceil(progress * self.stages - 1e-9)

    @property
    def looks(self) -> bool:
        """Whether layers keep some of what they read."""
        return "outputs" in (self.assign, self.start)

    def pruned(self, filters: int, stage: int) -> int:
        """How many of all filters are no templates any more after some steps; of the sum of their prices, what these have cost.

        >>> [Rebuilding(keep=0.5, stages=4).pruned(100, stage) for stage in range(5)]
        [0, 12, 25, 38, 50]
        """
        return round(filters * (1 - self.keep) * stage / self.stages)

    def to_json(self) -> Spec:
        """The settings."""
        return asdict(self)

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        """The settings that :meth:`to_json` wrote.

        Raises:
            ValueError: They are not such settings.
        """
        if spec.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"the settings of rebuilding are {sorted(cls.__dataclass_fields__)}, got {sorted(spec)}.")
        return cls(**spec)


def magnitude(filters: Float[Tensor, "filter ..."], *, relative: bool) -> Float[Tensor, "filter"]:
    """The mean absolute weight of each filter, less the mean over the layer if relative.

    >>> magnitude(torch.tensor([[1.0, -1.0], [3.0, 3.0]]), relative=True)
    tensor([-1.,  1.], dtype=torch.float64)
    """
    found = filters.detach().abs().flatten(1).double().mean(1)
    return found - found.mean() if relative else found


def chosen(
    saliencies: Sequence[Float[Tensor, "filter"]],
    pruned: Sequence[set[int]],
    wanted: int,
    least: int,
    prices: Sequence[int] | None = None,
) -> list[set[int]]:
    """The filters of each layer that are no templates any more: those with least saliency, until enough of them are.

    What is pruned stays pruned, and no layer gets below ``least`` templates; others go in their place, as far as there are
    any. Of two equal ones the earlier goes first.

    Args:
        saliencies: Of the filters of each layer.
        pruned: Those of each layer that are no templates already.
        wanted: How many are to be none in all layers; or what these are to have cost together.
        least: Templates that every layer keeps.
        prices: What one filter of each layer costs; 1 if None.

    >>> chosen([torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.1, 0.2])], [set(), {1}], 3, 1)
    [{1, 2}, {1}]
    >>> chosen([torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.1, 0.2])], [set(), set()], 30, 1, prices=[20, 1])
    [{1, 2}, {0}]
    """
    costs = [1] * len(saliencies) if prices is None else prices
    found = [set(each) for each in pruned]
    ranked = sorted(
        (float(value), layer, number) for layer, values in enumerate(saliencies) for number, value in enumerate(values)
    )
    missing = wanted - sum(cost * len(each) for cost, each in zip(costs, found, strict=True))
    for _, layer, number in ranked:
        if missing <= 0:
            break
        if number not in found[layer] and len(saliencies[layer]) - len(found[layer]) > least:
            found[layer].add(number)
            missing -= costs[layer]
    return found


def assigned(
    filters: Float[Tensor, "filter ..."],
    pruned: set[int],
    assign: Literal["modulo", "cosine", "random"],
    *,
    generator: torch.Generator,
) -> Int[Tensor, "filter"]:
    """For every filter the one that it is rebuilt from; a template's is itself.

    >>> assigned(torch.ones(7, 1), {0, 2, 3, 6}, "modulo", generator=torch.Generator())
    tensor([1, 1, 4, 5, 4, 5, 1])
    """
    templates = torch.tensor([each for each in range(len(filters)) if each not in pruned])
    order = torch.tensor(sorted(pruned), dtype=torch.long)
    found = torch.arange(len(filters))
    if assign == "modulo":
        found[order] = templates[torch.arange(len(order)) % len(templates)]
    elif assign == "random":
        found[order] = templates[torch.randint(len(templates), (len(order),), generator=generator)]
    else:
        unit = torch.nn.functional.normalize(filters.detach().flatten(1).double().cpu(), dim=1)
        found[order] = templates[(unit[order] @ unit[templates].T).abs().argmax(1)]
    return found
