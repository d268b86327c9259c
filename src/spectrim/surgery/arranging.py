"""Channels in another order: the same function with its weights rearranged, so that what belongs together lies together."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spectrim.errors import UnsupportedError
from spectrim.nn.channel_map import ChannelMap
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.channels import Axis, Group, groups
from spectrim.surgery.edits import replace_module_
from spectrim.surgery.same import outputs_of, same


def sort_channels_(model: nn.Module, example: Tensor) -> int:
    """Lay the channels that banded convolutions read in the order of what they keep, most first, wherever the network allows it.

    Channels that are joined (behind an addition, through a depthwise convolution) move together, so where several such convolutions read the
    same channels, the one that multiplies most decides. The network computes what it did up to rounding; this is tried on the
    example, and where it does not hold, everything is put back.

    Args:
        model: With plain parameters.
        example: One batch.

    Returns:
        How many convolutions read sorted channels now that did not before.
    """
    banded = {path: each for path, each in model.named_modules() if isinstance(each, BandedPointwiseConv2d)}
    waiting = {path for path, each in banded.items() if not _sorted(each.kept)}
    if not waiting:
        return 0
    try:
        found, _ = groups(_plain(model), [example[:1]])
    except UnsupportedError:
        return 0
    before = outputs_of(model, example)
    with torch.no_grad():
        saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for group in found:
            if (order := _order(group, banded)) is not None:
                _arrange_(model, group, order, banded)
        if not same(before, outputs_of(model, example)):
            for name, tensor in model.state_dict().items():
                tensor.copy_(saved[name])
    return sum(_sorted(banded[path].kept) for path in waiting)


def _plain(model: nn.Module) -> nn.Module:
    """A copy with ordinary convolutions in the places of banded ones."""
    other = copy.deepcopy(model)
    for module in list(other.modules()):
        if isinstance(module, BandedPointwiseConv2d):
            with torch.no_grad():
                module.kept.fill_(module.geometry.frequencies)
            replace_module_(other, module, module.finalized())
    return other


def _order(group: Group, banded: Mapping[str, BandedPointwiseConv2d]) -> list[int] | None:
    """The units of a group by what the convolution that decides keeps of them; None where nothing is to be moved."""
    readers = [reader for reader in group.readers if reader.path in banded and -1 not in reader.units]
    readers = [reader for reader in readers if len(set(reader.units)) == len(reader.units)]
    moved = {site.rpartition(".")[0] for unit in group.units for site, _ in unit}
    if not readers or group.locked[0] or any(not _uniform(group, axis) for axis in group.units[0]):
        return None
    decides = max(readers, key=lambda reader: math.prod(banded[reader.path].weight.shape))
    if decides.path not in moved:
        return None
    kept = dict(zip(decides.units, banded[decides.path].kept.tolist(), strict=True))
    order = sorted(range(len(group.units)), key=lambda unit: -kept.get(unit, 0))
    return None if order == list(range(len(order))) else order


def _uniform(group: Group, axis: Axis) -> bool:
    """Whether every unit has equally many indices along an axis."""
    return len({len(unit.get(axis, ())) for unit in group.units}) == 1


def _arrange_(
    model: nn.Module, group: Group, order: Sequence[int], banded: Mapping[str, BandedPointwiseConv2d]
) -> None:
    """Put unit ``order[p]`` where unit ``p`` was, in every tensor that the group reaches."""
    axes = {axis for unit in group.units for axis in unit}
    if any(isinstance(model.get_submodule(site.rpartition(".")[0]), ChannelMap) for site, _ in axes):
        return
    for site, dim in axes:
        path, _, name = site.rpartition(".")
        tensor: Tensor = getattr(model.get_submodule(path), name)
        to = torch.tensor([index for unit in group.units for index in unit[site, dim]], device=tensor.device)
        come = torch.tensor([index for unit in order for index in group.units[unit][site, dim]], device=tensor.device)
        _move_(tensor, dim, to, come)
        if path in banded and (name, dim) == ("weight", 1):
            _move_(banded[path].kept, 0, to, come)


def _move_(tensor: Tensor, dim: int, to: Tensor, come: Tensor) -> None:
    tensor.index_copy_(dim, to, tensor.index_select(dim, come))


def _sorted(kept: Tensor) -> bool:
    return bool((kept[1:] <= kept[:-1]).all())
