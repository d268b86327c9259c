"""What cutting pointwise convolutions does to the clock: layer by layer to decide, and of the whole network to believe it."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spectrim.budget import Budget, Target
from spectrim.kernels.building import built
from spectrim.measure import paired_latency
from spectrim.measure.choice import least_seconds
from spectrim.methods.pointwise_forms import NO_CLAMPS, Clamps, Inside, grouped_layer, ones, plain_layer
from spectrim.nn.blockwise import Geometry
from spectrim.nn.component import Layer, components
from spectrim.surgery.absorbing import absorb_
from spectrim.surgery.arranging import sort_channels_
from spectrim.surgery.edits import SwapModule, replace_module_
from spectrim.surgery.fusing import blocks, fuse_
from spectrim.surgery.plan import Plan

_ROUNDS = 25
"""Of a measurement."""
_MEASUREMENTS, _HALVINGS = 5, 20
"""Measurements between the least and the most that can be saved; and halvings on the way to a price."""
_EDGE = 0.1
"""How far from both ends of what is left to search the next measurement is at least."""
_LEAST = 1e-6
"""What the least cut saves by the layers' own times, relative to the most."""
_CLOSE = 0.01
"""How much less than asked for is near enough."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one layer for one batch: of the convolution, and of its finalized form with least and most coefficients.

    >>> pace = Pace(dense=5.0, least=1.0, whole=7.0)
    >>> pace.at(0.5), pace.slope
    (4.0, 6.0)
    """

    dense: float
    least: float
    whole: float

    @property
    def slope(self) -> float:
        """What all coefficients take longer than none; a small positive number where nothing can be told apart."""
        return max(self.whole - self.least, 1e-3 * self.dense)

    def at(self, share: float) -> float:
        """With this share of the coefficients, along a line between both ends."""
        return self.least + self.slope * share

    def __str__(self) -> str:
        """In milliseconds, as a convolution first."""
        return f"{1000 * self.dense:.3g} against {1000 * self.least:.3g} to {1000 * self.whole:.3g} ms"


def pace(
    geometry: Geometry,
    size: tuple[int, int],
    clamps: Clamps = NO_CLAMPS,
    inside: Inside | None = None,
    *,
    images: int = 1,
) -> Pace:
    """Measure a layer on so many images with what stands beside it, its channels sorted, in the memory format that it runs best in; with the whole block, if it runs in one."""
    memory = torch.channels_last if built() else torch.contiguous_format
    plain, x = plain_layer(geometry, memory, clamps, inside), ones(geometry, size, memory, inside, images)
    few, all_of_them = (
        grouped_layer(geometry, torch.full((geometry.in_channels,), kept), clamps, inside)
        for kept in (1, geometry.frequencies)
    )
    return Pace(*least_seconds((plain, few, all_of_them), x, seconds=0.03 * images))


def within_time(
    model: nn.Module,
    target: Target,
    x: Tensor,
    *,
    bands_at: Callable[[float], dict[str, Tensor]],
    said: Callable[[Mapping[str, Tensor]], float],
    edits_of: Callable[[Mapping[str, Tensor]], Sequence[SwapModule]],
    prices: tuple[float, float],
) -> tuple[dict[str, Tensor], Budget]:
    """The bands of the least price at which the finalized network is measured to take at most what was asked for.

    Args:
        model: Stays as it is.
        target: Of latency.
        x: What to measure it on, one batch.
        bands_at: The bands at a price, of the layers that pay at it.
        said: What the layers with these bands save by themselves, in any unit.
        edits_of: What puts bands into the model.
        prices: Between which to look.

    Raises:
        ValueError: The target cannot be reached.
    """
    if target.amount >= 1:
        return {}, Budget(target=str(target), dense=1.0, left=1.0)

    def measured(price: float) -> tuple[float, str]:
        cut = finalized_copy(model, edits_of(bands_at(price)), x)
        clock = paired_latency({"dense": model, "cut": cut}, x, rounds=_ROUNDS)
        before, after = clock["dense"], clock["cut"]
        threads = f"{after.threads} thread{'s' * (after.threads > 1)}"
        batch = f" for {len(x)} images" if len(x) > 1 else ""
        how = f"{before.median_ms:.3g} → {after.median_ms:.3g} ms{batch}, {threads} on {after.device}, {_ROUNDS} rounds"
        return 1 / clock.speedup("cut", over="dense"), how

    most = _Point(prices[1], said(bands_at(prices[1])), *measured(prices[1]))
    if most.left > target.amount:
        up = math.ceil(most.left * 1000) / 1000
        ask = f" Ask for {target.name}:{up:g} or more, or let" if up < 1 else " Let"
        raise ValueError(
            f"target {target} is below what can be reached, {up:g} of dense with the narrowest bands in every layer where they "
            f"pay ({most.how}).{ask} more go: a wider where."
        )
    # The least that can be cut: what follows from finalizing alone, as fused layers, is in it.
    price = _price_of(_LEAST * most.said, lambda each: said(bands_at(each)), prices)
    little = _Point(price, said(bands_at(price)), *measured(price))
    if little.left <= target.amount:
        most = little
    weights = [1.0, 1.0]  # of what is known at both ends: one that stays says less and less of what is near the other
    for _ in range(_MEASUREMENTS):
        if most.left >= target.amount - _CLOSE or most.said <= little.said:
            break
        # What layers save by themselves tells better where to look next than halving would, as a measurement is never exact.
        over, under = weights[0] * (little.left - target.amount), weights[1] * (target.amount - most.left)
        share = over / (over + under)
        wanted = little.said + min(max(share, _EDGE), 1 - _EDGE) * (most.said - little.said)
        price = _price_of(wanted, lambda each: said(bands_at(each)), (little.price, most.price))
        if price >= most.price:
            break
        point = _Point(price, said(bands_at(price)), *measured(price))
        if point.left <= target.amount:
            most, weights = point, [weights[0] / 2, 1.0]
        else:
            little, weights = point, [1.0, weights[1] / 2]
    return bands_at(most.price), Budget(target=str(target), dense=1.0, left=most.left, how=most.how)


@dataclass(frozen=True)
class _Point:
    """A price, what the layers save by themselves at it, and what the network takes by the clock."""

    price: float
    said: float
    left: float
    how: str


def _price_of(wanted: float, said: Callable[[float], float], prices: tuple[float, float]) -> float:
    """The least price at which layers save so much, by halving its logarithm."""
    low, high = (math.log(each) for each in prices)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if said(math.exp(middle)) >= wanted else (middle, high)
    return math.exp(high)


def finalized_copy(model: nn.Module, edits: Sequence[SwapModule], x: Tensor) -> nn.Module:
    """The model as it will run with some convolutions swapped, its channels laid in the order that they need, norms and activations absorbed, depthwise convolutions fused."""
    other = copy.deepcopy(model).eval()
    Plan("", "", tuple(edits)).apply_(other)
    sort_channels_(other, x)
    for _, component in list(components(other)):
        final = cast(Layer, component).finalized()
        if final is not component:
            replace_module_(other, component, final)
    absorb_(other, x)
    if built():
        fuse_(other, x, blocks(other, x))
    return other
