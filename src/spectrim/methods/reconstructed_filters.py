"""Reconstructed filters: the least important filters become cheap learned transformations of the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spectrim.budget import Budget, Target
from spectrim.calibration import Calibration, NoImageSizeError, images_of
from spectrim.errors import OrderError, SiteError
from spectrim.measure.costs import Costs
from spectrim.methods.method import Method
from spectrim.nn.component import Spec, components
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.template_costs import products, stored
from spectrim.nn.templates import Assignment, Rebuilding, Saliency, Start, chosen, magnitude
from spectrim.surgery import sites
from spectrim.surgery.edits import SwapModule
from spectrim.surgery.plan import Plan, Skipped
from spectrim.surgery.sites import Site, Where, dotted
from spectrim.transforms.taps import Family, shape_of, shared_slices


@dataclass(frozen=True)
class ReconstructedFilters(Method, name="reconstructed-filters"):
    """Keep some filters of each convolution, the templates, and rebuild the others from them by learned transformations.

    The network keeps its widths. :func:`spectrim.anneal_` turns filters into transformations while they train, those
    with the least saliency in all layers first; files hold the templates and the transformations alone, and
    :func:`spectrim.finalize_` takes for each layer the faster of two ways to compute it.

    Args:
        keep: Fraction of all filters that stay templates, in (0, 1].
        target: In place of ``keep``: at most so much of the network is left when all filters are rebuilt, ``macs:0.5`` (with
            both stages of each layer counted) or ``params:0.4``, whichever filters training makes the least important. Needs
            calibration for ``macs``.
        family: Of the transformations: ``scalar`` (a factor for each tap), ``rotation``, ``affine``,
            ``affine-moved`` (taps move on the map), ``matrix``.
        groups: Groups of input channels, each with transformations of its own; where that does not divide the channels,
            the largest smaller number that does.
        share_groups: Let the groups of a layer share one slice of each template: fewer numbers, as the paper's equation 3.9
            counts them. The network then starts from the slices that come closest to its filters by least squares, far
            from what it computed.
        least: Templates that every layer keeps.
        stages: In how many steps the fraction falls while progress goes from 0 to 1.
        saliency: ``magnitude`` (mean absolute weight less the layer's mean), ``raw``, or ``taylor`` (weight times gradient).
        assign: Which template a filter is rebuilt from: ``modulo`` (in turn), ``cosine`` (most similar), ``random``, or ``outputs``:
            that which can come closest to what the filter writes for the batch that was read last (its weights before the first
            one), as long as it is a template. The first three are the paper's, or near it; this one is not.
        start: First transformation: ``lstsq`` (closest to the filter; scalar and matrix), ``ones`` (the template itself), or
            ``outputs`` (closest to what the filter writes, by least squares, up to a constant; scalar).
        include_pointwise: Take kernels of one tap too, where a transformation is a mere factor.
        seed: Of ``random``.

    Raises:
        ValueError: A hyper-parameter is out of range.

    References:
        Miles and Mikolajczyk 2023, "Reconstructing pruned filters using cheap spatial transformations", ICCV workshops,
        arXiv 2110.12844.

    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1))
    >>> print(ReconstructedFilters(keep=0.5).plan(net))
    ReconstructedFilters(keep=0.5) on Sequential: 1 edit, 2 skipped, 5,352 → 3,336 parameters
      2  rebuild at most 24 of 32 filters by scalar transformations for each of 2 groups; about 16 at the present magnitudes
      0  skipped: is the first convolution
      4  skipped: has a kernel of one tap; include_pointwise=True takes it
    """

    keep: float | None = None
    target: str | None = None
    family: Family = "scalar"
    groups: int = 2
    share_groups: bool = False
    least: int = 8
    stages: int = 40
    saliency: Saliency = "magnitude"
    assign: Assignment = "modulo"
    start: Start = "lstsq"
    include_pointwise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep is not None and self.target is not None:
            raise ValueError(f"keep and target exclude each other, got keep={self.keep!r} and target={self.target!r}.")
        if self.target is not None:
            Target.parse(self.target, ("macs", "params"))
        shape_of(self.family, (3, 3))
        if type(self.groups) is not int or self.groups < 1:
            raise ValueError(f"groups must be a whole number of at least 1, got {self.groups!r}.")
        for name in ("share_groups", "include_pointwise"):
            if type(value := getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False (true or false in the shell), got {value!r}.")
        if self.share_groups and self.groups == 1:
            raise ValueError(
                "share_groups=True is for several groups, got groups=1. Leave it out, or ask for groups=2."
            )
        self._rebuilding(0.5 if self.keep is None else self.keep)

    def __repr__(self) -> str:
        """As it would be written: only what differs from the defaults."""
        fields = {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def plan(self, model: nn.Module, *, where: Where = None, calibration: Calibration = None) -> Plan:
        """One edit per convolution; see :meth:`Method.plan`. Needs calibration, one image, for a target of ``macs`` alone."""
        convolutions = [
            Site(path, "weight", module) for path, module in sites.walk(model) if isinstance(module, _ConvNd)
        ]
        if not convolutions:
            raise SiteError(f"ReconstructedFilters rebuilds convolutions, and {type(model).__name__} has none.")
        selected = sites.selected(convolutions, where, model=model)
        _check_order(model, selected)
        hosts: dict[str, ConvSizes] = {}
        skipped: list[Skipped] = []
        for number, site in enumerate(convolutions):
            named = sites.names_tensor(site, where) or _names(site.path, where)
            sizes, reason = self._sizes(site, first=number == 0 and not named, chosen=site.name in selected)
            if sizes is None:
                skipped.append(Skipped(site.path or "(the model)", reason))
            else:
                hosts[site.path] = sizes
        names = sites.tied(model)
        tied = {path: f"tied with {names[f'{path}.weight']}" for path in hosts if f"{path}.weight" in names}
        for path, reason in tied.items():
            skipped.append(Skipped(path, reason))
            del hosts[path]
        keep, budget, prices = self._settled(model, hosts, calibration)
        settings = self._rebuilding(keep)
        before = sum(p.numel() for p in model.parameters())
        pruned = self._ranked(model, hosts, settings, prices)
        edits = tuple(
            SwapModule(
                path,
                TemplateConv.kind,
                self._spec(sizes, settings, prices[path]),
                self._note(sizes, pruned[path], settings),
            )
            for path, sizes in hosts.items()
        )
        after = before - self._spared(hosts) - sum(n * self._saved(hosts[path]) for path, n in pruned.items())
        return Plan(repr(self), type(model).__name__, edits, tuple(skipped), before, after, budget)

    def _rebuilding(self, keep: float) -> Rebuilding:
        return Rebuilding(
            keep=keep,
            least=self.least,
            stages=self.stages,
            saliency=self.saliency,
            assign=self.assign,
            start=self.start,
            seed=self.seed,
        )

    def _sizes(self, site: Site, *, first: bool, chosen: bool) -> tuple[ConvSizes | None, str]:
        """The sizes of a convolution that filters are rebuilt in, or why none are."""
        module = cast(_ConvNd, site.module)
        if not chosen:
            return None, "left alone by where"
        if type(module) not in {nn.Conv1d, nn.Conv2d, nn.Conv3d}:
            return None, f"is a {type(module).__name__}, whose forward is not known"
        if not site.path:
            return None, "is the model itself; wrap it in nn.Sequential"
        if first:
            return None, "is the first convolution"
        try:
            sizes = ConvSizes.of(module)
            shape_of(self.family, sizes.kernel)
        except ValueError as error:
            return None, str(error)
        if sizes.taps == 1 and not self.include_pointwise:
            return None, "has a kernel of one tap; include_pointwise=True takes it"
        if sizes.outside <= self.least:
            return None, f"has {sizes.outside} filters, and {self.least} stay"
        return sizes, ""

    def _groups(self, sizes: ConvSizes) -> int:
        return next(n for n in range(min(self.groups, sizes.inside), 0, -1) if sizes.inside % n == 0)

    def _note(self, sizes: ConvSizes, pruned: int, settings: Rebuilding) -> str:
        """How many filters of a layer would be rebuilt if training moved nothing, and what is done otherwise than asked for."""
        said = "keep=1 rebuilds none" if settings.keep == 1 else f"about {pruned} at the present magnitudes"
        if self.start != "ones" and self.family not in ("scalar", "matrix"):
            said += f"; each starts as its template, as start={self.start!r} fits no {self.family} maps"
        elif self.start == "outputs" and self.family == "matrix":
            said += "; each starts closest to its filter, as start='outputs' fits scalar factors alone"
        if (groups := self._groups(sizes)) == self.groups:
            return said
        return f"{groups} {'group' if groups == 1 else 'groups'}, as {self.groups} does not divide {sizes.inside} channels; {said}"

    def _spec(self, sizes: ConvSizes, settings: Rebuilding, price: int) -> Spec:
        more: Spec = {"family": self.family, "groups": self._groups(sizes), "templates": sizes.outside}
        shared: Spec = {"share_groups": True} if self.share_groups else {}
        priced: Spec = {} if price == 1 else {"price": price}
        return sizes.to_json() | more | shared | {"rebuilding": settings.to_json()} | priced

    def _saved(self, sizes: ConvSizes) -> int:
        """Numbers that go with one filter."""
        one, none = (self._stored(sizes, count) for count in (1, 0))
        return one - none

    def _stored(self, sizes: ConvSizes, templates: int) -> int:
        return stored(sizes, templates, groups=self._groups(sizes), family=self.family, share_groups=self.share_groups)

    def _spared(self, hosts: Mapping[str, ConvSizes]) -> int:
        """Numbers that are gone before the first filter is, because groups share slices."""
        return sum(
            sizes.inside * sizes.outside * sizes.taps - self._stored(sizes, sizes.outside) for sizes in hosts.values()
        )

    def _settled(
        self, model: nn.Module, hosts: Mapping[str, ConvSizes], calibration: Calibration
    ) -> tuple[float, Budget | None, dict[str, int]]:
        """The fraction that stays, what it leaves of a target, and what a filter of each layer costs."""
        if self.target is None:
            filters = sum(sizes.outside for sizes in hosts.values())
            keep = 0.5 if self.keep is None else self.keep
            if round(filters * (1 - keep)) > filters - len(hosts) * self.least:
                lowest = len(hosts) * self.least / filters
                raise ValueError(
                    f"keep={keep:g} asks for {round(filters * keep)} templates of {filters} filters, and {self.least} in each of "
                    f"{len(hosts)} layers are {len(hosts) * self.least}. Pass keep={math.ceil(lowest * 1000) / 1000:g} or more, or lower least."
                )
            return keep, None, dict.fromkeys(hosts, 1)
        target = Target.parse(self.target, ("macs", "params"))
        if calibration is None and target.quantity == "macs":
            raise NoImageSizeError(
                f"target {target} counts multiplications, which depend on the size of the images, and needs calibration=…: one image "
                "of that size is enough. A target of params needs none."
            )
        image = next(images_of(calibration, model, who="a target of macs"))[:1] if target.quantity == "macs" else None
        costs = Costs.of(model, image)
        dense = costs.macs() if target.quantity == "macs" else costs.parameters()
        start = dense if target.quantity == "macs" else dense - self._spared(hosts)
        prices = {path: self._less(path, sizes, costs, target) for path, sizes in hosts.items()}
        least = start - sum(prices[path] * (sizes.outside - self.least) for path, sizes in hosts.items())
        limit = target.limit(dense)
        if least > limit:
            raise ValueError(
                f"target {target} is out of reach: {least / dense:.3f} of {dense:,} are left with {self.least} templates "
                f"in each of {len(hosts)} layers. Ask for more, or lower least."
            )
        whole = sum(prices[path] * sizes.outside for path, sizes in hosts.items())
        keep = 1 - max(0, start - math.floor(limit)) / whole if whole else 1.0
        pruned = self._ranked(model, hosts, self._rebuilding(keep), prices)
        left = start - sum(count * prices[path] for path, count in pruned.items())
        return keep, Budget(target=self.target, dense=dense, left=left), prices

    def _less(self, path: str, sizes: ConvSizes, costs: Costs, target: Target) -> int:
        """What goes with one filter: numbers, or multiplications of both stages (equation 3.5)."""
        if target.quantity == "params":
            return self._saved(sizes)
        groups = self._groups(sizes)
        one, none = (products(sizes, count, groups=groups, family=self.family) for count in (1, 0))
        return (costs.positions or {}).get(dotted(path, "weight"), 0) * (one - none)

    def _ranked(
        self, model: nn.Module, hosts: Mapping[str, ConvSizes], settings: Rebuilding, prices: Mapping[str, int]
    ) -> dict[str, int]:
        """How many filters of each layer would be rebuilt, by the magnitudes that they start with."""
        ranks: list[Tensor] = []
        for path, sizes in hosts.items():
            weight = cast(Tensor, model.get_submodule(path).weight).detach()
            weight = shared_slices(weight, self._groups(sizes)) if self.share_groups else weight
            ranks.append(magnitude(weight, relative=settings.saliency != "raw").cpu())
        paid = [prices[path] for path in hosts]
        whole = sum(price * len(each) for price, each in zip(paid, ranks, strict=True))
        empty: Sequence[set[int]] = [set() for _ in ranks]
        found = chosen(ranks, empty, settings.pruned(whole, settings.stages), settings.least, paid)
        return {path: len(each) for path, each in zip(hosts, found, strict=True)}


def _names(path: str, where: Where) -> bool:
    """Whether ``where`` is, or has, this very path."""
    return not callable(where) and where is not None and path in ([where] if isinstance(where, str) else where)


def _check_order(model: nn.Module, selected: set[str]) -> None:
    if again := [path for path, each in components(model) if each.kind in ("template-conv", "two-stage-conv")]:
        raise OrderError(
            f"ReconstructedFilters takes plain convolutions, but {len(again)} are already swapped (first: {again[0]!r}). "
            "Train on, or settle with spectrim.finalize_(model) first."
        )
    if coded := [entry for entry in sites.coded(model) if entry.site in selected or isinstance(entry.module, _ConvNd)]:
        raise OrderError(
            f"ReconstructedFilters takes plain convolutions, but {len(coded)} weights are already coded (first: "
            f"{coded[0].site!r}, {coded[0].codec.kind}). Rebuild first and code last, or decode with spectrim.finalize_(model)."
        )
