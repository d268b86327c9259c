"""Dense pruning of pointwise convolutions: each input channel keeps its low frequencies, and the products stay dense."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectrim.budget import Budget, Target
from spectrim.calibration import Calibration, images_of
from spectrim.errors import OrderError
from spectrim.kernels.building import built
from spectrim.measure.choice import faster
from spectrim.measure.compute import macs
from spectrim.methods.method import Method
from spectrim.methods.pointwise_time import Pace, grouped_layer, ones, pace, plain_layer, within_time
from spectrim.methods.spectra import Block, Reading, Score, order_of, read_spectra
from spectrim.methods.tying import streams_of, together
from spectrim.nn.band_groups import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry
from spectrim.nn.component import Spec
from spectrim.nn.flat_bands import FlatBandsConv2d
from spectrim.nn.learning import Learning
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery import sites
from spectrim.surgery.edits import SwapModule
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.sensitivity import Sensitivity
from spectrim.surgery.sites import Site, Where
from spectrim.transforms.bands import rounded_up
from spectrim.transforms.scans import SCANS

_SWAPPED = (BandedPointwiseConv2d, GroupedBandsConv2d, FlatBandsConv2d)
_TARGETS = ("macs", "latency")
_BISECTIONS = 60
_PRICES = (1e-30, 1e30)
"""Squared changes per multiplication between which the one that meets a budget is looked for."""
_LOSES = {
    "macs": "transforms would cost more multiplications than the cut saves",
    "time": "is measured to be faster dense",
}
_FREE = 0.0
"""The price at which nothing is cut, not even what was zero in all images."""


@dataclass(frozen=True)
class PointwisePruning(Method, name="pointwise-pruning"):
    """Every 1x1 convolution sees only the low frequencies of its input, as many in each channel as that channel is worth.

    The maps are cut into blocks and each block into cosines. A channel keeps the band at which the squared change of the output, by what is
    cut, plus the price of what is kept is least; the price of a multiplication is one for all layers, found by bisection. Nothing
    has to be trained. With ``learn`` these bands are only the start, and training moves them.

    Args:
        keep: Fraction of the multiplications of the convolutions that are cut which stays at most, in (0, 1], transforms not counted; or
            one per glob, first match wins (layers that match none stay whole). The price is that of keeping so much in all layers; those
            where a cut does not pay are then left dense.
        target: Instead of ``keep``, ``"macs:0.7"``: what the whole network may multiply, transforms included, relative to the dense
            one; or a number of multiply-accumulates for one image. Or ``"time:0.78"``: what one image may take, measured end to end on
            this machine; then layers are cut where they are measured to run faster, and the price is one of time.
        block: Side of the blocks: a number, ``auto`` (the largest up to 8 that divides the map) or ``map`` (one block, the whole map).
        order: In which frequencies are kept: ``zigzag``, ``radial``, ``square``, or ``energy`` (by what each layer reads).
        score: Whose output is looked at: ``output``, the model's, to first order, by a backward pass without labels; ``energy``, each layer's
            own, exactly and relative to its energy, without gradients.
        levels: Most different bands in a layer; each is one dense product when the network is finalized, but with :mod:`spectrim.kernels`
            built, where as many as there are coefficients cost no more.
        pays: Which layers are cut: those where ``macs`` are saved, with the transforms counted; those that run faster by a measurement of
            both forms on this machine, ``time``, alone and with one image (build :mod:`spectrim.kernels` before); or ``always`` all.
        learn: Whether the bands are learned from there on; see :class:`spectrim.nn.Learning` for how.
        strength: With ``learn``, factor of the penalty (λ): on what is kept above ``keep``; where ``keep`` is 1, on all that is kept.
        rounds: With ``learn``, how often bands and weights train in turn; 0 trains them together.
        tie: With ``stage``, all that read one residual stream have the same bands, by the sum of what a band is worth to each; which these are,
            :func:`spectrim.surgery.linearity.streams` finds.
        weigh: With ``learn``, what a kept coefficient costs: ``macs``, the multiplications that read it; ``time``, the microseconds that
            it is measured to take in its layer on this machine; or ``count``, the same everywhere.

    Raises:
        ValueError: A hyper-parameter is out of range.

    References:
        Buckler, Adit, Hu, Zhang, Sampson 2021, "Dense Pruning of Pointwise Convolutions in the Frequency Domain",
        arXiv 2109.07707.

    >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 1))
    >>> images = torch.rand(4, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    >>> print(PointwisePruning(keep=0.25).plan(net, calibration=images))
    PointwisePruning(keep=0.25) on Sequential: 1 edit, 10,112 → 10,112 parameters
      2  keep ... % of the coefficients of 8 x 8 blocks, ... to ... in a channel: 2,097,152 → ... multiplications, and ... to transform
    """

    keep: float | Mapping[str, float] = 0.5
    target: str | None = None
    block: Block = "auto"
    order: str = "zigzag"
    score: Score = "output"
    levels: int = 4
    pays: Literal["macs", "time", "always"] = "macs"
    learn: bool = False
    strength: float = 1.0
    rounds: int = 4
    weigh: Literal["macs", "time", "count"] = "macs"
    tie: Literal["stage"] | None = None

    def __post_init__(self) -> None:
        for keep in self.keep.values() if isinstance(self.keep, Mapping) else (self.keep,):
            if isinstance(keep, bool) or not isinstance(keep, int | float):
                raise TypeError(f"keep must be a number in (0, 1] or a mapping from glob to number, got {keep!r}.")
            if not 0 < keep <= 1:
                hint = f" For {keep:g} percent, pass keep={keep / 100:g}." if 1 < keep <= 100 else ""
                raise ValueError(f"keep must lie in (0, 1], got {keep:g}.{hint}")
        if self.target is not None:
            Target.parse(self.target, _TARGETS)
        if self.block not in ("auto", "map") and (type(self.block) is not int or self.block < 1):
            raise ValueError(f"block must be 'auto', 'map' or a positive whole number, got {self.block!r}.")
        if self.order not in (*SCANS, "energy"):
            raise ValueError(f"order must be one of {', '.join((*SCANS, 'energy'))}, got {self.order!r}.")
        if self.score not in ("output", "energy"):
            raise ValueError(f"score must be 'output' or 'energy', got {self.score!r}.")
        if type(self.levels) is not int or self.levels < 1:
            raise ValueError(f"levels must be a whole number of at least 1, got {self.levels!r}.")
        if self.pays not in ("macs", "time", "always"):
            raise ValueError(f"pays must be 'macs', 'time' or 'always', got {self.pays!r}.")
        if self.pays == "time" and self.target is not None:
            raise ValueError(
                "a target says itself which layers pay, got pays='time' with one. Pass keep, or target='time:...'."
            )
        if self.weigh not in ("macs", "time", "count"):
            raise ValueError(f"weigh must be 'macs', 'time' or 'count', got {self.weigh!r}.")
        if self.tie not in (None, "stage"):
            raise ValueError(f"tie must be 'stage' or None, got {self.tie!r}.")
        if self.tie and self.order == "energy":
            raise ValueError("tied layers share one order, order='energy' is each layer's own. Pass order='zigzag'.")
        if self.learn and isinstance(self.keep, Mapping):
            raise ValueError(
                "bands are learned towards one keep for all layers together, got a mapping. Pass a number."
            )
        Learning(cost=0, strength=self.strength, rounds=self.rounds)  # which checks the two

    def __repr__(self) -> str:
        """As it would be written: only what differs from the defaults, and ``keep`` or ``target``."""
        fields = {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}
        if self.target is None:
            fields = {"keep": self.keep} | fields
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per convolution; see :meth:`Method.plan`.

        Args:
            model: To prune.
            where: Which 1x1 convolutions.
            calibration: Batches of images, or one tensor of them; of a batch that is a tuple the first entry is taken. A few hundred
                images of the training set are enough.

        Raises:
            SiteError: ``where`` matches nothing.
            OrderError: The model already carries codes, or the convolutions asked for are already swapped.
            ValueError: There is no calibration, or the budget cannot be reached.
            DataError: The calibration is empty, holds NaN, or does not go through the model.
        """
        layers, skipped, first = self._read(model, where, calibration)
        target = None if self.target is None else Target.parse(self.target, _TARGETS)
        by_time = target is not None and target.quantity == "latency"
        paces = {path: layer.pace() for path, layer in layers.items()} if by_time or self.weigh == "time" else {}
        tied = streams_of(model, first[:1], layers) if self.tie else {}
        rests = together(
            {path: layer.rest for path, layer in layers.items()},
            {path: paces[path].slope / layer.channels if by_time else layer.cost for path, layer in layers.items()},
            tied,
        )
        layers = {path: replace(layer, rest=rests[path]) for path, layer in layers.items()}
        keeps = {path: sites.per_site(self.keep, _site(model, path)) or 1.0 for path in layers}
        budget, loses = None, self.pays

        def edits_of(bands: Mapping[str, Tensor]) -> tuple[SwapModule, ...]:
            kind = BandedPointwiseConv2d.kind
            return tuple(SwapModule(path, kind, self._spec(path, layers, bands, tied, paces)) for path in bands)

        if target is None:
            bands = self._kept(layers, keeps)
        elif by_time:
            loses = "time"
            bands, budget = within_time(
                model,
                target,
                first[:1],
                bands_at=lambda price: _faster_bands(layers, paces, price),
                said=lambda bands: sum(
                    paces[path].dense - layers[path].takes(each, paces[path]) for path, each in bands.items()
                ),
                edits_of=edits_of,
                prices=_PRICES,
            )
        else:
            dense = macs(model, first[:1])
            bands, left = self._within(layers, dense)
            budget = Budget(target=str(target), dense=dense, left=left)
        for path in layers.keys() - bands.keys():
            skipped[path] = _LOSES[loses]
        edits = edits_of(bands)
        rows = tuple(Skipped(path, reason) for path, reason in skipped.items() if reason)
        before = sum(p.numel() for p in model.parameters())
        learned = {(path in tied, tied.get(path, path)): layers[path].channels for path in bands} if self.learn else {}
        return Plan(repr(self), type(model).__name__, edits, rows, before, before + sum(learned.values()), budget)

    def sensitivities(
        self, model: nn.Module, *, where: Where = None, calibration: Calibration = None
    ) -> tuple[tuple[Sensitivity, ...], tuple[Skipped, ...]]:
        """What each frequency is worth in each channel, with the bands of :meth:`plan`; and the convolutions that were not read.

        Args:
            model, where, calibration: As for :meth:`plan`, and what that raises is raised.
        """
        batches = list(images_of(calibration, model, who="PointwisePruning"))
        layers, skipped, _ = self._read(model, where, batches)
        kept = {
            edit.path: tuple(cast(list[int], edit.spec["kept"]))
            for edit in self.plan(model, where=where, calibration=batches).edits
            if isinstance(edit, SwapModule)
        }
        found = [Sensitivity(path, layer.block, layer.worth, kept.get(path)) for path, layer in layers.items()]
        return tuple(found), tuple(Skipped(path, reason) for path, reason in skipped.items() if reason)

    def _read(
        self, model: nn.Module, where: Where, calibration: Calibration
    ) -> tuple[dict[str, "_Cuttable"], dict[str, str], Tensor]:
        """The layers that can be cut; why the others cannot, empty where they can; and the first batch."""
        candidates = _candidates(model)
        chosen = sites.selected(candidates, where, model=model) if candidates else set()
        _check_order(model, candidates, chosen)
        batches = images_of(calibration, model, who="PointwisePruning")
        first = next(batches)
        skipped = {site.path: _reason(site, chosen=site.name in chosen) for site in candidates}
        convolutions = {site.path: site.module for site in candidates if not skipped[site.path]}
        readings = read_spectra(
            model,
            {path: conv for path, conv in convolutions.items() if isinstance(conv, nn.Conv2d)},
            _again(first, batches),
            block=self.block,
            score=self.score,
        )
        layers: dict[str, _Cuttable] = {}
        for site in candidates:
            path = site.path
            if skipped[path]:
                continue
            reading = readings.get(path)
            if reading is None:
                skipped[path] = "is not called as a layer"
            elif reading.reason:
                skipped[path] = reading.reason
            elif sites.per_site(self.keep, site) is None:
                skipped[path] = "no pattern of keep matches"
            else:
                layers[path] = _Cuttable.of(convolutions[path], reading, self.order, self.levels)
        return layers, skipped, first

    def _kept(self, layers: Mapping[str, "_Cuttable"], keeps: Mapping[str, float]) -> dict[str, Tensor]:
        """The bands that keep what was asked for, of the layers where that pays; those of one ``keep`` have one price."""
        bands: dict[str, Tensor] = {}
        for keep in dict.fromkeys(keeps.values()):
            cut = {path: layer for path, layer in layers.items() if keeps[path] == keep}
            price = _price_for(cut, keep)
            while True:
                found = _bands(cut, price)
                cut = {path: layer for path, layer in cut.items() if layer.pays(found[path], self.pays)}
                # The price stays as it is: the layers that are left dense are those that would have kept most.
                if not cut or keep == 1 or _share(cut, price) <= keep:
                    break
                price = _price_for(cut, keep)
            bands |= {path: found[path] for path in cut}
        return {path: bands[path] for path in layers if path in bands}

    def _within(self, layers: Mapping[str, "_Cuttable"], dense: int) -> tuple[dict[str, Tensor], int]:
        """The bands with which the whole network multiplies at most what was asked for, and what it multiplies then."""
        target = Target.parse(self.target, _TARGETS)

        def at(price: float) -> tuple[dict[str, Tensor], int]:
            found = _bands(layers, price)
            bands = {path: each for path, each in found.items() if layers[path].pays(each, self.pays)}
            saved = sum(layers[path].dense - sum(layers[path].multiplications(each)) for path, each in bands.items())
            return bands, dense - saved

        if at(_FREE)[1] <= target.limit(dense):
            return at(_FREE)
        return at(
            _price(
                lambda each: at(each)[1] <= target.limit(dense),
                f"target={self.target!r}",
                lambda: at(_PRICES[1])[1] / dense,
            )
        )

    def _spec(
        self,
        path: str,
        layers: Mapping[str, "_Cuttable"],
        bands: Mapping[str, Tensor],
        tied: Mapping[str, str],
        paces: Mapping[str, Pace],
    ) -> Spec:
        layer = layers[path]
        spec: Spec = {
            "in": layer.channels,
            "out": layer.outputs,
            "block": list(layer.block),
            "bias": layer.bias,
            "kept": bands[path].tolist(),
            "macs": [layer.dense, *layer.multiplications(bands[path])],
        }
        if self.order != "zigzag":
            spec["order"] = [*layer.order] if self.order == "energy" else self.order
        if layer.stride != (1, 1):
            spec["stride"] = list(layer.stride)
        if self.learn:
            weights = {name: self._weight(layers[name], paces.get(name)) for name in bands}
            costs = weights[path] / sum(layers[name].channels * weight for name, weight in weights.items())
            keep = self._to(layers, bands, weights)
            learning = Learning(
                cost=costs,
                keep=keep,
                strength=float(self.strength),
                rounds=self.rounds,
                levels=self.levels,
                tied=tied.get(path),
            )
            spec["learning"] = learning.to_json()
        return spec

    def _weight(self, layer: "_Cuttable", measured: Pace | None) -> float:
        """What one channel of a layer costs where nothing of it is cut, in a unit of its own."""
        if measured is not None and self.weigh == "time":
            return measured.slope / layer.channels
        return float(layer.cost) if self.weigh == "macs" else 1.0

    def _to(
        self, layers: Mapping[str, "_Cuttable"], bands: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> float | None:
        """The share of the costs that learning has to come back to; None where nothing was asked for."""
        if self.target is None and self.keep == 1:
            return None
        if self.target is None and self.weigh == "macs" and isinstance(self.keep, int | float):
            return float(self.keep)
        kept = sum(float(bands[path].sum()) / layers[path].frequencies * weight for path, weight in weights.items())
        return kept / sum(layers[path].channels * weight for path, weight in weights.items())


@dataclass(frozen=True)
class _Cuttable:
    """A convolution that can be cut: its sizes, and the squared change by what lies behind a band of 1, 2, ... coefficients."""

    channels: int
    outputs: int
    bias: bool
    stride: tuple[int, int]
    block: tuple[int, int]
    size: tuple[int, int]
    calls: int
    order: list[int]
    levels: int
    rest: Float[Tensor, "in frequency"]

    @classmethod
    def of(cls, conv: nn.Module, reading: Reading, order: str, levels: int) -> "_Cuttable":
        assert isinstance(conv, nn.Conv2d)  # noqa: S101 - it was read
        assert reading.worth is not None  # noqa: S101 - there is no reason against it
        positions = order_of(reading, order)
        worth = reading.worth[:, positions]
        rest = worth.flip(1).cumsum(1).flip(1).roll(-1, 1)
        rest[:, -1] = 0
        stride = (conv.stride[0], conv.stride[1])
        return cls(conv.in_channels, conv.out_channels, conv.bias is not None, stride, reading.block, reading.size,
                   reading.calls, positions, levels, rest)  # fmt: skip

    @property
    def frequencies(self) -> int:
        return math.prod(self.block)

    @property
    def cost(self) -> int:
        """Multiplications that read one channel, for one image."""
        return self.outputs * math.prod(self.size) * self.calls

    @property
    def dense(self) -> int:
        return self.cost * self.channels

    def bands(self, price: float, cost: float | None = None) -> Int[Tensor, "in"]:
        """The bands with the least sum of the change by what is cut and the price of what is kept, one for all channels at one level.

        Args:
            price: Of a unit of cost.
            cost: Of one channel that keeps everything; its multiplications if None.
        """
        if price == _FREE:
            return torch.full((self.channels,), self.frequencies)
        each = price * (self.cost if cost is None else cost) / self.frequencies
        total = self.rest + each * torch.arange(1, self.frequencies + 1)
        if self.levels == 1:
            return (total.sum(0).argmin() + 1).expand(self.channels).clone()
        return rounded_up(total.argmin(1) + 1, self.levels)

    def multiplications(self, bands: Tensor) -> tuple[int, int]:
        """Of the products, and of the transforms: by rows and columns, or coefficient by coefficient where that is less."""
        positions = math.prod(-(-side // step) * step for side, step in zip(self.size, self.block, strict=True))
        there = int(bands.clamp(max=sum(self.block)).sum())
        back = min(int(bands.max()), sum(self.block)) * self.outputs
        products = positions * int(bands.sum()) * self.outputs // self.frequencies
        return products * self.calls, positions * (there + back) * self.calls

    def pays(self, bands: Tensor, by: str) -> bool:
        """Whether the layer is better cut to these bands than left dense."""
        if by == "time":
            return self._is_faster(bands)
        return by == "always" or sum(self.multiplications(bands)) < self.dense

    @property
    def worth(self) -> Float[Tensor, "in frequency"]:
        """Of each frequency behind the mean."""
        return (self.rest[:, :-1] - self.rest[:, 1:]).clamp(min=0)

    @property
    def geometry(self) -> Geometry:
        """As it stands behind the stride."""
        return Geometry(self.channels, self.outputs, self.block, self.order, bias=self.bias)

    def pace(self) -> Pace:
        """Its seconds, measured; those of all its calls."""
        once = pace(self.geometry, self.size)
        return Pace(once.dense * self.calls, once.least * self.calls, once.whole * self.calls)

    def takes(self, bands: Tensor, measured: Pace) -> float:
        """Seconds with these bands, by what was measured at both ends."""
        return measured.at(float(bands.sum()) / self.frequencies / self.channels)

    def _is_faster(self, bands: Tensor) -> bool:
        """Whether the finalized form, its channels sorted, beats the convolution; in the memory format that it runs best in."""
        memory = torch.channels_last if built() else torch.contiguous_format
        geometry = self.geometry
        return faster(grouped_layer(geometry, bands), plain_layer(geometry, memory), ones(geometry, self.size, memory))


def _faster_bands(layers: Mapping[str, _Cuttable], paces: Mapping[str, Pace], price: float) -> dict[str, Tensor]:
    """The bands at a price of time, of the layers that run faster with them."""
    found = {path: layer.bands(price, paces[path].slope / layer.channels) for path, layer in layers.items()}
    return {path: bands for path, bands in found.items() if layers[path].takes(bands, paces[path]) < paces[path].dense}


def _bands(layers: Mapping[str, _Cuttable], price: float) -> dict[str, Tensor]:
    return {path: layer.bands(price) for path, layer in layers.items()}


def _share(layers: Mapping[str, _Cuttable], price: float) -> float:
    """The fraction of the multiplications that stays, transforms not counted."""
    bands = _bands(layers, price)
    kept = sum(layer.cost * float(bands[path].sum()) / layer.frequencies for path, layer in layers.items())
    return kept / sum(layer.dense for layer in layers.values())


def _price_for(layers: Mapping[str, _Cuttable], keep: float) -> float:
    """The price at which some layers together keep so much."""
    if keep == 1 or not layers:
        return _FREE
    return _price(lambda each: _share(layers, each) <= keep, f"keep={keep:g}", lambda: _share(layers, _PRICES[1]))


def _price(met: Callable[[float], bool], asked: str, least: Callable[[], float]) -> float:
    """The least price at which a budget is met, by bisection of its logarithm."""
    low, high = (math.log(each) for each in _PRICES)
    if not met(math.exp(high)):
        raise ValueError(
            f"{asked} cannot be reached: with one coefficient in every block {least():.3g} is left. Ask for more."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if met(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _candidates(model: nn.Module) -> list[Site]:
    """Every 1x1 convolution, those that are already swapped included."""
    return [
        Site(path, "weight", module)
        for path, module in sites.walk(model)
        if isinstance(module, _SWAPPED) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]


def _site(model: nn.Module, path: str) -> Site:
    return Site(path, "weight", model.get_submodule(path))


def _check_order(model: nn.Module, candidates: Sequence[Site], chosen: set[str]) -> None:
    if codes := sites.coded(model):
        raise OrderError(
            f"PointwisePruning swaps convolutions, but {len(codes)} tensors are already coded (first: {codes[0].site!r}, "
            f"{codes[0].codec.kind}). Swap first and code last, or decode with spectrim.finalize_(model)."
        )
    there = [site for site in candidates if isinstance(site.module, _SWAPPED)]
    if again := [site.path for site in there if site.name in chosen]:
        raise OrderError(
            f"PointwisePruning swaps convolutions, but {len(again)} of those asked for are already swapped (first: "
            f"{again[0]!r}). Name others with where, or start from the dense network."
        )


def _reason(site: Site, *, chosen: bool) -> str:
    """Why a convolution is left alone; empty if it is not."""
    conv = site.module
    if isinstance(conv, _SWAPPED):
        return "already swapped"
    if not chosen:
        return "left dense by where"
    if not site.path:
        return "is the model itself; wrap it in nn.Sequential"
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - all others are swapped
    weight = conv._parameters.get("weight")  # noqa: SLF001 - a property would be a weight that is made anew
    if weight is None or is_lazy(weight):
        return "its weight is no plain parameter"
    if not weight.is_floating_point():
        return f"its weight is of type {weight.dtype}"
    if conv.groups != 1:
        return f"has {conv.groups} groups"
    if type(conv) is nn.Conv2d and conv.padding not in {(0, 0), "same", "valid"}:
        return f"pads its input by {conv.padding}"
    return ""


def _again(first: Tensor, others: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from others
