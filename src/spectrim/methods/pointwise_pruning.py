"""Dense pruning of pointwise convolutions: each input channel keeps its low frequencies, and the products stay dense."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from spectrim.budget import Budget, Target
from spectrim.calibration import Calibration, images_of
from spectrim.errors import SiteError
from spectrim.kernels import build
from spectrim.measure.compute import macs
from spectrim.methods.method import Method
from spectrim.methods.pointwise_candidates import candidates_of, check_codes, check_swapped, reason_against
from spectrim.methods.pointwise_cuttable import Cuttable, Timed
from spectrim.methods.pointwise_forms import insides
from spectrim.methods.pointwise_hosts import Pointwise
from spectrim.methods.pointwise_maps import linear_layers_on_maps
from spectrim.methods.pointwise_measured import corrected
from spectrim.methods.pointwise_prices import PRICES, faster_bands, keeping, within_macs
from spectrim.methods.pointwise_specs import Course, Weigh, spec_of
from spectrim.methods.pointwise_time import within_time
from spectrim.methods.sample import Sample
from spectrim.methods.spectra import Block, Score, read_spectra
from spectrim.methods.tying import streams_of, together
from spectrim.nn.learning import Learning
from spectrim.nn.pointwise import BandedPointwiseConv2d
from spectrim.surgery import sites
from spectrim.surgery.beside import beside, clamps_beside
from spectrim.surgery.edits import SwapModule
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.sensitivity import Sensitivity
from spectrim.surgery.sites import Site, Where
from spectrim.transforms.scans import SCANS

_TARGETS = ("macs", "latency")
_LOSES = {
    "macs": "transforms would cost more multiplications than the cut saves",
    "time": "is measured to be faster dense",
}


@dataclass(frozen=True)
class _Read:
    """What was read of a model: the layers that can be cut; why the others cannot, empty where they can; and the first batch."""

    layers: dict[str, Cuttable]
    skipped: dict[str, str]
    first: Tensor

    def left(self) -> tuple[Skipped, ...]:
        """Those that cannot be cut."""
        return tuple(Skipped(path, reason) for path, reason in self.skipped.items() if reason)


@dataclass(frozen=True)
class PointwisePruning(Method, name="pointwise-pruning"):
    """Every 1x1 convolution sees only the low frequencies of its input, as many in each channel as that channel is worth.

    A linear layer on maps with the channels last is one too.

    The maps are cut into blocks and each block into cosines. A channel keeps the band at which the squared change of the output, by what is
    cut, plus the price of what is kept is least; the price of a multiplication is one for all layers, found by bisection. Nothing
    has to be trained. With ``learn`` these bands are only the start, and training moves them.

    Args:
        keep: Fraction of the multiplications of the convolutions that are cut which stays at most, in (0, 1], transforms not counted; 0.5 if
            neither this nor a target is given; or one per glob, first match wins (layers that match none stay whole). The price is that of keeping so much in all layers; those
            where a cut does not pay are then left dense.
        target: Instead of ``keep``, ``"macs:0.7"``: what the whole network may multiply, transforms included, relative to the dense
            one; or a number of multiply-accumulates for one image. Or ``"time:0.78"``: what one image (or a batch, see ``batch``) may take, measured end to end on
            this machine; then layers are cut where they are measured to run faster, and the price is one of time.
        block: Side of the blocks: a number, ``auto`` (the largest up to 8 that divides the map) or ``map`` (one block, the whole map).
        order: In which frequencies are kept: ``zigzag``, ``radial``, ``square``, or ``energy`` (by what each layer reads).
        score: Whose output is looked at: ``output``, the model's, to first order, by a backward pass without labels; ``measured``, that too,
            and what each layer loses is multiplied by how much more a cut of it alone is seen to change, in one forward pass of up to 16
            images, spread over all batches, for each layer; ``energy``, each layer's own, exactly and relative to its energy, without gradients.
        levels: Most different bands in a layer; each is one dense product when the network is finalized, but with :mod:`spectrim.kernels`
            built, where as many as there are coefficients cost no more.
        pays: Which layers are cut: those where ``macs`` are saved, with the transforms counted; those that run faster by a measurement of
            both forms on this machine, ``time``, alone; or ``always`` all.
        batch: How many images at a time, where time is measured.
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

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 1))
    >>> images = torch.rand(4, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    >>> print(PointwisePruning(keep=0.25).plan(net, calibration=images))
    PointwisePruning(keep=0.25) on Sequential: 1 edit, 10,112 → 10,112 parameters
      2  keep ... % of the coefficients of 8 x 8 blocks, ... to ... in a channel: 2,097,152 → ... multiplications, and ... to transform
    """

    keep: float | Mapping[str, float] | None = None
    target: str | None = None
    block: Block = "auto"
    order: str = "zigzag"
    score: Score | Literal["measured"] = "measured"
    levels: int = 4
    pays: Literal["macs", "time", "always"] = "macs"
    batch: int = 1
    learn: bool = False
    strength: float = 1.0
    rounds: int = 4
    weigh: Weigh = "macs"
    tie: Literal["stage"] | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.target is not None:
            raise ValueError(
                f"keep and target exclude each other, got keep={self.keep!r} and target={self.target!r}. Give one of them."
            )
        if self.keep is None and self.target is None:
            object.__setattr__(self, "keep", 0.5)
        asked: Iterable[object] = self.keep.values() if isinstance(self.keep, Mapping) else (self.keep,)
        for keep in asked if self.target is None else ():
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
        if self.score not in ("measured", "output", "energy"):
            raise ValueError(f"score must be 'measured', 'output' or 'energy', got {self.score!r}.")
        if type(self.levels) is not int or self.levels < 1:
            raise ValueError(f"levels must be a whole number of at least 1, got {self.levels!r}.")
        if type(self.batch) is not int or self.batch < 1:
            raise ValueError(f"batch must be a whole number of at least 1, got {self.batch!r}.")
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

    @property
    def at_a_time(self) -> int:
        """The batch."""
        return self.batch

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per pointwise layer; see :meth:`Method.plan`.

        Args:
            model: To prune.
            where: Which 1x1 convolutions and linear layers on maps.
            calibration: Batches of images, or one tensor of them; of a batch that is a tuple the first entry is taken. A few hundred
                images of the training set are enough.

        Raises:
            SiteError: ``where`` matches nothing, or no glob of ``keep`` does.
            OrderError: The model already carries codes, or the convolutions asked for are already swapped.
            ValueError: There is no calibration, or the budget cannot be reached.
            DataError: The calibration is empty, holds NaN, or does not go through the model.
        """
        return self._decided(model, self._read(model, where, calibration))

    def sensitivities(
        self, model: nn.Module, *, where: Where = None, calibration: Calibration = None
    ) -> tuple[tuple[Sensitivity, ...], tuple[Skipped, ...]]:
        """What each frequency is worth in each channel, with the bands of :meth:`plan`; and the layers that were not read.

        Args:
            model, where, calibration: As for :meth:`plan`, and what that raises is raised.
        """
        read = self._read(model, where, calibration)
        kept = {
            edit.path: tuple(cast(list[int], edit.spec["kept"]))
            for edit in self._decided(model, read).edits
            if isinstance(edit, SwapModule)
        }
        found = [Sensitivity(path, layer.block, layer.worth, kept.get(path)) for path, layer in read.layers.items()]
        return tuple(found), read.left()

    def _decided(self, model: nn.Module, read: _Read) -> Plan:
        layers, first = read.layers, read.first
        target = None if self.target is None else Target.parse(self.target, _TARGETS)
        by_time = target is not None and target.quantity == "latency"
        weighed = by_time or (self.learn and self.weigh == "time")
        if weighed or self.pays == "time":
            build()  # before any layer is measured, or it is measured in the form that will not run
            clamps = clamps_beside(model, beside(model, first[:1], layers))
            places = insides(model, first[:1], layers)
            layers = {
                path: replace(layer, clamps=clamps.get(path, layer.clamps), inside=places.get(path), images=self.batch)
                for path, layer in layers.items()
            }
        paces = {path: layer.pace() for path, layer in layers.items()} if weighed else {}
        tied = streams_of(model, first[:1], layers) if self.tie else {}
        rests = together(
            {path: layer.rest for path, layer in layers.items()},
            {path: paces[path].slope / layer.channels if by_time else layer.cost for path, layer in layers.items()},
            tied,
        )
        layers = {path: replace(layer, rest=rests[path]) for path, layer in layers.items()}
        keeps = {path: self._keep_of(_site(model, path)) or 1.0 for path in layers}
        budget, loses = None, self.pays
        slower: dict[str, Timed] = {}

        def edits_of(bands: Mapping[str, Tensor]) -> tuple[SwapModule, ...]:
            learnings = self._course().learnings(layers, bands, paces, tied) if self.learn else {}
            return tuple(
                SwapModule(
                    path, BandedPointwiseConv2d.kind, spec_of(layers[path], each, self.order, learnings.get(path))
                )
                for path, each in bands.items()
            )

        if target is None:
            bands = keeping(layers, keeps, self.pays, slower=slower)
        elif by_time:
            loses = "time"
            bands, budget = within_time(
                model,
                target,
                _batch_of(first, self.batch),
                bands_at=lambda price: faster_bands(layers, paces, price),
                said=lambda bands: sum(
                    paces[path].dense - layers[path].takes(each, paces[path]) for path, each in bands.items()
                ),
                edits_of=edits_of,
                prices=PRICES,
            )
        else:
            dense = macs(model, first[:1])
            bands, left = within_macs(layers, target, dense, self.pays)
            budget = Budget(target=str(target), dense=dense, left=left)
        times = paces if by_time else slower
        lost = {
            path: f"{_LOSES[loses]} ({times[path]})" if path in times else _LOSES[loses]
            for path in layers
            if path not in bands
        }
        edits, rows = edits_of(bands), replace(read, skipped=read.skipped | lost).left()
        before = sum(p.numel() for p in model.parameters())
        learned = {(path in tied, tied.get(path, path)): layers[path].channels for path in bands} if self.learn else {}
        return Plan(repr(self), type(model).__name__, edits, rows, before, before + sum(learned.values()), budget)

    def _read(self, model: nn.Module, where: Where, calibration: Calibration) -> _Read:
        check_codes(model)
        batches = images_of(calibration, model, who="PointwisePruning")
        first = next(batches)
        linear = linear_layers_on_maps(model, first[:1])
        candidates = candidates_of(model, linear)
        chosen = sites.selected(candidates, where, model=model) if candidates else set()
        check_swapped(candidates, chosen)
        skipped = {
            site.path: reason_against(site, chosen=site.name in chosen) or linear.get(site.path, "")
            for site in candidates
        }
        sample = Sample()
        self._check_globs(model, [site for site in candidates if not skipped[site.path]])
        hosts = {site.path: site.module for site in candidates if not skipped[site.path]}
        readings = read_spectra(
            model,
            {path: host for path, host in hosts.items() if isinstance(host, Pointwise)},
            sample.of(itertools.chain([first], batches)),
            block=self.block,
            score="output" if self.score == "measured" else self.score,
        )
        layers: dict[str, Cuttable] = {}
        for site in candidates:
            path = site.path
            if skipped[path]:
                continue
            reading, host = readings.get(path), hosts[path]
            if reading is None:
                skipped[path] = "is not called as a layer"
            elif reading.reason:
                skipped[path] = reading.reason
            elif self._keep_of(site) is None:
                skipped[path] = "no pattern of keep matches"
            elif isinstance(host, Pointwise):
                layers[path] = Cuttable.of(host, reading, self.order, self.levels)
        if self.score == "measured":
            layers = corrected(model, layers, sample.images())
        return _Read(layers, skipped, first)

    def _keep_of(self, site: Site) -> float | None:
        """What a layer keeps by ``keep``, all of it with a target; None where no glob matches."""
        return 1.0 if self.keep is None else sites.per_site(self.keep, site)

    def _check_globs(self, model: nn.Module, candidates: Sequence[Site]) -> None:
        """Refuse fractions that fit no layer."""
        if not isinstance(self.keep, Mapping) or not candidates:
            return
        if all(self._keep_of(site) is None for site in candidates):
            names = [site.path for site in candidates]
            nearest = sites.nearest_names(next(iter(self.keep), ""), names) or names[:3]
            raise SiteError(
                f"keep={dict(self.keep)!r} matches none of the {len(names)} pointwise layers of {type(model).__name__}. "
                f"Nearest: {', '.join(map(repr, nearest))}."
            )

    def _course(self) -> Course:
        asked = float(self.keep) if self.target is None and isinstance(self.keep, int | float) else None
        return Course(asked=asked, weigh=self.weigh, strength=self.strength, rounds=self.rounds, levels=self.levels)


def _batch_of(images: Tensor, count: int) -> Tensor:
    """So many images, the same again where there are fewer."""
    return torch.cat([images] * -(-count // len(images)))[:count] if count > len(images) else images[:count]


def _site(model: nn.Module, path: str) -> Site:
    return Site(path, "weight", model.get_submodule(path))
