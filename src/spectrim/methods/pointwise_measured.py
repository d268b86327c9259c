"""What a cut of each layer alone really does to the model's output, beside what the first order said."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spectrim.calibration import see
from spectrim.methods.pointwise_cuttable import Cuttable
from spectrim.methods.pointwise_prices import keeping
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery.channels import still

_KEEP = 0.5
"""What all layers together keep at the bands that are tried."""
_MOST = 100.0
"""Factors beyond this, and below its inverse, are taken for noise."""


def corrected(model: nn.Module, layers: Mapping[str, Cuttable], x: Tensor) -> dict[str, Cuttable]:
    """The layers, what they lose multiplied by how far the first order is off where the layer is cut alone.

    The first order holds for small changes. Layers over large maps are followed by many others, and a cut of them changes the output
    by more than it says, so that in one ranking of all layers they would be cut too early.

    Args:
        model: Stays as it is. It runs once for each layer.
        layers: By path, what they lose to first order.
        x: Images.
    """
    cut = {path: layer for path, layer in layers.items() if layer.frequencies > 1}
    tried = keeping(cut, dict.fromkeys(cut, _KEEP), "always")
    for path, layer in cut.items():
        if not _said(layer, tried[path]) > 0:  # nothing to try: then what it would keep half of by itself
            tried |= keeping({path: layer}, {path: _KEEP}, "always")
    with still(model), torch.no_grad():
        wanted = _leaves(see(model, x, 0))
        return {**layers} | {
            path: replace(layer, rest=layer.rest * _factor(model, path, layer, tried[path], x, wanted))
            for path, layer in cut.items()
        }


def _factor(model: nn.Module, path: str, layer: Cuttable, bands: Tensor, x: Tensor, wanted: list[Tensor]) -> float:
    said = _said(layer, bands)
    if not said > 0:
        return 1.0
    high, wide = layer.stride
    low = BandedPointwiseConv2d(layer.channels, 1, layer.block, order=layer.order, kept=bands.tolist()).to(x.device)

    def cut(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        seen = cast(Tensor, inputs[0]).clone()
        front = seen.movedim(-1, 1) if layer.last else seen
        front[..., ::high, ::wide] = low.low(front[..., ::high, ::wide]).to(seen.dtype)
        return (seen, *inputs[1:])

    handle = model.get_submodule(path).register_forward_pre_hook(cut)
    try:
        found = _leaves(model(x))
    finally:
        handle.remove()
    changed = sum(float((a - b).double().square().sum()) for a, b in zip(found, wanted, strict=True)) / len(x)
    factor = changed / said
    return min(max(factor, 1 / _MOST), _MOST) if math.isfinite(factor) else _MOST


def _said(layer: Cuttable, bands: Tensor) -> float:
    """What is lost behind the bands, by the first order."""
    return float(layer.rest.gather(1, (bands - 1)[:, None]).sum())


def _leaves(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]
