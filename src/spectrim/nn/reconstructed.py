"""A convolution some of whose filters are rebuilt from others by cheap learned transformations."""

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from spectrim.nn.component import Layer, Spec
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.template_fitting import seen
from spectrim.nn.template_pruning import Filters, agree_, prune_together_, rebuilt
from spectrim.nn.templates import Rebuilding, magnitude
from spectrim.nn.two_stage import TwoStageConv
from spectrim.transforms.taps import (
    Family,
    identity,
    matrices,
    shape_of,
    shared_slices,
    spread,
    transformed,
)

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CALLS = 8
"""Of one step, the last ones, whose inputs are looked at together."""

_OWN = {"family", "groups", "share_groups", "templates", "rebuilding", "price"}


def sizes_of(spec: Mapping[str, Any]) -> ConvSizes:
    """The sizes in the spec of a template convolution.

    Raises:
        ValueError: There are none; nothing in ``spec`` is trusted.
    """
    return ConvSizes.from_json({name: value for name, value in spec.items() if name not in _OWN})


class TemplateConv(Layer, kind="template-conv"):
    """A convolution that keeps some filters, the *templates*, and makes each of the others from one of them.

    Filter *n* is :math:`W_n = T_n \\cdot B_{m(n)}`: the template times a learned transformation of its taps that all input
    channels of a group share. With ``rebuilding`` the layer starts as the plain convolution, every filter its own template,
    and :func:`spectrim.anneal_` turns the least important of all layers' filters into transformations of others. Numbers
    of filters that are templates no more stay in place, without use, so that the optimizer need not be built anew; files
    and the inference form leave them out.

    An empty layer is zero: it is filled by the convolution that it takes over from, or from a file.

    Args:
        sizes: Of the convolution.
        family: Of the transformations: ``scalar`` (a factor for every tap), ``rotation``, ``affine``,
            ``affine-moved``, ``matrix``.
        groups: Groups of input channels; each has transformations of its own.
        share_groups: Store one slice of each template, for all groups. The layer then starts from the slices that come
            closest to the filters, their means over the groups, and not as the plain convolution.
        templates: How many filters are stored; all of them if None.
        rebuilding: How the filters are pruned while they train; not at all if None.
        price: What one filter costs where the filters of several layers are pruned to a sum of costs.

    Raises:
        ValueError: A size is out of range.

    References:
        Miles and Mikolajczyk 2023, "Reconstructing pruned filters using cheap spatial transformations" (arXiv 2110.12844).

    >>> layer = TemplateConv(ConvSizes.of(nn.Conv2d(4, 6, 3)), templates=2)
    >>> layer
    TemplateConv(4, 6, kernel=(3, 3), templates=2, family=scalar)
    >>> layer(torch.zeros(1, 4, 5, 5)).shape
    torch.Size([1, 6, 3, 3])
    """

    spared = ("transformations",)  # decay would draw a rebuilt filter to a pruned one

    template: Tensor
    turned: Tensor

    def __init__(
        self,
        sizes: ConvSizes,
        *,
        family: Family = "scalar",
        groups: int = 1,
        share_groups: bool = False,
        templates: int | None = None,
        rebuilding: Rebuilding | None = None,
        price: int = 1,
    ) -> None:
        super().__init__()
        stored = sizes.outside if templates is None else templates
        rebuilt = sizes.outside if rebuilding is not None else sizes.outside - stored
        if groups < 1 or sizes.inside % groups:
            raise ValueError(f"groups must divide the {sizes.inside} input channels, got {groups}.")
        if not 1 <= stored <= sizes.outside or (rebuilding is not None and stored < sizes.outside):
            raise ValueError(
                f"templates must be a whole number in [1, {sizes.outside}], all while rebuilding, got {templates}."
            )
        self.sizes, self.family, self.groups, self.rebuilding = sizes, family, groups, rebuilding
        self.share_groups, self.price = share_groups, price
        depth = sizes.inside // groups if share_groups else sizes.inside
        self.weight = nn.Parameter(torch.zeros(stored, depth, *sizes.kernel))
        self.bias = nn.Parameter(torch.zeros(sizes.outside)) if sizes.bias else None
        # One flat vector: what is near one should not be drawn to zero, and optimizers' weight decay spares vectors.
        start = identity(family, sizes.kernel).expand(groups, rebuilt, *shape_of(family, sizes.kernel))
        self.transformations = nn.Parameter(start.clone().flatten())
        # For each output the row of its template, and that of its transformation, or -1 for a template itself.
        outputs = torch.arange(sizes.outside, dtype=torch.int32)
        self.register_buffer("template", outputs % stored)
        self.register_buffer("turned", torch.where(outputs < stored, -1, outputs - stored))
        self._seen: deque[Tensor] = deque(maxlen=_CALLS)  # by the calls since the last step
        self._stepped = False
        if rebuilding is not None:
            self.turned.fill_(-1)
            self.register_buffer("stage", torch.zeros((), dtype=torch.int32))
            if rebuilding.saliency == "taylor":
                self.register_buffer("sensitivity", torch.zeros(sizes.outside))

    def forward(self, x: Float[Tensor, "batch in *space"]) -> Float[Tensor, "batch out *left"]:
        """The convolution with the rebuilt filters."""
        weight = self.filters()
        if self.training and self.rebuilding is not None:
            self._watch(x, weight, self.rebuilding)
        sizes = self.sizes
        return _CONVOLUTIONS[sizes.dims](x, weight, self.bias, sizes.stride, sizes.padding, sizes.dilation)

    def filters(self) -> Float[Tensor, "out in *kernel"]:
        """All filters."""
        filters = self.templates()[self.template.long()]
        if self.transformations.numel() == 0:
            return filters
        turned = self.turned.long()
        own = (turned < 0).reshape(-1, *(1,) * (filters.ndim - 1))
        return torch.where(own, filters, transformed(self.family, self._numbers()[:, turned.clamp(min=0)], filters))

    def templates(self) -> Float[Tensor, "template in *kernel"]:
        """The templates in full depth."""
        return spread(self.weight, self.groups) if self.share_groups else self.weight

    def maps(self) -> Float[Tensor, "group out ..."]:
        """For every group and output the factors of its taps, flat, or the matrix of its taps."""
        turned = self.turned.long()
        numbers = self._numbers()
        kernel = self.sizes.kernel
        plain = identity(self.family, kernel).to(numbers)
        if self.transformations.numel() == 0:
            found = plain.expand(self.groups, self.sizes.outside, *plain.shape)
        else:
            own = (turned < 0).reshape(-1, *(1,) * plain.ndim)
            found = torch.where(own, plain, numbers[:, turned.clamp(min=0)])
        return found.flatten(2) if self.family == "scalar" else matrices(self.family, found, kernel)

    def _numbers(self) -> Tensor:
        return self.transformations.view(self.groups, -1, *shape_of(self.family, self.sizes.kernel))

    # -- pruning --------------------------------------------------------------------------------------------------

    @property
    def pruned(self) -> set[int]:
        """The outputs whose filters are rebuilt from others."""
        return set((self.turned >= 0).nonzero()[:, 0].tolist())

    @classmethod
    def anneal_together_(cls, components: Sequence[Self], progress: float) -> None:
        """Make the steps up to ``progress``: prune the least important filters of all layers with the same settings."""
        prune_together_(components, progress)
        for layer in components:
            layer._stepped = True

    def saliency(self, how: Rebuilding) -> Float[Tensor, "out"]:
        """How important each filter is."""
        if how.saliency == "taylor":
            return self.get_buffer("sensitivity").double().cpu()
        return magnitude(self.filters(), relative=how.saliency == "magnitude").cpu()

    @torch.no_grad()
    def prune_(self, pruned: set[int], how: Rebuilding, stage: int) -> None:
        """Rebuild these filters from the others, which ends a stage."""
        self.get_buffer("stage").fill_(stage)
        if how.saliency == "taylor":
            self.get_buffer("sensitivity").zero_()
        if pruned != self.pruned:
            now = Filters(
                self.sizes, self.family, self.groups, self.filters(), self.templates(), self.template, (*self._seen,)
            )
            start = rebuilt(now, self.pruned, pruned, how, stage)
            self.template.copy_(start.template)
            self.turned.copy_(start.turned)
            self._numbers()[:, start.fresh] = start.transformations
            if self.bias is not None and start.shift is not None:
                self.bias[start.fresh] += start.shift
        biases = [] if self.bias is None else [self.bias]
        agree_(how, [self.template, self.turned, self.transformations, *biases])

    def _watch(self, x: Tensor, weight: Tensor, how: Rebuilding) -> None:
        """Remember of a step what the pruning will ask for."""
        if how.looks:
            if self._stepped:
                self._seen.clear()
                self._stepped = False
            self._seen.append(seen(x, self.sizes))
        if how.saliency == "taylor" and weight.requires_grad:
            weight.register_hook(self._felt)  # type: ignore[no-untyped-call]

    def _felt(self, gradient: Tensor) -> None:
        with torch.no_grad():
            self.get_buffer("sensitivity").add_((gradient * self.filters()).flatten(1).sum(1).abs())

    # -- in and out of a model ------------------------------------------------------------------------------------

    def take_over(self, host: nn.Module) -> None:
        """Take the filters, or the slices closest to them, and the bias of the convolution in whose place this stands."""
        if not isinstance(host, _ConvNd):
            raise ValueError(f"with sizes {self.sizes}, found {type(host).__name__}")  # noqa: TRY004 - see Layer.take_over
        try:
            found = ConvSizes.of(host)
        except ValueError as error:
            raise ValueError(f"with sizes {self.sizes}, found that it {error}") from error
        if found != self.sizes:
            raise ValueError(f"with sizes {self.sizes}, found {found}")
        self.weight = host.get_parameter("weight")
        if self.share_groups:
            means = shared_slices(self.weight.detach(), self.groups)
            self.weight = nn.Parameter(means, requires_grad=self.weight.requires_grad)
        self.bias = None if host.bias is None else host.get_parameter("bias")

    def settled(self) -> "TemplateConv":
        """The templates and the transformations alone, once the last filter is rebuilt."""
        over = self.rebuilding is not None and int(self.get_buffer("stage")) >= self.rebuilding.stages
        return self.stored() if over else self

    @torch.no_grad()
    def stored(self) -> "TemplateConv":
        """The templates and the transformations alone."""
        if self.rebuilding is None or is_parametrized(self):
            return self
        pruned = sorted(self.pruned)
        kept = [n for n in range(self.sizes.outside) if n not in self.pruned]
        how: dict[str, Any] = {"family": self.family, "groups": self.groups, "share_groups": self.share_groups}
        small = TemplateConv(self.sizes, **how, templates=len(kept)).to(self.weight)
        small.weight = nn.Parameter(self.weight[kept].clone(), requires_grad=self.weight.requires_grad)
        small.transformations = nn.Parameter(
            self._numbers()[:, pruned].flatten(), requires_grad=self.transformations.requires_grad
        )
        small.bias = (
            None if self.bias is None else nn.Parameter(self.bias.clone(), requires_grad=self.bias.requires_grad)
        )
        place = {n: row for row, n in enumerate(kept)}
        small.template.copy_(torch.tensor([place[int(n)] for n in self.template]))
        turned = {n: row for row, n in enumerate(pruned)}
        small.turned.copy_(torch.tensor([turned.get(n, -1) for n in range(self.sizes.outside)]))
        return small.train(self.training)

    @torch.no_grad()
    def finalized(self) -> nn.Module:
        """The plain convolution with the rebuilt filters."""
        plain = self.sizes.plain()
        plain.weight = nn.Parameter(self.filters().detach().clone(), requires_grad=self.weight.requires_grad)
        plain.bias = (
            None
            if self.bias is None
            else nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        )
        return plain.train(self.training)

    def alternatives(self, *, compiled: bool = True) -> dict[str, nn.Module]:
        """The form that computes templates once and mixes their taps, fused too where that is built; none where no filter is rebuilt."""
        small = self.stored()
        if len(small.weight) == self.sizes.outside:
            return {}
        bias = None if small.bias is None else small.bias.detach()
        made = TwoStageConv.of(
            self.sizes, small.templates().detach(), small.maps().detach(), small.template.tolist(), bias
        )
        forms: dict[str, nn.Module] = {"two stages": made.train(self.training)}
        if compiled and made.fuses():
            forms["two stages, fused"] = copy.deepcopy(made)
            made.fused = False
        return forms

    @property
    def stands_for(self) -> type[nn.Module]:
        """A convolution of as many dimensions."""
        return self.sizes.host

    def spec(self) -> Spec:
        """Sizes, family, groups, and how many templates are stored, or how they are chosen."""
        more: Spec = {"family": self.family, "groups": self.groups, "templates": len(self.weight)}
        if self.share_groups:
            more["share_groups"] = True
        if self.rebuilding is not None:
            more["rebuilding"] = self.rebuilding.to_json()
            if self.price != 1:
                more["price"] = self.price
        return self.sizes.to_json() | more

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """An empty layer of the given sizes."""
        sizes = sizes_of(spec)
        rebuilding = spec.get("rebuilding")
        if rebuilding is not None and not isinstance(rebuilding, dict):
            raise ValueError(f"rebuilding must be an object, got {rebuilding!r}.")
        share_groups = spec.get("share_groups", False)
        if type(share_groups) is not bool:
            raise ValueError(f"share_groups must be true or false, got {share_groups!r}.")
        for name in ("groups", "templates"):
            if type(spec.get(name)) is not int:
                raise ValueError(f"{name} must be a whole number, got {spec.get(name)!r}.")
        price = spec.get("price", 1)
        if type(price) is not int or price < 0:
            raise ValueError(f"price must be a whole number of at least 0, got {price!r}.")
        return cls(
            sizes,
            family=spec.get("family", ""),
            groups=spec["groups"],
            share_groups=share_groups,
            templates=spec["templates"],
            rebuilding=None if rebuilding is None else Rebuilding.from_json(rebuilding),
            price=price,
        )

    @classmethod
    def summary(cls, spec: Mapping[str, Any]) -> str:
        """How many filters stay, and what the others become."""
        groups = f" for each of {spec['groups']} groups" if spec["groups"] > 1 else ""
        if spec.get("share_groups") and groups:
            groups += ", which share slices that start as a least-squares fit"
        rebuilding = spec.get("rebuilding")
        if rebuilding is None:
            return f"rebuild {spec['out'] - spec['templates']} of {spec['out']} filters by {spec['family']} transformations{groups}"
        most = 0 if rebuilding["keep"] == 1 else max(spec["out"] - rebuilding["least"], 0)
        return f"rebuild at most {most} of {spec['out']} filters by {spec['family']} transformations{groups}"

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        groups += ", shared" if self.share_groups else ""
        return f"{self.sizes}, templates={self.sizes.outside - len(self.pruned)}{groups}, family={self.family}"
