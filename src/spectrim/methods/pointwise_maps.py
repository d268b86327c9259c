"""Which linear layers read maps with the channels last: those whose input grows with the image, its height and its width each along one axis."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.calibration import see
from spectrim.errors import DataError
from spectrim.surgery import sites
from spectrim.surgery.channels import still

_Shapes = dict[str, list[tuple[int, ...]]]
"""What layers read, call by call."""


def linear_layers_on_maps(model: nn.Module, image: Tensor) -> dict[str, str]:
    """The linear layers that read what could be maps, (image, height, width, channel): why each cannot be cut as one, empty where it can.

    Heads with their tokens, windows with their pixels, and channels with rows have four axes too. So the network is shown the image twice,
    one below the other and side by side: of a map the first makes the second axis grow and no other, the other one the third.

    Args:
        model: Runs in evaluation mode, and is as before: once, and twice more where a linear layer reads four axes; not at all where
            it has no linear layer.
        image: A batch, one image is enough.

    Raises:
        DataError: It does not go through the model.

    >>> class ChannelsLast(nn.Module):
    ...     def forward(self, x):
    ...         return x.movedim(1, -1)
    >>> linear_layers_on_maps(nn.Sequential(ChannelsLast(), nn.Linear(3, 8), ChannelsLast()), torch.zeros(1, 3, 4, 4))
    {'1': ''}
    >>> linear_layers_on_maps(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(4, 4)), torch.zeros(1, 3, 4, 4))
    {'1': 'reads 8 x 4 places that do not grow with the height and the width of the image: no map'}
    """
    layers = {path: module for path, module in sites.walk(model) if isinstance(module, nn.Linear)}
    if not layers:
        return {}
    found = {path: shapes for path, shapes in _read(model, layers, image).items() if any(map(_could_be, shapes))}
    if not found:
        return {}
    layers = {path: layers[path] for path in found}
    taller, wider = (_read(model, layers, torch.cat([image, image], axis), fails=True) for axis in (-2, -1))
    return {path: _reason(shapes, taller.get(path, []), wider.get(path, [])) for path, shapes in found.items()}


def _could_be(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and min(shape[1:3]) > 1


def _reason(shapes: list[tuple[int, ...]], taller: list[tuple[int, ...]], wider: list[tuple[int, ...]]) -> str:
    for number, shape in enumerate(shapes):
        if not _could_be(shape):
            continue
        if number >= min(len(taller), len(wider)):
            return "cannot be told to read maps, because the network does not take images of twice the height or width"
        if not (_grows(shape, taller[number], 1) and _grows(shape, wider[number], 2)):
            return f"reads {shape[1]} x {shape[2]} places that do not grow with the height and the width of the image: no map"
    return ""


def _grows(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> bool:
    """Whether this axis is longer, and no other one is another."""
    others = [other for other in range(len(before)) if other != axis]
    return (
        len(before) == len(after) and after[axis] > before[axis] and all(before[each] == after[each] for each in others)
    )


def _read(model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor, *, fails: bool = False) -> _Shapes:
    """What layers read; where the network may fail on the batch, what they read until then."""
    shapes: _Shapes = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                shapes.setdefault(path, []).append(tuple(inputs[0].shape))

        return hook

    handles = [layer.register_forward_pre_hook(note(path)) for path, layer in layers.items()]
    try:
        with still(model), torch.no_grad():
            see(model, x, 0)
    except (DataError, AssertionError):  # which some networks check sizes with
        if not fails:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return shapes
