"""What layers read, scored while the model runs: all layers in one pass, nothing kept but running sums."""

import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spectrim.calibration import see
from spectrim.errors import DataError
from spectrim.surgery.channels import still


def mean_scores(
    model: nn.Module,
    paths: Collection[str],
    batches: Iterable[Tensor],
    score: Callable[[Float[Tensor, "image channel height width"]], Float[Tensor, "image channel"]],
) -> dict[str, Float[Tensor, "channel"]]:
    """The mean score over all images of each input channel of some layers.

    Args:
        model: Runs in evaluation mode without gradients, and is as before.
        paths: Of convolutions, linear layers, and channel maps. Those that are not called are left out of the result.
        batches: Of images.
        score: Of maps. The tokens of a transformer are maps of height 1; a layer that reads ``(batch, height, width,
            channel)`` has its channels last.

    Raises:
        DataError: A batch does not go through the model, or features are not finite.

    >>> net = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 1, 1))
    >>> mean_scores(net, {"1"}, [torch.ones(4, 2, 3, 3)], lambda maps: maps.sum((-2, -1)))
    {'1': tensor([9., 9.], dtype=torch.float64)}
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    seen: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def hook(path: str, layer: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x: Tensor = inputs[0]
            known = seen.get(id(x))  # one tensor read by several layers is scored once
            version = x._version  # noqa: SLF001 - it may have been written to since
            if known is not None and known[0]() is x and known[1] == version:
                values = known[2]
            else:
                values = score(as_maps(layer, x)).sum(0, dtype=torch.float64).cpu()
                seen[id(x)] = (weakref.ref(x), version, values)
            sums[path] = sums[path] + values if path in sums else values
            counts[path] = counts.get(path, 0) + x.shape[0]

        return add

    handles = []
    for path in sorted(paths):
        layer = model.get_submodule(path)
        handles.append(layer.register_forward_pre_hook(hook(path, layer)))
    try:
        with still(model), torch.no_grad():
            for number, batch in enumerate(batches):
                seen.clear()
                see(model, batch, number)
    finally:
        for handle in handles:
            handle.remove()
    for path, values in sums.items():
        if not bool(torch.isfinite(values).all()):
            raise DataError(
                f"the features that {path!r} reads are not finite for the calibration images. Check the model's weights."
            )
    return {path: values / counts[path] for path, values in sums.items()}


def as_maps(layer: nn.Module, x: Tensor) -> Float[Tensor, "image channel height width"]:
    """What a layer reads, as maps of two sides.

    >>> as_maps(nn.Linear(8, 1), torch.zeros(2, 5, 8)).shape
    torch.Size([2, 8, 1, 5])
    """
    if isinstance(layer, nn.Linear) and x.ndim > 2:
        x = x.movedim(-1, 1)
    if isinstance(layer, _ConvNd) and x.ndim == len(layer.kernel_size) + 1:
        x = x[None]
    if x.ndim <= 3:
        return x.reshape(x.shape[0], x.shape[1], 1, -1)
    return x.reshape(x.shape[0], x.shape[1], -1, x.shape[-1])
