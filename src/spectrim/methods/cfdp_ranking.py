"""One score for each unit of a group of channels, from what every layer that reads it scored."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from spectrim.methods.cfdp_scores import Maps, PerMap
from spectrim.methods.features import mean_scores
from spectrim.surgery.channels import Group


def scored(
    model: nn.Module, groups: Sequence[Group], batches: Iterable[Tensor], score: Callable[[Maps], PerMap]
) -> list[tuple[Group, Tensor | None]]:
    """The mean over the layers that read a group, each relative to its own mean; None where none of them is called as a layer.

    Args:
        model: Runs once over the batches.
        groups: To score.
        batches: Of images.
        score: Of maps.

    Raises:
        DataError: A batch does not go through the model, or features are not finite.
    """
    means = mean_scores(model, {reader.path for group in groups for reader in group.readers}, batches, score)
    return [(group, _together(group, means)) for group in groups]


def drawn(groups: Sequence[Group], batches: Iterable[Tensor], seed: int) -> list[tuple[Group, Tensor | None]]:
    """Random scores, one group after the other.

    Args:
        groups: To score.
        batches: Are taken, and thereby checked; nothing is looked at.
        seed: Of the draw.
    """
    for _ in batches:
        pass
    generator = torch.Generator().manual_seed(seed)
    return [(g, torch.rand(len(g.units), generator=generator, dtype=torch.float64)) for g in groups]


def _together(group: Group, means: Mapping[str, Tensor]) -> Tensor | None:
    total, count = torch.zeros(len(group.units), dtype=torch.float64), torch.zeros(len(group.units))
    known = [reader for reader in group.readers if reader.path in means]
    for reader in known:
        units = torch.tensor(reader.units)
        mine = units >= 0
        values = means[reader.path][mine]
        sums = torch.zeros(len(group.units), dtype=torch.float64).index_add_(0, units[mine], values)
        columns = torch.bincount(units[mine], minlength=len(group.units))
        mean = values.mean()
        total += sums / columns.clamp(min=1) / (mean if mean > 0 else 1)
        count += columns > 0
    return total / count.clamp(min=1) if known else None
