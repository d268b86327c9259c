"""What each layer keeps where one price holds for all of them: the price that keeps a share, or that meets a count of multiplications."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from spectrim.budget import Target
from spectrim.methods.pointwise_cuttable import FREE, Cuttable, Timed
from spectrim.methods.pointwise_time import Pace

PRICES = (1e-30, 1e30)
"""Squared changes per multiplication between which the one that meets a budget is looked for."""
_BISECTIONS = 60


def keeping(
    layers: Mapping[str, Cuttable], keeps: Mapping[str, float], pays: str, *, slower: dict[str, Timed] | None = None
) -> dict[str, Tensor]:
    """The bands that keep what was asked for, of the layers where that pays; those of one ``keep`` have one price.

    Args:
        layers: That can be cut.
        keeps: What share of its multiplications each of them keeps at most, in (0, 1].
        pays: By what a layer is better cut: ``time``, by the clock, or see :meth:`Cuttable.pays`.
        slower: If given, what was measured of each layer that is not faster cut is added to it.

    Raises:
        ValueError: So little cannot be kept.
    """
    bands: dict[str, Tensor] = {}
    for keep in dict.fromkeys(keeps.values()):
        cut = {path: layer for path, layer in layers.items() if keeps[path] == keep}
        price = _price_for(cut, keep)
        while True:
            found = _bands(cut, price)
            if pays == "time":
                timed = {path: layer.timed(found[path]) for path, layer in cut.items()}
                (slower if slower is not None else {}).update(
                    {path: each for path, each in timed.items() if not each.wins}
                )
                cut = {path: layer for path, layer in cut.items() if timed[path].wins}
            else:
                cut = {path: layer for path, layer in cut.items() if layer.pays(found[path], pays)}
            # The price stays as it is: the layers that are left dense are those that would have kept most.
            if not cut or keep == 1 or _share(cut, price) <= keep:
                break
            price = _price_for(cut, keep)
        bands |= {path: found[path] for path in cut}
    return {path: bands[path] for path in layers if path in bands}


def within_macs(layers: Mapping[str, Cuttable], target: Target, dense: int, pays: str) -> tuple[dict[str, Tensor], int]:
    """The bands with which the whole network multiplies at most what was asked for, and what it multiplies then.

    Args:
        layers: That can be cut.
        target: Of multiply-accumulates.
        dense: What the network multiplies before.
        pays: By what a layer is better cut; see :meth:`Cuttable.pays`.

    Raises:
        ValueError: The target cannot be reached.
    """

    def at(price: float) -> tuple[dict[str, Tensor], int]:
        found = _bands(layers, price)
        bands = {path: each for path, each in found.items() if layers[path].pays(each, pays)}
        saved = sum(layers[path].dense - sum(layers[path].multiplications(each)) for path, each in bands.items())
        return bands, dense - saved

    if at(FREE)[1] <= target.limit(dense):
        return at(FREE)
    _check_blocks(layers, f"target={str(target)!r}")
    return at(
        _price(
            lambda each: at(each)[1] <= target.limit(dense), f"target={str(target)!r}", lambda: at(PRICES[1])[1] / dense
        )
    )


def faster_bands(layers: Mapping[str, Cuttable], paces: Mapping[str, Pace], price: float) -> dict[str, Tensor]:
    """The bands at a price of time, of the layers in which something is cut and that run faster with them."""
    found = {path: layer.bands(price, paces[path].slope / layer.channels) for path, layer in layers.items()}
    return {
        path: bands
        for path, bands in found.items()
        if bool((bands < layers[path].frequencies).any()) and layers[path].takes(bands, paces[path]) < paces[path].dense
    }


def _bands(layers: Mapping[str, Cuttable], price: float) -> dict[str, Tensor]:
    return {path: layer.bands(price) for path, layer in layers.items()}


def _share(layers: Mapping[str, Cuttable], price: float) -> float:
    """The fraction of the multiplications that stays, transforms not counted."""
    bands = _bands(layers, price)
    kept = sum(layer.cost * float(bands[path].sum()) / layer.frequencies for path, layer in layers.items())
    return kept / sum(layer.dense for layer in layers.values())


def _price_for(layers: Mapping[str, Cuttable], keep: float) -> float:
    """The price at which some layers together keep so much."""
    if keep == 1 or not layers:
        return FREE
    _check_blocks(layers, f"keep={keep:g}")
    return _price(lambda each: _share(layers, each) <= keep, f"keep={keep:g}", lambda: _share(layers, PRICES[1]))


def _check_blocks(layers: Mapping[str, Cuttable], asked: str) -> None:
    """Refuse blocks of which nothing can be cut."""
    if layers and all(layer.frequencies == 1 for layer in layers.values()):
        raise ValueError(
            f"{asked} cannot be reached: a block of one pixel has one coefficient, its mean, which always stays. Pass a larger block, or 'auto'."
        )


def _price(met: Callable[[float], bool], asked: str, least: Callable[[], float]) -> float:
    """The least price at which a budget is met, by bisection of its logarithm."""
    low, high = (math.log(each) for each in PRICES)
    if not met(math.exp(high)):
        raise ValueError(
            f"{asked} cannot be reached: with one coefficient in every block {least():.3g} is left. Ask for more."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if met(math.exp(middle)) else (middle, high)
    return math.exp(high)
